//! Drives one composition, as a task of its own: runs the steps and searches that the procedure asks for, side by side, feeds back
//! what comes of them in the order in which it comes, and tells the events. It always ends, and so do the events, whatever happens.

use std::{collections::HashMap, sync::Arc, time::Duration};

use futures::{
    Stream, StreamExt,
    stream::{self, AbortHandle, BoxStream, SelectAll},
};
use inkstone_composition::{
    Generation, Picture, PictureId,
    article::SearchRequest,
    procedure::{ComposeError, Composition, Effect, Event, Input, Numbered, Stage, Usage, Work},
};
use tokio::{
    sync::oneshot,
    time::{Instant, timeout},
};

use super::{
    Composer, WantedSource,
    kept::KeptArticle,
    meter::ModelMeter,
    metrics::{self, StepKind},
    step::{self, Answering, StepCaller, Told},
};
use crate::{
    config::ComposeSettings, error::RequestError, model::ServedModel, request::ChatRequest,
};

/// What a composition needs to run.
#[derive(Clone)]
pub(super) struct Stand {
    pub(super) composer: Arc<Composer>,
    pub(super) model: Arc<ServedModel>,
    pub(super) kept: Arc<KeptArticle>,
    /// The caller's id.
    pub(super) request_id: String,
}

/// A running composition.
pub(super) struct Driver {
    stand: Stand,
    /// None only while it is lent to another thread, or was lost there.
    composition: Option<Composition>,
    runs: SelectAll<BoxStream<'static, Input>>,
    handles: HashMap<Work, AbortHandle>,
    began: Instant,
    /// It was told to end before its time.
    is_cut: bool,
}

impl Stand {
    fn settings(&self) -> &ComposeSettings {
        &self.composer.settings
    }

    /// Applies an input. What it asks for may have to be measured, which takes as long as the text.
    pub(super) async fn apply(
        &self,
        mut composition: Composition,
        input: Input,
    ) -> Result<(Composition, Vec<Effect>), RequestError> {
        let stand = self.clone();
        let applying = tokio::task::spawn_blocking(move || {
            let effects = composition.apply(input, &stand.meter());
            (composition, effects)
        });
        applying
            .await
            .map_err(|error| RequestError::Internal(format!("composing: {error}")))
    }

    pub(super) fn meter(&self) -> ModelMeter<impl Fn(&PictureId) -> usize> {
        ModelMeter {
            model: self.model.clone(),
            picture_tokens: |id: &PictureId| {
                let picture = self.kept.picture(id);
                picture.map_or(0, |kept| kept.known.num_tokens() as usize)
            },
        }
    }

    /// The request for a generation.
    pub(super) fn request(
        &self,
        work: Work,
        generation: Generation,
    ) -> Result<ChatRequest, RequestError> {
        let settings = self.settings();
        let (limit, goes_on) = match work {
            Work::Article => (settings.article_time, false),
            Work::Places | Work::Caption { .. } | Work::Search { .. } | Work::Choice { .. } => {
                (settings.step_time, true)
            }
        };
        let caller = StepCaller {
            tenant: self.kept.tenant.clone(),
            request_id: step_id(&self.request_id, work),
            deadline: Some(Instant::now() + limit),
            goes_on,
        };
        let pictures = generation.prompt.pictures().map(|id| {
            let kept = self.kept.picture(id);
            let missing = || RequestError::Internal(format!("picture {id} is not kept"));
            kept.map(|kept| kept.known).ok_or_else(missing)
        });
        let pictures = pictures.collect::<Result<_, _>>()?;
        Ok(step::request(generation, pictures, caller))
    }

    /// A step whose answer is wanted whole.
    async fn answer(self, work: Work, generation: Generation) -> Input {
        let ComposeSettings {
            shed_patience,
            step_time,
            ..
        } = *self.settings();
        let answer = async {
            let request = self.request(work, generation)?;
            let dispatcher = &self.composer.dispatcher;
            step::answer_patiently(dispatcher, request, StepKind::of(work), shed_patience).await
        };
        match answer.await {
            Ok(text) => Input::Answer { work, text },
            Err(error) => failed(work, step::failure(&error, step_time)),
        }
    }

    /// A search of the server's own.
    async fn search(self, work: Work, search: SearchRequest, max_candidates: usize) -> Input {
        let kept = &self.kept;
        let composer = &self.composer;
        match composer
            .search_for(kept, &self.model, search, max_candidates)
            .await
        {
            Ok(pictures) => Input::Found { work, pictures },
            Err(reason) => failed(work, reason),
        }
    }

    /// A search of the client's.
    async fn hear_client(self, work: Work, answer: oneshot::Receiver<Vec<Picture>>) -> Input {
        let limit = self.settings().client_time;
        match timeout(limit, answer).await {
            Ok(Ok(pictures)) => {
                metrics::searched("CLIENT");
                Input::Found { work, pictures }
            }
            Ok(Err(_)) | Err(_) => {
                metrics::searched("CLIENT_SILENT");
                let seconds = limit.as_secs_f32();
                let reason = format!("the client sent no pictures within {seconds} s");
                failed(work, reason)
            }
        }
    }
}

fn failed(work: Work, reason: String) -> Input {
    tracing::warn!(?work, reason, "a step of a composition came to nothing");
    Input::Failed { work, reason }
}

/// What a step is called in logs and by workers.
fn step_id(request_id: &str, work: Work) -> String {
    match work {
        Work::Article => format!("{request_id}.article"),
        Work::Places => format!("{request_id}.places"),
        Work::Caption { place } => format!("{request_id}.caption-{place}"),
        Work::Search { place } => format!("{request_id}.search-{place}"),
        Work::Choice { place } => format!("{request_id}.choice-{place}"),
    }
}

/// The article's text as the procedure takes it.
fn writing(article: Answering, limit: Duration) -> impl Stream<Item = Input> + Send {
    article.map(move |told| match told {
        Ok(Told::Text(text)) => Input::Text(text),
        Ok(Told::Done { finish, usage }) => Input::TextDone {
            finish,
            usage: Usage {
                prompt_tokens: usage.prompt.prompt_tokens as usize,
                output_tokens: usage.completion_tokens as usize,
            },
        },
        Err(error) => failed(Work::Article, step::failure(&error, limit)),
    })
}

impl Driver {
    /// A composition whose first step runs.
    pub(super) fn new(stand: Stand, composition: Composition, article: Answering) -> Self {
        let limit = stand.settings().article_time;
        let mut driver = Self {
            stand,
            composition: Some(composition),
            runs: SelectAll::new(),
            handles: HashMap::new(),
            began: Instant::now(),
            is_cut: false,
        };
        driver.run(Work::Article, writing(article, limit));
        driver
    }

    /// Runs until the last event is told.
    pub(super) async fn drive(mut self) {
        let cancel = self.stand.kept.cancel.clone();
        while self.stand.kept.is_composing() {
            let input = tokio::select! {
                biased;
                () = cancel.cancelled(), if !self.is_cut => None,
                input = self.runs.next() => input,
            };
            let input = match input {
                Some(input) => input,
                // Nothing runs and nothing was told: the procedure does not do that, and a composition ends all the same.
                None if self.is_cut => break,
                None => {
                    self.is_cut = true;
                    Input::Cancel
                }
            };
            if let Err(error) = self.take(input).await {
                tracing::error!(%error, "a composition is lost");
                break;
            }
        }
    }

    async fn take(&mut self, input: Input) -> Result<(), RequestError> {
        let Some(mut composition) = self.composition.take() else {
            return Err(RequestError::Internal("the composition is gone".into()));
        };
        let effects = match input {
            // There is nothing to measure but at the end, and there are many.
            Input::Text(_) => {
                let effects = composition.apply(input, &self.stand.meter());
                self.composition = Some(composition);
                effects
            }
            input => {
                let (composition, effects) = self.stand.apply(composition, input).await?;
                self.composition = Some(composition);
                effects
            }
        };
        self.perform(effects);
        Ok(())
    }

    /// Starts and ends what the procedure says, and tells what it tells last: who reads of a search can answer it.
    fn perform(&mut self, effects: Vec<Effect>) {
        let mut events = vec![];
        for effect in effects {
            match effect {
                Effect::Emit(event) => events.push(event),
                Effect::Generate { work, generation } => {
                    let answer = self.stand.clone().answer(work, *generation);
                    self.run(work, stream::once(answer));
                }
                Effect::Search {
                    work,
                    search,
                    max_candidates,
                } => self.search(work, search, max_candidates),
                Effect::Cancel(work) => {
                    if let Some(handle) = self.handles.remove(&work) {
                        handle.abort();
                    }
                }
            }
        }
        self.stand.kept.tell(events);
    }

    fn search(&mut self, work: Work, search: SearchRequest, max_candidates: usize) {
        let stand = self.stand.clone();
        match (work, stand.kept.source) {
            (Work::Search { place }, WantedSource::Client) => {
                let answer = stand.kept.want(place);
                self.run(work, stream::once(stand.hear_client(work, answer)));
            }
            _ => self.run(
                work,
                stream::once(stand.search(work, search, max_candidates)),
            ),
        }
    }

    fn run(&mut self, work: Work, inputs: impl Stream<Item = Input> + Send + 'static) {
        let (inputs, handle) = stream::abortable(inputs);
        self.handles.insert(work, handle);
        self.runs.push(inputs.boxed());
    }
}

impl Drop for Driver {
    /// The end, however it came: readers are told, and the article is kept no longer than others.
    fn drop(&mut self) {
        let kept = &self.stand.kept;
        if kept.is_composing() {
            let error = ComposeError::Failed {
                reason: "the composition was lost by a fault of the server".into(),
            };
            kept.tell([Numbered {
                sequence: kept.num_events(),
                event: Event::Error {
                    stage: Stage::Article,
                    error,
                },
            }]);
        }
        let took = self.began.elapsed();
        let outcome = metrics::composed(kept.last_event().as_ref(), self.is_cut, took);
        let seconds = took.as_secs_f32();
        tracing::info!(article = kept.id.0, outcome, seconds, "composition over");
        self.stand.composer.ended(&kept.id);
    }
}
