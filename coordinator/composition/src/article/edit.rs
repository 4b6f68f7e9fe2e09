//! Changes of an article. Each names the revision that it was made for; each that changes something makes a new one and can
//! be undone.

use serde::{Deserialize, Serialize};

use super::{Article, Illustration, Revision, Segment, SegmentId};
use crate::{
    Picture, TooLong,
    steps::{caption, edit::one_line},
};

/// Segments that an article may grow to by edits.
pub const MAX_ARTICLE_SEGMENTS: usize = 200;
/// Bytes of a segment's text, or of a caption.
pub const MAX_SEGMENT_BYTES: usize = 64 * 1024;
/// Pictures that a segment's picture may be chosen from.
pub const MAX_GROUP: usize = 16;

/// A change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Edit {
    /// Another text; the picture stays. An empty one deletes the segment with its picture.
    SetText { segment: SegmentId, text: String },
    /// A segment without a picture, which will stand at this position. An empty text changes nothing.
    Insert { at: usize, text: String },
    /// The segment and its picture.
    Delete { segment: SegmentId },
    /// The segment and its picture, to this position among the others.
    Move { segment: SegmentId, to: usize },
    /// Pictures in place of those that were there: what a search found, or an upload. The first is shown, and none of
    /// them is offered by a search again.
    SetPictures {
        segment: SegmentId,
        caption: String,
        pictures: Vec<Picture>,
    },
    /// Shows another of the segment's pictures.
    ChoosePicture {
        segment: SegmentId,
        candidate: usize,
    },
    /// Another caption for the segment's picture.
    SetCaption { segment: SegmentId, caption: String },
    /// Leaves the text.
    RemovePicture { segment: SegmentId },
}

/// Why an article stays as it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EditError {
    #[error(
        "edit is for revision {wanted}, the article is at {found}: read it again and repeat the edit",
        wanted = wanted.0,
        found = found.0
    )]
    Conflict { wanted: Revision, found: Revision },
    #[error("article has no segment {0}")]
    NoSegment(SegmentId),
    #[error("segment {0} has no picture")]
    NoPicture(SegmentId),
    #[error("position must be at most {limit}, found {found}")]
    Position { found: usize, limit: usize },
    #[error("candidate must be below {limit}, found {found}")]
    NoCandidate { found: usize, limit: usize },
    #[error("pictures must be 1 to {MAX_GROUP}, found {0}")]
    NumPictures(usize),
    #[error("article has {MAX_ARTICLE_SEGMENTS} segments, which is the limit")]
    Full,
    #[error("text must be at most {MAX_SEGMENT_BYTES} bytes, found {0}")]
    TextTooLong(usize),
    #[error("a search needs a caption, found an empty one")]
    EmptyCaption,
    #[error("an insertion needs an outline of what to write, found an empty one")]
    EmptyOutline,
    #[error("an edit of segment {0} is open: apply or cancel it first")]
    EditOpen(SegmentId),
    #[error("no edit is open")]
    NoEditOpen,
    #[error("there is nothing to undo")]
    NothingToUndo,
    #[error("there is nothing to redo")]
    NothingToRedo,
    #[error(transparent)]
    Prompt(#[from] TooLong),
}

impl Article {
    /// Changes the article as it was at `revision`, and says which revision it has then: the same where nothing changed.
    pub fn edit(&mut self, revision: Revision, edit: Edit) -> Result<Revision, EditError> {
        self.expect(revision)?;
        let before = self.segments.clone();
        let result = self.change(edit);
        if result.is_err() {
            self.segments = before;
            return result.map(|()| self.revision);
        }
        if self.segments != before {
            self.history.remember(before);
            self.changed();
        }
        Ok(self.revision)
    }

    /// Takes the last change back.
    pub fn undo(&mut self, revision: Revision) -> Result<Revision, EditError> {
        self.expect(revision)?;
        if !self.history.undo(&mut self.segments) {
            return Err(EditError::NothingToUndo);
        }
        self.changed();
        Ok(self.revision)
    }

    /// Does again what was undone last.
    pub fn redo(&mut self, revision: Revision) -> Result<Revision, EditError> {
        self.expect(revision)?;
        if !self.history.redo(&mut self.segments) {
            return Err(EditError::NothingToRedo);
        }
        self.changed();
        Ok(self.revision)
    }

    pub(super) fn expect(&self, revision: Revision) -> Result<(), EditError> {
        if revision == self.revision {
            return Ok(());
        }
        Err(EditError::Conflict {
            wanted: revision,
            found: self.revision,
        })
    }

    fn changed(&mut self) {
        self.revision.0 += 1;
        self.drop_stale_pending();
    }

    fn change(&mut self, edit: Edit) -> Result<(), EditError> {
        match edit {
            Edit::SetText { segment, text } => {
                let at = self.find(segment)?;
                check_text(&text)?;
                let text = one_line(&text);
                if text.is_empty() {
                    self.segments.remove(at);
                } else {
                    self.segments[at].text = text;
                }
            }
            Edit::Insert { at, text } => self.insert(at, &text)?,
            Edit::Delete { segment } => {
                let at = self.find(segment)?;
                self.segments.remove(at);
            }
            Edit::Move { segment, to } => {
                let at = self.find(segment)?;
                check_position(to, self.segments.len() - 1)?;
                let moved = self.segments.remove(at);
                self.segments.insert(to, moved);
            }
            Edit::SetPictures {
                segment,
                caption,
                pictures,
            } => self.set_pictures(segment, caption, pictures)?,
            Edit::ChoosePicture { segment, candidate } => {
                let illustration = self.illustration(segment)?;
                let limit = illustration.candidates.len();
                if candidate >= limit {
                    let found = candidate;
                    return Err(EditError::NoCandidate { found, limit });
                }
                illustration.chosen = candidate;
                illustration.by_default = false;
            }
            Edit::SetCaption { segment, caption } => {
                check_text(&caption)?;
                self.illustration(segment)?.caption = caption::clean(&caption);
            }
            Edit::RemovePicture { segment } => {
                self.illustration(segment)?;
                let at = self.find(segment)?;
                self.segments[at].illustration = None;
            }
        }
        Ok(())
    }

    fn insert(&mut self, at: usize, text: &str) -> Result<(), EditError> {
        check_position(at, self.segments.len())?;
        check_text(text)?;
        if self.segments.len() >= MAX_ARTICLE_SEGMENTS {
            return Err(EditError::Full);
        }
        if let Some(segment) = self.new_segment(text) {
            self.segments.insert(at, segment);
        }
        Ok(())
    }

    fn set_pictures(
        &mut self,
        segment: SegmentId,
        caption: String,
        pictures: Vec<Picture>,
    ) -> Result<(), EditError> {
        let at = self.find(segment)?;
        check_text(&caption)?;
        let num_pictures = pictures.len();
        if num_pictures > MAX_GROUP {
            return Err(EditError::NumPictures(num_pictures));
        }
        let group = Illustration::new(caption, pictures, 0, false);
        let group = group.ok_or(EditError::NumPictures(num_pictures))?;
        self.exclude(&group.candidates);
        self.segments[at].illustration = Some(group);
        Ok(())
    }

    pub(super) fn find(&self, segment: SegmentId) -> Result<usize, EditError> {
        self.position(segment).ok_or(EditError::NoSegment(segment))
    }

    fn illustration(&mut self, segment: SegmentId) -> Result<&mut Illustration, EditError> {
        let at = self.find(segment)?;
        let Segment { illustration, .. } = &mut self.segments[at];
        illustration.as_mut().ok_or(EditError::NoPicture(segment))
    }
}

pub(super) fn check_text(text: &str) -> Result<(), EditError> {
    if text.len() > MAX_SEGMENT_BYTES {
        return Err(EditError::TextTooLong(text.len()));
    }
    Ok(())
}

fn check_position(found: usize, limit: usize) -> Result<(), EditError> {
    if found > limit {
        return Err(EditError::Position { found, limit });
    }
    Ok(())
}
