//! Which tokens stay in the draw, and with what probability: temperature, then top-k, then top-p, as transformers 4.33 has them,
//! and min-p after them, where later versions put it.

use super::{Candidate, SamplingParams};
use crate::ops::{exponential::exp, vectorised::vectorised};

/// The distribution that is drawn from: ids and probabilities, by rising id. `candidates` are those of all ranks, by rising id;
/// their scores have penalties and bias in them, and none is forbidden. The temperature must not be 0. Empty only for no candidates.
pub fn distribution(candidates: &[Candidate], params: &SamplingParams) -> Vec<(u32, f64)> {
    // A temperature near 0 must not make a score infinite, which has no softmax.
    let cool = |score: f32| (score / params.temperature).clamp(f32::MIN, f32::MAX);
    let mut tokens: Vec<(u32, f32)> = candidates
        .iter()
        .map(|token| (token.id, cool(token.score)))
        .collect();
    if params.top_k > 0 {
        keep_top_k(&mut tokens, params.top_k as usize);
    }
    let mut probabilities = exponentials(&tokens);
    if params.top_p < 1.0 {
        normalise(&mut probabilities);
        keep_top_p(&mut probabilities, f64::from(params.top_p));
    }
    if params.min_p > 0.0 {
        keep_min_p(&mut probabilities, f64::from(params.min_p));
    }
    normalise(&mut probabilities);
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

/// Probabilities before they are divided by their sum; the greatest is 1.
fn exponentials(tokens: &[(u32, f32)]) -> Vec<(u32, f64)> {
    let scores = tokens.iter().map(|&(_, score)| score);
    let max = scores.fold(f32::NEG_INFINITY, f32::max);
    let mut probabilities = vec![(0, 0.0); tokens.len()];
    vectorised(
        #[inline(always)]
        || {
            for (place, &(id, score)) in probabilities.iter_mut().zip(tokens) {
                *place = (id, f64::from(exp(score - max)));
            }
        },
    );
    probabilities
}

/// Keeps each token that is at least `min_p` times as likely as the most likely one.
fn keep_min_p(probabilities: &mut Vec<(u32, f64)>, min_p: f64) {
    let max = probabilities.iter().map(|&(_, p)| p).fold(0.0, f64::max);
    probabilities.retain(|&(_, p)| p >= min_p * max);
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
