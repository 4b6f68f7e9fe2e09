//! Pulls pictures' features from vision workers, by digest, and keeps the last ones: the same picture in the next turn of a
//! conversation is not fetched again.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex},
};

use futures::future::try_join_all;
use inkstone_model::clip::PictureFeatures;
use inkstone_proto::worker::v1::{
    GetFeaturesRequest, get_features_response::Part, vision_service_client::VisionServiceClient,
};
use thiserror::Error;
use tonic::{Code, transport::Channel};

use crate::executor::{EncodedPicture, PictureDigest, PromptPart};

/// Bytes of features that a leader keeps.
const CACHE_BYTES: usize = 256 << 20;
/// Bytes of one picture's features: 128 tiles of 4KHD are 77 MB.
const MAX_FEATURE_BYTES: u64 = 512 << 20;

/// A piece of a prompt whose pictures are still at the vision worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum PromptRef {
    /// Token ids.
    Tokens(Vec<u32>),
    /// A picture.
    Picture {
        /// Its name.
        digest: PictureDigest,
        /// Positions that the coordinator counted for it.
        num_tokens: usize,
        /// The vision worker that holds it.
        vision_address: String,
    },
}

/// Features that did not come.
#[derive(Debug, Error)]
pub(crate) enum FetchError {
    /// The vision worker does not hold them (any more): put the picture again.
    #[error("the vision worker at {address} does not hold picture {digest}")]
    Missing {
        /// The worker.
        address: String,
        /// The picture.
        digest: PictureDigest,
    },
    /// The worker cannot be reached, or broke off.
    #[error("picture {digest} could not be fetched from the vision worker at {address}: {reason}")]
    Unavailable {
        /// The worker.
        address: String,
        /// The picture.
        digest: PictureDigest,
        /// What happened.
        reason: String,
    },
    /// What came is not what was promised.
    #[error("picture {digest} should have {wanted} tokens, the vision worker sent {found}")]
    WrongSize {
        /// The picture.
        digest: PictureDigest,
        /// As the coordinator counted.
        wanted: usize,
        /// As they came.
        found: usize,
    },
}

/// See the module's text. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct FeatureFetcher {
    kept: Arc<Mutex<Kept>>,
    channels: Arc<Mutex<HashMap<String, Channel>>>,
}

/// The last pictures, bounded by bytes; the least recently used goes first.
#[derive(Default)]
struct Kept {
    pictures: VecDeque<Arc<EncodedPicture>>,
    bytes: usize,
}

impl FeatureFetcher {
    /// Fetches all pictures of a prompt side by side.
    pub(crate) async fn resolve(
        &self,
        prompt: Vec<PromptRef>,
    ) -> Result<Vec<PromptPart>, FetchError> {
        try_join_all(prompt.into_iter().map(|part| self.resolve_part(part))).await
    }

    async fn resolve_part(&self, part: PromptRef) -> Result<PromptPart, FetchError> {
        let (digest, num_tokens, address) = match part {
            PromptRef::Tokens(ids) => return Ok(PromptPart::Tokens(ids)),
            PromptRef::Picture {
                digest,
                num_tokens,
                vision_address,
            } => (digest, num_tokens, vision_address),
        };
        let kept = self.kept().take(digest);
        let picture = match kept {
            Some(picture) => picture,
            None => Arc::new(self.fetch(digest, &address).await?),
        };
        self.kept().put(Arc::clone(&picture));
        if picture.features.num_tokens() != num_tokens {
            return Err(FetchError::WrongSize {
                digest,
                wanted: num_tokens,
                found: picture.features.num_tokens(),
            });
        }
        Ok(PromptPart::Picture(picture))
    }

    async fn fetch(
        &self,
        digest: PictureDigest,
        address: &str,
    ) -> Result<EncodedPicture, FetchError> {
        let unavailable = |reason: String| FetchError::Unavailable {
            address: address.to_owned(),
            digest,
            reason,
        };
        let mut client = VisionServiceClient::new(self.channel(address).map_err(unavailable)?);
        let request = GetFeaturesRequest {
            digest: digest.0.to_vec().into(),
        };
        let mut stream = client
            .get_features(request)
            .await
            .map_err(|status| match status.code() {
                Code::NotFound => FetchError::Missing {
                    address: address.to_owned(),
                    digest,
                },
                _ => unavailable(status.message().to_owned()),
            })?
            .into_inner();
        let mut bytes = Vec::new();
        let mut wanted = 0;
        while let Some(response) = stream
            .message()
            .await
            .map_err(|status| unavailable(status.message().to_owned()))?
        {
            match response.part {
                Some(Part::Header(header)) if header.num_bytes <= MAX_FEATURE_BYTES => {
                    wanted = header.num_bytes as usize;
                    bytes.reserve_exact(wanted);
                }
                Some(Part::Chunk(chunk)) if bytes.len() + chunk.len() <= wanted => {
                    bytes.extend_from_slice(&chunk)
                }
                _ => return Err(unavailable("its answer is larger than it said".to_owned())),
            }
        }
        let features =
            PictureFeatures::from_bytes(&bytes).map_err(|error| unavailable(error.to_string()))?;
        Ok(EncodedPicture { digest, features })
    }

    fn channel(&self, address: &str) -> Result<Channel, String> {
        let mut channels = self
            .channels
            .lock()
            .expect("no code panics while it holds the channels");
        if let Some(channel) = channels.get(address) {
            return Ok(channel.clone());
        }
        let endpoint =
            Channel::from_shared(address.to_owned()).map_err(|error| error.to_string())?;
        let channel = endpoint
            .connect_timeout(std::time::Duration::from_secs(5))
            .connect_lazy();
        channels.insert(address.to_owned(), channel.clone());
        Ok(channel)
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, Kept> {
        self.kept
            .lock()
            .expect("no code panics while it holds the pictures")
    }
}

impl Kept {
    fn take(&mut self, digest: PictureDigest) -> Option<Arc<EncodedPicture>> {
        let at = self
            .pictures
            .iter()
            .position(|picture| picture.digest == digest)?;
        let picture = self.pictures.remove(at)?;
        self.bytes -= picture.num_bytes();
        Some(picture)
    }

    fn put(&mut self, picture: Arc<EncodedPicture>) {
        self.take(picture.digest);
        self.bytes += picture.num_bytes();
        self.pictures.push_back(picture);
        while self.bytes > CACHE_BYTES {
            let Some(oldest) = self.pictures.pop_front() else {
                return;
            };
            self.bytes -= oldest.num_bytes();
        }
    }
}
