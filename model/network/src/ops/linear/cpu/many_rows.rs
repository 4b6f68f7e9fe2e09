//! Many rows of x: the packed product. x is packed once per call into panels of a few rows; each task packs a block of
//! weight rows, widened and turned so that outputs lie side by side in a register, and runs all panels of x over it, one
//! block of the depth after the other.

use super::{
    BLOCK_DEPTH, Block, Product, blocks,
    scratch::{Scratch, new_scratch, with_scratch},
};
use crate::{
    device::CpuDevice,
    ops::simd::{InstructionSet, Kernel, Lanes, MAX_LANES, Weight},
};

/// Columns of a block: packed weights of a block stay in the second cache.
const BLOCK_COLS: usize = 256;
/// Up to so many rows, packed weights are used so little that they must not leave the nearest cache: a block has the columns of
/// one panel.
const NUM_SOME_ROWS: usize = 48;
/// Rows of x that are packed together; the weights are read and packed once for each such block.
const BLOCK_ROWS: usize = 504;
/// Registers of outputs side by side.
const PANEL_REGISTERS: usize = 2;
const MAX_PANEL_ROWS: usize = 12;
const MAX_PANEL_COLS: usize = PANEL_REGISTERS * MAX_LANES;

/// Rows in a panel of x, by the number of registers that a form has.
const fn panel_rows(num_registers: usize) -> usize {
    match num_registers {
        32.. => 12,
        16.. => 6,
        _ => 4,
    }
}

thread_local! {
    static PACKED_ROWS: Scratch = new_scratch();
    static PACKED_WEIGHTS: Scratch = new_scratch();
}

pub(super) fn multiply<W: Weight>(
    device: &CpuDevice,
    set: InstructionSet,
    product: &Product<'_, W>,
) {
    let panel_rows = panel_rows(set.num_registers());
    let step = match product.num_rows {
        0..=NUM_SOME_ROWS => MAX_PANEL_COLS,
        _ => block_cols(device, product.num_cols),
    };
    for first_row in (0..product.num_rows).step_by(BLOCK_ROWS) {
        let num_rows = BLOCK_ROWS.min(product.num_rows - first_row);
        let x = &product.x[first_row * product.depth..][..num_rows * product.depth];
        let packed_len = num_rows.next_multiple_of(panel_rows) * product.depth;
        with_scratch(&PACKED_ROWS, packed_len, |packed: &mut [f32]| {
            pack_rows(device, x, product.depth, panel_rows, packed);
            device.parallel_for(product.num_cols.div_ceil(step), |task| {
                let (start, end) = (task * step, product.num_cols.min((task + 1) * step));
                let num_packed = (end - start).next_multiple_of(MAX_PANEL_COLS) * BLOCK_DEPTH;
                with_scratch(&PACKED_WEIGHTS, num_packed, |weights: &mut [f32]| {
                    set.run(Columns {
                        product,
                        packed,
                        first_row,
                        num_rows,
                        start,
                        end,
                        weights,
                    });
                });
            });
        });
    }
}

/// Fewer columns for a task when there would be too few tasks to go round.
fn block_cols(device: &CpuDevice, num_cols: usize) -> usize {
    let fair = num_cols
        .div_ceil(device.num_threads() * 4)
        .next_multiple_of(MAX_PANEL_COLS);
    fair.clamp(MAX_PANEL_COLS, BLOCK_COLS)
}

/// Panels of `panel_rows` rows each, element after element of the depth; rows beyond the last are zero.
fn pack_rows(device: &CpuDevice, x: &[f32], depth: usize, panel_rows: usize, packed: &mut [f32]) {
    /// Elements of each row taken at a time, so that reads and writes both stay in a few cache lines.
    const STEP: usize = 32;
    let panel_len = panel_rows * depth.max(1);
    device.parallel_chunks_mut(packed, panel_len, |panel, packed| {
        let rows = &x[panel * panel_len..];
        let num_rows = panel_rows.min(rows.len() / depth.max(1));
        if num_rows < panel_rows {
            packed.fill(0.0);
        }
        for (index, packed) in packed.chunks_mut(STEP * panel_rows).enumerate() {
            for (r, row) in rows.chunks_exact(depth).take(num_rows).enumerate() {
                let values = row[index * STEP..].iter();
                packed[r..]
                    .iter_mut()
                    .step_by(panel_rows)
                    .zip(values)
                    .for_each(|(to, &value)| *to = value);
            }
        }
    });
}

/// Outputs of the rows of one block for the columns `start..end`.
struct Columns<'a, W> {
    product: &'a Product<'a, W>,
    packed: &'a [f32],
    first_row: usize,
    num_rows: usize,
    start: usize,
    end: usize,
    /// Room for the packed weights of a block.
    weights: &'a mut [f32],
}

impl<W: Weight> Kernel for Columns<'_, W> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<V: Lanes>(mut self) {
        for block in blocks(self.product.depth) {
            // SAFETY: the set is promised by the caller, and `weights` has room for the block.
            unsafe {
                self.pack::<V>(&block);
                self.multiply_block::<V>(&block);
            }
        }
    }
}

impl<W: Weight> Columns<'_, W> {
    /// Packs the weights of a block: panels of `panel_cols` columns, element after element of the depth.
    ///
    /// # Safety
    /// As for [`Lanes`]; `weights` has room for all columns, rounded up to whole panels, times the depth of the block.
    #[inline(always)]
    unsafe fn pack<V: Lanes>(&mut self, block: &Block) {
        let panel_cols = PANEL_REGISTERS * V::COUNT;
        for (panel, col) in (self.start..self.end).step_by(panel_cols).enumerate() {
            for part in 0..PANEL_REGISTERS {
                let offset = panel * panel_cols * block.depth + part * V::COUNT;
                // SAFETY: promised by the caller.
                unsafe { self.pack_strip::<V>(block, col + part * V::COUNT, offset) };
            }
        }
    }

    /// Packs `V::COUNT` columns from `col`; those beyond the end become zero.
    ///
    /// # Safety
    /// As for `pack`.
    #[inline(always)]
    unsafe fn pack_strip<V: Lanes>(&mut self, block: &Block, col: usize, offset: usize) {
        let packed = &mut self.weights[offset..];
        let stride = PANEL_REGISTERS * V::COUNT;
        let Product { w, depth, .. } = self.product;
        let num_cols = self.end.saturating_sub(col).min(V::COUNT);
        let has_next = block.first + BLOCK_DEPTH < *depth;
        let mut rows = [unsafe { V::splat(0.0) }; MAX_LANES];
        let mut at = 0;
        while at < block.depth {
            let count = V::COUNT.min(block.depth - at);
            // SAFETY: columns below `end` are rows of w, and the block is within their depth; a whole square of lanes is
            // stored only where the block goes on for as many elements, or goes by way of `square`.
            unsafe {
                for (c, row) in rows[..num_cols].iter_mut().enumerate() {
                    let from = w.as_ptr().add((col + c) * depth + block.first + at);
                    if has_next {
                        V::prefetch(from.wrapping_add(BLOCK_DEPTH).cast());
                    }
                    *row = if count == V::COUNT {
                        W::load(from)
                    } else {
                        W::load_first(from, count)
                    };
                }
                if count == V::COUNT {
                    V::store_transposed(&rows, packed.as_mut_ptr().add(at * stride), stride);
                } else {
                    let mut square = [0.0; MAX_LANES * MAX_LANES];
                    V::store_transposed(&rows, square.as_mut_ptr(), V::COUNT);
                    for (element, lanes) in square.chunks(V::COUNT).take(count).enumerate() {
                        packed[(at + element) * stride..][..V::COUNT].copy_from_slice(lanes);
                    }
                }
            }
            at += V::COUNT;
        }
    }

    /// # Safety
    /// As for [`Lanes`]; `weights` holds those of the block.
    #[inline(always)]
    unsafe fn multiply_block<V: Lanes>(&self, block: &Block) {
        let panel_cols = PANEL_REGISTERS * V::COUNT;
        let panel_rows = panel_rows(V::NUM_REGISTERS);
        let depth = self.product.depth;
        for row in (0..self.num_rows).step_by(panel_rows) {
            let x = self.packed[row * depth + block.first * panel_rows..].as_ptr();
            let height = panel_rows.min(self.num_rows - row);
            for (panel, col) in (self.start..self.end).step_by(panel_cols).enumerate() {
                let w = self.weights[panel * panel_cols * block.depth..].as_ptr();
                let place = Place {
                    row: self.first_row + row,
                    height,
                    col,
                    width: panel_cols.min(self.end - col),
                };
                // SAFETY: promised by the caller; a panel of x holds `panel_rows` values for each element of the depth.
                unsafe {
                    match (panel_rows, height) {
                        (12, 9..) => self.multiply_panels::<V, 12, 12>(x, w, block, &place),
                        (12, 5..) => self.multiply_panels::<V, 12, 8>(x, w, block, &place),
                        (12, _) => self.multiply_panels::<V, 12, 4>(x, w, block, &place),
                        (6, 4..) => self.multiply_panels::<V, 6, 6>(x, w, block, &place),
                        (6, _) => self.multiply_panels::<V, 6, 3>(x, w, block, &place),
                        _ => self.multiply_panels::<V, 4, 4>(x, w, block, &place),
                    }
                }
            }
        }
    }

    /// Multiplies two panels: the first `ROWS` of the `PANEL` rows of x, which are all that there are.
    ///
    /// # Safety
    /// As for `multiply_block`; `x` and `w` are panels, and the place is not higher than `ROWS`.
    #[inline(always)]
    unsafe fn multiply_panels<V: Lanes, const PANEL: usize, const ROWS: usize>(
        &self,
        x: *const f32,
        w: *const f32,
        block: &Block,
        place: &Place,
    ) {
        // SAFETY: the panels hold `block.depth` elements, and the place is within the product.
        unsafe {
            let mut sums = [[V::splat(0.0); PANEL_REGISTERS]; ROWS];
            for at in 0..block.depth {
                let weights: [V; PANEL_REGISTERS] = std::array::from_fn(|part| {
                    V::load_f32(w.add((at * PANEL_REGISTERS + part) * V::COUNT))
                });
                for (r, sums) in sums.iter_mut().enumerate() {
                    let x = V::splat(*x.add(at * PANEL + r));
                    for part in 0..PANEL_REGISTERS {
                        sums[part] = sums[part].add_product(x, weights[part]);
                    }
                }
            }
            // By way of memory, so that the loop over registers is unrolled and they remain registers.
            let mut outputs = [0.0; MAX_PANEL_ROWS * MAX_PANEL_COLS];
            for r in 0..ROWS {
                for part in 0..PANEL_REGISTERS {
                    sums[r][part].store(
                        outputs
                            .as_mut_ptr()
                            .add((r * PANEL_REGISTERS + part) * V::COUNT),
                    );
                }
            }
            self.write::<V>(&outputs, place, block.first == 0);
        }
    }

    /// Adds one part of the outputs of two panels.
    ///
    /// # Safety
    /// As for `multiply_panels`.
    #[inline(always)]
    unsafe fn write<V: Lanes>(
        &self,
        outputs: &[f32; MAX_PANEL_ROWS * MAX_PANEL_COLS],
        place: &Place,
        is_first: bool,
    ) {
        let panel_cols = PANEL_REGISTERS * V::COUNT;
        for r in 0..place.height {
            for part in 0..PANEL_REGISTERS {
                let count = place.width.saturating_sub(part * V::COUNT).min(V::COUNT);
                let (row, col) = (place.row + r, place.col + part * V::COUNT);
                // SAFETY: the place is within the product.
                unsafe {
                    let sum = V::load_f32(outputs.as_ptr().add(r * panel_cols + part * V::COUNT));
                    if count > 0 {
                        self.product.target.add(row, col, sum, is_first, count);
                    }
                }
            }
        }
    }
}

/// Where the outputs of two panels go.
struct Place {
    row: usize,
    height: usize,
    col: usize,
    width: usize,
}
