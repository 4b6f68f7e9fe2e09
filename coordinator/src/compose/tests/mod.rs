//! A composer over a fake cluster and a shelf of pictures. A module for each promise.

mod alone;
mod composing;
mod edits;
mod ending;
mod keeping;
mod pictures;

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use inkstone_composition::{
    ComposeRequest, PictureCount,
    article::Article,
    procedure::{Event, Numbered},
};
use inkstone_pictures::{FoundPicture, PictureSource, Search, SourceError};
use tokio::time::timeout;

use super::*;
use crate::{
    cluster_view::ClusterView,
    config::Config,
    model::ServedModel,
    worker_client::{
        EndReason, WorkerError,
        fake::{self, FakeCluster, Script, Step},
    },
};

/// Longer than anything takes, even on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// A source with pictures `shelf-0`, `shelf-1` and so on.
#[derive(Default)]
struct Shelf {
    /// What it was asked.
    searches: Mutex<Vec<Search>>,
    fails: AtomicBool,
    never_answers: AtomicBool,
    /// The first so many are no pictures.
    num_corrupt: usize,
}

impl Shelf {
    fn searches(&self) -> Vec<Search> {
        self.searches.lock().unwrap().clone()
    }
}

#[async_trait]
impl PictureSource for Shelf {
    fn name(&self) -> &str {
        "shelf"
    }

    async fn search(&self, search: &Search) -> Result<Vec<FoundPicture>, SourceError> {
        self.searches.lock().unwrap().push(search.clone());
        if self.never_answers.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        if self.fails.load(Ordering::SeqCst) {
            return Err(SourceError::Unavailable {
                name: "shelf".into(),
                reason: "it fell".into(),
            });
        }
        let found = (0..100).map(|number| {
            let data = match number < self.num_corrupt {
                true => format!("corrupt {number}"),
                false => format!("picture {number}"),
            };
            FoundPicture {
                index: format!("shelf-{number}"),
                data: data.into(),
                media_type: "image/png".into(),
                caption: format!("number {number}"),
                source: Some("https://shelf.test".into()),
                author: Some("A. Painter".into()),
                licence: Some("CC0".into()),
            }
        });
        let wanted = found.filter(|found| !search.exclude.contains(&found.index));
        Ok(wanted.take(search.max_pictures).collect())
    }
}

/// A composer and what is around it.
struct World {
    cluster: FakeCluster,
    composer: Arc<Composer>,
    shelf: Arc<Shelf>,
}

impl World {
    /// With a shelf and the defaults.
    fn new() -> Self {
        Self::with(|_| {})
    }

    fn with(change: impl FnOnce(&mut Config)) -> Self {
        Self::of(Some(Arc::default()), change)
    }

    fn without_source() -> Self {
        Self::of(None, |_| {})
    }

    fn of(shelf: Option<Arc<Shelf>>, change: impl FnOnce(&mut Config)) -> Self {
        let cluster = FakeCluster::new(1, 1);
        let mut config = Config::for_members(cluster.members()).unwrap();
        config.timeouts.first_group = Duration::from_millis(200);
        config.timeouts.recovery = Duration::from_millis(500);
        change(&mut config);
        config.check().unwrap();
        let view = ClusterView::new(config.membership, Arc::new(cluster.clone()));
        let dispatcher = Arc::new(Dispatcher::new(view, config.limits, config.timeouts));
        let model = ServedModel::new(fake::language_description()).unwrap();
        dispatcher.open(Arc::new(model));
        let source = shelf.clone();
        let source = source.map(|source| -> Arc<dyn PictureSource> { source });
        Self {
            composer: Composer::new(dispatcher, source, config.compose),
            cluster,
            shelf: shelf.unwrap_or_default(),
        }
    }

    /// Steps of this name say this, once.
    fn says(&self, step: &'static str, text: &'static str) {
        self.plays(step, say(text));
    }

    fn plays(&self, step: &'static str, steps: Vec<Step>) {
        self.cluster.group().script_for(step, Script::Play(steps));
    }

    /// An article of a title and three paragraphs with two pictures.
    fn tells_an_article(&self) {
        self.says("article", "Title\nOne.\n\nTwo.\nThree.");
        self.says("places", "<Seg1>，<Seg3>。");
        self.says("caption-1", "a red house\" and more");
        self.says("caption-3", "a blue boat\"");
        self.says("choice-1", ": B");
        self.says("choice-3", ":A");
    }

    async fn compose(&self, ask: ComposeAsk) -> ComposeEvents {
        let began = timeout(PATIENCE, self.composer.compose(caller(""), ask)).await;
        began.expect("an answer in time").unwrap()
    }

    async fn refusal(&self, ask: ComposeAsk) -> RequestError {
        let began = timeout(PATIENCE, self.composer.compose(caller(""), ask)).await;
        match began.expect("an answer in time") {
            Ok(_) => panic!("it was taken on"),
            Err(error) => error,
        }
    }

    /// A finished article of which nothing is told.
    async fn article(&self) -> (ArticleId, Article) {
        self.tells_an_article();
        let events = self.compose(ask(PictureCount::Automatic)).await;
        let id = events.article_id().clone();
        let told = read(events).await;
        (id, article_of(&told))
    }

    /// Requests that the group was asked to run, by step.
    fn asked(&self, step: &str) -> Vec<crate::worker_client::Generation> {
        let asked = self.cluster.group().asked().into_iter();
        let is_step = |id: &str| id.rsplit('.').next() == Some(step);
        asked.filter(|asked| is_step(&asked.request_id)).collect()
    }
}

/// A whole answer.
fn say(text: &'static str) -> Vec<Step> {
    let stop = fake::tokenizer().end_of_turn_id();
    vec![
        Step::Text(text),
        Step::Tokens(vec![stop]),
        Step::End(EndReason::Stop),
    ]
}

fn caller(tenant: &'static str) -> Caller {
    Caller {
        tenant: Bytes::from_static(tenant.as_bytes()),
        request_id: "call".into(),
        deadline: None,
    }
}

fn nobody() -> Bytes {
    Bytes::new()
}

fn ask(picture_count: PictureCount) -> ComposeAsk {
    ComposeAsk {
        model: String::new(),
        request: ComposeRequest {
            picture_count,
            ..ComposeRequest::of("Write about houses.")
        },
        uploads: vec![],
        source: WantedSource::Default,
    }
}

fn with_uploads(uploads: &[&'static str]) -> ComposeAsk {
    let uploads = uploads
        .iter()
        .map(|data| Bytes::from_static(data.as_bytes()));
    ComposeAsk {
        uploads: uploads.collect(),
        ..ask(PictureCount::Automatic)
    }
}

/// All events that follow, their numbers checked.
async fn read(events: ComposeEvents) -> Vec<Numbered> {
    read_from(events, 0).await
}

async fn read_from(events: ComposeEvents, from: u64) -> Vec<Numbered> {
    let told: Vec<Numbered> = timeout(PATIENCE, events.collect())
        .await
        .expect("events end in time");
    for (number, event) in (from..).zip(&told) {
        assert_eq!(event.sequence, number);
    }
    told
}

/// Reads until an event is told for which this holds.
async fn read_until(events: &mut ComposeEvents, holds: impl Fn(&Event) -> bool) -> Event {
    let reading = async {
        loop {
            let event = events.next().await.expect("the event comes").event;
            if holds(&event) {
                return event;
            }
        }
    };
    timeout(PATIENCE, reading).await.expect("an event in time")
}

fn article_of(told: &[Numbered]) -> Article {
    match told.last() {
        Some(Numbered {
            event: Event::Done { article },
            ..
        }) => (**article).clone(),
        last => panic!("no article: {last:?}"),
    }
}

/// What kinds of events were told, progress and text aside.
fn kinds(told: &[Numbered]) -> Vec<String> {
    let kinds = told.iter().map(|event| {
        let json = serde_json::to_value(&event.event).unwrap();
        json["kind"].as_str().unwrap().to_owned()
    });
    kinds
        .filter(|kind| !["progress", "text_delta"].contains(&kind.as_str()))
        .collect()
}

/// Waits until this holds.
async fn eventually(what: &str, holds: impl Fn() -> bool) {
    let watch = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, watch).await.expect(what);
}
