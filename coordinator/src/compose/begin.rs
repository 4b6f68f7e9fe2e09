//! How a composition begins: the request is checked and settled, its pictures are put, all at once, and its first step is started.
//! Whatever fails until then is the answer to the call, and nothing is kept.

use std::sync::Arc;

use inkstone_composition::{
    CheckedRequest, ComposeRequest, Picture, PictureCount, PictureSource, Release, Violation,
    article::ArticleId,
    procedure::{ComposeError, Composition, Effect, Event, Input, Warning, Work},
};
use inkstone_interface::description::Variant;
use tokio::time::{Instant, timeout_at};
use tracing::Instrument;

use super::{
    Caller, ComposeAsk, ComposeEvents, Composer, WantedSource,
    driver::{Driver, Stand},
    kept::{KeptArticle, KeptPicture},
    metrics::StepKind,
    pictures::{self, Upload},
    reader::Reader,
    step::{self, Answering},
};
use crate::{
    article_error::ArticleError,
    error::{FieldViolation, RequestError},
    model::ServedModel,
    request::pictures as placing,
};

impl Composer {
    /// Begins a composition. Returns when its first step runs; what keeps that from running is the error, and nothing is kept
    /// then. From there on the composition is a task of its own.
    pub(crate) async fn compose(
        self: &Arc<Self>,
        caller: Caller,
        ask: ComposeAsk,
    ) -> Result<ComposeEvents, RequestError> {
        let model = self.model(&ask.model)?.clone();
        let deadline = caller.deadline;
        let beginning = self.begin(caller, ask, model);
        match deadline {
            Some(deadline) => timeout_at(deadline, beginning)
                .await
                .unwrap_or(Err(RequestError::DeadlineExceeded)),
            None => beginning.await,
        }
    }

    async fn begin(
        self: &Arc<Self>,
        caller: Caller,
        ask: ComposeAsk,
        model: Arc<ServedModel>,
    ) -> Result<ComposeEvents, RequestError> {
        let max_bytes = self.dispatcher.limits.max_picture_bytes;
        let uploads = pictures::hash(Upload::of("pictures", ask.uploads), max_bytes).await?;
        let (request, source) = self.settle(ask.request, ask.source, &uploads, &model)?;
        let kept = KeptArticle::new(
            ArticleId(uuid::Uuid::new_v4().simple().to_string()),
            caller.tenant.clone(),
            request.request(),
            source,
            self.cut.child_token(),
        );
        let span = tracing::info_span!(
            "composition",
            request_id = caller.request_id,
            article = kept.id.0
        );
        let stand = Stand {
            composer: self.clone(),
            model,
            kept,
            request_id: caller.request_id.clone(),
        };
        // Dropped before its time, it forgets the article.
        let opening = Opening::new(stand)?;
        let began = opening.first_step(request, uploads, caller.deadline);
        let (composition, article) = began.instrument(span.clone()).await?;
        let (stand, reader) = opening.keep();
        let events = stand.composer.events_from(stand.kept.clone(), reader, 0);
        let driver = Driver::new(stand, composition, article);
        self.tasks.spawn(driver.drive().instrument(span));
        Ok(events)
    }

    /// Fills in what the caller leaves to the server, and checks it all.
    pub(super) fn settle(
        &self,
        mut request: ComposeRequest,
        wanted: WantedSource,
        uploads: &[placing::Picture],
        model: &ServedModel,
    ) -> Result<(CheckedRequest, WantedSource), RequestError> {
        let uploaded = uploads.iter().map(|upload| {
            let id = pictures::picture_id(&upload.content);
            Picture::uploaded(id.as_str(), pictures::media_type(&upload.data))
        });
        request.pictures = uploaded.collect();
        request.release = release_of(model);
        let wants_pictures = request.picture_count != PictureCount::None;
        let has_search = self.source.is_some();
        let (source, within) = match wanted {
            WantedSource::Uploads => (wanted, Some(PictureSource::Uploads)),
            WantedSource::Client => (wanted, Some(PictureSource::Search)),
            WantedSource::Search if !has_search => {
                return Err(ArticleError::NoPictureSource.into());
            }
            WantedSource::Search => (wanted, Some(PictureSource::Search)),
            WantedSource::Default if !uploads.is_empty() => {
                (WantedSource::Uploads, Some(PictureSource::Uploads))
            }
            WantedSource::Default if has_search => {
                (WantedSource::Search, Some(PictureSource::Search))
            }
            WantedSource::Default => {
                request.picture_count = PictureCount::None;
                (wanted, None)
            }
        };
        request.picture_source = within;
        let source = match request.picture_count {
            PictureCount::None => WantedSource::Default,
            PictureCount::Automatic | PictureCount::Fixed(_) => source,
        };
        let mut checked = request.check().map_err(invalid)?;
        if wants_pictures && source == WantedSource::Default {
            checked.warn(Warning::NoPictureSource);
        }
        Ok((checked, source))
    }

    /// The served model, for somebody who wants one of this name.
    pub(super) fn model(&self, wanted: &str) -> Result<&Arc<ServedModel>, RequestError> {
        let model = self.dispatcher.model()?;
        model.check_name(wanted)?;
        if self.closed.is_cancelled() {
            return Err(RequestError::ShuttingDown {
                retry_after: self.dispatcher.timeouts.retry_after,
            });
        }
        Ok(model)
    }
}

/// Whose words the questions to a model are.
pub(super) fn release_of(model: &ServedModel) -> Release {
    match model.description.variant {
        Variant::Xc2 | Variant::Xc2FourKhd => Release::Xc2,
        Variant::Xc2d5 => Release::Xc2d5,
    }
}

fn invalid(violations: Vec<Violation>) -> RequestError {
    let violations = violations.into_iter().map(FieldViolation::from);
    RequestError::Invalid(violations.collect())
}

/// An article of which nobody was told yet.
struct Opening {
    stand: Stand,
    reader: Option<Reader>,
}

impl Opening {
    fn new(stand: Stand) -> Result<Self, RequestError> {
        stand.composer.open(&stand.kept)?;
        let reader = Reader::new(&stand.composer, &stand.kept.id);
        Ok(Self {
            stand,
            reader: Some(reader),
        })
    }

    /// Puts the uploads, takes the procedure's first turn and starts the step that it asks for.
    async fn first_step(
        &self,
        request: CheckedRequest,
        uploads: Vec<placing::Picture>,
        deadline: Option<Instant>,
    ) -> Result<(Composition, Answering), RequestError> {
        let Stand {
            composer,
            model,
            kept,
            ..
        } = &self.stand;
        let pictures: Vec<Picture> = request.request().pictures.clone();
        // Room is taken before the work is done.
        composer.take_bytes(&kept.id, distinct_bytes(&uploads))?;
        let known = pictures::put(&composer.dispatcher, model, uploads, deadline).await?;
        let pictures = pictures.into_iter().zip(known);
        kept.keep(
            pictures
                .map(|(picture, known)| KeptPicture { picture, known })
                .collect(),
        );
        let composition = Composition::new(kept.id.clone(), request);
        let (composition, effects) = self.stand.apply(composition, Input::Start).await?;
        let mut article = None;
        for effect in effects {
            match effect {
                Effect::Emit(event) => match event.event {
                    Event::Error {
                        error: ComposeError::PromptTooLong { num_tokens, limit },
                        ..
                    } => return Err(RequestError::PromptTooLong { num_tokens, limit }),
                    _ => kept.tell([event]),
                },
                Effect::Generate {
                    work: work @ Work::Article,
                    generation,
                } => article = Some(self.stand.request(work, *generation)?),
                Effect::Generate { .. } | Effect::Search { .. } | Effect::Cancel(_) => {
                    let fault = "a composition began with another step than the article";
                    return Err(RequestError::Internal(fault.into()));
                }
            }
        }
        let article = article
            .ok_or_else(|| RequestError::Internal("a composition began with nothing".into()))?;
        let article = step::begin(&composer.dispatcher, article, StepKind::Article).await?;
        Ok((composition, article))
    }

    /// The article is kept from now on.
    fn keep(mut self) -> (Stand, Reader) {
        let reader = self.reader.take().expect("taken once");
        (self.stand.clone(), reader)
    }
}

impl Drop for Opening {
    fn drop(&mut self) {
        if self.reader.is_some() {
            let kept = &self.stand.kept;
            self.stand.composer.forget(&kept.tenant, &kept.id);
        }
    }
}

fn distinct_bytes(uploads: &[placing::Picture]) -> usize {
    let mut seen: Vec<&blake3::Hash> = vec![];
    let mut num_bytes = 0;
    for upload in uploads {
        if !seen.contains(&&upload.content) {
            seen.push(&upload.content);
            num_bytes += upload.data.len();
        }
    }
    num_bytes
}
