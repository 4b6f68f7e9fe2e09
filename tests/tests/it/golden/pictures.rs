//! The pictures that a model folder's cases name: found among the golden folders, prepared, and encoded by the vision tower of
//! one checkpoint, each once.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, Result};
use inkstone_interface::picture_geometry::PictureGeometry;
use inkstone_model::clip::{
    PictureFeatures, VisionModel,
    preprocess::{PictureFormat, PreparedPicture, RgbPicture, prepare},
};

use super::{
    folder::{Folder, all},
    preprocess::{noted_file, read_picture},
    tiles::canvas_of,
};

/// A picture as a case asks for it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct PictureRequest {
    pub(super) file: String,
    pub(super) hd_num: u32,
}

/// The pictures of one folder as one tower sees them.
pub(super) struct Pictures<'a> {
    folder: &'a Folder,
    tower: &'a VisionModel,
    features: RefCell<BTreeMap<PictureRequest, Arc<PictureFeatures>>>,
}

impl<'a> Pictures<'a> {
    pub(super) fn new(folder: &'a Folder, tower: &'a VisionModel) -> Self {
        Self {
            folder,
            tower,
            features: RefCell::default(),
        }
    }

    pub(super) fn geometry(&self) -> &PictureGeometry {
        self.tower.geometry()
    }

    pub(super) fn tower(&self) -> &VisionModel {
        self.tower
    }

    /// Places that a picture takes in a prompt.
    pub(super) fn num_tokens(&self, request: &PictureRequest) -> Result<usize> {
        Ok(self.prepared(request)?.layout().num_tokens)
    }

    /// The rows before the projector.
    pub(super) fn features(&self, request: &PictureRequest) -> Result<Arc<PictureFeatures>> {
        if let Some(features) = self.features.borrow().get(request) {
            return Ok(features.clone());
        }
        let mut encoded = self.tower.encode(&[&self.prepared(request)?])?;
        let features = Arc::new(
            encoded
                .pop()
                .context("one picture gives one set of features")?,
        );
        let mut all = self.features.borrow_mut();
        Ok(all.entry(request.clone()).or_insert(features).clone())
    }

    /// The picture as the tower takes it: from its file, or from the pixels that the goldens keep of it where there is no
    /// file, or where a lossy file decodes a little differently.
    pub(super) fn prepared(&self, request: &PictureRequest) -> Result<PreparedPicture> {
        let from = |picture: &RgbPicture| prepare(picture, self.geometry(), request.hd_num);
        let Some(file) = find(self.folder, &request.file) else {
            let pixels = stored_pixels(self.folder, &request.file)?;
            let pixels = pixels.with_context(|| format!("there is no picture {}", request.file))?;
            return Ok(from(&pixels)?);
        };
        if is_lossy(&file)? {
            if let Some(pixels) = stored_pixels(self.folder, &request.file)? {
                return Ok(from(&pixels)?);
            }
            let PictureRequest { file, hd_num } = request;
            if let Some(canvas) = canvas_of(self.folder, file, *hd_num, self.geometry())? {
                return Ok(canvas);
            }
        }
        Ok(from(&read_picture(&file)?)?)
    }
}

/// The path of a picture file, in the folder itself or in another golden folder.
pub(super) fn find(folder: &Folder, file: &str) -> Option<PathBuf> {
    let own = folder.path.clone();
    let mut folders = [own].into_iter().chain(all());
    folders.find_map(|folder| {
        let path = folder.join("images").join(file);
        path.is_file().then_some(path)
    })
}

/// `vision.N.pixels_u8` of a file: the picture resized already.
fn stored_pixels(folder: &Folder, file: &str) -> Result<Option<RgbPicture>> {
    for stem in folder.stems(".pixels_u8") {
        let name = format!("{stem}.pixels_u8");
        if noted_file(folder, &name) == Some(file) {
            let pixels = folder.u8(&name)?;
            let (height, width) = (pixels.shape[0] as u32, pixels.shape[1] as u32);
            return Ok(Some(RgbPicture::new(width, height, pixels.values)));
        }
    }
    Ok(None)
}

/// Whether decoders may differ over a file.
pub(super) fn is_lossy(file: &Path) -> Result<bool> {
    let bytes = std::fs::read(file)?;
    Ok(match PictureFormat::sniff(&bytes) {
        Some(PictureFormat::Jpeg) => true,
        Some(PictureFormat::WebP) => !bytes.windows(4).take(64).any(|tag| tag == b"VP8L"),
        _ => false,
    })
}
