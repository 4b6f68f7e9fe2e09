//! One sequence: what was asked, how far it is.

use crate::{BlockId, SequenceId};

/// What the engine must know of a sequence to run it. Contents (tokens, pictures, sampling) stay with the executor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SequenceRequest {
    /// Its name; never used twice.
    pub id: SequenceId,
    /// Positions of the prompt, pictures included; at least 1.
    pub prompt_tokens: usize,
    /// Most tokens to draw; at least 1.
    pub max_new_tokens: usize,
    /// Tokens that end it.
    pub stop_token_ids: Vec<u32>,
}

/// Why a sequence ended by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndReason {
    /// It drew a stop token.
    Stop,
    /// It drew `max_new_tokens`.
    Length,
}

/// How far a running sequence is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// `computed` positions of the prompt are in the cache.
    Prefill { computed: usize },
    /// The prompt is in the cache; `last_token` was drawn and is not.
    Decode { last_token: u32, drawn: usize },
}

/// A sequence that holds blocks.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) request: SequenceRequest,
    /// Enough for the prompt and all it may draw: taken once, so a running sequence never waits for memory.
    pub(crate) blocks: Vec<BlockId>,
    pub(crate) progress: Progress,
}

impl SequenceRequest {
    /// Positions that the cache must hold: the last token drawn is never fed back.
    pub(crate) fn max_positions(&self) -> usize {
        self.prompt_tokens.saturating_add(self.max_new_tokens - 1)
    }
}
