//! Articles and their pictures as they go over the wire.

use inkstone_composition::{
    Picture,
    article::{Article, ArticleId, Illustration, PendingEdit, Segment},
    steps::edit::Operation,
};
use inkstone_proto::v1 as wire;

use crate::compose::ArticleView;

/// An article, or as much as is known of one that is still written.
pub(super) fn view(id: &ArticleId, view: ArticleView) -> wire::Article {
    let ArticleView {
        article,
        instruction,
        is_composing,
    } = view;
    let shown = match &article {
        Some(article) => self::article(article),
        None => wire::Article {
            id: id.0.clone(),
            ..Default::default()
        },
    };
    wire::Article {
        instruction,
        is_composing,
        ..shown
    }
}

pub(super) fn article(article: &Article) -> wire::Article {
    let history = article.history();
    wire::Article {
        id: article.id().0.clone(),
        revision: article.revision().0,
        segments: article.segments().iter().map(segment).collect(),
        num_undo: count(history.num_undo()),
        num_redo: count(history.num_redo()),
        open_edit: article.pending().map(open_edit),
        is_composing: false,
        instruction: article.request().instruction.clone(),
    }
}

fn segment(segment: &Segment) -> wire::Segment {
    wire::Segment {
        id: segment.id.0,
        text: segment.text.clone(),
        illustration: segment.illustration.as_ref().map(illustration),
    }
}

fn illustration(illustration: &Illustration) -> wire::Illustration {
    wire::Illustration {
        caption: illustration.caption().to_owned(),
        candidates: illustration.candidates().iter().map(picture).collect(),
        chosen: count(illustration.chosen()),
        by_default: illustration.by_default(),
    }
}

fn open_edit(pending: &PendingEdit) -> wire::OpenEdit {
    let proposal = &pending.proposal;
    wire::OpenEdit {
        segment: proposal.segment.0,
        operation: match proposal.operation {
            Operation::Rewrite => wire::EditOperation::Rewrite,
            Operation::Expand => wire::EditOperation::Expand,
            Operation::Abbreviate => wire::EditOperation::Abbreviate,
            Operation::InsertBefore => wire::EditOperation::InsertBefore,
            Operation::InsertAfter => wire::EditOperation::InsertAfter,
        }
        .into(),
        instruction: proposal.instruction.clone(),
        text: pending.text.clone(),
    }
}

pub(super) fn picture(picture: &Picture) -> wire::PictureInfo {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    wire::PictureInfo {
        id: picture.id.as_str().to_owned(),
        media_type: picture.media_type.clone(),
        index: text(&picture.index),
        source: text(&picture.source),
        author: text(&picture.author),
        licence: text(&picture.licence),
    }
}

/// What is counted here is bounded far below; a count that is not is capped rather than wrapped.
pub(super) fn count(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}
