//! One tile of query rows against a run of keys, with a running softmax: for each row the largest score so far, the sum of the
//! exponentials relative to it, and the values weighted by them.

use std::{cell::RefCell, ops::Range};

use super::{
    pages::{CacheElement, HeadPages},
    products::{self, Operands},
};
use crate::{
    kv_cache::BLOCK_TOKENS,
    ops::{
        exponential::exp,
        simd::{InstructionSet, Kernel, Lanes},
    },
};

/// Blocks whose scores are taken together.
const BLOCKS: usize = 4;
const KEYS: usize = BLOCKS * BLOCK_TOKENS;

/// The query rows of a tile: for each position the heads of the group.
pub(super) struct Rows<'a> {
    /// From the first head of the first position on.
    pub(super) queries: &'a [f32],
    /// Elements from one position to the next.
    pub(super) stride: usize,
    pub(super) group: usize,
    pub(super) head_dim: usize,
    pub(super) num_positions: usize,
    pub(super) first_position: usize,
}

impl Rows<'_> {
    #[inline(always)]
    fn len(&self) -> usize {
        self.num_positions * self.group
    }

    #[inline(always)]
    fn end_position(&self) -> usize {
        self.first_position + self.num_positions
    }
}

/// A tile and the keys that it goes over.
pub(super) struct Tile<'a, T> {
    pub(super) rows: Rows<'a>,
    pub(super) pages: HeadPages<'a, T>,
    pub(super) blocks: &'a [u32],
    /// Positions, from the start of a segment; those beyond the rows' own are left out.
    pub(super) keys: Range<usize>,
    /// Results of segments of this many keys are merged in order.
    pub(super) segment_keys: usize,
}

/// The running softmax of a tile's rows.
#[derive(Default)]
pub(super) struct State {
    /// The largest score of each row, minus infinity before the first.
    maxima: Vec<f32>,
    /// Sums of `exp(score - maximum)`.
    pub(super) sums: Vec<f32>,
    /// Values weighted likewise, `[num_rows, value_width]`.
    pub(super) values: Vec<f32>,
}

impl State {
    /// Numbers in the stored form.
    pub(super) fn len(num_rows: usize, value_width: usize) -> usize {
        num_rows * (value_width + 2)
    }

    fn reset(&mut self, num_rows: usize, value_width: usize) {
        refill(&mut self.maxima, num_rows, f32::NEG_INFINITY);
        refill(&mut self.sums, num_rows, 0.0);
        refill(&mut self.values, num_rows * value_width, 0.0);
    }

    /// # Safety
    /// `to` is good for all numbers of the state.
    pub(super) unsafe fn store(&self, mut to: *mut f32) {
        for part in [&self.maxima, &self.sums, &self.values] {
            // SAFETY: promised by the caller.
            unsafe {
                std::ptr::copy_nonoverlapping(part.as_ptr(), to, part.len());
                to = to.add(part.len());
            }
        }
    }

    pub(super) fn load(numbers: &[f32], value_width: usize) -> Self {
        let num_rows = numbers.len() / (value_width + 2);
        let (maxima, rest) = numbers.split_at(num_rows);
        let (sums, values) = rest.split_at(num_rows);
        Self {
            maxima: maxima.to_vec(),
            sums: sums.to_vec(),
            values: values.to_vec(),
        }
    }

    /// Takes in the state of the segment that follows.
    #[inline(always)]
    pub(super) fn merge(&mut self, next: &Self, value_width: usize) {
        for row in 0..self.maxima.len() {
            let (own, other) = (self.maxima[row], next.maxima[row]);
            if next.sums[row] == 0.0 {
                continue;
            }
            let max = if other > own { other } else { own };
            let (own, other) = (weight(own, max), weight(other, max));
            self.maxima[row] = max;
            self.sums[row] = self.sums[row] * own + next.sums[row] * other;
            let values = &mut self.values[row * value_width..][..value_width];
            let others = &next.values[row * value_width..][..value_width];
            for (value, next) in values.iter_mut().zip(others) {
                *value = *value * own + next * other;
            }
        }
    }
}

/// `exp(maximum - max)`, and nothing where there was no score yet.
#[inline(always)]
fn weight(maximum: f32, max: f32) -> f32 {
    if maximum == f32::NEG_INFINITY {
        0.0
    } else {
        exp(maximum - max)
    }
}

fn refill(numbers: &mut Vec<f32>, len: usize, value: f32) {
    numbers.clear();
    numbers.resize(len, value);
}

/// What a thread keeps from one tile to the next.
#[derive(Default)]
struct Workspace {
    total: State,
    segment: State,
    /// Scaled queries, `[num_rows, head_dim]`.
    queries: Vec<f32>,
    /// `[num_rows, KEYS]`: scores, then their exponentials.
    scores: Vec<f32>,
    /// Keys and values of `BLOCKS` blocks as f32, where the cache holds another type.
    keys: Vec<f32>,
    values: Vec<f32>,
}

thread_local! {
    static WORKSPACE: RefCell<Workspace> = RefCell::default();
}

/// Attends with the tile's rows and hands the result on.
pub(super) fn with_state<T: CacheElement>(
    set: InstructionSet,
    tile: &Tile<'_, T>,
    use_state: impl FnOnce(&State),
) {
    WORKSPACE.with_borrow_mut(|work| {
        set.run(Attend {
            tile,
            work: &mut *work,
        });
        use_state(&work.total);
    });
}

struct Attend<'a, 'b, T> {
    tile: &'a Tile<'b, T>,
    work: &'a mut Workspace,
}

impl<T: CacheElement> Kernel for Attend<'_, '_, T> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<V: Lanes>(self) {
        let Self { tile, work } = self;
        let (num_rows, value_width) = (tile.rows.len(), tile.pages.value_width);
        work.load_queries(&tile.rows);
        refill(&mut work.scores, num_rows * KEYS, 0.0);
        work.total.reset(num_rows, value_width);
        let end = tile.keys.end.min(tile.rows.end_position());
        let mut key = tile.keys.start;
        while key < end {
            let segment_end = (key + tile.segment_keys).min(end);
            work.segment.reset(num_rows, value_width);
            while key < segment_end {
                let count = KEYS.min(segment_end - key);
                // SAFETY: the set is promised by the caller.
                unsafe { work.attend::<V, T>(tile, key, count) };
                key += count;
            }
            work.total.merge(&work.segment, value_width);
        }
    }
}

impl Workspace {
    /// Scores are to be scaled, so the queries are: there are fewer of them.
    #[inline(always)]
    fn load_queries(&mut self, rows: &Rows<'_>) {
        let scale = 1.0 / (rows.head_dim as f32).sqrt();
        self.queries.clear();
        for position in 0..rows.num_positions {
            let heads = &rows.queries[position * rows.stride..][..rows.group * rows.head_dim];
            self.queries.extend(heads.iter().map(
                #[inline(always)]
                |query| query * scale,
            ));
        }
    }

    /// Takes in the `count` keys from position `first` on: up to `BLOCKS` blocks, of which the first begins there.
    ///
    /// # Safety
    /// As for [`Lanes`].
    #[inline(always)]
    unsafe fn attend<V: Lanes, T: CacheElement>(
        &mut self,
        tile: &Tile<'_, T>,
        first: usize,
        count: usize,
    ) {
        let num_blocks = count.div_ceil(BLOCK_TOKENS);
        let blocks = &tile.blocks[first / BLOCK_TOKENS..][..num_blocks];
        let (rows, value_width) = (&tile.rows, tile.pages.value_width);
        // Rows before the first key do not see any of them.
        let first_row = first.saturating_sub(rows.first_position) * rows.group;
        let num_rows = rows.len() - first_row;
        let mut keys = [std::ptr::null(); BLOCKS];
        // SAFETY: the set is promised by the caller; queries, scores and values have a row for each row of the tile, keys and
        // values of a block are as large as the products take them.
        unsafe {
            for (i, &block) in blocks.iter().enumerate() {
                keys[i] = widen::<V, T>(tile.pages.keys(block), &mut self.keys, i);
            }
            let operands = Operands {
                left: self.queries.as_ptr().add(first_row * rows.head_dim),
                left_stride: rows.head_dim,
                sums: self.scores.as_mut_ptr().add(first_row * KEYS),
                sums_stride: KEYS,
                num_rows,
            };
            products::multiply_strips::<V>(operands, rows.head_dim, &keys[..num_blocks]);
            for row in first_row..rows.len() {
                let position = rows.first_position + row / rows.group;
                self.weigh(row, (position + 1 - first).min(count), value_width);
            }
            for (i, &block) in blocks.iter().enumerate() {
                let values = widen::<V, T>(tile.pages.values(block), &mut self.values, i);
                let operands = Operands {
                    left: self
                        .scores
                        .as_ptr()
                        .add(first_row * KEYS + i * BLOCK_TOKENS),
                    left_stride: KEYS,
                    sums: self
                        .segment
                        .values
                        .as_mut_ptr()
                        .add(first_row * value_width),
                    sums_stride: value_width,
                    num_rows,
                };
                // Keys beyond the last are left out rather than weighted with zero: what their places hold is not known.
                let depth = BLOCK_TOKENS.min(count - i * BLOCK_TOKENS);
                products::add_products::<V>(operands, depth, values, value_width);
            }
        }
    }

    /// Turns a row's scores into weights. The row sees the first `visible` keys (one at least); the others weigh nothing.
    #[inline(always)]
    fn weigh(&mut self, row: usize, visible: usize, value_width: usize) {
        let scores = &mut self.scores[row * KEYS..][..KEYS];
        let old = self.segment.maxima[row];
        let max = largest(&scores[..visible], old);
        scores[..visible].iter_mut().for_each(
            #[inline(always)]
            |score| *score = exp(*score - max),
        );
        scores[visible..].fill(0.0);
        let sum = sum(scores);
        if max == old {
            self.segment.sums[row] += sum;
            return;
        }
        let scale = weight(old, max);
        self.segment.maxima[row] = max;
        self.segment.sums[row] = self.segment.sums[row] * scale + sum;
        let values = &mut self.segment.values[row * value_width..][..value_width];
        values.iter_mut().for_each(
            #[inline(always)]
            |value| *value *= scale,
        );
    }
}

/// A block's elements as f32: where they lie, or widened into place `index` of `memory`.
///
/// # Safety
/// As for [`Lanes`].
#[inline(always)]
unsafe fn widen<V: Lanes, T: CacheElement>(
    block: &[T],
    memory: &mut Vec<f32>,
    index: usize,
) -> *const f32 {
    if let Some(block) = T::as_f32(block) {
        return block.as_ptr();
    }
    if memory.len() < BLOCKS * block.len() {
        memory.resize(BLOCKS * block.len(), 0.0);
    }
    let memory = &mut memory[index * block.len()..][..block.len()];
    for (to, from) in memory
        .chunks_exact_mut(V::COUNT)
        .zip(block.chunks_exact(V::COUNT))
    {
        // SAFETY: both have `V::COUNT` elements; the length of a block is a multiple of 16.
        unsafe { T::load::<V>(from.as_ptr()).store(to.as_mut_ptr()) };
    }
    memory.as_ptr()
}

/// The largest of the scores and `least`. Scores that are not numbers are passed over; their exponentials show them.
#[inline(always)]
fn largest(scores: &[f32], least: f32) -> f32 {
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    let mut lanes = [least; BLOCK_TOKENS];
    let (blocks, rest) = scores.as_chunks::<BLOCK_TOKENS>();
    for block in blocks {
        for (lane, score) in lanes.iter_mut().zip(block) {
            *lane = larger(*lane, *score);
        }
    }
    let largest = lanes.into_iter().fold(least, larger);
    rest.iter().copied().fold(largest, larger)
}

#[inline(always)]
fn sum(weights: &[f32]) -> f32 {
    let mut lanes = [0.0; BLOCK_TOKENS];
    for block in weights.as_chunks::<BLOCK_TOKENS>().0 {
        for (lane, weight) in lanes.iter_mut().zip(block) {
            *lane += weight;
        }
    }
    lanes.iter().sum()
}
