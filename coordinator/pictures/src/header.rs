//! What a picture's first bytes say of it: which format it is and how large it would be, before anybody decodes a pixel. Whether the
//! rest can be decoded is for the decoder to find out.

use std::fmt;

use imagesize::ImageError;

#[cfg(test)]
mod tests;

/// The file formats that are taken: those that the model's decoder reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PictureFormat {
    Png,
    Jpeg,
    WebP,
    Gif,
    Bmp,
}

impl PictureFormat {
    /// As many bytes as [`sniff`](Self::sniff) ever looks at.
    pub const SNIFF_BYTES: usize = 12;

    /// Tells the format from the first bytes of a file.
    pub fn sniff(data: &[u8]) -> Option<Self> {
        if data.starts_with(b"\x89PNG\r\n\x1a\n") {
            Some(Self::Png)
        } else if data.starts_with(b"\xff\xd8\xff") {
            Some(Self::Jpeg)
        } else if data.starts_with(b"RIFF") && data.get(8..12) == Some(b"WEBP") {
            Some(Self::WebP)
        } else if data.starts_with(b"GIF87a") || data.starts_with(b"GIF89a") {
            Some(Self::Gif)
        } else if data.starts_with(b"BM") {
            Some(Self::Bmp)
        } else {
            None
        }
    }

    pub const fn media_type(self) -> &'static str {
        match self {
            Self::Png => "image/png",
            Self::Jpeg => "image/jpeg",
            Self::WebP => "image/webp",
            Self::Gif => "image/gif",
            Self::Bmp => "image/bmp",
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

/// What a header tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PictureHeader {
    /// By the bytes, such as `image/png`; not what somebody says of them.
    pub media_type: &'static str,
    /// In pixels; never 0.
    pub width: u32,
    /// In pixels; never 0.
    pub height: u32,
}

/// Why bytes are not taken for a picture.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PictureFault {
    #[error(
        "not a picture in a known format: wanted PNG, JPEG, WebP, GIF or BMP, found bytes {start:02x?}"
    )]
    UnknownFormat {
        /// The first few.
        start: Vec<u8>,
    },
    #[error("{format} file ends before its size is told")]
    CutShort { format: PictureFormat },
    #[error("{format} file has a damaged header")]
    Damaged { format: PictureFormat },
    #[error("picture has no pixels ({width} x {height})")]
    Empty { width: u32, height: u32 },
    #[error("picture is {width} x {height} pixels, limit is {limit} in all")]
    TooManyPixels { width: u32, height: u32, limit: u64 },
}

impl PictureFault {
    pub(crate) fn unknown(data: &[u8]) -> Self {
        let start = data.iter().take(8).copied().collect();
        Self::UnknownFormat { start }
    }
}

/// Reads the header of a picture file, and refuses what is none or has more than `max_pixels` (width times height).
pub fn inspect(data: &[u8], max_pixels: u64) -> Result<PictureHeader, PictureFault> {
    let format = PictureFormat::sniff(data).ok_or_else(|| PictureFault::unknown(data))?;
    let size = imagesize::blob_size(data).map_err(|error| match error {
        ImageError::IoError(_) => PictureFault::CutShort { format },
        ImageError::NotSupported | ImageError::CorruptedImage => PictureFault::Damaged { format },
    })?;
    let (Ok(width), Ok(height)) = (u32::try_from(size.width), u32::try_from(size.height)) else {
        return Err(PictureFault::Damaged { format });
    };
    if width == 0 || height == 0 {
        return Err(PictureFault::Empty { width, height });
    }
    if u64::from(width) * u64::from(height) > max_pixels {
        return Err(PictureFault::TooManyPixels {
            width,
            height,
            limit: max_pixels,
        });
    }
    Ok(PictureHeader {
        media_type: format.media_type(),
        width,
        height,
    })
}
