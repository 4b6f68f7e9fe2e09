//! A picture made ready for the tower: resized and padded to its layout, and cut into squares of normalised values.
//! Pixels stay bytes until a square is asked for, so that a waiting picture is small: 55 tiles are 19 MB, not 75.

use inkstone_interface::picture_geometry::{GeometryError, HdRule, PictureGeometry, PictureLayout};

use super::normalise::NORMALISED;
use super::resample::{Filter, resample, resample_columns_first};
use super::{RgbPicture, global_view};

const WHITE: [u8; 3] = [255; 3];

/// What the tower takes for one picture.
#[derive(Debug, Clone, PartialEq)]
pub struct PreparedPicture {
    layout: PictureLayout,
    side: usize,
    /// The picture resized and padded to `layout.padded`.
    canvas: RgbPicture,
    /// The high-definition models' view of the whole picture, `[3, side, side]`, normalised.
    global: Option<Vec<f32>>,
}

/// Prepares a decoded picture for a model's tower: one square for the single-scale models; for the others a canvas of
/// at most `hd_num` tiles (see [`PictureGeometry::hd_num`]) and a global view.
///
/// # Errors
/// [`GeometryError`] for an `hd_num` out of bounds.
pub fn prepare(
    picture: &RgbPicture,
    geometry: &PictureGeometry,
    hd_num: u32,
) -> Result<PreparedPicture, GeometryError> {
    let layout = geometry.layout(picture.width(), picture.height(), hd_num)?;
    let side = geometry.side as usize;
    let canvas = match geometry.hd {
        None => resample(picture, geometry.side, geometry.side, Filter::Bicubic),
        Some(HdRule { .. }) => hd_canvas(picture, &layout),
    };
    let global = geometry.hd.map(|_| global_view::shrink(&canvas, side));
    Ok(PreparedPicture {
        layout,
        side,
        canvas,
        global,
    })
}

/// The reference turns a picture that is higher than wide on its side first, so its columns are resized before its rows.
fn hd_canvas(picture: &RgbPicture, layout: &PictureLayout) -> RgbPicture {
    let (width, height) = layout.resized;
    let resized = if layout.transposed {
        resample_columns_first(picture, width, height, Filter::Bilinear)
    } else {
        resample(picture, width, height, Filter::Bilinear)
    };
    if layout.padded == layout.resized {
        return resized;
    }
    let mut canvas = RgbPicture::filled(layout.padded.0, layout.padded.1, WHITE);
    for y in 0..height {
        let left = layout.pad_left as usize * 3;
        let row = resized.row(y);
        canvas.row_mut(layout.pad_top + y)[left..left + row.len()].copy_from_slice(row);
    }
    canvas
}

impl PreparedPicture {
    pub fn layout(&self) -> &PictureLayout {
        &self.layout
    }

    /// Side of a square in pixels.
    pub fn side(&self) -> usize {
        self.side
    }

    /// The resized and padded picture.
    pub fn canvas(&self) -> &RgbPicture {
        &self.canvas
    }

    /// Squares that go through the tower: the one of a single-scale model, or the global view and the tiles.
    pub fn num_squares(&self) -> usize {
        self.layout.num_tiles() + usize::from(self.global.is_some())
    }

    /// Whether the first square is a view of the whole picture.
    pub fn has_global_view(&self) -> bool {
        self.global.is_some()
    }

    /// Bytes that this picture holds.
    pub fn num_bytes(&self) -> usize {
        self.canvas.pixels().len()
            + self
                .global
                .as_ref()
                .map_or(0, |view| view.len() * size_of::<f32>())
    }

    /// Writes square `index` as normalised values `[3, side, side]`: the global view first where there is one, then
    /// the tiles row by row.
    ///
    /// # Panics
    /// When there is no such square or `out` has another length.
    pub fn write_square(&self, index: usize, out: &mut [f32]) {
        assert_eq!(
            out.len(),
            3 * self.side * self.side,
            "a square of three channels"
        );
        let tile = match (&self.global, index) {
            (Some(view), 0) => return out.copy_from_slice(view),
            (Some(_), index) => index - 1,
            (None, index) => index,
        };
        assert!(
            tile < self.layout.num_tiles(),
            "square {index} of {}",
            self.num_squares()
        );
        let wide = self.layout.tiles_wide as usize;
        let (top, left) = (tile / wide * self.side, tile % wide * self.side);
        for (channel, plane) in out.chunks_exact_mut(self.side * self.side).enumerate() {
            for (y, values) in plane.chunks_exact_mut(self.side).enumerate() {
                let row = &self.canvas.row((top + y) as u32)[left * 3..];
                for (value, pixel) in values.iter_mut().zip(row.chunks_exact(3)) {
                    *value = NORMALISED[channel][usize::from(pixel[channel])];
                }
            }
        }
    }
}
