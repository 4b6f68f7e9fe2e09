//! Brings the pictures of a request to vision workers, all at once; and keeps them while the request runs, as far as there is room,
//! so that they can be brought there again.

use std::{
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use bytes::Bytes;
use futures::future::join_all;
use inkstone_interface::picture_geometry::PictureGeometry;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Instant,
};

use crate::{
    cluster_view::{ClusterView, Patience},
    error::{FieldViolation, RequestError},
    model::ServedModel,
    request::{Message, MessagePart},
    telemetry,
    worker_client::{PictureUpload, PlacedPicture, WorkerError},
};

/// A picture of a request.
#[derive(Debug, Clone)]
pub(crate) struct Picture {
    /// Where it stands in the request, `messages[0].parts[1].picture`.
    pub(crate) path: String,
    pub(crate) data: Bytes,
    /// Names the vision worker it belongs to.
    pub(crate) content: blake3::Hash,
    /// What all who show it share, where somebody does.
    pub(crate) known: Option<Arc<KnownPicture>>,
}

/// A picture that was put before it stood in a prompt, and that several prompts show: they neither hash nor put it again, as long as
/// it is where it was put.
#[derive(Debug)]
pub(crate) struct KnownPicture {
    pub(crate) data: Bytes,
    pub(crate) content: blake3::Hash,
    /// Where it is; whoever finds it gone and puts it again says so to all.
    placed: Mutex<PlacedPicture>,
}

impl KnownPicture {
    pub(crate) fn new(picture: Picture, placed: PlacedPicture) -> Self {
        Self {
            data: picture.data,
            content: picture.content,
            placed: Mutex::new(placed),
        }
    }

    /// Where it was last.
    pub(crate) fn placed(&self) -> PlacedPicture {
        self.lock().clone()
    }

    /// Positions it takes in a prompt.
    pub(crate) fn num_tokens(&self) -> u32 {
        self.lock().num_tokens
    }

    fn moved(&self, placed: PlacedPicture) {
        *self.lock() = placed;
    }

    fn lock(&self) -> MutexGuard<'_, PlacedPicture> {
        self.placed.lock().expect("no panic while locked")
    }
}

/// The tile budget of pictures that compositions show. It is part of a picture's name among vision workers, so it does not change from
/// prompt to prompt: that of several pictures, as most of these prompts have several, and a budget for one would leave no room for
/// four candidates.
pub(crate) fn composed_hd_num(pictures: &PictureGeometry) -> u32 {
    match pictures.hd {
        Some(_) => pictures.hd_num(None, 2),
        None => 0,
    }
}

/// What applies to all pictures of a request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PutOptions {
    /// Tile budget of each; 0 where the model has no tiles.
    pub(crate) hd_num: u32,
    /// They will be shown to the model soon; otherwise they are encoded when a group asks for them, which has them in its cache, it
    /// may be.
    pub(crate) encode_soon: bool,
    pub(crate) deadline: Option<Instant>,
    /// How long to look for a worker.
    pub(crate) patience: Patience,
    /// What the client is told where no worker answers.
    pub(crate) retry_after: Duration,
}

/// The room that a coordinator has for pictures of requests whose answers began.
pub(crate) struct PictureRoom(Arc<Semaphore>);

impl PictureRoom {
    /// Room is counted in pieces of 1 KiB, so that a counter of 32 bits is enough.
    const PIECE_BYTES: usize = 1024;

    pub(crate) fn new(max_bytes: usize) -> Self {
        let num_pieces = (max_bytes / Self::PIECE_BYTES).min(Semaphore::MAX_PERMITS);
        Self(Arc::new(Semaphore::new(num_pieces)))
    }

    fn take(&self, num_bytes: usize) -> Option<OwnedSemaphorePermit> {
        let num_pieces = u32::try_from(num_bytes.div_ceil(Self::PIECE_BYTES)).ok()?;
        self.0.clone().try_acquire_many_owned(num_pieces).ok()
    }
}

/// The pictures of a running request.
#[derive(Default)]
pub(crate) enum KeptPictures {
    /// There are none.
    #[default]
    None,
    /// The answer did not begin yet: they are the caller's, whose request they came with.
    Whole(Arc<[Picture]>),
    /// Somebody keeps them anyway.
    Known(Arc<[Picture]>),
    /// They take room until the end.
    Kept {
        pictures: Arc<[Picture]>,
        _room: OwnedSemaphorePermit,
    },
    /// There was no room. The request can still move wherever its pictures are found.
    LetGo,
}

impl KeptPictures {
    pub(crate) fn of(pictures: Arc<[Picture]>) -> Self {
        if pictures.is_empty() {
            Self::None
        } else if pictures.iter().all(|picture| picture.known.is_some()) {
            Self::Known(pictures)
        } else {
            Self::Whole(pictures)
        }
    }

    /// The answer began: keeps them if there is room, and lets them go if there is none.
    pub(crate) fn keep(&mut self, room: &PictureRoom) {
        *self = match std::mem::take(self) {
            Self::Whole(pictures) => {
                let num_bytes = pictures.iter().map(|picture| picture.data.len()).sum();
                match room.take(num_bytes) {
                    Some(room) => Self::Kept {
                        pictures,
                        _room: room,
                    },
                    None => {
                        telemetry::count_pictures_let_go(pictures.len());
                        Self::LetGo
                    }
                }
            }
            other => other,
        };
    }

    /// The pictures, unless they were let go.
    pub(crate) fn get(&self) -> Option<Arc<[Picture]>> {
        match self {
            Self::None => Some(Arc::default()),
            Self::Whole(pictures) | Self::Known(pictures) | Self::Kept { pictures, .. } => {
                Some(pictures.clone())
            }
            Self::LetGo => None,
        }
    }
}

/// The pictures of a conversation in order. Hashes their bytes, so not for an async thread.
pub(crate) fn collect(messages: &[Message]) -> Arc<[Picture]> {
    let mut pictures = vec![];
    for (message_index, message) in messages.iter().enumerate() {
        for (part_index, part) in message.parts.iter().enumerate() {
            if let MessagePart::Picture(data) = part {
                pictures.push(Picture {
                    path: format!("messages[{message_index}].parts[{part_index}].picture"),
                    data: data.clone(),
                    content: blake3::hash(data),
                    known: None,
                });
            }
        }
    }
    pictures.into()
}

/// Pictures that are known, as those of a prompt.
pub(crate) fn of_known(known: &[Arc<KnownPicture>]) -> Arc<[Picture]> {
    let pictures = known.iter().enumerate().map(|(index, known)| Picture {
        path: format!("pictures[{index}]"),
        data: known.data.clone(),
        content: known.content,
        known: Some(known.clone()),
    });
    pictures.collect()
}

/// Puts pictures again, and says to all who show them where they are now.
pub(crate) async fn put_again(
    cluster: &ClusterView,
    model: &ServedModel,
    pictures: &[Picture],
    options: PutOptions,
) -> Result<Vec<PlacedPicture>, RequestError> {
    let placed = put_all(cluster, model, pictures, options).await?;
    for (picture, placed) in pictures.iter().zip(&placed) {
        if let Some(known) = &picture.known {
            known.moved(placed.clone());
        }
    }
    Ok(placed)
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
            encode_soon: options.encode_soon,
            deadline: options.deadline,
        };
        let patience = options.patience;
        async move {
            let content = &picture.content;
            cluster.put_picture(model, content, &upload, patience).await
        }
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
        | WorkerError::NotServing(_)
        | WorkerError::Silent(_)
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
