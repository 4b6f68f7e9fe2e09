//! What is asked of the engine, and what it tells about it.

use inkstone_prefix::Span;

use crate::{RequestId, step::DrawnToken};

/// A request as the engine needs to know it. How tokens are chosen stays with the executor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineRequest {
    /// Its name; never used twice.
    pub id: RequestId,
    /// The prompt, in order; at least one position.
    pub prompt: Vec<PromptSpan>,
    /// Whose blocks may be shared with it: the tenant, the model's revision, and all else that changes what is cached for the
    /// same tokens (the rotary base of long prompts). Requests with different salts never share a block.
    pub cache_salt: [u8; 32],
    /// What it makes.
    pub decoding: Decoding,
    /// Most tokens of an answer; at least 1.
    pub max_new_tokens: usize,
    /// Tokens that end an answer.
    pub stop_token_ids: Vec<u32>,
    /// Who goes first.
    pub priority: Priority,
    /// Whether log-probabilities of the prompt's tokens are wanted; such a prompt is computed whole.
    pub prompt_logprobs: bool,
    /// Whether the executor holds the features of all its pictures already. Otherwise the engine asks for them
    /// ([`Event::NeedsPictures`]) when it must compute a picture's rows, and waits for [`Scheduler::pictures_ready`](crate::Scheduler::pictures_ready).
    pub pictures_ready: bool,
    /// What an earlier run of it drew, elsewhere: this run goes on after that, and tells only what is new. A branch is named at
    /// most once; one that is not named drew nothing. Not with a beam search, which begins anew.
    pub resumed: Vec<Resumed>,
    /// In front of all that wait, whatever their priority: somebody is in the middle of reading its answer. Now and then another goes
    /// between, so that nobody waits for ever.
    pub first_in_line: bool,
}

/// A branch of which a part is drawn already.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resumed {
    /// Which answer.
    pub branch: usize,
    /// Its tokens so far, at most `max_new_tokens`; only the last may be a stop token. Of a branch that is complete by that, only
    /// the end is told.
    pub token_ids: Vec<u32>,
    /// Its end was heard of: nothing is told of it any more, whatever its tokens are.
    pub has_ended: bool,
}

/// A piece of a prompt. What it is decides what may be shared; the engine looks at nothing else in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PromptSpan {
    /// Token ids.
    Tokens(Vec<u32>),
    /// A picture: its digest (BLAKE3 over its file, the way it is prepared, and the model's revision) and its positions.
    Picture {
        /// Two pictures with one digest are the same picture.
        digest: [u8; 32],
        /// At least 1.
        num_tokens: usize,
    },
}

impl EngineRequest {
    /// Whether a picture is in the prompt.
    pub fn has_pictures(&self) -> bool {
        self.prompt
            .iter()
            .any(|span| matches!(span, PromptSpan::Picture { .. }))
    }

    /// Positions of the prompt.
    pub fn prompt_len(&self) -> usize {
        self.prompt
            .iter()
            .map(PromptSpan::num_tokens)
            .fold(0, usize::saturating_add)
    }

    /// What makes no sense in it, if anything.
    pub(crate) fn find_fault(&self) -> Option<&'static str> {
        let picture_without_rows =
            |span: &PromptSpan| matches!(span, PromptSpan::Picture { num_tokens: 0, .. });
        if self.prompt_len() == 0 || self.max_new_tokens == 0 {
            return Some("a request needs at least one prompt token and one token to draw");
        }
        if self.prompt.iter().any(picture_without_rows) {
            return Some("a picture takes at least one position");
        }
        if let Some(wrong) = self.find_fault_in_resumed() {
            return Some(wrong);
        }
        match self.decoding {
            Decoding::Sample { branches: 0 } => Some("a request needs at least one answer"),
            Decoding::Beam(params)
                if params.num_answers == 0 || params.num_answers > params.width =>
            {
                Some("a beam search returns between one answer and one for each beam")
            }
            Decoding::Beam(params) if !params.length_penalty.is_finite() => {
                Some("length_penalty must be finite")
            }
            Decoding::Sample { .. } | Decoding::Beam(_) => None,
        }
    }
}

impl EngineRequest {
    /// Answers that are told of: those whose end an earlier run has not told.
    pub fn answers_to_tell(&self) -> usize {
        match self.decoding {
            Decoding::Sample { branches } => {
                let ended = self.resumed.iter().filter(|known| known.has_ended);
                branches - ended.count().min(branches)
            }
            Decoding::Beam(_) => 1,
        }
    }

    /// What ends its answers.
    pub(crate) fn ends(&self) -> Ends<'_> {
        Ends {
            stop_token_ids: &self.stop_token_ids,
            max_new_tokens: self.max_new_tokens,
        }
    }

    fn find_fault_in_resumed(&self) -> Option<&'static str> {
        let Decoding::Sample { branches } = self.decoding else {
            let is_fresh = self.resumed.is_empty();
            return (!is_fresh).then_some("a beam search begins anew: it resumes no answer");
        };
        let mut is_named = vec![false; branches];
        for known in &self.resumed {
            match is_named.get_mut(known.branch) {
                None => return Some("a resumed answer is not one of those asked for"),
                Some(true) => return Some("an answer is resumed twice"),
                Some(named) => *named = true,
            }
            if known.has_ended {
                continue;
            }
            let drawn = &known.token_ids;
            if drawn.len() > self.max_new_tokens {
                return Some("a resumed answer has more than max_new_tokens already");
            }
            let before_last = &drawn[..drawn.len().saturating_sub(1)];
            let stops = |id: &u32| self.stop_token_ids.contains(id);
            if before_last.iter().any(stops) {
                return Some("a resumed answer goes on after a stop token");
            }
        }
        (branches > 0 && self.answers_to_tell() == 0)
            .then_some("all answers of the request have ended already")
    }
}

/// What ends an answer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ends<'a> {
    pub(crate) stop_token_ids: &'a [u32],
    pub(crate) max_new_tokens: usize,
}

/// Why an answer is over with this token as its number `index`.
pub(crate) fn end_of(ends: Ends<'_>, token_id: u32, index: usize) -> Option<EndReason> {
    if ends.stop_token_ids.contains(&token_id) {
        Some(EndReason::Stop)
    } else if index + 1 == ends.max_new_tokens {
        Some(EndReason::Length)
    } else {
        None
    }
}

impl Event {
    /// Whom it happened to.
    pub fn request(&self) -> RequestId {
        match self {
            Self::Started { request, .. }
            | Self::NeedsPictures { request }
            | Self::PromptLogprobs { request, .. }
            | Self::Token { request, .. }
            | Self::Ended { request, .. }
            | Self::Beams { request, .. }
            | Self::Failed { request, .. } => *request,
        }
    }
}

impl PromptSpan {
    /// Positions.
    pub fn num_tokens(&self) -> usize {
        match self {
            Self::Tokens(ids) => ids.len(),
            Self::Picture { num_tokens, .. } => *num_tokens,
        }
    }

    /// As its contents are hashed.
    pub(crate) fn as_hashed(&self) -> Span<'_> {
        match self {
            Self::Tokens(ids) => Span::Tokens(ids),
            Self::Picture { digest, num_tokens } => Span::Picture {
                digest,
                num_tokens: *num_tokens,
            },
        }
    }
}

/// What a request makes of its prompt.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Decoding {
    /// So many answers, each drawn on its own; at least 1. Answer `b` is branch `b`.
    Sample {
        /// How many.
        branches: usize,
    },
    /// The best answers that a beam search finds.
    Beam(BeamParams),
}

impl Eq for Decoding {}

/// A beam search, as transformers 4.33 does it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BeamParams {
    /// Beams kept from step to step; at least 1.
    pub width: usize,
    /// Answers to return, best first; at most `width`.
    pub num_answers: usize,
    /// A finished answer's score is the sum of its log-probabilities divided by its length to this power.
    pub length_penalty: f32,
    /// Stop as soon as `width` answers are finished, rather than when no live beam can beat them.
    pub early_stopping: bool,
}

/// Who goes first when not all fit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Priority {
    /// Gives way, though not for ever.
    Batch,
    /// Somebody waits for it.
    #[default]
    Interactive,
}

/// Why an answer ended by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndReason {
    /// It drew a stop token.
    Stop,
    /// It drew `max_new_tokens`.
    Length,
}

/// What happened to a request.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// It runs (again); of its prompt so many positions were found in the cache. Sent once per request, before its first token.
    Started {
        /// The request.
        request: RequestId,
        /// Positions of the prompt that were not computed.
        cached_tokens: usize,
    },
    /// It cannot go on before the executor holds the features of its pictures. Others are not held up.
    NeedsPictures {
        /// The request.
        request: RequestId,
    },
    /// Log-probabilities of the prompt's tokens `first..first + tokens.len()`; `None` where there is no token before, or the position
    /// or the one before it is a picture's.
    PromptLogprobs {
        /// The request.
        request: RequestId,
        /// First position.
        first: usize,
        /// One for each position.
        tokens: Vec<Option<DrawnToken>>,
    },
    /// Branch `branch` drew its token number `index`.
    Token {
        /// The request.
        request: RequestId,
        /// Which answer.
        branch: usize,
        /// 0 is the first after the prompt.
        index: usize,
        /// The token.
        token: DrawnToken,
    },
    /// Branch `branch` ended. The request is over, and its blocks given back, when all its branches are.
    Ended {
        /// The request.
        request: RequestId,
        /// Which answer.
        branch: usize,
        /// Why.
        reason: EndReason,
    },
    /// A beam search ended: its answers, best first. The request is over.
    Beams {
        /// The request.
        request: RequestId,
        /// At least one.
        answers: Vec<BeamAnswer>,
    },
    /// It cannot go on (logits that are not finite, a grammar that allows no token). It is over and its blocks are given back.
    Failed {
        /// The request.
        request: RequestId,
        /// What to tell its owner.
        reason: DrawFailure,
    },
}

/// One answer of a beam search.
#[derive(Clone, Debug, PartialEq)]
pub struct BeamAnswer {
    /// Its tokens, the stop token included when there is one.
    pub token_ids: Vec<u32>,
    /// Sum of log-probabilities over length to the power of the penalty.
    pub score: f32,
    /// Why it ended.
    pub reason: EndReason,
}

/// Why no token could be drawn for a sequence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DrawFailure {
    /// The logits held NaN or infinity.
    NotFinite,
    /// The request's constraint allows no token here.
    NothingAllowed(String),
}
