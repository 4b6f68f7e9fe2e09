//! The inner loops: a few rows of one matrix times columns of another, with all sums in registers.

use crate::ops::simd::Lanes;

/// The most rows whose sums are held at a time.
const MAX_ROWS: usize = 4;
/// Columns that go together: the keys of a block, or as many values.
pub(super) const STRIP: usize = 16;

/// Rows of the left matrix and of the sums.
#[derive(Clone, Copy)]
pub(super) struct Operands {
    pub(super) left: *const f32,
    pub(super) left_stride: usize,
    pub(super) sums: *mut f32,
    pub(super) sums_stride: usize,
    pub(super) num_rows: usize,
}

/// `sums[r, 16 i + j] = Σ_k left[r, k] · right[i][k, j]` for every strip of 16 columns; `right[i]` has rows of 16.
///
/// # Safety
/// As for [`Lanes`]; all rows, `depth` elements of the left ones and all strips of the sums are there.
#[inline(always)]
pub(super) unsafe fn multiply_strips<V: Lanes>(
    operands: Operands,
    depth: usize,
    right: &[*const f32],
) {
    // SAFETY: promised by the caller.
    unsafe {
        let mut strip = 0;
        while strip < right.len() {
            let sums = operands.sums.add(strip * STRIP);
            let operands = Operands { sums, ..operands };
            if V::COUNT == STRIP && right.len() - strip >= 4 {
                let right = [
                    right[strip],
                    right[strip + 1],
                    right[strip + 2],
                    right[strip + 3],
                ];
                rows::<V, 4>(operands, depth, right, STRIP, true);
                strip += 4;
            } else {
                one_strip::<V>(operands, depth, right[strip], STRIP, true);
                strip += 1;
            }
        }
    }
}

/// `sums[r, c] += Σ_k left[r, k] · right[k, c]` for `num_cols` columns, a multiple of 16.
///
/// # Safety
/// As for [`Lanes`]; all rows and columns are there.
#[inline(always)]
pub(super) unsafe fn add_products<V: Lanes>(
    operands: Operands,
    depth: usize,
    right: *const f32,
    num_cols: usize,
) {
    // SAFETY: promised by the caller.
    unsafe {
        let mut col = 0;
        while col < num_cols {
            let sums = operands.sums.add(col);
            let operands = Operands { sums, ..operands };
            let right = right.add(col);
            if V::COUNT == STRIP && num_cols - col >= 4 * STRIP {
                let strips = [0, 1, 2, 3].map(|strip| right.add(strip * STRIP));
                rows::<V, 4>(operands, depth, strips, num_cols, false);
                col += 4 * STRIP;
            } else {
                one_strip::<V>(operands, depth, right, num_cols, false);
                col += STRIP;
            }
        }
    }
}

/// # Safety
/// As for `multiply_strips`.
#[inline(always)]
unsafe fn one_strip<V: Lanes>(
    operands: Operands,
    depth: usize,
    right: *const f32,
    right_stride: usize,
    is_first: bool,
) {
    // SAFETY: promised by the caller.
    unsafe {
        if V::COUNT == STRIP {
            rows::<V, 1>(operands, depth, [right], right_stride, is_first);
        } else {
            const { assert!(V::COUNT == STRIP || V::COUNT * 2 == STRIP) };
            let halves = [right, right.add(V::COUNT)];
            rows::<V, 2>(operands, depth, halves, right_stride, is_first);
        }
    }
}

/// All rows, a few at a time.
///
/// # Safety
/// As for `multiply_strips`.
#[inline(always)]
unsafe fn rows<V: Lanes, const N: usize>(
    operands: Operands,
    depth: usize,
    right: [*const f32; N],
    right_stride: usize,
    is_first: bool,
) {
    let mut row = 0;
    while row < operands.num_rows {
        let count = (operands.num_rows - row).min(MAX_ROWS);
        // SAFETY: promised by the caller.
        unsafe {
            let operands = Operands {
                left: operands.left.add(row * operands.left_stride),
                sums: operands.sums.add(row * operands.sums_stride),
                ..operands
            };
            match count {
                1 => tile::<V, 1, N>(operands, depth, right, right_stride, is_first),
                2 => tile::<V, 2, N>(operands, depth, right, right_stride, is_first),
                3 => tile::<V, 3, N>(operands, depth, right, right_stride, is_first),
                _ => tile::<V, 4, N>(operands, depth, right, right_stride, is_first),
            }
        }
        row += count;
    }
}

/// `R` rows times `N` registers of columns.
///
/// # Safety
/// As for `multiply_strips`.
#[inline(always)]
unsafe fn tile<V: Lanes, const R: usize, const N: usize>(
    operands: Operands,
    depth: usize,
    right: [*const f32; N],
    right_stride: usize,
    is_first: bool,
) {
    // SAFETY: promised by the caller.
    unsafe {
        let mut sums = [[V::splat(0.0); N]; R];
        if !is_first {
            for (r, sums) in sums.iter_mut().enumerate() {
                let from = operands.sums.add(r * operands.sums_stride);
                for (n, sum) in sums.iter_mut().enumerate() {
                    *sum = V::load_f32(from.add(n * V::COUNT));
                }
            }
        }
        for k in 0..depth {
            let columns = right.map(
                #[inline(always)]
                |right| V::load_f32(right.add(k * right_stride)),
            );
            for (r, sums) in sums.iter_mut().enumerate() {
                let left = V::splat(*operands.left.add(r * operands.left_stride + k));
                for (sum, column) in sums.iter_mut().zip(columns) {
                    *sum = sum.add_product(left, column);
                }
            }
        }
        for (r, sums) in sums.iter().enumerate() {
            let to = operands.sums.add(r * operands.sums_stride);
            for (n, sum) in sums.iter().enumerate() {
                sum.store(to.add(n * V::COUNT));
            }
        }
    }
}
