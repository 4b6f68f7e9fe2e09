//! Drives one request: does the work that takes long, and watches for the client, the deadline, a reader that stopped
//! reading, and the end of the coordinator. Once a language group runs the request, its words go past this task to the
//! reader. Dropping the work, and the request's state coming to its end, end what runs elsewhere.

use std::sync::Arc;

use futures::{FutureExt, future::BoxFuture};
use inkstone_cluster::Epoch;
use tokio::time::{Instant, sleep_until};

use super::{
    ChatRequest, Content, PromptSize,
    answers::Answers,
    detokenise::Answer,
    dispatcher::Dispatcher,
    event_stream::{EventStream, FailureContext, Steering, Task, event_stream},
    lifecycle::{Attempt, Event},
    pictures::{self, KeptPictures, Picture, PutOptions},
    render::{self, ReadyPrompt},
};
use crate::{
    admission::Place,
    cluster_view::{Patience, Placed},
    error::RequestError,
    model::ServedModel,
    worker_client::{Generation, WorkerError},
};

/// One request and what it needs.
pub(super) struct Run {
    asked: Asked,
    steering: Steering,
}

/// What is asked of whom.
struct Asked {
    dispatcher: Arc<Dispatcher>,
    model: Arc<ServedModel>,
    request: ChatRequest,
    place: Arc<Place>,
    /// The request's pictures, once it is rendered.
    pictures: KeptPictures,
}

/// A prompt, and the pictures in it.
type Rendered = (ReadyPrompt, Arc<[Picture]>);

/// What is going on for the request elsewhere, that its task waits for.
enum Work {
    Nothing,
    Rendering(BoxFuture<'static, Result<Rendered, RequestError>>),
    PuttingAgain(BoxFuture<'static, Result<ReadyPrompt, RequestError>>),
    Opening(BoxFuture<'static, Result<Placed, WorkerError>>),
}

/// What came of it.
enum Done {
    Rendered(Result<Rendered, RequestError>),
    PutAgain(Result<ReadyPrompt, RequestError>),
    Opened(Result<Placed, WorkerError>),
}

impl Run {
    /// The request's task, and the events that its client reads.
    pub(super) fn new(
        dispatcher: Arc<Dispatcher>,
        model: Arc<ServedModel>,
        request: ChatRequest,
        place: Arc<Place>,
    ) -> (Self, EventStream) {
        let failures = FailureContext {
            retry_after: dispatcher.timeouts.retry_after,
            unchecked_field: request.unchecked_field(),
        };
        let max_moves = dispatcher.limits.max_moves;
        let asked = Asked {
            dispatcher,
            model,
            request,
            place,
            pictures: KeptPictures::None,
        };
        let name = asked.model.description.name.clone();
        let (steering, events) = event_stream(name, asked.answers(), failures, max_moves);
        (Self { asked, steering }, events)
    }

    /// Runs until the request reaches a final state.
    pub(super) async fn drive(self) {
        let Self {
            mut asked,
            steering,
        } = self;
        match &asked.request.content {
            Content::Chat { messages, .. } => {
                tracing::info!(num_messages = messages.len(), "request admitted");
            }
            Content::Composition(_) => tracing::info!("step of a composition admitted"),
        }
        let dispatcher = asked.dispatcher.clone();
        let ending = ending(&steering, &dispatcher, asked.request.deadline);
        tokio::pin!(ending);
        let mut work = Work::Nothing;
        while !steering.is_over() {
            if let Some(task) = steering.take_work() {
                work = asked.begin(task, steering.lost_since());
            }
            tokio::select! {
                // What ends the request goes before its progress.
                biased;
                event = &mut ending => steering.apply(event),
                () = steering.turn() => {
                    if steering.has_tokens() {
                        asked.pictures.keep(&dispatcher.picture_room);
                    }
                }
                done = work.next() => {
                    work = Work::Nothing;
                    match done {
                        Done::Rendered(Ok((prompt, pictures))) => {
                            asked.place.rendered(prompt.size);
                            asked.pictures = KeptPictures::of(pictures);
                            // All that is needed of them is in the prompt now.
                            asked.request.content.let_go();
                            steering.apply(Event::Rendered(prompt));
                        }
                        Done::PutAgain(Ok(prompt)) => steering.apply(Event::Rendered(prompt)),
                        Done::Rendered(Err(error)) | Done::PutAgain(Err(error)) => {
                            steering.apply(Event::Failed(error));
                        }
                        Done::Opened(Ok(placed)) => {
                            tracing::info!(group = %placed.group, epoch = %placed.epoch, "request taken on");
                            steering.run(placed);
                        }
                        Done::Opened(Err(error)) => steering.refuse(error),
                    }
                }
            }
        }
        steering.measure();
    }
}

/// What ends the request from outside.
async fn ending(steering: &Steering, dispatcher: &Dispatcher, deadline: Option<Instant>) -> Event {
    let timeouts = &dispatcher.timeouts;
    let deadline_passed = async {
        match deadline {
            Some(deadline) => sleep_until(deadline).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        biased;
        () = steering.reader_gone() => Event::ClientGone,
        () = deadline_passed => Event::Failed(RequestError::DeadlineExceeded),
        () = dispatcher.cut() => Event::Failed(RequestError::ShuttingDown {
            retry_after: timeouts.retry_after,
        }),
        () = steering.reader_stalled(timeouts.reader_stall) => {
            Event::Failed(RequestError::ReaderTooSlow { stalled: timeouts.reader_stall })
        }
    }
}

impl Asked {
    fn answers(&self) -> Answers {
        let stop = &self.request.stop;
        let decoder = self.model.tokenizer.stream_decoder();
        let blank = Answer::new(decoder, stop.stop_strings.clone(), self.stop_token_ids());
        Answers::new(self.request.answers, self.request.logprobs, blank)
    }

    fn stop_token_ids(&self) -> Arc<[u32]> {
        if self.request.stop.ignore_eos {
            Arc::default()
        } else {
            self.model.stop_token_ids.clone()
        }
    }

    /// Begins what is to be done. `lost` is since when the request has been without a group, if it was running.
    fn begin(&self, task: Task, lost: Option<Instant>) -> Work {
        let patience = self.patience(lost);
        match task {
            Task::Render => Work::Rendering(self.render(patience).boxed()),
            Task::PutPictures(prompt) => {
                Work::PuttingAgain(self.put_again(prompt, patience).boxed())
            }
            Task::Generate(attempt) => {
                let PromptSize {
                    prompt_tokens,
                    picture_tokens,
                } = attempt.prompt.size;
                if attempt.is_move {
                    let num_resumed: usize =
                        attempt.resumed.iter().map(|answer| answer.ids.len()).sum();
                    tracing::warn!(
                        prompt_tokens,
                        num_resumed,
                        "what ran the request is lost, it goes elsewhere"
                    );
                } else {
                    tracing::info!(prompt_tokens, picture_tokens, "prompt rendered");
                }
                Work::Opening(self.generate(attempt, patience).boxed())
            }
        }
    }

    fn patience(&self, lost: Option<Instant>) -> Patience {
        let timeouts = &self.dispatcher.timeouts;
        match lost {
            Some(lost) => Patience::of_moved(lost + timeouts.recovery),
            None => Patience::of_new(Instant::now() + timeouts.first_group),
        }
    }

    /// Tokenises, puts the pictures and joins the two.
    fn render(
        &self,
        patience: Patience,
    ) -> impl Future<Output = Result<(ReadyPrompt, Arc<[Picture]>), RequestError>> + 'static {
        let (dispatcher, model) = (self.dispatcher.clone(), self.model.clone());
        let request = self.request.clone();
        async move {
            let (thread_model, thread_request) = (model.clone(), request.clone());
            let tokenised = tokio::task::spawn_blocking(move || {
                let parts = render::tokenise(&thread_model, &thread_request)?;
                let pictures = match &thread_request.content {
                    Content::Chat { messages, .. } => pictures::collect(messages),
                    Content::Composition(composed) => pictures::of_known(&composed.pictures),
                };
                Ok::<_, RequestError>((parts, pictures))
            });
            let (parts, pictures) = tokenised
                .await
                .map_err(|error| RequestError::Internal(format!("rendering: {error}")))??;
            let placed = match &request.content {
                Content::Chat { .. } => {
                    let options =
                        put_options(&dispatcher, &model, &request, pictures.len(), patience);
                    pictures::put_all(&dispatcher.cluster, &model, &pictures, options).await?
                }
                Content::Composition(composed) => {
                    let known = composed.pictures.iter();
                    known.map(|picture| picture.placed()).collect()
                }
            };
            let prompt = render::assemble(&model, parts, &placed, request.stop.max_tokens)?;
            Ok((prompt, pictures))
        }
    }

    /// Puts the pictures of a prompt again.
    fn put_again(
        &self,
        prompt: ReadyPrompt,
        patience: Patience,
    ) -> impl Future<Output = Result<ReadyPrompt, RequestError>> + 'static {
        let (dispatcher, model) = (self.dispatcher.clone(), self.model.clone());
        let request = self.request.clone();
        let pictures = self.pictures.get();
        async move {
            let retry_after = dispatcher.timeouts.retry_after;
            let pictures = pictures.ok_or_else(|| RequestError::VisionUnavailable {
                message: "the pictures of the prompt were lost, and there was no room to keep them"
                    .into(),
                retry_after,
            })?;
            let options = put_options(&dispatcher, &model, &request, pictures.len(), patience);
            let cluster = &dispatcher.cluster;
            let placed = pictures::put_again(cluster, &model, &pictures, options).await?;
            prompt.with_pictures(&placed)
        }
    }

    /// Asks a language group to run the prompt.
    fn generate(
        &self,
        attempt: Attempt,
        patience: Patience,
    ) -> impl Future<Output = Result<Placed, WorkerError>> + 'static {
        let (dispatcher, model) = (self.dispatcher.clone(), self.model.clone());
        let request = &self.request;
        let prompt = attempt.prompt;
        let mut sampling = request.sampling.clone();
        sampling.min_new_tokens = request.stop.min_tokens.min(prompt.max_new_tokens);
        let generation = Generation {
            request_id: request.request_id.clone(),
            epoch: Epoch(0),
            prompt: prompt.pieces,
            sampling,
            decoding: request.answers.decoding(),
            max_new_tokens: prompt.max_new_tokens,
            stop_token_ids: self.stop_token_ids().to_vec(),
            priority: request.priority,
            cache_salt: request.tenant.clone(),
            prompt_logprobs: request.prompt_logprobs && !attempt.skip_prompt_logprobs,
            resumed: attempt.resumed,
            first_in_line: attempt.is_move,
            place: Arc::downgrade(&self.place),
        };
        async move {
            let cluster = &dispatcher.cluster;
            cluster.generate(&model, &generation, patience).await
        }
    }
}

fn put_options(
    dispatcher: &Dispatcher,
    model: &ServedModel,
    request: &ChatRequest,
    num_pictures: usize,
    patience: Patience,
) -> PutOptions {
    let geometry = &model.description.picture;
    PutOptions {
        hd_num: match &request.content {
            Content::Chat { layout, .. } if geometry.hd.is_some() => {
                geometry.hd_num(layout.hd_num, num_pictures)
            }
            Content::Chat { .. } => 0,
            Content::Composition(_) => pictures::composed_hd_num(geometry),
        },
        encode_soon: false,
        deadline: request.deadline,
        patience,
        retry_after: dispatcher.timeouts.retry_after,
    }
}

impl Work {
    /// What comes of the work. May be dropped and called again, until it is done.
    async fn next(&mut self) -> Done {
        match self {
            Self::Nothing => std::future::pending().await,
            Self::Rendering(rendered) => Done::Rendered(rendered.await),
            Self::PuttingAgain(put) => Done::PutAgain(put.await),
            Self::Opening(opened) => Done::Opened(opened.await),
        }
    }
}
