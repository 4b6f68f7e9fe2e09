//! Picture files to RGB pixels, as Pillow's `Image.open(file).convert("RGB")` gives them: alpha is dropped, the first
//! frame of an animation is taken, no EXIF rotation, no colour management. What a file claims to be is read from its
//! content; its header is held against the limits before a pixel is decoded.

mod gif;
mod jpeg;
mod raster;
mod webp;

#[cfg(test)]
mod tests;

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use thiserror::Error;

use super::RgbPicture;

/// How much a picture file may ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DecodeLimits {
    /// Length of the encoded file. The default, 20 MiB, is what the common hosted interfaces take.
    pub max_bytes: usize,
    /// Width times height. The default, 40 megapixels, holds what phones and cameras commonly make; decoding it
    /// takes about 400 MB for a progressive JPEG.
    pub max_pixels: u64,
}

impl Default for DecodeLimits {
    fn default() -> Self {
        Self {
            max_bytes: 20 << 20,
            max_pixels: 40_000_000,
        }
    }
}

impl DecodeLimits {
    /// Refuses a header that asks for more pixels than allowed, or for none.
    fn check_pixels(&self, width: u32, height: u32) -> Result<(), PictureError> {
        if width == 0 || height == 0 {
            return Err(PictureError::Empty { width, height });
        }
        let limit = self.max_pixels;
        if u64::from(width) * u64::from(height) > limit {
            return Err(PictureError::TooManyPixels {
                width,
                height,
                limit,
            });
        }
        Ok(())
    }

    /// What a decoder may allocate besides: eight bytes a pixel cover 16-bit RGBA, and as much again for its own state.
    fn max_alloc(&self) -> u64 {
        self.max_pixels.saturating_mul(16).saturating_add(64 << 20)
    }
}

/// The file formats that are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PictureFormat {
    Png,
    Jpeg,
    WebP,
    Gif,
    Bmp,
}

impl PictureFormat {
    /// Tells the format from the first bytes of a file.
    pub fn sniff(bytes: &[u8]) -> Option<Self> {
        match bytes {
            [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1a, b'\n', ..] => Some(Self::Png),
            [0xff, 0xd8, 0xff, ..] => Some(Self::Jpeg),
            [
                b'R',
                b'I',
                b'F',
                b'F',
                _,
                _,
                _,
                _,
                b'W',
                b'E',
                b'B',
                b'P',
                ..,
            ] => Some(Self::WebP),
            [b'G', b'I', b'F', b'8', b'7' | b'9', b'a', ..] => Some(Self::Gif),
            [b'B', b'M', ..] => Some(Self::Bmp),
            _ => None,
        }
    }
}

impl fmt::Display for PictureFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Png => "PNG",
            Self::Jpeg => "JPEG",
            Self::WebP => "WebP",
            Self::Gif => "GIF",
            Self::Bmp => "BMP",
        })
    }
}

/// Why a picture was refused. All of these are the sender's to mend.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PictureError {
    #[error("picture file has {found} bytes, limit is {limit}")]
    TooManyBytes { found: usize, limit: usize },
    #[error("picture is {width} x {height} pixels, limit is {limit} in all")]
    TooManyPixels { width: u32, height: u32, limit: u64 },
    #[error("picture has no pixels ({width} x {height})")]
    Empty { width: u32, height: u32 },
    #[error(
        "not a picture in a known format: wanted PNG, JPEG, WebP, GIF or BMP, found bytes {start:02x?}"
    )]
    UnknownFormat { start: Vec<u8> },
    #[error("{format} file uses a feature that is not supported: {detail}")]
    Unsupported {
        format: PictureFormat,
        detail: String,
    },
    #[error("{format} file is damaged: {detail}")]
    Damaged {
        format: PictureFormat,
        detail: String,
    },
}

/// Decodes a picture file to RGB.
///
/// # Errors
/// [`PictureError`] for a file over the limits, of no known format, damaged, or cut short. Never panics.
pub fn decode_picture(bytes: &[u8], limits: &DecodeLimits) -> Result<RgbPicture, PictureError> {
    if bytes.len() > limits.max_bytes {
        return Err(PictureError::TooManyBytes {
            found: bytes.len(),
            limit: limits.max_bytes,
        });
    }
    let format = PictureFormat::sniff(bytes).ok_or_else(|| PictureError::UnknownFormat {
        start: bytes[..bytes.len().min(8)].to_vec(),
    })?;
    // The decoders are made for hostile input, but they are a lot of code of other hands: what one of them gets wrong
    // must cost one picture, not the process. They share nothing with us that an unwinding could leave half done.
    catch_unwind(AssertUnwindSafe(|| match format {
        PictureFormat::Png => raster::decode_png(bytes, limits),
        PictureFormat::Bmp => raster::decode_bmp(bytes, limits),
        PictureFormat::Jpeg => jpeg::decode(bytes, limits),
        PictureFormat::WebP => webp::decode(bytes, limits),
        PictureFormat::Gif => gif::decode(bytes, limits),
    }))
    .unwrap_or_else(|_| Err(damaged(format, "the decoder gave up")))
}

fn damaged(format: PictureFormat, detail: impl fmt::Display) -> PictureError {
    PictureError::Damaged {
        format,
        detail: detail.to_string(),
    }
}
