//! One line of tokens and its place in the cache: an answer, or a live beam.

use inkstone_prefix::PrefixHash;

use crate::{
    BLOCK_TOKENS, BlockCopy, BlockId, BlockTable, SequenceId, TokenLogprob,
    block_manager::{BlockManager, CachedPrefix},
    prompt::Prompt,
};

/// A sequence. Its tokens are the request's prompt, then `drawn`.
#[derive(Clone, Debug)]
pub(crate) struct Sequence {
    pub(crate) id: SequenceId,
    /// Which answer; 0 for a beam.
    pub(crate) branch: usize,
    /// Tokens after the prompt.
    pub(crate) drawn: Vec<u32>,
    /// How many of them ranks know: all, or all but the last.
    pub(crate) told: usize,
    /// Its blocks, room for all its tokens or none: a sequence without is *unplaced*.
    pub(crate) table: BlockTable,
    /// Positions in the cache.
    pub(crate) computed: usize,
    /// Positions in the cache once the step in flight is done.
    pub(crate) planned: usize,
    /// Whether the step in flight draws its next token.
    pub(crate) drawing: bool,
    /// What a beam drew, until all beams have and the search goes on.
    pub(crate) candidates: Option<Vec<TokenLogprob>>,
    /// Hashes of the blocks after those that the prompt fills.
    hashes: Vec<PrefixHash>,
}

/// Where a position can be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Room {
    /// In a block that no other sequence refers to.
    Own,
    /// In a block that others read.
    Shared,
    /// In a block that it does not have yet.
    Missing,
}

impl Sequence {
    /// A prompt and what its branch drew before, of which ranks know; unplaced.
    pub(crate) fn begin(id: SequenceId, branch: usize, drawn: Vec<u32>, prompt: &Prompt) -> Self {
        let mut hashes = Vec::new();
        while let Some(hash) = prompt.next_hash(&hashes, &drawn) {
            hashes.push(hash);
        }
        Self {
            id,
            branch,
            told: drawn.len(),
            drawn,
            table: BlockTable::default(),
            computed: 0,
            planned: 0,
            drawing: false,
            candidates: None,
            hashes,
        }
    }

    /// A copy under a name of its own; both then refer to the same blocks.
    pub(crate) fn fork(&self, id: SequenceId, branch: usize, blocks: &mut BlockManager) -> Self {
        self.table.iter().for_each(|block| blocks.share(*block));
        Self {
            id,
            branch,
            ..self.clone()
        }
    }

    /// Positions, prompt and drawn.
    pub(crate) fn len(&self, prompt: &Prompt) -> usize {
        prompt.len() + self.drawn.len()
    }

    /// Whether it has blocks.
    pub(crate) fn is_placed(&self) -> bool {
        !self.table.is_empty()
    }

    /// Where the last of `num_tokens` positions can be written.
    pub(crate) fn room_for(&self, num_tokens: usize, blocks: &BlockManager) -> Room {
        match self.table.get((num_tokens - 1) / BLOCK_TOKENS) {
            None => Room::Missing,
            Some(block) if blocks.is_shared(*block) => Room::Shared,
            Some(_) => Room::Own,
        }
    }

    /// Makes room of its own for the last of `num_tokens` positions, with a block of `reserve` if it needs one. When others read
    /// the block that it is in the middle of, it goes on in a copy of it.
    pub(crate) fn make_room(
        &mut self,
        num_tokens: usize,
        reserve: &mut Vec<BlockId>,
        blocks: &mut BlockManager,
    ) -> Option<BlockCopy> {
        let room = self.room_for(num_tokens, blocks);
        if room == Room::Own {
            return None;
        }
        let to = reserve
            .pop()
            .expect("the step was prepared with a block for it");
        if room == Room::Missing {
            self.table.push(to);
            return None;
        }
        let from = self.table.replace_last(to).expect("it is shared");
        blocks.release(from);
        Some(BlockCopy { from, to })
    }

    /// Whether it drew what comes next, or the step in flight does.
    pub(crate) fn has_drawn(&self) -> bool {
        self.drawing || self.candidates.is_some()
    }

    /// Whether it decodes in the next step: all but its last token is in the cache, or the step in flight draws one. The last
    /// token of a prompt that drew nothing yet counts as prefill.
    pub(crate) fn is_decoding(&self, prompt: &Prompt) -> bool {
        self.is_placed() && self.candidates.is_none() && (self.drawing || self.lacks_last(prompt))
    }

    /// Whether the last token it drew is all that is not in the cache.
    pub(crate) fn lacks_last(&self, prompt: &Prompt) -> bool {
        !self.drawn.is_empty() && self.planned + 1 == self.len(prompt)
    }

    /// Positions still to prefill, once the step in flight is done.
    pub(crate) fn prefill_left(&self, prompt: &Prompt) -> usize {
        if self.is_placed() && !self.lacks_last(prompt) {
            self.len(prompt) - self.planned
        } else {
            0
        }
    }

    /// What ranks are to add to its tokens.
    pub(crate) fn untold(&self) -> Option<u32> {
        self.drawn.get(self.told).copied()
    }

    /// Looks in the cache for its beginning, at most `limit` positions.
    pub(crate) fn find_prefix(
        &self,
        prompt: &Prompt,
        blocks: &BlockManager,
        limit: usize,
    ) -> CachedPrefix {
        // At least one position is computed: the next token is drawn from it.
        let limit = limit.min(self.len(prompt) - 1);
        blocks.find_prefix(prompt, &self.hashes, limit)
    }

    /// Positions up to `end` are in the cache now: whole blocks, and what ends with a picture, can be found by others.
    pub(crate) fn commit(&mut self, prompt: &Prompt, end: usize, blocks: &mut BlockManager) {
        let start = self.computed;
        self.computed = end;
        for block in start / BLOCK_TOKENS..end / BLOCK_TOKENS {
            while block >= prompt.num_full_blocks() + self.hashes.len() {
                let hash = prompt.next_hash(&self.hashes, &self.drawn);
                self.hashes.push(hash.expect("the block is full"));
            }
            let hash = prompt.block_hash(block, &self.hashes).expect("made above");
            blocks.publish(hash, self.table[block]);
        }
        if start < prompt.pictures_end() {
            for block in start / BLOCK_TOKENS..=end / BLOCK_TOKENS {
                for (picture_end, hash) in prompt.picture_ends(block) {
                    if start < *picture_end && *picture_end <= end {
                        blocks.publish(*hash, self.table[block]);
                    }
                }
            }
        }
    }

    /// Takes what was found of it and new blocks for the rest; there must be as many. The copy to make, if it goes on inside a block.
    pub(crate) fn place(
        &mut self,
        prompt: &Prompt,
        found: CachedPrefix,
        blocks: &mut BlockManager,
    ) -> Option<BlockCopy> {
        found.blocks.iter().for_each(|block| blocks.share(*block));
        let mut table = found.blocks;
        self.computed = found.num_tokens;
        self.planned = found.num_tokens;
        // Whatever was drawn from its last row is drawn again, and the same.
        self.candidates = None;
        if let Some(from) = found.partial {
            blocks.touch(from);
        }
        let first_new = table.len();
        while table.len() < BlockManager::blocks_for(self.len(prompt)) {
            table.push(blocks.allocate().expect("counted by the caller"));
        }
        self.table = table.into();
        // When memory is so short that the cached block itself was given, what it holds is in place already.
        let to = self.table[first_new];
        found
            .partial
            .filter(|from| *from != to)
            .map(|from| BlockCopy { from, to })
    }

    /// Gives its blocks back. What is drawn stays, also by the step in flight.
    pub(crate) fn unplace(&mut self, blocks: &mut BlockManager) {
        blocks.release_table(&mut self.table.take());
        self.computed = 0;
        self.planned = 0;
    }
}
