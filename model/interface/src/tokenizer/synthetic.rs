//! A small `tokenizer.model` made from nothing: for models with random weights, and for tests that must not depend
//! on files. It has the settings of the real one, all bytes, ASCII, some words and the marks of turns.

use prost::Message;

use super::sentencepiece::{ModelProto, NormalizerProto, PieceProto, PieceType, TrainerProto};

/// The number of marks `[UNUSED_TOKEN_0]` and on, as in the real model.
const NUM_MARKERS: usize = 147;

/// Bytes that [`super::Tokenizer::from_model_bytes`] reads. `words` become pieces besides ASCII, together with all
/// their beginnings, so that merging reaches them; a word may hold spaces.
pub fn model_bytes(words: &[&str]) -> Vec<u8> {
    let mut pieces = vec![
        piece("<unk>", 0.0, PieceType::Unknown),
        piece("<s>", 0.0, PieceType::Control),
        piece("</s>", 0.0, PieceType::Control),
    ];
    pieces.extend((0..=255u8).map(|byte| piece(&format!("<0x{byte:02X}>"), 0.0, PieceType::Byte)));
    for (place, text) in normal_pieces(words).iter().enumerate() {
        pieces.push(piece(text, -(place as f32), PieceType::Normal));
    }
    pieces.extend(["——", "……"].map(|symbol| piece(symbol, 0.0, PieceType::UserDefined)));
    let marker = |number| {
        piece(
            &format!("[UNUSED_TOKEN_{number}]"),
            0.0,
            PieceType::UserDefined,
        )
    };
    pieces.extend((0..NUM_MARKERS).map(marker));
    model(pieces).encode_to_vec()
}

fn model(pieces: Vec<PieceProto>) -> ModelProto {
    const BPE: i32 = 2;
    ModelProto {
        pieces,
        trainer: Some(TrainerProto {
            model_type: Some(BPE),
            treat_whitespace_as_suffix: None,
            byte_fallback: Some(true),
        }),
        normalizer: Some(NormalizerProto {
            precompiled_charsmap: None,
            add_dummy_prefix: Some(false),
            remove_extra_whitespaces: Some(false),
            escape_whitespaces: None,
        }),
    }
}

/// Beginnings of words, the shortest first, then single characters; each once.
fn normal_pieces(words: &[&str]) -> Vec<String> {
    let mut texts: Vec<String> = Vec::new();
    let longest = words
        .iter()
        .map(|word| word.chars().count())
        .max()
        .unwrap_or(0);
    for length in 2..=longest {
        let of_length = words.iter().filter(|word| word.chars().count() >= length);
        texts.extend(of_length.map(|word| word.chars().take(length).collect()));
    }
    texts.extend(words.iter().flat_map(|word| word.chars()).map(String::from));
    texts.extend(('\t'..='\n').chain(' '..='~').map(String::from));
    let mut seen = std::collections::HashSet::new();
    texts
        .iter()
        .map(|text| text.replace(' ', "\u{2581}"))
        .filter(|text| seen.insert(text.clone()))
        .collect()
}

fn piece(text: &str, score: f32, kind: PieceType) -> PieceProto {
    PieceProto {
        piece: Some(text.to_owned()),
        score: Some(score),
        kind: Some(kind as i32),
    }
}
