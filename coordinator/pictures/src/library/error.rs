//! Why the library cannot do what it was asked.

use std::path::PathBuf;

/// What went wrong with a library as a whole; a single bad picture is a [`Refusal`](super::Refusal).
#[derive(Debug, thiserror::Error)]
pub enum LibraryError {
    #[error(
        "no library at {location:?}: {reason}; wanted is a folder or s3://bucket/prefix into which pictures were imported"
    )]
    Location { location: String, reason: String },
    #[error("cannot {attempt} in library {location}: {reason}")]
    Store {
        location: String,
        attempt: &'static str,
        reason: String,
    },
    #[error(
        "the index of library {location} in {folder:?}: {reason}; it can be deleted, and is made again from the records"
    )]
    Index {
        location: String,
        folder: Option<PathBuf>,
        reason: String,
    },
    #[error("cannot take picture {position} into the library: {refusal}")]
    Refused {
        position: usize,
        refusal: super::Refusal,
    },
}
