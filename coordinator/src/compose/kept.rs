//! One article as it is kept: the events of its composition, the article itself, its pictures, and what goes on with it.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard},
};

use bytes::Bytes;
use inkstone_composition::{
    Asked, ComposeRequest, Meter, Picture, PictureId,
    article::{Article, ArticleId, EditError, Proposal, Revision},
    procedure::{Event, Numbered},
};
use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::{ArticleView, WantedSource, log::EventLog};
use crate::{article_error::ArticleError, error::RequestError, request::pictures::KnownPicture};

/// See the module's text.
pub(super) struct KeptArticle {
    pub(super) id: ArticleId,
    pub(super) tenant: Bytes,
    pub(super) instruction: String,
    /// Where its pictures come from.
    pub(super) source: WantedSource,
    /// Ends its composition.
    pub(super) cancel: CancellationToken,
    /// How many events there are; told to readers.
    num_events: watch::Sender<u64>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    log: EventLog,
    article: Option<Article>,
    pictures: HashMap<PictureId, KeptPicture>,
    /// Searches that wait for the client, by place.
    wanted: HashMap<usize, oneshot::Sender<Vec<Picture>>>,
    /// The edit that the model writes.
    writing: Option<Writing>,
    num_edits: u64,
}

/// A picture with its bytes.
#[derive(Clone)]
pub(super) struct KeptPicture {
    pub(super) picture: Picture,
    pub(super) known: Arc<KnownPicture>,
}

/// An edit that is being written.
struct Writing {
    number: u64,
    /// It was closed, and its writer is to end.
    closed: CancellationToken,
}

/// An edit that was opened.
pub(super) struct Opened {
    pub(super) asked: Asked,
    /// Names it among the article's edits.
    pub(super) number: u64,
    /// Cancelled when it is closed from elsewhere.
    pub(super) closed: CancellationToken,
}

impl KeptArticle {
    pub(super) fn new(
        id: ArticleId,
        tenant: Bytes,
        request: &ComposeRequest,
        source: WantedSource,
        cancel: CancellationToken,
    ) -> Arc<Self> {
        Arc::new(Self {
            id,
            tenant,
            instruction: request.instruction.clone(),
            source,
            cancel,
            num_events: watch::Sender::new(0),
            state: Mutex::default(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic while locked")
    }

    /// Adds events; the last one brings the article.
    pub(super) fn tell(&self, events: impl IntoIterator<Item = Numbered>) {
        let mut state = self.lock();
        for numbered in events {
            if let Event::Done { article } = &numbered.event {
                state.article = Some((**article).clone());
            }
            state.log.push(numbered);
        }
        self.num_events.send_replace(state.log.len());
    }

    /// The next event's number.
    pub(super) fn num_events(&self) -> u64 {
        self.lock().log.len()
    }

    /// How the composition ended, if it did.
    pub(super) fn last_event(&self) -> Option<Event> {
        self.lock().log.last().cloned()
    }

    pub(super) fn is_composing(&self) -> bool {
        !self.lock().log.is_ended()
    }

    /// The event of a number, as soon as it is there; none after the last one.
    pub(super) async fn event(&self, sequence: u64) -> Option<Numbered> {
        let mut changes = self.num_events.subscribe();
        loop {
            changes.mark_unchanged();
            {
                let state = self.lock();
                let event = state.log.get(sequence);
                if event.is_some() || state.log.is_ended() {
                    return event;
                }
            }
            // The sender is ours, so it is not gone.
            changes.changed().await.ok()?;
        }
    }

    pub(super) fn view(&self) -> ArticleView {
        let state = self.lock();
        ArticleView {
            article: state.article.clone(),
            instruction: self.instruction.clone(),
            is_composing: !state.log.is_ended(),
        }
    }

    /// Reads the article, or changes it. An edit that is closed by that is not written any further.
    pub(super) fn with_article<T, E: Into<RequestError>>(
        &self,
        change: impl FnOnce(&mut Article) -> Result<T, E>,
    ) -> Result<T, RequestError> {
        let mut state = self.lock();
        let result = change(state.article()?);
        if state
            .article
            .as_ref()
            .is_some_and(|article| article.pending().is_none())
            && let Some(writing) = state.writing.take()
        {
            writing.closed.cancel();
        }
        result.map_err(Into::into)
    }

    /// Opens an edit. Tokenises its prompt, so not for an async thread.
    pub(super) fn propose(
        &self,
        revision: Revision,
        proposal: Proposal,
        meter: &dyn Meter,
    ) -> Result<Opened, RequestError> {
        let mut state = self.lock();
        let article = state.article()?;
        let asked = article.propose(revision, proposal, meter)?;
        state.num_edits += 1;
        let number = state.num_edits;
        let closed = CancellationToken::new();
        state.writing = Some(Writing {
            number,
            closed: closed.clone(),
        });
        Ok(Opened {
            asked,
            number,
            closed,
        })
    }

    /// A stretch of an edit's text. False where it is closed.
    pub(super) fn push_proposed(&self, number: u64, text: &str) -> Result<bool, EditError> {
        let mut state = self.lock();
        if !state.is_writing(number) {
            return Ok(false);
        }
        match state.article.as_mut() {
            Some(article) => article.push_proposed(text).map(|()| true),
            None => Ok(false),
        }
    }

    /// An edit is written: its text, unless it was closed.
    pub(super) fn proposed(&self, number: u64) -> Option<String> {
        let mut state = self.lock();
        if !state.is_writing(number) {
            return None;
        }
        state.writing = None;
        let pending = state.article.as_ref()?.pending()?;
        Some(pending.text.clone())
    }

    /// Closes an edit that is still being written: it will not be.
    pub(super) fn abandon_edit(&self, number: u64) {
        let mut state = self.lock();
        if state.is_writing(number) {
            state.writing = None;
            if let Some(article) = state.article.as_mut() {
                // It is open, as it is being written.
                let _ = article.cancel_proposed();
            }
        }
    }

    /// Puts the open edit into the article.
    pub(super) fn apply_proposed(
        &self,
        revision: Revision,
        text: Option<String>,
    ) -> Result<(), RequestError> {
        if text.is_none() && self.lock().writing.is_some() {
            return Err(ArticleError::EditRunning.into());
        }
        self.with_article(|article| article.apply_proposed(revision, text).map(drop))
    }

    /// What the article has under this name.
    pub(super) fn picture(&self, id: &PictureId) -> Option<KeptPicture> {
        self.lock().pictures.get(id).cloned()
    }

    /// Bytes of those that are not here yet.
    pub(super) fn new_bytes(&self, pictures: &[KeptPicture]) -> usize {
        let state = self.lock();
        let mut new: HashMap<&PictureId, usize> = HashMap::new();
        for kept in pictures {
            if !state.pictures.contains_key(&kept.picture.id) {
                new.insert(&kept.picture.id, kept.known.data.len());
            }
        }
        new.values().sum()
    }

    /// Keeps pictures. What is known of one that was here stays.
    pub(super) fn keep(&self, pictures: Vec<KeptPicture>) {
        let mut state = self.lock();
        for kept in pictures {
            let id = kept.picture.id.clone();
            state.pictures.entry(id).or_insert(kept);
        }
    }

    /// Waits for the client's pictures for a place.
    pub(super) fn want(&self, place: usize) -> oneshot::Receiver<Vec<Picture>> {
        let (sender, receiver) = oneshot::channel();
        self.lock().wanted.insert(place, sender);
        receiver
    }

    pub(super) fn is_wanted(&self, place: usize) -> bool {
        let state = self.lock();
        let sender = state.wanted.get(&place);
        sender.is_some_and(|sender| !sender.is_closed())
    }

    /// Answers the search of a place. False where nobody waits for it any more.
    pub(super) fn provide(&self, place: usize, pictures: Vec<Picture>) -> bool {
        let sender = self.lock().wanted.remove(&place);
        sender.is_some_and(|sender| sender.send(pictures).is_ok())
    }
}

impl State {
    fn article(&mut self) -> Result<&mut Article, ArticleError> {
        match &mut self.article {
            Some(article) => Ok(article),
            None if self.log.is_ended() => Err(ArticleError::NoArticle),
            None => Err(ArticleError::StillComposing),
        }
    }

    fn is_writing(&self, number: u64) -> bool {
        let writing = self.writing.as_ref();
        writing.is_some_and(|writing| writing.number == number)
    }
}
