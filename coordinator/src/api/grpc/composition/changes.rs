//! What is done to an article that is there, off the wire: pictures that a client found, edits by the model and by hand.

use inkstone_composition::{
    MAX_CANDIDATES, PictureId,
    article::{ArticleId, Edit, MAX_GROUP, Proposal, SegmentId},
    steps::edit::Operation,
};
use inkstone_proto::v1::{self as wire, change_article_request as change};

use crate::{
    api::grpc::faults::Faults,
    compose::{Change, ExportFormat, ProvidedPicture},
    config::Limits,
    error::RequestError,
};

/// Bytes of what is told of a picture: its name, where it is from, whose it is, and what may be done with it, each.
pub(super) const MAX_ORIGIN_BYTES: usize = 4096;
/// Bytes of the name of an article or of a picture; ours are shorter.
const MAX_NAME_BYTES: usize = 256;

/// The article that a call is about.
pub(super) fn article_id(faults: &mut Faults, id: String) -> ArticleId {
    name(faults, "article_id", &id);
    ArticleId(id)
}

/// The same of a call that says nothing else.
pub(super) fn only_article_id(id: String) -> Result<ArticleId, RequestError> {
    let mut faults = Faults::default();
    let id = article_id(&mut faults, id);
    faults.none()?;
    Ok(id)
}

fn name(faults: &mut Faults, path: &str, name: &str) {
    if name.is_empty() {
        faults.add(path, "must not be empty");
    }
    faults.at_most(path, name.len(), MAX_NAME_BYTES, "bytes");
}

/// A picture of an article.
pub(super) fn picture(
    message: wire::GetPictureRequest,
) -> Result<(ArticleId, PictureId), RequestError> {
    let mut faults = Faults::default();
    let id = article_id(&mut faults, message.article_id);
    name(&mut faults, "picture_id", &message.picture_id);
    faults.none()?;
    Ok((id, PictureId::new(message.picture_id)))
}

pub(super) fn export(
    message: wire::ExportRequest,
) -> Result<(ArticleId, ExportFormat), RequestError> {
    let mut faults = Faults::default();
    let id = article_id(&mut faults, message.article_id);
    let format = match wire::ExportFormat::try_from(message.format) {
        Ok(wire::ExportFormat::Unspecified | wire::ExportFormat::Zip) => ExportFormat::Zip,
        Ok(wire::ExportFormat::Html) => ExportFormat::Html,
        Ok(wire::ExportFormat::Json) => ExportFormat::Json,
        Ok(wire::ExportFormat::Markdown) => ExportFormat::Markdown,
        Err(_) => {
            faults.add("format", format!("unknown value {}", message.format));
            ExportFormat::Zip
        }
    };
    faults.none()?;
    Ok((id, format))
}

/// Pictures that the client found for a place. More than are of use are left out, unread.
pub(super) fn provided(
    message: wire::ProvideCandidatesRequest,
    limits: &Limits,
) -> Result<(ArticleId, usize, Vec<ProvidedPicture>), RequestError> {
    let mut faults = Faults::default();
    let id = article_id(&mut faults, message.article_id);
    let mut pictures = message.pictures;
    pictures.truncate(MAX_CANDIDATES);
    let pictures = provided_pictures(&mut faults, "pictures", pictures, limits);
    faults.none()?;
    Ok((id, message.location as usize, pictures))
}

fn provided_pictures(
    faults: &mut Faults,
    path: &str,
    pictures: Vec<wire::ProvidedPicture>,
    limits: &Limits,
) -> Vec<ProvidedPicture> {
    let pictures = pictures.into_iter().enumerate();
    let pictures = pictures.filter_map(|(number, picture)| {
        let path = format!("{path}[{number}]");
        let mut origin = |field: &str, text: String| {
            let path = format!("{path}.{field}");
            faults.at_most(&path, text.len(), MAX_ORIGIN_BYTES, "bytes");
            Some(text).filter(|text| !text.is_empty())
        };
        let index = origin("index", picture.index);
        let source = origin("source", picture.source);
        let author = origin("author", picture.author);
        let licence = origin("licence", picture.licence);
        let data = faults.picture(&format!("{path}.data"), picture.data, limits)?;
        Some(ProvidedPicture {
            data,
            index,
            source,
            author,
            licence,
        })
    });
    pictures.collect()
}

/// An edit by the model.
pub(super) fn edit(
    message: wire::EditRequest,
    limits: &Limits,
) -> Result<(ArticleId, Proposal), RequestError> {
    let mut faults = Faults::default();
    let id = article_id(&mut faults, message.article_id);
    let operation = match wire::EditOperation::try_from(message.operation) {
        Ok(wire::EditOperation::Rewrite) => Operation::Rewrite,
        Ok(wire::EditOperation::Expand) => Operation::Expand,
        Ok(wire::EditOperation::Abbreviate) => Operation::Abbreviate,
        Ok(wire::EditOperation::InsertBefore) => Operation::InsertBefore,
        Ok(wire::EditOperation::InsertAfter) => Operation::InsertAfter,
        Ok(wire::EditOperation::Unspecified) | Err(_) => {
            let description = format!("must be an operation, found {}", message.operation);
            faults.add("operation", description);
            Operation::Rewrite
        }
    };
    let num_bytes = message.instruction.len();
    faults.at_most("instruction", num_bytes, limits.max_text_bytes, "bytes");
    faults.none()?;
    let proposal = Proposal {
        segment: SegmentId(message.segment),
        operation,
        instruction: message.instruction,
    };
    Ok((id, proposal))
}

/// A change by hand.
pub(super) fn change(
    message: wire::ChangeArticleRequest,
    limits: &Limits,
) -> Result<(ArticleId, Change), RequestError> {
    let mut faults = Faults::default();
    let id = article_id(&mut faults, message.article_id);
    let change = match message.change {
        Some(change) => to_change(&mut faults, change, limits),
        None => {
            faults.add("change", "must say what to change, found nothing");
            Change::Undo
        }
    };
    faults.none()?;
    Ok((id, change))
}

/// Whether it fits the article is for the article to say.
fn to_change(faults: &mut Faults, change: change::Change, limits: &Limits) -> Change {
    Change::Edit(match change {
        change::Change::SetText(wire::SetText { segment, text }) => Edit::SetText {
            segment: SegmentId(segment),
            text,
        },
        change::Change::Insert(wire::InsertSegment { position, text }) => Edit::Insert {
            at: position as usize,
            text,
        },
        change::Change::Delete(segment) => Edit::Delete {
            segment: SegmentId(segment),
        },
        change::Change::Move(wire::MoveSegment { segment, position }) => Edit::Move {
            segment: SegmentId(segment),
            to: position as usize,
        },
        change::Change::SetPictures(pictures) => return set_pictures(faults, pictures, limits),
        change::Change::ChoosePicture(wire::ChoosePicture { segment, candidate }) => {
            Edit::ChoosePicture {
                segment: SegmentId(segment),
                candidate: candidate as usize,
            }
        }
        change::Change::SetCaption(wire::SetCaption { segment, caption }) => Edit::SetCaption {
            segment: SegmentId(segment),
            caption,
        },
        change::Change::RemovePicture(segment) => Edit::RemovePicture {
            segment: SegmentId(segment),
        },
        change::Change::Undo(wire::Undo {}) => return Change::Undo,
        change::Change::Redo(wire::Redo {}) => return Change::Redo,
    })
}

fn set_pictures(faults: &mut Faults, message: wire::SetPictures, limits: &Limits) -> Change {
    let path = "set_pictures";
    let num_pictures = message.picture_ids.len() + message.uploads.len();
    if !(1..=MAX_GROUP).contains(&num_pictures) {
        let description = format!("must have 1 to {MAX_GROUP} pictures, found {num_pictures}");
        faults.add(path, description);
    }
    for (number, id) in message.picture_ids.iter().enumerate().take(MAX_GROUP) {
        name(faults, &format!("{path}.picture_ids[{number}]"), id);
    }
    let mut uploads = message.uploads;
    uploads.truncate(MAX_GROUP);
    let uploads = provided_pictures(faults, &format!("{path}.uploads"), uploads, limits);
    Change::SetPictures {
        segment: SegmentId(message.segment),
        caption: message.caption,
        ids: message
            .picture_ids
            .into_iter()
            .map(PictureId::new)
            .collect(),
        uploads,
    }
}

#[cfg(test)]
mod tests;
