//! A library of pictures of one's own, found by their captions and tags, in English and Chinese.
//!
//! Records and pictures are the truth and lie in the store (a folder, or S3). The index is derived from the records, lies on this
//! machine and can be deleted at any time. So several coordinators can open one library.

mod error;
pub mod import;
mod options;
mod record;

use std::collections::BTreeMap;
use std::path::PathBuf;

use async_trait::async_trait;
use bytes::Bytes;

pub use self::error::LibraryError;
pub use self::options::{IndexPlace, LibraryOptions, PictureLimits, S3Settings};
pub use self::record::{Details, Entry, Record};
use crate::header::PictureFault;
use crate::source::{FoundPicture, PictureSource, Search, SourceError};

/// A library that is open. Clones are the same library.
#[derive(Clone)]
pub struct Library {
    name: String,
}

/// A picture that a search found, without its bytes.
#[derive(Debug, Clone, PartialEq)]
pub struct Hit {
    pub record: Record,
    /// BM25 over captions and tags; comparable within one search only.
    pub score: f32,
}

/// What a library holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// As it was given.
    pub location: String,
    /// None when the index is in memory.
    pub index_folder: Option<PathBuf>,
    pub pictures: u64,
    /// Of all pictures.
    pub bytes: u64,
    pub without_caption: u64,
    pub by_media_type: BTreeMap<String, u64>,
    /// Records that could not be read, by the objects they lie in. Importing their pictures again mends it.
    pub damaged: Vec<String>,
}

/// Why a picture is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error(transparent)]
    Header(#[from] PictureFault),
    #[error("the picture cannot be decoded: {reason}")]
    Undecodable { reason: String },
    #[error("the picture has {bytes} bytes, limit is {limit}")]
    TooManyBytes { bytes: u64, limit: u64 },
}

impl Library {
    /// Opens the library in a folder, or at `s3://bucket/prefix`. Its index is made where it is missing, damaged or behind the records.
    pub async fn open(location: &str, _options: LibraryOptions) -> Result<Self, LibraryError> {
        Ok(Self {
            name: location.to_owned(),
        })
    }

    /// A library that ends with the process.
    pub async fn in_memory(
        name: &str,
        _entries: impl IntoIterator<Item = Entry>,
    ) -> Result<Self, LibraryError> {
        Ok(Self {
            name: name.to_owned(),
        })
    }

    /// Takes pictures in, all of them or, on an error, none that anybody would find. One that is there already gets these details.
    pub async fn add(&self, _entries: Vec<Entry>) -> Result<Vec<Record>, LibraryError> {
        Ok(Vec::new())
    }

    /// Looks whether others have added pictures; gives how many there are.
    pub async fn refresh(&self) -> Result<u64, LibraryError> {
        Ok(0)
    }

    /// What [`PictureSource::search`] finds, without reading the pictures.
    pub async fn find(&self, _search: &Search) -> Result<Vec<Hit>, LibraryError> {
        Ok(Vec::new())
    }

    pub async fn record(&self, _index: &str) -> Result<Option<Record>, LibraryError> {
        Ok(None)
    }

    /// The encoded picture. None when the library has no such picture, or its bytes are gone or are no longer those of its digest.
    pub async fn picture(&self, _index: &str) -> Result<Option<Bytes>, LibraryError> {
        Ok(None)
    }

    pub async fn summary(&self) -> Result<Summary, LibraryError> {
        Ok(Summary {
            location: self.name.clone(),
            index_folder: None,
            pictures: 0,
            bytes: 0,
            without_caption: 0,
            by_media_type: BTreeMap::new(),
            damaged: Vec::new(),
        })
    }
}

#[async_trait]
impl PictureSource for Library {
    fn name(&self) -> &str {
        &self.name
    }

    async fn search(&self, _search: &Search) -> Result<Vec<FoundPicture>, SourceError> {
        Ok(Vec::new())
    }
}
