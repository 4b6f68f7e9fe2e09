//! Rotary position embedding on the two halves of each query and key head (spec section 2). Cosines and sines of a batch are
//! made once and serve all layers.

mod cpu;
#[cfg(test)]
mod tests;

#[cfg(feature = "cuda")]
pub(crate) use cpu::frequencies;

use crate::{
    device::Device,
    tensor::{DType, Result, Tensor, TensorError},
};

/// How the columns of the fused query, key and value projection lie: for each key and value head in turn its query heads, then
/// the key head, then the value head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QkvLayout {
    pub num_kv_heads: usize,
    /// Query heads for each key and value head.
    pub group: usize,
    pub head_dim: usize,
}

impl QkvLayout {
    /// Columns of one key and value head and its query heads.
    pub fn group_width(&self) -> usize {
        (self.group + 2) * self.head_dim
    }

    /// Columns in all.
    pub fn width(&self) -> usize {
        self.num_kv_heads * self.group_width()
    }

    /// Columns of the attention's output.
    pub fn output_width(&self) -> usize {
        self.num_kv_heads * self.group * self.head_dim
    }

    pub(crate) fn check(&self, what: &'static str, qkv: &Tensor, num_rows: usize) -> Result<()> {
        if qkv.cols() == self.width() && qkv.rows() == num_rows {
            return Ok(());
        }
        Err(TensorError::Shape {
            what,
            wanted: format!("[{num_rows}, {}]", self.width()),
            found: qkv.shape().to_vec(),
        })
    }
}

/// Rows of a batch at consecutive positions with the same frequencies.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RotarySpan {
    pub num_rows: usize,
    /// Position of the first row.
    pub start: usize,
    pub base: f64,
    /// Positions are divided by this (1 but for linear scaling).
    pub divisor: f32,
}

/// The cosine and sine of every angle of a batch: `[num_rows, head_dim / 2]` f32 each.
pub struct RotaryAngles {
    cos: Tensor,
    sin: Tensor,
}

impl RotaryAngles {
    /// Angles for the rows of `spans`, one after the other. Frequencies and angles are rounded to f32 at each step just as the
    /// reference rounds them: at far positions that decides the last digits (goldens, "What the official code does").
    pub fn new(device: &Device, head_dim: usize, spans: &[RotarySpan]) -> Result<Self> {
        let num_rows = spans.iter().map(|span| span.num_rows).sum();
        let table = || Tensor::unwritten(device, DType::F32, &[num_rows, head_dim / 2]);
        let (mut cos, mut sin) = (table()?, table()?);
        match device {
            Device::Cpu(_) => cpu::fill(spans, head_dim, cos.as_f32_mut()?, sin.as_f32_mut()?),
            Device::Cuda(device) => device.rotary_angles(spans, head_dim, &mut cos, &mut sin)?,
        }
        Ok(Self { cos, sin })
    }

    /// Angles that are there already.
    #[cfg(feature = "cuda")]
    pub(crate) fn of_tables(cos: Tensor, sin: Tensor) -> Self {
        Self { cos, sin }
    }

    /// Rotates the query and key heads of qkv `[num_rows, layout.width()]` f32 (not shared) in place.
    pub fn rotate(&self, qkv: &mut Tensor, layout: &QkvLayout) -> Result<()> {
        self.check(qkv, layout)?;
        let device = qkv.device().clone();
        match device {
            Device::Cpu(device) => {
                let (cos, sin) = (self.cos.as_f32()?, self.sin.as_f32()?);
                cpu::rotate(&device, qkv.as_f32_mut()?, layout, cos, sin);
            }
            Device::Cuda(device) => device.rotate(qkv, layout, &self.cos, &self.sin)?,
        }
        Ok(())
    }

    pub(crate) fn check(&self, qkv: &Tensor, layout: &QkvLayout) -> Result<()> {
        layout.check("rotate", qkv, self.cos.rows())?;
        if layout.head_dim != 2 * self.cos.cols() {
            return Err(TensorError::Shape {
                what: "rotate",
                wanted: format!("angles for heads of {}", layout.head_dim),
                found: self.cos.shape().to_vec(),
            });
        }
        Ok(())
    }

    /// Cosines and sines, for whoever wants to look.
    pub fn tables(&self) -> (&Tensor, &Tensor) {
        (&self.cos, &self.sin)
    }
}
