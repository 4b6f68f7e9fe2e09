//! A request's prompt as the engine keeps it: how long it is, where its pictures end, and the hashes its blocks are found by.

use inkstone_prefix::{BlockHashes, OpenBlock, PrefixHash, Span, block_hashes};

use crate::{BLOCK_TOKENS, PromptSpan};

/// A request's prompt with the hashes of its blocks, made once when it is submitted.
#[derive(Debug)]
pub(crate) struct Prompt {
    hashes: BlockHashes,
    /// Position after the last picture; 0 without one.
    pictures_end: usize,
}

impl Prompt {
    /// Hashes all blocks of a prompt.
    pub(crate) fn new(spans: &[PromptSpan], cache_salt: [u8; 32]) -> Self {
        let mut len = 0;
        let mut pictures_end = 0;
        for span in spans {
            len += span.num_tokens();
            if matches!(span, PromptSpan::Picture { .. }) {
                pictures_end = len;
            }
        }
        let spans: Vec<Span<'_>> = spans.iter().map(PromptSpan::as_hashed).collect();
        Self {
            hashes: block_hashes(cache_salt, &spans),
            pictures_end,
        }
    }

    /// Positions.
    pub(crate) fn len(&self) -> usize {
        self.hashes.num_tokens
    }

    /// Blocks that it fills.
    pub(crate) fn num_full_blocks(&self) -> usize {
        self.hashes.full.len()
    }

    /// Position after its last picture; 0 without one.
    pub(crate) fn pictures_end(&self) -> usize {
        self.pictures_end
    }

    /// Ends of pictures inside block `block`, in order, with the hash of all up to there.
    pub(crate) fn picture_ends(&self, block: usize) -> &[(usize, PrefixHash)] {
        self.hashes.picture_ends_in(block)
    }

    /// The hash of block `block`. `grown` has those of the blocks after the prompt's, as far as they are known.
    pub(crate) fn block_hash(&self, block: usize, grown: &[PrefixHash]) -> Option<PrefixHash> {
        match block.checked_sub(self.num_full_blocks()) {
            None => Some(self.hashes.full[block]),
            Some(beyond) => grown.get(beyond).copied(),
        }
    }

    /// The hash of the first block that `grown` does not know yet; `drawn` are the tokens after the prompt.
    pub(crate) fn next_hash(&self, grown: &[PrefixHash], drawn: &[u32]) -> Option<PrefixHash> {
        let (mut block, first) = match grown.last() {
            None => (self.hashes.open.clone(), 0),
            Some(before) => {
                let first = grown.len() * BLOCK_TOKENS - self.hashes.open.len();
                (OpenBlock::after(*before), first)
            }
        };
        let missing = BLOCK_TOKENS - block.len();
        let ids = drawn.get(first..first + missing)?;
        ids.iter().for_each(|id| block.push_token(*id));
        Some(block.hash())
    }
}
