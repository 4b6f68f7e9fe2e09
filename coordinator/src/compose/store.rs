//! Which articles are kept, how much they may take, and which have been kept long enough. Pure: the time comes in with each call,
//! and what to do about an article is for whoever asks.

use std::{collections::HashMap, time::Duration};

use bytes::Bytes;
use inkstone_composition::article::ArticleId;
use tokio::time::Instant;

use crate::{article_error::Full, config::ComposeSettings};

/// Articles with what is kept of each, `T`.
pub(super) struct ArticleStore<T> {
    settings: ComposeSettings,
    entries: HashMap<ArticleId, Entry<T>>,
    /// Of each tenant that has articles.
    tenants: HashMap<Bytes, Held>,
    picture_bytes: usize,
}

struct Entry<T> {
    value: T,
    tenant: Bytes,
    touched: Instant,
    is_composing: bool,
    num_readers: usize,
    /// Since when nobody reads; of use while there are no readers.
    unread_since: Instant,
    /// It was told as abandoned.
    is_abandoned: bool,
    picture_bytes: usize,
}

/// What a tenant has.
#[derive(Default)]
struct Held {
    articles: usize,
    picture_bytes: usize,
}

/// What time has done.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Swept<T> {
    /// Kept long enough, and forgotten now.
    pub(super) expired: Vec<T>,
    /// Nobody reads how they come about; each is told once.
    pub(super) abandoned: Vec<T>,
}

impl<T: Clone> ArticleStore<T> {
    pub(super) fn new(settings: ComposeSettings) -> Self {
        Self {
            settings,
            entries: HashMap::new(),
            tenants: HashMap::new(),
            picture_bytes: 0,
        }
    }

    pub(super) fn num_articles(&self) -> usize {
        self.entries.len()
    }

    /// Bytes of pictures, of all articles.
    pub(super) fn picture_bytes(&self) -> usize {
        self.picture_bytes
    }

    /// Keeps an article that is about to be composed, if there is room.
    pub(super) fn open(
        &mut self,
        tenant: Bytes,
        id: ArticleId,
        value: T,
        now: Instant,
    ) -> Result<(), Full> {
        let limit = self.settings.max_articles;
        if self.entries.len() >= limit {
            return Err(Full::Articles { limit });
        }
        let limit = self.settings.max_articles_per_tenant;
        let held = self.tenants.get(&tenant);
        if held.is_some_and(|held| held.articles >= limit) {
            return Err(Full::TenantArticles { limit });
        }
        self.tenants.entry(tenant.clone()).or_default().articles += 1;
        let entry = Entry {
            value,
            tenant,
            touched: now,
            is_composing: true,
            num_readers: 0,
            unread_since: now,
            is_abandoned: false,
            picture_bytes: 0,
        };
        let before = self.entries.insert(id, entry);
        assert!(before.is_none(), "ids are drawn, none comes twice");
        Ok(())
    }

    /// A tenant's article, which counts as touched.
    pub(super) fn get(&mut self, tenant: &Bytes, id: &ArticleId, now: Instant) -> Option<T> {
        let entry = self.entries.get_mut(id);
        let entry = entry.filter(|entry| entry.tenant == *tenant)?;
        entry.touched = now;
        Some(entry.value.clone())
    }

    /// Room for an article's pictures. Those of an article that is gone need none.
    pub(super) fn take_bytes(&mut self, id: &ArticleId, num_bytes: usize) -> Result<(), Full> {
        let Some(entry) = self.entries.get_mut(id) else {
            return Ok(());
        };
        let exceeds = |held: usize, limit| held.saturating_add(num_bytes) > limit;
        let limit = self.settings.max_picture_bytes;
        if exceeds(self.picture_bytes, limit) {
            return Err(Full::PictureBytes { limit });
        }
        let limit = self.settings.max_picture_bytes_per_tenant;
        let held = self.tenants.entry(entry.tenant.clone()).or_default();
        if exceeds(held.picture_bytes, limit) {
            return Err(Full::TenantPictureBytes { limit });
        }
        held.picture_bytes += num_bytes;
        entry.picture_bytes += num_bytes;
        self.picture_bytes += num_bytes;
        Ok(())
    }

    /// Somebody reads the events.
    pub(super) fn reader_came(&mut self, id: &ArticleId) {
        if let Some(entry) = self.entries.get_mut(id) {
            entry.num_readers += 1;
        }
    }

    pub(super) fn reader_left(&mut self, id: &ArticleId, now: Instant) {
        if let Some(entry) = self.entries.get_mut(id) {
            entry.num_readers = entry.num_readers.saturating_sub(1);
            entry.unread_since = now;
            entry.touched = now;
        }
    }

    /// The composition is over.
    pub(super) fn ended(&mut self, id: &ArticleId, now: Instant) {
        if let Some(entry) = self.entries.get_mut(id) {
            entry.is_composing = false;
            entry.touched = now;
        }
    }

    /// Forgets a tenant's article.
    pub(super) fn remove(&mut self, tenant: &Bytes, id: &ArticleId) -> Option<T> {
        let entry = self.entries.get(id)?;
        if entry.tenant != *tenant {
            return None;
        }
        self.forget(id)
    }

    /// Forgets what was kept long enough, and finds what nobody reads.
    pub(super) fn sweep(&mut self, now: Instant) -> Swept<T> {
        let ComposeSettings {
            article_ttl,
            abandon_after,
            ..
        } = self.settings;
        let is_past = |since: Instant, limit: Duration| now.duration_since(since) >= limit;
        let mut abandoned = vec![];
        let mut stale = vec![];
        for (id, entry) in &mut self.entries {
            if entry.num_readers > 0 {
                continue;
            }
            if entry.is_composing {
                if !entry.is_abandoned && is_past(entry.unread_since, abandon_after) {
                    entry.is_abandoned = true;
                    abandoned.push(entry.value.clone());
                }
            } else if is_past(entry.touched, article_ttl) {
                stale.push(id.clone());
            }
        }
        Swept {
            expired: stale.iter().filter_map(|id| self.forget(id)).collect(),
            abandoned,
        }
    }

    fn forget(&mut self, id: &ArticleId) -> Option<T> {
        let entry = self.entries.remove(id)?;
        self.picture_bytes -= entry.picture_bytes;
        if let Some(held) = self.tenants.get_mut(&entry.tenant) {
            held.articles -= 1;
            held.picture_bytes -= entry.picture_bytes;
            if held.articles == 0 {
                self.tenants.remove(&entry.tenant);
            }
        }
        Some(entry.value)
    }
}

#[cfg(test)]
mod tests;
