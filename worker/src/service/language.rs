//! `LanguageService` on a group's leader.

use std::{
    pin::Pin,
    sync::{Arc, RwLock},
};

use futures::Stream;
use inkstone_engine::{EndReason, SubmitError};
use inkstone_proto::worker::v1::{
    self as wire, DescribeLanguageRequest, DescribeLanguageResponse, Ended, GenerateRequest,
    GenerateResponse, Tokens, generate_response::Event, language_service_server::LanguageService,
    prompt_part,
};
use tokio::sync::mpsc;
use tokio_stream::{StreamExt, wrappers::ReceiverStream};
use tonic::{Code, Request, Response, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::{
    executor::{PictureDigest, SequenceSetup},
    feature_fetcher::{FeatureFetcher, FetchError, PromptRef},
    group::{
        leader::{LeaderHandle, RefusedError, SequenceEvent},
        plan_stream::sampling_from_wire,
    },
};

/// Domain of all our error reasons.
const ERROR_DOMAIN: &str = "inkstone";
/// `ErrorInfo` reason that tells the coordinator to put its pictures again, on another vision worker if need be.
const FEATURES_MISSING: &str = "FEATURES_MISSING";

/// See the module's text. Cheap to clone; it answers UNAVAILABLE until the group is there, and while it drains.
#[derive(Clone)]
pub struct LanguageServer {
    stage: Arc<RwLock<Stage>>,
    fetcher: FeatureFetcher,
}

/// A group that serves.
#[derive(Clone)]
pub struct Serving {
    /// What DescribeLanguage answers.
    pub description: DescribeLanguageResponse,
    /// Token ids are below this.
    pub vocab_size: u32,
    /// The way to the engine.
    pub leader: LeaderHandle,
}

enum Stage {
    Loading,
    Serving(Box<Serving>),
    Draining,
}

impl LanguageServer {
    /// Answers that the model is loading.
    pub fn loading() -> Self {
        Self {
            stage: Arc::new(RwLock::new(Stage::Loading)),
            fetcher: FeatureFetcher::default(),
        }
    }

    /// Takes work from now on.
    pub fn start(&self, serving: Serving) {
        *self.stage.write().expect("nobody panics with the stage") =
            Stage::Serving(Box::new(serving));
    }

    /// Takes no new work from now on; what runs goes on.
    pub fn drain(&self) {
        *self.stage.write().expect("nobody panics with the stage") = Stage::Draining;
    }

    fn serving(&self) -> Result<Serving, Status> {
        match &*self.stage.read().expect("nobody panics with the stage") {
            Stage::Serving(serving) => Ok(Serving::clone(serving)),
            Stage::Loading => Err(Status::unavailable(
                "the language group is loading its weights",
            )),
            Stage::Draining => Err(Status::unavailable("the language group is stopping")),
        }
    }

    async fn run(&self, request: GenerateRequest) -> Result<mpsc::Receiver<SequenceEvent>, Status> {
        let Serving {
            description,
            vocab_size,
            leader,
        } = self.serving()?;
        check(&request, description.epoch, vocab_size)?;
        let sampling = request
            .sampling
            .ok_or_else(|| Status::invalid_argument("sampling is not set"))?;
        let sampling = sampling_from_wire(&sampling).map_err(Status::invalid_argument)?;
        let prompt = prompt_from_wire(request.prompt).map_err(Status::invalid_argument)?;
        let prompt = self.fetcher.resolve(prompt).await.map_err(fetch_status)?;
        let setup = SequenceSetup {
            id: leader.new_sequence_id(),
            prompt,
            sampling,
        };
        tracing::debug!(request_id = request.request_id, sequence = %setup.id, "sequence submitted");
        leader
            .submit(
                setup,
                request.max_new_tokens as usize,
                request.stop_token_ids,
            )
            .await
            .map_err(refused_status)
    }
}

#[tonic::async_trait]
impl LanguageService for LanguageServer {
    type GenerateStream = Pin<Box<dyn Stream<Item = Result<GenerateResponse, Status>> + Send>>;

    async fn describe_language(
        &self,
        _: Request<DescribeLanguageRequest>,
    ) -> Result<Response<DescribeLanguageResponse>, Status> {
        Ok(Response::new(self.serving()?.description))
    }

    async fn generate(
        &self,
        request: Request<GenerateRequest>,
    ) -> Result<Response<Self::GenerateStream>, Status> {
        let events = self.run(request.into_inner()).await?;
        // When the caller goes away tonic drops this stream, and with it the receiver: that cancels the sequence.
        Ok(Response::new(Box::pin(
            ReceiverStream::new(events).map(event_to_wire),
        )))
    }
}

fn check(request: &GenerateRequest, epoch: u64, vocab_size: u32) -> Result<(), Status> {
    if request.epoch != 0 && request.epoch != epoch {
        return Err(Status::failed_precondition(format!(
            "wanted epoch {}, the group is in epoch {epoch}",
            request.epoch
        )));
    }
    if request.max_new_tokens == 0 {
        return Err(Status::invalid_argument(
            "max_new_tokens must be at least 1",
        ));
    }
    for part in &request.prompt {
        if let Some(prompt_part::Part::Tokens(span)) = &part.part
            && let Some(id) = span.ids.iter().find(|id| **id >= vocab_size)
        {
            return Err(Status::invalid_argument(format!(
                "token {id} is outside the vocabulary of {vocab_size}"
            )));
        }
    }
    Ok(())
}

fn event_to_wire(event: SequenceEvent) -> Result<GenerateResponse, Status> {
    let event = match event {
        SequenceEvent::Token { index, token_id } => Event::Tokens(Tokens {
            first_index: u32::try_from(index)
                .map_err(|_| Status::internal("token index over 32 bits"))?,
            ids: vec![token_id],
        }),
        SequenceEvent::Ended(reason) => Event::Ended(Ended {
            reason: match reason {
                EndReason::Stop => wire::EndReason::Stop,
                EndReason::Length => wire::EndReason::Length,
            }
            .into(),
        }),
        SequenceEvent::NotFinite => {
            return Err(Status::internal(
                "the model's logits were not finite (NaN or infinite) for this sequence",
            ));
        }
        SequenceEvent::GroupFailed(reason) => {
            return Err(Status::unavailable(format!(
                "the language group failed: {reason}"
            )));
        }
    };
    Ok(GenerateResponse { event: Some(event) })
}

fn prompt_from_wire(prompt: Vec<wire::PromptPart>) -> Result<Vec<PromptRef>, String> {
    prompt
        .into_iter()
        .map(|part| match part.part.ok_or("a prompt part is empty")? {
            prompt_part::Part::Tokens(span) => Ok(PromptRef::Tokens(span.ids)),
            prompt_part::Part::Picture(picture) => Ok(PromptRef::Picture {
                digest: PictureDigest::try_from(&picture.digest[..])?,
                num_tokens: picture.num_tokens as usize,
                vision_address: picture.vision_address,
            }),
        })
        .collect()
}

fn fetch_status(error: FetchError) -> Status {
    let message = error.to_string();
    match error {
        // Either way another vision worker can encode the picture again.
        FetchError::Missing { .. } | FetchError::Unavailable { .. } => Status::with_error_details(
            Code::FailedPrecondition,
            message,
            ErrorDetails::with_error_info(FEATURES_MISSING, ERROR_DOMAIN, []),
        ),
        FetchError::WrongSize { .. } => Status::invalid_argument(message),
    }
}

fn refused_status(error: RefusedError) -> Status {
    let message = error.to_string();
    match error {
        RefusedError::Limits(SubmitError::QueueFull { .. }) => Status::resource_exhausted(message),
        RefusedError::Limits(SubmitError::TooLong { .. } | SubmitError::Empty) => {
            Status::invalid_argument(message)
        }
        RefusedError::NotServing(_) => Status::unavailable(message),
    }
}
