//! Reads a SentencePiece `tokenizer.model`: a protobuf message of pieces and settings (spec section 9.1).
//!
//! Only what the family uses is understood: BPE with byte fallback, no normalisation, no dummy prefix. A model that
//! asks for anything else is refused, since it would encode to other ids without a word.

use prost::Message;

use super::TokenizerError;

/// Bounds that keep a hostile file from taking endless memory or time. The real model has 92544 pieces of at most
/// 384 bytes.
const MAX_PIECES: usize = 1 << 21;
const MAX_PIECE_BYTES: usize = 1 << 10;

#[derive(Clone, PartialEq, Message)]
pub(super) struct ModelProto {
    #[prost(message, repeated, tag = "1")]
    pub(super) pieces: Vec<PieceProto>,
    #[prost(message, optional, tag = "2")]
    pub(super) trainer: Option<TrainerProto>,
    #[prost(message, optional, tag = "3")]
    pub(super) normalizer: Option<NormalizerProto>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct PieceProto {
    #[prost(string, optional, tag = "1")]
    pub(super) piece: Option<String>,
    #[prost(float, optional, tag = "2")]
    pub(super) score: Option<f32>,
    #[prost(enumeration = "PieceType", optional, tag = "3")]
    pub(super) kind: Option<i32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub(super) enum PieceType {
    Normal = 1,
    Unknown = 2,
    Control = 3,
    UserDefined = 4,
    Unused = 5,
    Byte = 6,
}

/// The settings that change how text is encoded. The many others only matter while a model is trained.
#[derive(Clone, PartialEq, Message)]
pub(super) struct TrainerProto {
    /// 1 is unigram (the default), 2 is BPE.
    #[prost(int32, optional, tag = "3")]
    pub(super) model_type: Option<i32>,
    #[prost(bool, optional, tag = "24")]
    pub(super) treat_whitespace_as_suffix: Option<bool>,
    #[prost(bool, optional, tag = "35")]
    pub(super) byte_fallback: Option<bool>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct NormalizerProto {
    #[prost(bytes = "vec", optional, tag = "2")]
    pub(super) precompiled_charsmap: Option<Vec<u8>>,
    #[prost(bool, optional, tag = "3")]
    pub(super) add_dummy_prefix: Option<bool>,
    #[prost(bool, optional, tag = "4")]
    pub(super) remove_extra_whitespaces: Option<bool>,
    #[prost(bool, optional, tag = "5")]
    pub(super) escape_whitespaces: Option<bool>,
}

/// One piece; its id is its place in the list.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Piece {
    pub(super) text: Box<str>,
    pub(super) score: f32,
    pub(super) kind: PieceKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PieceKind {
    Normal,
    Unknown,
    Control,
    UserDefined,
    Byte(u8),
}

/// Parses and checks a model file, giving its pieces in the order of their ids.
pub(super) fn parse(bytes: &[u8]) -> Result<Vec<Piece>, TokenizerError> {
    let model = ModelProto::decode(bytes).map_err(TokenizerError::Parse)?;
    check_trainer(&model.trainer.unwrap_or_default())?;
    check_normalizer(&model.normalizer.unwrap_or_default())?;
    if model.pieces.is_empty() || model.pieces.len() > MAX_PIECES {
        return Err(invalid(format!(
            "wanted from 1 to {MAX_PIECES} pieces, found {}",
            model.pieces.len()
        )));
    }
    model
        .pieces
        .into_iter()
        .enumerate()
        .map(|(id, piece)| parse_piece(id, piece))
        .collect()
}

fn check_trainer(trainer: &TrainerProto) -> Result<(), TokenizerError> {
    const BPE: i32 = 2;
    if trainer.model_type != Some(BPE) {
        let found = trainer.model_type.unwrap_or(1);
        return Err(unsupported(format!(
            "model type {found} (1 is unigram); only BPE (2) is"
        )));
    }
    if trainer.byte_fallback != Some(true) {
        return Err(unsupported("a model without byte fallback".to_owned()));
    }
    if trainer.treat_whitespace_as_suffix == Some(true) {
        return Err(unsupported("whitespace as a suffix".to_owned()));
    }
    Ok(())
}

/// The defaults of the format are on, on and on; the family turns the first two off.
fn check_normalizer(normalizer: &NormalizerProto) -> Result<(), TokenizerError> {
    if normalizer
        .precompiled_charsmap
        .as_ref()
        .is_some_and(|map| !map.is_empty())
    {
        return Err(unsupported("a normaliser with a character map".to_owned()));
    }
    if normalizer.add_dummy_prefix != Some(false) {
        return Err(unsupported("a dummy prefix".to_owned()));
    }
    if normalizer.remove_extra_whitespaces != Some(false) {
        return Err(unsupported("removal of extra whitespace".to_owned()));
    }
    if normalizer.escape_whitespaces == Some(false) {
        return Err(unsupported("spaces that are not written U+2581".to_owned()));
    }
    Ok(())
}

fn parse_piece(id: usize, proto: PieceProto) -> Result<Piece, TokenizerError> {
    let kind = proto.kind();
    let text = proto.piece.unwrap_or_default();
    let score = proto.score.unwrap_or_default();
    if text.is_empty() || text.len() > MAX_PIECE_BYTES {
        return Err(invalid(format!(
            "piece {id} has {} bytes, wanted from 1 to {MAX_PIECE_BYTES}",
            text.len()
        )));
    }
    if score.is_nan() {
        return Err(invalid(format!("piece {id} has no score")));
    }
    let kind = match kind {
        PieceType::Normal => PieceKind::Normal,
        PieceType::Unknown => PieceKind::Unknown,
        PieceType::Control => PieceKind::Control,
        PieceType::UserDefined if text.contains([' ', '\u{2581}']) => {
            return Err(unsupported(format!(
                "user-defined piece {id} with a space in it"
            )));
        }
        PieceType::UserDefined => PieceKind::UserDefined,
        PieceType::Byte => PieceKind::Byte(parse_byte(&text).ok_or_else(|| {
            invalid(format!(
                "byte piece {id} is {text:?}, wanted the form <0x41>"
            ))
        })?),
        PieceType::Unused => return Err(unsupported(format!("piece {id} of type unused"))),
    };
    Ok(Piece {
        text: text.into(),
        score,
        kind,
    })
}

fn parse_byte(text: &str) -> Option<u8> {
    let digits = text.strip_prefix("<0x")?.strip_suffix('>')?;
    if digits.len() != 2 {
        return None;
    }
    u8::from_str_radix(digits, 16).ok()
}

fn unsupported(what: String) -> TokenizerError {
    TokenizerError::Unsupported { what }
}

fn invalid(reason: String) -> TokenizerError {
    TokenizerError::Invalid { reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model() -> ModelProto {
        let piece = PieceProto {
            piece: Some("a".into()),
            score: Some(0.0),
            kind: None,
        };
        ModelProto {
            pieces: vec![piece],
            trainer: Some(TrainerProto {
                model_type: Some(2),
                byte_fallback: Some(true),
                treat_whitespace_as_suffix: None,
            }),
            normalizer: Some(NormalizerProto {
                precompiled_charsmap: Some(vec![]),
                add_dummy_prefix: Some(false),
                remove_extra_whitespaces: Some(false),
                escape_whitespaces: None,
            }),
        }
    }

    #[track_caller]
    fn assert_refused(model: &ModelProto, message: &str) {
        let error = parse(&model.encode_to_vec())
            .expect_err("the model should be refused")
            .to_string();
        assert!(
            error.contains(message),
            "wanted an error with {message:?}, found {error:?}"
        );
    }

    #[test]
    fn piece_without_a_type_is_normal() {
        let pieces = parse(&model().encode_to_vec()).unwrap();
        assert_eq!(
            pieces,
            [Piece {
                text: "a".into(),
                score: 0.0,
                kind: PieceKind::Normal
            }]
        );
    }

    #[test]
    fn settings_that_would_change_ids_are_refused() {
        let with_trainer = |change: fn(&mut TrainerProto)| {
            let mut model = model();
            change(model.trainer.as_mut().unwrap());
            model
        };
        let with_normalizer = |change: fn(&mut NormalizerProto)| {
            let mut model = model();
            change(model.normalizer.as_mut().unwrap());
            model
        };
        assert_refused(
            &with_trainer(|t| t.model_type = Some(1)),
            "model type 1 (1 is unigram)",
        );
        assert_refused(
            &with_trainer(|t| t.model_type = None),
            "model type 1 (1 is unigram)",
        );
        assert_refused(
            &with_trainer(|t| t.byte_fallback = None),
            "without byte fallback",
        );
        assert_refused(
            &with_trainer(|t| t.treat_whitespace_as_suffix = Some(true)),
            "whitespace as a suffix",
        );
        assert_refused(
            &with_normalizer(|n| n.add_dummy_prefix = None),
            "a dummy prefix",
        );
        assert_refused(
            &with_normalizer(|n| n.remove_extra_whitespaces = None),
            "extra whitespace",
        );
        assert_refused(
            &with_normalizer(|n| n.escape_whitespaces = Some(false)),
            "not written U+2581",
        );
        assert_refused(
            &with_normalizer(|n| n.precompiled_charsmap = Some(vec![1])),
            "character map",
        );
    }

    #[test]
    fn malformed_pieces_are_refused() {
        let with_piece = |change: fn(&mut PieceProto)| {
            let mut model = model();
            change(&mut model.pieces[0]);
            model
        };
        assert_refused(&with_piece(|p| p.piece = None), "piece 0 has 0 bytes");
        assert_refused(
            &with_piece(|p| p.piece = Some("a".repeat(2000))),
            "piece 0 has 2000 bytes",
        );
        assert_refused(
            &with_piece(|p| p.score = Some(f32::NAN)),
            "piece 0 has no score",
        );
        assert_refused(&with_piece(|p| p.kind = Some(5)), "piece 0 of type unused");
        assert_refused(&with_piece(|p| p.kind = Some(6)), "byte piece 0 is \"a\"");
        assert_refused(
            &with_piece(|p| (p.kind, p.piece) = (Some(4), Some("a b".into()))),
            "a space in it",
        );
        assert_refused(
            &ModelProto {
                pieces: vec![],
                ..model()
            },
            "found 0",
        );
    }

    #[test]
    fn bytes_that_are_no_model_are_refused() {
        assert!(matches!(
            parse(b"not a protobuf"),
            Err(TokenizerError::Parse(_))
        ));
        let bytes = model().encode_to_vec();
        for length in 1..bytes.len() {
            assert!(parse(&bytes[..length]).is_err());
        }
    }
}
