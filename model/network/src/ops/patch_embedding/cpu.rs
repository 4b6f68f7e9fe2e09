//! The CPU form of cutting squares into patches and of placing the embedded rows.

use super::Grid;
use crate::device::CpuDevice;

/// Writes the pixels of every patch side by side: `[num_squares * patches, 3 * patch * patch]`.
pub(super) fn unfold(device: &CpuDevice, pixels: &[f32], grid: &Grid, patches: &mut [f32]) {
    let (side, patch, across) = (grid.side, grid.patch, grid.patches_per_side());
    let row_len = 3 * patch * patch;
    // A task is a row of patches.
    device.parallel_chunks_mut(patches, across * row_len, |task, patches| {
        let (square, patch_row) = (task / across, task % across);
        for (patch_column, row) in patches.chunks_exact_mut(row_len).enumerate() {
            for (line, target) in row.chunks_exact_mut(patch).enumerate() {
                let (channel, y) = (line / patch, patch_row * patch + line % patch);
                let start = ((square * 3 + channel) * side + y) * side + patch_column * patch;
                target.copy_from_slice(&pixels[start..start + patch]);
            }
        }
    });
}

/// Puts the class row before each square's patches and adds to every row that of its place.
pub(super) fn place(
    device: &CpuDevice,
    embedded: &[f32],
    class: &[f32],
    positions: &[f32],
    rows: &mut [f32],
) {
    let width = class.len();
    let num_patches = positions.len() / width - 1;
    device.parallel_chunks_mut(rows, positions.len(), |square, rows| {
        let patches = embedded[square * num_patches * width..].chunks_exact(width);
        let sources = std::iter::once(class).chain(patches);
        for ((row, source), position) in rows
            .chunks_exact_mut(width)
            .zip(sources)
            .zip(positions.chunks_exact(width))
        {
            for ((value, source), position) in row.iter_mut().zip(source).zip(position) {
                *value = source + position;
            }
        }
    });
}
