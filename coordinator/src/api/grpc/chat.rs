//! `inkstone.v1.ChatService`.

use std::sync::Arc;

use futures::{StreamExt, stream, stream::BoxStream};
use inkstone_proto::v1 as wire;
use tonic::{Request, Response, Status};
use uuid::Uuid;

use super::{chat_request, deadline::Deadline};
use crate::{
    api::error::to_status,
    error::RequestError,
    request::{ChatEvent, FinishReason, Usage, dispatcher::Dispatcher, event_queue::EventReceiver},
    telemetry,
};

/// The service over a dispatcher.
pub(crate) struct ChatService {
    dispatcher: Arc<Dispatcher>,
}

impl ChatService {
    pub(crate) fn new(dispatcher: Arc<Dispatcher>) -> Self {
        Self { dispatcher }
    }

    fn start(
        &self,
        call: wire::ChatRequest,
        request_id: &str,
        deadline: Option<Deadline>,
    ) -> Result<EventReceiver, RequestError> {
        let mut request = chat_request::parse(call, &self.dispatcher.limits)?;
        request_id.clone_into(&mut request.request_id);
        request.deadline = deadline.map(|deadline| deadline.0);
        self.dispatcher.start(request)
    }
}

#[tonic::async_trait]
impl wire::chat_service_server::ChatService for ChatService {
    type ChatStream = BoxStream<'static, Result<wire::ChatResponse, Status>>;

    async fn chat(
        &self,
        call: Request<wire::ChatRequest>,
    ) -> Result<Response<Self::ChatStream>, Status> {
        let deadline = call.extensions().get::<Deadline>().copied();
        let mut call = call.into_inner();
        let request_id = request_id(std::mem::take(&mut call.request_id));
        let request_id = request_id.map_err(|error| refuse(&error, ""))?;
        let started = self.start(call, &request_id, deadline);
        let mut events = started.map_err(|error| refuse(&error, &request_id))?;
        // An error before the first event is the answer to the call, not the end of an empty stream.
        let first = match events.next().await {
            Some(Err(error)) => return Err(to_status(&error, &request_id)),
            first => first,
        };
        let answers = stream::iter(first)
            .chain(events)
            .map(move |item| match item {
                Ok((seq, event)) => Ok(to_wire(&request_id, seq, event)),
                Err(error) => Err(to_status(&error, &request_id)),
            });
        Ok(Response::new(answers.boxed()))
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
    use wire::chat_response::Event;
    let event = match event {
        ChatEvent::Started { model, prompt } => Event::Started(wire::Started {
            model,
            prompt_tokens: prompt.prompt_tokens,
            picture_tokens: prompt.picture_tokens,
        }),
        ChatEvent::Delta { text, token_ids } => Event::Delta(wire::Delta { text, token_ids }),
        ChatEvent::Finished {
            reason,
            stop_string,
            usage,
        } => Event::Finished(wire::Finished {
            reason: match reason {
                FinishReason::Stop => wire::FinishReason::Stop.into(),
                FinishReason::Length => wire::FinishReason::Length.into(),
            },
            stop_string: stop_string.unwrap_or_default(),
            usage: Some(usage_to_wire(usage)),
        }),
    };
    wire::ChatResponse {
        request_id: request_id.to_owned(),
        seq,
        event: Some(event),
    }
}

fn usage_to_wire(usage: Usage) -> wire::Usage {
    wire::Usage {
        prompt_tokens: usage.prompt.prompt_tokens,
        picture_tokens: usage.prompt.picture_tokens,
        completion_tokens: usage.completion_tokens,
    }
}
