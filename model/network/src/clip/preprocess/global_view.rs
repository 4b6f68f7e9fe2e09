//! The high-definition models' view of the whole picture (spec section 4.5): the canvas, normalised, shrunk to one tile
//! with PyTorch's bicubic interpolation. It does not antialias, so four by four pixels decide each value.

use rayon::prelude::*;

use super::RgbPicture;
use super::normalise::NORMALISED;
use crate::clip::bicubic::{CubicTap, cubic_taps};

/// Shrinks to `[3, side, side]`.
pub(super) fn shrink(canvas: &RgbPicture, side: usize) -> Vec<f32> {
    let columns = cubic_taps(canvas.width() as usize, side);
    let rows = cubic_taps(canvas.height() as usize, side);
    let mut view = vec![0.0; 3 * side * side];
    view.par_chunks_exact_mut(side)
        .enumerate()
        .for_each(|(index, out)| {
            let (channel, y) = (index / side, index % side);
            let sources = rows[y].sources.map(|source| canvas.row(source as u32));
            for (value, column) in out.iter_mut().zip(&columns) {
                let across = sources.map(|row| interpolate(row, channel, column));
                *value = dot(across, rows[y].weights);
            }
        });
    view
}

fn interpolate(row: &[u8], channel: usize, tap: &CubicTap) -> f32 {
    let levels = &NORMALISED[channel];
    dot(
        tap.sources
            .map(|x| levels[usize::from(row[x * 3 + channel])]),
        tap.weights,
    )
}

fn dot(values: [f32; 4], weights: [f32; 4]) -> f32 {
    values.iter().zip(weights).map(|(v, w)| v * w).sum()
}
