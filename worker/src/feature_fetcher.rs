//! Pulls pictures' features from vision workers, by digest, and keeps the last ones: a picture that several requests of a
//! moment are about is fetched once.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use futures::future::{BoxFuture, FutureExt, try_join_all};
use inkstone_model::clip::PictureFeatures;
use inkstone_proto::worker::v1::{
    GetFeaturesRequest, get_features_response::Part, vision_service_client::VisionServiceClient,
};
use thiserror::Error;
use tonic::{Code, transport::Channel};

use crate::{
    executor::{EncodedPicture, PictureDigest},
    group::leader::PictureSource,
};

/// Bytes of features that a leader keeps.
const CACHE_BYTES: usize = 256 << 20;
/// Bytes of one picture's features: 128 tiles of 4KHD are 77 MB.
const MAX_FEATURE_BYTES: u64 = 512 << 20;
/// Vision workers that a leader stays connected to; requests name them, so that there could be any number.
const MAX_CHANNELS: usize = 64;
/// How long the features of a picture may take: on a CPU an encoder with a full queue takes minutes.
const FETCH_DEADLINE: Duration = Duration::from_secs(300);
/// A vision worker whose machine is gone is found out after this.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// A picture of a prompt, at its vision worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PictureRef {
    /// Its name.
    pub digest: PictureDigest,
    /// Positions that the coordinator counted for it.
    pub num_tokens: usize,
    /// The vision worker that holds it, `http://host:port`.
    pub vision_address: String,
}

/// Features that did not come.
#[derive(Debug, Error)]
pub enum FetchError {
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
    channels: Arc<Mutex<Channels>>,
}

/// The last pictures, bounded by bytes; the least recently used goes first.
#[derive(Default)]
struct Kept {
    pictures: VecDeque<Arc<EncodedPicture>>,
    bytes: usize,
}

/// The last vision workers that were asked, by address; the least recently used goes first.
#[derive(Default)]
struct Channels(VecDeque<(String, Channel)>);

impl PictureSource for FeatureFetcher {
    fn fetch(
        &self,
        pictures: Vec<PictureRef>,
    ) -> BoxFuture<'static, Result<Vec<Arc<EncodedPicture>>, FetchError>> {
        let fetcher = self.clone();
        let fetch = async move {
            let pictures = pictures.into_iter();
            try_join_all(pictures.map(|picture| fetcher.get(picture))).await
        };
        fetch.boxed()
    }
}

impl FeatureFetcher {
    async fn get(&self, picture: PictureRef) -> Result<Arc<EncodedPicture>, FetchError> {
        let PictureRef {
            digest,
            num_tokens,
            vision_address,
        } = picture;
        let kept = self.kept().take(digest);
        let picture = match kept {
            Some(picture) => picture,
            None => Arc::new(self.fetch_in_time(digest, &vision_address).await?),
        };
        self.kept().put(Arc::clone(&picture));
        if picture.features.num_tokens() != num_tokens {
            return Err(FetchError::WrongSize {
                digest,
                wanted: num_tokens,
                found: picture.features.num_tokens(),
            });
        }
        Ok(picture)
    }

    async fn fetch_in_time(
        &self,
        digest: PictureDigest,
        address: &str,
    ) -> Result<EncodedPicture, FetchError> {
        let fetch = self.fetch_from(digest, address);
        tokio::time::timeout(FETCH_DEADLINE, fetch)
            .await
            .unwrap_or_else(|_| {
                Err(FetchError::Unavailable {
                    address: address.to_owned(),
                    digest,
                    reason: format!("it did not answer within {FETCH_DEADLINE:?}"),
                })
            })
    }

    async fn fetch_from(
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
        self.channels
            .lock()
            .expect("no code panics while it holds the channels")
            .get(address)
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept
            .lock()
            .expect("no code panics while it holds the pictures")
    }
}

impl Channels {
    fn get(&mut self, address: &str) -> Result<Channel, String> {
        let known = self.0.iter().position(|(known, _)| known == address);
        let channel = match known.and_then(|at| self.0.remove(at)) {
            Some((_, channel)) => channel,
            None => Channel::from_shared(address.to_owned())
                .map_err(|error| error.to_string())?
                .connect_timeout(Duration::from_secs(5))
                .http2_keep_alive_interval(KEEP_ALIVE)
                .tcp_nodelay(true)
                .connect_lazy(),
        };
        self.0.push_back((address.to_owned(), channel.clone()));
        if self.0.len() > MAX_CHANNELS {
            self.0.pop_front();
        }
        Ok(channel)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_least_recently_used_channels_go_first() {
        let mut channels = Channels::default();
        let address = |port: usize| format!("http://127.0.0.1:{port}");
        for port in 1..=MAX_CHANNELS {
            channels.get(&address(port)).unwrap();
        }
        channels.get(&address(1)).unwrap();
        channels.get(&address(1000)).unwrap();
        assert_eq!(channels.0.len(), MAX_CHANNELS);
        let has = |port| channels.0.iter().any(|(known, _)| *known == address(port));
        assert!(has(1) && has(1000) && !has(2));
    }

    #[tokio::test]
    async fn an_address_that_is_none_is_refused() {
        let error = Channels::default().get("not an address").unwrap_err();
        assert!(!error.is_empty());
    }
}
