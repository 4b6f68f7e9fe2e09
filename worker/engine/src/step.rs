//! What the leader tells every rank to run, and what comes back.

use std::{fmt, ops::Range};

use thiserror::Error;

use crate::{BlockId, BlockTable, RequestId, SequenceId, request::DrawFailure};

/// One step of a group: the same for every rank. A rank does, in this order: `released` and `retired`, `started`, `forks`, `copies`, `items`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StepPlan {
    /// Counts from 1.
    pub step: u64,
    /// Sequences that are no more: what a rank keeps of their tokens can go.
    pub released: Vec<SequenceId>,
    /// Requests that are over: their prompts and pictures can go.
    pub retired: Vec<RequestId>,
    /// Sequences that begin: their tokens are those of the request's prompt, and of an earlier run. (A preempted sequence keeps its name and its tokens.)
    pub started: Vec<Start>,
    /// Sequences that begin with the tokens another one has.
    pub forks: Vec<Fork>,
    /// Blocks to copy in every layer before the items run, in this order.
    pub copies: Vec<BlockCopy>,
    /// Decodes first, then prefill chunks; a sequence appears at most once.
    pub items: Vec<StepItem>,
}

/// A sequence that begins, with its request's prompt and what its branch drew in an earlier run of the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Start {
    /// Whose prompt it has.
    pub request: RequestId,
    /// Its name.
    pub sequence: SequenceId,
    /// The branch it is. Branches that have not parted yet begin as the first.
    pub branch: usize,
}

/// A sequence that begins as a copy of another: prompt and all tokens drawn so far that ranks know of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fork {
    /// Which one.
    pub parent: SequenceId,
    /// Its name.
    pub child: SequenceId,
    /// The branch it is from now on: keys its draws, together with the seed and the token's index.
    pub branch: usize,
}

/// A block to copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockCopy {
    /// What is copied.
    pub from: BlockId,
    /// Where to.
    pub to: BlockId,
}

/// What to run for one sequence: positions `start..end` of its tokens (the prompt, then what was drawn).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepItem {
    /// The sequence.
    pub sequence: SequenceId,
    /// The token drawn last, if ranks do not know it yet: they add it to the sequence's tokens, at position `end - 1`, before the step runs.
    pub appended: Option<u32>,
    /// First position to compute; all before it are in the cache.
    pub start: usize,
    /// Position after the last; `end - start` rows, at least one.
    pub end: usize,
    /// Whether and how the next token is drawn from the last row; only when `end` is the number of the sequence's tokens.
    pub draw: Option<Draw>,
    /// Whether log-probabilities are wanted for the prompt's tokens that the rows predict.
    pub prompt_logprobs: bool,
    /// The sequence's blocks, in order of position; the new rows included.
    pub block_table: BlockTable,
}

/// A draw from a row of logits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Draw {
    /// Number of the token to draw; 0 is the first after the prompt.
    pub token_index: usize,
    /// What is drawn.
    pub kind: DrawKind,
}

/// What is drawn from a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DrawKind {
    /// One token, for each of the branches (more than one only for the first token: they part here).
    Tokens {
        /// First and last-plus-one branch.
        first_branch: usize,
        /// How many.
        branches: usize,
    },
    /// The best tokens with their log-probabilities, best first, for a beam search to choose from.
    Candidates {
        /// How many.
        count: usize,
    },
}

/// What a step drew.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StepOutput {
    /// One entry for each item that draws, in the plan's order.
    pub drawn: Vec<(SequenceId, Drawn)>,
    /// For each item with `prompt_logprobs`, in the plan's order: one entry for each of its rows, which is about the token *after*
    /// that row (so the last row of the prompt, whose next token is drawn, gives `None`).
    pub prompt_logprobs: Vec<(SequenceId, Vec<Option<DrawnToken>>)>,
}

/// What was drawn for a sequence.
#[derive(Clone, Debug, PartialEq)]
pub enum Drawn {
    /// A token for each branch of the draw.
    Tokens(Vec<DrawnToken>),
    /// Best first; as many as asked for, or the whole vocabulary when it is smaller.
    Candidates(Vec<TokenLogprob>),
    /// No token.
    Failed(DrawFailure),
}

/// A token that was drawn, with its log-probabilities when they were asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct DrawnToken {
    /// The token.
    pub token_id: u32,
    /// Natural logarithm of its probability as the model gave it.
    pub logprob: Option<f32>,
    /// The most likely tokens, best first.
    pub top_logprobs: Vec<TokenLogprob>,
}

/// A token and the natural logarithm of its probability.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TokenLogprob {
    /// The token.
    pub token_id: u32,
    /// At most 0.
    pub logprob: f32,
}

/// An output that does not answer its plan: the executor is broken.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("step {step} should draw {wanted}, the executor gave {found}")]
pub struct ApplyError {
    /// The plan's step.
    pub step: u64,
    /// What the plan asks for.
    pub wanted: String,
    /// What came.
    pub found: String,
}

impl StepItem {
    /// Rows it takes in the step.
    pub fn num_rows(&self) -> usize {
        self.end - self.start
    }

    /// The positions it computes.
    pub fn positions(&self) -> Range<usize> {
        self.start..self.end
    }
}

impl DrawnToken {
    /// A token without log-probabilities.
    pub fn plain(token_id: u32) -> Self {
        Self {
            token_id,
            logprob: None,
            top_logprobs: Vec::new(),
        }
    }
}

impl StepPlan {
    /// Rows of all items.
    pub fn num_rows(&self) -> usize {
        self.items.iter().map(StepItem::num_rows).sum()
    }

    /// A hash of all that ranks act on (FNV-1a over its numbers): two ranks that agree on it run the same step.
    pub fn content_hash(&self) -> u64 {
        let mut hash = Fnv::new();
        hash.number(self.step);
        hash.list(self.released.iter().map(|id| [id.0]));
        hash.list(self.retired.iter().map(|id| [id.0]));
        hash.list(
            self.started
                .iter()
                .map(|s| [s.request.0, s.sequence.0, s.branch as u64]),
        );
        hash.list(
            self.forks
                .iter()
                .map(|f| [f.parent.0, f.child.0, f.branch as u64]),
        );
        hash.list(
            self.copies
                .iter()
                .map(|c| [u64::from(c.from.0), u64::from(c.to.0)]),
        );
        for item in &self.items {
            hash.item(item);
        }
        hash.0
    }
}

impl fmt::Display for StepPlan {
    /// One line, shared by logs and tests: `step 7: release 2; start 5 of 4; fork 6 from 5; copy 3>8; 1 +17 40..41 draw; 5 0..64`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "step {}:", self.step)?;
        let mut parts = Vec::new();
        parts.extend(self.released.iter().map(|id| format!("release {id}")));
        parts.extend(self.retired.iter().map(|id| format!("retire {id}")));
        parts.extend(self.started.iter().map(Start::to_string));
        parts.extend(
            self.forks
                .iter()
                .map(|fork| format!("fork {} from {}", fork.child, fork.parent)),
        );
        parts.extend(
            self.copies
                .iter()
                .map(|copy| format!("copy {}>{}", copy.from, copy.to)),
        );
        parts.extend(self.items.iter().map(StepItem::to_string));
        if !parts.is_empty() {
            write!(f, " {}", parts.join("; "))?;
        }
        Ok(())
    }
}

impl fmt::Display for Start {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "start {} of {}", self.sequence, self.request)?;
        match self.branch {
            0 => Ok(()),
            branch => write!(f, ".{branch}"),
        }
    }
}

impl fmt::Display for StepItem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.sequence)?;
        if let Some(token_id) = self.appended {
            write!(f, " +{token_id}")?;
        }
        write!(f, " {}..{}", self.start, self.end)?;
        match self.draw.map(|draw| draw.kind) {
            None => Ok(()),
            Some(DrawKind::Tokens { branches: 1, .. }) => f.write_str(" draw"),
            Some(DrawKind::Tokens { branches, .. }) => write!(f, " draw {branches}"),
            Some(DrawKind::Candidates { count }) => write!(f, " best {count}"),
        }
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

    fn list<const N: usize>(&mut self, entries: impl ExactSizeIterator<Item = [u64; N]>) {
        self.number(entries.len() as u64);
        entries.flatten().for_each(|number| self.number(number));
    }

    fn item(&mut self, item: &StepItem) {
        self.number(item.sequence.0);
        self.number(item.appended.map_or(0, |id| u64::from(id) + 1));
        self.number(item.start as u64);
        self.number(item.end as u64);
        let draw = match item.draw {
            None => [0; 4],
            Some(Draw { token_index, kind }) => match kind {
                DrawKind::Tokens {
                    first_branch,
                    branches,
                } => [1, token_index as u64, first_branch as u64, branches as u64],
                DrawKind::Candidates { count } => [2, token_index as u64, count as u64, 0],
            },
        };
        draw.into_iter().for_each(|number| self.number(number));
        self.number(u64::from(item.prompt_logprobs));
        self.list(item.block_table.iter().map(|block| [u64::from(block.0)]));
    }
}
