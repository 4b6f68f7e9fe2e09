//! Tokens that mean nothing, drawn from a hash: the same for the same request wherever and in whatever company it runs.

use std::ops::Range;

use inkstone_engine::{DrawKind, Drawn, DrawnToken, TokenLogprob};

use crate::executor::RequestSetup;

/// Pieces at the start of the vocabulary that are not text of their own: `<unk>`, `<s>`, `</s>` and one for each byte.
const FIRST_TEXT_PIECE: u32 = 259;
/// Pieces at its end that are markers, at most.
const MARKER_PIECES: u32 = 256;
/// What the log-probability of a token is said to be; each place after the first is as much less likely.
const LOGPROB: f32 = -0.5;
/// Between the hash's tokens of a list, so that neighbours in it are not neighbours in the vocabulary.
const STRIDE: u64 = 104_729;

/// Chooses the tokens of simulated answers.
#[derive(Clone, Debug)]
pub(super) struct TokenSource {
    /// Ordinary pieces of text.
    ids: Range<u32>,
    /// Tokens of an answer, the stop token included; not set: it goes on until it may not.
    answer_tokens: Option<usize>,
}

impl TokenSource {
    pub(super) fn new(vocab_size: usize, answer_tokens: Option<usize>) -> Self {
        let vocab_size = u32::try_from(vocab_size).unwrap_or(u32::MAX).max(1);
        let first = FIRST_TEXT_PIECE.min(vocab_size / 2);
        let end = vocab_size - MARKER_PIECES.min(vocab_size / 4);
        Self {
            ids: first..end.max(first + 1),
            answer_tokens,
        }
    }

    /// What the draw of token `token_index` (at position `position` of its sequence) gives.
    pub(super) fn draw(&self, setup: &RequestSetup, draw: DrawAt) -> Drawn {
        match draw.kind {
            DrawKind::Tokens {
                first_branch,
                branches,
            } => {
                let branches = first_branch..first_branch + branches;
                Drawn::Tokens(
                    branches
                        .map(|branch| self.token(setup, &draw, branch))
                        .collect(),
                )
            }
            DrawKind::Candidates { count } => {
                let hash = hash(setup.sampling.params.seed, 0, draw.position as u64);
                Drawn::Candidates(self.list(setup, hash, count))
            }
        }
    }

    /// What is said of a prompt's token.
    pub(super) fn score(&self, setup: &RequestSetup, token_id: u32, position: usize) -> DrawnToken {
        let top = setup.sampling.params.num_logprobs.unwrap_or(0) as usize;
        let hash = hash(setup.sampling.params.seed, u64::MAX, position as u64);
        DrawnToken {
            token_id,
            logprob: Some(LOGPROB),
            top_logprobs: self.list(setup, hash, top),
        }
    }

    fn token(&self, setup: &RequestSetup, draw: &DrawAt, branch: usize) -> DrawnToken {
        let hash = hash(
            setup.sampling.params.seed,
            branch as u64,
            draw.position as u64,
        );
        let token_id = self.stop(setup, draw.token_index).unwrap_or_else(|| {
            let best = self.list(setup, hash, 1);
            best.first().map_or(self.ids.start, |best| best.token_id)
        });
        let Some(top) = setup.sampling.params.num_logprobs else {
            return DrawnToken::plain(token_id);
        };
        DrawnToken {
            token_id,
            logprob: Some(LOGPROB),
            top_logprobs: self.list(setup, hash, top as usize),
        }
    }

    /// The stop token, when the answer is long enough.
    fn stop(&self, setup: &RequestSetup, token_index: usize) -> Option<u32> {
        let wanted = self.answer_tokens?.max(setup.sampling.min_new_tokens + 1);
        let is_last = token_index + 1 >= wanted;
        setup.stop_token_ids.first().copied().filter(|_| is_last)
    }

    /// `count` tokens that differ, none of which ends the answer; fewer when there are not so many.
    fn list(&self, setup: &RequestSetup, hash: u64, count: usize) -> Vec<TokenLogprob> {
        let num_ids = u64::from(self.ids.end - self.ids.start);
        // A stride that shares no factor with the number of ids visits each of them once.
        let stride = if num_ids.is_multiple_of(STRIDE) {
            1
        } else {
            STRIDE
        };
        let first = hash % num_ids;
        (0..num_ids)
            .map(|index| self.ids.start + ((first + index * stride) % num_ids) as u32)
            .filter(|token_id| !setup.stop_token_ids.contains(token_id))
            .take(count)
            .enumerate()
            .map(|(place, token_id)| TokenLogprob {
                token_id,
                logprob: LOGPROB * (place + 1) as f32,
            })
            .collect()
    }
}

/// Where and how a token is drawn.
#[derive(Clone, Copy, Debug)]
pub(super) struct DrawAt {
    /// 0 is the first after the prompt.
    pub(super) token_index: usize,
    /// Of the token in its sequence: stays what it is when an answer goes on elsewhere, as part of a prompt.
    pub(super) position: usize,
    /// What is drawn.
    pub(super) kind: DrawKind,
}

/// Mixes three numbers (the finalizer of splitmix64, once for each).
fn hash(seed: u64, branch: u64, position: u64) -> u64 {
    [seed, branch, position]
        .into_iter()
        .fold(0, |hash, number| {
            let mut mixed = hash ^ number.wrapping_add(0x9e37_79b9_7f4a_7c15);
            mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            mixed ^ (mixed >> 31)
        })
}
