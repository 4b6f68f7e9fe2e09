//! Where the rows of a batch belong: checked once for a forward, used by every layer.

use std::{
    ops::Range,
    sync::{Arc, OnceLock},
};

use thiserror::Error;

use crate::{kv_cache::BLOCK_TOKENS, ops::cuda::UploadedPlan};

/// The new rows of one sequence, as the caller names them. Rows of a batch lie in the order of its sequences.
#[derive(Clone, Copy, Debug)]
pub struct SequenceRows<'a> {
    /// Position of the first new row; positions before it are in the cache.
    pub start: usize,
    pub num_rows: usize,
    /// The blocks that hold the sequence, in order: block `i` holds positions `16 i` to `16 i + 15`.
    pub block_table: &'a [u32],
}

/// Why a batch cannot be attended.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum PlanError {
    #[error("sequence {sequence} ends at position {end}, its {num_blocks} blocks hold {}", num_blocks * BLOCK_TOKENS)]
    TooFewBlocks {
        sequence: usize,
        end: usize,
        num_blocks: usize,
    },
    #[error("sequence {sequence} names block {block}, the cache has {num_blocks}")]
    NoSuchBlock {
        sequence: usize,
        block: u32,
        num_blocks: usize,
    },
    #[error("sequences write block {block} twice in one step; a shared block must be copied first")]
    WrittenTwice { block: u32 },
}

/// A batch whose rows, positions and blocks are known to fit together.
#[derive(Clone, Debug)]
pub struct AttentionPlan {
    pub(in crate::ops) sequences: Vec<PlannedSequence>,
    /// By rising block.
    pub(super) writes: Vec<BlockWrite>,
    num_rows: usize,
    num_blocks: usize,
    /// The plan on the GPU that runs it, from the first op on that asks for it.
    #[cfg_attr(
        not(feature = "cuda"),
        expect(dead_code, reason = "only a GPU asks for it")
    )]
    pub(in crate::ops) uploaded: OnceLock<Arc<UploadedPlan>>,
}

#[derive(Clone, Debug)]
pub(in crate::ops) struct PlannedSequence {
    /// Its rows in the batch.
    pub(in crate::ops) rows: Range<usize>,
    /// Position of the first of them.
    pub(in crate::ops) start: usize,
    /// The blocks up to the last position, no more.
    pub(in crate::ops) blocks: Vec<u32>,
}

/// Rows of the batch that go to one block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BlockWrite {
    pub(super) block: u32,
    /// Place of the first row in the block.
    pub(super) slot: usize,
    pub(super) first_row: usize,
    pub(super) num_rows: usize,
}

impl AttentionPlan {
    /// Checks a batch against a cache of `num_blocks` blocks.
    pub fn new(sequences: &[SequenceRows<'_>], num_blocks: usize) -> Result<Self, PlanError> {
        let mut plan = Self {
            sequences: Vec::with_capacity(sequences.len()),
            writes: Vec::new(),
            num_rows: 0,
            num_blocks,
            uploaded: OnceLock::new(),
        };
        for (index, sequence) in sequences.iter().enumerate() {
            plan.add(index, sequence)?;
        }
        plan.writes.sort_unstable_by_key(|write| write.block);
        match plan
            .writes
            .windows(2)
            .find(|pair| pair[0].block == pair[1].block)
        {
            Some(pair) => Err(PlanError::WrittenTwice {
                block: pair[0].block,
            }),
            None => Ok(plan),
        }
    }

    /// A plan that is on a device already, of which the host knows the size alone.
    #[cfg(feature = "cuda")]
    pub(in crate::ops) fn on_a_device(
        num_rows: usize,
        num_blocks: usize,
        uploaded: UploadedPlan,
    ) -> Self {
        Self {
            sequences: Vec::new(),
            writes: Vec::new(),
            num_rows,
            num_blocks,
            uploaded: OnceLock::from(Arc::new(uploaded)),
        }
    }

    pub fn num_rows(&self) -> usize {
        self.num_rows
    }

    /// Blocks of the cache that the plan was checked against.
    pub fn num_blocks(&self) -> usize {
        self.num_blocks
    }

    fn add(&mut self, index: usize, sequence: &SequenceRows<'_>) -> Result<(), PlanError> {
        let end = sequence.start + sequence.num_rows;
        let blocks = sequence.block_table.get(..end.div_ceil(BLOCK_TOKENS));
        let blocks = blocks.ok_or(PlanError::TooFewBlocks {
            sequence: index,
            end,
            num_blocks: sequence.block_table.len(),
        })?;
        if let Some(&block) = blocks
            .iter()
            .find(|&&block| block as usize >= self.num_blocks)
        {
            return Err(PlanError::NoSuchBlock {
                sequence: index,
                block,
                num_blocks: self.num_blocks,
            });
        }
        let mut position = sequence.start;
        while position < end {
            let slot = position % BLOCK_TOKENS;
            let num_rows = (BLOCK_TOKENS - slot).min(end - position);
            self.writes.push(BlockWrite {
                block: blocks[position / BLOCK_TOKENS],
                slot,
                first_row: self.num_rows + position - sequence.start,
                num_rows,
            });
            position += num_rows;
        }
        self.sequences.push(PlannedSequence {
            rows: self.num_rows..self.num_rows + sequence.num_rows,
            start: sequence.start,
            blocks: blocks.to_vec(),
        });
        self.num_rows += sequence.num_rows;
        Ok(())
    }
}
