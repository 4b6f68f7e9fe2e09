//! Drives one request: does what its lifecycle asks for, feeds back what came of it, and watches for the client, the
//! deadline, a reader that stopped reading, and the end of the coordinator. Dropping its work ends what runs elsewhere.

use std::sync::Arc;

use futures::{FutureExt, StreamExt, future::BoxFuture};
use inkstone_cluster::Epoch;
use tokio::time::sleep_until;

use super::{
    ChatEvent, ChatRequest, PromptSize,
    detokenise::Answer,
    dispatcher::Dispatcher,
    event_queue::EventSender,
    lifecycle::{Effect, Event, Lifecycle},
    pictures::{self, PutOptions},
    render::{self, ReadyPrompt},
};
use crate::{
    error::RequestError,
    model::ServedModel,
    telemetry::RequestMeter,
    worker_client::{Generation, GenerationEvent, GenerationStream, WorkerError},
};

/// One request and what it needs.
pub(super) struct Run {
    dispatcher: Arc<Dispatcher>,
    model: Arc<ServedModel>,
    request: ChatRequest,
    events: EventSender,
    work: Work,
    meter: RequestMeter,
}

/// What is going on for the request elsewhere.
enum Work {
    Nothing,
    Rendering(BoxFuture<'static, Result<ReadyPrompt, RequestError>>),
    Opening(BoxFuture<'static, Result<GenerationStream, WorkerError>>),
    Generating(GenerationStream),
}

impl Run {
    pub(super) fn new(
        dispatcher: Arc<Dispatcher>,
        model: Arc<ServedModel>,
        request: ChatRequest,
        events: EventSender,
    ) -> Self {
        Self {
            dispatcher,
            model,
            request,
            events,
            work: Work::Nothing,
            meter: RequestMeter::start(),
        }
    }

    /// Runs until the request reaches a final state.
    pub(super) async fn drive(mut self) {
        tracing::info!(
            num_messages = self.request.messages.len(),
            "request admitted"
        );
        let (mut state, mut effects) = Lifecycle::admit(self.new_answer());
        loop {
            for effect in effects {
                self.perform(effect);
            }
            if state.is_final() {
                break;
            }
            let event = self.next_event().await;
            (state, effects) = state.apply(event, &self.model.description.name);
        }
        self.meter.end(&state);
    }

    fn new_answer(&self) -> Answer {
        let stop = &self.request.stop;
        let decoder = self.model.tokenizer.stream_decoder();
        Answer::new(decoder, stop.stop_strings.clone(), self.stop_token_ids())
    }

    fn stop_token_ids(&self) -> Arc<[u32]> {
        if self.request.stop.ignore_eos {
            Arc::default()
        } else {
            self.model.stop_token_ids.clone()
        }
    }

    async fn next_event(&mut self) -> Event {
        let timeouts = &self.dispatcher.timeouts;
        let deadline = self.request.deadline;
        let deadline_passed = async move {
            match deadline {
                Some(deadline) => sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        let event = tokio::select! {
            // What ends the request goes before its progress.
            biased;
            () = self.events.reader_gone() => Event::ClientGone,
            () = deadline_passed => Event::Failed(RequestError::DeadlineExceeded),
            () = self.dispatcher.cut() => Event::Failed(RequestError::ShuttingDown {
                retry_after: timeouts.retry_after,
            }),
            () = self.events.reader_stalled(timeouts.reader_stall) => {
                Event::Failed(RequestError::ReaderTooSlow { stalled: timeouts.reader_stall })
            }
            event = self.work.next(timeouts.retry_after) => event,
        };
        self.note(&event);
        event
    }

    fn note(&mut self, event: &Event) {
        if let Event::Generation(GenerationEvent::Tokens { ids, .. }) = event {
            self.meter.tokens(ids.len());
            // From the first token on the pictures are not needed again.
            self.request.messages = Arc::default();
        }
    }

    fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::Render => self.work = Work::Rendering(self.render().boxed()),
            Effect::Generate(prompt) => {
                let PromptSize {
                    prompt_tokens,
                    picture_tokens,
                } = prompt.size;
                tracing::info!(prompt_tokens, picture_tokens, "prompt rendered");
                self.work = Work::Opening(self.generate(prompt).boxed());
            }
            Effect::Emit(event) => self.emit(event),
            Effect::Fail(error) => self.events.fail(error),
        }
    }

    fn emit(&self, event: ChatEvent) {
        if let ChatEvent::Started { prompt, .. } = &event {
            self.meter.prompt(*prompt);
        }
        self.events.push(event);
    }

    /// Tokenises, puts the pictures and joins the two.
    fn render(&self) -> impl Future<Output = Result<ReadyPrompt, RequestError>> + 'static {
        let (dispatcher, model) = (self.dispatcher.clone(), self.model.clone());
        let request = self.request.clone();
        async move {
            let (thread_model, thread_request) = (model.clone(), request.clone());
            let tokenised = tokio::task::spawn_blocking(move || {
                let parts = render::tokenise(&thread_model, &thread_request)?;
                Ok((parts, pictures::collect(&thread_request.messages)))
            });
            let (parts, pictures) = tokenised
                .await
                .map_err(|error| RequestError::Internal(format!("rendering: {error}")))??;
            let geometry = &model.description.picture;
            let options = PutOptions {
                hd_num: match geometry.hd {
                    Some(_) => geometry.hd_num(request.layout.hd_num, pictures.len()),
                    None => 0,
                },
                deadline: request.deadline,
                retry_after: dispatcher.timeouts.retry_after,
            };
            let placed = pictures::put_all(&dispatcher.cluster, &model, &pictures, options).await?;
            render::assemble(&model, parts, &placed, request.stop.max_tokens)
        }
    }

    /// Asks a language group to run the prompt.
    fn generate(
        &self,
        prompt: ReadyPrompt,
    ) -> impl Future<Output = Result<GenerationStream, WorkerError>> + 'static {
        let (dispatcher, model) = (self.dispatcher.clone(), self.model.clone());
        let generation = Generation {
            request_id: self.request.request_id.clone(),
            epoch: Epoch(0),
            prompt: prompt.pieces,
            sampling: self.request.sampling,
            max_new_tokens: prompt.max_new_tokens,
            stop_token_ids: self.stop_token_ids().to_vec(),
            deadline: self.request.deadline,
        };
        async move { dispatcher.cluster.generate(&model, &generation).await }
    }
}

impl Work {
    /// What comes of the work next. May be dropped and called again.
    async fn next(&mut self, retry_after: std::time::Duration) -> Event {
        let failed = |error| match error {
            WorkerError::FeaturesMissing => {
                Event::FeaturesMissing(RequestError::from_language(error, retry_after))
            }
            _ => Event::Failed(RequestError::from_language(error, retry_after)),
        };
        match self {
            Self::Nothing => std::future::pending().await,
            Self::Rendering(rendered) => {
                let rendered = rendered.await;
                *self = Self::Nothing;
                rendered.map_or_else(Event::Failed, Event::Rendered)
            }
            Self::Opening(opened) => match opened.await {
                Ok(events) => {
                    *self = Self::Generating(events);
                    Event::Accepted
                }
                Err(error) => {
                    *self = Self::Nothing;
                    failed(error)
                }
            },
            Self::Generating(events) => match events.next().await {
                Some(Ok(event)) => Event::Generation(event),
                Some(Err(error)) => failed(error),
                None => failed(WorkerError::Unavailable(
                    "the leader closed the stream before the end".into(),
                )),
            },
        }
    }
}
