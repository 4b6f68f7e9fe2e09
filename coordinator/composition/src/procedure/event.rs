//! What a user is told while an article comes about (spec section 9).

use serde::{Deserialize, Serialize};

use crate::{
    ComposeRequest, Picture,
    article::{Article, SearchRequest},
    steps::places::Places,
};

/// An event with its number: 0 is the first, none is left out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Numbered {
    pub sequence: u64,
    pub event: Event,
}

/// Places are told by the number of the segment after which they are.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Event {
    /// First, with what is really done: counts capped, samplings chosen.
    Accepted {
        request: Box<ComposeRequest>,
    },
    /// The article's text as it is written.
    TextDelta {
        text: String,
    },
    SegmentClosed {
        index: usize,
        text: String,
    },
    /// The text is complete.
    ArticleDone {
        num_segments: usize,
        finish: FinishReason,
        /// Not known of a run that was ended before its time.
        usage: Option<Usage>,
    },
    /// Where pictures will go, and the answer that says so.
    Locations {
        #[serde(flatten)]
        places: Places,
        raw: String,
    },
    Caption {
        place: usize,
        text: String,
    },
    /// Pictures are looked for.
    CandidatesRequest {
        place: usize,
        #[serde(flatten)]
        search: SearchRequest,
    },
    Candidates {
        place: usize,
        pictures: Vec<Picture>,
    },
    /// A place stays without a picture.
    LocationDropped {
        place: usize,
        reason: DropReason,
    },
    ImageSelected {
        place: usize,
        /// Which of the candidates, from 0; always 0 for uploads, which make a group of one.
        candidate: usize,
        picture: Picture,
        /// The answer; empty where there was nothing to choose.
        raw: String,
        by_default: bool,
    },
    Progress {
        stage: Stage,
        done: usize,
        total: usize,
    },
    Warning {
        warning: Warning,
    },
    /// Last, where there is an article.
    Done {
        article: Box<Article>,
    },
    /// Last, where there is none.
    Error {
        stage: Stage,
        error: ComposeError,
    },
}

impl Event {
    /// Whether nothing follows it.
    pub fn is_last(&self) -> bool {
        matches!(self, Self::Done { .. } | Self::Error { .. })
    }
}

/// A part of the procedure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    Article,
    Locations,
    Captions,
    /// Searches and choices: a place is done when it has a picture or will have none.
    Pictures,
}

/// Why the article's text ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    Stop,
    /// At the limit of tokens or of segments.
    Length,
    Cancelled,
}

/// Tokens of the article.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Usage {
    pub prompt_tokens: usize,
    pub output_tokens: usize,
}

/// Why a place stays without a picture.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[serde(tag = "kind", content = "detail", rename_all = "snake_case")]
pub enum DropReason {
    #[error("caption could not be made: {0}")]
    CaptionFailed(String),
    #[error("caption is empty")]
    EmptyCaption,
    #[error("picture source failed: {0}")]
    SourceFailed(String),
    #[error("picture source has no picture that fits and was not offered before")]
    NoCandidates,
    #[error("composition was cancelled")]
    Cancelled,
}

/// What went otherwise than asked for, without being an error.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[serde(tag = "code", rename_all = "snake_case")]
pub enum Warning {
    #[error("{wanted} pictures are wanted and {given} were sent: the article gets {given}")]
    FewerPictures { wanted: usize, given: usize },
    #[error("{wanted} pictures are wanted and the model named {found} places")]
    FewerPlaces { wanted: usize, found: usize },
    #[error("the article has more than {limit} segments: the rest is left out")]
    TooManySegments { limit: usize },
    #[error("the prompt of a step was too long: what matters least to it was left out")]
    ContextShortened {
        stage: Stage,
        /// The place that was asked about.
        place: Option<usize>,
    },
    #[error(
        "pictures are wanted, none were sent and there is nowhere to look for any: the article is text only"
    )]
    NoPictureSource,
    #[error("places could not be asked for: {reason}")]
    LocationsFailed { reason: String },
    #[error(
        "the choice after segment {place} could not be made, so the first picture is taken: {reason}"
    )]
    ChoiceFailed { place: usize, reason: String },
}

/// Why there is no article.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[serde(tag = "code", rename_all = "snake_case")]
pub enum ComposeError {
    #[error(
        "instruction and pictures are too long: prompt has {num_tokens} tokens, limit is {limit}"
    )]
    PromptTooLong { num_tokens: usize, limit: usize },
    #[error("article could not be written: {reason}")]
    Failed { reason: String },
    #[error("the model wrote nothing")]
    Empty,
    #[error("composition was cancelled before anything was written")]
    Cancelled,
}
