//! Brings a folder of pictures into a library.
//!
//! What is there already, by the digest of its bytes, is left alone, so an import that was killed at any point is simply run again.

mod run;
mod sidecars;
mod walk;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use super::{Details, Library, LibraryError, Refusal};

/// Says what a picture shows, for those that came without a caption.
#[async_trait]
pub trait Captioner: Send + Sync {
    /// One line. The picture can be decoded: that was tried.
    async fn caption(&self, picture: &Candidate) -> Result<String, CaptionError>;
}

/// Why there is no caption.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CaptionError {
    /// This one only: it is left out, and the import goes on.
    #[error("{reason}")]
    Refused { reason: String },
    /// The next would fare no better: the import ends, and what is done stays.
    #[error("captions cannot be made: {reason}")]
    Unavailable { reason: String },
}

/// A picture of the folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Below the folder that is imported.
    pub path: PathBuf,
    pub data: Bytes,
    /// Of the bytes.
    pub media_type: &'static str,
    /// What its sidecars say.
    pub details: Details,
}

/// How a folder is imported.
#[derive(Debug, Clone)]
pub struct ImportSettings {
    /// For pictures whose sidecars do not say.
    pub source: Option<String>,
    pub author: Option<String>,
    pub licence: Option<String>,
    /// How many pictures become safe at once, or fewer when they are large or their captions take long. A kill loses at most the captions
    /// of one batch.
    pub batch: usize,
    /// How many captions are asked for at once.
    pub captions_at_once: usize,
}

impl Default for ImportSettings {
    fn default() -> Self {
        Self {
            source: None,
            author: None,
            licence: None,
            batch: 256,
            captions_at_once: 8,
        }
    }
}

/// How far an import is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImportEvent {
    /// The folder was walked; that many files will be looked at.
    Walked { files: u64 },
    /// One more file was dealt with.
    File { path: PathBuf, outcome: FileOutcome },
    /// A sidecar, or a line of one, makes no sense; the import goes on without it.
    Sidecar { path: PathBuf, reason: String },
    /// Everything up to here is safe.
    Committed { imported: u64 },
}

/// What became of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileOutcome {
    /// Will be in the library with the next commit.
    Taken {
        caption_made: bool,
    },
    /// The library has it already, or the folder has it twice.
    Known,
    Skipped(SkipReason),
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SkipReason {
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error("no caption: {reason}")]
    NoCaption { reason: String },
    #[error("cannot be read: {reason}")]
    Unreadable { reason: String },
}

/// What an import did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImportReport {
    pub imported: u64,
    pub captions_made: u64,
    /// Imported with neither caption nor tags: no search finds them until an import with a captioner.
    pub without_caption: u64,
    pub known: u64,
    /// The first thousand; the rest is in `skipped_in_all`.
    pub skipped: Vec<(PathBuf, SkipReason)>,
    pub skipped_in_all: u64,
}

/// Why an import ended before its end. What was committed stays, and the next one goes on from there.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    #[error("cannot read folder {folder:?}: {reason}")]
    Folder { folder: PathBuf, reason: String },
    #[error(transparent)]
    Library(#[from] LibraryError),
    #[error("captions cannot be made: {reason}; what was imported stays, run it again to go on")]
    Captions { reason: String },
}

/// Brings folders into a library.
pub struct Importer {
    library: Library,
    captioner: Option<Arc<dyn Captioner>>,
    settings: ImportSettings,
}

impl Importer {
    /// Without a captioner, pictures without a caption go in without one.
    pub fn new(
        library: Library,
        captioner: Option<Arc<dyn Captioner>>,
        settings: ImportSettings,
    ) -> Self {
        Self {
            library,
            captioner,
            settings,
        }
    }

    /// Walks the folder and all below it, but no links and nothing whose name begins with a dot. Sidecars: `metadata.jsonl` (a line a
    /// picture: `file_name`, `caption` or `text`, `tags`, `author`, `licence` or `license`, `source`), `NAME.json` with the same keys,
    /// `NAME.txt` with the caption; a later one of these three wins over an earlier one, key by key. A dropped import ends at once, as
    /// if killed; what it committed stays.
    pub async fn import(
        &self,
        folder: &Path,
        on_event: impl FnMut(ImportEvent) + Send,
    ) -> Result<ImportReport, ImportError> {
        run::run(self, folder, on_event).await
    }
}
