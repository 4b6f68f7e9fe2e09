//! The one table from the reasons why a request is not answered to gRPC statuses with google.rpc details.

use std::{collections::HashMap, time::Duration};

use inkstone_composition::article::EditError;
use tonic::{Code, Status, metadata::MetadataValue};
use tonic_types::{ErrorDetails, FieldViolation as WireViolation, StatusExt};

use crate::{
    article_error::ArticleError,
    cluster_error::ClusterError,
    error::{FieldViolation, RequestError},
};

/// The `domain` of every ErrorInfo.
const DOMAIN: &str = "inkstone";
/// How long clients with gRPC's own retries wait, in milliseconds.
const PUSHBACK: &str = "grpc-retry-pushback-ms";

/// The status of an error; `request_id` is told to the client where there is one.
pub(crate) fn to_status(error: &RequestError, request_id: &str) -> Status {
    to_status_of(error, request_id, "messages")
}

/// The same for a call whose prompt is made of the field `prompt`.
pub(crate) fn to_status_of(error: &RequestError, request_id: &str, prompt: &str) -> Status {
    let mut details = ErrorDetails::new();
    details.set_error_info(error.reason(), DOMAIN, metadata(error));
    if !request_id.is_empty() {
        details.set_request_info(request_id, "");
    }
    match error {
        RequestError::Invalid(violations) | RequestError::PictureRefused(violations) => {
            details.set_bad_request(to_wire(violations));
        }
        RequestError::PromptTooLong { .. } => {
            details.add_bad_request_violation(prompt, error.to_string());
        }
        RequestError::ModelNotFound { wanted, served } => {
            let description = format!("{served} is served");
            details.set_resource_info("model", wanted, "", description);
        }
        RequestError::Overloaded { .. } => {
            details.add_quota_failure_violation("requests", error.to_string());
        }
        RequestError::Cluster(ClusterError::NodeNotFound { wanted, .. }) => {
            details.set_resource_info("node", wanted, "", error.to_string());
        }
        RequestError::Cluster(ClusterError::NoRegistry) => {
            details.add_precondition_failure_violation("REGISTRY", "cluster", error.to_string());
        }
        RequestError::ClusterFull { .. }
        | RequestError::Starting { .. }
        | RequestError::ShuttingDown { .. }
        | RequestError::LanguageUnavailable { .. }
        | RequestError::RecoveryFailed { .. }
        | RequestError::VisionUnavailable { .. }
        | RequestError::DeadlineExceeded
        | RequestError::ReaderTooSlow { .. }
        | RequestError::Cluster(_)
        | RequestError::Internal(_) => {}
        RequestError::Article(error) => describe_article(error, &mut details),
    }
    let retry_after = retry_after(error);
    if let Some(delay) = retry_after {
        details.set_retry_info(Some(delay));
    }
    let mut status = Status::with_error_details(code(error), error.to_string(), details);
    if let Some(delay) = retry_after {
        let millis = MetadataValue::from(delay.as_millis() as u64);
        status.metadata_mut().insert(PUSHBACK, millis);
    }
    status
}

/// What cannot be found, what has no room, or what would have to be otherwise.
fn describe_article(error: &ArticleError, details: &mut ErrorDetails) {
    let description = error.to_string();
    match error {
        ArticleError::NotFound { wanted } => {
            details.set_resource_info("article", &wanted.0, "", description);
        }
        ArticleError::PictureNotFound { wanted } => {
            details.set_resource_info("picture", wanted.as_str(), "", description);
        }
        ArticleError::Full { .. } => {
            details.add_quota_failure_violation("articles", description);
        }
        ArticleError::Conflict(_) | ArticleError::SourceFailed { .. } => {}
        ArticleError::NoPictureSource => {
            details.add_precondition_failure_violation("PICTURE_SOURCE", "server", description);
        }
        ArticleError::Unfit(_)
        | ArticleError::StillComposing
        | ArticleError::NoArticle
        | ArticleError::EditRunning
        | ArticleError::PicturesNotWanted { .. } => {
            details.add_precondition_failure_violation("ARTICLE", "article", description);
        }
    }
}

fn code(error: &RequestError) -> Code {
    match error {
        RequestError::Invalid(_)
        | RequestError::PromptTooLong { .. }
        | RequestError::PictureRefused(_) => Code::InvalidArgument,
        RequestError::ModelNotFound { .. } => Code::NotFound,
        RequestError::Overloaded { .. }
        | RequestError::ClusterFull { .. }
        | RequestError::ReaderTooSlow { .. } => Code::ResourceExhausted,
        RequestError::Starting { .. }
        | RequestError::ShuttingDown { .. }
        | RequestError::LanguageUnavailable { .. }
        | RequestError::RecoveryFailed { .. }
        | RequestError::VisionUnavailable { .. } => Code::Unavailable,
        RequestError::DeadlineExceeded => Code::DeadlineExceeded,
        RequestError::Cluster(ClusterError::NoRegistry) => Code::FailedPrecondition,
        RequestError::Cluster(ClusterError::NodeNotFound { .. }) => Code::NotFound,
        RequestError::Cluster(ClusterError::DeploymentChanged) => Code::Aborted,
        RequestError::Cluster(ClusterError::RegistryAway { .. }) => Code::Unavailable,
        RequestError::Cluster(ClusterError::TooManyWatches { .. }) => Code::ResourceExhausted,
        RequestError::Article(error) => match error {
            ArticleError::NotFound { .. } | ArticleError::PictureNotFound { .. } => Code::NotFound,
            ArticleError::Full { .. } => Code::ResourceExhausted,
            ArticleError::Conflict(_) => Code::Aborted,
            ArticleError::SourceFailed { .. } => Code::Unavailable,
            ArticleError::Unfit(_)
            | ArticleError::StillComposing
            | ArticleError::NoArticle
            | ArticleError::EditRunning
            | ArticleError::PicturesNotWanted { .. }
            | ArticleError::NoPictureSource => Code::FailedPrecondition,
        },
        RequestError::Internal(_) => Code::Internal,
    }
}

fn retry_after(error: &RequestError) -> Option<Duration> {
    match error {
        RequestError::Overloaded { retry_after, .. }
        | RequestError::ClusterFull { retry_after, .. }
        | RequestError::Starting { retry_after }
        | RequestError::ShuttingDown { retry_after }
        | RequestError::LanguageUnavailable { retry_after, .. }
        | RequestError::RecoveryFailed { retry_after, .. }
        | RequestError::VisionUnavailable { retry_after, .. }
        | RequestError::Cluster(
            ClusterError::RegistryAway { retry_after, .. }
            | ClusterError::TooManyWatches { retry_after, .. },
        )
        | RequestError::Article(
            ArticleError::Full { retry_after, .. } | ArticleError::SourceFailed { retry_after, .. },
        ) => Some(*retry_after),
        RequestError::Invalid(_)
        | RequestError::PromptTooLong { .. }
        | RequestError::PictureRefused(_)
        | RequestError::ModelNotFound { .. }
        | RequestError::DeadlineExceeded
        | RequestError::ReaderTooSlow { .. }
        | RequestError::Cluster(_)
        | RequestError::Article(_)
        | RequestError::Internal(_) => None,
    }
}

/// Numbers that a program may want, beside the message that says them.
fn metadata(error: &RequestError) -> HashMap<String, String> {
    let pairs: &[(&str, String)] = match error {
        RequestError::PromptTooLong { num_tokens, limit } => &[
            ("prompt_tokens", num_tokens.to_string()),
            ("max_prompt_tokens", limit.to_string()),
        ],
        RequestError::Overloaded { reason, .. } => &[("bound", reason.label().to_owned())],
        RequestError::RecoveryFailed { num_moves, .. } => &[("moves", num_moves.to_string())],
        RequestError::Article(ArticleError::Conflict(EditError::Conflict { wanted, found })) => &[
            ("wanted_revision", wanted.0.to_string()),
            ("revision", found.0.to_string()),
        ],
        _ => &[],
    };
    let pairs = pairs.iter();
    pairs
        .map(|(key, value)| ((*key).to_owned(), value.clone()))
        .collect()
}

fn to_wire(violations: &[FieldViolation]) -> Vec<WireViolation> {
    let violations = violations.iter();
    violations
        .map(|violation| WireViolation::new(&violation.path, &violation.description))
        .collect()
}
