//! PNG and BMP, and the step all formats of the `image` crate share: pixels of any kind to eight-bit RGB by Pillow's
//! rules.

use std::io::Cursor;

use image::codecs::bmp::BmpDecoder;
use image::codecs::png::PngDecoder;
use image::{ColorType, ImageDecoder, ImageError, Limits};

use super::{DecodeLimits, PictureError, PictureFormat, damaged};
use crate::clip::preprocess::RgbPicture;

pub(super) fn decode_png(bytes: &[u8], limits: &DecodeLimits) -> Result<RgbPicture, PictureError> {
    let format = PictureFormat::Png;
    let mut room = Limits::no_limits();
    room.max_alloc = Some(limits.max_alloc());
    let (width, height) =
        png_size(bytes).ok_or_else(|| damaged(format, "the header is cut short"))?;
    limits.check_pixels(width, height)?;
    let decoder =
        PngDecoder::with_limits(Cursor::new(bytes), room).map_err(|e| explain(format, e))?;
    let grey = if is_png_grey16(bytes) {
        Grey16::Clipped
    } else {
        Grey16::HighByte
    };
    read_rgb(decoder, format, limits, grey)
}

pub(super) fn decode_bmp(bytes: &[u8], limits: &DecodeLimits) -> Result<RgbPicture, PictureError> {
    let format = PictureFormat::Bmp;
    let decoder = BmpDecoder::new(Cursor::new(bytes)).map_err(|e| explain(format, e))?;
    read_rgb(decoder, format, limits, Grey16::HighByte)
}

/// What becomes of 16-bit grey: Pillow reads a PNG of plain 16-bit grey as integers and clips them at 255 on the way to
/// RGB; with an alpha channel, as with colour, it takes the high byte.
#[derive(Clone, Copy)]
pub(super) enum Grey16 {
    Clipped,
    HighByte,
}

/// Runs a decoder of the `image` crate within the limits and brings what it gives to RGB.
pub(super) fn read_rgb(
    decoder: impl ImageDecoder,
    format: PictureFormat,
    limits: &DecodeLimits,
    grey16: Grey16,
) -> Result<RgbPicture, PictureError> {
    let (width, height) = decoder.dimensions();
    limits.check_pixels(width, height)?;
    let colour = decoder.color_type();
    let mut samples =
        vec![0; usize::from(colour.bytes_per_pixel()) * width as usize * height as usize];
    decoder
        .read_image(&mut samples)
        .map_err(|e| explain(format, e))?;
    let pixels = to_rgb(samples, colour, grey16).ok_or_else(|| PictureError::Unsupported {
        format,
        detail: format!("colour type {colour:?}"),
    })?;
    Ok(RgbPicture::new(width, height, pixels))
}

/// Samples as the `image` crate gives them (16-bit ones in the machine's order) to RGB.
fn to_rgb(samples: Vec<u8>, colour: ColorType, grey16: Grey16) -> Option<Vec<u8>> {
    let high = if cfg!(target_endian = "little") { 1 } else { 0 };
    let clip = |p: &[u8]| u8::try_from(u16::from_ne_bytes([p[0], p[1]])).unwrap_or(u8::MAX);
    Some(match (colour, grey16) {
        (ColorType::Rgb8, _) => samples,
        (ColorType::Rgba8, _) => map_pixels::<4>(&samples, |p| [p[0], p[1], p[2]]),
        (ColorType::L8, _) => map_pixels::<1>(&samples, |p| [p[0]; 3]),
        (ColorType::La8, _) => map_pixels::<2>(&samples, |p| [p[0]; 3]),
        (ColorType::L16, Grey16::Clipped) => map_pixels::<2>(&samples, |p| [clip(p); 3]),
        (ColorType::La16, Grey16::Clipped) => map_pixels::<4>(&samples, |p| [clip(p); 3]),
        (ColorType::L16, Grey16::HighByte) => map_pixels::<2>(&samples, |p| [p[high]; 3]),
        (ColorType::La16, Grey16::HighByte) => map_pixels::<4>(&samples, |p| [p[high]; 3]),
        (ColorType::Rgb16, _) => map_pixels::<6>(&samples, |p| [p[high], p[2 + high], p[4 + high]]),
        (ColorType::Rgba16, _) => {
            map_pixels::<8>(&samples, |p| [p[high], p[2 + high], p[4 + high]])
        }
        _ => return None,
    })
}

fn map_pixels<const N: usize>(samples: &[u8], rgb: impl Fn(&[u8; N]) -> [u8; 3]) -> Vec<u8> {
    let (pixels, _) = samples.as_chunks::<N>();
    pixels.iter().flat_map(rgb).collect()
}

pub(super) fn explain(format: PictureFormat, error: ImageError) -> PictureError {
    match error {
        ImageError::Unsupported(detail) => PictureError::Unsupported {
            format,
            detail: detail.to_string(),
        },
        other => damaged(format, other),
    }
}

/// Width and height from the header chunk, which is always the first.
fn png_size(bytes: &[u8]) -> Option<(u32, u32)> {
    let number = |at: usize| {
        bytes
            .get(at..at + 4)?
            .try_into()
            .ok()
            .map(u32::from_be_bytes)
    };
    Some((number(16)?, number(20)?))
}

/// Whether the header names 16 bits of plain grey. (With a transparent level in a `tRNS` chunk the decoder adds an
/// alpha channel that the file does not have, so its colour type does not tell.)
fn is_png_grey16(bytes: &[u8]) -> bool {
    bytes.get(24..26) == Some(&[16, 0])
}
