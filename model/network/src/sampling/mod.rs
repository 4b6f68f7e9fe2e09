//! From logits to a token. Each rank of a group holds the logits of its share of the vocabulary: it applies the repetition
//! penalty there and picks [`Candidates`]; the leader merges what all ranks send and draws. Everything is a pure function over
//! slices; [`sample`] joins them through a collective. The order and the rules are those of transformers 4.33
//! (spec section 10.3): repetition penalty, temperature, top-k, top-p, draw.

mod candidates;
mod draw;
mod merge;
mod penalties;
#[cfg(test)]
mod tests;
mod truncate;

use std::borrow::Cow;

use thiserror::Error;

pub use candidates::{Candidate, Candidates};
pub use draw::uniform;
pub use merge::{SampledToken, TokenLogprob, merge};
pub use penalties::penalise;
pub use truncate::distribution;

use crate::collectives::{Collective, Result as CollectiveResult};

/// How the next token of a sequence is chosen. The default is greedy.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SamplingParams {
    /// Divides the logits; 0 takes the most likely token.
    pub temperature: f32,
    /// Only the `top_k` most likely tokens stay; 0 keeps all.
    pub top_k: u32,
    /// Only the most likely tokens that together have this probability stay; 1 keeps all.
    pub top_p: f32,
    /// Above 1, tokens seen before become less likely; 1 changes nothing.
    pub repetition_penalty: f32,
    /// Names the stream of random numbers; the number for a token depends on the seed and the token's index only.
    pub seed: u64,
    /// How many of the most likely tokens to report with each token; none takes no log-probabilities at all.
    pub num_logprobs: Option<u32>,
}

impl Default for SamplingParams {
    fn default() -> Self {
        Self {
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            repetition_penalty: 1.0,
            seed: 0,
            num_logprobs: None,
        }
    }
}

impl SamplingParams {
    pub fn is_greedy(&self) -> bool {
        self.temperature == 0.0
    }

    /// Says what is out of range, if anything is.
    pub fn validate(&self) -> Result<(), SampleError> {
        let checks = [
            (
                "temperature",
                self.temperature,
                "0 or more",
                self.temperature >= 0.0,
            ),
            (
                "top_p",
                self.top_p,
                "above 0 and at most 1",
                self.top_p > 0.0 && self.top_p <= 1.0,
            ),
            (
                "repetition_penalty",
                self.repetition_penalty,
                "above 0",
                self.repetition_penalty > 0.0,
            ),
        ];
        for (name, found, wanted, holds) in checks {
            if !(holds && found.is_finite()) {
                return Err(SampleError::Parameter {
                    name,
                    wanted,
                    found,
                });
            }
        }
        Ok(())
    }
}

/// Why a sequence gets no token. It concerns that sequence only.
#[derive(Clone, Debug, Error, PartialEq)]
pub enum SampleError {
    /// The model computed something that is not a number; the sequence cannot go on.
    #[error("{count} of the logits are not finite numbers")]
    NotFinite { count: usize },
    #[error("{name} must be {wanted}, found {found}")]
    Parameter {
        name: &'static str,
        wanted: &'static str,
        found: f32,
    },
    #[error("a rank sent candidates that cannot be read: {0}")]
    Malformed(String),
}

/// What one row of logits is sampled with.
#[derive(Clone, Copy, Debug)]
pub struct RowSampling<'a> {
    pub params: SamplingParams,
    /// The ids that the repetition penalty counts, in any order; repeats change nothing. For a prompt with pictures the reference
    /// counts `<s>` and the new tokens, otherwise the prompt too (spec section 10.3); the caller decides.
    pub seen: &'a [u32],
    /// Index of the token to be drawn among the new tokens of its sequence.
    pub token_index: u64,
}

/// Samples one token for each row. `logits` is this rank's slice, `[rows.len(), num_ids]`, of which the first column is token
/// `first_id`. Every rank calls this with the same rows; the leader (rank 0) gets the tokens, the others nothing.
pub fn sample(
    logits: &[f32],
    first_id: u32,
    rows: &[RowSampling<'_>],
    collective: &dyn Collective,
) -> CollectiveResult<Option<Vec<Result<SampledToken, SampleError>>>> {
    let num_ids = logits.len() / rows.len().max(1);
    let mut message = Vec::new();
    for (row, logits) in rows.iter().zip(logits.chunks_exact(num_ids.max(1))) {
        pick(logits, first_id, row).encode(&mut message);
    }
    if collective.world_size() == 1 {
        return Ok(Some(merge_rows(rows, &[message])));
    }
    let messages = collective.all_gather(&message)?;
    Ok((collective.rank() == 0).then(|| merge_rows(rows, &messages)))
}

/// A rank's share of the work for one row: penalise its slice and pick what the leader needs of it.
pub fn pick(logits: &[f32], first_id: u32, row: &RowSampling<'_>) -> Candidates {
    let penalty = row.params.repetition_penalty;
    let penalised: Cow<'_, [f32]> = penalise(logits, first_id, row.seen, penalty);
    Candidates::pick(logits, &penalised, first_id, &row.params)
}

/// The leader's share for all rows: reads every rank's candidates for a row, merges them and draws.
fn merge_rows(
    rows: &[RowSampling<'_>],
    messages: &[Vec<f32>],
) -> Vec<Result<SampledToken, SampleError>> {
    let mut unread: Vec<&[f32]> = messages.iter().map(Vec::as_slice).collect();
    let merge_row = |row: &RowSampling<'_>| {
        let parts: Result<Vec<_>, _> = unread.iter_mut().map(Candidates::decode).collect();
        merge(&parts?, &row.params, row.token_index)
    };
    rows.iter().map(merge_row).collect()
}
