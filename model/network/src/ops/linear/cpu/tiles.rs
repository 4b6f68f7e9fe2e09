//! bf16 weights on machines with AMX: its tile instruction multiplies bf16 by bf16 and sums in f32, at many times the rate
//! of vector code. Activations are not rounded for it: each f32 is cut into three bf16 pieces (8 bits of its 24 each) that
//! add up to it exactly, and the weights are multiplied by all three. Products of pieces are exact in f32, so the sums are
//! f32 sums as everywhere else (subnormal numbers count as zero).
//!
//! Weight tiles are read from where they lie, 16 rows by 32 elements; only x is packed. An output tile holds 16 columns
//! (its rows) by 16 rows of x.

use std::{arch::x86_64::*, ops::Range};

use half::bf16;

use super::{
    Product, cols_per_task,
    scratch::{Scratch, new_scratch, with_scratch},
};
use crate::{
    device::CpuDevice,
    ops::simd::{InstructionSet, Kernel, Lanes, MAX_LANES, transpose},
};

/// Rows and 32-bit columns of a tile.
pub(super) const SIDE: usize = 16;
/// Elements of the depth in one tile: two bf16 in each 32-bit column.
pub(super) const STEP: usize = 2 * SIDE;
const TILE_BYTES: usize = SIDE * SIDE * 4;
pub(super) const NUM_PIECES: usize = 3;
/// Bytes of packed x for one step of 16 rows.
const STEP_BYTES: usize = NUM_PIECES * TILE_BYTES;
/// Output tiles, one below the other, that share a tile of x.
const STRIP_TILES: usize = 4;
/// Columns that go together.
const STRIP: usize = STRIP_TILES * SIDE;
/// Columns of a task when there are many rows: more would meet in the same places of the second cache, since weight rows
/// are often a power of two apart.
const MANY_ROWS_COLS: usize = 4 * STRIP;
/// Rows of x in a block; the weights are read once for each block.
const BLOCK_ROWS: usize = 256;
/// Steps of a block of the depth, for one tile of x; fewer for more tiles, but at least `MIN_BLOCK_STEPS`, whose packed x
/// stays in the nearest cache.
const BLOCK_STEPS: usize = 64;
const MIN_BLOCK_STEPS: usize = 8;

thread_local! {
    static PACKED_ROWS: Scratch = new_scratch();
    static SUMS: Scratch = new_scratch();
    static PADDED_WEIGHTS: Scratch = new_scratch();
}

/// The set must be [`InstructionSet::Amx`].
pub(super) fn multiply(device: &CpuDevice, product: &Product<'_, bf16>) {
    for first in (0..product.num_rows).step_by(BLOCK_ROWS) {
        let num_rows = BLOCK_ROWS.min(product.num_rows - first);
        let rows = Rows {
            product,
            first,
            num_rows,
        };
        let num_steps = product.depth.div_ceil(STEP);
        with_scratch(
            &PACKED_ROWS,
            rows.num_tiles() * num_steps * STEP_BYTES,
            |packed: &mut [u8]| {
                rows.pack(device, packed);
                rows.multiply(device, packed);
            },
        );
    }
}

/// A block of rows of x, from `first`.
struct Rows<'a> {
    product: &'a Product<'a, bf16>,
    first: usize,
    num_rows: usize,
}

impl Rows<'_> {
    fn num_tiles(&self) -> usize {
        self.num_rows.div_ceil(SIDE)
    }

    /// Packed x: for each 16 rows, for each step of the depth, for each piece, one tile.
    fn pack(&self, device: &CpuDevice, packed: &mut [u8]) {
        const STEPS_PER_TASK: usize = 32;
        let num_steps = self.product.depth.div_ceil(STEP);
        let tasks_per_tile = num_steps.div_ceil(STEPS_PER_TASK).max(1);
        let tiles = crate::ops::parallel::SharedPointer(packed.as_mut_ptr());
        device.parallel_for(self.num_tiles() * tasks_per_tile, |task| {
            let (tile, first_step) = (
                task / tasks_per_tile,
                task % tasks_per_tile * STEPS_PER_TASK,
            );
            let last_step = num_steps.min(first_step + STEPS_PER_TASK);
            for step in first_step..last_step {
                // SAFETY: each step of each tile has a place of its own in `packed`, which is large enough for all; the
                // set has AVX-512.
                unsafe {
                    self.pack_step(
                        tile,
                        step,
                        tiles.get().add((tile * num_steps + step) * STEP_BYTES),
                    )
                };
            }
        });
    }

    /// # Safety
    /// The machine has AVX-512; `to` is good for `STEP_BYTES`.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
    unsafe fn pack_step(&self, tile: usize, step: usize, to: *mut u8) {
        let Product { x, depth, .. } = self.product;
        let num_rows = SIDE.min(self.num_rows - tile * SIDE);
        let count = STEP.min(depth - step * STEP);
        let mask = u32::MAX >> (STEP - count);
        let mut pieces = [[_mm512_setzero_si512(); SIDE]; NUM_PIECES];
        for row in 0..num_rows {
            let start = (self.first + tile * SIDE + row) * depth + step * STEP;
            // SAFETY: the mask keeps to the `count` elements that the row has from here.
            let (low, high) = unsafe {
                let from = x.as_ptr().add(start);
                let low = _mm512_maskz_loadu_ps(mask as u16, from);
                (
                    low,
                    _mm512_maskz_loadu_ps((mask >> SIDE) as u16, from.wrapping_add(SIDE)),
                )
            };
            let (low, high) = (cut(low), cut(high));
            for piece in 0..NUM_PIECES {
                pieces[piece][row] = upper_halves(low[piece], high[piece]);
            }
        }
        for (piece, rows) in pieces.iter().enumerate() {
            // SAFETY: the set is there; `to` has room for all pieces.
            unsafe {
                for (pair, columns) in transpose(rows).into_iter().enumerate() {
                    _mm512_storeu_si512(
                        to.add(piece * TILE_BYTES + pair * SIDE * 4).cast(),
                        columns,
                    );
                }
            }
        }
    }

    fn multiply(&self, device: &CpuDevice, packed: &[u8]) {
        let Product {
            num_cols, depth, ..
        } = *self.product;
        let most = if self.num_tiles() > 2 {
            MANY_ROWS_COLS
        } else {
            num_cols.max(1)
        };
        let step = cols_per_task(device, num_cols, depth * size_of::<bf16>(), STRIP).min(most);
        device.parallel_for(num_cols.div_ceil(step), |task| {
            let (start, end) = (task * step, num_cols.min((task + 1) * step));
            let columns = Columns {
                rows: self,
                packed,
                start,
                end,
            };
            let num_sums = (end - start).next_multiple_of(STRIP) * self.num_tiles() * SIDE;
            with_scratch(&SUMS, num_sums, |sums: &mut [f32]| {
                columns.sum(sums);
                InstructionSet::Amx.run(Write {
                    columns: &columns,
                    sums,
                });
            });
        });
    }
}

/// The three pieces of each lane, each in the upper half of its 32 bits. What is infinite or not a number is in the first.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
pub(super) fn cut(values: __m512) -> [__m512i; NUM_PIECES] {
    const INFINITE: i32 = 0x18;
    const NOT_A_NUMBER: i32 = 0x81;
    let upper = _mm512_set1_epi32(0xffff_0000_u32 as i32);
    let is_nan = _mm512_fpclass_ps_mask::<NOT_A_NUMBER>(values);
    let is_finite = !_mm512_fpclass_ps_mask::<{ INFINITE | NOT_A_NUMBER }>(values);
    let bits = _mm512_castps_si512(values);
    let first = _mm512_and_si512(bits, upper);
    let first = _mm512_mask_or_epi32(first, is_nan, first, _mm512_set1_epi32(0x7fc0_0000));
    let rest = _mm512_maskz_sub_ps(is_finite, values, _mm512_castsi512_ps(first));
    let second = _mm512_and_si512(_mm512_castps_si512(rest), upper);
    let third = _mm512_castps_si512(_mm512_sub_ps(rest, _mm512_castsi512_ps(second)));
    [first, second, third]
}

/// The upper 16 bits of the 32 lanes of both, in order.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
fn upper_halves(low: __m512i, high: __m512i) -> __m512i {
    let even = _mm512_set1_epi32(0x0002_0000);
    let base = _mm512_setr_epi32(1, 5, 9, 13, 17, 21, 25, 29, 33, 37, 41, 45, 49, 53, 57, 61);
    // Lane pairs (2i, 2i + 1) take halves 4i + 1 and 4i + 3.
    let indices = _mm512_add_epi32(_mm512_or_si512(base, _mm512_slli_epi32::<16>(base)), even);
    _mm512_permutex2var_epi16(low, indices, high)
}

/// Outputs of a block of rows for the columns `start..end`.
struct Columns<'a> {
    rows: &'a Rows<'a>,
    packed: &'a [u8],
    start: usize,
    end: usize,
}

/// A part of the depth, in steps.
struct Block {
    first_step: usize,
    num_steps: usize,
}

impl Columns<'_> {
    fn sums_per_strip(&self) -> usize {
        STRIP * self.rows.num_tiles() * SIDE
    }

    /// Sums the products: for each strip of columns, for each 16 rows, two tiles.
    fn sum(&self, sums: &mut [f32]) {
        sums.fill(0.0);
        // SAFETY: the set is `Amx`.
        unsafe { configure_tiles() };
        for block in self.blocks() {
            // All strips pass over the packed x of one tile while it is near.
            for tile in 0..self.rows.num_tiles() {
                for (strip, sums) in sums.chunks_mut(self.sums_per_strip()).enumerate() {
                    let sums = &mut sums[tile * STRIP * SIDE..][..STRIP * SIDE];
                    self.add_block(&block, tile, self.start + strip * STRIP, sums);
                }
            }
        }
        // SAFETY: as above; nothing is left in the tiles.
        unsafe { release_tiles() };
    }

    fn blocks(&self) -> impl Iterator<Item = Block> + use<> {
        let num_steps = self.rows.product.depth.div_ceil(STEP);
        let steps_per_block = (BLOCK_STEPS / self.rows.num_tiles()).max(MIN_BLOCK_STEPS);
        let first_steps = (0..num_steps).step_by(steps_per_block);
        first_steps.map(move |first_step| Block {
            first_step,
            num_steps: steps_per_block.min(num_steps - first_step),
        })
    }

    /// Adds a block's products of one tile of x to the sums of the strip of columns from `col`.
    fn add_block(&self, block: &Block, tile: usize, col: usize, sums: &mut [f32]) {
        let Product { w, depth, .. } = self.rows.product;
        let element = block.first_step * STEP;
        let num_whole = (depth - element).min(block.num_steps * STEP) / STEP;
        if self.end - col < STRIP {
            return self.add_padded(block, tile, col, sums);
        }
        let weights = Weights {
            start: w[col * depth + element..].as_ptr(),
            stride: *depth,
            next: self.next_weights(block, col),
            num_next: self.share_of_next(tile),
        };
        self.add_steps(&weights, tile, block.first_step, num_whole, sums);
        if num_whole < block.num_steps {
            let last = Block {
                first_step: block.first_step + num_whole,
                num_steps: 1,
            };
            self.add_padded(&last, tile, col, sums);
        }
    }

    /// Where the weights lie that are worked on after those of this strip and block.
    fn next_weights(&self, block: &Block, col: usize) -> *const bf16 {
        let Product { w, depth, .. } = self.rows.product;
        let (col, step) = match col + STRIP < self.end {
            true => (col + STRIP, block.first_step),
            false => (self.start, block.first_step + block.num_steps),
        };
        w.as_ptr().wrapping_add(col * depth + step * STEP)
    }

    /// The tiles of x take turns in asking for the next weights: how many groups of four rows this one asks for.
    fn share_of_next(&self, tile: usize) -> Range<usize> {
        const NUM_GROUPS: usize = STRIP / 4;
        let num_tiles = self.rows.num_tiles();
        NUM_GROUPS * tile / num_tiles..NUM_GROUPS * (tile + 1) / num_tiles
    }

    /// As `add_block`, by way of a copy with zeros for missing columns and beyond the depth.
    fn add_padded(&self, block: &Block, tile: usize, col: usize, sums: &mut [f32]) {
        let Product { w, depth, .. } = self.rows.product;
        let stride = block.num_steps * STEP;
        let element = block.first_step * STEP;
        let count = stride.min(depth - element);
        with_scratch(&PADDED_WEIGHTS, STRIP * stride, |padded: &mut [u16]| {
            padded.fill(0);
            for (col, row) in (col..self.end).zip(padded.chunks_mut(stride)) {
                row[..count]
                    .copy_from_slice(bytemuck::cast_slice(&w[col * depth + element..][..count]));
            }
            let start = padded.as_ptr().cast();
            let weights = Weights {
                start,
                stride,
                next: start,
                num_next: 0..0,
            };
            self.add_steps(&weights, tile, block.first_step, block.num_steps, sums);
        });
    }

    /// Adds the products of `num_steps` steps with one tile of x. The weights have `STRIP` rows and as many steps.
    fn add_steps(
        &self,
        weights: &Weights,
        tile: usize,
        first_step: usize,
        num_steps: usize,
        sums: &mut [f32],
    ) {
        if num_steps == 0 {
            return;
        }
        let steps_per_tile = self.rows.product.depth.div_ceil(STEP);
        let x = self.packed[(tile * steps_per_tile + first_step) * STEP_BYTES..].as_ptr();
        assert!(sums.len() >= STRIP * SIDE, "there is a sum for each output");
        // SAFETY: the tiles are configured; the weights are as the caller says, and `packed` holds all steps of all tiles.
        unsafe { add_products(weights, x, num_steps, sums.as_mut_ptr()) };
    }
}

/// Turns the sums of columns and writes them.
struct Write<'a> {
    columns: &'a Columns<'a>,
    sums: &'a [f32],
}

impl Kernel for Write<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<V: Lanes>(self) {
        for (strip, sums) in self
            .sums
            .chunks_exact(self.columns.sums_per_strip())
            .enumerate()
        {
            // SAFETY: the caller promises the set.
            unsafe { self.strip::<V>(self.columns.start + strip * STRIP, sums) };
        }
    }
}

impl Write<'_> {
    /// # Safety
    /// As for [`Lanes`], which must be 16.
    #[inline(always)]
    unsafe fn strip<V: Lanes>(&self, col: usize, sums: &[f32]) {
        for (index, tile) in sums.chunks_exact(SIDE * SIDE).enumerate() {
            let Columns { rows, end, .. } = self.columns;
            let (row, col) = (index / STRIP_TILES * SIDE, col + index % STRIP_TILES * SIDE);
            let num_cols = SIDE.min(end.saturating_sub(col));
            let mut turned = [0.0f32; SIDE * SIDE];
            // SAFETY: `tile` and `turned` hold 16 by 16 values.
            unsafe {
                let lanes: [V; MAX_LANES] =
                    std::array::from_fn(|c| V::load_f32(tile.as_ptr().add(c * SIDE)));
                V::store_transposed(&lanes, turned.as_mut_ptr(), SIDE);
            }
            let num_rows = SIDE.min(rows.num_rows - row);
            for (offset, values) in turned.chunks_exact(SIDE).take(num_rows).enumerate() {
                let row = rows.first + row + offset;
                // SAFETY: rows and columns are within the product, and this task has the columns to itself.
                unsafe {
                    let values = V::load_f32(values.as_ptr());
                    if num_cols > 0 {
                        let target = &rows.product.target;
                        target.add(row, col, values, true, num_cols);
                    }
                }
            }
        }
    }
}

/// A strip of weight rows, `stride` elements apart, and what is to be brought near meanwhile: some groups of four rows of
/// the weights that come next.
struct Weights {
    start: *const bf16,
    stride: usize,
    next: *const bf16,
    num_next: Range<usize>,
}

/// Makes every tile 16 rows of 64 bytes.
///
/// # Safety
/// The machine has AMX and the process may use it.
unsafe fn configure_tiles() {
    #[repr(C, align(64))]
    struct Config([u8; 64]);
    let mut config = Config([0; 64]);
    config.0[0] = 1;
    for tile in 0..8 {
        config.0[16 + 2 * tile] = (SIDE * 4) as u8;
        config.0[48 + tile] = SIDE as u8;
    }
    // SAFETY: the layout is palette 1: bytes per row from 16 on, two bytes each, and rows from 48 on.
    unsafe {
        std::arch::asm!("ldtilecfg [{}]", in(reg) &raw const config, options(nostack, readonly))
    };
}

/// # Safety
/// As for `configure_tiles`.
unsafe fn release_tiles() {
    // SAFETY: promised by the caller.
    unsafe { std::arch::asm!("tilerelease", options(nostack, nomem)) };
}

/// Adds the products of a strip of weights and one tile of x: 64 columns by 16 rows.
///
/// # Safety
/// The tiles are configured; `weights` is good for `STRIP` rows, `x` for `num_steps > 0` steps, `sums` for `STRIP_TILES`
/// tiles. The next weights may be anywhere.
unsafe fn add_products(weights: &Weights, x: *const u8, num_steps: usize, sums: *mut f32) {
    let stride = weights.stride * size_of::<bf16>();
    let next = weights
        .next
        .cast::<u8>()
        .wrapping_add(weights.num_next.start * 4 * stride);
    // SAFETY: promised by the caller. tmm0 to tmm3 hold sums, tmm4 weights, tmm5 to tmm7 the pieces of x.
    unsafe {
        std::arch::asm!(
            "tileloadd tmm0, [{sums} + {side}]",
            "tileloadd tmm1, [{sums} + {side} + 1024]",
            "tileloadd tmm2, [{sums} + {side} + 2048]",
            "tileloadd tmm3, [{sums} + {side} + 3072]",
            "2:",
            "tileloadd tmm5, [{x} + {side}]",
            "tileloadd tmm4, [{w} + {stride}]",
            "lea {at}, [{w} + {tile_stride}]",
            "tileloadd tmm6, [{x} + {side} + 1024]",
            "tileloadd tmm7, [{x} + {side} + 2048]",
            "tdpbf16ps tmm0, tmm4, tmm5",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tdpbf16ps tmm0, tmm4, tmm7",
            "tileloadd tmm4, [{at} + {stride}]",
            "add {at}, {tile_stride}",
            "tdpbf16ps tmm1, tmm4, tmm5",
            "tdpbf16ps tmm1, tmm4, tmm6",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tileloadd tmm4, [{at} + {stride}]",
            "add {at}, {tile_stride}",
            "tdpbf16ps tmm2, tmm4, tmm5",
            "tdpbf16ps tmm2, tmm4, tmm6",
            "tdpbf16ps tmm2, tmm4, tmm7",
            "tileloadd tmm4, [{at} + {stride}]",
            "tdpbf16ps tmm3, tmm4, tmm5",
            "tdpbf16ps tmm3, tmm4, tmm6",
            "tdpbf16ps tmm3, tmm4, tmm7",
            "mov {at}, {next}",
            "mov {group}, {num_next}",
            "test {group}, {group}",
            "jz 4f",
            "3:",
            "prefetcht1 [{at}]",
            "prefetcht1 [{at} + {stride}]",
            "prefetcht1 [{at} + 2*{stride}]",
            "prefetcht1 [{at} + {stride_3}]",
            "lea {at}, [{at} + 4*{stride}]",
            "dec {group}",
            "jnz 3b",
            "4:",
            "add {next}, 64",
            "add {w}, 64",
            "add {x}, 3072",
            "dec {steps}",
            "jnz 2b",
            "tilestored [{sums} + {side}], tmm0",
            "tilestored [{sums} + {side} + 1024], tmm1",
            "tilestored [{sums} + {side} + 2048], tmm2",
            "tilestored [{sums} + {side} + 3072], tmm3",
            sums = in(reg) sums,
            side = in(reg) SIDE * 4,
            stride = in(reg) stride,
            stride_3 = in(reg) 3 * stride,
            tile_stride = in(reg) SIDE * stride,
            num_next = in(reg) weights.num_next.len(),
            w = inout(reg) weights.start => _,
            x = inout(reg) x => _,
            next = inout(reg) next => _,
            steps = inout(reg) num_steps => _,
            at = out(reg) _,
            group = out(reg) _,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        );
    }
}
