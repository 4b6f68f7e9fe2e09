//! The life of a request, from what a client asked for, checked, to the events it is sent.

pub(crate) mod detokenise;
pub(crate) mod dispatcher;
pub(crate) mod event_queue;
pub(crate) mod lifecycle;
pub(crate) mod pictures;
pub(crate) mod render;
mod run;
pub(crate) mod stop_strings;

use std::sync::Arc;

use bytes::Bytes;
use inkstone_interface::chat_template::{BosRule, Role};
use tokio::time::Instant;

use crate::worker_client::Sampling;

/// A chat request with every field checked on its own; whether it fits the model shows when it is rendered.
#[derive(Debug, Clone)]
pub(crate) struct ChatRequest {
    pub(crate) request_id: String,
    /// The model wanted; empty: the one that is served.
    pub(crate) model: String,
    pub(crate) messages: Arc<[Message]>,
    pub(crate) sampling: Sampling,
    pub(crate) stop: StopRule,
    pub(crate) layout: PromptLayout,
    pub(crate) deadline: Option<Instant>,
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
    /// A language group took the request on.
    Started { model: String, prompt: PromptSize },
    /// More of the answer.
    Delta { text: String, token_ids: Vec<u32> },
    /// The end.
    Finished {
        reason: FinishReason,
        stop_string: Option<String>,
        usage: Usage,
    },
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
    /// Tokens generated, the stop token included.
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
