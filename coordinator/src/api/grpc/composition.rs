//! `inkstone.v1.CompositionService`: reads each message, makes one call of the composer, and words its answer.

mod article;
mod changes;
mod events;
mod request;
mod steps;
mod stream;

use std::sync::Arc;

use futures::{Stream, StreamExt, stream as streams};
use inkstone_composition::article::{ArticleId, Revision};
use inkstone_proto::v1 as wire;
use tonic::{Request, Response, Status};

use self::{
    events::Told,
    stream::{Answers, chunks, until_deadline},
};
use super::{chat::request_id, chat_request::tenant, deadline::Deadline};
use crate::{
    api::error::{to_status, to_status_of},
    compose::{Caller, ComposeEvents, Composer, EditUpdate},
    config::Limits,
    error::RequestError,
    telemetry,
};

/// The service over a composer.
pub(crate) struct CompositionService {
    composer: Arc<Composer>,
    limits: Limits,
}

impl CompositionService {
    pub(crate) fn new(composer: Arc<Composer>, limits: Limits) -> Self {
        Self { composer, limits }
    }
}

#[tonic::async_trait]
impl wire::composition_service_server::CompositionService for CompositionService {
    type ComposeStream = Answers<wire::ComposeEvent>;

    async fn compose(
        &self,
        call: Request<wire::ComposeRequest>,
    ) -> Result<Response<Self::ComposeStream>, Status> {
        let given_id = |message: &mut wire::ComposeRequest| std::mem::take(&mut message.request_id);
        let (call, message) = Call::of(call, given_id)?;
        let ask = request::compose(message, &self.limits);
        let ask = ask.map_err(|error| call.refuse(&error))?;
        let events = self.composer.compose(call.caller.clone(), ask).await;
        call.answer(events.map(|events| call.stream(events)))
    }

    type ResumeStream = Answers<wire::ComposeEvent>;

    async fn resume(
        &self,
        call: Request<wire::ResumeRequest>,
    ) -> Result<Response<Self::ResumeStream>, Status> {
        let (call, message) = Call::plain(call)?;
        let id = call.article_id(message.article_id)?;
        let tenant = &call.caller.tenant;
        let events = self.composer.resume(tenant, &id, message.sequence);
        call.answer(events.map(|events| call.stream(events)))
    }

    async fn cancel(
        &self,
        call: Request<wire::CancelRequest>,
    ) -> Result<Response<wire::CancelResponse>, Status> {
        let (call, message) = Call::plain(call)?;
        let id = call.article_id(message.article_id)?;
        let cancelled = self.composer.cancel(&call.caller.tenant, &id);
        call.answer(cancelled.map(|()| wire::CancelResponse {}))
    }

    async fn provide_candidates(
        &self,
        call: Request<wire::ProvideCandidatesRequest>,
    ) -> Result<Response<wire::ProvideCandidatesResponse>, Status> {
        let (call, message) = Call::plain(call)?;
        let read = changes::provided(message, &self.limits);
        let (id, place, pictures) = read.map_err(|error| call.refuse(&error))?;
        let tenant = &call.caller.tenant;
        let provided = self.composer.provide(tenant, &id, place, pictures).await;
        call.answer(provided.map(|()| wire::ProvideCandidatesResponse {}))
    }

    async fn get_article(
        &self,
        call: Request<wire::GetArticleRequest>,
    ) -> Result<Response<wire::GetArticleResponse>, Status> {
        let (call, message) = Call::plain(call)?;
        let id = call.article_id(message.article_id)?;
        let view = self.composer.article(&call.caller.tenant, &id);
        call.answer(view.map(|view| wire::GetArticleResponse {
            article: Some(article::view(&id, view)),
        }))
    }

    async fn delete_article(
        &self,
        call: Request<wire::DeleteArticleRequest>,
    ) -> Result<Response<wire::DeleteArticleResponse>, Status> {
        let (call, message) = Call::plain(call)?;
        let id = call.article_id(message.article_id)?;
        let deleted = self.composer.delete(&call.caller.tenant, &id);
        call.answer(deleted.map(|()| wire::DeleteArticleResponse {}))
    }

    type GetPictureStream = Answers<wire::FileChunk>;

    async fn get_picture(
        &self,
        call: Request<wire::GetPictureRequest>,
    ) -> Result<Response<Self::GetPictureStream>, Status> {
        let (call, message) = Call::plain(call)?;
        let read = changes::picture(message);
        let (id, picture) = read.map_err(|error| call.refuse(&error))?;
        let found = self.composer.picture(&call.caller.tenant, &id, &picture);
        call.answer(found.map(|(media_type, data)| {
            let name = picture.as_str().to_owned();
            call.bounded(streams::iter(chunks(media_type, name, data).map(Ok)))
        }))
    }

    type ExportStream = Answers<wire::FileChunk>;

    async fn export(
        &self,
        call: Request<wire::ExportRequest>,
    ) -> Result<Response<Self::ExportStream>, Status> {
        let (call, message) = Call::plain(call)?;
        let read = changes::export(message);
        let (id, format) = read.map_err(|error| call.refuse(&error))?;
        let file = self.composer.export(&call.caller.tenant, &id, format).await;
        call.answer(file.map(|file| {
            let pieces = chunks(file.media_type.to_owned(), file.name, file.data);
            call.bounded(streams::iter(pieces.map(Ok)))
        }))
    }

    type EditStream = Answers<wire::EditEvent>;

    async fn edit(
        &self,
        call: Request<wire::EditRequest>,
    ) -> Result<Response<Self::EditStream>, Status> {
        let (call, message) = Call::plain(call)?;
        let revision = Revision(message.revision);
        let read = changes::edit(message, &self.limits);
        let (id, proposal) = read.map_err(|error| call.refuse(&error))?;
        let caller = call.caller.clone();
        let updates = self.composer.edit(caller, &id, revision, proposal).await;
        call.answer(updates.map(|updates| {
            let request_id = call.caller.request_id.clone();
            call.bounded(updates.map(move |update| match update {
                Ok(update) => Ok(edit_event(update)),
                Err(error) => Err(to_status_of(&error, &request_id, "instruction")),
            }))
        }))
    }

    async fn apply_edit(
        &self,
        call: Request<wire::ApplyEditRequest>,
    ) -> Result<Response<wire::ChangeArticleResponse>, Status> {
        let (call, message) = Call::plain(call)?;
        let revision = Revision(message.revision);
        let id = call.article_id(message.article_id)?;
        let tenant = &call.caller.tenant;
        let view = self
            .composer
            .apply_edit(tenant, &id, revision, message.text);
        call.answer(view.map(|view| wire::ChangeArticleResponse {
            article: Some(article::view(&id, view)),
        }))
    }

    async fn cancel_edit(
        &self,
        call: Request<wire::CancelEditRequest>,
    ) -> Result<Response<wire::CancelEditResponse>, Status> {
        let (call, message) = Call::plain(call)?;
        let id = call.article_id(message.article_id)?;
        let cancelled = self.composer.cancel_edit(&call.caller.tenant, &id);
        call.answer(cancelled.map(|()| wire::CancelEditResponse {}))
    }

    async fn change_article(
        &self,
        call: Request<wire::ChangeArticleRequest>,
    ) -> Result<Response<wire::ChangeArticleResponse>, Status> {
        let (call, message) = Call::plain(call)?;
        let revision = Revision(message.revision);
        let read = changes::change(message, &self.limits);
        let (id, change) = read.map_err(|error| call.refuse(&error))?;
        let caller = call.caller.clone();
        let view = self.composer.change(caller, &id, revision, change).await;
        call.answer(view.map(|view| wire::ChangeArticleResponse {
            article: Some(article::view(&id, view)),
        }))
    }

    async fn suggest_locations(
        &self,
        call: Request<wire::SuggestLocationsRequest>,
    ) -> Result<Response<wire::SuggestLocationsResponse>, Status> {
        let (call, message) = Call::step(call)?;
        let ask = steps::locations(message, &self.limits);
        let ask = ask.map_err(|error| call.refuse(&error))?;
        let caller = call.caller.clone();
        let answer = self.composer.suggest_locations(caller, ask).await;
        call.answer(answer.map(|answer| wire::SuggestLocationsResponse {
            locations: Some(events::locations(answer.places, answer.raw)),
            is_shortened: answer.is_shortened,
        }))
    }

    async fn suggest_caption(
        &self,
        call: Request<wire::SuggestCaptionRequest>,
    ) -> Result<Response<wire::SuggestCaptionResponse>, Status> {
        let (call, message) = Call::step(call)?;
        let location = message.location;
        let ask = steps::caption(message, &self.limits);
        let ask = ask.map_err(|error| call.refuse(&error))?;
        let caller = call.caller.clone();
        let answer = self.composer.suggest_caption(caller, ask).await;
        call.answer(answer.map(|answer| wire::SuggestCaptionResponse {
            caption: Some(wire::Caption {
                location,
                text: answer.caption,
            }),
            raw: answer.raw,
            is_shortened: answer.is_shortened,
        }))
    }

    async fn select_image(
        &self,
        call: Request<wire::SelectImageRequest>,
    ) -> Result<Response<wire::SelectImageResponse>, Status> {
        let (call, message) = Call::step(call)?;
        let ask = steps::choice(message, &self.limits);
        let ask = ask.map_err(|error| call.refuse(&error))?;
        let caller = call.caller.clone();
        let answer = self.composer.select_image(caller, ask).await;
        call.answer(answer.map(|answer| wire::SelectImageResponse {
            candidate: article::count(answer.choice.candidate),
            raw: answer.raw,
            by_default: answer.choice.by_default,
            is_shortened: answer.is_shortened,
        }))
    }

    async fn search_images(
        &self,
        call: Request<wire::SearchImagesRequest>,
    ) -> Result<Response<wire::SearchImagesResponse>, Status> {
        let (call, message) = Call::plain(call)?;
        let ask = steps::search(message);
        let ask = ask.map_err(|error| call.refuse(&error))?;
        let found = self.composer.search_images(call.caller.clone(), ask).await;
        call.answer(found.map(|found| {
            let pictures = found.into_iter().map(|found| wire::FoundPicture {
                info: Some(article::picture(&found.picture)),
                caption: found.caption,
                data: found.data.unwrap_or_default(),
            });
            wire::SearchImagesResponse {
                pictures: pictures.collect(),
            }
        }))
    }
}

fn edit_event(update: EditUpdate) -> wire::EditEvent {
    wire::EditEvent {
        event: Some(match update {
            EditUpdate::Delta(text) => wire::edit_event::Event::TextDelta(wire::TextDelta { text }),
            EditUpdate::Warning(warning) => {
                wire::edit_event::Event::Warning(events::to_warning(&warning))
            }
            EditUpdate::Proposed { text, finish } => {
                wire::edit_event::Event::Proposed(wire::EditProposed {
                    text,
                    finish_reason: events::to_finish_reason(finish).into(),
                })
            }
        }),
    }
}

/// What a call brings beside its message.
struct Call {
    caller: Caller,
    deadline: Option<Deadline>,
    /// The field that prompts are made of.
    prompt: &'static str,
}

impl Call {
    /// Reads what stands beside the message. Some messages have an id of the caller's.
    fn of<T>(
        call: Request<T>,
        given_id: impl FnOnce(&mut T) -> String,
    ) -> Result<(Self, T), Status> {
        let deadline = call.extensions().get::<Deadline>().copied();
        let tenant = tenant(call.metadata());
        let mut message = call.into_inner();
        let request_id = request_id(given_id(&mut message));
        let request_id = request_id.map_err(|error| refuse(&error, ""))?;
        let tenant = tenant.map_err(|error| refuse(&error, &request_id))?;
        let caller = Caller {
            tenant,
            request_id,
            deadline: deadline.map(|deadline| deadline.0),
        };
        let prompt = "instruction";
        let call = Self {
            caller,
            deadline,
            prompt,
        };
        Ok((call, message))
    }

    /// The same of a message that has none.
    fn plain<T>(call: Request<T>) -> Result<(Self, T), Status> {
        Self::of(call, |_| String::new())
    }

    /// The same of a step by itself.
    fn step<T>(call: Request<T>) -> Result<(Self, T), Status> {
        let (mut call, message) = Self::plain(call)?;
        call.prompt = "segments";
        Ok((call, message))
    }

    /// The article that the call is about.
    fn article_id(&self, id: String) -> Result<ArticleId, Status> {
        changes::only_article_id(id).map_err(|error| self.refuse(&error))
    }

    fn refuse(&self, error: &RequestError) -> Status {
        let request_id = &self.caller.request_id;
        count(error);
        tracing::warn!(request_id, %error, "request refused");
        to_status_of(error, request_id, self.prompt)
    }

    fn answer<T>(&self, answer: Result<T, RequestError>) -> Result<Response<T>, Status> {
        let answer = answer.map_err(|error| self.refuse(&error))?;
        Ok(Response::new(answer))
    }

    /// Answers that end by the call's deadline.
    fn bounded<T: Send + 'static>(
        &self,
        answers: impl Stream<Item = Result<T, Status>> + Send + 'static,
    ) -> Answers<T> {
        until_deadline(answers, self.deadline, &self.caller.request_id)
    }

    fn stream(&self, events: ComposeEvents) -> Answers<wire::ComposeEvent> {
        let told = Told {
            article_id: events.article_id().clone(),
            source: events.source(),
            expires_after: events.expires_after(),
        };
        self.bounded(events.map(move |event| Ok(told.event(event))))
    }
}

fn refuse(error: &RequestError, request_id: &str) -> Status {
    count(error);
    tracing::warn!(request_id, %error, "request refused");
    to_status(error, request_id)
}

/// Counts a call that is turned away. What may have gone wrong with a step that a group ran was counted with that step.
fn count(error: &RequestError) {
    match error {
        RequestError::Internal(_)
        | RequestError::DeadlineExceeded
        | RequestError::ReaderTooSlow { .. }
        | RequestError::RecoveryFailed { .. } => {}
        RequestError::Invalid(_)
        | RequestError::PromptTooLong { .. }
        | RequestError::PictureRefused(_)
        | RequestError::ModelNotFound { .. }
        | RequestError::Overloaded { .. }
        | RequestError::ClusterFull { .. }
        | RequestError::Starting { .. }
        | RequestError::ShuttingDown { .. }
        | RequestError::LanguageUnavailable { .. }
        | RequestError::VisionUnavailable { .. }
        | RequestError::Cluster(_)
        | RequestError::Article(_) => telemetry::count_refused(error.reason()),
    }
}
