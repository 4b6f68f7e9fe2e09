//! How much the engine may take on: every queue and every step has a bound.

use inkstone_prefix::BLOCK_TOKENS;
use thiserror::Error;

/// Bounds of the engine, fixed for its life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineLimits {
    /// Blocks of the KV cache; fewer than 2^32.
    pub num_blocks: usize,
    /// Most rows in one step: decodes count one each, prefill chunks take what is left.
    pub max_step_tokens: usize,
    /// Most sequences that run side by side; a request counts with all the answers or beams that it may yet have.
    pub max_running: usize,
    /// Most requests that wait to run; past it `submit` refuses.
    pub max_waiting: usize,
    /// Steps after which a waiting batch request counts as interactive, for good: so every request runs after a bounded time.
    pub max_wait_steps: usize,
}

/// Limits that contradict each other.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum LimitsError {
    /// A bound of zero.
    #[error("{0} must be at least 1")]
    Zero(&'static str),
    /// A step could not hold one row of each running sequence.
    #[error(
        "max_step_tokens is {max_step_tokens}, but each of {max_running} running sequences takes one row in a step"
    )]
    StepTooSmall {
        /// As given.
        max_step_tokens: usize,
        /// As given.
        max_running: usize,
    },
}

impl EngineLimits {
    /// Checks that the limits can work together.
    pub fn validate(&self) -> Result<(), LimitsError> {
        for (name, value) in [
            ("num_blocks", self.num_blocks),
            ("max_step_tokens", self.max_step_tokens),
            ("max_running", self.max_running),
            ("max_waiting", self.max_waiting),
            ("max_wait_steps", self.max_wait_steps),
        ] {
            if value == 0 {
                return Err(LimitsError::Zero(name));
            }
        }
        if self.max_step_tokens < self.max_running {
            return Err(LimitsError::StepTooSmall {
                max_step_tokens: self.max_step_tokens,
                max_running: self.max_running,
            });
        }
        Ok(())
    }

    /// Most tokens, prompt and answer, that one sequence can ever have.
    pub fn max_sequence_tokens(&self) -> usize {
        self.num_blocks.saturating_mul(BLOCK_TOKENS)
    }
}
