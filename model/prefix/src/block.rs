//! The hash of a block, and the block whose hash is not known yet.

use std::fmt;

use crate::BLOCK_TOKENS;

/// Names the contents of a block and of all before it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PrefixHash([u8; 32]);

impl PrefixHash {
    /// Its first 8 bytes, as they travel in cache events: enough to guess what a group holds, not to share blocks by.
    pub fn short(&self) -> u64 {
        let [a, b, c, d, e, f, g, h, ..] = self.0;
        u64::from_le_bytes([a, b, c, d, e, f, g, h])
    }
}

impl fmt::Debug for PrefixHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.short())
    }
}

/// The positions of a block as far as they are known, behind the hash of all before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenBlock {
    /// What is hashed.
    bytes: Vec<u8>,
    len: usize,
}

impl OpenBlock {
    /// The first block of a prompt.
    pub fn first(salt: [u8; 32]) -> Self {
        Self {
            bytes: salt.to_vec(),
            len: 0,
        }
    }

    /// The block after another.
    pub fn after(before: PrefixHash) -> Self {
        Self::first(before.0)
    }

    /// Positions in it.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether there is no room for more.
    pub fn is_full(&self) -> bool {
        self.len >= BLOCK_TOKENS
    }

    /// Adds a token. The first byte of a position says what follows, and with that how many bytes, so no two contents read alike.
    pub fn push_token(&mut self, id: u32) {
        self.bytes.push(0);
        self.bytes.extend(id.to_le_bytes());
        self.len += 1;
    }

    /// Adds a row of a picture.
    pub fn push_picture_row(&mut self, digest: &[u8; 32], row: usize) {
        self.bytes.push(1);
        self.bytes.extend(digest);
        self.bytes.extend((row as u64).to_le_bytes());
        self.len += 1;
    }

    /// The hash of all up to here.
    pub fn hash(&self) -> PrefixHash {
        PrefixHash(*blake3::hash(&self.bytes).as_bytes())
    }
}
