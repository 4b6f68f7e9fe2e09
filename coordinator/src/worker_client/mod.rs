//! How the coordinator speaks to workers: what it asks of them in words of its own, and the seam behind which the gRPC
//! version and the tests' fake stand.

#[cfg(test)]
pub(crate) mod fake;
mod grpc;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use inkstone_cluster::{Epoch, NodeAddress};
use inkstone_interface::description::ModelDescription;
use tokio::time::Instant;

pub(crate) use grpc::GrpcConnector;

/// Makes clients; never waits, as connections are made on first use and again when they break.
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
    /// Starts a sequence; returns once the leader took it on. Dropping the stream ends the sequence.
    async fn generate(&self, generation: Generation) -> Result<GenerationStream, WorkerError>;
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
}

/// A sequence to run.
#[derive(Debug, Clone)]
pub(crate) struct Generation {
    pub(crate) request_id: String,
    /// The life of the group that the caller knows.
    pub(crate) epoch: Epoch,
    pub(crate) prompt: Vec<PromptPiece>,
    pub(crate) sampling: Sampling,
    /// At least 1.
    pub(crate) max_new_tokens: u32,
    pub(crate) stop_token_ids: Vec<u32>,
    pub(crate) deadline: Option<Instant>,
}

/// A piece of a prompt.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum PromptPiece {
    Tokens(Vec<u32>),
    Picture(PlacedPicture),
}

/// How tokens are chosen; checked on receipt.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Sampling {
    /// 0: greedy.
    pub(crate) temperature: f32,
    /// 0: all.
    pub(crate) top_k: u32,
    /// Above 0, at most 1.
    pub(crate) top_p: f32,
    /// 1: none.
    pub(crate) repetition_penalty: f32,
    pub(crate) seed: u64,
}

/// The answer as it grows. The end of the stream before `Ended` is a failure of the group.
pub(crate) type GenerationStream = BoxStream<'static, Result<GenerationEvent, WorkerError>>;

/// Progress of a sequence.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum GenerationEvent {
    /// The next tokens; the first has this index, counted from the first token after the prompt.
    Tokens { first_index: u32, ids: Vec<u32> },
    /// The end.
    Ended(EndReason),
}

/// Why a sequence ended.
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
    /// It cannot be reached, or went away, or says that it cannot work now.
    #[error("{0}")]
    Unavailable(String),
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
