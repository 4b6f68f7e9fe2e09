//! WebP, still or animated. Frames are checked against the canvas before the decoder sees them: it makes room for
//! what a frame's own header says first and compares afterwards.

use std::io::Cursor;

use image::Rgba;
use image::codecs::webp::WebPDecoder;

use super::raster::{Grey16, explain, read_rgb};
use super::{DecodeLimits, PictureError, PictureFormat, damaged};
use crate::clip::preprocess::RgbPicture;

pub(super) fn decode(bytes: &[u8], limits: &DecodeLimits) -> Result<RgbPicture, PictureError> {
    let format = PictureFormat::WebP;
    check_frames(bytes.get(12..).unwrap_or_default(), limits)?;
    let mut decoder = WebPDecoder::new(Cursor::new(bytes)).map_err(|e| explain(format, e))?;
    if decoder.has_animation() {
        // Pillow starts from a transparent canvas whatever background the file names.
        decoder
            .set_background_color(Rgba([0; 4]))
            .map_err(|e| explain(format, e))?;
    }
    read_rgb(decoder, format, limits, Grey16::HighByte)
}

/// Holds the size in every frame header of a file against the limits, in still pictures and in animations.
fn check_frames(chunks: &[u8], limits: &DecodeLimits) -> Result<(), PictureError> {
    for (name, body) in Chunks(chunks) {
        check_frame(name, body, limits)?;
        if name == b"ANMF" {
            let mut inner = Chunks(body.get(16..).unwrap_or_default());
            inner.try_for_each(|(name, body)| check_frame(name, body, limits))?;
        }
    }
    Ok(())
}

fn check_frame(name: &[u8; 4], body: &[u8], limits: &DecodeLimits) -> Result<(), PictureError> {
    let size = match name {
        b"VP8 " => lossy_size(body),
        b"VP8L" => lossless_size(body),
        _ => return Ok(()),
    };
    let (width, height) =
        size.ok_or_else(|| damaged(PictureFormat::WebP, "a frame header is cut short"))?;
    limits.check_pixels(width, height)
}

/// A list of chunks: the name and the body of each, as far as the file goes.
struct Chunks<'a>(&'a [u8]);

impl<'a> Iterator for Chunks<'a> {
    type Item = (&'a [u8; 4], &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (name, rest) = self.0.split_first_chunk::<4>()?;
        let (len, rest) = rest.split_first_chunk::<4>()?;
        let len = u32::from_le_bytes(*len) as usize;
        self.0 = rest.get(len.saturating_add(len % 2)..).unwrap_or_default();
        Some((name, &rest[..len.min(rest.len())]))
    }
}

fn lossy_size(body: &[u8]) -> Option<(u32, u32)> {
    let side = |at: usize| {
        Some(u32::from(
            u16::from_le_bytes(body.get(at..at + 2)?.try_into().ok()?) & 0x3fff,
        ))
    };
    Some((side(6)?, side(8)?))
}

fn lossless_size(body: &[u8]) -> Option<(u32, u32)> {
    let bits = u32::from_le_bytes(body.get(1..5)?.try_into().ok()?);
    Some(((bits & 0x3fff) + 1, (bits >> 14 & 0x3fff) + 1))
}
