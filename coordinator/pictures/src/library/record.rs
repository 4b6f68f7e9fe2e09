//! What the library knows of a picture.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// What people say of a picture, and what must be told wherever it is shown.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Details {
    /// May be empty: then only tags find the picture.
    #[serde(default)]
    pub caption: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// Where it is from: an address, a collection, a book.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub licence: Option<String>,
}

/// A picture on its way into the library.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The encoded picture: PNG, JPEG, WebP, GIF or BMP.
    pub data: Bytes,
    pub details: Details,
}

/// A picture in the library.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// BLAKE3 of the encoded bytes, 64 hexadecimal digits: its name everywhere.
    pub index: String,
    /// Of the bytes, such as `image/png`.
    pub media_type: String,
    pub bytes: u64,
    pub width: u32,
    pub height: u32,
    #[serde(flatten)]
    pub details: Details,
}
