//! Composes articles: drives `inkstone_composition::procedure`, whose steps are ordinary requests of the dispatcher, keeps what
//! comes out for a time, and changes it as its owner says.
//!
//! * `asked`: what callers ask and are told, in words of our own.
//! * `begin`: a request is checked, its pictures are put at vision workers, all at once, and its first step is started.
//! * `driver`: the rest of a composition, a task of its own. Pictures that a search brings are put as soon as they are found, while
//!   earlier choices still run; captions, searches and choices of different places overlap as the procedure says.
//! * `store` and `kept`: which articles there are, and what is kept of each: the events, the article, its pictures.
//! * `edits`, `alone`, `search`, `export`: what else can be asked for.
//!
//! Articles are their tenant's; another's is not found.

mod alone;
mod asked;
mod begin;
mod driver;
mod edits;
mod export;
mod kept;
mod log;
mod meter;
mod metrics;
mod pictures;
mod reader;
mod search;
mod step;
mod store;
#[cfg(test)]
mod tests;

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use inkstone_composition::{PictureId, article::ArticleId};
use inkstone_pictures::PictureSource;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub(crate) use self::asked::{
    ArticleView, Caller, Change, ComposeAsk, ComposeEvents, EditEvents, EditUpdate, ExportFile,
    ExportFormat, FoundImage, ProvidedPicture, SearchImages, SelectImage, SelectedImage,
    StepParams, SuggestCaption, SuggestLocations, SuggestedCaption, SuggestedLocations,
    WantedSource,
};
use self::{kept::KeptArticle, reader::Reader, store::ArticleStore};
use crate::{
    article_error::ArticleError, config::ComposeSettings, error::RequestError,
    request::dispatcher::Dispatcher,
};

/// The compositions and articles of this coordinator.
pub(crate) struct Composer {
    dispatcher: Arc<Dispatcher>,
    source: Option<Arc<dyn PictureSource>>,
    settings: ComposeSettings,
    store: Mutex<ArticleStore<Arc<KeptArticle>>>,
    tasks: TaskTracker,
    /// No composition is begun.
    closed: CancellationToken,
    /// Running ones are ended.
    cut: CancellationToken,
}

impl Composer {
    /// To be called within a runtime: what is kept too long is looked for from now on.
    pub(crate) fn new(
        dispatcher: Arc<Dispatcher>,
        source: Option<Arc<dyn PictureSource>>,
        settings: ComposeSettings,
    ) -> Arc<Self> {
        metrics::describe();
        let composer = Arc::new(Self {
            dispatcher,
            source,
            store: Mutex::new(ArticleStore::new(settings.clone())),
            settings,
            tasks: TaskTracker::new(),
            closed: CancellationToken::new(),
            cut: CancellationToken::new(),
        });
        composer.keep_sweeping();
        composer
    }

    /// The events of a composition from a number on.
    pub(crate) fn resume(
        self: &Arc<Self>,
        tenant: &Bytes,
        id: &ArticleId,
        from: u64,
    ) -> Result<ComposeEvents, RequestError> {
        let kept = self.find_article(tenant, id)?;
        let reader = Reader::new(self, id);
        Ok(self.events_from(kept, reader, from))
    }

    /// Ends a composition; what is there is kept. One that has ended stays as it is.
    pub(crate) fn cancel(&self, tenant: &Bytes, id: &ArticleId) -> Result<(), RequestError> {
        let kept = self.find_article(tenant, id)?;
        kept.cancel.cancel();
        Ok(())
    }

    /// The article as it is now.
    pub(crate) fn article(
        &self,
        tenant: &Bytes,
        id: &ArticleId,
    ) -> Result<ArticleView, RequestError> {
        Ok(self.find_article(tenant, id)?.view())
    }

    /// Forgets an article, and ends its composition.
    pub(crate) fn delete(&self, tenant: &Bytes, id: &ArticleId) -> Result<(), RequestError> {
        match self.forget(tenant, id) {
            true => Ok(()),
            false => Err(ArticleError::NotFound { wanted: id.clone() }.into()),
        }
    }

    /// Media type and bytes of one of the article's pictures, candidates among them.
    pub(crate) fn picture(
        &self,
        tenant: &Bytes,
        id: &ArticleId,
        picture: &PictureId,
    ) -> Result<(String, Bytes), RequestError> {
        let kept = self.find_article(tenant, id)?;
        match kept.picture(picture) {
            Some(found) => Ok((found.picture.media_type, found.known.data.clone())),
            None => {
                let wanted = picture.clone();
                Err(ArticleError::PictureNotFound { wanted }.into())
            }
        }
    }

    /// The article as a file.
    pub(crate) async fn export(
        &self,
        tenant: &Bytes,
        id: &ArticleId,
        format: ExportFormat,
    ) -> Result<ExportFile, RequestError> {
        let kept = self.find_article(tenant, id)?;
        let article = kept.with_article(|article| Ok::<_, RequestError>(article.clone()))?;
        let exporting = tokio::task::spawn_blocking(move || {
            let picture = |id: &PictureId| {
                let found = kept.picture(id)?;
                Some((found.picture.media_type, found.known.data.clone()))
            };
            export::export(&article, picture, format)
        });
        let fault = |error: String| RequestError::Internal(format!("exporting: {error}"));
        let exported = exporting.await.map_err(|error| fault(error.to_string()))?;
        exported.map_err(|error| fault(error.to_string()))
    }

    /// Begins nothing any more, lets running compositions end, and ends those that take longer than the drain limit. Their last
    /// steps are let in as long as that.
    pub(crate) async fn drain(&self) {
        self.closed.cancel();
        self.tasks.close();
        let limit = self.dispatcher.timeouts.drain;
        if timeout(limit, self.tasks.wait()).await.is_err() {
            let num_compositions = self.tasks.len();
            tracing::warn!(
                num_compositions,
                "drain limit reached, compositions are ended"
            );
            self.cut.cancel();
            self.tasks.wait().await;
        }
    }

    /// A tenant's article, which counts as touched.
    fn find_article(
        &self,
        tenant: &Bytes,
        id: &ArticleId,
    ) -> Result<Arc<KeptArticle>, RequestError> {
        let found = self.with_store(|store, now| store.get(tenant, id, now));
        found.ok_or_else(|| ArticleError::NotFound { wanted: id.clone() }.into())
    }

    /// Keeps an article that is about to be composed.
    fn open(&self, kept: &Arc<KeptArticle>) -> Result<(), RequestError> {
        // What is there for too long takes no room.
        self.sweep();
        let (tenant, id) = (kept.tenant.clone(), kept.id.clone());
        let opened = self.with_store(|store, now| store.open(tenant, id, kept.clone(), now));
        opened.map_err(|full| self.full(full))
    }

    fn take_bytes(&self, id: &ArticleId, num_bytes: usize) -> Result<(), RequestError> {
        let taken = self.with_store(|store, _| store.take_bytes(id, num_bytes));
        taken.map_err(|full| self.full(full))
    }

    fn full(&self, full: crate::article_error::Full) -> RequestError {
        ArticleError::Full {
            full,
            retry_after: self.dispatcher.timeouts.retry_after,
        }
        .into()
    }

    /// A composition is over.
    fn ended(&self, id: &ArticleId) {
        self.with_store(|store, now| store.ended(id, now));
    }

    /// Forgets a tenant's article and ends what goes on with it. False where there is none.
    fn forget(&self, tenant: &Bytes, id: &ArticleId) -> bool {
        let removed = self.with_store(|store, _| store.remove(tenant, id));
        if let Some(kept) = &removed {
            kept.cancel.cancel();
        }
        removed.is_some()
    }

    fn with_store<T>(
        &self,
        act: impl FnOnce(&mut ArticleStore<Arc<KeptArticle>>, Instant) -> T,
    ) -> T {
        let mut store = self.store.lock().expect("no panic while locked");
        let result = act(&mut store, Instant::now());
        metrics::kept(store.num_articles(), store.picture_bytes());
        result
    }

    fn sweep(&self) {
        let swept = self.with_store(|store, now| store.sweep(now));
        for kept in swept.expired {
            tracing::info!(article = kept.id.0, "article expired");
        }
        for kept in swept.abandoned {
            tracing::info!(
                article = kept.id.0,
                "nobody reads a composition, it is ended"
            );
            kept.cancel.cancel();
        }
    }

    /// Looks for what was kept or unread long enough, as long as there is a composer that takes compositions.
    fn keep_sweeping(self: &Arc<Self>) {
        let shortest = self.settings.article_ttl.min(self.settings.abandon_after);
        let every = (shortest / LOOKS).clamp(Duration::from_millis(10), Duration::from_secs(5));
        let (composer, closed) = (Arc::downgrade(self), self.closed.clone());
        self.tasks.spawn(async move {
            let mut looks = interval(every);
            looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            while closed.run_until_cancelled(looks.tick()).await.is_some() {
                match composer.upgrade() {
                    Some(composer) => composer.sweep(),
                    None => return,
                }
            }
        });
    }
}

/// How often in its time something that takes too long is looked for.
const LOOKS: u32 = 8;
