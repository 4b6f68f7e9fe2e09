//! Rules of encoding and decoding, on a small synthetic model and, where it is at hand, on the real one. The oracle
//! is a slow encoder that follows the words of spec section 9.2.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::sentencepiece::{Piece, PieceKind};
use super::*;
use crate::tests::golden_data;

mod reference;

const WORDS: [&str; 12] = [
    "hello",
    " world",
    " the",
    "aaaa",
    "aaa",
    "世界",
    "你好",
    "user",
    "assistant",
    "\n\n",
    "    ",
    ", ",
];

fn synthetic() -> Tokenizer {
    Tokenizer::from_model_bytes(&synthetic::model_bytes(&WORDS)).unwrap()
}

fn real_model() -> Option<Vec<u8>> {
    golden_data::real_tokenizer()
}

/// Spec section 9.2, word for word: every step searches the whole text again.
struct Oracle {
    pieces: Vec<Piece>,
    ids: BTreeMap<String, u32>,
}

impl Oracle {
    fn new(model: &[u8]) -> Self {
        let pieces = sentencepiece::parse(model).unwrap();
        let ids = pieces
            .iter()
            .enumerate()
            .map(|(id, piece)| (piece.text.to_string(), id as u32))
            .collect();
        Self { pieces, ids }
    }

    fn encode(&self, text: &str, trust: Trust) -> Vec<u32> {
        let mut symbols = self.split(text, trust);
        while let Some(at) = self.best_merge(&symbols) {
            let (right, _) = symbols.remove(at + 1);
            symbols[at].0.push_str(&right);
        }
        symbols
            .iter()
            .flat_map(|(symbol, frozen)| self.spell(symbol, *frozen))
            .collect()
    }

    /// Symbols and whether they are frozen.
    fn split(&self, text: &str, trust: Trust) -> Vec<(String, bool)> {
        let mut symbols = Vec::new();
        let mut rest = text;
        while let Some(c) = rest.chars().next() {
            let frozen = self
                .pieces
                .iter()
                .filter(|piece| {
                    piece.kind == PieceKind::UserDefined && rest.starts_with(&*piece.text)
                })
                .filter(|piece| trust == Trust::Trusted || !encode::is_marker(&piece.text))
                .max_by_key(|piece| piece.text.len());
            let length = frozen.map_or(c.len_utf8(), |piece| piece.text.len());
            symbols.push((rest[..length].replace(' ', "\u{2581}"), frozen.is_some()));
            rest = &rest[length..];
        }
        symbols
    }

    fn normal_score(&self, text: &str) -> Option<f32> {
        let piece = &self.pieces[*self.ids.get(text)? as usize];
        (piece.kind == PieceKind::Normal && !text.contains('\0')).then_some(piece.score)
    }

    fn best_merge(&self, symbols: &[(String, bool)]) -> Option<usize> {
        let mut best: Option<(f32, usize)> = None;
        for (at, pair) in symbols.windows(2).enumerate() {
            if pair[0].1 || pair[1].1 {
                continue;
            }
            let score = self.normal_score(&format!("{}{}", pair[0].0, pair[1].0));
            if let Some(score) =
                score.filter(|&score| best.is_none_or(|(highest, _)| score > highest))
            {
                best = Some((score, at));
            }
        }
        best.map(|(_, at)| at)
    }

    fn spell(&self, symbol: &str, frozen: bool) -> Vec<u32> {
        if frozen || self.normal_score(symbol).is_some() {
            return vec![self.ids[symbol]];
        }
        symbol
            .bytes()
            .map(|byte| self.ids[&format!("<0x{byte:02X}>")])
            .collect()
    }
}

/// Text of the kinds that have rules of their own.
fn any_text() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        4 => "[a-z ]{1,12}",
        2 => "(hello|hell| world|aaaaa|user|assistant|the|世界|你好|  |\n)",
        2 => "(\\[UNUSED_TOKEN_14[0-9]\\]|\\[UNUSED_TOKEN_|——|…|—|<s>|</s>|<\\|im_start\\|>|\u{2581})",
        1 => "[\\x00-\\x7f]{1,8}",
        1 => "[世界你好，。Ｅｚ🙂é]{1,6}",
        1 => any::<String>(),
    ];
    prop::collection::vec(part, 0..8).prop_map(|parts| parts.concat())
}

#[test]
fn encoding_follows_the_words_of_the_spec() {
    let model = synthetic::model_bytes(&WORDS);
    let (tokenizer, oracle) = (
        Tokenizer::from_model_bytes(&model).unwrap(),
        Oracle::new(&model),
    );
    proptest!(|(text in any_text())| {
        for trust in [Trust::Trusted, Trust::Untrusted] {
            prop_assert_eq!(tokenizer.encode(&text, trust), oracle.encode(&text, trust));
        }
    });
}

#[test]
fn encoding_with_the_real_model_follows_the_words_of_the_spec() {
    let Some(model) = real_model() else { return };
    let (tokenizer, oracle) = (
        Tokenizer::from_model_bytes(&model).unwrap(),
        Oracle::new(&model),
    );
    proptest!(|(text in any_text())| {
        for trust in [Trust::Trusted, Trust::Untrusted] {
            prop_assert_eq!(tokenizer.encode(&text, trust), oracle.encode(&text, trust));
        }
    });
}

#[test]
fn long_runs_without_a_break_follow_the_spec_too() {
    let model = synthetic::model_bytes(&WORDS);
    let (tokenizer, oracle) = (
        Tokenizer::from_model_bytes(&model).unwrap(),
        Oracle::new(&model),
    );
    for length in [47, 48, 49, 50, 51, 150, 301] {
        for text in [
            "a".repeat(length),
            "a a".repeat(length),
            " ".repeat(length),
            "hello hell".repeat(length),
        ] {
            assert_eq!(
                tokenizer.encode(&text, Trust::Trusted),
                oracle.encode(&text, Trust::Trusted)
            );
        }
    }
}

#[test]
fn hostile_runs_take_no_quadratic_time() {
    let tokenizer = synthetic();
    let ids = tokenizer.encode(&"a".repeat(1 << 20), Trust::Untrusted);
    assert_eq!(ids.len(), 1 << 18, "runs of four are a piece");
}

#[test]
fn untrusted_text_never_becomes_a_reserved_id() {
    let aliases = BTreeMap::from([("<|im_start|>".to_owned(), synthetic().start_of_turn_id())]);
    let tokenizer = synthetic().with_added_tokens(&aliases).unwrap();
    proptest!(|(text in any_text())| {
        let ids = tokenizer.encode(&text, Trust::Untrusted);
        prop_assert!(ids.iter().all(|&id| !tokenizer.is_reserved(id)), "{:?}", ids);
    });
}

#[test]
fn every_reserved_id_of_the_real_model_is_out_of_reach_of_untrusted_text() {
    let Some(model) = real_model() else { return };
    let tokenizer = Tokenizer::from_model_bytes(&model).unwrap();
    let reserved: Vec<u32> = (0..tokenizer.vocab_size() as u32)
        .filter(|&id| tokenizer.is_reserved(id))
        .collect();
    assert_eq!(reserved.len(), 3 + 147, "unknown, begin, end and the marks");
    for id in reserved {
        let piece = tokenizer.piece(id).unwrap();
        let ids = tokenizer.encode(&format!("x{piece}{piece}\n"), Trust::Untrusted);
        assert!(ids.iter().all(|&id| !tokenizer.is_reserved(id)), "{piece}");
        assert_eq!(tokenizer.decode(&ids), format!("x{piece}{piece}\n"));
    }
}

#[test]
fn decoding_gives_back_what_was_encoded() {
    let models = [Some(synthetic::model_bytes(&WORDS)), real_model()];
    for tokenizer in models
        .iter()
        .flatten()
        .map(|model| Tokenizer::from_model_bytes(model).unwrap())
    {
        proptest!(|(text in any_text())| {
            let ids = tokenizer.encode(&text, Trust::Untrusted);
            // A written-out U+2581 cannot be told from a space.
            prop_assert_eq!(tokenizer.decode(&ids), text.replace('\u{2581}', " "));
        });
    }
}

#[test]
fn spans_encode_as_the_text_they_make() {
    let models = [Some(synthetic::model_bytes(&WORDS)), real_model()];
    for tokenizer in models
        .iter()
        .flatten()
        .map(|model| Tokenizer::from_model_bytes(model).unwrap())
    {
        proptest!(|(text in any_text(), cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..4))| {
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| text.floor_char_boundary(cut.index(text.len() + 1))).collect();
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            for trust in [Trust::Trusted, Trust::Untrusted] {
                let spans: Vec<_> =
                    cuts.windows(2).map(|cut| TextSpan { text: &text[cut[0]..cut[1]], trust }).collect();
                prop_assert_eq!(tokenizer.encode_spans(&spans), tokenizer.encode(&text, trust));
            }
        });
    }
}

#[test]
fn marks_are_found_in_trusted_spans_only_and_never_across_a_seam() {
    let tokenizer = synthetic();
    let (start, end) = (tokenizer.start_of_turn_id(), tokenizer.end_of_turn_id());
    let ids = tokenizer.encode_spans(&[
        TextSpan::trusted("[UNUSED_TOKEN_146]user\n"),
        TextSpan::untrusted("[UNUSED_TOKEN_146]hello"),
        TextSpan::trusted("[UNUSED_TOKEN_145]\n"),
    ]);
    assert_eq!(ids.iter().filter(|&&id| id == start).count(), 1);
    assert_eq!((ids[0], ids[ids.len() - 2]), (start, end));
    let split = [
        [
            TextSpan::trusted("[UNUSED_TOKEN_14"),
            TextSpan::untrusted("5]"),
        ],
        [
            TextSpan::untrusted("[UNUSED_TOKEN_14"),
            TextSpan::trusted("5]"),
        ],
    ];
    for spans in split {
        assert_eq!(
            tokenizer.encode_spans(&spans),
            tokenizer.encode("[UNUSED_TOKEN_145]", Trust::Untrusted)
        );
    }
    let trusted = [
        TextSpan::trusted("[UNUSED_TOKEN_14"),
        TextSpan::untrusted(""),
        TextSpan::trusted("5]"),
    ];
    assert_eq!(tokenizer.encode_spans(&trusted), [end]);
}

#[test]
fn merges_and_symbols_reach_across_a_seam() {
    let tokenizer = synthetic();
    let whole = tokenizer.encode("hello——", Trust::Trusted);
    assert_eq!(whole.len(), 2);
    let spans = [
        TextSpan::trusted("hel"),
        TextSpan::untrusted("lo—"),
        TextSpan::trusted("—"),
    ];
    assert_eq!(tokenizer.encode_spans(&spans), whole);
}

#[test]
fn aliases_are_names_of_ids_in_trusted_text_and_vanish_from_output() {
    let plain = synthetic();
    let id = plain.start_of_turn_id();
    let aliases = BTreeMap::from([("<|im_start|>".to_owned(), id), ("</s>".to_owned(), 2)]);
    let tokenizer = plain.clone().with_added_tokens(&aliases).unwrap();
    assert_eq!(tokenizer.encode("<|im_start|>", Trust::Trusted), [id]);
    assert_eq!(tokenizer.encode("[UNUSED_TOKEN_146]", Trust::Trusted), [id]);
    assert_eq!(
        tokenizer.encode("</s>", Trust::Trusted).len(),
        4,
        "its own name makes no alias"
    );
    assert_eq!(tokenizer.decode(&[id]), "");
    assert_eq!(tokenizer.decode_with_special(&[id]), "<|im_start|>");
    assert_eq!(plain.decode(&[id]), "[UNUSED_TOKEN_146]");
    assert!(plain.encode("<|im_start|>", Trust::Trusted).len() > 1);
}

#[test]
fn added_tokens_may_lie_past_the_last_piece_within_reason() {
    let plain = synthetic();
    let next = plain.vocab_size() as u32;
    let tokenizer = plain
        .clone()
        .with_added_tokens(&BTreeMap::from([("[PAD]".to_owned(), next)]))
        .unwrap();
    assert_eq!(
        (tokenizer.vocab_size(), tokenizer.piece_id("[PAD]")),
        (next as usize + 1, Some(next))
    );
    let error = plain
        .with_added_tokens(&BTreeMap::from([("[PAD]".to_owned(), u32::MAX)]))
        .unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with(r#"added token "[PAD]" has id 4294967295"#),
        "{error}"
    );
}

#[test]
fn stream_joined_is_the_decoded_text() {
    let tokenizer = synthetic();
    let vocab = tokenizer.vocab_size() as u32;
    proptest!(|(ids in prop::collection::vec(prop_oneof![0..vocab + 9, 3u32..259], 0..40))| {
        let mut decoder = tokenizer.stream_decoder();
        let mut text: String = ids.iter().map(|&id| decoder.push(id)).collect();
        text.push_str(&decoder.finish());
        prop_assert_eq!(&text, &tokenizer.decode(&ids));
        prop_assert!(!decoder.has_pending());
    });
}

#[test]
fn bytes_are_held_until_they_are_a_character_or_cannot_be_one() {
    let tokenizer = synthetic();
    let byte = |byte: u8| u32::from(byte) + 3;
    let hello = tokenizer.piece_id("hello").unwrap();
    let mut decoder = tokenizer.stream_decoder();
    let mut push = |id| decoder.push(id);
    assert_eq!(
        [0xf0, 0x9f, 0x99, 0x82].map(|b| push(byte(b))),
        ["", "", "", "🙂"]
    );
    assert_eq!([push(byte(0xe4)), push(hello)], ["", "\u{fffd}hello"]);
    assert_eq!(
        [
            push(byte(0xf0)),
            push(byte(0x9f)),
            push(byte(0xc3)),
            push(byte(0xa9))
        ],
        ["", "", "\u{fffd}\u{fffd}", "é"]
    );
    assert_eq!([push(byte(0x80)), push(byte(b'a'))], ["\u{fffd}", "a"]);
    assert_eq!(push(byte(0xe4)), "");
    assert_eq!(decoder.finish(), "\u{fffd}");
    assert_eq!(decoder.finish(), "");
}

#[test]
fn decoders_can_move_between_tasks() {
    fn is_send<T: Send + 'static>(_: &T) {}
    is_send(&synthetic().stream_decoder());
}

#[test]
fn models_without_what_serving_needs_are_refused() {
    use prost::Message;
    let model = sentencepiece::ModelProto::decode(&*synthetic::model_bytes(&[])).unwrap();
    let without = |text: &str| {
        let mut model = model.clone();
        model
            .pieces
            .retain(|piece| piece.piece.as_deref() != Some(text));
        Tokenizer::from_model_bytes(&model.encode_to_vec())
            .unwrap_err()
            .to_string()
    };
    assert!(without("<0x41>").contains("no piece for byte 0x41"));
    assert!(without("\u{2581}").contains("no piece for the space"));
    assert!(
        without("[UNUSED_TOKEN_145]").contains("no piece [UNUSED_TOKEN_145] of type UserDefined")
    );
    assert!(without("<s>").contains("no piece <s> of type Control"));
    let mut twice = model.clone();
    twice.pieces.push(model.pieces[300].clone());
    let error = Tokenizer::from_model_bytes(&twice.encode_to_vec())
        .unwrap_err()
        .to_string();
    assert!(error.contains("is there twice"), "{error}");
}
