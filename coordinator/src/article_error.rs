//! Why what was asked of an article cannot be done. Which status a reason becomes is decided in `api::error`, as for requests.

use std::time::Duration;

use inkstone_composition::{
    PictureId,
    article::{ArticleId, EditError},
};

use crate::error::RequestError;

/// Why what was asked of an article cannot be done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ArticleError {
    /// There is none, or it is another tenant's.
    #[error("there is no article `{}`: articles are kept for a time, by the coordinator that made them", .wanted.0)]
    NotFound { wanted: ArticleId },
    /// The article has no picture of this name.
    #[error("the article has no picture `{wanted}`")]
    PictureNotFound { wanted: PictureId },
    /// As much as allowed is kept already.
    #[error("no room for another article: {full}")]
    Full { full: Full, retry_after: Duration },
    /// The change is for an older revision.
    #[error("{0}")]
    Conflict(EditError),
    /// The change does not fit the article.
    #[error("{0}")]
    Unfit(EditError),
    /// It has no segments to change yet.
    #[error("the article is still being composed: wait for its end, or cancel it")]
    StillComposing,
    /// Its composition failed.
    #[error("the composition ended without an article")]
    NoArticle,
    /// The model still writes the text of the open edit.
    #[error(
        "the edit is still being written: wait for its end, or say what to put in instead of it"
    )]
    EditRunning,
    /// Nobody asked for pictures for this place.
    #[error("no pictures are wanted for place {place} now")]
    PicturesNotWanted { place: usize },
    /// The server has neither a library nor a provider.
    #[error(
        "this server has no source of pictures: start it with --library or --picture-provider, or send pictures along"
    )]
    NoPictureSource,
    /// The server's source failed.
    #[error("{message}")]
    SourceFailed {
        message: String,
        retry_after: Duration,
    },
}

/// Which bound is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Full {
    #[error("{limit} are kept already, the limit is {limit}")]
    Articles { limit: usize },
    #[error("{limit} of this tenant are kept already, the limit is {limit}")]
    TenantArticles { limit: usize },
    #[error("the pictures of all articles would have more than {limit} bytes")]
    PictureBytes { limit: usize },
    #[error("the pictures of this tenant's articles would have more than {limit} bytes")]
    TenantPictureBytes { limit: usize },
}

impl ArticleError {
    /// The stable name of the reason.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::NotFound { .. } => "ARTICLE_NOT_FOUND",
            Self::PictureNotFound { .. } => "PICTURE_NOT_FOUND",
            Self::Full { .. } => "ARTICLES_FULL",
            Self::Conflict(_) => "REVISION_CONFLICT",
            Self::Unfit(_) => "EDIT_REFUSED",
            Self::StillComposing => "STILL_COMPOSING",
            Self::NoArticle => "NO_ARTICLE",
            Self::EditRunning => "EDIT_RUNNING",
            Self::PicturesNotWanted { .. } => "PICTURES_NOT_WANTED",
            Self::NoPictureSource => "NO_PICTURE_SOURCE",
            Self::SourceFailed { .. } => "PICTURE_SOURCE_FAILED",
        }
    }
}

impl From<EditError> for RequestError {
    /// What is wrong whatever the article is like is a fault of the request.
    fn from(error: EditError) -> Self {
        match error {
            EditError::Conflict { .. } => ArticleError::Conflict(error).into(),
            EditError::NumPictures(_) => Self::invalid("set_pictures", error.to_string()),
            EditError::TextTooLong(_) => Self::invalid("text", error.to_string()),
            EditError::EmptyCaption => Self::invalid("caption", error.to_string()),
            EditError::EmptyOutline => Self::invalid("instruction", error.to_string()),
            EditError::Prompt(too_long) => Self::PromptTooLong {
                num_tokens: too_long.num_tokens,
                limit: too_long.limit,
            },
            EditError::NoSegment(_)
            | EditError::NoPicture(_)
            | EditError::Position { .. }
            | EditError::NoCandidate { .. }
            | EditError::Full
            | EditError::EditOpen(_)
            | EditError::NoEditOpen
            | EditError::NothingToUndo
            | EditError::NothingToRedo => ArticleError::Unfit(error).into(),
        }
    }
}
