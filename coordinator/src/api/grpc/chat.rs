//! `inkstone.v1.ChatService`.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use futures::{Stream, StreamExt};
use inkstone_proto::v1 as wire;
use tonic::{Code, Request, Response, Status, metadata::MetadataMap};
use uuid::Uuid;

use super::{chat_request, deadline::Deadline};
use crate::{
    api::error::to_status,
    error::RequestError,
    request::{
        AnswerEnd, ChatEvent, FinishReason, Receipt, Usage, dispatcher::Dispatcher,
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

    async fn start(
        &self,
        message: wire::ChatRequest,
        call: &CallContext,
    ) -> Result<EventStream, RequestError> {
        let mut request = chat_request::parse(message, &self.dispatcher.limits)?;
        request.request_id.clone_from(&call.request_id);
        request.tenant = call.tenant.clone();
        request.deadline = call.deadline.map(|deadline| deadline.0);
        self.dispatcher.start(request).await
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
        let started = self.start(message, &call).await;
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
            is_named: false,
            receipt: None,
        }))
    }
}

/// The events of a request as they go over the wire. The call's trailing metadata says where the request went in the end.
pub(crate) struct ChatStream {
    /// Taken out already.
    first: Option<Result<(u64, ChatEvent), RequestError>>,
    events: EventStream,
    request_id: String,
    /// The client was told the id.
    is_named: bool,
    /// For the trailing metadata, from the last event on.
    receipt: Option<Receipt>,
}

impl Stream for ChatStream {
    type Item = Result<wire::ChatResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let item = match self.first.take() {
            Some(first) => Some(first),
            None => ready!(self.events.poll_next_unpin(context)),
        };
        Poll::Ready(match item {
            Some(Ok((seq, event))) => {
                let request_id = match std::mem::replace(&mut self.is_named, true) {
                    false => self.request_id.clone(),
                    true => String::new(),
                };
                if let ChatEvent::Finished { receipt, .. } = &event {
                    self.receipt = Some(receipt.clone());
                }
                Some(Ok(wire::ChatResponse {
                    request_id,
                    seq,
                    event: Some(event_to_wire(event)),
                }))
            }
            Some(Err(error)) => Some(Err(to_status(&error, &self.request_id))),
            // A status that is well ends a stream with its metadata.
            None => self.receipt.take().map(|receipt| Err(trailer(&receipt))),
        })
    }
}

/// The good end of a call, with what the last event's sender knows of where the request went.
fn trailer(receipt: &Receipt) -> Status {
    let mut metadata = MetadataMap::new();
    let mut tell = |key: &'static str, value: String| {
        // Names of groups that are no ASCII text are left out.
        if let Ok(value) = value.parse() {
            metadata.insert(key, value);
        }
    };
    tell("inkstone-group", receipt.group.to_string());
    tell("inkstone-epoch", receipt.epoch.to_string());
    tell("inkstone-moves", receipt.num_moves.to_string());
    let predicted = receipt.predicted_cached_tokens;
    tell("inkstone-predicted-cached-tokens", predicted.to_string());
    tell("inkstone-cached-tokens", receipt.cached_tokens.to_string());
    Status::with_metadata(Code::Ok, "", metadata)
}

/// The caller's id, or one of ours.
pub(super) fn request_id(given: String) -> Result<String, RequestError> {
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

fn event_to_wire(event: ChatEvent) -> wire::chat_response::Event {
    use wire::chat_response::Event;
    match event {
        ChatEvent::Started {
            model,
            prompt,
            cached_tokens,
            receipt,
        } => Event::Started(wire::Started {
            model,
            prompt_tokens: prompt.prompt_tokens,
            picture_tokens: prompt.picture_tokens,
            cached_prompt_tokens: cached_tokens,
            routing: Some(receipt_to_wire(receipt)),
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
        ChatEvent::Finished { end, usage, .. } => {
            let (reason, stop_string) = end_to_wire(end);
            Event::Finished(wire::Finished {
                reason,
                stop_string,
                usage: Some(usage_to_wire(usage)),
            })
        }
    }
}

fn receipt_to_wire(receipt: Receipt) -> wire::RoutingReceipt {
    wire::RoutingReceipt {
        group: receipt.group.as_str().to_owned(),
        epoch: receipt.epoch.0,
        predicted_cached_tokens: receipt.predicted_cached_tokens,
        cached_tokens: receipt.cached_tokens,
        moves: receipt.num_moves,
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
