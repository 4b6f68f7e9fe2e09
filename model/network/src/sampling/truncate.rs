//! Which tokens stay in the draw, and with what probability: temperature, then top-k, then top-p, as transformers 4.33 has them.

use super::{Candidate, SamplingParams};

/// The distribution that is drawn from: ids and probabilities, by rising id. `candidates` are those of all ranks, by rising id;
/// their scores have the repetition penalty in them. The temperature must not be 0. Empty only for no candidates.
pub fn distribution(candidates: &[Candidate], params: &SamplingParams) -> Vec<(u32, f64)> {
    let mut tokens: Vec<(u32, f32)> = candidates
        .iter()
        .map(|token| (token.id, token.score / params.temperature))
        .collect();
    if params.top_k > 0 {
        keep_top_k(&mut tokens, params.top_k as usize);
    }
    let mut probabilities = softmax(&tokens);
    if params.top_p < 1.0 {
        keep_top_p(&mut probabilities, f64::from(params.top_p));
    }
    probabilities
}

/// Keeps the `top_k` best and all that tie with the last of them.
fn keep_top_k(tokens: &mut Vec<(u32, f32)>, top_k: usize) {
    if top_k >= tokens.len() {
        return;
    }
    let mut scores: Vec<f32> = tokens.iter().map(|&(_, score)| score).collect();
    let (_, &mut threshold, _) = scores.select_nth_unstable_by(top_k - 1, |a, b| b.total_cmp(a));
    tokens.retain(|&(_, score)| score >= threshold);
}

fn softmax(tokens: &[(u32, f32)]) -> Vec<(u32, f64)> {
    let scores = tokens.iter().map(|&(_, score)| score);
    let max = scores.fold(f32::NEG_INFINITY, f32::max);
    let exponential = |&(id, score): &(u32, f32)| (id, f64::from(score - max).exp());
    let mut probabilities: Vec<_> = tokens.iter().map(exponential).collect();
    normalise(&mut probabilities);
    probabilities
}

fn normalise(probabilities: &mut [(u32, f64)]) {
    let sum: f64 = probabilities.iter().map(|&(_, p)| p).sum();
    for (_, p) in probabilities {
        *p /= sum;
    }
}

/// Keeps, from the most likely down, each token before which less than `top_p` has been kept; the first one always. Of equally
/// likely tokens those of lower id come first.
fn keep_top_p(probabilities: &mut Vec<(u32, f64)>, top_p: f64) {
    let by_likelihood = |a: &(u32, f64), b: &(u32, f64)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
    // Mostly few tokens are kept, so only as many as are needed are sorted.
    let mut num_sorted = 64;
    let num_kept = loop {
        if num_sorted < probabilities.len() {
            probabilities.select_nth_unstable_by(num_sorted, by_likelihood);
        }
        num_sorted = num_sorted.min(probabilities.len());
        let sorted = &mut probabilities[..num_sorted];
        sorted.sort_unstable_by(by_likelihood);
        let num_kept = num_before(sorted, top_p);
        if num_kept < num_sorted || num_sorted == probabilities.len() {
            break num_kept.max(1);
        }
        num_sorted *= 8;
    };
    probabilities.truncate(num_kept);
    probabilities.sort_unstable_by_key(|&(id, _)| id);
    normalise(probabilities);
}

/// How many of the tokens have less than `top_p` before them.
fn num_before(sorted: &[(u32, f64)], top_p: f64) -> usize {
    let mut before = 0.0;
    let is_kept = |&&(_, p): &&(u32, f64)| {
        let is_kept = before < top_p;
        before += p;
        is_kept
    };
    sorted.iter().take_while(is_kept).count()
}
