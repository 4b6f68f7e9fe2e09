//! The vision worker: checks pictures and keeps them by digest, encodes in batches those whose features are asked for.

mod encoder;
mod feature_cache;
#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use inkstone_interface::{description::ModelDescription, picture_geometry::GeometryError};
use inkstone_model::clip::preprocess::{
    DecodeLimits, PictureError, RgbPicture, decode_picture, prepare,
};
use thiserror::Error;
use tokio::sync::{Semaphore, watch};

pub use encoder::{Encode, Encoder};
pub use feature_cache::{FeatureCache, FeatureState};
use feature_cache::{FeatureSlot, Found, PictureFile};

use crate::executor::PictureDigest;

/// Pictures that are decoded at the same time: each may take 40 megapixels of memory.
const DECODES_AT_ONCE: usize = 2;
/// Longest wait for a place in the encoder's queue.
const QUEUE_DEADLINE: Duration = Duration::from_secs(240);

/// What a vision worker does, without its wire.
pub struct VisionWorker {
    description: Arc<ModelDescription>,
    limits: DecodeLimits,
    encoder: Encoder,
    cache: Arc<FeatureCache>,
    decodes: Semaphore,
    /// Pictures that may be in [`VisionWorker::put`] at the same time.
    puts: Semaphore,
    max_puts: usize,
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
    #[error("{waiting} pictures wait to be looked at already")]
    QueueFull {
        /// The queue's bound.
        waiting: usize,
    },
    /// The worker is broken or stopping.
    #[error("the picture encoder does not take work: {0}")]
    NotServing(String),
}

impl VisionWorker {
    /// Puts a worker together. At most `max_puts` pictures are looked at, or wait for it, at the same time.
    pub fn new(
        description: Arc<ModelDescription>,
        limits: DecodeLimits,
        encoder: Encoder,
        cache: Arc<FeatureCache>,
        max_puts: usize,
    ) -> Self {
        Self {
            description,
            limits,
            encoder,
            cache,
            decodes: Semaphore::new(DECODES_AT_ONCE),
            puts: Semaphore::new(max_puts),
            max_puts,
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

    /// Checks a picture and names it. Its features are made when they are asked for.
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
        let full = |_| VisionError::QueueFull {
            waiting: self.max_puts,
        };
        let _place = self.puts.try_acquire().map_err(full)?;
        let file = PictureFile {
            bytes: file,
            hd_num,
        };
        let geometry = self.description.picture;
        let look = move |picture: &RgbPicture| {
            let (width, height) = (picture.width(), picture.height());
            Ok(AcceptedPicture {
                digest,
                num_tokens: geometry.layout(width, height, hd_num)?.num_tokens,
                width,
                height,
            })
        };
        let accepted = self.decode(file.bytes.clone(), look).await?;
        self.cache.put(accepted, file);
        Ok(accepted)
    }

    /// The features of a picture that was put, encoded for the wire; waits for the encoder. `None`: not here (any more).
    pub async fn features(
        self: &Arc<Self>,
        digest: PictureDigest,
    ) -> Option<Result<Bytes, String>> {
        let mut state = self.encoding(digest)?;
        let settled = state
            .wait_for(|state| !matches!(state, FeatureState::Pending))
            .await;
        Some(match settled.as_deref() {
            Ok(FeatureState::Ready(bytes)) => Ok(bytes.clone()),
            Ok(FeatureState::Failed(reason)) => Err(reason.clone()),
            Ok(FeatureState::Pending) | Err(_) => Err("the encoder stopped".to_owned()),
        })
    }

    /// Begins to encode a picture whose features will be asked for.
    pub fn expect(self: &Arc<Self>, digest: PictureDigest) {
        // What is not here any more is put again by whoever asks.
        let _ = self.encoding(digest);
    }

    /// How far the encoding of a picture is, which begins if it did not yet.
    fn encoding(self: &Arc<Self>, digest: PictureDigest) -> Option<watch::Receiver<FeatureState>> {
        Some(match self.cache.find(digest)? {
            Found::Features(state) => state,
            Found::File(file, slot) => {
                let state = slot.state();
                // On its own: others may follow it when whoever asked first goes away.
                let worker = Arc::clone(self);
                tokio::spawn(async move { worker.encode(file, slot).await });
                state
            }
        })
    }

    /// Hands a picture to the encoder. It is decoded a second time: pixels are much larger than the file, and most pictures are
    /// never encoded twice.
    async fn encode(&self, file: PictureFile, slot: FeatureSlot) {
        let place = match tokio::time::timeout(QUEUE_DEADLINE, self.encoder.place()).await {
            Ok(Some(place)) => place,
            Ok(None) => return slot.failed("the encoder's thread ended".to_owned()),
            Err(_) => {
                return slot.failed(format!("no place at the encoder within {QUEUE_DEADLINE:?}"));
            }
        };
        let (geometry, hd_num) = (self.description.picture, file.hd_num);
        let prepare = move |picture: &RgbPicture| Ok(prepare(picture, &geometry, hd_num)?);
        match self.decode(file.bytes, prepare).await {
            Ok(prepared) => place.take(prepared, slot),
            Err(error) => slot.failed(error.to_string()),
        }
    }

    /// Two files that differ anywhere, or are prepared in another way or for another model, have other digests.
    fn digest(&self, file: &[u8], hd_num: u32) -> PictureDigest {
        let mut hasher = blake3::Hasher::new();
        hasher.update(self.description.to_json().as_bytes());
        hasher.update(&hd_num.to_le_bytes());
        hasher.update(file);
        PictureDigest(*hasher.finalize().as_bytes())
    }

    /// Decodes a picture, and makes something of its pixels, off the runtime's threads.
    async fn decode<T: Send + 'static>(
        &self,
        file: Bytes,
        then: impl FnOnce(&RgbPicture) -> Result<T, VisionError> + Send + 'static,
    ) -> Result<T, VisionError> {
        let stopping = |error: String| VisionError::NotServing(error);
        let _permit = self
            .decodes
            .acquire()
            .await
            .map_err(|error| stopping(error.to_string()))?;
        let limits = self.limits;
        tokio::task::spawn_blocking(move || then(&decode_picture(&file, &limits)?))
            .await
            .map_err(|error| stopping(error.to_string()))?
    }
}
