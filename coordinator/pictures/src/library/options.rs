//! How a library is opened.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// How a library is opened; the default suits most.
#[derive(Debug, Clone)]
pub struct LibraryOptions {
    /// Whether a library is made where there is none; otherwise that is an error, so that a wrong location is noticed.
    pub create: bool,
    pub index: IndexPlace,
    /// Only for locations that begin with `s3://`.
    pub s3: S3Settings,
    /// A search later than this after the last look at the store looks first whether others have added pictures.
    pub refresh_after: Duration,
    pub limits: PictureLimits,
}

impl Default for LibraryOptions {
    fn default() -> Self {
        Self {
            create: false,
            index: IndexPlace::default(),
            s3: S3Settings::default(),
            refresh_after: Duration::from_secs(30),
            limits: PictureLimits::default(),
        }
    }
}

/// Where the index lies. It is made from the records and can be deleted at any time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum IndexPlace {
    /// In the library's own folder; in memory where the library is no folder.
    #[default]
    Default,
    /// In a folder of its own below this one: one cache folder may serve many libraries.
    Below(PathBuf),
    Memory,
}

/// What a picture may be at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PictureLimits {
    pub bytes: u64,
    pub pixels: u64,
}

impl Default for PictureLimits {
    /// Those of vision workers: what they refuse is of no use in a library.
    fn default() -> Self {
        Self {
            bytes: 20 << 20,
            pixels: 40_000_000,
        }
    }
}

/// What everybody calls `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_SESSION_TOKEN`, `AWS_REGION`, `AWS_ENDPOINT_URL`, `AWS_ALLOW_HTTP`.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct S3Settings(BTreeMap<String, String>);

impl S3Settings {
    /// Takes those that begin with `AWS_`; made for `std::env::vars()`.
    pub fn from_variables(variables: impl IntoIterator<Item = (String, String)>) -> Self {
        Self(
            variables
                .into_iter()
                .filter(|(name, _)| name.starts_with("AWS_"))
                .collect(),
        )
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
    }
}

/// Names only: the values are secrets.
impl fmt::Debug for S3Settings {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_set().entries(self.0.keys()).finish()
    }
}
