//! Readers of a composition's events: each goes through the log at its own pace, and nothing is queued for it.

use std::sync::Arc;

use futures::{StreamExt, stream};
use inkstone_composition::article::ArticleId;

use super::{ComposeEvents, Composer, kept::KeptArticle};

/// Somebody who reads; while there is one the composition is not abandoned.
pub(super) struct Reader {
    composer: Arc<Composer>,
    id: ArticleId,
}

impl Reader {
    pub(super) fn new(composer: &Arc<Composer>, id: &ArticleId) -> Self {
        composer.with_store(|store, _| store.reader_came(id));
        Self {
            composer: composer.clone(),
            id: id.clone(),
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let id = &self.id;
        self.composer
            .with_store(|store, now| store.reader_left(id, now));
    }
}

impl Composer {
    /// The events from a number on.
    pub(super) fn events_from(
        &self,
        kept: Arc<KeptArticle>,
        reader: Reader,
        from: u64,
    ) -> ComposeEvents {
        let (article_id, source) = (kept.id.clone(), kept.source);
        let events = stream::unfold(
            (kept, reader, from),
            |(kept, reader, sequence)| async move {
                let event = kept.event(sequence).await?;
                Some((event, (kept, reader, sequence.saturating_add(1))))
            },
        );
        ComposeEvents {
            article_id,
            expires_after: self.settings.article_ttl,
            source,
            events: events.boxed(),
        }
    }
}
