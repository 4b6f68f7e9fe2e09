//! What callers ask of a composer, and what they are told. Fields are checked where they are used; paths in errors are those of
//! the call's message.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures::{Stream, StreamExt, stream::BoxStream};
use inkstone_composition::{
    ComposeRequest, Picture, PictureId, Sampling, SystemText,
    article::{Article, ArticleId, Edit, SegmentId},
    procedure::{FinishReason, Numbered, Warning},
    steps::{choice::Choice, places::Places},
};
use tokio::time::Instant;

use crate::error::RequestError;

/// Who calls.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    /// On whose behalf; empty: nobody's in particular.
    pub(crate) tenant: Bytes,
    /// For logs.
    pub(crate) request_id: String,
    /// Of the call. A composition that began does not end by it.
    pub(crate) deadline: Option<Instant>,
}

/// What to compose.
#[derive(Debug, Clone)]
pub(crate) struct ComposeAsk {
    /// The model wanted; empty: the one that is served.
    pub(crate) model: String,
    /// Without pictures and source, which are filled in; so is the release, which is the model's.
    pub(crate) request: ComposeRequest,
    /// Encoded pictures.
    pub(crate) uploads: Vec<Bytes>,
    pub(crate) source: WantedSource,
}

/// Where pictures come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum WantedSource {
    /// Uploads where there are any, else the server's search, where it has one. Told of a composition: from nowhere.
    #[default]
    Default,
    Uploads,
    Search,
    Client,
}

/// A picture that the client found or made.
#[derive(Debug, Clone, Default)]
pub(crate) struct ProvidedPicture {
    /// The encoded picture.
    pub(crate) data: Bytes,
    /// What the client calls it; none: its digest.
    pub(crate) index: Option<String>,
    pub(crate) source: Option<String>,
    pub(crate) author: Option<String>,
    pub(crate) licence: Option<String>,
}

/// The events of a composition as they come; ends after the last one. Reading slowly holds nothing up. While there is one, the
/// composition is not abandoned.
pub(crate) struct ComposeEvents {
    pub(super) article_id: ArticleId,
    pub(super) expires_after: Duration,
    pub(super) source: WantedSource,
    pub(super) events: BoxStream<'static, Numbered>,
}

impl ComposeEvents {
    pub(crate) fn article_id(&self) -> &ArticleId {
        &self.article_id
    }

    /// How long the article is kept after it was last touched.
    pub(crate) fn expires_after(&self) -> Duration {
        self.expires_after
    }

    /// Where its pictures come from: `Default` means from nowhere, it is text only.
    pub(crate) fn source(&self) -> WantedSource {
        self.source
    }
}

impl Stream for ComposeEvents {
    type Item = Numbered;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Numbered>> {
        self.events.poll_next_unpin(context)
    }
}

/// An article as it is now.
#[derive(Debug, Clone)]
pub(crate) struct ArticleView {
    /// None while it is being composed, and where that failed.
    pub(crate) article: Option<Article>,
    /// What it was asked for by.
    pub(crate) instruction: String,
    pub(crate) is_composing: bool,
}

/// The text of an edit as it is written; `Proposed` is last, or an error.
pub(crate) struct EditEvents {
    pub(super) events: BoxStream<'static, Result<EditUpdate, RequestError>>,
}

impl Stream for EditEvents {
    type Item = Result<EditUpdate, RequestError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.events.poll_next_unpin(context)
    }
}

/// One event of an edit.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum EditUpdate {
    Warning(Warning),
    /// More of the text.
    Delta(String),
    /// All of it. `Cancelled`: the edit was closed meanwhile.
    Proposed {
        text: String,
        finish: FinishReason,
    },
}

/// A change by hand.
#[derive(Debug, Clone)]
pub(crate) enum Change {
    /// Any but `Edit::SetPictures`, whose pictures must be known here.
    Edit(Edit),
    /// Pictures in place of a segment's present ones; the first is shown.
    SetPictures {
        segment: SegmentId,
        caption: String,
        /// Pictures that the article has …
        ids: Vec<PictureId>,
        /// … or new ones.
        uploads: Vec<ProvidedPicture>,
    },
    Undo,
    Redo,
}

/// What an article leaves as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ExportFormat {
    /// Markdown, JSON and the pictures.
    Zip,
    /// One page with the pictures in it.
    Html,
    Json,
    /// Without the pictures' files.
    Markdown,
}

/// An article as a file.
#[derive(Debug, Clone)]
pub(crate) struct ExportFile {
    pub(crate) media_type: &'static str,
    /// What to call it.
    pub(crate) name: String,
    pub(crate) data: Bytes,
}

/// What steps by themselves have in common.
#[derive(Debug, Clone)]
pub(crate) struct StepParams {
    /// The model wanted; empty: the one that is served.
    pub(crate) model: String,
    /// None: the reference's.
    pub(crate) sampling: Option<Sampling>,
    pub(crate) seed: u64,
    pub(crate) system: SystemText,
}

/// After which segments pictures fit?
#[derive(Debug, Clone)]
pub(crate) struct SuggestLocations {
    pub(crate) params: StepParams,
    pub(crate) segments: Vec<String>,
    /// None: the model decides.
    pub(crate) count: Option<usize>,
    /// The pictures that will be put in, if they are known.
    pub(crate) pictures: Vec<Bytes>,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct SuggestedLocations {
    pub(crate) places: Places,
    /// The model's answer.
    pub(crate) raw: String,
    /// The question was shortened to fit.
    pub(crate) is_shortened: bool,
}

/// What should a picture after a segment show?
#[derive(Debug, Clone)]
pub(crate) struct SuggestCaption {
    pub(crate) params: StepParams,
    pub(crate) segments: Vec<String>,
    /// The number of the segment after which the picture goes.
    pub(crate) location: usize,
    /// Captions of earlier places.
    pub(crate) earlier: Vec<(usize, String)>,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct SuggestedCaption {
    pub(crate) caption: String,
    pub(crate) raw: String,
    pub(crate) is_shortened: bool,
}

/// Which of some pictures fits after a segment?
#[derive(Debug, Clone)]
pub(crate) struct SelectImage {
    pub(crate) params: StepParams,
    pub(crate) segments: Vec<String>,
    pub(crate) location: usize,
    /// Pictures that stand at earlier places.
    pub(crate) earlier: Vec<(usize, Bytes)>,
    /// 1 to 10.
    pub(crate) candidates: Vec<Bytes>,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct SelectedImage {
    pub(crate) choice: Choice,
    pub(crate) raw: String,
    pub(crate) is_shortened: bool,
}

/// Which pictures fit a caption?
#[derive(Debug, Clone)]
pub(crate) struct SearchImages {
    pub(crate) caption: String,
    /// Keeps what is found for this article, and leaves out what it was offered before.
    pub(crate) article: Option<ArticleId>,
    /// 1 to 16.
    pub(crate) max_pictures: usize,
    /// Pictures that are not wanted, by what the source calls them.
    pub(crate) exclude: Vec<String>,
}

/// A picture that was found.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct FoundImage {
    pub(crate) picture: Picture,
    /// What its source says of it.
    pub(crate) caption: String,
    /// None where the article keeps it.
    pub(crate) data: Option<Bytes>,
}
