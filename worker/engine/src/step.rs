//! What the leader tells every rank to run, and what comes back.

use std::fmt;

use thiserror::Error;

use crate::{BlockId, SequenceId};

/// One step of a group: the same for every rank.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepPlan {
    /// Counts from 1.
    pub step: u64,
    /// Decodes first, then prefill chunks; a sequence appears at most once.
    pub items: Vec<StepItem>,
    /// Sequences that ended since the last plan: what is kept for them can go before the step runs.
    pub released: Vec<SequenceId>,
}

/// What to run for one sequence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepItem {
    /// The sequence.
    pub sequence: SequenceId,
    /// The rows to compute.
    pub work: Work,
    /// The sequence's blocks, in order of position.
    pub block_table: Vec<BlockId>,
}

/// The rows to compute for one sequence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Work {
    /// Positions `start..end` of the prompt; with `samples`, the prompt ends here and the first token is drawn.
    Prefill {
        /// First position.
        start: usize,
        /// Position after the last.
        end: usize,
        /// Whether a token is drawn from the last row.
        samples: bool,
    },
    /// Append `token_id` at `position` and draw the token number `token_index` (0 is the one after the prompt).
    Decode {
        /// The token drawn last.
        token_id: u32,
        /// Where it goes.
        position: usize,
        /// Number of the token to draw.
        token_index: usize,
    },
}

/// What a step drew.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StepOutput {
    /// One entry for each item that samples, in the plan's order.
    pub sampled: Vec<(SequenceId, Sampled)>,
}

/// What was drawn for a sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sampled {
    /// A token.
    Token(u32),
    /// The logits held NaN or no finite value: the sequence cannot go on.
    NotFinite,
}

/// An output that does not answer its plan: the executor is broken.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("step {step} should draw for sequences {wanted:?}, the executor drew for {found:?}")]
pub struct ApplyError {
    /// The plan's step.
    pub step: u64,
    /// Sequences whose items sample.
    pub wanted: Vec<SequenceId>,
    /// Sequences in the output.
    pub found: Vec<SequenceId>,
}

impl Work {
    /// Rows it takes in the step.
    pub fn num_rows(&self) -> usize {
        match self {
            Self::Prefill { start, end, .. } => end - start,
            Self::Decode { .. } => 1,
        }
    }

    /// Whether a token is drawn, and its number.
    pub fn samples(&self) -> Option<usize> {
        match self {
            Self::Prefill { samples, .. } => samples.then_some(0),
            Self::Decode { token_index, .. } => Some(*token_index),
        }
    }
}

impl StepPlan {
    /// Rows of all items.
    pub fn num_rows(&self) -> usize {
        self.items.iter().map(|item| item.work.num_rows()).sum()
    }

    /// A hash of all that ranks act on (FNV-1a over its numbers): two ranks that agree on it run the same step.
    pub fn content_hash(&self) -> u64 {
        let mut hash = Fnv::new();
        hash.number(self.step);
        for item in &self.items {
            hash.number(item.sequence.0);
            let work = match item.work {
                Work::Prefill {
                    start,
                    end,
                    samples,
                } => [1, start as u64, end as u64, u64::from(samples)],
                Work::Decode {
                    token_id,
                    position,
                    token_index,
                } => [2, u64::from(token_id), position as u64, token_index as u64],
            };
            for number in work {
                hash.number(number);
            }
            hash.number(item.block_table.len() as u64);
            for block in &item.block_table {
                hash.number(u64::from(block.0));
            }
        }
        for id in &self.released {
            hash.number(id.0);
        }
        hash.0
    }
}

impl fmt::Display for StepPlan {
    /// One line, shared by logs and tests: `step 7: decode 3 token 1 at 41; prefill 5 0..64 draw; release 2`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "step {}:", self.step)?;
        let mut separator = " ";
        for item in &self.items {
            f.write_str(separator)?;
            separator = "; ";
            match &item.work {
                Work::Prefill {
                    start,
                    end,
                    samples,
                } => {
                    let draw = if *samples { " draw" } else { "" };
                    write!(f, "prefill {} {start}..{end}{draw}", item.sequence)?;
                }
                Work::Decode {
                    token_id, position, ..
                } => write!(f, "decode {} token {token_id} at {position}", item.sequence)?,
            }
        }
        for id in &self.released {
            write!(f, "{separator}release {id}")?;
            separator = "; ";
        }
        Ok(())
    }
}

struct Fnv(u64);

impl Fnv {
    fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    fn number(&mut self, number: u64) {
        for byte in number.to_le_bytes() {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
}
