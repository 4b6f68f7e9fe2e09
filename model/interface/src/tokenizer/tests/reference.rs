//! Strings and ids of the reference, with the real model.

use serde::Deserialize;

use super::*;

#[test]
fn ids_of_the_real_model_are_those_of_the_spec() {
    let Some(model) = real_model() else { return };
    let tokenizer = Tokenizer::from_model_bytes(&model).unwrap();
    assert_eq!(
        (
            tokenizer.vocab_size(),
            tokenizer.bos_id(),
            tokenizer.eos_id()
        ),
        (92544, 1, 2)
    );
    assert_eq!(
        (tokenizer.start_of_turn_id(), tokenizer.stop_token_ids()),
        (92543, vec![2, 92542])
    );
    let examples: [(&str, &[u32]); 8] = [
        (" Hello", &[22190]),
        ("Hello  world\n\n", &[9843, 387, 14748, 402]),
        ("🙂", &[243, 162, 156, 133]),
        (
            "def f(x):\n    return x**2  # sq\n\tpass",
            &[
                882, 413, 2226, 1122, 388, 821, 991, 465, 314, 387, 324, 18179, 364, 41132,
            ],
        ),
        ("1234567.89", &[4575, 1889, 3171, 281, 4639]),
        ("ｅＥ——……", &[92373, 92352, 92395, 92396]),
        ("\0", &[3]),
        (
            "<Seg0> 给定<Seg12>后",
            &[
                333, 11149, 300, 330, 262, 60562, 60450, 333, 11149, 845, 330, 60375,
            ],
        ),
    ];
    for (text, ids) in examples {
        assert_eq!(tokenizer.encode(text, Trust::Trusted), ids, "{text}");
        assert_eq!(tokenizer.decode(ids), text);
    }
}

#[derive(Deserialize)]
struct Golden {
    encode: Vec<GoldenText>,
    special: Vec<GoldenText>,
    decode: Vec<GoldenText>,
}

#[derive(Deserialize)]
struct GoldenText {
    #[serde(default)]
    text: String,
    ids: Vec<u32>,
    decoded: String,
    ids_spaces_kept: Option<Vec<u32>>,
    decoded_spaces_kept: Option<String>,
}

fn golden() -> Option<(Tokenizer, Golden)> {
    let golden = golden_data::read("tokenizer/tokenizer.json")?;
    let tokenizer = Tokenizer::from_model_bytes(&real_model()?).unwrap();
    Some((tokenizer, serde_json::from_slice(&golden).unwrap()))
}

/// What transformers does to decoded text on top of the tokenizer, and one golden shows: it tidies spaces.
fn tidied(text: &str) -> String {
    [" .", " ?", " !", " ,"]
        .iter()
        .fold(text.to_owned(), |text, spaced| {
            text.replace(spaced, &spaced[1..])
        })
}

#[test]
fn texts_encode_and_decode_as_the_reference_has_them() {
    let Some((tokenizer, golden)) = golden() else {
        return;
    };
    for case in &golden.encode {
        assert_eq!(
            tokenizer.encode(&case.text, Trust::Trusted),
            case.ids,
            "{}",
            case.text
        );
        let decoded = tokenizer.decode(&case.ids);
        assert_eq!(decoded, case.text.replace('\u{2581}', " "));
        assert!(
            case.decoded == decoded || case.decoded == tidied(&decoded),
            "{}",
            case.decoded
        );
    }
}

#[test]
fn ids_decode_as_the_reference_has_them() {
    let Some((tokenizer, golden)) = golden() else {
        return;
    };
    for case in &golden.decode {
        assert_eq!(tokenizer.decode(&case.ids), case.decoded, "{:?}", case.ids);
    }
}

#[test]
fn written_out_special_tokens_encode_as_the_reference_has_them() {
    let Some((tokenizer, golden)) = golden() else {
        return;
    };
    for case in &golden.special {
        let stripped = tokenizer.encode_with_special(&case.text, SpaceBesideSpecial::Stripped);
        let kept = tokenizer.encode_with_special(&case.text, SpaceBesideSpecial::Kept);
        assert_eq!(stripped, case.ids, "{}", case.text);
        assert_eq!(
            &kept,
            case.ids_spaces_kept.as_ref().unwrap_or(&case.ids),
            "{}",
            case.text
        );
        assert_eq!(tokenizer.decode(&stripped), case.decoded);
        assert_eq!(
            &tokenizer.decode(&kept),
            case.decoded_spaces_kept.as_ref().unwrap_or(&case.decoded)
        );
    }
}

#[test]
fn tokenizers_of_the_small_checkpoints_load() {
    for folder in [
        "xc2-vl-tiny",
        "xc2-comp-tiny",
        "xc2-4khd-tiny",
        "xc2d5-tiny",
    ] {
        let Some(model) = golden_data::read(&format!("{folder}/checkpoint/tokenizer.model")) else {
            continue;
        };
        let tokenizer = Tokenizer::from_model_bytes(&model).unwrap();
        assert_eq!(
            (tokenizer.vocab_size(), tokenizer.stop_token_ids()),
            (512, vec![2, 510])
        );
    }
}
