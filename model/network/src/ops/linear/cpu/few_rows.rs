//! A few rows of x against weights read straight from where they lie: dot products along both rows. A strip of weight
//! rows goes through the registers together with a tile of x rows, packed so that they lie in one piece in the near
//! caches; each weight comes from memory once and is widened in its register. One output is one register of partial sums,
//! whatever the tile, so a row gives the same bits in any company.

use std::ops::Range;

use super::{
    Product, cols_per_task,
    scratch::{Scratch, new_scratch, with_scratch},
};
use crate::{
    device::CpuDevice,
    ops::{
        parallel::SharedPointer,
        simd::{InstructionSet, Kernel, Lanes, Weight},
    },
};

/// The most weight rows in a strip.
const MAX_STRIP: usize = 8;
/// Packed x of one block of the depth stays in the nearest cache, with room to spare for the weights that pass.
const BLOCK_BYTES: usize = 24 << 10;
const CACHE_LINE: usize = 64;

thread_local! {
    static PACKED_ROWS: Scratch = new_scratch();
    static SUMS: Scratch = new_scratch();
}

pub(super) fn multiply<W: Weight>(
    device: &CpuDevice,
    set: InstructionSet,
    product: &Product<'_, W>,
) {
    let tiling = Tiling::new(set, product.num_rows, product.depth);
    if product.num_rows == 1 && tiling.padded_depth == product.depth {
        // Packing would change nothing.
        return multiply_packed(device, set, product, &tiling, product.x);
    }
    with_scratch(
        &PACKED_ROWS,
        product.num_rows * tiling.padded_depth,
        |packed: &mut [f32]| {
            tiling.pack(device, product, packed);
            multiply_packed(device, set, product, &tiling, packed);
        },
    );
}

fn multiply_packed<W: Weight>(
    device: &CpuDevice,
    set: InstructionSet,
    product: &Product<'_, W>,
    tiling: &Tiling,
    packed: &[f32],
) {
    let step = cols_per_task(
        device,
        product.num_cols,
        product.depth * size_of::<W>(),
        MAX_STRIP,
    );
    device.parallel_for(product.num_cols.div_ceil(step), |task| {
        let (start, end) = (task * step, product.num_cols.min((task + 1) * step));
        let num_sums = (end - start) * product.num_rows * tiling.num_lanes;
        with_scratch(&SUMS, num_sums, |sums: &mut [f32]| {
            set.run(Columns {
                product,
                tiling,
                packed,
                start,
                end,
                sums,
            });
        });
    });
}

/// How the rows of x are cut into tiles, whose heights differ by one at most. A packed tile holds, for each register's
/// worth of the depth, that part of all its rows; beyond the depth there are zeros.
struct Tiling {
    num_rows: usize,
    num_tiles: usize,
    num_lanes: usize,
    padded_depth: usize,
}

impl Tiling {
    fn new(set: InstructionSet, num_rows: usize, depth: usize) -> Self {
        let tallest = if set.num_registers() >= 16 { 6 } else { 2 };
        let num_lanes = set.num_lanes();
        Self {
            num_rows,
            num_tiles: num_rows.div_ceil(tallest),
            num_lanes,
            padded_depth: depth.next_multiple_of(num_lanes),
        }
    }

    fn tile(&self, tile: usize) -> Range<usize> {
        self.num_rows * tile / self.num_tiles..self.num_rows * (tile + 1) / self.num_tiles
    }

    /// Parts of the depth, each of whole cache lines but the last. One row is not cut: its sums would be stored as often
    /// as its weights are loaded.
    fn blocks(&self, depth: usize) -> impl Iterator<Item = Range<usize>> + use<> {
        let fitting = BLOCK_BYTES / size_of::<f32>() / self.num_rows.max(1);
        let step = if self.num_rows == 1 {
            depth.max(1)
        } else {
            fitting.next_multiple_of(CACHE_LINE)
        };
        (0..depth.max(1))
            .step_by(step)
            .map(move |start| start..depth.min(start + step))
    }

    fn tallest(&self) -> usize {
        self.num_rows.div_ceil(self.num_tiles.max(1))
    }

    fn pack<W>(&self, device: &CpuDevice, product: &Product<'_, W>, packed: &mut [f32]) {
        let Product {
            x, num_rows, depth, ..
        } = *product;
        assert_eq!(packed.len(), num_rows * self.padded_depth);
        let packed = SharedPointer(packed.as_mut_ptr());
        device.parallel_for(num_rows, |row| {
            let tile = (0..self.num_tiles)
                .map(|tile| self.tile(tile))
                .find(|tile| tile.contains(&row));
            let tile = tile.expect("the tiles cover all rows");
            let stride = tile.len() * self.num_lanes;
            let start = tile.start * self.padded_depth + (row - tile.start) * self.num_lanes;
            for (index, values) in x[row * depth..][..depth].chunks(self.num_lanes).enumerate() {
                // SAFETY: a tile has `padded_depth` values for each of its rows, and this part of it belongs to this row.
                unsafe {
                    let to = packed.get().add(start + index * stride);
                    to.copy_from_nonoverlapping(values.as_ptr(), values.len());
                    to.add(values.len())
                        .write_bytes(0, self.num_lanes - values.len());
                }
            }
        });
    }
}

/// Outputs of all rows for the columns `start..end`.
struct Columns<'a, W> {
    product: &'a Product<'a, W>,
    tiling: &'a Tiling,
    packed: &'a [f32],
    start: usize,
    end: usize,
    /// Sums between two blocks of the depth: a register for each row of each column.
    sums: &'a mut [f32],
}

impl<W: Weight> Kernel for Columns<'_, W> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<V: Lanes>(self) {
        let widest = strip_width::<V>(self.tiling.tallest());
        for block in self.tiling.blocks(self.product.depth) {
            let mut col = self.start;
            while col < self.end {
                let strip = if self.end - col < widest { 1 } else { widest };
                // What is worked on next, to be asked for meanwhile.
                let next = if col + strip < self.end {
                    (col + strip, block.start)
                } else {
                    (self.start, block.end)
                };
                for tile in 0..self.tiling.num_tiles {
                    let sums = self
                        .sums
                        .as_mut_ptr()
                        .wrapping_add((col - self.start) * self.tiling.num_rows * V::COUNT);
                    let part = Part {
                        col,
                        tile,
                        block: block.clone(),
                        next,
                        sums,
                    };
                    // SAFETY: the set is promised by the caller, and the part is within the product.
                    unsafe { self.part::<V>(strip, &part) };
                }
                col += strip;
            }
        }
    }
}

/// A strip of columns from `col`, a tile of rows and a block of the depth.
struct Part {
    col: usize,
    tile: usize,
    block: Range<usize>,
    /// Column and depth where the next strip begins.
    next: (usize, usize),
    /// Where the strip's sums are kept between blocks.
    sums: *mut f32,
}

/// How many weight rows to take together, so that sums and operands fit in the registers.
#[inline(always)]
fn strip_width<V: Lanes>(tile_height: usize) -> usize {
    match (V::NUM_REGISTERS, tile_height) {
        (_, 0..=1) => 8,
        (32.., 2) => 8,
        (32.., _) => 4,
        (16.., 2) => 4,
        _ => 2,
    }
}

impl<W: Weight> Columns<'_, W> {
    /// # Safety
    /// As for [`Lanes`]; the strip is one that `strip_width` gives for this tile or one that is higher by one, or 1.
    #[inline(always)]
    unsafe fn part<V: Lanes>(&self, strip: usize, part: &Part) {
        // SAFETY: promised by the caller.
        unsafe {
            match (strip, self.tiling.tile(part.tile).len()) {
                (8, 1) => self.dots::<V, 8, 1>(part),
                (8, 2) if V::NUM_REGISTERS >= 32 => self.dots::<V, 8, 2>(part),
                (4, 2) if V::NUM_REGISTERS >= 16 => self.dots::<V, 4, 2>(part),
                (2, 1) => self.dots::<V, 2, 1>(part),
                (2, 2) => self.dots::<V, 2, 2>(part),
                (1, 1) => self.dots::<V, 1, 1>(part),
                (1, 2) => self.dots::<V, 1, 2>(part),
                _ if V::NUM_REGISTERS >= 16 => self.tall_part::<V>(strip, part),
                _ => unreachable!("tiles are one or two rows high"),
            }
        }
    }

    /// # Safety
    /// As for `part`.
    #[inline(always)]
    unsafe fn tall_part<V: Lanes>(&self, strip: usize, part: &Part) {
        // SAFETY: promised by the caller.
        unsafe {
            match (strip, self.tiling.tile(part.tile).len()) {
                (4, 3) if V::NUM_REGISTERS >= 32 => self.dots::<V, 4, 3>(part),
                (4, 4) if V::NUM_REGISTERS >= 32 => self.dots::<V, 4, 4>(part),
                (4, 5) if V::NUM_REGISTERS >= 32 => self.dots::<V, 4, 5>(part),
                (4, 6) if V::NUM_REGISTERS >= 32 => self.dots::<V, 4, 6>(part),
                (2, 3) => self.dots::<V, 2, 3>(part),
                (2, 4) => self.dots::<V, 2, 4>(part),
                (2, 5) => self.dots::<V, 2, 5>(part),
                (2, 6) => self.dots::<V, 2, 6>(part),
                (1, 3) => self.dots::<V, 1, 3>(part),
                (1, 4) => self.dots::<V, 1, 4>(part),
                (1, 5) => self.dots::<V, 1, 5>(part),
                (1, 6) => self.dots::<V, 1, 6>(part),
                (strip, height) => unreachable!("no strip of {strip} with a tile of {height}"),
            }
        }
    }

    /// Adds the products of one part: `COLS` columns and `ROWS` rows.
    ///
    /// # Safety
    /// As for [`Lanes`]; the part is within the product.
    #[inline(always)]
    unsafe fn dots<V: Lanes, const COLS: usize, const ROWS: usize>(&self, part: &Part) {
        let Product { w, depth, .. } = self.product;
        let depth = *depth;
        let Range { start, end } = part.block;
        let rows = self.tiling.tile(part.tile);
        let line = CACHE_LINE / size_of::<W>();
        let (lines, whole) = (end - (end - start) % line, end - (end - start) % V::COUNT);
        // The next strip is asked for while this one is worked on, a cache line of each of its rows at a time. The tiles
        // of a strip take turns, so that memory is busy through all of them.
        let num_turns = self.tiling.num_tiles;
        let mut turn = part.tile;
        let next = w
            .as_ptr()
            .wrapping_add(part.next.0 * depth + part.next.1)
            .wrapping_sub(start);
        // SAFETY: w has `COLS` rows from the part's column, each of `depth` elements; the packed tile has `ROWS` registers
        // for each register's worth of them. Prefetches may go anywhere.
        unsafe {
            let w = w.as_ptr().add(part.col * depth);
            let mut x = self
                .packed
                .as_ptr()
                .add(rows.start * self.tiling.padded_depth + ROWS * start);
            let mut sums: Sums<V, COLS, ROWS> = self.first_sums(part);
            let mut at = start;
            while at < lines {
                if turn == 0 {
                    for c in 0..COLS {
                        V::prefetch(next.wrapping_add(c * depth + at).cast());
                    }
                    turn = num_turns;
                }
                turn -= 1;
                let mut lane = 0;
                while lane < line {
                    sums = add(
                        sums,
                        std::array::from_fn(|c| W::load(w.add(c * depth + at + lane))),
                        x,
                    );
                    x = x.add(ROWS * V::COUNT);
                    lane += V::COUNT;
                }
                at += line;
            }
            while at < whole {
                sums = add(
                    sums,
                    std::array::from_fn(|c| W::load(w.add(c * depth + at))),
                    x,
                );
                x = x.add(ROWS * V::COUNT);
                at += V::COUNT;
            }
            if at < end {
                sums = add(
                    sums,
                    std::array::from_fn(|c| W::load_first(w.add(c * depth + at), end - at)),
                    x,
                );
            }
            self.keep_or_write(part, sums);
        }
    }

    /// Zero at the first block; what was kept after the last one at any other.
    ///
    /// # Safety
    /// As for `dots`.
    #[inline(always)]
    unsafe fn first_sums<V: Lanes, const COLS: usize, const ROWS: usize>(
        &self,
        part: &Part,
    ) -> Sums<V, COLS, ROWS> {
        let mut sums = [[unsafe { V::splat(0.0) }; ROWS]; COLS];
        let kept = self.kept(part);
        if part.block.start > 0 {
            for c in 0..COLS {
                for r in 0..ROWS {
                    // SAFETY: a register is kept for each row of each column of the strip.
                    sums[c][r] =
                        unsafe { V::load_f32(kept.start.add(c * kept.stride + r * V::COUNT)) };
                }
            }
        }
        sums
    }

    /// Keeps the sums; after the last block, writes the outputs.
    ///
    /// # Safety
    /// As for `dots`.
    #[inline(always)]
    unsafe fn keep_or_write<V: Lanes, const COLS: usize, const ROWS: usize>(
        &self,
        part: &Part,
        sums: Sums<V, COLS, ROWS>,
    ) {
        let kept = self.kept(part);
        // The loop over registers does nothing else, so that it is unrolled and they remain registers.
        for c in 0..COLS {
            for r in 0..ROWS {
                // SAFETY: as for `first_sums`.
                unsafe { sums[c][r].store(kept.start.add(c * kept.stride + r * V::COUNT)) };
            }
        }
        if part.block.end < self.product.depth {
            return;
        }
        let row = self.tiling.tile(part.tile).start;
        for c in 0..COLS {
            for r in 0..ROWS {
                // SAFETY: as for `first_sums`; this task has the columns to itself.
                unsafe {
                    let sum = V::load_f32(kept.start.add(c * kept.stride + r * V::COUNT)).sum();
                    self.product.target.write(row + r, part.col + c, sum);
                }
            }
        }
    }

    #[inline(always)]
    fn kept(&self, part: &Part) -> Kept {
        let first_row = self.tiling.tile(part.tile).start;
        let start = part.sums.wrapping_add(first_row * self.tiling.num_lanes);
        Kept {
            start,
            stride: self.tiling.num_rows * self.tiling.num_lanes,
        }
    }
}

/// Where the sums of a strip and a tile are kept between blocks: a register for each row, columns `stride` apart.
struct Kept {
    start: *mut f32,
    stride: usize,
}

/// The sums of a strip and a tile.
type Sums<V, const COLS: usize, const ROWS: usize> = [[V; ROWS]; COLS];

/// Adds the products of registers of weights with one register of each row.
///
/// # Safety
/// As for [`Lanes`]; `x` is good for `ROWS` registers.
#[inline(always)]
unsafe fn add<V: Lanes, const COLS: usize, const ROWS: usize>(
    mut sums: Sums<V, COLS, ROWS>,
    weights: [V; COLS],
    x: *const f32,
) -> Sums<V, COLS, ROWS> {
    for r in 0..ROWS {
        // SAFETY: promised by the caller.
        unsafe {
            let x = V::load_f32(x.add(r * V::COUNT));
            for c in 0..COLS {
                sums[c][r] = sums[c][r].add_product(weights[c], x);
            }
        }
    }
    sums
}
