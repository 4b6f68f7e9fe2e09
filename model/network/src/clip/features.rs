//! What a vision worker gives for a picture and a language group takes: the rows before the projector, separators
//! included, and their form on the wire. They are a quarter the size of projected rows, and any rank can project them.

use half::bf16;
use thiserror::Error;

use crate::tensor::DType;

/// The rows of one picture, as the projector takes them.
#[derive(Debug, Clone, PartialEq)]
pub struct PictureFeatures {
    num_tokens: usize,
    width: usize,
    data: Vec<f32>,
}

/// Marks encoded features and the version of their form.
const MAGIC: [u8; 4] = *b"IKF1";
/// Magic, type tag with three bytes of padding, number of tokens, width.
const HEADER_LEN: usize = 16;

impl PictureFeatures {
    /// Takes `data`, `[num_tokens, width]`.
    ///
    /// # Panics
    /// When `data` has another length.
    pub fn new(num_tokens: usize, width: usize, data: Vec<f32>) -> Self {
        assert_eq!(
            data.len(),
            num_tokens * width,
            "{num_tokens} rows of {width}"
        );
        Self {
            num_tokens,
            width,
            data,
        }
    }

    /// Places that the picture takes in a prompt.
    pub fn num_tokens(&self) -> usize {
        self.num_tokens
    }

    /// Elements of a row: the tower's width, or four times that for the high-definition models.
    pub fn width(&self) -> usize {
        self.width
    }

    /// All rows, `[num_tokens, width]`.
    pub fn data(&self) -> &[f32] {
        &self.data
    }

    /// Length of the encoded form.
    pub fn encoded_len(&self, dtype: DType) -> usize {
        HEADER_LEN + self.data.len() * dtype.num_bytes()
    }

    /// Encodes as f32, or rounded to bf16 or f16 for half the length. Little-endian, so any machine reads it.
    pub fn to_bytes(&self, dtype: DType) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.encoded_len(dtype));
        bytes.extend(MAGIC);
        bytes.extend([tag(dtype), 0, 0, 0]);
        for number in [self.num_tokens, self.width] {
            bytes.extend(
                u32::try_from(number)
                    .expect("layouts bound tokens and width")
                    .to_le_bytes(),
            );
        }
        match dtype {
            DType::F32 => bytes.extend(self.data.iter().flat_map(|v| v.to_le_bytes())),
            DType::BF16 => bytes.extend(
                self.data
                    .iter()
                    .flat_map(|v| bf16::from_f32(*v).to_le_bytes()),
            ),
            DType::F16 => bytes.extend(
                self.data
                    .iter()
                    .flat_map(|v| half::f16::from_f32(*v).to_le_bytes()),
            ),
        }
        bytes
    }

    /// Decodes what [`Self::to_bytes`] gave.
    ///
    /// # Errors
    /// [`FeaturesError`] where the bytes are not features, of a type unknown here, or not as many as their header says.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, FeaturesError> {
        let Some((header, body)) = bytes.split_first_chunk::<HEADER_LEN>() else {
            return Err(FeaturesError::Short { found: bytes.len() });
        };
        if header[..4] != MAGIC {
            return Err(FeaturesError::Magic {
                found: header[..4].to_vec(),
            });
        }
        let dtype = dtype(header[4]).ok_or(FeaturesError::DType { found: header[4] })?;
        let number = |at: usize| {
            header[at..at + 4]
                .iter()
                .rev()
                .fold(0_usize, |sum, byte| sum << 8 | usize::from(*byte))
        };
        let (num_tokens, width) = (number(8), number(12));
        let wanted = num_tokens
            .checked_mul(width)
            .and_then(|count| count.checked_mul(dtype.num_bytes()));
        if wanted != Some(body.len()) {
            return Err(FeaturesError::Length {
                num_tokens,
                width,
                dtype,
                found: body.len(),
            });
        }
        Ok(Self {
            num_tokens,
            width,
            data: widen(body, dtype),
        })
    }
}

/// Why bytes are not picture features.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum FeaturesError {
    #[error(
        "picture features start with a header of {HEADER_LEN} bytes, found {found} bytes in all"
    )]
    Short { found: usize },
    #[error(
        "picture features start with {MAGIC:02x?}, found {found:02x?}; is the sender of another version?"
    )]
    Magic { found: Vec<u8> },
    #[error("picture features of unknown type {found}; is the sender of another version?")]
    DType { found: u8 },
    #[error(
        "picture features of {num_tokens} rows of {width} as {dtype:?} do not fit {found} bytes"
    )]
    Length {
        num_tokens: usize,
        width: usize,
        dtype: DType,
        found: usize,
    },
}

fn tag(dtype: DType) -> u8 {
    match dtype {
        DType::F32 => 0,
        DType::BF16 => 1,
        DType::F16 => 2,
    }
}

fn dtype(tag: u8) -> Option<DType> {
    [DType::F32, DType::BF16, DType::F16]
        .into_iter()
        .find(|dtype| self::tag(*dtype) == tag)
}

fn widen(body: &[u8], dtype: DType) -> Vec<f32> {
    let pairs = || body.as_chunks::<2>().0.iter();
    match dtype {
        DType::F32 => body
            .as_chunks()
            .0
            .iter()
            .map(|b| f32::from_le_bytes(*b))
            .collect(),
        DType::BF16 => pairs().map(|b| bf16::from_le_bytes(*b).to_f32()).collect(),
        DType::F16 => pairs()
            .map(|b| half::f16::from_le_bytes(*b).to_f32())
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn features() -> PictureFeatures {
        PictureFeatures::new(3, 5, (0..15).map(|i| i as f32 * 0.3 - 2.0).collect())
    }

    #[test]
    fn f32_comes_back_bit_for_bit_and_halves_rounded() {
        let features = features();
        assert_eq!(
            PictureFeatures::from_bytes(&features.to_bytes(DType::F32)).unwrap(),
            features
        );
        for (dtype, relative) in [(DType::BF16, 1.0 / 256.0), (DType::F16, 1.0 / 2048.0)] {
            let bytes = features.to_bytes(dtype);
            assert_eq!(bytes.len(), features.encoded_len(dtype));
            let back = PictureFeatures::from_bytes(&bytes).unwrap();
            for (found, wanted) in back.data().iter().zip(features.data()) {
                assert!((found - wanted).abs() <= wanted.abs() * relative);
            }
        }
    }

    #[test]
    fn bytes_of_another_kind_or_length_are_refused() {
        let bytes = features().to_bytes(DType::BF16);
        let parse = PictureFeatures::from_bytes;
        assert!(matches!(
            parse(&bytes[..7]),
            Err(FeaturesError::Short { found: 7 })
        ));
        assert!(matches!(
            parse(&bytes[..bytes.len() - 1]),
            Err(FeaturesError::Length { found: 29, .. })
        ));
        let with = |at: usize, value: u8| [&bytes[..at], &[value], &bytes[at + 1..]].concat();
        assert!(matches!(
            parse(&with(0, b'X')),
            Err(FeaturesError::Magic { .. })
        ));
        assert!(matches!(
            parse(&with(4, 9)),
            Err(FeaturesError::DType { found: 9 })
        ));
        let huge = [&bytes[..8], &[0xff; 8], &bytes[16..]].concat();
        assert!(matches!(parse(&huge), Err(FeaturesError::Length { .. })));
    }
}
