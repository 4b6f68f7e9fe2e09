//! Where pictures for articles come from: a library of one's own, found by its captions, or a provider elsewhere, reached through
//! a guarded fetcher. Nothing here knows of models, articles or the wire to clients.

pub mod fetcher;
pub mod header;
pub mod library;
pub mod provider;
mod source;

pub use source::{FoundPicture, PictureSource, Search, SourceError};
