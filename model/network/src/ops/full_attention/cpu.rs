//! The CPU form: tasks are heads of squares, cut further by queries where there are many threads. A task lays its keys
//! and values out for the matrix product once and then takes block after block of queries, so that never more scores
//! exist than one block's per thread.
#![expect(
    unsafe_code,
    reason = "the matrix product takes pointers, and heads interleave in the output"
)]

use gemm::Parallelism;

use super::Shape;
use crate::{
    device::CpuDevice,
    ops::{exponential::exp, parallel::SharedPointer, vectorised::vectorised},
};

/// Queries of one block. With 1601 keys its scores take 800 KB, which a second-level cache holds.
const BLOCK: usize = 128;
/// Tasks wanted for each thread, so that none waits long for the last.
const TASKS_PER_THREAD: usize = 4;

pub(super) fn full_attention(device: &CpuDevice, qkv: &[f32], shape: &Shape, out: &mut [f32]) {
    let num_heads = shape.num_squares * shape.num_heads;
    let num_parts = num_parts(num_heads, device.num_threads(), shape.len);
    let blocks_per_part = shape.len.div_ceil(BLOCK).div_ceil(num_parts);
    let out = SharedPointer(out.as_mut_ptr());
    device.parallel_for(num_heads * num_parts, |task| {
        let (head, part) = (task / num_parts, task % num_parts);
        let first = part * blocks_per_part * BLOCK;
        let end = (first + blocks_per_part * BLOCK).min(shape.len);
        let mut work = Head::new(qkv, shape, head / shape.num_heads, head % shape.num_heads);
        for query in (first..end).step_by(BLOCK) {
            work.attend(query, BLOCK.min(end - query), &out);
        }
    });
}

/// Into how many parts the queries of a head are cut. Each part lays out the keys again, so no more than needed.
fn num_parts(num_heads: usize, num_threads: usize, len: usize) -> usize {
    if num_threads == 1 {
        return 1;
    }
    (num_threads * TASKS_PER_THREAD)
        .div_ceil(num_heads.max(1))
        .clamp(1, len.div_ceil(BLOCK))
}

/// One head of one square at work.
struct Head<'a> {
    qkv: &'a [f32],
    shape: &'a Shape,
    /// Rows before this square.
    first_row: usize,
    /// Columns before this head, in queries, keys, values and output alike.
    first_column: usize,
    /// `[head_dim, len]`
    keys: Vec<f32>,
    /// `[len, head_dim]`
    values: Vec<f32>,
    /// `[BLOCK, len]`
    scores: Vec<f32>,
}

impl<'a> Head<'a> {
    fn new(qkv: &'a [f32], shape: &'a Shape, square: usize, head: usize) -> Self {
        let (len, head_dim) = (shape.len, shape.head_dim);
        let mut work = Self {
            qkv,
            shape,
            first_row: square * len,
            first_column: head * head_dim,
            keys: vec![0.0; head_dim * len],
            values: vec![0.0; len * head_dim],
            scores: vec![0.0; BLOCK.min(len) * len],
        };
        for (row, values) in work.values.chunks_exact_mut(head_dim).enumerate() {
            let source = &qkv[(square * len + row) * 3 * shape.width() + head * head_dim..];
            for (column, key) in source[shape.width()..][..head_dim].iter().enumerate() {
                work.keys[column * len + row] = *key;
            }
            values.copy_from_slice(&source[2 * shape.width()..][..head_dim]);
        }
        work
    }

    /// Attends for `count` queries from `query` on.
    fn attend(&mut self, query: usize, count: usize, out: &SharedPointer<f32>) {
        let Shape { len, head_dim, .. } = *self.shape;
        let width = self.shape.width();
        let row = self.first_row + query;
        let queries = &self.qkv[row * 3 * width + self.first_column..];
        assert!(queries.len() >= (count - 1) * 3 * width + head_dim);
        let scores = &mut self.scores[..count * len];
        let scale = 1.0 / (head_dim as f32).sqrt();
        // SAFETY: the three matrices lie within their slices: `count` rows of queries (checked above), `head_dim` rows of
        // `len` keys, `count` rows of `len` scores. The scores are ours alone.
        unsafe {
            product(
                (count, len, head_dim),
                (scores.as_mut_ptr(), len),
                (queries.as_ptr(), 3 * width),
                (self.keys.as_ptr(), len),
                scale,
            );
        }
        vectorised(
            #[inline(always)]
            || {
                for row in scores.chunks_exact_mut(len) {
                    softmax(row);
                }
            },
        );
        // SAFETY: scores and values lie within their slices as above. `out` has `width` columns and as many rows as qkv;
        // no other task writes these rows of these columns, since each takes other queries or another head.
        unsafe {
            let out = out.get().add(row * width + self.first_column);
            product(
                (count, head_dim, len),
                (out, width),
                (scores.as_ptr(), len),
                (self.values.as_ptr(), head_dim),
                1.0,
            );
        }
    }
}

/// `target = scale * a * b` with a `[m, k]`, b `[k, n]`; matrices are their first element and the distance of their rows.
///
/// # Safety
/// All three must be readable, and the target writable and not aliased, over their whole extent.
unsafe fn product(
    (m, n, k): (usize, usize, usize),
    (target, target_stride): (*mut f32, usize),
    (a, a_stride): (*const f32, usize),
    (b, b_stride): (*const f32, usize),
    scale: f32,
) {
    let [target_stride, a_stride, b_stride] =
        [target_stride, a_stride, b_stride].map(usize::cast_signed);
    // SAFETY: handed on to the caller; columns lie side by side in all three. The target is not read.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            target,
            1,
            target_stride,
            false,
            a,
            1,
            a_stride,
            b,
            1,
            b_stride,
            0.0,
            scale,
            false,
            false,
            false,
            Parallelism::None,
        );
    }
}

/// Softmax of one row in place.
#[inline(always)]
fn softmax(row: &mut [f32]) {
    let largest = fold(row, f32::NEG_INFINITY, f32::max);
    row.iter_mut()
        .for_each(|score| *score = exp(*score - largest));
    let factor = 1.0
        / fold(
            row,
            0.0,
            #[inline(always)]
            |a, b| a + b,
        );
    row.iter_mut().for_each(|score| *score *= factor);
}

/// Combines a row in lanes that a vector can hold.
#[inline(always)]
fn fold(row: &[f32], start: f32, combine: impl Fn(f32, f32) -> f32) -> f32 {
    let mut lanes = [start; 32];
    let (blocks, rest) = row.as_chunks::<32>();
    for block in blocks {
        for lane in 0..32 {
            lanes[lane] = combine(lanes[lane], block[lane]);
        }
    }
    lanes.iter().chain(rest).fold(start, |a, b| combine(a, *b))
}
