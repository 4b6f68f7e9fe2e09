//! Bodies of answers, up to a limit.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, header};
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use tokio::time::timeout;

use super::error::{FetchError, Wait};

/// How much of a body is taken, and how long is waited for each piece.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BodyLimits {
    pub(crate) max_bytes: usize,
    pub(crate) idle_timeout: Duration,
}

/// Reads a body whole. `check` sees what has come each time something came, and may refuse the rest.
pub(crate) async fn read(
    headers: &HeaderMap,
    mut body: Incoming,
    limits: BodyLimits,
    check: impl Fn(&[u8]) -> Result<(), FetchError>,
) -> Result<Bytes, FetchError> {
    refuse_encoded(headers)?;
    let too_many = |declared| FetchError::TooManyBytes {
        declared,
        limit: limits.max_bytes,
    };
    let declared = body.size_hint().lower();
    if declared > limits.max_bytes as u64 {
        return Err(too_many(Some(declared)));
    }
    // It grows with what comes: a declared length alone takes no memory.
    let mut data = BytesMut::new();
    loop {
        let frame = timeout(limits.idle_timeout, body.frame()).await;
        let frame = frame.map_err(|_| FetchError::TimedOut {
            wait: Wait::Answer,
            limit: limits.idle_timeout,
        })?;
        let Some(frame) = frame else {
            return Ok(data.freeze());
        };
        let frame = frame.map_err(|error| {
            tracing::debug!(%error, "a body broke off");
            FetchError::CutShort { found: data.len() }
        })?;
        let Ok(piece) = frame.into_data() else {
            // Trailers say nothing about pictures.
            continue;
        };
        if piece.len() > limits.max_bytes - data.len() {
            return Err(too_many(None));
        }
        data.extend_from_slice(&piece);
        check(&data)?;
    }
}

/// Nothing is decompressed: a few bytes may stand for as many as one likes.
fn refuse_encoded(headers: &HeaderMap) -> Result<(), FetchError> {
    for value in headers.get_all(header::CONTENT_ENCODING) {
        let value = value.as_bytes().trim_ascii();
        if !value.is_empty() && !value.eq_ignore_ascii_case(b"identity") {
            let found = String::from_utf8_lossy(value);
            return Err(FetchError::Encoded {
                found: found.chars().take(32).collect(),
            });
        }
    }
    Ok(())
}
