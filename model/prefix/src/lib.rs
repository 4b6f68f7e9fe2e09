//! Names for beginnings of prompts: what a block of the KV cache holds, as a hash that every process computes alike. The engine
//! finds blocks by it, leaders tell coordinators which they have, and coordinators ask how much of a prompt a group holds.
//!
//! A block's hash covers all that its cached keys and values depend on: a salt (whose blocks, which model, which rotary base), and
//! every position up to the block's end, as a chain: a block's hash takes in the hash of the block before. A token counts as its id;
//! a row of a picture as the picture's digest and the row's number, so pictures of equal size, or the same ones in another order,
//! never meet.

mod block;
mod salt;

pub use block::{OpenBlock, PrefixHash};
pub use salt::{rope_class, salt};

/// Positions in a block of the KV cache.
pub const BLOCK_TOKENS: usize = 16;

/// A piece of a prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Span<'a> {
    /// Token ids.
    Tokens(&'a [u32]),
    /// A picture: its digest and the positions it takes.
    Picture {
        /// Two pictures with one digest are the same picture.
        digest: &'a [u8; 32],
        /// How many positions.
        num_tokens: usize,
    },
}

/// The hashes under which the parts of a prompt are found.
#[derive(Clone, Debug)]
pub struct BlockHashes {
    /// Of each block that the prompt fills.
    pub full: Vec<PrefixHash>,
    /// Ends of pictures inside a block, in order, with the hash of all up to there: a prompt that goes on differently after its
    /// last picture finds the picture still.
    pub picture_ends: Vec<(usize, PrefixHash)>,
    /// The block that the prompt does not fill, empty at a block's edge: what is drawn goes on in it.
    pub open: OpenBlock,
    /// Positions of the prompt.
    pub num_tokens: usize,
}

/// The hashes of a prompt under a [`salt`].
pub fn block_hashes(salt: [u8; 32], spans: &[Span<'_>]) -> BlockHashes {
    let mut hashes = BlockHashes {
        full: Vec::new(),
        picture_ends: Vec::new(),
        open: OpenBlock::first(salt),
        num_tokens: 0,
    };
    for span in spans {
        match span {
            Span::Tokens(ids) => ids.iter().for_each(|id| hashes.push_token(*id)),
            Span::Picture { digest, num_tokens } => {
                (0..*num_tokens).for_each(|row| hashes.push_picture_row(digest, row));
                if !hashes.open.is_empty() {
                    let end = (hashes.num_tokens, hashes.open.hash());
                    hashes.picture_ends.push(end);
                }
            }
        }
    }
    hashes
}

impl BlockHashes {
    /// Positions of the prompt that a cache holds from its beginning on, at most `limit`, as the engine counts them: whole blocks,
    /// then up to the end of a picture inside the next one. An engine computes at least the last position of a prompt anew, so
    /// that `limit` is one less than the prompt's positions there.
    pub fn covered(&self, limit: usize, mut holds: impl FnMut(&PrefixHash) -> bool) -> usize {
        let whole = self.full.iter().take(limit.div_ceil(BLOCK_TOKENS));
        let num_blocks = whole.take_while(|hash| holds(hash)).count();
        let tokens = num_blocks * BLOCK_TOKENS;
        if tokens >= limit {
            return limit;
        }
        let inside =
            self.picture_ends.iter().rev().filter(|(end, _)| {
                *end <= limit && *end > tokens && *end / BLOCK_TOKENS == num_blocks
            });
        let mut ends = inside.filter(|(_, hash)| holds(hash));
        ends.next().map_or(tokens, |(end, _)| *end)
    }

    /// Ends of pictures inside block `block`, in order, with the hash of all up to there.
    pub fn picture_ends_in(&self, block: usize) -> &[(usize, PrefixHash)] {
        let ends = &self.picture_ends;
        let first = ends.partition_point(|(end, _)| end / BLOCK_TOKENS < block);
        let last = ends.partition_point(|(end, _)| end / BLOCK_TOKENS <= block);
        &ends[first..last]
    }

    fn push_token(&mut self, id: u32) {
        self.open.push_token(id);
        self.pushed();
    }

    fn push_picture_row(&mut self, digest: &[u8; 32], row: usize) {
        self.open.push_picture_row(digest, row);
        self.pushed();
    }

    fn pushed(&mut self) {
        self.num_tokens += 1;
        if self.open.is_full() {
            let hash = self.open.hash();
            self.full.push(hash);
            self.open = OpenBlock::after(hash);
        }
    }
}

#[cfg(test)]
mod tests;
