//! Features by digest, bounded by bytes; the least recently used go first. A picture that is being encoded has its place
//! already, so that it is encoded once however many ask for it.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard},
};

use bytes::Bytes;
use tokio::sync::watch;

use super::AcceptedPicture;
use crate::executor::PictureDigest;

/// Where the features of a picture are.
#[derive(Clone, Debug)]
pub enum FeatureState {
    /// At the encoder.
    Pending,
    /// Here, encoded for the wire.
    Ready(Bytes),
    /// The encoder failed.
    Failed(String),
}

/// See the module's text.
pub struct FeatureCache {
    max_bytes: usize,
    entries: Mutex<Entries>,
}

#[derive(Default)]
struct Entries {
    by_digest: HashMap<PictureDigest, Entry>,
    bytes: usize,
    clock: u64,
}

struct Entry {
    accepted: AcceptedPicture,
    state: watch::Receiver<FeatureState>,
    bytes: usize,
    used_at: u64,
}

/// The place of a picture that is being encoded. Dropping it unused lets the picture be put again.
pub struct FeatureSlot {
    cache: Arc<FeatureCache>,
    digest: PictureDigest,
    state: watch::Sender<FeatureState>,
}

impl FeatureCache {
    /// Keeps about `max_bytes` of features: one picture stays, however large.
    pub fn new(max_bytes: usize) -> Arc<Self> {
        Arc::new(Self {
            max_bytes,
            entries: Mutex::default(),
        })
    }

    /// What is known of a picture that was put before.
    pub fn accepted(&self, digest: PictureDigest) -> Option<AcceptedPicture> {
        let mut entries = self.lock();
        entries.touch(digest).map(|entry| entry.accepted)
    }

    /// Follows the features of a picture.
    pub fn get(&self, digest: PictureDigest) -> Option<watch::Receiver<FeatureState>> {
        let mut entries = self.lock();
        entries.touch(digest).map(|entry| entry.state.clone())
    }

    /// Makes a place for a picture; `None` when it has one.
    pub fn begin(self: &Arc<Self>, accepted: AcceptedPicture) -> Option<FeatureSlot> {
        let mut entries = self.lock();
        let digest = accepted.digest;
        if entries.by_digest.contains_key(&digest) {
            return None;
        }
        let (sender, receiver) = watch::channel(FeatureState::Pending);
        entries.by_digest.insert(
            digest,
            Entry {
                accepted,
                state: receiver,
                bytes: 0,
                used_at: 0,
            },
        );
        entries.touch(digest);
        Some(FeatureSlot {
            cache: Arc::clone(self),
            digest,
            state: sender,
        })
    }

    /// Lets a picture be put again.
    pub fn forget(&self, digest: PictureDigest) {
        self.lock().remove(digest);
    }

    fn keep(&self, digest: PictureDigest, bytes: usize) {
        let mut entries = self.lock();
        if let Some(entry) = entries.by_digest.get_mut(&digest) {
            entry.bytes = bytes;
            entries.bytes += bytes;
        }
        while entries.bytes > self.max_bytes {
            let ready = entries
                .by_digest
                .iter()
                .filter(|(other, entry)| entry.bytes > 0 && **other != digest);
            let Some(oldest) = ready
                .min_by_key(|(_, entry)| entry.used_at)
                .map(|(digest, _)| *digest)
            else {
                return;
            };
            entries.remove(oldest);
            metrics::counter!("inkstone_feature_cache_evictions_total").increment(1);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Entries> {
        self.entries
            .lock()
            .expect("no code panics while it holds the entries")
    }
}

impl Entries {
    fn touch(&mut self, digest: PictureDigest) -> Option<&Entry> {
        self.clock += 1;
        let entry = self.by_digest.get_mut(&digest)?;
        entry.used_at = self.clock;
        Some(entry)
    }

    fn remove(&mut self, digest: PictureDigest) {
        if let Some(entry) = self.by_digest.remove(&digest) {
            self.bytes -= entry.bytes;
        }
    }
}

impl FeatureSlot {
    /// The features are here.
    pub fn ready(self, bytes: Bytes) {
        self.cache.keep(self.digest, bytes.len());
        self.state.send_replace(FeatureState::Ready(bytes));
    }

    /// The encoder failed: those who wait hear why, and the picture may be put again.
    pub fn failed(self, reason: String) {
        self.state.send_replace(FeatureState::Failed(reason));
    }
}

impl Drop for FeatureSlot {
    fn drop(&mut self) {
        if !matches!(*self.state.borrow(), FeatureState::Ready(_)) {
            self.cache.forget(self.digest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture(name: u8) -> AcceptedPicture {
        AcceptedPicture {
            digest: PictureDigest([name; 32]),
            num_tokens: 4,
            width: 2,
            height: 2,
        }
    }

    fn put(cache: &Arc<FeatureCache>, name: u8, len: usize) {
        let slot = cache.begin(picture(name)).expect("a new picture");
        slot.ready(Bytes::from(vec![name; len]));
    }

    #[test]
    fn a_picture_is_encoded_once_however_many_put_it() {
        let cache = FeatureCache::new(100);
        let slot = cache.begin(picture(1)).expect("a new picture");
        assert!(cache.begin(picture(1)).is_none());
        let waiting = cache.get(PictureDigest([1; 32])).expect("it has a place");
        slot.ready(Bytes::from_static(b"rows"));
        assert!(matches!(&*waiting.borrow(), FeatureState::Ready(bytes) if &bytes[..] == b"rows"));
    }

    #[test]
    fn the_least_recently_used_features_go_first() {
        let cache = FeatureCache::new(100);
        put(&cache, 1, 40);
        put(&cache, 2, 40);
        assert!(cache.accepted(picture(1).digest).is_some());
        put(&cache, 3, 40);
        assert!(cache.accepted(picture(2).digest).is_none());
        assert!(cache.accepted(picture(1).digest).is_some());
        assert!(cache.accepted(picture(3).digest).is_some());
    }

    #[test]
    fn features_larger_than_the_cache_stay_until_the_next_ones() {
        let cache = FeatureCache::new(100);
        put(&cache, 1, 400);
        assert!(cache.get(picture(1).digest).is_some());
        put(&cache, 2, 10);
        assert!(cache.get(picture(1).digest).is_none());
    }

    #[test]
    fn a_failed_picture_may_be_put_again() {
        let cache = FeatureCache::new(100);
        let slot = cache.begin(picture(1)).expect("a new picture");
        let waiting = cache.get(picture(1).digest).expect("it has a place");
        slot.failed("no memory".to_owned());
        assert!(
            matches!(&*waiting.borrow(), FeatureState::Failed(reason) if reason == "no memory")
        );
        assert!(cache.begin(picture(1)).is_some());
    }
}
