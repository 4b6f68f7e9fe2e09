//! The engine: which sequences run in which step, and what becomes of what they draw. Pure logic over ids and counts: no
//! tensors, no clock, no I/O, no randomness. The worker drives it: `submit` and `cancel` between steps, `plan`, run the
//! plan on an executor, `apply` what came out, hand the events on.
//!
//! Start reading in `scheduler.rs`.

mod block_manager;
mod ids;
mod limits;
mod scheduler;
mod sequence;
mod step;

pub use block_manager::BlockManager;
pub use ids::{BlockId, SequenceId};
pub use limits::{BLOCK_TOKENS, EngineLimits, LimitsError};
pub use scheduler::{Event, Load, Scheduler, SubmitError};
pub use sequence::{EndReason, SequenceRequest};
pub use step::{ApplyError, Sampled, StepItem, StepOutput, StepPlan, Work};
