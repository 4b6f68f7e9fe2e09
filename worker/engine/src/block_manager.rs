//! Who owns which block of the KV cache. A block is free or owned by one sequence.

use crate::{BlockId, limits::BLOCK_TOKENS};

/// The free list. Owners keep the ids they were given and bring them back.
#[derive(Debug)]
pub struct BlockManager {
    num_blocks: usize,
    free: Vec<BlockId>,
}

impl BlockManager {
    /// All `num_blocks` free.
    pub fn new(num_blocks: usize) -> Self {
        let count = u32::try_from(num_blocks).expect("a cache has fewer than 2^32 blocks");
        Self {
            num_blocks,
            free: (0..count).rev().map(BlockId).collect(),
        }
    }

    /// Blocks that hold `num_tokens` positions.
    pub fn blocks_for(num_tokens: usize) -> usize {
        num_tokens.div_ceil(BLOCK_TOKENS)
    }

    /// Takes `count` blocks, or none when there are not so many.
    pub fn allocate(&mut self, count: usize) -> Option<Vec<BlockId>> {
        let rest = self.free.len().checked_sub(count)?;
        let mut blocks = self.free.split_off(rest);
        blocks.reverse();
        Some(blocks)
    }

    /// Takes blocks back.
    pub fn release(&mut self, blocks: Vec<BlockId>) {
        self.free.extend(blocks.into_iter().rev());
        assert!(
            self.free.len() <= self.num_blocks,
            "more blocks came back than were given"
        );
    }

    /// Blocks nobody owns.
    pub fn num_free(&self) -> usize {
        self.free.len()
    }

    /// All blocks.
    pub fn num_blocks(&self) -> usize {
        self.num_blocks
    }

    /// Every block is free or in `owned`, once. Panics otherwise: only a bug can do that.
    pub fn check_integrity(&self, owned: impl Iterator<Item = BlockId>) {
        let mut seen = vec![false; self.num_blocks];
        for block in self.free.iter().copied().chain(owned) {
            let slot = &mut seen[block.0 as usize];
            assert!(!*slot, "block {block} is in two places");
            *slot = true;
        }
        assert!(seen.iter().all(|seen| *seen), "a block is lost");
    }
}
