//! A few rows of x against weights read straight from where they lie. Each register's worth of weight rows is turned in
//! small squares, so that their outputs lie side by side in a register, and each square serves all rows of x at once: a
//! weight comes from memory once and is widened once. Sums are taken in the order of [`many_rows`](super::many_rows), to
//! the bit: one element of the depth after the other, and one block of it after the other.

use super::{Block, LINES_AHEAD, Product, ahead, blocks, cols_per_task};
use crate::{
    device::CpuDevice,
    ops::simd::{InstructionSet, Kernel, Lanes, MAX_LANES, Weight},
};

const CACHE_LINE: usize = 64;

/// Up to so many rows their sums fit in the registers beside a square of weights.
pub(super) const fn max_rows(num_registers: usize) -> usize {
    match num_registers {
        32.. => 8,
        _ => 4,
    }
}

/// There must be [`max_rows`] rows at most.
pub(super) fn multiply<W: Weight>(
    device: &CpuDevice,
    set: InstructionSet,
    product: &Product<'_, W>,
) {
    let bytes_per_col = product.depth * size_of::<W>();
    let step = cols_per_task(device, product.num_cols, bytes_per_col, MAX_LANES);
    device.parallel_for(product.num_cols.div_ceil(step), |task| {
        let (start, end) = (task * step, product.num_cols.min((task + 1) * step));
        set.run(Columns {
            product,
            start,
            end,
        });
    });
}

/// Outputs of all rows for the columns `start..end`.
struct Columns<'a, W> {
    product: &'a Product<'a, W>,
    start: usize,
    end: usize,
}

impl<W: Weight> Kernel for Columns<'_, W> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<V: Lanes>(self) {
        let num_rows = self.product.num_rows;
        for col in (self.start..self.end).step_by(V::COUNT) {
            // SAFETY: the set is promised by the caller; the product has as many rows as its form says, and the columns from
            // `col` on.
            unsafe {
                match num_rows {
                    0 => {}
                    1 => self.strip::<V, 1>(col),
                    2 => self.strip::<V, 2>(col),
                    3 => self.strip::<V, 3>(col),
                    4 => self.strip::<V, 4>(col),
                    5 if V::NUM_REGISTERS >= 32 => self.strip::<V, 5>(col),
                    6 if V::NUM_REGISTERS >= 32 => self.strip::<V, 6>(col),
                    7 if V::NUM_REGISTERS >= 32 => self.strip::<V, 7>(col),
                    8 if V::NUM_REGISTERS >= 32 => self.strip::<V, 8>(col),
                    more => unreachable!("{more} rows are not few"),
                }
            }
        }
    }
}

impl<W: Weight> Columns<'_, W> {
    /// Outputs for a register's worth of columns.
    ///
    /// # Safety
    /// As for [`Lanes`]; the product has `ROWS` rows, and `col` is below `end`.
    #[inline(always)]
    unsafe fn strip<V: Lanes, const ROWS: usize>(&self, col: usize) {
        let Product { depth, target, .. } = self.product;
        let count = (self.end - col).min(V::COUNT);
        for block in blocks(*depth) {
            // SAFETY: promised by the caller; the block is within the depth.
            unsafe {
                let sums: [V; ROWS] = self.block_sums(col, &block);
                for (row, sum) in sums.into_iter().enumerate() {
                    target.add(row, col, sum, block.first == 0, count);
                }
            }
        }
    }

    /// # Safety
    /// As for `strip`; the block is within the depth.
    #[inline(always)]
    unsafe fn block_sums<V: Lanes, const ROWS: usize>(
        &self,
        col: usize,
        block: &Block,
    ) -> [V; ROWS] {
        let Product { x, depth, .. } = self.product;
        let mut sums = [unsafe { V::splat(0.0) }; ROWS];
        let mut square = [0.0; MAX_LANES * MAX_LANES];
        let mut at = 0;
        while at < block.depth {
            let (element, count) = (block.first + at, V::COUNT.min(block.depth - at));
            // SAFETY: promised by the caller; x has `ROWS` rows of the whole depth, a square has `V::COUNT` rows.
            unsafe {
                self.turn::<V>(col, element, count, &mut square);
                let x = x.as_ptr().add(element);
                if count == V::COUNT {
                    // A loop of known length, which is unrolled.
                    for k in 0..V::COUNT {
                        sums = add(sums, &square, x, *depth, k);
                    }
                } else {
                    for k in 0..count {
                        sums = add(sums, &square, x, *depth, k);
                    }
                }
            }
            at += V::COUNT;
        }
        sums
    }

    /// Turns a square of weights: `count` elements of the columns from `col` on, those beyond the end as zero. Those
    /// further on are asked for meanwhile.
    ///
    /// # Safety
    /// As for `strip`; the elements are within the depth.
    #[inline(always)]
    unsafe fn turn<V: Lanes>(
        &self,
        col: usize,
        element: usize,
        count: usize,
        square: &mut [f32; MAX_LANES * MAX_LANES],
    ) {
        let Product { w, depth, .. } = self.product;
        let num_cols = (self.end - col).min(V::COUNT);
        let from = w.as_ptr().wrapping_add(col * depth + element);
        let line = CACHE_LINE / size_of::<W>();
        let is_new_line = element.is_multiple_of(line);
        // SAFETY: promised by the caller. Prefetches may go anywhere.
        unsafe {
            let mut rows = [V::splat(0.0); MAX_LANES];
            if num_cols == V::COUNT && count == V::COUNT {
                for (c, row) in rows[..V::COUNT].iter_mut().enumerate() {
                    *row = W::load(from.add(c * depth));
                }
            } else {
                for (c, row) in rows[..num_cols].iter_mut().enumerate() {
                    *row = match count == V::COUNT {
                        true => W::load(from.add(c * depth)),
                        false => W::load_first(from.add(c * depth), count),
                    };
                }
            }
            V::store_transposed(&rows, square.as_mut_ptr(), V::COUNT);
            if is_new_line {
                let next = ahead(*depth, col, element, V::COUNT, LINES_AHEAD * line);
                for c in 0..V::COUNT {
                    V::prefetch(w.as_ptr().wrapping_add(next + c * depth).cast());
                }
            }
        }
    }
}

/// Adds the products with element `k` of the square.
///
/// # Safety
/// As for [`Lanes`]; `x` has `ROWS` rows, `stride` apart, of more than `k` elements, and the square has as many.
#[inline(always)]
unsafe fn add<V: Lanes, const ROWS: usize>(
    mut sums: [V; ROWS],
    square: &[f32; MAX_LANES * MAX_LANES],
    x: *const f32,
    stride: usize,
    k: usize,
) -> [V; ROWS] {
    // SAFETY: promised by the caller.
    unsafe {
        let weights = V::load_f32(square.as_ptr().add(k * V::COUNT));
        for (row, sum) in sums.iter_mut().enumerate() {
            let x = V::splat(*x.add(row * stride + k));
            *sum = sum.add_product(x, weights);
        }
    }
    sums
}
