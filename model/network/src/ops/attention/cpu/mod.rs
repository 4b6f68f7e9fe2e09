//! The CPU form. The work is cut into tasks of one key and value head and a tile of query rows; a task goes over the
//! sequence's blocks with a running softmax. Keys are taken in segments of fixed length whose results are merged in order, so that the
//! few rows of a decode step can be shared out by segment among many threads and still give the same bits.
#![expect(
    unsafe_code,
    reason = "vector kernels work on raw memory, and heads interleave in the output"
)]

mod pages;
mod products;
mod tile;

pub(super) use pages::{copy_block, write_pages};

use std::ops::Range;

use self::{
    pages::{CacheElement, HeadPages},
    tile::{Rows, State, Tile},
};
use super::plan::{AttentionPlan, PlannedSequence};
use crate::{
    device::CpuDevice,
    kv_cache::KvPages,
    ops::{parallel::SharedPointer, rotary::QkvLayout},
    tensor::{CpuElements, Result},
};

/// Query rows of a tile, about: enough to make good use of each key that is loaded.
const TILE_ROWS: usize = 64;
/// Keys of a segment. The rows of one tile alone are shared out by segment.
const SEGMENT_KEYS: usize = 512;

pub(super) fn attention(
    device: &CpuDevice,
    qkv: &[f32],
    layout: &QkvLayout,
    plan: &AttentionPlan,
    pages: &KvPages,
    out: &mut [f32],
) -> Result<()> {
    let batch = Batch {
        device,
        qkv,
        layout,
        plan,
        value_width: pages.value_width(),
    };
    match (pages.keys.cpu_elements()?, pages.values.cpu_elements()?) {
        (CpuElements::F32(keys), CpuElements::F32(values)) => batch.attend(keys, values, out),
        (CpuElements::BF16(keys), CpuElements::BF16(values)) => batch.attend(keys, values, out),
        (CpuElements::F16(keys), CpuElements::F16(values)) => batch.attend(keys, values, out),
        _ => unreachable!("keys and values are made with one type"),
    }
    Ok(())
}

struct Batch<'a> {
    device: &'a CpuDevice,
    qkv: &'a [f32],
    layout: &'a QkvLayout,
    plan: &'a AttentionPlan,
    value_width: usize,
}

/// What one task does: the rows of a tile, and the segments of keys that it goes over.
struct Task<'a> {
    sequence: &'a PlannedSequence,
    head: usize,
    /// Rows of the sequence, counted from its first.
    rows: Range<usize>,
    segments: Range<usize>,
    /// Where the task's partial result goes when other tasks have the tile's other segments.
    partial: Option<usize>,
}

impl Batch<'_> {
    fn attend<T: CacheElement>(&self, keys: &[T], values: &[T], out: &mut [f32]) {
        let (tasks, splits) = self.tasks();
        let mut partials = vec![0.0; splits.iter().map(|split| split.len()).sum::<usize>()];
        let shared_partials = SharedPointer(partials.as_mut_ptr());
        let shared_out = SharedPointer(out.as_mut_ptr());
        self.device.parallel_for(tasks.len(), |index| {
            let task = &tasks[index];
            let tile = Tile {
                rows: self.rows(task),
                pages: HeadPages::new(keys, values, self.layout, self.value_width, task.head),
                blocks: &task.sequence.blocks,
                keys: task.segments.start * SEGMENT_KEYS..task.segments.end * SEGMENT_KEYS,
                segment_keys: SEGMENT_KEYS,
            };
            tile::with_state(self.device.instruction_set(), &tile, |state| {
                // SAFETY: tasks write disjoint places: rows and heads of the output are those of the task's tile, and each
                // task of a split tile has its own place among the partial results, sized for it.
                unsafe {
                    match task.partial {
                        Some(start) => state.store(shared_partials.get().add(start)),
                        None => self.write_out(state, task, &shared_out),
                    }
                }
            });
        });
        self.device.parallel_for(splits.len(), |index| {
            let split = &splits[index];
            let state = split.merge(&partials, self.value_width);
            // SAFETY: as above; one split for each tile.
            unsafe { self.write_out(&state, &split.task, &shared_out) };
        });
    }

    /// All tasks, and the tiles whose segments are shared out.
    fn tasks(&self) -> (Vec<Task<'_>>, Vec<Split<'_>>) {
        let positions_per_tile = (TILE_ROWS / self.layout.group).max(1);
        let (mut tasks, mut splits) = (Vec::new(), Vec::new());
        let mut num_partials = 0;
        for sequence in &self.plan.sequences {
            let num_rows = sequence.rows.len();
            // The last rows have the most keys: they come first, so that no thread is left with a long one at the end.
            for first in (0..num_rows).step_by(positions_per_tile).rev() {
                let rows = first..(first + positions_per_tile).min(num_rows);
                let num_segments = (sequence.start + rows.end).div_ceil(SEGMENT_KEYS);
                for head in 0..self.layout.num_kv_heads {
                    let task = |segments, partial| Task {
                        sequence,
                        head,
                        rows: rows.clone(),
                        segments,
                        partial,
                    };
                    if num_rows > positions_per_tile || num_segments == 1 {
                        tasks.push(task(0..num_segments, None));
                        continue;
                    }
                    let split = Split {
                        task: task(0..num_segments, None),
                        first_partial: num_partials,
                        part_len: State::len(rows.len() * self.layout.group, self.value_width),
                    };
                    for segment in 0..num_segments {
                        let partial = Some(num_partials + segment * split.part_len);
                        tasks.push(task(segment..segment + 1, partial));
                    }
                    num_partials += split.len();
                    splits.push(split);
                }
            }
        }
        (tasks, splits)
    }

    /// The query rows of a task.
    fn rows(&self, task: &Task<'_>) -> Rows<'_> {
        let width = self.layout.width();
        let first = task.sequence.rows.start + task.rows.start;
        let start = first * width + task.head * self.layout.group_width();
        Rows {
            queries: &self.qkv[start..],
            stride: width,
            group: self.layout.group,
            head_dim: self.layout.head_dim,
            num_positions: task.rows.len(),
            first_position: task.sequence.start + task.rows.start,
        }
    }

    /// Writes a finished tile to its rows and columns of the output.
    ///
    /// # Safety
    /// `out` is the whole output, and nothing else touches the rows and the head of the task meanwhile.
    unsafe fn write_out(&self, state: &State, task: &Task<'_>, out: &SharedPointer<f32>) {
        let (group, head_dim) = (self.layout.group, self.layout.head_dim);
        let first = task.sequence.rows.start + task.rows.start;
        for row in 0..task.rows.len() * group {
            let column = (task.head * group + row % group) * head_dim;
            let start = (first + row / group) * self.layout.output_width() + column;
            // SAFETY: row and column are within the output, as the plan and the layout were checked against it.
            let out = unsafe { std::slice::from_raw_parts_mut(out.get().add(start), head_dim) };
            let scale = 1.0 / state.sums[row];
            let values = &state.values[row * self.value_width..][..head_dim];
            out.iter_mut()
                .zip(values)
                .for_each(|(out, value)| *out = value * scale);
        }
    }
}

/// A tile whose segments are tasks of their own.
struct Split<'a> {
    task: Task<'a>,
    first_partial: usize,
    part_len: usize,
}

impl Split<'_> {
    /// Numbers that its partial results take.
    fn len(&self) -> usize {
        self.task.segments.len() * self.part_len
    }

    /// Merges the partial results in the order of the segments, as one task would have.
    fn merge(&self, partials: &[f32], value_width: usize) -> State {
        let partials = &partials[self.first_partial..][..self.len()];
        let mut parts = partials.chunks_exact(self.part_len);
        let mut total = State::load(parts.next().unwrap_or(&[]), value_width);
        for part in parts {
            total.merge(&State::load(part, value_width), value_width);
        }
        total
    }
}
