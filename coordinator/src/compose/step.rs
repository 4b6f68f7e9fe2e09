//! A step of a composition as a request like any other: admitted, routed, journaled and moved like those of chats. Steps in the
//! middle of something come again when they are sent away, for a bounded time.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures::{Stream, StreamExt};
use inkstone_composition::{Constraint, Generation, procedure::FinishReason};
use tokio::time::{Instant, sleep};

use super::metrics::StepKind;
use crate::{
    article_error::ArticleError,
    error::RequestError,
    request::{
        self, AnswerPlan, ChatEvent, ChatRequest, ComposedPrompt, Content, StopRule, Usage,
        dispatcher::Dispatcher, event_stream::EventStream, pictures::KnownPicture,
    },
    worker_client::{self, Beam, Priority, Sampling},
};

/// On whose behalf a step runs, and how.
#[derive(Debug, Clone)]
pub(super) struct StepCaller {
    pub(super) tenant: Bytes,
    /// Names the step in logs.
    pub(super) request_id: String,
    pub(super) deadline: Option<Instant>,
    /// It goes on with what was begun before.
    pub(super) goes_on: bool,
}

/// The request that runs a generation. `pictures` has one for each slot of its prompt.
pub(super) fn request(
    generation: Generation,
    pictures: Arc<[Arc<KnownPicture>]>,
    caller: StepCaller,
) -> ChatRequest {
    let Generation {
        prompt,
        sampling,
        seed,
        num_beams,
        max_new_tokens,
        constraint,
        stop_strings,
    } = generation;
    let answers = match num_beams {
        0 | 1 => AnswerPlan::All { num_answers: 1 },
        width => AnswerPlan::Beam(Beam {
            width,
            num_answers: 1,
            length_penalty: 1.0,
            early_stopping: false,
        }),
    };
    ChatRequest {
        request_id: caller.request_id,
        model: String::new(),
        content: Content::Composition(ComposedPrompt {
            prompt: Arc::new(prompt),
            pictures,
            goes_on: caller.goes_on,
        }),
        sampling: Sampling {
            temperature: match answers {
                // Beams are not drawn.
                AnswerPlan::Beam(_) => 0.0,
                AnswerPlan::All { .. } | AnswerPlan::Best { .. } => sampling.temperature,
            },
            top_k: sampling.top_k,
            top_p: sampling.top_p,
            min_p: 0.0,
            repetition_penalty: sampling.repetition_penalty,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            seed,
            logit_bias: vec![],
            min_new_tokens: 0,
            num_logprobs: None,
            constraint: constraint.map(|constraint| match constraint {
                Constraint::Regex(regex) => worker_client::Constraint::Regex(regex),
            }),
        },
        answers,
        stop: StopRule {
            max_tokens: u32::try_from(max_new_tokens).unwrap_or(u32::MAX).max(1),
            stop_strings,
            ignore_eos: false,
            min_tokens: 0,
        },
        logprobs: false,
        prompt_logprobs: false,
        priority: Priority::Interactive,
        tenant: caller.tenant,
        deadline: caller.deadline,
    }
}

/// A step that a group runs: its text as it comes, then how it ended, or an error.
pub(super) struct Answering {
    first: Option<Result<(u64, ChatEvent), RequestError>>,
    events: EventStream,
    /// An answer that comes in one piece is told in one.
    in_one_piece: Option<String>,
    /// What follows that piece.
    done: Option<Told>,
    began: Instant,
    kind: StepKind,
}

/// What an answer brings.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Told {
    /// Never empty.
    Text(String),
    /// Last.
    Done { finish: FinishReason, usage: Usage },
}

/// Starts a step; returns when a group runs it, with what kept it from running as the error.
pub(super) async fn begin(
    dispatcher: &Arc<Dispatcher>,
    request: ChatRequest,
    kind: StepKind,
) -> Result<Answering, RequestError> {
    let began = Instant::now();
    let in_one_piece = matches!(request.answers, AnswerPlan::Beam(_)).then(String::new);
    let mut events = dispatcher.start(request).await?;
    let first = match events.next().await {
        Some(Err(error)) => return Err(error),
        first => first,
    };
    Ok(Answering {
        first,
        events,
        in_one_piece,
        done: None,
        began,
        kind,
    })
}

/// The whole answer of a step. Where the cluster says when to come again, it comes again, as long as `patience` lasts.
pub(super) async fn answer_patiently(
    dispatcher: &Arc<Dispatcher>,
    request: ChatRequest,
    kind: StepKind,
    patience: Duration,
) -> Result<String, RequestError> {
    let give_up = Instant::now() + patience;
    loop {
        let error = match answer(dispatcher, request.clone(), kind).await {
            Err(error) => error,
            answer => return answer,
        };
        let left = give_up.saturating_duration_since(Instant::now());
        match comes_again(&error) {
            Some(wait) if !left.is_zero() => {
                tracing::info!(%error, "a step was sent away and comes again");
                kind.count_again();
                // The last time at the end of all patience.
                sleep(wait.min(left)).await;
            }
            _ => return Err(error),
        }
    }
}

/// The whole answer of a step.
pub(super) async fn answer(
    dispatcher: &Arc<Dispatcher>,
    request: ChatRequest,
    kind: StepKind,
) -> Result<String, RequestError> {
    let mut answering = begin(dispatcher, request, kind).await?;
    let mut text = String::new();
    while let Some(told) = answering.next().await {
        match told? {
            Told::Text(more) => text.push_str(&more),
            Told::Done { .. } => return Ok(text),
        }
    }
    Err(RequestError::Internal(
        "a step's answer ended without its end".into(),
    ))
}

/// When a request that was not answered is worth another try.
fn comes_again(error: &RequestError) -> Option<Duration> {
    match error {
        RequestError::Overloaded { retry_after, .. }
        | RequestError::ClusterFull { retry_after, .. }
        | RequestError::LanguageUnavailable { retry_after, .. }
        | RequestError::RecoveryFailed { retry_after, .. }
        | RequestError::VisionUnavailable { retry_after, .. } => Some(*retry_after),
        RequestError::Invalid(_)
        | RequestError::PromptTooLong { .. }
        | RequestError::PictureRefused(_)
        | RequestError::ModelNotFound { .. }
        | RequestError::Starting { .. }
        | RequestError::ShuttingDown { .. }
        | RequestError::DeadlineExceeded
        | RequestError::ReaderTooSlow { .. }
        | RequestError::Cluster(_)
        | RequestError::Article(_)
        | RequestError::Internal(_) => None,
    }
}

/// Why a step came to nothing, for the events of its composition.
pub(super) fn failure(error: &RequestError, limit: Duration) -> String {
    match error {
        RequestError::DeadlineExceeded => {
            format!("it took longer than {} s", limit.as_secs_f32())
        }
        RequestError::Article(ArticleError::Full { full, .. }) => full.to_string(),
        error => error.to_string(),
    }
}

impl Stream for Answering {
    type Item = Result<Told, RequestError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Some(done) = self.done.take() {
            return Poll::Ready(Some(Ok(done)));
        }
        loop {
            let event = match self.first.take() {
                Some(first) => Some(first),
                None => std::task::ready!(self.events.poll_next_unpin(context)),
            };
            let told = match event {
                Some(Ok((_, event))) => self.hear(event),
                Some(Err(error)) => Some(Err(error)),
                None => return Poll::Ready(None),
            };
            if told.is_some() {
                return Poll::Ready(told);
            }
        }
    }
}

impl Answering {
    fn hear(&mut self, event: ChatEvent) -> Option<Result<Told, RequestError>> {
        match event {
            ChatEvent::Delta(delta) if delta.text.is_empty() => None,
            ChatEvent::Delta(delta) => match &mut self.in_one_piece {
                Some(text) => {
                    text.push_str(&delta.text);
                    None
                }
                None => Some(Ok(Told::Text(delta.text))),
            },
            ChatEvent::Finished { end, usage, .. } => {
                let finish = match end.reason {
                    request::FinishReason::Stop => FinishReason::Stop,
                    request::FinishReason::Length => FinishReason::Length,
                };
                self.kind.measure(self.began.elapsed());
                let done = Told::Done { finish, usage };
                match self.in_one_piece.take().filter(|text| !text.is_empty()) {
                    Some(text) => {
                        self.done = Some(done);
                        Some(Ok(Told::Text(text)))
                    }
                    None => Some(Ok(done)),
                }
            }
            ChatEvent::Started { .. }
            | ChatEvent::PromptLogprobs { .. }
            | ChatEvent::AnswerFinished { .. } => None,
        }
    }
}
