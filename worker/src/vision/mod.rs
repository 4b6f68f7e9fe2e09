//! The vision worker: checks and prepares pictures, encodes them in batches, keeps their features by digest.

mod encoder;
mod feature_cache;

use std::sync::Arc;

use bytes::Bytes;
use inkstone_interface::{description::ModelDescription, picture_geometry::GeometryError};
use inkstone_model::clip::preprocess::{
    DecodeLimits, PictureError, PreparedPicture, decode_picture, prepare,
};
use thiserror::Error;
use tokio::sync::Semaphore;

pub use encoder::{Encode, Encoder};
pub use feature_cache::{FeatureCache, FeatureState};

use crate::executor::PictureDigest;

/// Pictures that are decoded at the same time: each may take 40 megapixels of memory.
const DECODES_AT_ONCE: usize = 2;

/// What a vision worker does, without its wire.
pub struct VisionWorker {
    description: Arc<ModelDescription>,
    limits: DecodeLimits,
    encoder: Encoder,
    cache: Arc<FeatureCache>,
    decodes: Semaphore,
}

/// A picture that is good and known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AcceptedPicture {
    /// Its name.
    pub digest: PictureDigest,
    /// Positions it takes in a prompt.
    pub num_tokens: usize,
    /// In pixels.
    pub width: u32,
    /// In pixels.
    pub height: u32,
}

/// A picture that is not taken.
#[derive(Debug, Error)]
pub enum VisionError {
    /// It is not one we read.
    #[error(transparent)]
    Picture(#[from] PictureError),
    /// It cannot be laid out for the model.
    #[error(transparent)]
    Geometry(#[from] GeometryError),
    /// Too many wait.
    #[error("{waiting} pictures wait for the encoder already")]
    QueueFull {
        /// The queue's bound.
        waiting: usize,
    },
    /// The worker is broken or stopping.
    #[error("the picture encoder does not take work: {0}")]
    NotServing(String),
}

impl VisionWorker {
    /// Puts a worker together; `cache` is the one that `encoder` fills.
    pub fn new(
        description: Arc<ModelDescription>,
        limits: DecodeLimits,
        encoder: Encoder,
        cache: Arc<FeatureCache>,
    ) -> Self {
        Self {
            description,
            limits,
            encoder,
            cache,
            decodes: Semaphore::new(DECODES_AT_ONCE),
        }
    }

    /// The model that pictures are encoded for.
    pub fn description(&self) -> &ModelDescription {
        &self.description
    }

    /// Most bytes of an encoded picture.
    pub fn max_picture_bytes(&self) -> usize {
        self.limits.max_bytes
    }

    /// Checks a picture, names it, and starts encoding it unless its features are there.
    pub async fn put(
        &self,
        file: Bytes,
        hd_num: Option<u32>,
    ) -> Result<AcceptedPicture, VisionError> {
        let hd_num = self.description.picture.hd_num(hd_num, 1);
        let digest = self.digest(&file, hd_num);
        if let Some(accepted) = self.cache.accepted(digest) {
            return Ok(accepted);
        }
        let prepared = self.prepare(file, hd_num).await?;
        let accepted = AcceptedPicture {
            digest,
            num_tokens: prepared.layout().num_tokens,
            width: prepared.width,
            height: prepared.height,
        };
        if let Some(slot) = self.cache.begin(accepted) {
            self.encoder
                .submit(prepared, slot)
                .inspect_err(|_| self.cache.forget(digest))?;
        }
        Ok(accepted)
    }

    /// The features of a picture that was put, encoded for the wire; waits for the encoder. `None`: not here (any more).
    pub async fn features(&self, digest: PictureDigest) -> Option<Result<Bytes, String>> {
        let mut state = self.cache.get(digest)?;
        let settled = state
            .wait_for(|state| !matches!(state, FeatureState::Pending))
            .await;
        Some(match settled.as_deref() {
            Ok(FeatureState::Ready(bytes)) => Ok(bytes.clone()),
            Ok(FeatureState::Failed(reason)) => Err(reason.clone()),
            Ok(FeatureState::Pending) | Err(_) => Err("the encoder stopped".to_owned()),
        })
    }

    /// Two files that differ anywhere, or are prepared in another way or for another model, have other digests.
    fn digest(&self, file: &[u8], hd_num: u32) -> PictureDigest {
        let mut hasher = blake3::Hasher::new();
        hasher.update(self.description.to_json().as_bytes());
        hasher.update(&hd_num.to_le_bytes());
        hasher.update(file);
        PictureDigest(*hasher.finalize().as_bytes())
    }

    async fn prepare(&self, file: Bytes, hd_num: u32) -> Result<Prepared, VisionError> {
        let stopping = |error: String| VisionError::NotServing(error);
        let _permit = self
            .decodes
            .acquire()
            .await
            .map_err(|error| stopping(error.to_string()))?;
        let (limits, geometry) = (self.limits, self.description.picture);
        tokio::task::spawn_blocking(move || {
            let picture = decode_picture(&file, &limits)?;
            let prepared = prepare(&picture, &geometry, hd_num)?;
            Ok(Prepared {
                width: picture.width(),
                height: picture.height(),
                picture: prepared,
            })
        })
        .await
        .map_err(|error| stopping(error.to_string()))?
    }
}

/// A picture ready for the encoder, with the size it came in.
struct Prepared {
    width: u32,
    height: u32,
    picture: PreparedPicture,
}

impl std::ops::Deref for Prepared {
    type Target = PreparedPicture;

    fn deref(&self) -> &PreparedPicture {
        &self.picture
    }
}
