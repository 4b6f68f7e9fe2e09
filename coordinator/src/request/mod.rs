//! The life of a request, from what a client asked for, checked, to the events it is sent.

pub(crate) mod answers;
pub(crate) mod detokenise;
pub(crate) mod dispatcher;
pub(crate) mod event_stream;
mod journal;
pub(crate) mod lifecycle;
pub(crate) mod pictures;
pub(crate) mod render;
mod run;
pub(crate) mod stop_strings;

use std::sync::Arc;

use bytes::Bytes;
use inkstone_cluster::{Epoch, GroupId};
use inkstone_composition::Prompt;
use inkstone_interface::chat_template::{BosRule, Role};
use tokio::time::Instant;

use self::pictures::KnownPicture;
use crate::worker_client::{Beam, Decoding, Priority, Sampling, TokenInfo};

/// A request, of a chat or for a step of a composition, with every field checked on its own; whether it fits the model shows when it
/// is rendered.
#[derive(Debug, Clone)]
pub(crate) struct ChatRequest {
    pub(crate) request_id: String,
    /// The model wanted; empty: the one that is served.
    pub(crate) model: String,
    pub(crate) content: Content,
    pub(crate) sampling: Sampling,
    pub(crate) answers: AnswerPlan,
    pub(crate) stop: StopRule,
    /// Tell the log-probabilities of answers.
    pub(crate) logprobs: bool,
    /// Tell the log-probabilities of the prompt.
    pub(crate) prompt_logprobs: bool,
    pub(crate) priority: Priority,
    /// On whose behalf the call is made; tenants share nothing that is cached. Empty: nobody's in particular.
    pub(crate) tenant: Bytes,
    pub(crate) deadline: Option<Instant>,
}

impl ChatRequest {
    /// The field that only a group can judge: whether a form can be read, and whether so many answers fit its cache.
    fn unchecked_field(&self) -> Option<&'static str> {
        if self.sampling.constraint.is_some() {
            return Some("constraint");
        }
        match self.answers {
            AnswerPlan::Beam(_) => Some("beam.width"),
            AnswerPlan::Best { .. } => Some("sampling.best_of"),
            AnswerPlan::All { num_answers: 2.. } => Some("sampling.n"),
            AnswerPlan::All { .. } => None,
        }
    }
}

/// What the model is asked.
#[derive(Debug, Clone)]
pub(crate) enum Content {
    /// A conversation, which the model's chat template puts into words.
    Chat {
        messages: Arc<[Message]>,
        layout: PromptLayout,
    },
    /// A question of a composition, which has its own words.
    Composition(ComposedPrompt),
}

impl Content {
    /// Lets go of what is in the prompt once it is rendered.
    fn let_go(&mut self) {
        match self {
            Self::Chat { messages, .. } => *messages = Arc::default(),
            Self::Composition(composed) => composed.pictures = Arc::default(),
        }
    }
}

/// A question of a composition.
#[derive(Debug, Clone)]
pub(crate) struct ComposedPrompt {
    pub(crate) prompt: Arc<Prompt>,
    /// One for each slot of the prompt, in order.
    pub(crate) pictures: Arc<[Arc<KnownPicture>]>,
    /// It goes on with what was begun before, so it is let in while the coordinator comes to its end.
    pub(crate) goes_on: bool,
}

/// Which answers are wanted, and how they come about.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum AnswerPlan {
    /// Each is drawn on its own and streams.
    All {
        /// At least 1.
        num_answers: u32,
    },
    /// Of those drawn the most likely ones, at the end.
    Best {
        /// At least 1.
        num_answers: u32,
        /// More than `num_answers`.
        num_drawn: u32,
    },
    /// Those that a beam search finds, at the end.
    Beam(Beam),
}

impl AnswerPlan {
    /// What a group is asked for.
    pub(crate) fn decoding(&self) -> Decoding {
        match *self {
            Self::All { num_answers } => Decoding::Sample {
                branches: num_answers,
            },
            Self::Best { num_drawn, .. } => Decoding::Sample {
                branches: num_drawn,
            },
            Self::Beam(beam) => Decoding::Beam(beam),
        }
    }
}

/// One turn.
#[derive(Debug, Clone)]
pub(crate) struct Message {
    pub(crate) role: Role,
    pub(crate) parts: Vec<MessagePart>,
}

/// A piece of a turn.
#[derive(Debug, Clone)]
pub(crate) enum MessagePart {
    Text(String),
    /// An encoded picture.
    Picture(Bytes),
}

/// When to stop.
#[derive(Debug, Clone)]
pub(crate) struct StopRule {
    /// At least 1; what does not fit the context is left out.
    pub(crate) max_tokens: u32,
    /// None is empty.
    pub(crate) stop_strings: Vec<String>,
    /// Go on past the model's own end of turn.
    pub(crate) ignore_eos: bool,
    /// The model's own end of turn is not drawn earlier. At most `max_tokens`.
    pub(crate) min_tokens: u32,
}

/// How the prompt is laid out.
#[derive(Debug, Clone)]
pub(crate) struct PromptLayout {
    pub(crate) bos: BosRule,
    pub(crate) omit_default_system: bool,
    /// Tile budget asked for.
    pub(crate) hd_num: Option<u32>,
    /// The answer goes on from this; it is not sent back.
    pub(crate) answer_prefix: String,
}

/// One event of an answer.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum ChatEvent {
    /// A language group runs the request.
    Started {
        model: String,
        prompt: PromptSize,
        /// Positions of the prompt that were found in the cache.
        cached_tokens: u32,
        receipt: Receipt,
    },
    /// Log-probabilities of the prompt, from this position on.
    PromptLogprobs { first: u32, tokens: Vec<TokenInfo> },
    /// More of an answer.
    Delta(Delta),
    /// The end of one of several answers.
    AnswerFinished {
        answer: u32,
        end: AnswerEnd,
        completion_tokens: u32,
        /// What it was chosen by.
        score: Option<f32>,
    },
    /// The end of all; the end told is that of answer 0, the receipt that of the group that ran it last.
    Finished {
        end: AnswerEnd,
        usage: Usage,
        receipt: Receipt,
    },
}

/// Where a request went, and what was expected of the choice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Receipt {
    pub(crate) group: GroupId,
    pub(crate) epoch: Epoch,
    /// Positions of the prompt that the group was expected to have in its cache.
    pub(crate) predicted_cached_tokens: u32,
    /// Positions that it had.
    pub(crate) cached_tokens: u32,
    /// How often the request was moved because what ran it was lost.
    pub(crate) num_moves: u32,
}

/// More of an answer.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Delta {
    /// Which answer.
    pub(crate) answer: u32,
    pub(crate) text: String,
    pub(crate) token_ids: Vec<u32>,
    /// One for each id, or none at all.
    pub(crate) logprobs: Vec<TokenInfo>,
}

/// How an answer ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AnswerEnd {
    pub(crate) reason: FinishReason,
    /// The stop string that ended it.
    pub(crate) stop_string: Option<String>,
}

/// Positions of a prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PromptSize {
    /// All of them.
    pub(crate) prompt_tokens: u32,
    /// Those of pictures.
    pub(crate) picture_tokens: u32,
}

/// What a request took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Usage {
    pub(crate) prompt: PromptSize,
    /// Of the prompt, positions that were found in the cache.
    pub(crate) cached_tokens: u32,
    /// Tokens generated, stop tokens included, of all answers.
    pub(crate) completion_tokens: u32,
}

/// Why an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FinishReason {
    /// The model ended its turn, or a stop string was met.
    Stop,
    /// As many tokens as asked for, or as fit, were generated.
    Length,
}
