//! One row, or two, of x against bf16 weights on machines with AMX: what [`tiles`](super::tiles) computes for them, bit by
//! bit, in vector instructions, which read the weights from memory at twice the rate.
//!
//! The tile instruction takes 32 elements of the depth at a time: it sums the products of the even ones and of the odd ones,
//! each in order, adds the two and adds that to the output. So does this. (Numbers so small that they are subnormal count as
//! zero there and not here, which is seen in outputs below 1e-30 only.)

use std::arch::x86_64::*;

use half::bf16;

use super::{
    LINES_AHEAD, Product, ahead, cols_per_task,
    scratch::{Scratch, new_scratch, with_scratch},
    tiles::{NUM_PIECES, SIDE, STEP, cut},
};
use crate::{
    device::CpuDevice,
    ops::simd::{InstructionSet, Kernel, Lanes, transpose},
};

/// Up to so many rows this is faster than the tiles.
pub(super) const MAX_ROWS: usize = 2;

thread_local! {
    static PIECES: Scratch = new_scratch();
}

/// The set must be [`InstructionSet::Amx`], and there must be [`MAX_ROWS`] rows at most.
pub(super) fn multiply(device: &CpuDevice, product: &Product<'_, bf16>) {
    let per_row = product.depth.div_ceil(STEP) * NUM_PIECES * STEP;
    with_scratch(
        &PIECES,
        product.num_rows * per_row,
        |pieces: &mut [f32]| {
            for row in 0..product.num_rows {
                let x = &product.x[row * product.depth..][..product.depth];
                // SAFETY: the set is `Amx`, which includes AVX-512.
                unsafe { cut_row(x, &mut pieces[row * per_row..][..per_row]) };
            }
            let bytes_per_col = product.depth * size_of::<bf16>();
            let step = cols_per_task(device, product.num_cols, bytes_per_col, SIDE);
            let pieces = &*pieces;
            device.parallel_for(product.num_cols.div_ceil(step), |task| {
                let (start, end) = (task * step, product.num_cols.min((task + 1) * step));
                InstructionSet::Amx.run(Columns {
                    product,
                    pieces,
                    start,
                    end,
                });
            });
        },
    );
}

/// For each step of the depth, for each piece, its 32 elements as f32; zero beyond the end.
///
/// # Safety
/// The machine has AVX-512.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
unsafe fn cut_row(x: &[f32], pieces: &mut [f32]) {
    for (x, pieces) in x
        .chunks(STEP)
        .zip(pieces.chunks_exact_mut(NUM_PIECES * STEP))
    {
        for (half, x) in x.chunks(SIDE).enumerate() {
            // SAFETY: the mask keeps to the elements that there are; each piece has room for a whole step.
            unsafe {
                let values = _mm512_maskz_loadu_ps(u16::MAX >> (SIDE - x.len()), x.as_ptr());
                for (piece, values) in cut(values).into_iter().enumerate() {
                    let to = pieces.as_mut_ptr().add(piece * STEP + half * SIDE);
                    _mm512_storeu_si512(to.cast(), values);
                }
            }
        }
        if x.len() <= SIDE {
            // Nothing was written to the upper halves.
            for piece in pieces.chunks_exact_mut(STEP) {
                piece[SIDE..].fill(0.0);
            }
        }
    }
}

/// Outputs of all rows for the columns `start..end`.
struct Columns<'a> {
    product: &'a Product<'a, bf16>,
    pieces: &'a [f32],
    start: usize,
    end: usize,
}

impl Kernel for Columns<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<V: Lanes>(self) {
        // SAFETY: the set has 16 lanes, and the product as many rows as its form says.
        unsafe {
            for col in (self.start..self.end).step_by(SIDE) {
                match self.product.num_rows {
                    0 => {}
                    1 => self.strip::<V, 1>(col),
                    2 => self.strip::<V, 2>(col),
                    more => unreachable!("{more} rows go to the tiles"),
                }
            }
        }
    }
}

impl Columns<'_> {
    /// # Safety
    /// As for [`Lanes`], which must be 16; the product has `ROWS` rows, `col` is below `end`.
    #[inline(always)]
    unsafe fn strip<V: Lanes, const ROWS: usize>(&self, col: usize) {
        let num_steps = self.product.depth.div_ceil(STEP);
        let num_cols = (self.end - col).min(SIDE);
        // SAFETY: promised by the caller; steps are within the depth, and each has its pieces.
        unsafe {
            let mut outputs = [_mm512_setzero_ps(); ROWS];
            for step in 0..num_steps {
                let weights = self.load_turned(col, num_cols, step);
                let mut sums = [[[_mm512_setzero_ps(); 2]; NUM_PIECES]; ROWS];
                let pieces = self.pieces.as_ptr().add(step * NUM_PIECES * STEP);
                for (pair, weights) in weights.into_iter().enumerate() {
                    let both = [
                        _mm512_castsi512_ps(_mm512_slli_epi32::<16>(weights)),
                        _mm512_castsi512_ps(_mm512_and_si512(
                            weights,
                            _mm512_set1_epi32(0xffff_0000_u32 as i32),
                        )),
                    ];
                    for (row, sums) in sums.iter_mut().enumerate() {
                        let pieces = pieces.add(row * num_steps * NUM_PIECES * STEP + 2 * pair);
                        for (piece, sums) in sums.iter_mut().enumerate() {
                            for (parity, sum) in sums.iter_mut().enumerate() {
                                let x = _mm512_set1_ps(*pieces.add(piece * STEP + parity));
                                *sum = _mm512_fmadd_ps(both[parity], x, *sum);
                            }
                        }
                    }
                }
                for (output, sums) in outputs.iter_mut().zip(sums) {
                    for [even, odd] in sums {
                        *output = _mm512_add_ps(*output, _mm512_add_ps(even, odd));
                    }
                }
            }
            for (row, output) in outputs.into_iter().enumerate() {
                let mut lanes = [0.0_f32; SIDE];
                _mm512_storeu_ps(lanes.as_mut_ptr(), output);
                let sum = V::load_f32(lanes.as_ptr());
                self.product.target.add(row, col, sum, true, num_cols);
            }
        }
    }

    /// The weights of a step, 16 columns by 32 elements, so that each register holds a pair of elements of all columns. What
    /// is missing is zero. Weights further on are asked for.
    ///
    /// # Safety
    /// As for `strip`.
    #[inline(always)]
    unsafe fn load_turned(&self, col: usize, num_cols: usize, step: usize) -> [__m512i; SIDE] {
        let Product { w, depth, .. } = self.product;
        let from = w.as_ptr().wrapping_add(col * depth + step * STEP);
        let count = STEP.min(depth - step * STEP);
        // SAFETY: promised by the caller. Prefetches may go anywhere.
        unsafe {
            let mut rows = [_mm512_setzero_si512(); SIDE];
            if num_cols == SIDE && count == STEP {
                for (c, row) in rows.iter_mut().enumerate() {
                    *row = _mm512_loadu_si512(from.add(c * depth).cast());
                }
            } else {
                let mask = u32::MAX >> (STEP - count);
                for (c, row) in rows[..num_cols].iter_mut().enumerate() {
                    *row = _mm512_maskz_loadu_epi16(mask, from.add(c * depth).cast());
                }
            }
            let next =
                w.as_ptr()
                    .wrapping_add(ahead(*depth, col, step * STEP, SIDE, LINES_AHEAD * STEP));
            for c in 0..SIDE {
                _mm_prefetch::<_MM_HINT_T1>(next.wrapping_add(c * depth).cast());
            }
            transpose(&rows)
        }
    }
}
