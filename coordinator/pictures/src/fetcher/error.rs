//! Why a picture was not fetched. What is said here may be told to whoever asked: it names the host as they wrote it, and neither
//! what addresses it has nor how a connection to them fails, or the fetcher would map our networks for strangers.

use std::time::Duration;

use crate::header::PictureFault;

/// What was wanted, and what was found.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FetchError {
    #[error("not a URL: {reason}")]
    Malformed { reason: String },
    #[error("URL has {found} bytes, limit is {limit}")]
    TooLong { found: usize, limit: usize },
    #[error("wanted an http or https URL, found scheme {found:?}")]
    Scheme { found: String },
    #[error("URL holds a user name or a password, which are never sent: give one without")]
    Credentials,
    /// It is not known, or all its addresses are refused: which of the two is not told.
    #[error(
        "host {host} has no public address, and pictures are fetched from public addresses only"
    )]
    NoPublicAddress { host: String },
    #[error("cannot connect to {host} on port {port}")]
    NoConnection { host: String, port: u16 },
    #[error(
        "cannot connect to {host} on port {port} safely: wanted TLS 1.2 or later and a certificate for this host from a known authority"
    )]
    Tls { host: String, port: u16 },
    #[error("redirected from https to http, which is not followed")]
    Downgrade,
    #[error("redirected more than {limit} times")]
    TooManyRedirects { limit: usize },
    #[error("status {status} is a redirect without a location")]
    NoLocation { status: u16 },
    #[error("wanted status 200, found {found}")]
    Status { found: u16 },
    #[error("answer is not HTTP/1.1 as it should be")]
    NotHttp,
    #[error("answer has a head of more than {limit} bytes or 100 fields")]
    HeadTooLarge { limit: usize },
    #[error("body has {}, limit is {limit}", match declared {
        Some(bytes) => format!("{bytes} bytes"),
        None => "more bytes than are taken".to_owned(),
    })]
    TooManyBytes {
        /// What the head says; none where the body went on and on.
        declared: Option<u64>,
        limit: usize,
    },
    #[error("wanted a body without content encoding, found {found:?}")]
    Encoded { found: String },
    #[error("connection ended after {found} bytes of the body, before all of it had come")]
    CutShort { found: usize },
    #[error(transparent)]
    Picture(#[from] PictureFault),
    #[error("{wait} took longer than {limit:?}")]
    TimedOut { wait: Wait, limit: Duration },
}

/// What there is a time limit for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    Connect,
    /// For the head of the answer, and after that for each piece of the body.
    Answer,
    Whole,
}

impl std::fmt::Display for Wait {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Connect => "connecting",
            Self::Answer => "waiting for the answer or for more of it",
            Self::Whole => "fetching",
        })
    }
}
