//! Pillow's antialiased resampling, bit for bit (spec section 5.2): two passes over bytes, along the rows first, each
//! rounded to bytes again; a pass that would not change the size is left out. Rows are shared out over the current
//! rayon pool, and the sums are integers, so neither the pool nor the vector width shows in the result.

mod pass;
mod taps;

#[cfg(test)]
mod tests;

use rayon::prelude::*;

use self::pass::{ROWS, RowPass, column_pass};
use self::taps::Taps;
use super::RgbPicture;

/// The kernel that a picture is resized with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filter {
    /// A triangle as wide as a source pixel: the high-definition models.
    Bilinear,
    /// The cubic kernel with a = -0.5: the 2.0 models. (PyTorch's bicubic has a = -0.75 and does not antialias.)
    Bicubic,
}

/// Resizes to `width` times `height`, as `Image.resize((width, height), filter)` does.
///
/// # Panics
/// When a side is zero.
pub fn resample(picture: &RgbPicture, width: u32, height: u32, filter: Filter) -> RgbPicture {
    check_size(width, height);
    let widened = (picture.width() != width).then(|| resize_rows(picture, width, filter));
    let widened = widened.as_ref().unwrap_or(picture);
    if widened.height() == height {
        widened.clone()
    } else {
        resize_columns(widened, height, filter)
    }
}

/// What resizing the transposed picture and transposing the result gives: the other pass first, which rounding tells.
///
/// # Panics
/// When a side is zero.
pub fn resample_columns_first(
    picture: &RgbPicture,
    width: u32,
    height: u32,
    filter: Filter,
) -> RgbPicture {
    check_size(width, height);
    let heightened = (picture.height() != height).then(|| resize_columns(picture, height, filter));
    let heightened = heightened.as_ref().unwrap_or(picture);
    if heightened.width() == width {
        heightened.clone()
    } else {
        resize_rows(heightened, width, filter)
    }
}

fn check_size(width: u32, height: u32) {
    assert!(
        width > 0 && height > 0,
        "a picture cannot be resized to {width} x {height}"
    );
}

fn resize_rows(picture: &RgbPicture, width: u32, filter: Filter) -> RgbPicture {
    let taps = Taps::new(picture.width(), width, filter);
    let pass = RowPass::new(&taps);
    let (stride, out_stride) = (picture.width() as usize * 3, width as usize * 3);
    let mut out = vec![0; out_stride * picture.height() as usize];
    out.par_chunks_mut(ROWS * out_stride)
        .enumerate()
        .for_each(|(index, out)| {
            pass.run(&picture.pixels()[index * ROWS * stride..], stride, out);
        });
    RgbPicture::new(width, picture.height(), out)
}

fn resize_columns(picture: &RgbPicture, height: u32, filter: Filter) -> RgbPicture {
    let taps = Taps::new(picture.height(), height, filter);
    let stride = picture.width() as usize * 3;
    let mut out = vec![0; stride * height as usize];
    let new_sums = || vec![0; stride];
    out.par_chunks_exact_mut(stride)
        .enumerate()
        .for_each_init(new_sums, |sums, (y, out)| {
            let (first, weights) = taps.of(y);
            column_pass(&picture.pixels()[first * stride..], weights, sums, out);
        });
    RgbPicture::new(picture.width(), height, out)
}
