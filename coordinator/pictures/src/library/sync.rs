//! Brings the index up to the records.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use futures::{StreamExt, TryStreamExt};

use super::Inner;
use super::batch::Batch;
use super::error::LibraryError;
use super::index::IndexFault;

/// How many batches are read at once, and how many become one commit of the index.
const READS_AT_ONCE: usize = 8;
const BATCHES_PER_COMMIT: usize = 32;

/// How long a search waits for news of the store. What is left undone is done by a later one.
const LOOK_LIMIT: Duration = Duration::from_secs(5);

/// How long another process may write the same index before we go on with what there is.
const BUSY_LIMIT: Duration = Duration::from_secs(10);
const BUSY_PAUSE: Duration = Duration::from_millis(50);

/// What the last look at the store told.
#[derive(Default)]
pub(super) struct Synced {
    pub(super) at: Option<Instant>,
    pub(super) damaged: Vec<String>,
}

impl Inner {
    /// Whatever the store has that the index has not is brought in. Dropped at any point, the next one goes on from there.
    pub(super) async fn sync(&self) -> Result<(), LibraryError> {
        let mut synced = self.synced.lock().await;
        self.sync_locked(&mut synced).await
    }

    /// A look at the store, if the last is long ago and nobody looks right now. Its failure is no failure of a search: the index is there.
    pub(super) async fn sync_if_due(&self) {
        let Some(refresh_after) = self.refresh_after else {
            return;
        };
        let Ok(mut synced) = self.synced.try_lock() else {
            return;
        };
        if synced.at.is_some_and(|at| at.elapsed() < refresh_after) {
            return;
        }
        let looked = tokio::time::timeout(LOOK_LIMIT, self.sync_locked(&mut synced)).await;
        let reason = match looked {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("the store did not answer within {LOOK_LIMIT:?}"),
        };
        tracing::warn!(
            library = self.store.location(),
            reason,
            "cannot look for new pictures; those that are known are still found"
        );
    }

    async fn sync_locked(&self, synced: &mut Synced) -> Result<(), LibraryError> {
        // Also when it fails: a store that is away is not asked at every search.
        synced.at = Some(Instant::now());
        // Before the listing: another process may apply a batch that is younger than our listing, and that is not one too many.
        let mut applied = self.blocking(|index| index.applied()).await?;
        let names = self.store.batch_names().await?;
        let stored: BTreeSet<_> = names.iter().map(|name| name.as_str().to_owned()).collect();
        if !applied.is_subset(&stored) {
            tracing::warn!(
                library = self.store.location(),
                "the index speaks of records that are gone; it is made again"
            );
            self.patiently(|index| index.clear()).await?;
            applied.clear();
        }
        if let Some(last) = names.last() {
            self.clock
                .fetch_max(last.milliseconds(), std::sync::atomic::Ordering::Relaxed);
        }
        let missing: Vec<_> = names
            .into_iter()
            .filter(|name| !applied.contains(name.as_str()))
            .collect();
        let mut damaged = Vec::new();
        for names in missing.chunks(BATCHES_PER_COMMIT) {
            let reads = names.iter().cloned().map(|name| async move {
                self.store.batch(&name).await.map(|batch| (name, batch))
            });
            let read: Vec<_> = futures::stream::iter(reads)
                .buffered(READS_AT_ONCE)
                .try_collect()
                .await?;
            let mut batches: Vec<Batch> = Vec::with_capacity(read.len());
            for (name, batch) in read {
                let Some(batch) = batch else {
                    damaged.push(name.to_string());
                    continue;
                };
                if batch.foreign_lines > 0 {
                    let (library, lines) = (self.store.location(), batch.foreign_lines);
                    tracing::warn!(library, batch = %name, lines, "lines of this batch are no records that this version knows");
                }
                batches.push(batch);
            }
            let batches = std::sync::Arc::new(batches);
            self.patiently(move |index| index.apply(&batches)).await?;
        }
        if !damaged.is_empty() {
            tracing::warn!(
                library = self.store.location(),
                ?damaged,
                "records cannot be read; importing their pictures again mends it"
            );
        }
        synced.damaged = damaged;
        self.blocking(|index| index.show_latest()).await
    }

    /// Waits while another process writes the index. It works from the same records, so what it leaves undone is little.
    async fn patiently<F>(&self, work: F) -> Result<(), LibraryError>
    where
        F: Fn(&super::index::SearchIndex) -> Result<(), IndexFault> + Clone + Send + 'static,
    {
        let since = Instant::now();
        loop {
            let work = work.clone();
            // The lock is of the folder, not of this process, so there is nobody who would wake us.
            match self.attempt(move |index| work(index)).await? {
                Ok(()) => return Ok(()),
                Err(IndexFault::Busy) if since.elapsed() < BUSY_LIMIT => {
                    tokio::time::sleep(BUSY_PAUSE).await
                }
                Err(fault) => return Err(self.index_error(fault)),
            }
        }
    }
}
