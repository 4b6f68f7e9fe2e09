//! What a rank tells the leader about its slice of a row of logits: the tokens that can still be chosen, and the sum that turns
//! logits into log-probabilities. As a message it is a run of f32, since that is what collectives carry; ids are whole numbers
//! far below 2^24 and keep their value.

use super::{
    RowDraw, RowSampling, SampleError, SamplingParams,
    penalties::{self, Columns, FORBIDDEN},
};
use crate::ops::{best_logits::BestLogits, exponential::exp, vectorised::vectorised};

/// A token that may be chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candidate {
    pub id: u32,
    /// After penalties, bias and mask: what is sampled from. Negative infinity for a token that may not be drawn and is here
    /// only to be reported.
    pub score: f32,
    /// As the model gave it: what log-probabilities are taken from.
    pub logit: f32,
}

/// A rank's part of one row.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidates {
    /// How many logits of the slice are NaN or infinite.
    pub num_not_finite: usize,
    /// Logarithm of the sum of the exponentials of the slice's logits; taken only when log-probabilities are
    /// wanted.
    pub log_sum_exp: Option<f32>,
    /// By rising id.
    pub tokens: Vec<Candidate>,
}

/// Logits beyond those that a row wants that are asked for with them: penalties and bans may take so many of the best away.
const SPARE: usize = 64;
/// Best logits that are asked for at most.
const MOST_BEST: usize = 512;

/// Numbers before the candidates of an encoded part, and numbers per candidate.
const HEAD_LEN: usize = 4;
const CANDIDATE_LEN: usize = 3;

impl Candidates {
    /// Picks from a slice whose first column is token `first_id`. The best by logit are added when they are to be reported.
    pub(super) fn pick(logits: &[f32], first_id: u32, row: &RowSampling<'_>) -> Self {
        let num_not_finite = num_not_finite(logits);
        if num_not_finite > 0 {
            return Self::not_finite(num_not_finite);
        }
        let place = Columns::From(first_id);
        let (scores, mut columns) = match row.draw {
            RowDraw::Tokens { .. } => {
                let scores = penalties::scores(logits, place, row);
                let columns = drawable_columns(&scores, &row.params);
                (scores, columns)
            }
            RowDraw::Candidates { count } => {
                let keys = penalties::beam_keys(logits, place, row);
                let columns = beam_columns(&keys, place, row, count as usize);
                (keys, columns)
            }
            RowDraw::Score { token_id } => {
                let column = token_id.wrapping_sub(first_id);
                let is_here = (column as usize) < logits.len();
                (
                    logits.into(),
                    is_here.then_some(column).into_iter().collect(),
                )
            }
        };
        add_reported(&mut columns, logits, row);
        Self {
            num_not_finite: 0,
            log_sum_exp: row.wants_logprobs().then(|| log_sum_exp(logits)),
            tokens: tokens_of(&columns, place, &scores, logits),
        }
    }

    /// How many of the best logits should be enough for [`Self::pick_among`]; none where a row wants all of them: those that draw from
    /// more than the most likely tokens, under a mask, or with something that makes a token likelier than its logit says.
    pub(super) fn num_wanted(row: &RowSampling<'_>) -> Option<usize> {
        let num_drawn = match row.draw {
            RowDraw::Tokens { .. } if row.params.is_greedy() => 1,
            RowDraw::Tokens { .. } if row.params.top_k > 0 => row.params.top_k as usize,
            RowDraw::Candidates { count } => count as usize,
            RowDraw::Tokens { .. } | RowDraw::Score { .. } => return None,
        };
        if row.allowed.is_some() || penalties::raises(row) {
            return None;
        }
        let num_reported = row.params.num_logprobs.unwrap_or(0) as usize;
        let num_wanted = num_drawn.max(num_reported).checked_add(SPARE)?;
        (num_wanted <= MOST_BEST).then_some(num_wanted)
    }

    /// What [`Self::pick`] would pick, as far as it can matter to the draw, from the best logits alone: nothing where they do not
    /// settle it. Only of rows for which [`Self::num_wanted`] names a number: there no token's score is above its logit, so that one
    /// which is not among the best is below all of those that are.
    pub(super) fn pick_among(
        best: &BestLogits,
        first_id: u32,
        row: &RowSampling<'_>,
    ) -> Option<Self> {
        if best.num_not_finite > 0 {
            return Some(Self::not_finite(best.num_not_finite));
        }
        let logits = &best.logits[..];
        let ids: Vec<u32> = best
            .columns
            .iter()
            .map(|&column| first_id + column)
            .collect();
        let place = Columns::Of(&ids);
        let least = logits.iter().copied().fold(f32::INFINITY, f32::min);
        let num_reaching =
            |scores: &mut dyn Iterator<Item = f32>| scores.filter(|&score| score >= least).count();
        let (scores, mut columns) = match row.draw {
            RowDraw::Tokens { .. } => {
                let scores = penalties::scores(logits, place, row);
                let count = match row.params.is_greedy() {
                    true => 1,
                    false => row.params.top_k as usize,
                };
                if num_reaching(&mut scores.iter().copied()) < count {
                    return None;
                }
                let columns = best_columns(&scores, count);
                (scores, columns)
            }
            RowDraw::Candidates { count } => {
                let keys = penalties::beam_keys(logits, place, row);
                // Penalties lower log-probabilities, so that a seen token that is not here is worse than these others.
                let is_other =
                    |id: &u32| row.params.repetition_penalty == 1.0 || !row.seen.contains(id);
                let others = ids.iter().zip(keys.iter());
                let mut others = others.filter(|(id, _)| is_other(id)).map(|(_, &key)| key);
                if num_reaching(&mut others) < count as usize {
                    return None;
                }
                let columns = beam_columns(&keys, place, row, count as usize);
                (keys, columns)
            }
            RowDraw::Score { .. } => return None,
        };
        if logits.len() < row.params.num_logprobs.unwrap_or(0) as usize {
            return None;
        }
        add_reported(&mut columns, logits, row);
        Some(Self {
            num_not_finite: 0,
            log_sum_exp: row.wants_logprobs().then_some(best.log_sum_exp),
            tokens: tokens_of(&columns, place, &scores, logits),
        })
    }

    fn not_finite(num_not_finite: usize) -> Self {
        Self {
            num_not_finite,
            log_sum_exp: None,
            tokens: Vec::new(),
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
        let len = (num_tokens as usize).saturating_mul(CANDIDATE_LEN);
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

/// Adds the columns of the tokens that are reported beside those that are drawn.
fn add_reported(columns: &mut Vec<u32>, logits: &[f32], row: &RowSampling<'_>) {
    if let Some(num_logprobs) = row.params.num_logprobs.filter(|&count| count > 0)
        && !matches!(row.draw, RowDraw::Candidates { .. })
    {
        columns.extend(best_columns(logits, num_logprobs as usize));
        columns.sort_unstable();
        columns.dedup();
    }
}

fn tokens_of(
    columns: &[u32],
    place: Columns<'_>,
    scores: &[f32],
    logits: &[f32],
) -> Vec<Candidate> {
    let candidate = |&column: &u32| Candidate {
        id: place.id(column),
        score: scores[column as usize],
        logit: logits[column as usize],
    };
    columns.iter().map(candidate).collect()
}

/// The columns that a draw may fall on. Greedy needs one token; top-k needs the k best and all that tie with the last of them;
/// anything else needs all that are allowed, of which min-p leaves out some here already where top-p does not need their sum.
fn drawable_columns(scores: &[f32], params: &SamplingParams) -> Vec<u32> {
    if params.is_greedy() {
        return best_columns(scores, 1);
    }
    if params.top_k > 0 {
        return best_columns(scores, params.top_k as usize);
    }
    if params.min_p > 0.0 && params.top_p >= 1.0 {
        return columns_from(scores, min_p_bound(scores, params));
    }
    columns_from(scores, f32::MIN)
}

/// A score below which no token of the slice has `min_p` times the probability of the slice's best. A little low, so that
/// rounding leaves the decision to the leader.
fn min_p_bound(scores: &[f32], params: &SamplingParams) -> f32 {
    const SLACK: f32 = 0.01;
    const RELATIVE_SLACK: f32 = 1e-5;
    let max = maximum(scores);
    max + params.temperature * (params.min_p.ln() - SLACK) - max.abs() * RELATIVE_SLACK
}

/// The columns of the best tokens for a beam search. Keys of seen and of other tokens do not compare (see
/// [`penalties::beam_keys`]), so it is the best of either kind.
fn beam_columns(keys: &[f32], place: Columns<'_>, row: &RowSampling<'_>, count: usize) -> Vec<u32> {
    if row.params.repetition_penalty == 1.0 {
        return best_columns(keys, count);
    }
    let columns = row.seen.iter().filter_map(|&id| place.of(id));
    let mut seen: Vec<u32> = columns
        .filter(|&column| column < keys.len())
        .map(|column| column as u32)
        .collect();
    seen.sort_unstable();
    seen.dedup();
    let seen_keys: Vec<f32> = seen.iter().map(|&column| keys[column as usize]).collect();
    let mut other_keys = keys.to_vec();
    for &column in &seen {
        other_keys[column as usize] = FORBIDDEN;
    }
    let mut best = best_columns(&other_keys, count);
    let best_seen = best_columns(&seen_keys, count);
    best.extend(best_seen.iter().map(|&index| seen[index as usize]));
    best.sort_unstable();
    best
}

/// The columns whose value is at least `bound` and not forbidden, rising.
fn columns_from(values: &[f32], bound: f32) -> Vec<u32> {
    let bound = bound.max(f32::MIN);
    (0..values.len() as u32)
        .filter(|&column| values[column as usize] >= bound)
        .collect()
}

/// The columns of the `count` largest values and of all that equal the least of those, rising. Forbidden ones
/// are left out; all others are finite.
fn best_columns(values: &[f32], count: usize) -> Vec<u32> {
    if count == 0 || values.is_empty() {
        return Vec::new();
    }
    let maxima = chunk_maxima(values);
    // At least `count` values reach the maximum of the `count`-th best chunk, so none of those wanted is below it.
    let bound = match count <= maxima.len() {
        true => largest(maxima.clone(), count),
        false => f32::MIN,
    };
    let bound = bound.max(f32::MIN);
    let mut columns: Vec<u32> = Vec::new();
    for (index, chunk) in values.chunks(CHUNK).enumerate() {
        if maxima[index] >= bound {
            let reaching = (0..chunk.len()).filter(|&offset| chunk[offset] >= bound);
            columns.extend(reaching.map(|offset| (index * CHUNK + offset) as u32));
        }
    }
    if columns.len() > count {
        let reaching = columns.iter().map(|&column| values[column as usize]);
        let threshold = largest(reaching.collect(), count);
        columns.retain(|&column| values[column as usize] >= threshold);
    }
    columns
}

/// The `count`-th largest of at least `count` values.
fn largest(mut values: Vec<f32>, count: usize) -> f32 {
    *values
        .select_nth_unstable_by(count - 1, |a, b| b.total_cmp(a))
        .1
}

/// Values that are looked at together.
const CHUNK: usize = 64;

/// The largest value of each chunk.
fn chunk_maxima(values: &[f32]) -> Vec<f32> {
    let mut maxima = vec![f32::NEG_INFINITY; values.len().div_ceil(CHUNK)];
    vectorised(
        #[inline(always)]
        || {
            for (maximum, chunk) in maxima.iter_mut().zip(values.chunks(CHUNK)) {
                let mut lanes = [f32::NEG_INFINITY; 16];
                let (blocks, rest) = chunk.as_chunks::<16>();
                for block in blocks {
                    for (lane, value) in lanes.iter_mut().zip(block) {
                        *lane = if value > lane { *value } else { *lane };
                    }
                }
                let values = lanes.iter().chain(rest);
                *maximum = values.copied().fold(f32::NEG_INFINITY, f32::max);
            }
        },
    );
    maxima
}

fn maximum(values: &[f32]) -> f32 {
    chunk_maxima(values)
        .into_iter()
        .fold(f32::NEG_INFINITY, f32::max)
}

fn num_not_finite(values: &[f32]) -> usize {
    let mut count = 0;
    vectorised(
        #[inline(always)]
        || {
            for chunk in values.chunks(CHUNK) {
                let is_not = |value: &f32| u32::from(!value.is_finite());
                count += chunk.iter().map(is_not).sum::<u32>() as usize;
            }
        },
    );
    count
}

/// `ln Σ exp(values)`, without overflow.
fn log_sum_exp(values: &[f32]) -> f32 {
    let max = maximum(values);
    let mut sum = 0.0_f64;
    vectorised(
        #[inline(always)]
        || {
            for chunk in values.chunks(CHUNK) {
                let mut lanes = [0.0_f32; 16];
                let (blocks, rest) = chunk.as_chunks::<16>();
                for block in blocks {
                    for (lane, value) in lanes.iter_mut().zip(block) {
                        *lane += exp(value - max);
                    }
                }
                sum += f64::from(lanes.iter().sum::<f32>());
                sum += f64::from(rest.iter().map(|value| exp(value - max)).sum::<f32>());
            }
        },
    );
    max + sum.ln() as f32
}
