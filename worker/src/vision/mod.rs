//! The vision worker: checks pictures and keeps them by digest, encodes in batches those whose features are asked for.

mod encoder;
mod feature_cache;
#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use inkstone_interface::{
    description::ModelDescription,
    picture_geometry::{GeometryError, PictureGeometry},
};
use inkstone_model::clip::preprocess::{
    DecodeLimits, PictureError, RgbPicture, decode_picture, prepare,
};
use thiserror::Error;
use tokio::sync::{Semaphore, SemaphorePermit, watch};

use encoder::Place;
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
    /// Knows the description.
    hasher: blake3::Hasher,
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
        let mut hasher = blake3::Hasher::new();
        hasher.update(description.to_json().as_bytes());
        Self {
            description,
            hasher,
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
        let file = self.file(file, hd_num);
        let digest = self.digest(&file);
        match self.cache.accepted(digest) {
            Some(accepted) => Ok(accepted),
            None => self.take_in(digest, file).await,
        }
    }

    /// The same of a picture whose features will be asked for: they are made at once. Where the encoder has room it is decoded once,
    /// to be checked and to be encoded.
    pub async fn put_expected(
        self: &Arc<Self>,
        file: Bytes,
        hd_num: Option<u32>,
    ) -> Result<AcceptedPicture, VisionError> {
        let file = self.file(file, hd_num);
        let digest = self.digest(&file);
        let accepted = match (self.cache.accepted(digest), self.encoder.free_place()) {
            (Some(accepted), _) => accepted,
            (None, Some(place)) => return self.take_in_and_encode(digest, file, place).await,
            // Pixels do not wait for the encoder, files do.
            (None, None) => self.take_in(digest, file).await?,
        };
        // What is not here any more is put again by whoever asks.
        let _ = self.encoding(digest);
        Ok(accepted)
    }

    fn file(&self, bytes: Bytes, hd_num: Option<u32>) -> PictureFile {
        PictureFile {
            bytes,
            hd_num: self.description.picture.hd_num(hd_num, 1),
        }
    }

    /// Looks at a picture that is not here, and keeps its file.
    async fn take_in(
        &self,
        digest: PictureDigest,
        file: PictureFile,
    ) -> Result<AcceptedPicture, VisionError> {
        let _place = self.place_to_look()?;
        let (geometry, hd_num) = (self.description.picture, file.hd_num);
        let look = move |picture: &RgbPicture| accept(digest, picture, &geometry, hd_num);
        let accepted = self.decode(file.bytes.clone(), look).await?;
        self.cache.put(accepted, file);
        Ok(accepted)
    }

    /// The same, and hands it to the encoder.
    async fn take_in_and_encode(
        self: &Arc<Self>,
        digest: PictureDigest,
        file: PictureFile,
        place: Place<'_>,
    ) -> Result<AcceptedPicture, VisionError> {
        let _place = self.place_to_look()?;
        let (geometry, hd_num) = (self.description.picture, file.hd_num);
        let look = move |picture: &RgbPicture| {
            let accepted = accept(digest, picture, &geometry, hd_num)?;
            Ok((accepted, prepare(picture, &geometry, hd_num)?))
        };
        let (accepted, prepared) = self.decode(file.bytes.clone(), look).await?;
        self.cache.put(accepted, file);
        // Somebody else may have put it meanwhile, and have it encoded.
        if let Some(Found::File(_, slot)) = self.cache.find(digest) {
            place.take(prepared, slot);
        }
        Ok(accepted)
    }

    fn place_to_look(&self) -> Result<SemaphorePermit<'_>, VisionError> {
        let full = |_| VisionError::QueueFull {
            waiting: self.max_puts,
        };
        self.puts.try_acquire().map_err(full)
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

    /// Hands a picture to the encoder. It is decoded a second time: pixels are much larger than the file, and whether anybody asks for
    /// its features was not known.
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
    fn digest(&self, file: &PictureFile) -> PictureDigest {
        let mut hasher = self.hasher.clone();
        hasher.update(&file.hd_num.to_le_bytes());
        hasher.update(&file.bytes);
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

/// What is said of a picture that is good.
fn accept(
    digest: PictureDigest,
    picture: &RgbPicture,
    geometry: &PictureGeometry,
    hd_num: u32,
) -> Result<AcceptedPicture, VisionError> {
    let (width, height) = (picture.width(), picture.height());
    Ok(AcceptedPicture {
        digest,
        num_tokens: geometry.layout(width, height, hd_num)?.num_tokens,
        width,
        height,
    })
}
