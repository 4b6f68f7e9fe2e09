//! The vision tower's first step (spec section 4.1): squares of pixels are cut into patches, each patch becomes a row by
//! a linear without bias, a class row goes before them, and every place has its own row added.

mod cpu;
#[cfg(test)]
mod tests;

use crate::{
    device::Device,
    ops::linear::linear,
    tensor::{Result, Tensor, TensorError},
};

/// pixels `[num_squares, 3, side, side]` f32; weight `[width, 3 * patch * patch]` of any type, columns by channel, row and
/// column of the patch; class `[width]` and positions `[1 + patches, width]` f32. Gives `[num_squares * (1 + patches),
/// width]`, the class row of each square first, then its patches row by row.
pub fn patch_embedding(
    pixels: &Tensor,
    weight: &Tensor,
    class: &Tensor,
    positions: &Tensor,
) -> Result<Tensor> {
    let grid = Grid::of(pixels, weight, positions)?;
    let width = weight.rows();
    if class.shape() != [width] || positions.cols() != width {
        return Err(TensorError::Shape {
            what: "patch_embedding",
            wanted: format!("[{width}] for the class and [_, {width}] for the positions"),
            found: [class.shape(), positions.shape()].concat(),
        });
    }
    let num_patches = grid.num_squares * grid.patches_per_square();
    let mut patches = Tensor::unwritten(
        pixels.device(),
        pixels.dtype(),
        &[num_patches, weight.cols()],
    )?;
    match pixels.device() {
        Device::Cpu(device) => cpu::unfold(device, pixels.as_f32()?, &grid, patches.as_f32_mut()?),
        Device::Cuda(device) => device.unfold(pixels, grid.patch, &mut patches)?,
    }
    let embedded = linear(&patches, weight, None)?;
    let num_rows = grid.num_squares * (1 + grid.patches_per_square());
    let mut rows = Tensor::unwritten(pixels.device(), pixels.dtype(), &[num_rows, width])?;
    match pixels.device() {
        Device::Cpu(device) => cpu::place(
            device,
            embedded.as_f32()?,
            class.as_f32()?,
            positions.as_f32()?,
            rows.as_f32_mut()?,
        ),
        Device::Cuda(device) => device.place(&embedded, class, positions, &mut rows)?,
    }
    Ok(rows)
}

/// Sizes of one call.
struct Grid {
    num_squares: usize,
    /// Pixels along a side of a square.
    side: usize,
    /// Pixels along a side of a patch.
    patch: usize,
}

impl Grid {
    fn of(pixels: &Tensor, weight: &Tensor, positions: &Tensor) -> Result<Self> {
        let patch = (weight.cols() / 3).isqrt();
        let shape = pixels.shape();
        let grid = Self {
            num_squares: shape.first().copied().unwrap_or(0),
            side: shape.last().copied().unwrap_or(0),
            patch,
        };
        let is_cut_whole =
            patch > 0 && 3 * patch * patch == weight.cols() && grid.side.is_multiple_of(patch);
        let is_placed = is_cut_whole && positions.rows() == 1 + grid.patches_per_square();
        if is_placed && shape == [grid.num_squares, 3, grid.side, grid.side] {
            return Ok(grid);
        }
        Err(TensorError::Shape {
            what: "patch_embedding",
            wanted: format!(
                "[n, 3, side, side] with 1 + (side / patch)^2 = {} positions and 3 patch^2 = {} columns",
                positions.rows(),
                weight.cols()
            ),
            found: shape.to_vec(),
        })
    }

    fn patches_per_side(&self) -> usize {
        self.side / self.patch
    }

    fn patches_per_square(&self) -> usize {
        self.patches_per_side() * self.patches_per_side()
    }
}
