//! A library of pictures of one's own, found by their captions and tags, in English and Chinese.
//!
//! Pictures and records are the truth and lie in the [store], a folder or S3. The [index] is derived from the records, lies on this
//! machine and can be deleted at any time. So several coordinators can open one library while somebody imports into it.
//!
//! What is safe when: a picture is written under the name of its digest, then a batch of records that names it; with that one write
//! the library has the batch. Whoever is killed before leaves pictures that nobody names, and the next import writes the same ones
//! again. Whoever is killed after leaves an index that lacks the batch, and the next look at the store brings it in.

mod batch;
mod error;
pub mod import;
mod index;
mod options;
mod picture;
mod record;
mod search;
mod store;
mod sync;
#[cfg(test)]
mod tests;
mod words;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use tokio::sync::Mutex;

pub use self::error::LibraryError;
use self::index::{INDEX_VERSION, IndexFault, SearchIndex};
pub use self::options::{IndexPlace, LibraryOptions, PictureLimits, S3Settings};
pub use self::picture::Refusal;
use self::picture::{CheckedPicture, check, is_digest};
pub use self::record::{Details, Entry, Record};
use self::store::Store;
use self::sync::Synced;
use crate::source::Search;

/// How many pictures are written, or read, at once.
const PICTURES_AT_ONCE: usize = 8;

/// The last time that has as many digits as a batch's name holds.
const LAST_MILLISECOND: u64 = 999_999_999_999_999;

/// A library that is open. Clones are the same library.
#[derive(Clone)]
pub struct Library(Arc<Inner>);

struct Inner {
    store: Store,
    index: Arc<SearchIndex>,
    limits: PictureLimits,
    /// None where nobody else can write.
    refresh_after: Option<Duration>,
    synced: Mutex<Synced>,
    /// The latest time that a batch was named after: a later one must be later, or it would not win.
    clock: AtomicU64,
    name: String,
}

/// A picture that a search found, without its bytes.
#[derive(Debug, Clone, PartialEq)]
pub struct Hit {
    pub record: Record,
    /// BM25 over captions and tags; comparable within one search only.
    pub score: f32,
}

/// What a library holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// As it was given.
    pub location: String,
    /// None when the index is in memory.
    pub index_folder: Option<PathBuf>,
    pub pictures: u64,
    /// Of all pictures.
    pub bytes: u64,
    pub without_caption: u64,
    pub by_media_type: BTreeMap<String, u64>,
    /// Batches of records that are not what was written. Importing their pictures again mends it.
    pub damaged: Vec<String>,
}

impl Library {
    /// Opens the library in a folder, or at `s3://bucket/prefix`. Its index is made where it is missing, damaged or behind the records.
    pub async fn open(location: &str, options: LibraryOptions) -> Result<Self, LibraryError> {
        let store = Store::open(location, &options).await?;
        Self::over(store, options).await
    }

    /// A library that ends with the process.
    pub async fn in_memory(
        name: &str,
        entries: impl IntoIterator<Item = Entry> + Send,
    ) -> Result<Self, LibraryError> {
        let entries: Vec<_> = entries.into_iter().collect();
        let options = LibraryOptions {
            index: IndexPlace::Memory,
            ..LibraryOptions::default()
        };
        let mut library = Self::over(Store::in_memory(name), options).await?;
        if let Some(inner) = Arc::get_mut(&mut library.0) {
            inner.refresh_after = None;
        }
        library.add(entries).await?;
        Ok(library)
    }

    async fn over(store: Store, options: LibraryOptions) -> Result<Self, LibraryError> {
        let place = index_folder(&store, &options.index);
        let index = open_index(&store, place, &options.index).await?;
        let name = short_name(store.location());
        let library = Self(Arc::new(Inner {
            store,
            index: Arc::new(index),
            limits: options.limits,
            refresh_after: Some(options.refresh_after),
            synced: Mutex::new(Synced::default()),
            clock: AtomicU64::new(0),
            name,
        }));
        library.0.sync().await?;
        Ok(library)
    }

    /// Takes pictures in, all of them or, on an error, none that anybody would find. One that is there already gets these details.
    pub async fn add(&self, entries: Vec<Entry>) -> Result<Vec<Record>, LibraryError> {
        let limits = self.0.limits;
        let checks = entries
            .into_iter()
            .enumerate()
            .map(|(position, entry)| async move {
                let checked =
                    tokio::task::spawn_blocking(move || check(entry.data, entry.details, &limits))
                        .await;
                let checked = checked.unwrap_or_else(|_| {
                    Err(Refusal::Undecodable {
                        reason: "its decoder gave up".to_owned(),
                    })
                });
                checked.map_err(|refusal| LibraryError::Refused { position, refusal })
            });
        let checked: Vec<_> = futures::stream::iter(checks)
            .buffered(PICTURES_AT_ONCE)
            .try_collect()
            .await?;
        self.add_checked(checked).await
    }

    async fn add_checked(
        &self,
        pictures: Vec<CheckedPicture>,
    ) -> Result<Vec<Record>, LibraryError> {
        if pictures.is_empty() {
            return Ok(Vec::new());
        }
        let mut records = Vec::with_capacity(pictures.len());
        let mut writes = Vec::with_capacity(pictures.len());
        for picture in pictures {
            writes.push((picture.record.index.clone(), picture.data));
            records.push(picture.record);
        }
        futures::stream::iter(writes.into_iter().map(Ok))
            .try_for_each_concurrent(PICTURES_AT_ONCE, |(index, data)| async move {
                self.0.store.put_picture(&index, data).await
            })
            .await?;
        self.0
            .store
            .put_batch(self.0.next_millisecond(), &records)
            .await?;
        // From here on the pictures are in the library, whatever becomes of the index.
        if let Err(error) = self.0.sync().await {
            tracing::warn!(library = self.0.store.location(), %error, "pictures are safe, but found only once the index is up to date");
        }
        Ok(records)
    }

    /// Looks whether others have added pictures; gives how many there are.
    pub async fn refresh(&self) -> Result<u64, LibraryError> {
        self.0.sync().await?;
        self.0.blocking(|index| Ok(index.count())).await
    }

    /// What [`PictureSource::search`] finds, without reading the pictures.
    pub async fn find(&self, search: &Search) -> Result<Vec<Hit>, LibraryError> {
        self.0.sync_if_due().await;
        self.0.find(search, 0).await
    }

    /// None when the library has no such picture.
    pub async fn record(&self, index: &str) -> Result<Option<Record>, LibraryError> {
        let index = index.to_owned();
        self.0.blocking(move |known| known.record(&index)).await
    }

    /// The encoded picture. None when the library has no such picture, or its bytes are gone or are no longer those of its digest.
    pub async fn picture(&self, index: &str) -> Result<Option<Bytes>, LibraryError> {
        if !is_digest(index) {
            return Ok(None);
        }
        self.0.store.picture(index, self.0.limits.bytes).await
    }

    /// Counts what there is, which reads every record.
    pub async fn summary(&self) -> Result<Summary, LibraryError> {
        let mut summary = Summary {
            location: self.0.store.location().to_owned(),
            index_folder: self.0.index.folder().map(Path::to_owned),
            pictures: 0,
            bytes: 0,
            without_caption: 0,
            by_media_type: BTreeMap::new(),
            damaged: self.0.synced.lock().await.damaged.clone(),
        };
        let counted = self.0.blocking(move |index| {
            index.for_each(|record| {
                summary.pictures += 1;
                summary.bytes = summary.bytes.saturating_add(record.bytes);
                summary.without_caption += u64::from(record.details.caption.is_empty());
                *summary
                    .by_media_type
                    .entry(record.media_type.clone())
                    .or_default() += 1;
            })?;
            Ok(summary)
        });
        counted.await
    }

    /// Where the library lies, if in a folder of this machine.
    fn folder(&self) -> Option<&Path> {
        self.0.store.folder()
    }

    fn limits(&self) -> PictureLimits {
        self.0.limits
    }
}

impl Inner {
    /// Now, but later than any batch that is known.
    fn next_millisecond(&self) -> u64 {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let now = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
        let later = |last: u64| now.max(last.saturating_add(1)).min(LAST_MILLISECOND);
        let last = self
            .clock
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| {
                Some(later(last))
            });
        later(last.unwrap_or_else(|last| last))
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&SearchIndex) -> Result<T, IndexFault> + Send + 'static,
    ) -> Result<T, LibraryError> {
        self.attempt(work)
            .await?
            .map_err(|fault| self.index_error(fault))
    }

    async fn attempt<T: Send + 'static>(
        &self,
        work: impl FnOnce(&SearchIndex) -> Result<T, IndexFault> + Send + 'static,
    ) -> Result<Result<T, IndexFault>, LibraryError> {
        let index = Arc::clone(&self.index);
        let done = tokio::task::spawn_blocking(move || work(&index)).await;
        done.map_err(|error| self.index_error(IndexFault::Failed(error.to_string())))
    }

    fn index_error(&self, fault: IndexFault) -> LibraryError {
        index_error(&self.store, self.index.folder(), fault)
    }
}

/// The last part of a location: the rest may tell more of a machine than readers of an article should know.
fn short_name(location: &str) -> String {
    let last = location
        .trim_end_matches(['/', '\\'])
        .rsplit(['/', '\\'])
        .next()
        .unwrap_or_default();
    format!("library {last}")
}

fn index_folder(store: &Store, place: &IndexPlace) -> Option<PathBuf> {
    match place {
        IndexPlace::Default => store
            .folder()
            .map(|folder| folder.join("index").join(INDEX_VERSION)),
        IndexPlace::Below(folder) => {
            let location = store
                .folder()
                .map_or_else(|| store.location().into(), Path::to_string_lossy);
            let name: String = blake3::hash(location.as_bytes())
                .to_hex()
                .chars()
                .take(16)
                .collect();
            Some(folder.join(format!("{name}-{INDEX_VERSION}")))
        }
        IndexPlace::Memory => None,
    }
}

async fn open_index(
    store: &Store,
    folder: Option<PathBuf>,
    place: &IndexPlace,
) -> Result<SearchIndex, LibraryError> {
    let asked = folder.clone();
    let open = |folder| tokio::task::spawn_blocking(move || SearchIndex::open(folder));
    let opened = open(folder)
        .await
        .unwrap_or_else(|error| Err(IndexFault::Failed(error.to_string())));
    let fault = match opened {
        Ok(index) => return Ok(index),
        Err(fault) => index_error(store, asked.as_deref(), fault),
    };
    if *place != IndexPlace::Default || asked.is_none() {
        return Err(fault);
    }
    // Such as a library on a disk that is mounted to be read only.
    tracing::warn!(library = store.location(), error = %fault, "the index is kept in memory");
    let opened = open(None)
        .await
        .unwrap_or_else(|error| Err(IndexFault::Failed(error.to_string())));
    opened.map_err(|fault| index_error(store, None, fault))
}

fn index_error(store: &Store, folder: Option<&Path>, fault: IndexFault) -> LibraryError {
    let reason = match fault {
        IndexFault::Busy => "another process writes it".to_owned(),
        IndexFault::Failed(reason) => reason,
    };
    LibraryError::Index {
        location: store.location().to_owned(),
        folder: folder.map(Path::to_owned),
        reason,
    }
}
