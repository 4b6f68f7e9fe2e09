//! Why a request is not answered: the one list of reasons that all parts of the coordinator use. Which status a reason
//! becomes on the wire is decided in `api::error`.

use std::time::Duration;

use crate::{
    admission::ShedReason, article_error::ArticleError, cluster_error::ClusterError,
    worker_client::WorkerError,
};

/// Why a request is not answered, or not to its end.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub(crate) enum RequestError {
    /// The caller must mend these fields.
    #[error("request is invalid: {}", list(.0))]
    Invalid(Vec<FieldViolation>),
    /// The prompt does not fit.
    #[error("prompt has {num_tokens} tokens, limit is {limit}")]
    PromptTooLong { num_tokens: usize, limit: usize },
    /// These pictures cannot be read.
    #[error("picture refused: {}", list(.0))]
    PictureRefused(Vec<FieldViolation>),
    /// Another model is wanted than the one that is served.
    #[error("model `{wanted}` is not served, `{served}` is")]
    ModelNotFound { wanted: String, served: String },
    /// All places are taken and it cannot wait for one.
    #[error("no room for another request: {reason}")]
    Overloaded {
        reason: ShedReason,
        retry_after: Duration,
    },
    /// A worker has no room for another request.
    #[error("the cluster is full: {message}")]
    ClusterFull {
        message: String,
        retry_after: Duration,
    },
    /// The members have not answered yet.
    #[error("the model is still loading")]
    Starting { retry_after: Duration },
    /// The coordinator is going away.
    #[error("the server is shutting down")]
    ShuttingDown { retry_after: Duration },
    /// No language group takes the request.
    #[error("no language group can answer: {message}")]
    LanguageUnavailable {
        message: String,
        retry_after: Duration,
    },
    /// What ran the request was lost, and nothing took it over.
    #[error("the request was moved {num_moves} times and cannot go on: {message}")]
    RecoveryFailed {
        num_moves: u32,
        message: String,
        retry_after: Duration,
    },
    /// No vision worker answers.
    #[error("no vision worker can take the picture: {message}")]
    VisionUnavailable {
        message: String,
        retry_after: Duration,
    },
    /// The caller's deadline passed.
    #[error("deadline passed before the answer was complete")]
    DeadlineExceeded,
    /// The caller did not read the answer.
    #[error("nothing was read for {} s while the answer went on", .stalled.as_secs_f32())]
    ReaderTooSlow { stalled: Duration },
    /// What was asked about the cluster cannot be done.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// What was asked of an article cannot be done.
    #[error(transparent)]
    Article(#[from] ArticleError),
    /// A fault of ours.
    #[error("internal error: {0}")]
    Internal(String),
}

/// A field of a request that the caller must mend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FieldViolation {
    /// Path in the request, `messages[0].parts[1].picture`.
    pub(crate) path: String,
    /// What was wanted and what was found.
    pub(crate) description: String,
}

impl FieldViolation {
    pub(crate) fn new(path: impl Into<String>, description: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            description: description.into(),
        }
    }
}

impl From<inkstone_composition::Violation> for FieldViolation {
    fn from(violation: inkstone_composition::Violation) -> Self {
        Self::new(violation.path, violation.description)
    }
}

impl RequestError {
    /// One field is wrong.
    pub(crate) fn invalid(path: impl Into<String>, description: impl Into<String>) -> Self {
        Self::Invalid(vec![FieldViolation::new(path, description)])
    }

    /// The stable name of the reason: what clients branch on, and the outcome in metrics.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::Invalid(_) => "INVALID_REQUEST",
            Self::PromptTooLong { .. } => "PROMPT_TOO_LONG",
            Self::PictureRefused(_) => "PICTURE_REFUSED",
            Self::ModelNotFound { .. } => "MODEL_NOT_FOUND",
            Self::Overloaded { reason, .. } => reason.name(),
            Self::ClusterFull { .. } => "CLUSTER_FULL",
            Self::Starting { .. } => "STARTING",
            Self::ShuttingDown { .. } => "SHUTTING_DOWN",
            Self::LanguageUnavailable { .. } => "LANGUAGE_UNAVAILABLE",
            Self::RecoveryFailed { .. } => "RECOVERY_FAILED",
            Self::VisionUnavailable { .. } => "VISION_UNAVAILABLE",
            Self::DeadlineExceeded => "DEADLINE_EXCEEDED",
            Self::ReaderTooSlow { .. } => "READER_TOO_SLOW",
            Self::Cluster(error) => error.reason(),
            Self::Article(error) => error.reason(),
            Self::Internal(_) => "INTERNAL",
        }
    }

    /// What a language group's failure means for the request it ran.
    pub(crate) fn from_language(error: WorkerError, retry_after: Duration) -> Self {
        match error {
            WorkerError::Busy {
                message,
                retry_after: wanted,
            } => Self::ClusterFull {
                message,
                retry_after: wanted.unwrap_or(retry_after),
            },
            WorkerError::DeadlineExceeded => Self::DeadlineExceeded,
            WorkerError::FeaturesMissing => Self::VisionUnavailable {
                message: error.to_string(),
                retry_after,
            },
            WorkerError::Unavailable(_)
            | WorkerError::NotServing(_)
            | WorkerError::Silent(_)
            | WorkerError::EpochMismatch(_)
            | WorkerError::OtherModel { .. } => Self::LanguageUnavailable {
                message: error.to_string(),
                retry_after,
            },
            WorkerError::Refused(_) | WorkerError::Faulty(_) => {
                Self::Internal(format!("language group: {error}"))
            }
        }
    }
}

fn list(violations: &[FieldViolation]) -> String {
    let lines: Vec<_> = violations
        .iter()
        .map(|violation| format!("{}: {}", violation.path, violation.description))
        .collect();
    lines.join("; ")
}
