//! What stands at each position of a request, and the hashes under which its blocks are found again.
//!
//! A block's hash covers all that its cached keys and values depend on: the request's salt and every position up to the
//! block's end, as a chain (a block's hash takes in the hash of the block before). A token counts as its id; a row of a picture
//! as the picture's digest and the row's number, so pictures of equal size, or the same ones in another order, never meet.

use std::ops::Range;

use crate::{BLOCK_TOKENS, PromptSpan};

/// Names the contents of a block and of all before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct PrefixHash([u8; 32]);

/// A request's prompt with the hashes of its blocks, made once when it is submitted.
#[derive(Debug)]
pub(crate) struct Prompt {
    spans: Vec<PromptSpan>,
    /// First position of each span.
    starts: Vec<usize>,
    len: usize,
    root: PrefixHash,
    /// Of each block that the prompt fills.
    full: Vec<PrefixHash>,
    /// Ends of pictures inside a block, in order, with the hash of all up to there.
    picture_ends: Vec<(usize, PrefixHash)>,
    /// Position after the last picture; 0 without one.
    pictures_end: usize,
}

impl Prompt {
    /// Hashes all blocks of a prompt.
    pub(crate) fn new(spans: Vec<PromptSpan>, cache_salt: [u8; 32]) -> Self {
        let mut starts = Vec::with_capacity(spans.len());
        let mut len = 0;
        let mut ends = Vec::new();
        for span in &spans {
            starts.push(len);
            len += span.num_tokens();
            if matches!(span, PromptSpan::Picture { .. }) {
                ends.push(len);
            }
        }
        let mut prompt = Self {
            spans,
            starts,
            len,
            root: PrefixHash(cache_salt),
            full: Vec::with_capacity(len / BLOCK_TOKENS),
            picture_ends: Vec::new(),
            pictures_end: ends.last().copied().unwrap_or(0),
        };
        for block in 0..len / BLOCK_TOKENS {
            let start = block * BLOCK_TOKENS;
            let hash = prompt.hash(prompt.before(block, &[]), start..start + BLOCK_TOKENS, &[]);
            prompt.full.push(hash);
        }
        prompt.picture_ends = ends
            .into_iter()
            .filter(|end| end % BLOCK_TOKENS != 0)
            .map(|end| {
                let block = end / BLOCK_TOKENS;
                let before = prompt.before(block, &[]);
                (end, prompt.hash(before, block * BLOCK_TOKENS..end, &[]))
            })
            .collect();
        prompt
    }

    /// Positions.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Blocks that it fills.
    pub(crate) fn num_full_blocks(&self) -> usize {
        self.full.len()
    }

    /// Position after its last picture; 0 without one.
    pub(crate) fn pictures_end(&self) -> usize {
        self.pictures_end
    }

    /// Ends of pictures inside block `block`, in order, with the hash of all up to there.
    pub(crate) fn picture_ends(&self, block: usize) -> &[(usize, PrefixHash)] {
        let first = self
            .picture_ends
            .partition_point(|(end, _)| end / BLOCK_TOKENS < block);
        let last = self
            .picture_ends
            .partition_point(|(end, _)| end / BLOCK_TOKENS <= block);
        &self.picture_ends[first..last]
    }

    /// The hash of block `block`. `grown` has those of the blocks after the prompt's, as far as they are known.
    pub(crate) fn block_hash(&self, block: usize, grown: &[PrefixHash]) -> Option<PrefixHash> {
        match block.checked_sub(self.full.len()) {
            None => Some(self.full[block]),
            Some(beyond) => grown.get(beyond).copied(),
        }
    }

    /// The hash of the first block that `grown` does not know yet; `drawn` are the tokens after the prompt.
    pub(crate) fn next_hash(&self, grown: &[PrefixHash], drawn: &[u32]) -> Option<PrefixHash> {
        let block = self.full.len() + grown.len();
        let end = (block + 1) * BLOCK_TOKENS;
        (end <= self.len + drawn.len())
            .then(|| self.hash(self.before(block, grown), end - BLOCK_TOKENS..end, drawn))
    }

    fn before(&self, block: usize, grown: &[PrefixHash]) -> PrefixHash {
        match block.checked_sub(1) {
            None => self.root,
            Some(last) => self
                .block_hash(last, grown)
                .expect("chains are made in order"),
        }
    }

    fn hash(&self, before: PrefixHash, positions: Range<usize>, drawn: &[u32]) -> PrefixHash {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&before.0);
        for position in positions {
            self.hash_position(&mut hasher, position, drawn);
        }
        PrefixHash(*hasher.finalize().as_bytes())
    }

    /// The first byte says what follows, and with that how many bytes, so no two contents read alike.
    fn hash_position(&self, hasher: &mut blake3::Hasher, position: usize, drawn: &[u32]) {
        let mut bytes = [0; 41];
        let token = if position >= self.len {
            drawn[position - self.len]
        } else {
            let span = self.starts.partition_point(|start| *start <= position) - 1;
            let row = position - self.starts[span];
            match &self.spans[span] {
                PromptSpan::Tokens(ids) => ids[row],
                PromptSpan::Picture { digest, .. } => {
                    bytes[0] = 1;
                    bytes[1..33].copy_from_slice(digest);
                    bytes[33..].copy_from_slice(&(row as u64).to_le_bytes());
                    hasher.update(&bytes);
                    return;
                }
            }
        };
        bytes[1..5].copy_from_slice(&token.to_le_bytes());
        hasher.update(&bytes[..5]);
    }
}
