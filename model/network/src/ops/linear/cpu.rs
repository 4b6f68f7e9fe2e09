//! The CPU form of the linear layers.

use std::ops::Range;

use crate::{
    device::CpuDevice,
    tensor::{CpuElements, Element, Result, Tensor},
};

pub(super) fn linear(
    device: &CpuDevice,
    x: &Tensor,
    w: &Tensor,
    bias: Option<&[f32]>,
    y: &mut Tensor,
) -> Result<()> {
    let (k, n) = (w.cols(), w.rows());
    let x = x.as_f32()?;
    let y = y.as_f32_mut()?;
    match w.cpu_elements()? {
        CpuElements::F32(w) => product(device, x, w, k, n, y),
        CpuElements::BF16(w) => product(device, x, w, k, n, y),
        CpuElements::F16(w) => product(device, x, w, k, n, y),
    }
    if let Some(bias) = bias {
        for row in y.chunks_mut(n.max(1)) {
            row.iter_mut().zip(bias).for_each(|(y, bias)| *y += bias);
        }
    }
    Ok(())
}

pub(super) fn linear_acc(
    device: &CpuDevice,
    x: &Tensor,
    w: &Tensor,
    scale: f32,
    y: &mut Tensor,
    rows: &[Range<usize>],
) -> Result<()> {
    let n = w.rows();
    let mut product = Tensor::zeros(x.device(), x.dtype(), &[x.rows(), n]);
    linear(device, x, w, None, &mut product)?;
    let mut product = product.as_f32()?;
    let y = y.as_f32_mut()?;
    for range in rows {
        let (these, rest) = product.split_at(range.len() * n);
        let y = &mut y[range.start * n..range.end * n];
        y.iter_mut()
            .zip(these)
            .for_each(|(y, product)| *y += scale * product);
        product = rest;
    }
    Ok(())
}

fn product<W: Element>(device: &CpuDevice, x: &[f32], w: &[W], k: usize, n: usize, y: &mut [f32]) {
    const CHUNK: usize = 64;
    device.parallel_chunks_mut(y, CHUNK, |chunk, y| {
        for (offset, y) in y.iter_mut().enumerate() {
            let (row, col) = ((chunk * CHUNK + offset) / n, (chunk * CHUNK + offset) % n);
            *y = dot(&x[row * k..][..k], &w[col * k..][..k]);
        }
    });
}

fn dot<W: Element>(x: &[f32], w: &[W]) -> f32 {
    let mut lanes = [0.0f32; 16];
    let (x_blocks, x_rest) = x.as_chunks::<16>();
    let (w_blocks, w_rest) = w.as_chunks::<16>();
    for (x, w) in x_blocks.iter().zip(w_blocks) {
        for lane in 0..16 {
            lanes[lane] += x[lane] * w[lane].to_f32();
        }
    }
    let rest: f32 = x_rest.iter().zip(w_rest).map(|(x, w)| x * w.to_f32()).sum();
    lanes.iter().sum::<f32>() + rest
}
