//! Changes of an article: by hand, and by the model, whose text is proposed first.

use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, stream};
use inkstone_composition::{
    Generation, PictureId,
    article::{ArticleId, Edit, EditError, MAX_GROUP, Proposal, Revision, SegmentId},
    procedure::{FinishReason, Stage, Warning},
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{
    ArticleView, Caller, Change, Composer, EditEvents, EditUpdate, ProvidedPicture,
    kept::{KeptArticle, Opened},
    meter::ModelMeter,
    metrics::StepKind,
    pictures,
    step::{self, Answering, StepCaller, Told},
};
use crate::{article_error::ArticleError, error::RequestError};

/// An edit that is being written; dropped before its end, it is closed.
struct Writing {
    kept: Arc<KeptArticle>,
    number: u64,
}

/// How far the events of an edit are.
enum Turn {
    Warn,
    Write,
    End,
}

/// What the events of an edit are made of.
struct Edited {
    writing: Writing,
    closed: CancellationToken,
    answering: Answering,
    turn: Turn,
}

impl Composer {
    /// Asks the model for a new text; the article changes with [`apply_edit`](Self::apply_edit) only. Returns when the step
    /// runs. Dropping the events before their end closes the edit.
    pub(crate) async fn edit(
        self: &Arc<Self>,
        caller: Caller,
        id: &ArticleId,
        revision: Revision,
        proposal: Proposal,
    ) -> Result<EditEvents, RequestError> {
        let model = self.model("")?.clone();
        let kept = self.find_article(&caller.tenant, id)?;
        let (proposing, meter) = (
            kept.clone(),
            ModelMeter {
                model,
                // Edits show no pictures.
                picture_tokens: |_: &PictureId| 0,
            },
        );
        let opened =
            tokio::task::spawn_blocking(move || proposing.propose(revision, proposal, &meter));
        let opened = opened.await;
        let opened =
            opened.map_err(|error| RequestError::Internal(format!("editing: {error}")))??;
        let Opened {
            asked,
            number,
            closed,
        } = opened;
        let writing = Writing { kept, number };
        let answering = self.begin_edit(&caller, asked.generation).await?;
        let turn = match asked.is_shortened {
            true => Turn::Warn,
            false => Turn::Write,
        };
        let edited = Edited {
            writing,
            closed,
            answering,
            turn,
        };
        Ok(EditEvents {
            events: stream::unfold(edited, Edited::next).boxed(),
        })
    }

    async fn begin_edit(
        &self,
        caller: &Caller,
        generation: Generation,
    ) -> Result<Answering, RequestError> {
        let latest = Instant::now() + self.settings.step_time;
        let caller = StepCaller {
            tenant: caller.tenant.clone(),
            request_id: caller.request_id.clone(),
            deadline: Some(
                caller
                    .deadline
                    .map_or(latest, |deadline| deadline.min(latest)),
            ),
            goes_on: false,
        };
        let request = step::request(generation, Arc::default(), caller);
        step::begin(&self.dispatcher, request, StepKind::Edit).await
    }

    /// Puts the open edit's text, or the user's version of it, into the article.
    pub(crate) fn apply_edit(
        &self,
        tenant: &Bytes,
        id: &ArticleId,
        revision: Revision,
        text: Option<String>,
    ) -> Result<ArticleView, RequestError> {
        let kept = self.find_article(tenant, id)?;
        kept.apply_proposed(revision, text)?;
        Ok(kept.view())
    }

    /// Discards the open edit.
    pub(crate) fn cancel_edit(&self, tenant: &Bytes, id: &ArticleId) -> Result<(), RequestError> {
        let kept = self.find_article(tenant, id)?;
        kept.with_article(|article| article.cancel_proposed())
    }

    /// Changes the article by hand.
    pub(crate) async fn change(
        &self,
        caller: Caller,
        id: &ArticleId,
        revision: Revision,
        change: Change,
    ) -> Result<ArticleView, RequestError> {
        let kept = self.find_article(&caller.tenant, id)?;
        match change {
            Change::Edit(edit) => {
                check_pictures(&kept, &edit)?;
                kept.with_article(|article| article.edit(revision, edit))?
            }
            Change::Undo => kept.with_article(|article| article.undo(revision))?,
            Change::Redo => kept.with_article(|article| article.redo(revision))?,
            Change::SetPictures {
                segment,
                caption,
                ids,
                uploads,
            } => {
                check_target(&kept, revision, segment, ids.len() + uploads.len())?;
                let pictures = self
                    .pictures_of(&kept, ids, uploads, caller.deadline)
                    .await?;
                let edit = Edit::SetPictures {
                    segment,
                    caption,
                    pictures,
                };
                kept.with_article(|article| article.edit(revision, edit))?
            }
        };
        Ok(kept.view())
    }

    /// Those that the article has, then new ones, which it has from now on.
    async fn pictures_of(
        &self,
        kept: &KeptArticle,
        ids: Vec<PictureId>,
        uploads: Vec<ProvidedPicture>,
        deadline: Option<Instant>,
    ) -> Result<Vec<inkstone_composition::Picture>, RequestError> {
        let mut pictures = vec![];
        for wanted in ids {
            match kept.picture(&wanted) {
                Some(known) => pictures.push(known.picture),
                None => return Err(ArticleError::PictureNotFound { wanted }.into()),
            }
        }
        let model = self.dispatcher.model()?;
        let field = "set_pictures.uploads";
        let dispatcher = &self.dispatcher;
        let put = pictures::put_provided(dispatcher, model, field, uploads, deadline).await?;
        self.keep_pictures(kept, put.clone())?;
        pictures.extend(put.into_iter().map(|kept| kept.picture));
        Ok(pictures)
    }
}

/// Refuses what cannot be before pictures are brought anywhere for it.
fn check_target(
    kept: &KeptArticle,
    revision: Revision,
    segment: SegmentId,
    num_pictures: usize,
) -> Result<(), RequestError> {
    kept.with_article(|article| {
        let found = article.revision();
        if revision != found {
            let wanted = revision;
            return Err(EditError::Conflict { wanted, found });
        }
        if article.position(segment).is_none() {
            return Err(EditError::NoSegment(segment));
        }
        match num_pictures {
            1..=MAX_GROUP => Ok(()),
            num_pictures => Err(EditError::NumPictures(num_pictures)),
        }
    })
}

/// An article shows pictures that it has.
fn check_pictures(kept: &KeptArticle, edit: &Edit) -> Result<(), RequestError> {
    let Edit::SetPictures { pictures, .. } = edit else {
        return Ok(());
    };
    let missing = pictures
        .iter()
        .find(|picture| kept.picture(&picture.id).is_none());
    match missing {
        Some(picture) => Err(ArticleError::PictureNotFound {
            wanted: picture.id.clone(),
        }
        .into()),
        None => Ok(()),
    }
}

impl Edited {
    async fn next(mut self) -> Option<(Result<EditUpdate, RequestError>, Self)> {
        match self.turn {
            Turn::Warn => {
                self.turn = Turn::Write;
                let warning = Warning::ContextShortened {
                    stage: Stage::Article,
                    place: None,
                };
                Some((Ok(EditUpdate::Warning(warning)), self))
            }
            Turn::Write => {
                let update = self.write().await;
                if !matches!(update, Ok(EditUpdate::Delta(_))) {
                    self.turn = Turn::End;
                }
                Some((update, self))
            }
            Turn::End => None,
        }
    }

    async fn write(&mut self) -> Result<EditUpdate, RequestError> {
        let Writing { kept, number } = &self.writing;
        let told = tokio::select! {
            biased;
            () = self.closed.cancelled() => return Ok(closed_meanwhile()),
            told = self.answering.next() => told,
        };
        match told {
            Some(Ok(Told::Text(text))) => match kept.push_proposed(*number, &text)? {
                true => Ok(EditUpdate::Delta(text)),
                false => Ok(closed_meanwhile()),
            },
            Some(Ok(Told::Done { finish, .. })) => Ok(match kept.proposed(*number) {
                Some(text) => EditUpdate::Proposed { text, finish },
                None => closed_meanwhile(),
            }),
            Some(Err(error)) => Err(error),
            None => Err(RequestError::Internal(
                "an edit's text ended without its end".into(),
            )),
        }
    }
}

fn closed_meanwhile() -> EditUpdate {
    EditUpdate::Proposed {
        text: String::new(),
        finish: FinishReason::Cancelled,
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        self.kept.abandon_edit(self.number);
    }
}
