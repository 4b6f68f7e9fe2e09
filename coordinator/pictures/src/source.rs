//! What all sources have in common.

use async_trait::async_trait;
use bytes::Bytes;

/// Finds pictures by what they should show.
#[async_trait]
pub trait PictureSource: Send + Sync + 'static {
    /// What people call it, in logs and messages.
    fn name(&self) -> &str;

    /// The pictures that fit best, best first; none of those that are excluded, none twice. An empty list is an answer. Callers bound
    /// the time; a dropped search ends.
    async fn search(&self, search: &Search) -> Result<Vec<FoundPicture>, SourceError>;
}

/// What is looked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Search {
    /// Never empty.
    pub caption: String,
    /// Pictures that are not wanted, by their index.
    pub exclude: Vec<String>,
    /// At least 1.
    pub max_pictures: usize,
}

/// A picture, and what must be told wherever it is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundPicture {
    /// What its source calls it.
    pub index: String,
    /// The encoded picture; whether it can be decoded is for others to find out.
    pub data: Bytes,
    /// Of the bytes, such as `image/png`; not what somebody says of them.
    pub media_type: String,
    /// What its source says of it; may be empty.
    pub caption: String,
    /// Where it was found: an address, or the name of a library.
    pub source: Option<String>,
    pub author: Option<String>,
    pub licence: Option<String>,
}

/// Why a source found nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SourceError {
    /// It is away, or what it answers makes no sense; another time it may be there.
    #[error("picture source {name} cannot be reached: {reason}")]
    Unavailable { name: String, reason: String },
}
