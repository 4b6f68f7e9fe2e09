//! What a rank tells the leader about its slice of a row of logits: the tokens that can still be chosen, and the sum that turns
//! logits into log-probabilities. As a message it is a run of f32, since that is what collectives carry; ids are whole numbers
//! far below 2^24 and keep their value.

use super::{SampleError, SamplingParams};

/// A token that may be chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candidate {
    pub id: u32,
    /// After the repetition penalty: what is sampled from.
    pub score: f32,
    /// As the model gave it: what log-probabilities are taken from.
    pub logit: f32,
}

/// A rank's part of one row.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidates {
    /// How many logits of the slice are NaN or infinite.
    pub num_not_finite: usize,
    /// Logarithm of the sum of the exponentials of the slice's logits; taken only when log-probabilities are wanted.
    pub log_sum_exp: Option<f32>,
    /// By rising id.
    pub tokens: Vec<Candidate>,
}

/// Numbers before the candidates of an encoded part, and numbers per candidate.
const HEAD_LEN: usize = 4;
const CANDIDATE_LEN: usize = 3;

impl Candidates {
    /// Picks from a slice whose first column is token `first_id`. Greedy needs one token; top-k needs the k best and all that tie
    /// with the last of them; anything else needs the slice whole. The best by logit are added when they are to be reported.
    pub(super) fn pick(
        logits: &[f32],
        scores: &[f32],
        first_id: u32,
        params: &SamplingParams,
    ) -> Self {
        let num_not_finite = logits.iter().filter(|logit| !logit.is_finite()).count();
        if num_not_finite > 0 {
            return Self {
                num_not_finite,
                log_sum_exp: None,
                tokens: Vec::new(),
            };
        }
        let num_best = match (params.is_greedy(), params.top_k) {
            (true, _) => 1,
            (false, 0) => scores.len(),
            (false, top_k) => top_k as usize,
        };
        let mut columns = best_columns(scores, num_best);
        if let Some(num_logprobs) = params.num_logprobs.filter(|&count| count > 0) {
            columns.extend(best_columns(logits, num_logprobs as usize));
            columns.sort_unstable();
            columns.dedup();
        }
        let candidate = |&column: &u32| Candidate {
            id: first_id + column,
            score: scores[column as usize],
            logit: logits[column as usize],
        };
        Self {
            num_not_finite: 0,
            log_sum_exp: params.num_logprobs.map(|_| log_sum_exp(logits)),
            tokens: columns.iter().map(candidate).collect(),
        }
    }

    pub(super) fn encode(&self, message: &mut Vec<f32>) {
        message.extend([
            self.num_not_finite as f32,
            f32::from(u8::from(self.log_sum_exp.is_some())),
            self.log_sum_exp.unwrap_or(0.0),
            self.tokens.len() as f32,
        ]);
        for token in &self.tokens {
            message.extend([token.id as f32, token.score, token.logit]);
        }
    }

    /// Takes one part off the front of a message.
    pub(super) fn decode(unread: &mut &[f32]) -> Result<Self, SampleError> {
        let malformed = || SampleError::Malformed(format!("{} numbers are left", unread.len()));
        let (&[num_not_finite, has_sum, log_sum_exp, num_tokens], rest) = unread
            .split_first_chunk::<HEAD_LEN>()
            .ok_or_else(malformed)?;
        let len = num_tokens as usize * CANDIDATE_LEN;
        let (tokens, rest) = rest.split_at_checked(len).ok_or_else(malformed)?;
        let candidate = |token: &[f32; CANDIDATE_LEN]| Candidate {
            id: token[0] as u32,
            score: token[1],
            logit: token[2],
        };
        *unread = rest;
        Ok(Self {
            num_not_finite: num_not_finite as usize,
            log_sum_exp: (has_sum != 0.0).then_some(log_sum_exp),
            tokens: tokens.as_chunks().0.iter().map(candidate).collect(),
        })
    }
}

/// The columns of the `count` largest values and of all that equal the least of those, rising.
fn best_columns(values: &[f32], count: usize) -> Vec<u32> {
    let all = 0..values.len() as u32;
    if count >= values.len() {
        return all.collect();
    }
    let threshold = match count {
        0 => return Vec::new(),
        1 => values.iter().copied().fold(f32::NEG_INFINITY, f32::max),
        _ => largest(values, count),
    };
    all.filter(|&column| values[column as usize] >= threshold)
        .collect()
}

/// The `count`-th largest of more than `count` values.
fn largest(values: &[f32], count: usize) -> f32 {
    let mut values = values.to_vec();
    *values
        .select_nth_unstable_by(count - 1, |a, b| b.total_cmp(a))
        .1
}

/// `ln Σ exp(values)`, without overflow.
fn log_sum_exp(values: &[f32]) -> f32 {
    let max = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = values
        .iter()
        .map(|value| f64::from((value - max).exp()))
        .sum();
    max + sum.ln() as f32
}
