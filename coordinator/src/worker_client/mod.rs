//! How the coordinator speaks to workers: what it asks of them in words of its own, and the seam behind which the gRPC
//! version and the tests' fake stand.

mod connection;
#[cfg(test)]
pub(crate) mod fake;
mod from_wire;
pub(crate) mod generation_queue;
mod grpc;
mod leader;
mod pulse;
mod to_wire;

use std::{
    collections::BTreeMap,
    sync::{Arc, Weak},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use inkstone_cluster::{Epoch, NodeAddress};
use inkstone_interface::description::ModelDescription;
use tokio::time::Instant;

use crate::admission::Place;

pub(crate) use generation_queue::GenerationStream;
pub(crate) use grpc::GrpcConnector;
pub(crate) use pulse::{Health, Pulse};

/// Makes clients; never waits, as connections are made behind the scenes, and again when they break. To be called within a runtime.
pub(crate) trait Connector: Send + Sync {
    /// The language group whose leader is at this address.
    fn language(&self, leader: &NodeAddress) -> Arc<dyn LanguageClient>;
    /// The vision worker at this address.
    fn vision(&self, worker: &NodeAddress) -> Arc<dyn VisionClient>;
}

/// A language group, spoken to through its leader.
#[async_trait]
pub(crate) trait LanguageClient: Send + Sync {
    /// What the group serves.
    async fn describe(&self) -> Result<LanguageDescription, WorkerError>;
    /// Starts a request; returns once the leader took it on. Dropping the stream before its end cancels the request.
    async fn generate(&self, generation: Generation) -> Result<GenerationStream, WorkerError>;
    /// What is heard of the group beside that.
    fn pulse(&self) -> &Arc<Pulse>;
}

/// A vision worker.
#[async_trait]
pub(crate) trait VisionClient: Send + Sync {
    /// The model it encodes for.
    async fn describe(&self) -> Result<ModelDescription, WorkerError>;
    /// Uploads a picture and starts encoding it; returns once the picture is known to be good.
    async fn put_picture(&self, upload: PictureUpload) -> Result<PlacedPicture, WorkerError>;
}

/// What a language group serves.
#[derive(Debug, Clone)]
pub(crate) struct LanguageDescription {
    pub(crate) model: ModelDescription,
    /// The checkpoint's `tokenizer.model`.
    pub(crate) tokenizer_model: Bytes,
    /// The checkpoint's `added_tokens.json`.
    pub(crate) added_tokens: BTreeMap<String, u32>,
    pub(crate) epoch: Epoch,
    /// Most tokens a sequence may have, prompt and answer.
    pub(crate) max_sequence_tokens: usize,
    /// Root of the names of what is in its cache.
    pub(crate) cache_namespace: Bytes,
}

/// A request to run.
#[derive(Debug, Clone)]
pub(crate) struct Generation {
    pub(crate) request_id: String,
    /// The life of the group that the caller knows.
    pub(crate) epoch: Epoch,
    pub(crate) prompt: Arc<[PromptPiece]>,
    pub(crate) sampling: Sampling,
    pub(crate) decoding: Decoding,
    /// Of each answer; at least 1.
    pub(crate) max_new_tokens: u32,
    pub(crate) stop_token_ids: Vec<u32>,
    pub(crate) priority: Priority,
    /// Requests with different ones never share what is cached.
    pub(crate) cache_salt: Bytes,
    /// Report log-probabilities of the prompt.
    pub(crate) prompt_logprobs: bool,
    /// What was drawn already, in an earlier run; an answer that is not named drew nothing.
    pub(crate) resumed: Vec<Resumed>,
    /// In front of all that wait.
    pub(crate) first_in_line: bool,
    /// What its tokens are charged to, while the request lives.
    pub(crate) place: Weak<Place>,
}

/// An answer of which a part was drawn in an earlier run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Resumed {
    pub(crate) branch: u32,
    /// Its tokens so far.
    pub(crate) ids: Vec<u32>,
    /// Nothing more is to be drawn of it.
    pub(crate) ended: bool,
}

/// What a request makes of its prompt.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Decoding {
    /// So many answers, each drawn on its own; at least 1.
    Sample { branches: u32 },
    /// The best answers that a beam search finds.
    Beam(Beam),
}

/// A beam search; checked on receipt.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Beam {
    pub(crate) width: u32,
    /// At most `width`.
    pub(crate) num_answers: u32,
    pub(crate) length_penalty: f32,
    pub(crate) early_stopping: bool,
}

/// Who goes first when not all fit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Priority {
    /// Somebody waits for it.
    #[default]
    Interactive,
    /// Gives way.
    Batch,
}

/// A form that answers must have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Constraint {
    /// One of these.
    Choices(Vec<String>),
    /// JSON that satisfies this schema.
    JsonSchema(String),
    /// Text that matches this as a whole.
    Regex(String),
}

/// A piece of a prompt.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum PromptPiece {
    Tokens(Vec<u32>),
    Picture(PlacedPicture),
}

/// How tokens are chosen; checked on receipt.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Sampling {
    /// 0: greedy.
    pub(crate) temperature: f32,
    /// 0: all.
    pub(crate) top_k: u32,
    /// Above 0, at most 1.
    pub(crate) top_p: f32,
    /// 0: none is left out.
    pub(crate) min_p: f32,
    /// 1: none.
    pub(crate) repetition_penalty: f32,
    pub(crate) presence_penalty: f32,
    pub(crate) frequency_penalty: f32,
    pub(crate) seed: u64,
    /// Ids in order, none twice.
    pub(crate) logit_bias: Vec<(u32, f32)>,
    /// Stop tokens are not drawn before so many tokens were.
    pub(crate) min_new_tokens: u32,
    /// Report log-probabilities, with this many of the most likely tokens.
    pub(crate) num_logprobs: Option<u32>,
    pub(crate) constraint: Option<Constraint>,
}

/// Progress of a request.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum GenerationEvent {
    /// It runs.
    Started {
        /// Positions of its prompt that were found in the cache.
        cached_tokens: u32,
    },
    /// Log-probabilities of its prompt, from this position on.
    PromptLogprobs { first: u32, tokens: Vec<TokenInfo> },
    /// The next tokens of an answer.
    Tokens(TokenBatch),
    /// The end of an answer; after the last one's nothing follows.
    Ended { branch: u32, reason: EndReason },
    /// The answers of a beam search, best first; nothing follows.
    Beams(Vec<BeamAnswer>),
}

/// The next tokens of an answer.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct TokenBatch {
    /// Which answer.
    pub(crate) branch: u32,
    /// Index of the first token, counted from the first one after the prompt.
    pub(crate) first_index: u32,
    pub(crate) ids: Vec<u32>,
    /// One for each id, or none at all.
    pub(crate) infos: Vec<TokenInfo>,
}

/// Log-probabilities at one place.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct TokenInfo {
    pub(crate) token_id: u32,
    /// None where there is none: the prompt's first token, and pictures.
    pub(crate) logprob: Option<f32>,
    /// The most likely tokens, best first.
    pub(crate) top: Vec<(u32, f32)>,
}

/// One answer of a beam search.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct BeamAnswer {
    /// Its tokens, the stop token included.
    pub(crate) ids: Vec<u32>,
    pub(crate) score: f32,
    pub(crate) reason: EndReason,
}

/// Why an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EndReason {
    /// A stop token was drawn.
    Stop,
    /// As many tokens as asked for were drawn.
    Length,
}

/// A picture to upload.
#[derive(Debug, Clone)]
pub(crate) struct PictureUpload {
    /// The encoded file.
    pub(crate) data: Bytes,
    /// Tile budget; 0 where the model has no tiles.
    pub(crate) hd_num: u32,
    /// Its features will be wanted soon, whatever is in the groups' caches.
    pub(crate) encode_soon: bool,
    pub(crate) deadline: Option<Instant>,
}

/// A picture that a vision worker holds.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct PlacedPicture {
    pub(crate) digest: PictureDigest,
    /// Positions it takes in the prompt.
    pub(crate) num_tokens: u32,
    /// Who holds it.
    pub(crate) worker: NodeAddress,
}

/// The name of a picture's features among vision workers; opaque to the coordinator.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct PictureDigest(pub(crate) Bytes);

/// Why a worker did not do what it was asked.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub(crate) enum WorkerError {
    /// It cannot be reached, or went away.
    #[error("{0}")]
    Unavailable(String),
    /// It is there and says that it cannot work now.
    #[error("{0}")]
    NotServing(String),
    /// It is there, or seems to be, and says nothing at all.
    #[error("{0}")]
    Silent(String),
    /// It has no room.
    #[error("{message}")]
    Busy {
        message: String,
        retry_after: Option<Duration>,
    },
    /// The features of a picture of the prompt were evicted.
    #[error("features of a picture were evicted")]
    FeaturesMissing,
    /// It was started anew since it described itself.
    #[error("{0}")]
    EpochMismatch(String),
    /// It serves another model than this coordinator.
    #[error("wanted model `{wanted}`, the worker at {worker} has another: `{found}`")]
    OtherModel {
        wanted: String,
        found: String,
        worker: NodeAddress,
    },
    /// What was sent is not acceptable, for a reason the sender can mend.
    #[error("{0}")]
    Refused(String),
    /// The deadline that was passed along is over.
    #[error("deadline passed")]
    DeadlineExceeded,
    /// Anything else: a fault.
    #[error("{0}")]
    Faulty(String),
}

impl PromptPiece {
    /// Positions it takes.
    pub(crate) fn num_tokens(&self) -> usize {
        match self {
            Self::Tokens(ids) => ids.len(),
            Self::Picture(picture) => picture.num_tokens as usize,
        }
    }
}

impl Decoding {
    /// Answers that run side by side in the group and come as tokens: beams come at the end.
    pub(crate) fn num_branches(&self) -> u32 {
        match self {
            Self::Sample { branches } => *branches,
            Self::Beam(_) => 0,
        }
    }
}
