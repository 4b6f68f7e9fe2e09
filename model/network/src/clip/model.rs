//! The vision half of a checkpoint, loaded: prepared pictures in, features out. Squares of all pictures given go through
//! the tower together, a bounded number at a time.

use inkstone_interface::picture_geometry::PictureGeometry;
use thiserror::Error;

use super::arrangement::{Arrangement, Separators};
use super::features::PictureFeatures;
use super::preprocess::PreparedPicture;
use super::tower::Tower;
use crate::{
    checkpoint::{Checkpoint, CheckpointError, LoadProgress, Reader, Slice},
    device::Device,
    load_options::LoadOptions,
    tensor::{DType, Tensor, TensorError},
};

/// Rows that go through the tower at a time, unless one square has more. Enough to keep the matrix products busy; the
/// activations of so many take about 200 MB at the width of the releases.
const MAX_ROWS: usize = 4096;

/// The tower and the separators of a checkpoint. The projector is not here: it belongs to the language model.
pub struct VisionModel {
    geometry: PictureGeometry,
    tower: Tower,
    /// Of the high-definition models.
    separators: Option<Separators>,
    device: Device,
}

/// Why pictures could not be encoded or the model not be loaded.
#[derive(Debug, Error)]
pub enum VisionError {
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    #[error(transparent)]
    Tensor(#[from] TensorError),
    #[error(
        "picture {index} was prepared for another model: this one takes {wanted}, found {found}"
    )]
    WrongPicture {
        index: usize,
        wanted: String,
        found: String,
    },
}

impl VisionModel {
    /// Loads the tower and the separators.
    ///
    /// # Errors
    /// [`VisionError::Checkpoint`] when a tensor cannot be read.
    pub fn load(
        checkpoint: &Checkpoint,
        options: &LoadOptions,
        progress: &dyn Fn(LoadProgress<'_>),
    ) -> Result<Self, VisionError> {
        let reader = checkpoint
            .reader(progress)
            .expecting(checkpoint.vision_bytes());
        let geometry = checkpoint.description().picture;
        Ok(Self {
            geometry,
            tower: Tower::load(&checkpoint.config().vision(), &reader, options)?,
            separators: geometry.hd.map(|_| load_separators(&reader)).transpose()?,
            device: options.device.clone(),
        })
    }

    /// How pictures are to be prepared for [`Self::encode`].
    pub fn geometry(&self) -> &PictureGeometry {
        &self.geometry
    }

    /// Elements of a row of features.
    pub fn feature_width(&self) -> usize {
        self.tower.width() * if self.separators.is_some() { 4 } else { 1 }
    }

    /// Encodes pictures; each comes out as it would alone.
    ///
    /// # Errors
    /// [`VisionError::WrongPicture`] for one that was prepared for another geometry.
    pub fn encode(
        &self,
        pictures: &[&PreparedPicture],
    ) -> Result<Vec<PictureFeatures>, VisionError> {
        for (index, picture) in pictures.iter().enumerate() {
            self.check(index, picture)?;
        }
        let mut arrangements: Vec<Arrangement> = pictures
            .iter()
            .map(|picture| self.arrangement(picture))
            .collect();
        let squares: Vec<(usize, usize)> = pictures
            .iter()
            .enumerate()
            .flat_map(|(index, picture)| {
                (0..picture.num_squares()).map(move |square| (index, square))
            })
            .collect();
        let rows_per_square = self.tower.rows_per_square();
        for pass in squares.chunks((MAX_ROWS / rows_per_square).max(1)) {
            let pixels = self.pixels(pictures, pass)?;
            let rows = self.tower.forward(&pixels, &mut |_| ())?.to_f32_vec()?;
            for ((picture, square), rows) in pass
                .iter()
                .zip(rows.chunks_exact(rows_per_square * self.tower.width()))
            {
                let (_class, patches) = rows.split_at(self.tower.width());
                arrangements[*picture].put(*square, patches);
            }
        }
        Ok(arrangements
            .into_iter()
            .map(|arrangement| self.features(arrangement))
            .collect())
    }

    /// Sends one square of a picture through the tower and shows `observe` its rows, `[1 + patches, width]` with the class
    /// row first, after the first norm and after every layer: for whoever compares with the reference.
    ///
    /// # Errors
    /// [`VisionError::WrongPicture`] for one that was prepared for another geometry.
    pub fn observe_square(
        &self,
        picture: &PreparedPicture,
        square: usize,
        observe: &mut dyn FnMut(&Tensor),
    ) -> Result<(), VisionError> {
        self.check(0, picture)?;
        let pixels = self.pixels(&[picture], &[(0, square)])?;
        self.tower.forward(&pixels, observe)?;
        Ok(())
    }

    /// The given squares as `[num_squares, 3, side, side]`.
    fn pixels(
        &self,
        pictures: &[&PreparedPicture],
        squares: &[(usize, usize)],
    ) -> Result<Tensor, TensorError> {
        let side = self.geometry.side as usize;
        let mut pixels = vec![0.0; squares.len() * 3 * side * side];
        for ((picture, square), out) in squares.iter().zip(pixels.chunks_exact_mut(3 * side * side))
        {
            pictures[*picture].write_square(*square, out);
        }
        let pixels = Tensor::from_f32(&self.device, &[squares.len(), 3, side, side], &pixels)?;
        pixels.to_dtype(self.device.activation_dtype(self.tower.dtype()))
    }

    fn arrangement(&self, picture: &PreparedPicture) -> Arrangement {
        Arrangement::new(
            &self.geometry,
            picture.layout(),
            self.tower.width(),
            self.separators.as_ref(),
        )
    }

    fn features(&self, arrangement: Arrangement) -> PictureFeatures {
        let (num_tokens, data) = arrangement.finish();
        PictureFeatures::new(num_tokens, self.feature_width(), data)
    }

    fn check(&self, index: usize, picture: &PreparedPicture) -> Result<(), VisionError> {
        let describe = |side: usize, is_tiled: bool| {
            format!(
                "{} of {side} pixels",
                if is_tiled { "tiles" } else { "a square" }
            )
        };
        let wanted = describe(self.geometry.side as usize, self.geometry.hd.is_some());
        let found = describe(picture.side(), picture.has_global_view());
        if wanted == found {
            Ok(())
        } else {
            Err(VisionError::WrongPicture {
                index,
                wanted,
                found,
            })
        }
    }
}

fn load_separators(reader: &Reader<'_>) -> Result<Separators, VisionError> {
    let read = |name: &str| -> Result<Vec<f32>, VisionError> {
        let separator = reader.read(name, Slice::Whole, Some(DType::F32))?;
        Ok(bytemuck::cast_slice(separator.bytes.as_slice()).to_vec())
    };
    Ok(Separators {
        row: read("plora_sub_GN")?,
        global: read("plora_glb_GN")?,
    })
}
