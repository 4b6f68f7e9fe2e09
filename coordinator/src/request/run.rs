//! Drives one request: does the work that takes long, and watches for the client, the deadline, a reader that stopped
//! reading, and the end of the coordinator. Once a language group runs the request, its words go past this task to the
//! reader. Dropping the work, and the request's state coming to its end, end what runs elsewhere.

use std::sync::Arc;

use futures::{FutureExt, future::BoxFuture};
use inkstone_cluster::Epoch;
use tokio::time::{Instant, sleep_until};

use super::{
    ChatRequest, PromptSize,
    answers::Answers,
    detokenise::Answer,
    dispatcher::Dispatcher,
    event_stream::{EventStream, FailureContext, Steering, Task, event_stream},
    lifecycle::Event,
    pictures::{self, PutOptions},
    render::{self, ReadyPrompt},
};
use crate::{
    error::RequestError,
    model::ServedModel,
    worker_client::{Generation, GenerationStream, WorkerError},
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
}

/// What is going on for the request elsewhere, that its task waits for.
enum Work {
    Nothing,
    Rendering(BoxFuture<'static, Result<ReadyPrompt, RequestError>>),
    Opening(BoxFuture<'static, Result<GenerationStream, WorkerError>>),
}

/// What came of it.
enum Done {
    Rendered(Result<ReadyPrompt, RequestError>),
    Opened(Result<GenerationStream, WorkerError>),
}

impl Run {
    /// The request's task, and the events that its client reads.
    pub(super) fn new(
        dispatcher: Arc<Dispatcher>,
        model: Arc<ServedModel>,
        request: ChatRequest,
    ) -> (Self, EventStream) {
        let failures = FailureContext {
            retry_after: dispatcher.timeouts.retry_after,
            unchecked_field: request.unchecked_field(),
        };
        let asked = Asked {
            dispatcher,
            model,
            request,
        };
        let name = asked.model.description.name.clone();
        let (steering, events) = event_stream(name, asked.answers(), failures);
        (Self { asked, steering }, events)
    }

    /// Runs until the request reaches a final state.
    pub(super) async fn drive(self) {
        let Self {
            mut asked,
            steering,
        } = self;
        tracing::info!(
            num_messages = asked.request.messages.len(),
            "request admitted"
        );
        let dispatcher = asked.dispatcher.clone();
        let ending = ending(&steering, &dispatcher, asked.request.deadline);
        tokio::pin!(ending);
        let mut work = Work::Nothing;
        while !steering.is_over() {
            match steering.take_work() {
                Some(Task::Render) => work = Work::Rendering(asked.render().boxed()),
                Some(Task::Generate(prompt)) => {
                    let PromptSize {
                        prompt_tokens,
                        picture_tokens,
                    } = prompt.size;
                    tracing::info!(prompt_tokens, picture_tokens, "prompt rendered");
                    work = Work::Opening(asked.generate(prompt).boxed());
                }
                None => {}
            }
            tokio::select! {
                // What ends the request goes before its progress.
                biased;
                event = &mut ending => steering.apply(event),
                () = steering.turn() => {
                    if steering.has_tokens() {
                        // From the first token on the pictures are not needed again.
                        asked.request.messages = Arc::default();
                    }
                }
                done = work.next() => {
                    work = Work::Nothing;
                    match done {
                        Done::Rendered(prompt) => {
                            steering.apply(prompt.map_or_else(Event::Failed, Event::Rendered));
                        }
                        Done::Opened(Ok(generation)) => steering.run(generation),
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
        let request = &self.request;
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
            prompt_logprobs: request.prompt_logprobs,
        };
        async move { dispatcher.cluster.generate(&model, &generation).await }
    }
}

impl Work {
    /// What comes of the work. May be dropped and called again, until it is done.
    async fn next(&mut self) -> Done {
        match self {
            Self::Nothing => std::future::pending().await,
            Self::Rendering(rendered) => Done::Rendered(rendered.await),
            Self::Opening(opened) => Done::Opened(opened.await),
        }
    }
}
