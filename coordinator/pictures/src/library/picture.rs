//! Whether bytes are a picture that the library takes.

use std::io::Cursor;

use bytes::Bytes;
use image::{ImageReader, Limits};

use super::options::PictureLimits;
use super::record::{Details, Record};
use crate::header::{self, PictureFault};

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

/// A picture that was looked at and is good.
pub(super) struct CheckedPicture {
    pub(super) data: Bytes,
    pub(super) media_type: &'static str,
    pub(super) record: Record,
}

/// The name of a picture: what its bytes are, not what a file is called.
pub(super) fn digest(data: &[u8]) -> String {
    blake3::hash(data).to_hex().to_string()
}

/// Whether this is such a name. Records come from a store that others write, and names become paths.
pub(super) fn is_digest(name: &str) -> bool {
    name.len() == 64
        && name
            .bytes()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Reads the header, then decodes the picture once: one that is cut short in the middle is better found now than when an article
/// wants it. Takes as long as decoding takes, so it belongs on a thread that may block.
pub(super) fn check(
    data: Bytes,
    details: Details,
    limits: &PictureLimits,
) -> Result<CheckedPicture, Refusal> {
    let bytes = data.len() as u64;
    if bytes > limits.bytes {
        return Err(Refusal::TooManyBytes {
            bytes,
            limit: limits.bytes,
        });
    }
    let header = header::inspect(&data, limits.pixels)?;
    decode(&data, limits)?;
    let record = Record {
        index: digest(&data),
        media_type: header.media_type.to_owned(),
        bytes,
        width: header.width,
        height: header.height,
        details,
    };
    Ok(CheckedPicture {
        data,
        media_type: header.media_type,
        record,
    })
}

fn decode(data: &[u8], limits: &PictureLimits) -> Result<(), Refusal> {
    let undecodable = |reason: String| Refusal::Undecodable { reason };
    let mut reader = ImageReader::new(Cursor::new(data))
        .with_guessed_format()
        .map_err(|error| undecodable(error.to_string()))?;
    let mut allowed = Limits::no_limits();
    // Sixteen bits for each of four channels is the most that a pixel takes; decoders want room of their own beside that.
    allowed.max_alloc = Some(limits.pixels.saturating_mul(8).saturating_add(64 << 20));
    reader.limits(allowed);
    reader
        .decode()
        .map(drop)
        .map_err(|error| undecodable(error.to_string()))
}
