//! A search: the index says which pictures fit, the store has their bytes.

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};

use super::picture::is_digest;
use super::record::Record;
use super::{Hit, Inner, Library, LibraryError, PICTURES_AT_ONCE, words};
use crate::source::{FoundPicture, PictureSource, Search, SourceError};

/// A search asks for a few more than it needs: pictures may be gone.
const SPARE_HITS: usize = 8;
const MAX_HITS: usize = 1000;

/// Of each kind, in one query.
const MAX_QUERY_TERMS: usize = 64;
/// What comes after it in a caption is not looked for.
const MAX_QUERY_CHARACTERS: usize = 2000;

impl Inner {
    pub(super) async fn find(
        &self,
        search: &Search,
        spare: usize,
    ) -> Result<Vec<Hit>, LibraryError> {
        let limit = search.max_pictures.saturating_add(spare).min(MAX_HITS);
        let caption: String = search.caption.chars().take(MAX_QUERY_CHARACTERS).collect();
        // Other names exclude nothing here: they are those of another source.
        let exclude: Vec<_> = search
            .exclude
            .iter()
            .filter(|index| is_digest(index))
            .cloned()
            .collect();
        let found = self.blocking(move |index| {
            index.search(
                &words::query_terms(&caption, MAX_QUERY_TERMS),
                &exclude,
                limit,
            )
        });
        found.await
    }

    async fn search(&self, search: &Search) -> Result<Vec<FoundPicture>, LibraryError> {
        let hits = self.find(search, SPARE_HITS).await?;
        let wanted = search.max_pictures.min(hits.len());
        if wanted == 0 {
            return Ok(Vec::new());
        }
        let reads = hits.into_iter().map(|hit| async move {
            let data = self
                .store
                .picture(&hit.record.index, self.limits.bytes)
                .await?;
            if data.is_none() {
                tracing::warn!(
                    library = self.store.location(),
                    picture = hit.record.index,
                    "picture is gone or no longer what it was"
                );
            }
            Ok(data.map(|data| self.found(hit.record, data)))
        });
        let readable = futures::stream::iter(reads)
            .buffered(wanted.min(PICTURES_AT_ONCE))
            .try_filter_map(|found| async move { Ok(found) });
        let found: Vec<_> = readable.take(wanted).try_collect().await?;
        if found.is_empty() {
            let reason = "none of the pictures that its records name can be read".to_owned();
            let location = self.store.location().to_owned();
            return Err(LibraryError::Store {
                location,
                attempt: "read pictures",
                reason,
            });
        }
        Ok(found)
    }

    fn found(&self, record: Record, data: Bytes) -> FoundPicture {
        FoundPicture {
            index: record.index,
            data,
            media_type: record.media_type,
            caption: record.details.caption,
            source: record.details.source.or_else(|| Some(self.name.clone())),
            author: record.details.author,
            licence: record.details.licence,
        }
    }
}

#[async_trait]
impl PictureSource for Library {
    fn name(&self) -> &str {
        &self.0.name
    }

    async fn search(&self, search: &Search) -> Result<Vec<FoundPicture>, SourceError> {
        self.0.sync_if_due().await;
        let found = self.0.search(search).await;
        found.map_err(|error| SourceError::Unavailable {
            name: self.0.name.clone(),
            reason: error.to_string(),
        })
    }
}
