//! Attention: where rows of a batch belong, uploaded once for all layers, and the kernels by what a batch is made of. Single rows are
//! split over their keys; more rows of a sequence go by tiles; odd types and widths one by one.
#![expect(unsafe_code, reason = "kernels take addresses")]

use std::sync::Arc;

use super::{
    backend::Launch,
    device::{CudaDevice, address, address_mut, check_dtype, kernel, launch},
    rowwise::{by_head, int},
    words::Words,
};
use crate::{
    kv_cache::{BLOCK_TOKENS, KvPages},
    ops::{attention::AttentionPlan, rotary::QkvLayout},
    tensor::{DType, Result, Tensor, TensorError},
};

/// What the fast kernels are written for: the width of a head, and how many query heads may share keys in a decode step.
const HEAD_DIM: usize = 128;
const SQUARE_HEAD_DIM: usize = 64;
const DECODE_GROUPS: [usize; 4] = [1, 2, 4, 8];
/// Queries and keys of a tile, and its threads.
const TILE: usize = 64;
const TILE_THREADS: usize = 128;
/// The widest head that any kernel takes.
const WIDEST: usize = 256;
/// Floats of a split's partial result.
const PARTIAL: usize = HEAD_DIM + 2;
/// Blocks of the cache that are worth a split: one for each warp.
const BLOCKS_PER_SPLIT: usize = 4;
const MOST_SPLITS: usize = 64;
/// The slot of a row whose key and value nobody wants: the kernels write none.
const NO_SLOT: u32 = u32::MAX;

/// An [`AttentionPlan`] on a device, for query heads in groups of one size.
#[derive(Debug)]
pub struct UploadedPlan {
    words: Words,
    group: usize,
    /// Places in `words` of: each row's slot in the cache; each row's position and table; single rows; tiles; all tables.
    slots: usize,
    rows: usize,
    singles: usize,
    tiles: usize,
    tables: usize,
    num_singles: usize,
    /// Blocks of the longest single row.
    most_blocks: usize,
    num_tiles: usize,
}

/// What of a plan is uploaded, before it is.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Lists {
    slots: Vec<u32>,
    rows: Vec<u32>,
    tables: Vec<u32>,
    singles: Vec<[u32; 4]>,
    most_blocks: usize,
    tiles: Vec<[u32; 4]>,
}

impl Lists {
    pub(super) fn new(plan: &AttentionPlan, group: usize) -> Self {
        let mut lists = Self::default();
        let rows_per_tile = (TILE / group.max(1)).max(1);
        for sequence in &plan.sequences {
            let (start, first_row, num_rows) =
                (sequence.start, sequence.rows.start, sequence.rows.len());
            let table = lists.tables.len() as u32;
            for position in start..start + num_rows {
                let slot = sequence.blocks[position / BLOCK_TOKENS] as usize * BLOCK_TOKENS
                    + position % BLOCK_TOKENS;
                lists.slots.push(slot as u32);
                lists.rows.extend([position as u32, table]);
            }
            if num_rows == 1 && DECODE_GROUPS.contains(&group) {
                lists
                    .singles
                    .push([first_row as u32, table, start as u32 + 1, 0]);
                lists.most_blocks = lists.most_blocks.max(sequence.blocks.len());
            } else {
                for offset in (0..num_rows).step_by(rows_per_tile) {
                    let len = rows_per_tile.min(num_rows - offset);
                    lists.tiles.push(
                        [first_row + offset, len, start + offset, table as usize].map(|x| x as u32),
                    );
                }
            }
            lists.tables.extend(&sequence.blocks);
        }
        // Long ones first, so that none begins when all others are done.
        lists
            .tiles
            .sort_by_key(|&[_, len, start, _]| std::cmp::Reverse(start + len));
        lists
    }

    /// Adds rows of no sequence up to `num_rows`, which write nothing and whose results mean nothing.
    pub(super) fn pad(&mut self, num_rows: usize, group: usize) {
        let padding = self.slots.len()..num_rows;
        self.slots.resize(num_rows, NO_SLOT);
        self.rows.resize(2 * num_rows, 0);
        for row in padding {
            match DECODE_GROUPS.contains(&group) {
                true => self.singles.push([row as u32, 0, 0, 0]),
                false => self.tiles.push([row as u32, 1, 0, 0]),
            }
        }
        // Their table is the first, and there is one.
        if self.tables.is_empty() {
            self.tables.push(0);
        }
    }

    /// All lists, the tables last: where the others lie depends on the number of rows alone when all sequences have one.
    pub(super) fn put_into(&self, words: &mut Vec<u32>) {
        words.extend_from_slice(&self.slots);
        words.extend_from_slice(&self.rows);
        words.extend_from_slice(self.singles.as_flattened());
        words.extend_from_slice(self.tiles.as_flattened());
        words.extend_from_slice(&self.tables);
    }
}

impl UploadedPlan {
    fn new(device: &CudaDevice, plan: &AttentionPlan, group: usize) -> Result<Self> {
        let lists = Lists::new(plan, group);
        let mut words = Vec::new();
        lists.put_into(&mut words);
        Ok(Self::over(Words::upload(device, &words)?, &lists, group))
    }

    /// The plan whose lists lie at the beginning of these words.
    pub(super) fn over(words: Words, lists: &Lists, group: usize) -> Self {
        let rows = lists.slots.len();
        let singles = rows + lists.rows.len();
        let tiles = singles + 4 * lists.singles.len();
        Self {
            words,
            group,
            slots: 0,
            rows,
            singles,
            tiles,
            tables: tiles + 4 * lists.tiles.len(),
            num_singles: lists.singles.len(),
            most_blocks: lists.most_blocks,
            num_tiles: lists.tiles.len(),
        }
    }

    /// The same for sequences of any length: for work that is recorded with one and replayed with others.
    pub(super) fn of_any_length(self) -> Self {
        Self {
            most_blocks: usize::MAX,
            ..self
        }
    }

    fn at(&self, place: usize) -> u64 {
        self.words.at(place)
    }
}

impl AttentionPlan {
    /// The plan on a device, for query heads in groups of that size: all layers of a forward have one device and one size.
    fn on_device(&self, device: &CudaDevice, group: usize) -> Result<&UploadedPlan> {
        if self.uploaded.get().is_none() {
            let uploaded = UploadedPlan::new(device, self, group)?;
            // Whoever else came here uploaded the same.
            let _ = self.uploaded.set(Arc::new(uploaded));
        }
        let uploaded = self.uploaded.get().expect("just set");
        if uploaded.group == group && uploaded.words.device() == device {
            return Ok(uploaded);
        }
        let reason = format!(
            "the plan was uploaded for groups of {} to {:?}",
            uploaded.group,
            uploaded.words.device()
        );
        Err(TensorError::Unsupported {
            what: "attention",
            reason,
        })
    }
}

impl CudaDevice {
    pub(crate) fn write_pages(
        &self,
        qkv: &Tensor,
        layout: &QkvLayout,
        plan: &AttentionPlan,
        pages: &mut KvPages,
    ) -> Result<()> {
        let plan = plan.on_device(self, layout.group)?;
        check_pages("write_pages", qkv, pages)?;
        let (name, grid, width) = (
            kernel("write_pages", qkv.dtype()),
            by_head(qkv.rows(), layout),
            pages.value_width(),
        );
        launch!(
            self,
            name,
            grid,
            address(qkv)?,
            plan.at(plan.slots),
            address_mut(&mut pages.keys)?,
            address_mut(&mut pages.values)?,
            int(layout.num_kv_heads),
            int(layout.group),
            int(layout.head_dim),
            int(width)
        )
    }

    pub(crate) fn rotate_and_write_pages(
        &self,
        qkv: &mut Tensor,
        layout: &QkvLayout,
        (cos, sin): (&Tensor, &Tensor),
        plan: &AttentionPlan,
        pages: &mut KvPages,
    ) -> Result<()> {
        let plan = plan.on_device(self, layout.group)?;
        check_pages("rotate_and_write_pages", qkv, pages)?;
        let (grid, width) = (by_head(qkv.rows(), layout), pages.value_width());
        launch!(
            self,
            kernel("rotate_and_write", qkv.dtype()),
            grid,
            address_mut(qkv)?,
            address(cos)?,
            address(sin)?,
            plan.at(plan.slots),
            address_mut(&mut pages.keys)?,
            address_mut(&mut pages.values)?,
            int(layout.num_kv_heads),
            int(layout.group),
            int(layout.head_dim),
            int(width)
        )
    }

    pub(crate) fn attention(
        &self,
        qkv: &Tensor,
        layout: &QkvLayout,
        plan: &AttentionPlan,
        pages: &KvPages,
        out: &mut Tensor,
    ) -> Result<()> {
        let plan = plan.on_device(self, layout.group)?;
        check_pages("attention", qkv, pages)?;
        check_dtype("attention", out, qkv.dtype())?;
        let is_fast =
            qkv.dtype() != DType::F32 && layout.head_dim == HEAD_DIM && layout.group <= TILE;
        if !is_fast {
            return self.plain_attention(qkv, layout, plan, pages, out);
        }
        self.attend_singles(qkv, layout, plan, pages, out)?;
        launch!(
            self,
            kernel("prefill_attention", qkv.dtype()),
            Launch {
                grid: [plan.num_tiles, layout.num_kv_heads, 1],
                block: TILE_THREADS,
                shared: tile_memory(HEAD_DIM),
            },
            address(qkv)?,
            address(&pages.keys)?,
            address(&pages.values)?,
            plan.at(plan.tables),
            plan.at(plan.tiles),
            address_mut(out)?,
            int(layout.num_kv_heads),
            int(layout.group),
            scale(HEAD_DIM)
        )
    }

    fn attend_singles(
        &self,
        qkv: &Tensor,
        layout: &QkvLayout,
        plan: &UploadedPlan,
        pages: &KvPages,
        out: &mut Tensor,
    ) -> Result<()> {
        if plan.num_singles == 0 {
            return Ok(());
        }
        let num_heads = layout.num_kv_heads * layout.group;
        let num_splits = self.num_splits(plan, layout);
        let partials = self.passing(plan.num_singles * num_heads * num_splits * PARTIAL * 4)?;
        let name = kernel(&format!("decode_attention_{}", layout.group), qkv.dtype());
        let grid = Launch {
            grid: [plan.num_singles, layout.num_kv_heads, num_splits],
            block: HEAD_DIM,
            shared: 0,
        };
        launch!(
            self,
            name,
            grid,
            address(qkv)?,
            address(&pages.keys)?,
            address(&pages.values)?,
            plan.at(plan.tables),
            plan.at(plan.singles),
            address_mut(out)?,
            partials.address(),
            int(layout.num_kv_heads),
            int(num_splits),
            int(BLOCKS_PER_SPLIT),
            scale(HEAD_DIM)
        )?;
        if num_splits == 1 {
            return Ok(());
        }
        let grid = Launch {
            grid: [plan.num_singles, num_heads, 1],
            block: HEAD_DIM,
            shared: 0,
        };
        launch!(
            self,
            kernel("merge_splits", qkv.dtype()),
            grid,
            partials.address(),
            plan.at(plan.singles),
            address_mut(out)?,
            int(num_splits)
        )
    }

    /// Into how many parts each single row's keys are split: as many as keep the GPU busy, and no more than have work.
    fn num_splits(&self, plan: &UploadedPlan, layout: &QkvLayout) -> usize {
        const BLOCKS_PER_MULTIPROCESSOR: usize = 3;
        let wanted = self.backend().num_multiprocessors() * BLOCKS_PER_MULTIPROCESSOR;
        let busy = wanted.div_ceil(plan.num_singles * layout.num_kv_heads);
        let most = plan
            .most_blocks
            .div_ceil(BLOCKS_PER_SPLIT)
            .clamp(1, MOST_SPLITS);
        busy.clamp(1, most)
    }

    fn plain_attention(
        &self,
        qkv: &Tensor,
        layout: &QkvLayout,
        plan: &UploadedPlan,
        pages: &KvPages,
        out: &mut Tensor,
    ) -> Result<()> {
        check_width("attention", layout.head_dim)?;
        launch!(
            self,
            kernel("plain_attention", qkv.dtype()),
            Launch {
                grid: [qkv.rows(), layout.num_kv_heads * layout.group, 1],
                block: 32,
                shared: 0,
            },
            address(qkv)?,
            address(&pages.keys)?,
            address(&pages.values)?,
            plan.at(plan.tables),
            plan.at(plan.rows),
            address_mut(out)?,
            int(layout.num_kv_heads),
            int(layout.group),
            int(layout.head_dim),
            int(pages.value_width()),
            scale(layout.head_dim)
        )
    }

    pub(crate) fn full_attention(
        &self,
        qkv: &Tensor,
        len: usize,
        num_heads: usize,
        out: &mut Tensor,
    ) -> Result<()> {
        const WHAT: &str = "full_attention";
        check_dtype(WHAT, out, qkv.dtype())?;
        let head_dim = out.cols() / num_heads;
        let (from, to) = (address(qkv)?, address_mut(out)?);
        if qkv.dtype() != DType::F32 && head_dim == SQUARE_HEAD_DIM {
            let grid = Launch {
                grid: [len.div_ceil(TILE), num_heads, qkv.rows() / len],
                block: TILE_THREADS,
                shared: tile_memory(SQUARE_HEAD_DIM),
            };
            let name = kernel("square_attention", qkv.dtype());
            return launch!(
                self,
                name,
                grid,
                from,
                to,
                int(len),
                int(num_heads),
                scale(head_dim)
            );
        }
        check_width(WHAT, head_dim)?;
        let grid = Launch {
            grid: [qkv.rows(), num_heads, 1],
            block: 32,
            shared: 0,
        };
        let name = kernel("plain_square_attention", qkv.dtype());
        launch!(
            self,
            name,
            grid,
            from,
            to,
            int(len),
            int(num_heads),
            int(head_dim),
            scale(head_dim)
        )
    }

    pub(crate) fn copy_block(&self, pages: &mut KvPages, from: usize, to: usize) -> Result<()> {
        let num_blocks = pages.num_blocks();
        for tensor in [&mut pages.keys, &mut pages.values] {
            tensor.check_unshared("copy_block")?;
            let len = tensor.num_elements() / num_blocks * tensor.dtype().num_bytes();
            let (buffer, start) = tensor.cuda_buffer("copy_block")?;
            if from != to {
                self.copy_bytes(buffer, start + from * len, buffer, start + to * len, len)?;
            }
        }
        Ok(())
    }
}

/// Bytes of two stages of keys and values.
fn tile_memory(head_dim: usize) -> usize {
    2 * 2 * TILE * head_dim * 2
}

/// One over the root of a head's width, for exponentials of base two.
fn scale(head_dim: usize) -> f32 {
    std::f32::consts::LOG2_E / (head_dim as f32).sqrt()
}

fn check_pages(what: &'static str, qkv: &Tensor, pages: &KvPages) -> Result<()> {
    check_dtype(what, &pages.keys, qkv.dtype())?;
    check_dtype(what, &pages.values, qkv.dtype())
}

fn check_width(what: &'static str, head_dim: usize) -> Result<()> {
    if head_dim <= WIDEST {
        return Ok(());
    }
    let reason = format!("heads of {head_dim}, kernels take up to {WIDEST}");
    Err(TensorError::Unsupported { what, reason })
}
