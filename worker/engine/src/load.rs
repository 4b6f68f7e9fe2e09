//! How busy the engine is, and what it has counted since it began.

/// How busy the engine is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Positions of requests that are yet to be computed: of those that run, and of those that wait as far as the cache told when
    /// they came.
    pub prefill_tokens: usize,
    /// Requests that wait: for room, or for their pictures.
    pub waiting: usize,
    /// Sequences that run. A request counts with all the answers or beams that it may yet have.
    pub running: usize,
    /// Blocks that somebody uses.
    pub blocks_used: usize,
    /// Blocks that nobody uses, kept for the prefix they hold until memory is wanted.
    pub blocks_cached: usize,
    /// All blocks.
    pub blocks_total: usize,
}

/// Counters; they only grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Positions of prompts that were looked up in the prefix cache, once for each request that started.
    pub prompt_tokens: u64,
    /// Those of them that were found.
    pub cached_tokens: u64,
    /// Cached blocks that were given up for new content.
    pub evictions: u64,
    /// Times that a running request gave up its blocks for another.
    pub preemptions: u64,
}
