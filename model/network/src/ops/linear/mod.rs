//! Linear layers: `y = x · Wᵀ (+ bias)` and the accumulating form that Partial LoRA needs. Weights are read as they were
//! loaded (f32, bf16 or f16) and widened to f32 in registers; sums are f32.

mod cpu;
#[cfg(test)]
mod tests;

use std::ops::Range;

use crate::{
    device::Device,
    ops::rows::RowRanges,
    tensor::{DType, Result, Tensor, TensorError},
};

/// `x · wᵀ (+ bias)`: x `[m, k]` f32, w `[n, k]` of any type, bias `[n]` of any type; gives `[m, n]` f32. On a GPU all four are of
/// one type. Leading dimensions of x are taken as rows.
pub fn linear(x: &Tensor, w: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    check_product("linear", x, w)?;
    product(x, w, bias, x.dtype())
}

/// As [`linear`] without bias, with a result of f32 on every device: logits, whose differences a type of half the width would lose.
pub fn linear_wide(x: &Tensor, w: &Tensor) -> Result<Tensor> {
    check_product("linear_wide", x, w)?;
    product(x, w, None, DType::F32)
}

fn product(x: &Tensor, w: &Tensor, bias: Option<&Tensor>, dtype: DType) -> Result<Tensor> {
    let n = w.rows();
    if let Some(bias) = bias {
        check_bias(bias, n)?;
    }
    let mut y = Tensor::unwritten(x.device(), dtype, &[x.rows(), n])?;
    match x.device() {
        Device::Cpu(device) => {
            let bias = bias.map(Tensor::to_f32_vec).transpose()?;
            cpu::linear(device, x, w, bias.as_deref(), &mut y)?;
        }
        Device::Cuda(device) => device.linear(x, w, bias, &mut y)?,
    }
    Ok(y)
}

/// `y[rows] += scale · x · wᵀ`: x `[m, k]` f32 holds the gathered rows, in the order of `rows`, whose lengths add up to
/// m; w `[n, k]`; y `[_, n]` f32, not shared. The ranges must ascend and not overlap.
pub fn linear_acc(
    x: &Tensor,
    w: &Tensor,
    scale: f32,
    y: &mut Tensor,
    rows: &RowRanges,
) -> Result<()> {
    const WHAT: &str = "linear_acc";
    check_product(WHAT, x, w)?;
    if y.cols() != w.rows() {
        return Err(TensorError::Shape {
            what: WHAT,
            wanted: format!("[_, {}]", w.rows()),
            found: y.shape().to_vec(),
        });
    }
    check_rows(WHAT, rows.as_slice(), x.rows(), y.rows())?;
    match x.device() {
        Device::Cpu(device) => cpu::linear_acc(device, x, w, scale, y, rows.as_slice()),
        Device::Cuda(device) => device.linear_acc(x, w, scale, y, rows),
    }
}

fn check_product(what: &'static str, x: &Tensor, w: &Tensor) -> Result<()> {
    if w.shape().len() != 2 || x.shape().is_empty() || x.cols() != w.cols() {
        let wanted = format!("[_, {}] times a weight [n, {}]", w.cols(), w.cols());
        return Err(TensorError::Shape {
            what,
            wanted,
            found: x.shape().to_vec(),
        });
    }
    if x.dtype() != x.device().activation_dtype(w.dtype()) {
        return Err(TensorError::DType {
            what,
            wanted: "activations of F32, or of the weight's type on a GPU",
            found: x.dtype(),
        });
    }
    Ok(())
}

fn check_bias(bias: &Tensor, n: usize) -> Result<()> {
    if bias.shape() != [n] {
        let wanted = format!("[{n}] for the bias");
        return Err(TensorError::Shape {
            what: "linear",
            wanted,
            found: bias.shape().to_vec(),
        });
    }
    Ok(())
}

fn check_rows(
    what: &'static str,
    rows: &[Range<usize>],
    num_given: usize,
    num_rows: usize,
) -> Result<()> {
    let mut after = 0;
    for range in rows {
        if range.start < after || range.start > range.end || range.end > num_rows {
            return Err(TensorError::Rows {
                what,
                start: range.start,
                end: range.end,
                num_rows,
            });
        }
        after = range.end;
    }
    let total: usize = rows.iter().map(ExactSizeIterator::len).sum();
    if total != num_given {
        let reason = format!("the row ranges hold {total} rows, x has {num_given}");
        return Err(TensorError::Unsupported { what, reason });
    }
    Ok(())
}
