//! An article: segments, some with a picture after them. It changes by edits, each of which names the revision that it was
//! made for, so that of two people who change it at once the second is told. Serialises to JSON.

mod edit;
mod history;
mod pending;

use serde::{Deserialize, Serialize};

pub use self::{
    edit::{Edit, EditError, MAX_ARTICLE_SEGMENTS, MAX_GROUP, MAX_SEGMENT_BYTES},
    history::{History, MAX_UNDO},
    pending::{PendingEdit, Proposal},
};
use crate::{ComposeRequest, Picture, steps::caption};

/// Names an article.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ArticleId(pub String);

/// Names a segment for its life, wherever it moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SegmentId(pub u32);

impl std::fmt::Display for SegmentId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Counts the changes of an article, undoing among them; never goes back.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Revision(pub u64);

/// A paragraph, or the title.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Segment {
    pub id: SegmentId,
    /// One line, never empty.
    pub text: String,
    /// Stands after the text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub illustration: Option<Illustration>,
}

/// The picture of a segment, with the others that it was chosen from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "IllustrationFields")]
pub struct Illustration {
    caption: String,
    candidates: Vec<Picture>,
    chosen: usize,
    by_default: bool,
}

#[derive(Deserialize)]
struct IllustrationFields {
    caption: String,
    candidates: Vec<Picture>,
    chosen: usize,
    by_default: bool,
}

impl TryFrom<IllustrationFields> for Illustration {
    type Error = String;

    fn try_from(fields: IllustrationFields) -> Result<Self, String> {
        let IllustrationFields {
            caption,
            candidates,
            chosen,
            by_default,
        } = fields;
        let len = candidates.len();
        Self::new(caption, candidates, chosen, by_default)
            .ok_or_else(|| format!("chosen picture must be one of {len}, found {chosen}"))
    }
}

impl Illustration {
    /// `None` where the chosen one is not among the candidates.
    pub fn new(
        caption: String,
        candidates: Vec<Picture>,
        chosen: usize,
        by_default: bool,
    ) -> Option<Self> {
        (chosen < candidates.len()).then(|| Self {
            caption: caption::clean(&caption),
            candidates,
            chosen,
            by_default,
        })
    }

    /// One line; empty for pictures of the user's own.
    pub fn caption(&self) -> &str {
        &self.caption
    }

    pub fn candidates(&self) -> &[Picture] {
        &self.candidates
    }

    pub fn chosen(&self) -> usize {
        self.chosen
    }

    /// The chosen picture.
    pub fn picture(&self) -> &Picture {
        &self.candidates[self.chosen]
    }

    /// Whether it is the first one because the model's choice could not be read.
    pub fn by_default(&self) -> bool {
        self.by_default
    }
}

/// A search for pictures.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SearchRequest {
    /// Never empty.
    pub caption: String,
    /// Pictures that are not wanted again, by what their source calls them.
    pub exclude: Vec<String>,
}

impl SearchRequest {
    /// The caption as the demo's service takes it: its first 53 characters.
    pub fn short_caption(&self) -> String {
        self.caption.chars().take(53).collect()
    }
}

/// See the module's text.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Article {
    id: ArticleId,
    request: ComposeRequest,
    segments: Vec<Segment>,
    revision: Revision,
    next_segment: u32,
    /// Edits that the model was asked for: each is drawn with a seed of its own.
    #[serde(default)]
    num_proposals: u64,
    /// Pictures that were offered before, by what their source calls them.
    #[serde(default)]
    excluded: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pending: Option<PendingEdit>,
    #[serde(default, skip_serializing_if = "History::is_empty")]
    history: History,
}

impl Article {
    /// An article as it was written. Texts that are empty on one line are left out with their pictures.
    pub fn new(
        id: ArticleId,
        request: ComposeRequest,
        written: impl IntoIterator<Item = (String, Option<Illustration>)>,
        excluded: Vec<String>,
    ) -> Self {
        let mut article = Self {
            id,
            request,
            segments: vec![],
            revision: Revision::default(),
            next_segment: 0,
            num_proposals: 0,
            excluded,
            pending: None,
            history: History::default(),
        };
        for (text, illustration) in written {
            if let Some(mut segment) = article.new_segment(&text) {
                segment.illustration = illustration;
                article.segments.push(segment);
            }
        }
        article
    }

    pub fn id(&self) -> &ArticleId {
        &self.id
    }

    /// What was asked for.
    pub fn request(&self) -> &ComposeRequest {
        &self.request
    }

    /// In reading order.
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// Whether it has changes to undo or to do again.
    pub fn history(&self) -> &History {
        &self.history
    }

    /// The edit by the model that is open.
    pub fn pending(&self) -> Option<&PendingEdit> {
        self.pending.as_ref()
    }

    /// Where a segment stands.
    pub fn position(&self, segment: SegmentId) -> Option<usize> {
        self.segments.iter().position(|known| known.id == segment)
    }

    /// The texts, as the questions to the model take them.
    pub fn texts(&self) -> Vec<String> {
        let texts = self.segments.iter().map(|segment| segment.text.clone());
        texts.collect()
    }

    /// A search for pictures by a caption that are new to this article.
    pub fn search(&self, caption: &str) -> Result<SearchRequest, EditError> {
        let caption = caption::clean(caption);
        if caption.is_empty() {
            return Err(EditError::EmptyCaption);
        }
        Ok(SearchRequest {
            caption,
            exclude: self.excluded.clone(),
        })
    }

    /// Pictures that are not to be offered again.
    pub fn excluded(&self) -> &[String] {
        &self.excluded
    }

    /// Notes that these were offered.
    pub fn exclude(&mut self, pictures: &[Picture]) {
        for picture in pictures {
            exclude(&mut self.excluded, picture);
        }
    }

    /// `None` for a text that is empty.
    fn new_segment(&mut self, text: &str) -> Option<Segment> {
        let text = crate::steps::edit::one_line(text);
        if text.is_empty() {
            return None;
        }
        let id = SegmentId(self.next_segment);
        self.next_segment += 1;
        Some(Segment {
            id,
            text,
            illustration: None,
        })
    }
}

/// Adds a picture to those that are not offered again; `false` where it was there.
pub(crate) fn exclude(excluded: &mut Vec<String>, picture: &Picture) -> bool {
    let name = picture.exclusion();
    let is_new = excluded.iter().all(|known| known != name);
    if is_new {
        excluded.push(name.to_owned());
    }
    is_new
}

#[cfg(test)]
mod tests;
