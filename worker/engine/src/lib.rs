//! The engine: which sequences run in which step, and what becomes of what they draw. Pure logic over ids and counts: no
//! tensors, no clock, no I/O, no randomness. The worker drives it: `submit` and `cancel` at any time, `prepare` while a step
//! runs, `apply` what the step drew, `seal` the next plan, hand the events on.
//!
//! Start reading in `scheduler.rs`. What stands on its own: `beam_search.rs` (which beams live on), `beginning.rs` (how a request goes on that ran elsewhere before), `block_manager.rs` (who
//! refers to which block) with `prefix_cache.rs` (which block holds what), `prompt.rs` (what a prompt is found by; the hashes themselves are `inkstone_prefix`).

mod beam_search;
mod beginning;
mod block_manager;
mod block_table;
mod id_map;
mod ids;
mod limits;
mod load;
mod prefix_cache;
mod prompt;
mod request;
mod request_state;
mod scheduler;
mod sequence;
mod step;

pub use beam_search::{BeamSearch, Extension, SearchStep};
pub use block_table::BlockTable;
pub use ids::{BlockId, RequestId, SequenceId};
pub use inkstone_prefix::BLOCK_TOKENS;
pub use limits::{EngineLimits, LimitsError};
pub use load::{Load, Stats};
pub use prefix_cache::{CacheChange, CacheChanges};
pub use request::{
    BeamAnswer, BeamParams, Decoding, DrawFailure, EndReason, EngineRequest, Event, Priority,
    PromptSpan, Resumed,
};
pub use scheduler::{Prepared, Scheduler, SubmitError};
pub use step::{
    ApplyError, BlockCopy, Draw, DrawKind, Drawn, DrawnToken, Fork, Start, StepItem, StepOutput,
    StepPlan, TokenLogprob,
};
