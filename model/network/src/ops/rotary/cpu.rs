//! The CPU form of the rotary embedding.

use pulp::Arch;

use super::{QkvLayout, RotarySpan};
use crate::device::CpuDevice;

pub(super) fn fill(spans: &[RotarySpan], head_dim: usize, cos: &mut [f32], sin: &mut [f32]) {
    let half = head_dim / 2;
    let mut rows = cos
        .chunks_exact_mut(half.max(1))
        .zip(sin.chunks_exact_mut(half.max(1)));
    for span in spans {
        let frequencies = frequencies(span.base, head_dim);
        for (offset, (cos, sin)) in rows.by_ref().take(span.num_rows).enumerate() {
            let position = (span.start + offset) as f32 / span.divisor;
            for (m, frequency) in frequencies.iter().enumerate() {
                (sin[m], cos[m]) = (position * frequency).sin_cos();
            }
        }
    }
}

/// `1 / base^(2m / head_dim)` for each pair, rounded to f32 after the quotient, the power and the inverse.
pub(crate) fn frequencies(base: f64, head_dim: usize) -> Vec<f32> {
    let base = f64::from(base as f32);
    let frequency = |m: usize| {
        let exponent = (2 * m) as f32 / head_dim as f32;
        1.0 / base.powf(f64::from(exponent)) as f32
    };
    (0..head_dim / 2).map(frequency).collect()
}

/// Elements that one task rotates, about.
const ELEMENTS: usize = 16 << 10;

pub(super) fn rotate(
    device: &CpuDevice,
    qkv: &mut [f32],
    layout: &QkvLayout,
    cos: &[f32],
    sin: &[f32],
) {
    let (width, half) = (layout.width().max(1), layout.head_dim / 2);
    let num_rows = (ELEMENTS / width).max(1);
    device.parallel_chunks_mut(qkv, num_rows * width, |chunk, qkv| {
        for (offset, row) in qkv.chunks_exact_mut(width).enumerate() {
            let row_index = chunk * num_rows + offset;
            let cos = &cos[row_index * half..][..half];
            let sin = &sin[row_index * half..][..half];
            Arch::new().dispatch(
                #[inline(always)]
                || rotate_row(row, layout, cos, sin),
            );
        }
    });
}

#[inline(always)]
fn rotate_row(row: &mut [f32], layout: &QkvLayout, cos: &[f32], sin: &[f32]) {
    let head_dim = layout.head_dim;
    for group in row.chunks_exact_mut(layout.group_width()) {
        // All heads of the group but the last, which is the value head.
        let rotated = &mut group[..(layout.group + 1) * head_dim];
        for head in rotated.chunks_exact_mut(head_dim) {
            let (low, high) = head.split_at_mut(head_dim / 2);
            for (((low, high), cos), sin) in low.iter_mut().zip(high).zip(cos).zip(sin) {
                (*low, *high) = (*low * cos - *high * sin, *high * cos + *low * sin);
            }
        }
    }
}
