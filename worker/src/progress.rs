//! How far a worker is with loading.

use std::sync::Arc;

/// One report of one part of the process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadProgress {
    /// Who loads: `rank 0`, `vision`.
    pub part: String,
    /// Bytes of weights in memory.
    pub bytes_done: u64,
    /// Bytes there will be.
    pub bytes_total: u64,
}

/// Takes reports from any thread; must be quick.
pub type ProgressSink = Arc<dyn Fn(LoadProgress) + Send + Sync>;
