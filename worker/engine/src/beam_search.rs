//! Beam search as transformers 4.33.2 does it (`beam_search` with its `BeamSearchScorer`), apart from everything that computes
//! probabilities: candidates go in, and which beams live on comes out.
//!
//! Each step looks at the best `max(2, 1 + stop tokens) * width` continuations of all live beams together. Among them a stop token
//! finishes its beam if it ranks below `width`, and is passed over otherwise; the first `width` others are the next live beams.
//! Of the finished ones the best `width` are kept.

use crate::{BeamAnswer, BeamParams, EndReason, TokenLogprob};

/// A search under way.
#[derive(Debug)]
pub struct BeamSearch {
    params: BeamParams,
    stop_token_ids: Vec<u32>,
    max_new_tokens: usize,
    prompt_length: usize,
    live: Vec<Beam>,
    finished: Vec<Hypothesis>,
}

/// How a live beam goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extension {
    /// Which of the live beams of the step before it continues.
    pub parent: usize,
    /// Its next token.
    pub token_id: u32,
}

/// What a step comes to.
#[derive(Clone, Debug, PartialEq)]
pub enum SearchStep {
    /// The live beams from now on, best first.
    Live(Vec<Extension>),
    /// The answers, best first; none only if every continuation had probability 0.
    Done(Vec<BeamAnswer>),
}

#[derive(Clone, Debug, Default)]
struct Beam {
    token_ids: Vec<u32>,
    sum_logprobs: f32,
}

#[derive(Clone, Debug)]
struct Hypothesis {
    token_ids: Vec<u32>,
    score: f64,
    reason: EndReason,
}

impl BeamSearch {
    /// One live beam with no tokens. `prompt_length` is what the reference adds to a hypothesis' length: the prompt's tokens, or 1 for a
    /// prompt with pictures, which it is given as embeddings behind a single id.
    pub fn new(
        params: BeamParams,
        mut stop_token_ids: Vec<u32>,
        max_new_tokens: usize,
        prompt_length: usize,
    ) -> Self {
        stop_token_ids.sort_unstable();
        stop_token_ids.dedup();
        Self {
            params,
            stop_token_ids,
            max_new_tokens,
            prompt_length,
            live: vec![Beam::default()],
            finished: Vec::new(),
        }
    }

    /// Continuations that a step looks at: so many are wanted of each live beam, for all may come from one.
    pub fn num_candidates(&self) -> usize {
        (1 + self.stop_token_ids.len()).max(2) * self.params.width
    }

    /// Most live beams.
    pub fn width(&self) -> usize {
        self.params.width
    }

    /// Whether the next step ends the search, whatever it draws.
    pub fn is_last_step(&self) -> bool {
        self.num_drawn() + 1 == self.max_new_tokens
    }

    /// One step. `candidates` are the best continuations of each live beam, best first.
    pub fn advance(&mut self, candidates: &[Vec<TokenLogprob>]) -> SearchStep {
        assert_eq!(
            candidates.len(),
            self.live.len(),
            "one list for each live beam"
        );
        let best = self.best_continuations(candidates);
        // As in the reference, a hypothesis' length leaves out its stop token.
        let length = self.prompt_length + self.num_drawn();
        let mut extensions = Vec::with_capacity(self.params.width);
        let mut live = Vec::with_capacity(self.params.width);
        for (rank, (sum_logprobs, extension)) in best.iter().enumerate() {
            let mut token_ids = self.live[extension.parent].token_ids.clone();
            token_ids.push(extension.token_id);
            if !self.stop_token_ids.contains(&extension.token_id) {
                live.push(Beam {
                    token_ids,
                    sum_logprobs: *sum_logprobs,
                });
                extensions.push(*extension);
            } else if rank < self.params.width {
                self.finish(token_ids, *sum_logprobs, length, EndReason::Stop);
            }
            if live.len() == self.params.width {
                break;
            }
        }
        self.live = live;
        if best
            .first()
            .is_some_and(|(best, _)| self.is_done(*best, length))
        {
            self.live.clear();
        } else if self.num_drawn() == self.max_new_tokens {
            for beam in std::mem::take(&mut self.live) {
                self.finish(
                    beam.token_ids,
                    beam.sum_logprobs,
                    length + 1,
                    EndReason::Length,
                );
            }
        }
        if self.live.is_empty() {
            SearchStep::Done(self.answers())
        } else {
            SearchStep::Live(extensions)
        }
    }

    fn num_drawn(&self) -> usize {
        self.live.first().map_or(0, |beam| beam.token_ids.len())
    }

    /// Over all beams, best first; between equals the beam that ranked higher. What has probability 0 is no continuation.
    fn best_continuations(&self, candidates: &[Vec<TokenLogprob>]) -> Vec<(f32, Extension)> {
        let mut all = Vec::with_capacity(candidates.iter().map(Vec::len).sum());
        for (parent, (beam, candidates)) in self.live.iter().zip(candidates).enumerate() {
            all.extend(candidates.iter().map(|candidate| {
                let token_id = candidate.token_id;
                (
                    beam.sum_logprobs + candidate.logprob,
                    Extension { parent, token_id },
                )
            }));
        }
        all.retain(|(sum_logprobs, _)| sum_logprobs.is_finite());
        all.sort_by(|(a, _), (b, _)| b.total_cmp(a));
        all.truncate(self.num_candidates());
        all
    }

    /// Keeps a finished beam if it is among the best `width`. The one added first goes when two are equally bad.
    fn finish(&mut self, token_ids: Vec<u32>, sum_logprobs: f32, length: usize, reason: EndReason) {
        let score = self.score(sum_logprobs, length);
        if self.finished.len() == self.params.width {
            let worst = self.worst().expect("as many as beams, at least one");
            if score <= self.finished[worst].score {
                return;
            }
            self.finished.remove(worst);
        }
        self.finished.push(Hypothesis {
            token_ids,
            score,
            reason,
        });
    }

    /// With early stopping, when enough are finished. Without, when besides no live beam could beat them if it ended now: a
    /// heuristic of the reference, for with a positive penalty a longer answer may still score better.
    fn is_done(&self, best_sum_logprobs: f32, length: usize) -> bool {
        self.finished.len() == self.params.width
            && (self.params.early_stopping
                || self.worst().is_some_and(|worst| {
                    self.finished[worst].score >= self.score(best_sum_logprobs, length)
                }))
    }

    fn worst(&self) -> Option<usize> {
        (0..self.finished.len())
            .min_by(|a, b| self.finished[*a].score.total_cmp(&self.finished[*b].score))
    }

    fn score(&self, sum_logprobs: f32, length: usize) -> f64 {
        f64::from(sum_logprobs) / (length as f64).powf(f64::from(self.params.length_penalty))
    }

    fn answers(&mut self) -> Vec<BeamAnswer> {
        let mut finished = std::mem::take(&mut self.finished);
        finished.sort_by(|a, b| a.score.total_cmp(&b.score));
        let best = finished.into_iter().rev().take(self.params.num_answers);
        best.map(|hypothesis| BeamAnswer {
            token_ids: hypothesis.token_ids,
            score: hypothesis.score as f32,
            reason: hypothesis.reason,
        })
        .collect()
    }
}

#[cfg(test)]
mod tests;
