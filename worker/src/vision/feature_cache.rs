//! Pictures by digest, bounded by bytes; the least recently used go first. A picture that was put is its file, until somebody
//! asks for its features: then it is encoded, once however many ask, and its features take the file's place.

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

/// A picture as it was put.
#[derive(Clone, Debug)]
pub struct PictureFile {
    /// As it came.
    pub bytes: Bytes,
    /// How it is to be prepared.
    pub hd_num: u32,
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
    content: Content,
    /// Of the file or the features; 0 while it is encoded.
    bytes: usize,
    used_at: u64,
}

enum Content {
    File(PictureFile),
    Features(watch::Receiver<FeatureState>),
}

/// What is asked of who asks for features.
pub enum Found {
    /// To follow these.
    Features(watch::Receiver<FeatureState>),
    /// To have the picture encoded: nobody asked before.
    File(PictureFile, FeatureSlot),
}

/// The place of a picture that is being encoded. Dropping it unused lets the picture be put again.
pub struct FeatureSlot {
    cache: Arc<FeatureCache>,
    digest: PictureDigest,
    state: watch::Sender<FeatureState>,
}

impl FeatureCache {
    /// Keeps about `max_bytes` of files and features: one picture stays, however large.
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

    /// Keeps a picture's file, unless the picture is here.
    pub fn put(&self, accepted: AcceptedPicture, file: PictureFile) {
        let mut entries = self.lock();
        let digest = accepted.digest;
        if entries.touch(digest).is_some() {
            return;
        }
        let entry = Entry {
            accepted,
            content: Content::File(file),
            bytes: 0,
            used_at: entries.clock,
        };
        entries.by_digest.insert(digest, entry);
        self.resize(&mut entries, digest);
    }

    /// The features of a picture, or its file with the duty to encode it.
    pub fn find(self: &Arc<Self>, digest: PictureDigest) -> Option<Found> {
        let mut entries = self.lock();
        let entry = entries.touch(digest)?;
        let file = match &entry.content {
            Content::Features(state) => return Some(Found::Features(state.clone())),
            Content::File(file) => file.clone(),
        };
        let (sender, receiver) = watch::channel(FeatureState::Pending);
        entry.content = Content::Features(receiver);
        self.resize(&mut entries, digest);
        let slot = FeatureSlot {
            cache: Arc::clone(self),
            digest,
            state: sender,
        };
        Some(Found::File(file, slot))
    }

    /// Lets a picture be put again.
    fn forget(&self, digest: PictureDigest) {
        self.lock().remove(digest);
    }

    /// Counts what a picture takes now, and lets others go if that is too much.
    fn resize(&self, entries: &mut Entries, digest: PictureDigest) {
        let Some(entry) = entries.by_digest.get_mut(&digest) else {
            return;
        };
        let bytes = entry.content.num_bytes();
        entries.bytes = entries.bytes - entry.bytes + bytes;
        entry.bytes = bytes;
        while entries.bytes > self.max_bytes {
            let others = entries
                .by_digest
                .iter()
                .filter(|(other, entry)| entry.bytes > 0 && **other != digest);
            let Some(oldest) = others
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

impl Content {
    fn num_bytes(&self) -> usize {
        match self {
            Self::File(file) => file.bytes.len(),
            Self::Features(state) => match &*state.borrow() {
                FeatureState::Ready(bytes) => bytes.len(),
                FeatureState::Pending | FeatureState::Failed(_) => 0,
            },
        }
    }
}

impl Entries {
    fn touch(&mut self, digest: PictureDigest) -> Option<&mut Entry> {
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
    /// Follows what becomes of it.
    pub fn state(&self) -> watch::Receiver<FeatureState> {
        self.state.subscribe()
    }

    /// The features are here.
    pub fn ready(self, bytes: Bytes) {
        self.state.send_replace(FeatureState::Ready(bytes));
        self.cache.resize(&mut self.cache.lock(), self.digest);
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

    fn file(len: usize) -> PictureFile {
        PictureFile {
            bytes: Bytes::from(vec![0; len]),
            hd_num: 1,
        }
    }

    fn begin(cache: &Arc<FeatureCache>, name: u8) -> FeatureSlot {
        match cache.find(picture(name).digest) {
            Some(Found::File(_, slot)) => slot,
            Some(Found::Features(_)) => panic!("somebody asked for picture {name} before"),
            None => panic!("picture {name} is not here"),
        }
    }

    fn put(cache: &Arc<FeatureCache>, name: u8, len: usize) {
        cache.put(picture(name), file(1));
        begin(cache, name).ready(Bytes::from(vec![name; len]));
    }

    fn is_here(cache: &FeatureCache, name: u8) -> bool {
        cache.accepted(picture(name).digest).is_some()
    }

    #[test]
    fn a_picture_is_encoded_once_however_many_ask() {
        let cache = FeatureCache::new(100);
        cache.put(picture(1), file(10));
        cache.put(picture(1), file(10));
        let slot = begin(&cache, 1);
        let Some(Found::Features(waiting)) = cache.find(picture(1).digest) else {
            panic!("the second to ask follows the first");
        };
        slot.ready(Bytes::from_static(b"rows"));
        assert!(matches!(&*waiting.borrow(), FeatureState::Ready(bytes) if &bytes[..] == b"rows"));
    }

    #[test]
    fn the_least_recently_used_features_go_first() {
        let cache = FeatureCache::new(100);
        put(&cache, 1, 40);
        put(&cache, 2, 40);
        assert!(is_here(&cache, 1));
        put(&cache, 3, 40);
        assert!(!is_here(&cache, 2));
        assert!(is_here(&cache, 1));
        assert!(is_here(&cache, 3));
    }

    #[test]
    fn files_that_nobody_asks_for_go_too() {
        let cache = FeatureCache::new(100);
        for name in 0..20 {
            cache.put(picture(name), file(30));
        }
        let here = (0..20).filter(|name| is_here(&cache, *name));
        assert_eq!(here.collect::<Vec<_>>(), [17, 18, 19]);
        assert_eq!(cache.lock().bytes, 90);
    }

    #[test]
    fn features_larger_than_the_cache_stay_until_the_next_ones() {
        let cache = FeatureCache::new(100);
        put(&cache, 1, 400);
        assert!(is_here(&cache, 1));
        put(&cache, 2, 10);
        assert!(!is_here(&cache, 1));
    }

    #[test]
    fn a_failed_picture_may_be_put_again() {
        let cache = FeatureCache::new(100);
        cache.put(picture(1), file(10));
        let slot = begin(&cache, 1);
        let waiting = slot.state();
        slot.failed("no memory".to_owned());
        assert!(
            matches!(&*waiting.borrow(), FeatureState::Failed(reason) if reason == "no memory")
        );
        assert!(!is_here(&cache, 1));
        cache.put(picture(1), file(10));
        begin(&cache, 1).ready(Bytes::from_static(b"rows"));
        assert_eq!(cache.lock().bytes, 4);
    }
}
