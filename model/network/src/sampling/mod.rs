//! From logits to a token. Each rank of a group holds the logits of its share of the vocabulary: it turns them into scores
//! there and picks [`Candidates`]; the leader merges what all ranks send and draws. Everything is a pure function over
//! slices; [`sample`] joins them through a collective. The order and the rules are those of transformers 4.33
//! (spec section 10.3), with what it does not have put in between:
//!
//! 1. repetition penalty,
//! 2. presence and frequency penalty, then bias: both are added,
//! 3. banned tokens and those outside the mask go,
//! 4. temperature, top-k, top-p, and min-p of what these left,
//! 5. draw.
//!
//! A beam search takes the log-softmax of the logits first and applies 1 to 3 to that, as transformers does. Log-probabilities
//! that are reported beside a token are always those of the model, before all of it.

mod candidates;
mod draw;
mod mask;
mod merge;
mod penalties;
#[cfg(test)]
mod tests;
mod truncate;

use thiserror::Error;

pub use candidates::{Candidate, Candidates};
pub use draw::uniform;
pub use mask::TokenMask;
pub use merge::{RowResult, SampledToken, TokenLogprob, merge};
pub use penalties::penalise;
pub use truncate::distribution;

use crate::{
    collectives::{Collective, CollectiveError},
    ops::best_logits::best_logits,
    tensor::{Tensor, TensorError},
};

/// How the next token of a sequence is chosen. The default is greedy.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SamplingParams {
    /// Divides the logits; 0 takes the most likely token.
    pub temperature: f32,
    /// Only the `top_k` most likely tokens stay; 0 keeps all.
    pub top_k: u32,
    /// Only the most likely tokens that together have this probability stay; 1 keeps all.
    pub top_p: f32,
    /// Only tokens at least this many times as likely as the most likely one stay; 0 keeps all.
    pub min_p: f32,
    /// Above 1, tokens seen before become less likely; 1 changes nothing.
    pub repetition_penalty: f32,
    /// Taken from the logits of tokens that were generated; below 0, they become more likely.
    pub presence_penalty: f32,
    /// The same once more for each time they were.
    pub frequency_penalty: f32,
    /// Names the stream of random numbers; the number for a token depends on the seed, the branch and the token's index only.
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
            min_p: 0.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
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
                "min_p",
                self.min_p,
                "0 to 1",
                (0.0..=1.0).contains(&self.min_p),
            ),
            (
                "repetition_penalty",
                self.repetition_penalty,
                "above 0",
                self.repetition_penalty > 0.0,
            ),
            (
                "presence_penalty",
                self.presence_penalty,
                "a finite number",
                true,
            ),
            (
                "frequency_penalty",
                self.frequency_penalty,
                "a finite number",
                true,
            ),
        ];
        for (name, found, wanted, holds) in checks {
            check(name, found, wanted, holds)?;
        }
        Ok(())
    }
}

fn check(
    name: &'static str,
    found: f32,
    wanted: &'static str,
    holds: bool,
) -> Result<(), SampleError> {
    match holds && found.is_finite() {
        true => Ok(()),
        false => Err(SampleError::Parameter {
            name,
            wanted,
            found,
        }),
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
    /// Mask and banned tokens leave none.
    #[error("no token is allowed here")]
    NothingAllowed,
    /// A token to score that is not in the vocabulary.
    #[error("token {token_id} is not in the vocabulary")]
    UnknownToken { token_id: u32 },
    #[error("a rank sent candidates that cannot be read: {0}")]
    Malformed(String),
}

/// What one row of logits is sampled with. The default takes the most likely token.
#[derive(Clone, Copy, Debug, Default)]
pub struct RowSampling<'a> {
    pub params: SamplingParams,
    /// The ids that the repetition penalty counts, in any order; repeats change nothing. For a prompt with pictures the reference
    /// counts `<s>` and the new tokens, otherwise the prompt too (spec section 10.3); the caller decides.
    pub seen: &'a [u32],
    /// Tokens that were generated, each once with the times it was: presence and frequency penalty count these.
    pub generated: &'a [(u32, u32)],
    /// What is added to the logits of tokens.
    pub logit_bias: &'a [(u32, f32)],
    /// Tokens that are never drawn.
    pub banned: &'a [u32],
    /// The only tokens that may be drawn; none allows all. It is over the whole vocabulary on every rank.
    pub allowed: Option<&'a TokenMask>,
    pub draw: RowDraw,
}

/// What is wanted of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowDraw {
    /// A token for each of the branches from `first_branch` on, all drawn from this one row.
    Tokens {
        /// Index of the token among the new tokens of its sequence.
        token_index: u64,
        first_branch: u64,
        branches: u64,
    },
    /// The best tokens, for a beam search to choose from: fewer only where fewer are allowed.
    Candidates { count: u32 },
    /// The log-probability of a given token, as the model gave it: a prompt's token.
    Score { token_id: u32 },
}

impl Default for RowDraw {
    fn default() -> Self {
        Self::Tokens {
            token_index: 0,
            first_branch: 0,
            branches: 1,
        }
    }
}

impl RowSampling<'_> {
    /// Says what is out of range, if anything is.
    pub fn validate(&self) -> Result<(), SampleError> {
        self.params.validate()?;
        self.logit_bias
            .iter()
            .try_for_each(|&(_, bias)| check("logit_bias", bias, "a finite number", true))
    }

    /// Whether logits must be turned into log-probabilities.
    fn wants_logprobs(&self) -> bool {
        self.params.num_logprobs.is_some() || !matches!(self.draw, RowDraw::Tokens { .. })
    }
}

/// Answers each row. `logits` is this rank's slice, `[rows.len(), num_ids]` f32, of which the first column is token
/// `first_id`. Every rank calls this with the same rows; the leader (rank 0) gets the results, the others nothing.
///
/// # Errors
/// When the logits cannot be read, or the ranks cannot be reached. What is wrong with a row is its own result.
pub fn sample(
    logits: &Tensor,
    first_id: u32,
    rows: &[RowSampling<'_>],
    collective: &dyn Collective,
) -> Result<Option<Vec<RowOutcome>>, DrawError> {
    let mut message = Vec::new();
    for candidates in pick_rows(logits, first_id, rows)? {
        candidates.encode(&mut message);
    }
    if collective.world_size() == 1 {
        return Ok(Some(merge_rows(rows, &[message])));
    }
    let messages = collective.all_gather(&message)?;
    Ok((collective.rank() == 0).then(|| merge_rows(rows, &messages)))
}

/// What came of a row.
pub type RowOutcome = Result<RowResult, SampleError>;

/// Why no row could be answered.
#[derive(Debug, Error)]
pub enum DrawError {
    #[error(transparent)]
    Tensor(#[from] TensorError),
    #[error(transparent)]
    Collective(#[from] CollectiveError),
}

/// A rank's share of the work for all rows. A GPU is asked for the best logits of each; only rows that these do not settle are
/// fetched whole.
pub(crate) fn pick_rows(
    logits: &Tensor,
    first_id: u32,
    rows: &[RowSampling<'_>],
) -> Result<Vec<Candidates>, TensorError> {
    let num_wanted: Vec<_> = rows.iter().filter_map(Candidates::num_wanted).collect();
    // Where most rows are wanted whole, one way for all is shorter.
    if logits.is_on_host() || 2 * num_wanted.len() <= rows.len() {
        let logits = logits.to_host_f32()?;
        let slices = logits.as_f32()?.chunks_exact(logits.cols().max(1));
        let picked = rows.iter().zip(slices);
        return Ok(picked
            .map(|(row, logits)| pick(logits, first_id, row))
            .collect());
    }
    let count = num_wanted.into_iter().max().unwrap_or(1);
    let best = best_logits(logits, count)?;
    let picked = rows.iter().zip(&best).enumerate().map(|(at, (row, best))| {
        let settled =
            Candidates::num_wanted(row).and_then(|_| Candidates::pick_among(best, first_id, row));
        match settled {
            Some(settled) => Ok(settled),
            None => {
                let whole = logits.narrow_rows(at..at + 1)?.to_host_f32()?;
                Ok(pick(whole.as_f32()?, first_id, row))
            }
        }
    });
    picked.collect()
}

/// A rank's share of the work for one row: what the leader needs of its slice.
pub fn pick(logits: &[f32], first_id: u32, row: &RowSampling<'_>) -> Candidates {
    Candidates::pick(logits, first_id, row)
}

/// The leader's share for all rows: reads every rank's candidates for a row, merges them and draws.
fn merge_rows(
    rows: &[RowSampling<'_>],
    messages: &[Vec<f32>],
) -> Vec<Result<RowResult, SampleError>> {
    let mut unread: Vec<&[f32]> = messages.iter().map(Vec::as_slice).collect();
    let merge_row = |row: &RowSampling<'_>| {
        let parts: Result<Vec<_>, _> = unread.iter_mut().map(Candidates::decode).collect();
        merge(&parts?, row)
    };
    rows.iter().map(merge_row).collect()
}
