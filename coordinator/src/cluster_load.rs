//! How busy language groups say they are.

use std::time::Duration;

use inkstone_cluster::{Epoch, GroupId};

/// What a leader says of its group a few times a second.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct LoadReport {
    /// Requests that wait.
    pub(crate) waiting: u32,
    /// Sequences that run.
    pub(crate) running: u32,
    /// Most sequences that run side by side; 0: not known.
    pub(crate) max_running: u32,
    /// Positions of prompts that are yet to be computed, of requests that wait or run.
    pub(crate) prefill_tokens: u64,
    /// Blocks of the KV cache that sequences use.
    pub(crate) blocks_used: u32,
    /// Blocks that nobody uses and that may be found again.
    pub(crate) blocks_cached: u32,
    pub(crate) blocks_total: u32,
    /// Steps done.
    pub(crate) steps: u64,
    /// How long the step that runs has taken by now; nothing when none runs.
    pub(crate) step: Duration,
    /// Rows of prompts computed each second, however busy the group is; 0: not known yet.
    pub(crate) rows_per_second: f32,
    /// Prompt positions asked for since the group began.
    pub(crate) prompt_tokens: u64,
    /// Of those, found in the cache.
    pub(crate) cached_prompt_tokens: u64,
}

/// The last that this coordinator heard of a group's load.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct GroupLoad {
    pub(crate) group: GroupId,
    /// The life of the group that said so, as far as it is known.
    pub(crate) epoch: Option<Epoch>,
    /// How long ago it said so.
    pub(crate) age: Duration,
    pub(crate) report: LoadReport,
}
