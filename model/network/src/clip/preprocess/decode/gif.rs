//! The first frame of a GIF, laid on its canvas as Pillow does: what the frame does not cover has the transparent colour
//! if there is one and else colour 0, and a transparent pixel shows the colour that the palette has for it.

use std::num::NonZeroU64;

use gif::{ColorOutput, DecodeOptions, Decoder, DecodingError, Frame, MemoryLimit};

use super::{DecodeLimits, PictureError, PictureFormat, damaged};
use crate::clip::preprocess::RgbPicture;

pub(super) fn decode(bytes: &[u8], limits: &DecodeLimits) -> Result<RgbPicture, PictureError> {
    let mut decoder = options(limits).read_info(bytes).map_err(explain)?;
    let frame = decoder.next_frame_info().map_err(explain)?.cloned();
    let frame = frame.ok_or_else(|| damaged(PictureFormat::Gif, "it has no frame"))?;
    // A frame may reach over the canvas, which then grows.
    let width = u32::from(decoder.width()).max(u32::from(frame.left) + u32::from(frame.width));
    let height = u32::from(decoder.height()).max(u32::from(frame.top) + u32::from(frame.height));
    limits.check_pixels(width, height)?;

    let mut indices = vec![0; decoder.buffer_size()];
    decoder.read_into_buffer(&mut indices).map_err(explain)?;
    let colours = Colours::of(&frame, &decoder);
    let mut picture =
        RgbPicture::filled(width, height, colours.get(frame.transparent.unwrap_or(0)));
    let rows = indices.chunks_exact(usize::from(frame.width).max(1));
    for (y, row) in (u32::from(frame.top)..).zip(rows) {
        let target = &mut picture.row_mut(y)[usize::from(frame.left) * 3..];
        for (pixel, &index) in target.chunks_exact_mut(3).zip(row) {
            pixel.copy_from_slice(&colours.get(index));
        }
    }
    Ok(picture)
}

fn options(limits: &DecodeLimits) -> DecodeOptions {
    let mut options = DecodeOptions::new();
    options.set_color_output(ColorOutput::Indexed);
    options.set_memory_limit(MemoryLimit::Bytes(
        NonZeroU64::new(limits.max_alloc()).unwrap_or(NonZeroU64::MIN),
    ));
    options
}

/// The colours of a frame: its own palette, else the file's, else levels of grey.
struct Colours<'a>(Option<&'a [u8]>);

impl<'a> Colours<'a> {
    fn of(frame: &'a Frame<'_>, decoder: &'a Decoder<&[u8]>) -> Self {
        Self(frame.palette.as_deref().or(decoder.global_palette()))
    }

    fn get(&self, index: u8) -> [u8; 3] {
        let Some(palette) = self.0 else {
            return [index; 3];
        };
        let at = usize::from(index) * 3;
        palette
            .get(at..at + 3)
            .map_or([0; 3], |c| [c[0], c[1], c[2]])
    }
}

fn explain(error: DecodingError) -> PictureError {
    damaged(PictureFormat::Gif, error)
}
