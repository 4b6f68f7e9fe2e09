//! The leader's part: joins the candidates of all ranks and chooses.

use super::{
    Candidate, Candidates, RowDraw, RowSampling, SampleError, draw,
    penalties::{FORBIDDEN, beam_score},
    truncate,
};

/// What was made of a row.
#[derive(Clone, Debug, PartialEq)]
pub enum RowResult {
    /// A token for each branch.
    Tokens(Vec<SampledToken>),
    /// The best tokens, best first. Their log-probabilities have the penalties and the bias in them.
    Candidates(Vec<TokenLogprob>),
    /// The token that was asked about.
    Score(SampledToken),
}

impl RowResult {
    /// The tokens drawn, one for each branch; none where something else was asked for.
    pub fn tokens(&self) -> &[SampledToken] {
        match self {
            Self::Tokens(tokens) => tokens,
            Self::Candidates(_) | Self::Score(_) => &[],
        }
    }
}

/// A token that was chosen.
#[derive(Clone, Debug, PartialEq)]
pub struct SampledToken {
    pub id: u32,
    /// Natural logarithm of its probability as the model gave it, before penalty, temperature and truncation. Only when asked for.
    pub logprob: Option<f32>,
    /// The most likely tokens, best first, as many as were asked for.
    pub top_logprobs: Vec<TokenLogprob>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TokenLogprob {
    pub id: u32,
    pub logprob: f32,
}

/// Answers one row from the parts of all ranks, given in rank order. Where tokens tie, the lowest id wins.
pub fn merge(parts: &[Candidates], row: &RowSampling<'_>) -> Result<RowResult, SampleError> {
    row.validate()?;
    let num_not_finite = parts
        .iter()
        .fold(0_usize, |sum, part| sum.saturating_add(part.num_not_finite));
    if num_not_finite > 0 {
        return Err(SampleError::NotFinite {
            count: num_not_finite,
        });
    }
    let row_parts = RowParts::join(parts);
    match row.draw {
        RowDraw::Tokens {
            token_index,
            first_branch,
            branches,
        } => {
            let last_branch = first_branch.saturating_add(branches);
            let ids = choose(
                &row_parts.tokens,
                row,
                token_index,
                first_branch..last_branch,
            )?;
            Ok(RowResult::Tokens(row_parts.report(&ids, row)))
        }
        RowDraw::Candidates { count } => row_parts.best(row, count as usize),
        RowDraw::Score { token_id } => {
            if !row_parts.tokens.iter().any(|token| token.id == token_id) {
                return Err(SampleError::UnknownToken { token_id });
            }
            let mut tokens = row_parts.report(&[token_id], row);
            Ok(RowResult::Score(tokens.remove(0)))
        }
    }
}

/// A token for each branch.
fn choose(
    tokens: &[Candidate],
    row: &RowSampling<'_>,
    token_index: u64,
    branches: std::ops::Range<u64>,
) -> Result<Vec<u32>, SampleError> {
    let allowed = || tokens.iter().filter(|token| token.score > FORBIDDEN);
    if row.params.is_greedy() {
        let best = allowed().map(|token| token.score).fold(FORBIDDEN, f32::max);
        let first = allowed().find(|token| token.score == best);
        let id = first.ok_or(SampleError::NothingAllowed)?.id;
        return Ok(branches.map(|_| id).collect());
    }
    let allowed: Vec<Candidate> = allowed().copied().collect();
    let probabilities = truncate::distribution(&allowed, &row.params);
    let draw = |branch| {
        let point = draw::uniform(row.params.seed, branch, token_index);
        draw::token_at(&probabilities, point).ok_or(SampleError::NothingAllowed)
    };
    branches.map(draw).collect()
}

/// What all ranks sent of a row.
struct RowParts {
    /// By rising id.
    tokens: Vec<Candidate>,
    /// Turns logits into log-probabilities; of use only where it was asked for.
    log_sum: f32,
}

impl RowParts {
    fn join(parts: &[Candidates]) -> Self {
        Self {
            tokens: parts.iter().flat_map(|part| part.tokens.clone()).collect(),
            log_sum: log_sum_exp(parts.iter().filter_map(|part| part.log_sum_exp)),
        }
    }

    /// The best tokens for a beam search.
    fn best(&self, row: &RowSampling<'_>, count: usize) -> Result<RowResult, SampleError> {
        let score = |token: &Candidate| {
            let logprob = f64::from(token.logit) - f64::from(self.log_sum);
            (token.id, beam_score(row, token.id, logprob))
        };
        let allowed = self.tokens.iter().filter(|token| token.score > FORBIDDEN);
        let mut tokens: Vec<(u32, f64)> = allowed.map(score).collect();
        if tokens.is_empty() {
            return Err(SampleError::NothingAllowed);
        }
        tokens.sort_unstable_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        tokens.truncate(count);
        let tokens = tokens.into_iter().map(|(id, score)| TokenLogprob {
            id,
            logprob: score as f32,
        });
        Ok(RowResult::Candidates(tokens.collect()))
    }

    /// The tokens with the log-probabilities that are wanted.
    fn report(mut self, ids: &[u32], row: &RowSampling<'_>) -> Vec<SampledToken> {
        let wants_logprobs = row.wants_logprobs();
        let log_sum = self.log_sum;
        let logprob = |token: &Candidate| token.logit - log_sum;
        let of_id = |&id: &u32| {
            let token = self.tokens.iter().find(|token| token.id == id);
            let logprob = token.filter(|_| wants_logprobs).map(logprob);
            (id, logprob)
        };
        let chosen: Vec<_> = ids.iter().map(of_id).collect();
        let num_top = row.params.num_logprobs.unwrap_or(0) as usize;
        let top_logprobs = match num_top {
            0 => Vec::new(),
            _ => {
                let by_logit = |a: &Candidate, b: &Candidate| {
                    b.logit.total_cmp(&a.logit).then(a.id.cmp(&b.id))
                };
                self.tokens.sort_unstable_by(by_logit);
                let top = self.tokens.iter().take(num_top);
                top.map(|token| TokenLogprob {
                    id: token.id,
                    logprob: logprob(token),
                })
                .collect()
            }
        };
        chosen
            .into_iter()
            .map(|(id, logprob)| SampledToken {
                id,
                logprob,
                top_logprobs: top_logprobs.clone(),
            })
            .collect()
    }
}

/// The ranks' sums, added in rank order.
fn log_sum_exp(parts: impl Iterator<Item = f32> + Clone) -> f32 {
    let max = parts.clone().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = parts.map(|part| f64::from(part - max).exp()).sum();
    max + sum.ln() as f32
}
