//! The sequences of a group between steps, as one rank holds them: how far each is read, what comes next, and which blocks of
//! the cache it has.

use std::ops::Range;

use inkstone_model::{
    internlm2::{BatchSequence, Input, LogitsRows},
    kv_cache::BLOCK_TOKENS,
    tensor::Tensor,
};

use super::group::{Generated, Job};

/// Prompt rows that a sequence brings to one step, as chunked prefill would cut them. No multiple of a block.
const CHUNK_ROWS: usize = 200;

/// A sequence between steps.
pub(super) struct Running<'a> {
    pub(super) job: &'a Job,
    inputs: &'a [RankInput<'a>],
    prompt_length: usize,
    block_table: Vec<u32>,
    /// Rows that are in the cache.
    pub(super) position: usize,
    /// With this rank's columns of the logits.
    pub(super) generated: Generated,
}

impl<'a> Running<'a> {
    pub(super) fn new(job: &'a Job, inputs: &'a [RankInput<'a>], block_table: Vec<u32>) -> Self {
        Self {
            job,
            inputs,
            prompt_length: num_rows(inputs),
            block_table,
            position: 0,
            generated: Generated {
                tokens: Vec::new(),
                logits: Vec::new(),
            },
        }
    }

    pub(super) fn is_done(&self) -> bool {
        let tokens = &self.generated.tokens;
        tokens.len() == self.job.max_new_tokens
            || tokens
                .last()
                .is_some_and(|last| self.job.stop_ids.contains(last))
    }

    pub(super) fn has_read_prompt(&self) -> bool {
        self.position >= self.prompt_length
    }

    pub(super) fn seen(&self) -> Vec<u32> {
        [&self.job.seen[..], &self.generated.tokens].concat()
    }

    /// The rows of the next step.
    pub(super) fn next(&self) -> BatchSequence<'_> {
        let end = self.prompt_length.min(self.position + CHUNK_ROWS);
        let (inputs, reads_last) = if self.has_read_prompt() {
            let tokens = &self.generated.tokens;
            (vec![Input::Tokens(&tokens[tokens.len() - 1..])], true)
        } else {
            let inputs = slice(self.inputs, self.position..end);
            (inputs, end == self.prompt_length)
        };
        BatchSequence {
            start: self.position,
            inputs,
            block_table: &self.block_table,
            rope_length: self.prompt_length,
            logits: if reads_last {
                LogitsRows::Last
            } else {
                LogitsRows::None
            },
        }
    }
}

/// A picture's rows or some tokens, on this rank.
pub(super) enum RankInput<'a> {
    Tokens(&'a [u32]),
    Picture(Tensor),
}

/// The rows `rows` of a prompt.
pub(super) fn slice<'a>(inputs: &'a [RankInput<'a>], rows: Range<usize>) -> Vec<Input<'a>> {
    let mut sliced = Vec::new();
    let mut first = 0;
    for input in inputs {
        let len = match input {
            RankInput::Tokens(ids) => ids.len(),
            RankInput::Picture(projected) => projected.rows(),
        };
        let start = rows.start.clamp(first, first + len) - first;
        let end = rows.end.clamp(first, first + len) - first;
        first += len;
        if start == end {
            continue;
        }
        sliced.push(match input {
            RankInput::Tokens(ids) => Input::Tokens(&ids[start..end]),
            RankInput::Picture(projected) => Input::Picture {
                projected,
                rows: start..end,
            },
        });
    }
    sliced
}

pub(super) fn num_rows(inputs: &[RankInput<'_>]) -> usize {
    let rows = |input: &RankInput<'_>| match input {
        RankInput::Tokens(ids) => ids.len(),
        RankInput::Picture(projected) => projected.rows(),
    };
    inputs.iter().map(rows).sum()
}

pub(super) fn num_picture_rows(inputs: &[RankInput<'_>]) -> usize {
    let rows = |input: &RankInput<'_>| match input {
        RankInput::Tokens(_) => 0,
        RankInput::Picture(projected) => projected.rows(),
    };
    inputs.iter().map(rows).sum()
}

/// Hands out blocks out of order, as a cache in use would.
pub(super) struct Blocks {
    pub(super) total: usize,
    num_taken: usize,
}

impl Blocks {
    pub(super) fn new(total: usize) -> Self {
        Self {
            total,
            num_taken: 0,
        }
    }

    /// Blocks for `num_rows` positions.
    pub(super) fn take(&mut self, num_rows: usize) -> Vec<u32> {
        let count = num_rows.div_ceil(BLOCK_TOKENS);
        let taken = self.num_taken..self.num_taken + count;
        self.num_taken += count;
        // Every other block from the end, then the rest: a permutation of all.
        let place = |index: usize| {
            let half = self.total.div_ceil(2);
            if index < half {
                self.total - 1 - 2 * index
            } else {
                self.total - 2 - 2 * (index - half)
            }
        };
        taken.map(|index| place(index) as u32).collect()
    }
}
