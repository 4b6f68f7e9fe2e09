//! `inkstone.v1.ChatService`.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use futures::{Stream, StreamExt};
use inkstone_proto::v1 as wire;
use tonic::{Request, Response, Status};
use uuid::Uuid;

use super::{chat_request, deadline::Deadline};
use crate::{
    api::error::to_status,
    error::RequestError,
    request::{
        AnswerEnd, ChatEvent, FinishReason, Usage, dispatcher::Dispatcher,
        event_stream::EventStream,
    },
    telemetry,
    worker_client::TokenInfo,
};

/// The service over a dispatcher.
pub(crate) struct ChatService {
    dispatcher: Arc<Dispatcher>,
}

/// What a call brings beside its message.
struct CallContext {
    request_id: String,
    tenant: Bytes,
    deadline: Option<Deadline>,
}

impl ChatService {
    pub(crate) fn new(dispatcher: Arc<Dispatcher>) -> Self {
        Self { dispatcher }
    }

    fn start(
        &self,
        message: wire::ChatRequest,
        call: &CallContext,
    ) -> Result<EventStream, RequestError> {
        let mut request = chat_request::parse(message, &self.dispatcher.limits)?;
        request.request_id.clone_from(&call.request_id);
        request.tenant = call.tenant.clone();
        request.deadline = call.deadline.map(|deadline| deadline.0);
        self.dispatcher.start(request)
    }
}

#[tonic::async_trait]
impl wire::chat_service_server::ChatService for ChatService {
    type ChatStream = ChatStream;

    async fn chat(
        &self,
        call: Request<wire::ChatRequest>,
    ) -> Result<Response<Self::ChatStream>, Status> {
        let deadline = call.extensions().get::<Deadline>().copied();
        let tenant = chat_request::tenant(call.metadata());
        let mut message = call.into_inner();
        let request_id = request_id(std::mem::take(&mut message.request_id));
        let request_id = request_id.map_err(|error| refuse(&error, ""))?;
        let tenant = tenant.map_err(|error| refuse(&error, &request_id))?;
        let call = CallContext {
            request_id,
            tenant,
            deadline,
        };
        let started = self.start(message, &call);
        let request_id = call.request_id;
        let mut events = started.map_err(|error| refuse(&error, &request_id))?;
        // An error before the first event is the answer to the call, not the end of an empty stream.
        let first = match events.next().await {
            Some(Err(error)) => return Err(to_status(&error, &request_id)),
            first => first,
        };
        Ok(Response::new(ChatStream {
            first,
            events,
            request_id,
        }))
    }
}

/// The events of a request as they go over the wire.
pub(crate) struct ChatStream {
    /// Taken out already.
    first: Option<Result<(u64, ChatEvent), RequestError>>,
    events: EventStream,
    request_id: String,
}

impl Stream for ChatStream {
    type Item = Result<wire::ChatResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let item = match self.first.take() {
            Some(first) => Poll::Ready(Some(first)),
            None => self.events.poll_next_unpin(context),
        };
        item.map(|item| {
            item.map(|item| match item {
                Ok((seq, event)) => Ok(to_wire(&self.request_id, seq, event)),
                Err(error) => Err(to_status(&error, &self.request_id)),
            })
        })
    }
}

/// The caller's id, or one of ours.
fn request_id(given: String) -> Result<String, RequestError> {
    if given.is_empty() {
        return Ok(Uuid::new_v4().simple().to_string());
    }
    chat_request::check_request_id(&given)?;
    Ok(given)
}

fn refuse(error: &RequestError, request_id: &str) -> Status {
    telemetry::count_refused(error.reason());
    tracing::warn!(request_id, %error, "request refused");
    to_status(error, request_id)
}

fn to_wire(request_id: &str, seq: u64, event: ChatEvent) -> wire::ChatResponse {
    wire::ChatResponse {
        request_id: request_id.to_owned(),
        seq,
        event: Some(event_to_wire(event)),
    }
}

fn event_to_wire(event: ChatEvent) -> wire::chat_response::Event {
    use wire::chat_response::Event;
    match event {
        ChatEvent::Started {
            model,
            prompt,
            cached_tokens,
        } => Event::Started(wire::Started {
            model,
            prompt_tokens: prompt.prompt_tokens,
            picture_tokens: prompt.picture_tokens,
            cached_prompt_tokens: cached_tokens,
        }),
        ChatEvent::PromptLogprobs { first, tokens } => {
            let tokens = logprobs_to_wire(tokens);
            Event::PromptLogprobs(wire::PromptLogprobs { first, tokens })
        }
        ChatEvent::Delta(delta) => Event::Delta(wire::Delta {
            text: delta.text,
            token_ids: delta.token_ids,
            answer: delta.answer,
            logprobs: logprobs_to_wire(delta.logprobs),
        }),
        ChatEvent::AnswerFinished {
            answer,
            end,
            completion_tokens,
            score,
        } => {
            let (reason, stop_string) = end_to_wire(end);
            Event::AnswerFinished(wire::AnswerFinished {
                answer,
                reason,
                stop_string,
                completion_tokens,
                score,
            })
        }
        ChatEvent::Finished { end, usage } => {
            let (reason, stop_string) = end_to_wire(end);
            Event::Finished(wire::Finished {
                reason,
                stop_string,
                usage: Some(usage_to_wire(usage)),
            })
        }
    }
}

/// Reason and stop string.
fn end_to_wire(end: AnswerEnd) -> (i32, String) {
    let reason = match end.reason {
        FinishReason::Stop => wire::FinishReason::Stop,
        FinishReason::Length => wire::FinishReason::Length,
    };
    (reason.into(), end.stop_string.unwrap_or_default())
}

fn logprobs_to_wire(infos: Vec<TokenInfo>) -> Vec<wire::TokenLogprobs> {
    let infos = infos.into_iter().map(|info| {
        let top = info.top.into_iter();
        wire::TokenLogprobs {
            token_id: info.token_id,
            logprob: info.logprob,
            top: top
                .map(|(token_id, logprob)| wire::TopLogprob { token_id, logprob })
                .collect(),
        }
    });
    infos.collect()
}

fn usage_to_wire(usage: Usage) -> wire::Usage {
    wire::Usage {
        prompt_tokens: usage.prompt.prompt_tokens,
        picture_tokens: usage.prompt.picture_tokens,
        completion_tokens: usage.completion_tokens,
        cached_prompt_tokens: usage.cached_tokens,
    }
}
