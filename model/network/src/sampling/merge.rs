//! The leader's part: joins the candidates of all ranks and chooses.

use super::{Candidate, Candidates, SampleError, SamplingParams, draw, truncate};

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

/// Chooses the token of one row from the parts of all ranks, given in rank order. Where tokens tie, the lowest id wins.
pub fn merge(
    parts: &[Candidates],
    params: &SamplingParams,
    token_index: u64,
) -> Result<SampledToken, SampleError> {
    params.validate()?;
    let num_not_finite: usize = parts.iter().map(|part| part.num_not_finite).sum();
    if num_not_finite > 0 {
        return Err(SampleError::NotFinite {
            count: num_not_finite,
        });
    }
    let tokens: Vec<Candidate> = parts.iter().flat_map(|part| part.tokens.clone()).collect();
    let id = choose(&tokens, params, token_index)
        .ok_or_else(|| SampleError::Malformed("there are no candidates".into()))?;
    let mut token = SampledToken {
        id,
        logprob: None,
        top_logprobs: Vec::new(),
    };
    if let Some(num_logprobs) = params.num_logprobs {
        report(&mut token, parts, tokens, num_logprobs as usize);
    }
    Ok(token)
}

fn choose(tokens: &[Candidate], params: &SamplingParams, token_index: u64) -> Option<u32> {
    if params.is_greedy() {
        let is_better = |a: &Candidate, b: &Candidate| b.score > a.score;
        let better = |a, b| if is_better(&a, &b) { b } else { a };
        return tokens.iter().copied().reduce(better).map(|token| token.id);
    }
    let probabilities = truncate::distribution(tokens, params);
    draw::token_at(&probabilities, draw::uniform(params.seed, token_index))
}

/// Adds the log-probabilities.
fn report(
    token: &mut SampledToken,
    parts: &[Candidates],
    mut tokens: Vec<Candidate>,
    num_logprobs: usize,
) {
    let log_sum = log_sum_exp(parts.iter().filter_map(|part| part.log_sum_exp));
    let logprob = |token: &Candidate| token.logit - log_sum;
    token.logprob = tokens
        .iter()
        .find(|other| other.id == token.id)
        .map(logprob);
    tokens.sort_unstable_by(|a, b| b.logit.total_cmp(&a.logit).then(a.id.cmp(&b.id)));
    token.top_logprobs = tokens[..num_logprobs.min(tokens.len())]
        .iter()
        .map(|token| TokenLogprob {
            id: token.id,
            logprob: logprob(token),
        })
        .collect();
}

/// The ranks' sums, added in rank order.
fn log_sum_exp(parts: impl Iterator<Item = f32> + Clone) -> f32 {
    let max = parts.clone().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = parts.map(|part| f64::from(part - max).exp()).sum();
    max + sum.ln() as f32
}
