//! JPEG. The decoder fills in what a file lacks; we, as Pillow, refuse a file that is cut short.

use std::io::Cursor;

use image::codecs::jpeg::JpegDecoder;
use image::{ImageDecoder, Limits};

use super::raster::{Grey16, explain, read_rgb};
use super::{DecodeLimits, PictureError, PictureFormat, damaged};
use crate::clip::preprocess::RgbPicture;

pub(super) fn decode(bytes: &[u8], limits: &DecodeLimits) -> Result<RgbPicture, PictureError> {
    let format = PictureFormat::Jpeg;
    let mut decoder = JpegDecoder::new(Cursor::new(bytes)).map_err(|e| explain(format, e))?;
    let (width, height) = decoder.dimensions();
    limits.check_pixels(width, height)?;
    if !has_end(bytes) {
        return Err(damaged(
            format,
            "it is cut short (no end marker after the last scan)",
        ));
    }
    // Reading starts over with the headers: they must not grow meanwhile.
    let mut room = Limits::no_limits();
    (room.max_image_width, room.max_image_height) = (Some(width), Some(height));
    decoder.set_limits(room).map_err(|e| explain(format, e))?;
    read_rgb(decoder, format, limits, Grey16::HighByte)
}

/// Whether an end marker follows the last start of a scan. Within a scan the marker's bytes cannot occur.
fn has_end(bytes: &[u8]) -> bool {
    let last = |marker: u8| bytes.windows(2).rposition(|pair| pair == [0xff, marker]);
    matches!((last(0xda), last(0xd9)), (Some(scan), Some(end)) if scan < end)
}
