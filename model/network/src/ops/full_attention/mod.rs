//! Attention in which every token of a square sees every other: the vision tower's. No mask, no cache; squares of one
//! batch do not see each other.

mod cpu;
#[cfg(test)]
mod tests;

use crate::{
    device::Device,
    tensor::{Result, Tensor, TensorError},
};

/// Attends within each square of `len` rows. qkv `[num_squares * len, 3 * width]` f32 holds queries, keys and values side
/// by side, each with its heads side by side; scores are scaled by one over the root of the head's width. Gives
/// `[num_squares * len, width]`.
pub fn full_attention(qkv: &Tensor, len: usize, num_heads: usize) -> Result<Tensor> {
    let width = qkv.cols() / 3;
    let is_whole = len > 0 && qkv.rows().is_multiple_of(len);
    if !is_whole
        || width == 0
        || num_heads == 0
        || qkv.cols() != 3 * width
        || !width.is_multiple_of(num_heads)
    {
        return Err(TensorError::Shape {
            what: "full_attention",
            wanted: format!("[multiple of {len}, 3 x multiple of {num_heads}]"),
            found: qkv.shape().to_vec(),
        });
    }
    let mut out = Tensor::unwritten(qkv.device(), qkv.dtype(), &[qkv.rows(), width])?;
    let shape = Shape {
        num_squares: qkv.rows() / len,
        len,
        num_heads,
        head_dim: width / num_heads,
    };
    match qkv.device() {
        Device::Cpu(device) => {
            cpu::full_attention(device, qkv.as_f32()?, &shape, out.as_f32_mut()?)
        }
        Device::Cuda(device) => device.full_attention(qkv, len, num_heads, &mut out)?,
    }
    Ok(out)
}

/// Sizes of one call.
struct Shape {
    num_squares: usize,
    len: usize,
    num_heads: usize,
    head_dim: usize,
}

impl Shape {
    fn width(&self) -> usize {
        self.num_heads * self.head_dim
    }
}
