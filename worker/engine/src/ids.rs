//! Names of the things the engine counts.

use std::fmt;

/// What a client asked for: one prompt, one or more answers. Unique for the life of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// One line of tokens in the cache: a prompt and what was drawn after it. A request has one for each of its answers, or for
/// each of its live beams. Unique for the life of a group; the engine gives the names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SequenceId(pub u64);

/// A block of the KV cache: [`BLOCK_TOKENS`](crate::BLOCK_TOKENS) positions in every layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockId(pub u32);

macro_rules! display_number {
    ($($name:ty),*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    )*};
}

display_number!(RequestId, SequenceId, BlockId);
