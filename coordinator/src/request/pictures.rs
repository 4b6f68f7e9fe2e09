//! Brings the pictures of a request to vision workers, all at once.

use bytes::Bytes;
use futures::future::join_all;
use tokio::time::Instant;

use crate::{
    cluster_view::ClusterView,
    error::{FieldViolation, RequestError},
    model::ServedModel,
    request::{Message, MessagePart},
    worker_client::{PictureUpload, PlacedPicture, WorkerError},
};
use std::time::Duration;

/// A picture of a request.
#[derive(Debug, Clone)]
pub(crate) struct Picture {
    /// Where it stands in the request, `messages[0].parts[1].picture`.
    pub(crate) path: String,
    pub(crate) data: Bytes,
    /// Names the vision worker it belongs to.
    pub(crate) content: blake3::Hash,
}

/// What applies to all pictures of a request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PutOptions {
    /// Tile budget of each; 0 where the model has no tiles.
    pub(crate) hd_num: u32,
    pub(crate) deadline: Option<Instant>,
    /// What the client is told where no worker answers.
    pub(crate) retry_after: Duration,
}

/// The pictures of a conversation in order. Hashes their bytes, so not for an async thread.
pub(crate) fn collect(messages: &[Message]) -> Vec<Picture> {
    let mut pictures = vec![];
    for (message_index, message) in messages.iter().enumerate() {
        for (part_index, part) in message.parts.iter().enumerate() {
            if let MessagePart::Picture(data) = part {
                pictures.push(Picture {
                    path: format!("messages[{message_index}].parts[{part_index}].picture"),
                    data: data.clone(),
                    content: blake3::hash(data),
                });
            }
        }
    }
    pictures
}

/// Puts all pictures, in parallel, and gives where they are, in order. All that are refused are named.
pub(crate) async fn put_all(
    cluster: &ClusterView,
    model: &ServedModel,
    pictures: &[Picture],
    options: PutOptions,
) -> Result<Vec<PlacedPicture>, RequestError> {
    let puts = pictures.iter().map(|picture| {
        let upload = PictureUpload {
            data: picture.data.clone(),
            hd_num: options.hd_num,
            deadline: options.deadline,
        };
        async move { cluster.put_picture(model, &picture.content, &upload).await }
    });
    let mut placed = vec![];
    let mut refused = vec![];
    let mut failed = None;
    for (picture, answer) in pictures.iter().zip(join_all(puts).await) {
        match answer {
            Ok(place) => placed.push(place),
            Err(WorkerError::Refused(reason)) => {
                refused.push(FieldViolation::new(&picture.path, reason));
            }
            Err(error) => failed = failed.or(Some((&picture.path, error))),
        }
    }
    match failed {
        _ if !refused.is_empty() => Err(RequestError::PictureRefused(refused)),
        Some((path, error)) => Err(failure(path, error, options)),
        None => Ok(placed),
    }
}

fn failure(path: &str, error: WorkerError, options: PutOptions) -> RequestError {
    match error {
        WorkerError::Busy {
            message,
            retry_after,
        } => RequestError::ClusterFull {
            message,
            retry_after: retry_after.unwrap_or(options.retry_after),
        },
        // The worker's time is over either because the caller's is or because it takes too long for one picture.
        WorkerError::DeadlineExceeded
            if options
                .deadline
                .is_some_and(|deadline| deadline <= Instant::now()) =>
        {
            RequestError::DeadlineExceeded
        }
        WorkerError::Unavailable(_)
        | WorkerError::OtherModel { .. }
        | WorkerError::DeadlineExceeded => RequestError::VisionUnavailable {
            message: format!("{path}: {error}"),
            retry_after: options.retry_after,
        },
        WorkerError::FeaturesMissing
        | WorkerError::EpochMismatch(_)
        | WorkerError::Refused(_)
        | WorkerError::Faulty(_) => RequestError::Internal(format!("vision worker: {error}")),
    }
}
