//! The CPU form of the linear layers. Four kernels share the work. With bf16 weights on machines with AMX:
//!
//! * [`tiles`]: the tile instruction;
//! * [`as_tiles`]: the same sums in vector instructions, for one row or two.
//!
//! With any others:
//!
//! * [`many_rows`]: packed blocks as in any good matrix product, widening the weights while packing;
//! * [`few_rows`]: the same sums straight from the weights, each weight read from memory once.
//!
//! On one machine, with one type of weights, an output depends on its row of x and its row of weights alone, to the bit: not
//! on the other rows, their number, or the number of threads. So a token gets the same logits whatever runs beside it,
//! which is what makes an answer independent of its company; both kernels of a pair keep one order of summation for it.
#![expect(
    clippy::needless_range_loop,
    reason = "indices name places in a tile; iterators would hide them"
)]
#![expect(
    unsafe_code,
    reason = "kernels work on raw memory: strided tiles of it, and vector instructions"
)]

#[cfg(target_arch = "x86_64")]
mod as_tiles;
mod few_rows;
mod many_rows;
mod scratch;
mod target;
#[cfg(target_arch = "x86_64")]
mod tiles;

use std::ops::Range;

use target::{Target, Update};

use crate::{
    device::CpuDevice,
    ops::simd::{InstructionSet, Weight},
    tensor::{CpuElements, Result, Tensor},
};

/// Depth of a block of [`few_rows`] and [`many_rows`], which sum each block by itself: a panel of packed weights of this depth
/// stays in the nearest cache.
const BLOCK_DEPTH: usize = 256;

/// A part of the depth: `first..first + depth`.
struct Block {
    first: usize,
    depth: usize,
}

/// The blocks of a depth; one without elements where there is no depth.
fn blocks(depth: usize) -> impl Iterator<Item = Block> {
    let firsts = (0..depth.max(1)).step_by(BLOCK_DEPTH);
    firsts.map(move |first| Block {
        first,
        depth: BLOCK_DEPTH.min(depth - first),
    })
}

/// `target op x · wᵀ`: x is `[num_rows, depth]`, w `[num_cols, depth]`, both row-major without gaps.
struct Product<'a, W> {
    x: &'a [f32],
    w: &'a [W],
    num_rows: usize,
    num_cols: usize,
    depth: usize,
    target: Target<'a>,
}

pub(super) fn linear(
    device: &CpuDevice,
    x: &Tensor,
    w: &Tensor,
    bias: Option<&[f32]>,
    y: &mut Tensor,
) -> Result<()> {
    run(device, x, w, y, None, Update::Set { bias })
}

pub(super) fn linear_acc(
    device: &CpuDevice,
    x: &Tensor,
    w: &Tensor,
    scale: f32,
    y: &mut Tensor,
    rows: &[Range<usize>],
) -> Result<()> {
    let rows: Vec<usize> = rows.iter().cloned().flatten().collect();
    run(device, x, w, y, Some(&rows), Update::Add { scale })
}

fn run(
    device: &CpuDevice,
    x: &Tensor,
    w: &Tensor,
    y: &mut Tensor,
    rows: Option<&[usize]>,
    update: Update<'_>,
) -> Result<()> {
    let (num_rows, num_cols, depth) = (x.rows(), w.rows(), w.cols());
    let x = x.as_f32()?;
    let target = Target::new(y.as_f32_mut()?, num_cols, num_rows, rows, update);
    let set = device.instruction_set();
    match w.cpu_elements()? {
        CpuElements::F32(w) => multiply(
            device,
            set,
            &Product {
                x,
                w,
                num_rows,
                num_cols,
                depth,
                target,
            },
        ),
        CpuElements::F16(w) => multiply(
            device,
            set,
            &Product {
                x,
                w,
                num_rows,
                num_cols,
                depth,
                target,
            },
        ),
        #[cfg(target_arch = "x86_64")]
        CpuElements::BF16(w) if set == InstructionSet::Amx => {
            let product = Product {
                x,
                w,
                num_rows,
                num_cols,
                depth,
                target,
            };
            match num_rows {
                0..=as_tiles::MAX_ROWS => as_tiles::multiply(device, &product),
                _ => tiles::multiply(device, &product),
            }
        }
        CpuElements::BF16(w) => multiply(
            device,
            set,
            &Product {
                x,
                w,
                num_rows,
                num_cols,
                depth,
                target,
            },
        ),
    }
    Ok(())
}

fn multiply<W: Weight>(device: &CpuDevice, set: InstructionSet, product: &Product<'_, W>) {
    if product.num_rows <= few_rows::max_rows(set.num_registers()) {
        few_rows::multiply(device, set, product);
    } else {
        many_rows::multiply(device, set, product);
    }
}

/// How many cache lines of each weight row are asked for ahead of their use, where weights are read straight from memory. Near
/// enough to be in the pages that are read anyhow: asking for the rows of the strip that follows was a tenth slower.
const LINES_AHEAD: usize = 8;

/// Where in the weights to ask for what comes `distance` elements after `element` of the strip of columns from `col`: in its rows, or
/// at the beginning of those of the strip that follows, `strip` further on.
#[inline(always)]
fn ahead(depth: usize, col: usize, element: usize, strip: usize, distance: usize) -> usize {
    match element + distance < depth {
        true => col * depth + element + distance,
        false => (col + strip) * depth + (element + distance - depth).min(depth),
    }
}

/// How many weight rows one task takes: enough to be worth a task, few enough that all threads end together; a
/// multiple of `granule`.
fn cols_per_task(
    device: &CpuDevice,
    num_cols: usize,
    bytes_per_col: usize,
    granule: usize,
) -> usize {
    const MIN_BYTES: usize = 32 << 10;
    const MAX_BYTES: usize = 8192 << 10;
    const TASKS_PER_THREAD: usize = 6;
    let fair = num_cols * bytes_per_col / (device.num_threads() * TASKS_PER_THREAD);
    let cols = fair.clamp(MIN_BYTES, MAX_BYTES) / bytes_per_col.max(1);
    cols.next_multiple_of(granule).max(granule)
}
