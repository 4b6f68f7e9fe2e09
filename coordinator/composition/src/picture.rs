//! A picture as an article knows it: its name in the cluster, and where it is from.

use serde::{Deserialize, Serialize};

/// What the cluster finds a picture by; its digest, as a rule.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PictureId(String);

impl PictureId {
    pub fn new(id: impl Into<String>) -> Self {
        Self(id.into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for PictureId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// A picture and what must be told wherever it is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Picture {
    pub id: PictureId,
    /// Such as `image/png`; picks the name of an exported file.
    pub media_type: String,
    /// What its source calls it; the same picture is not offered to an article twice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index: Option<String>,
    /// Where it was found: an address, or the name of a library.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub licence: Option<String>,
}

impl Picture {
    /// A picture of the user's own.
    pub fn uploaded(id: impl Into<String>, media_type: impl Into<String>) -> Self {
        Self {
            id: PictureId::new(id),
            media_type: media_type.into(),
            index: None,
            source: None,
            author: None,
            licence: None,
        }
    }

    /// What the list of pictures that are not wanted again has it under.
    pub fn exclusion(&self) -> &str {
        self.index.as_deref().unwrap_or(self.id.as_str())
    }
}
