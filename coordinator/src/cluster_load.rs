//! How busy a language group is, as its leader says from time to time.

use std::time::Duration;

/// Positions that a block of a group's cache holds.
pub(crate) const BLOCK_TOKENS: u64 = 16;

/// What a leader said last.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct GroupLoad {
    /// Requests that wait in the group's own queue.
    pub(crate) waiting: u32,
    /// Sequences that run.
    pub(crate) running: u32,
    /// Most sequences that run side by side; none where it is not known.
    pub(crate) max_running: Option<u32>,
    /// Positions of prompts that are yet to be computed, of requests that wait or run.
    pub(crate) prefill_tokens: u64,
    /// Blocks that sequences use.
    pub(crate) blocks_used: u32,
    /// Blocks that nobody uses and that may be found again.
    pub(crate) blocks_cached: u32,
    /// All blocks.
    pub(crate) blocks_total: u32,
    /// Steps done.
    pub(crate) steps: u64,
    /// How long the step that runs has taken by then; zero when none ran.
    pub(crate) step_time: Duration,
    /// Rows computed each second while steps ran, lately; none where it is not known yet.
    pub(crate) rows_per_second: Option<f32>,
    /// Prompt positions asked for since the group began.
    pub(crate) prompt_tokens: u64,
    /// Of these, those that were found in its cache.
    pub(crate) cached_prompt_tokens: u64,
}
