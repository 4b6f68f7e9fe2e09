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

/// Holds the size in every frame header of a chunk list against the limits.
fn check_frames(mut chunks: &[u8], limits: &DecodeLimits) -> Result<(), PictureError> {
    while let Some((name, body, rest)) = split_chunk(chunks) {
        let size = match name {
            b"VP8 " => lossy_size(body),
            b"VP8L" => lossless_size(body),
            b"ANMF" => {
                check_frames(body.get(16..).unwrap_or_default(), limits)?;
                None
            }
            _ => None,
        };
        if let Some((width, height)) = size {
            limits.check_pixels(width, height)?;
        } else if matches!(name, b"VP8 " | b"VP8L") {
            return Err(damaged(PictureFormat::WebP, "a frame header is cut short"));
        }
        chunks = rest;
    }
    Ok(())
}

/// The first chunk's name and body (as far as the file goes), and what follows it.
fn split_chunk(chunks: &[u8]) -> Option<(&[u8; 4], &[u8], &[u8])> {
    let (name, rest) = chunks.split_first_chunk::<4>()?;
    let (len, rest) = rest.split_first_chunk::<4>()?;
    let len = u32::from_le_bytes(*len) as usize;
    let body = &rest[..len.min(rest.len())];
    let next = rest.get(len.saturating_add(len % 2)..).unwrap_or_default();
    Some((name, body, next))
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
