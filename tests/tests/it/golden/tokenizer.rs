//! The real tokenizer: texts to ids and back, `<s>`, `</s>` and `<unk>` written out in a text, ids to text. Not run where the
//! real `tokenizer.model` is not on the machine: it is not part of the repository.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context, Result, ensure};
use inkstone_interface::tokenizer::{SpaceBesideSpecial, StreamDecoder, Tokenizer, Trust};
use serde::Deserialize;
use serde_json::Value;

use super::{
    compare::same,
    folder::{TOKENIZER_CASES_FILE, name_of, real_tokenizer},
    report::Report,
};

#[derive(Deserialize)]
struct Cases {
    #[serde(default)]
    meta: BTreeMap<String, Value>,
    #[serde(default)]
    encode: Vec<TextCase>,
    #[serde(default)]
    special: Vec<TextCase>,
    #[serde(default)]
    decode: Vec<TextCase>,
    #[serde(flatten)]
    unknown: BTreeMap<String, Value>,
}

#[derive(Deserialize)]
struct TextCase {
    #[serde(default)]
    text: String,
    ids: Vec<u32>,
    decoded: String,
    decoded_with_special: Option<String>,
    ids_spaces_kept: Option<Vec<u32>>,
    decoded_spaces_kept: Option<String>,
    #[serde(flatten)]
    unknown: BTreeMap<String, Value>,
}

pub(super) fn run(report: &mut Report, path: &Path) {
    let name = name_of(path);
    let Some(model) = real_tokenizer() else {
        report.skip(
            &name,
            "all",
            "the real tokenizer.model is not on this machine",
        );
        return;
    };
    let ready = report.prepare(&name, "reading", || {
        let tokenizer = Tokenizer::from_model_bytes(&fs::read(&model)?)?;
        let cases: Cases = serde_json::from_slice(&fs::read(path.join(TOKENIZER_CASES_FILE))?)?;
        Ok((tokenizer, cases))
    });
    let Some((tokenizer, cases)) = ready else {
        return;
    };
    report.case(&name, "meta", || check_meta(&tokenizer, &cases.meta));
    type Check = fn(&Tokenizer, &TextCase) -> Result<()>;
    let groups: [(&str, &[TextCase], Check); 3] = [
        ("encode", &cases.encode, check_encode),
        ("special", &cases.special, check_special),
        ("decode", &cases.decode, check_decode),
    ];
    for (group, cases, check) in groups {
        for (index, case) in cases.iter().enumerate() {
            report.case(&name, &format!("{group}[{index}]"), || {
                check(&tokenizer, case)
            });
            for key in case.unknown.keys() {
                report.skip(&name, &format!("{group}[{index}].{key}"), "unknown here");
            }
        }
    }
    for group in cases.unknown.keys() {
        report.skip(&name, group, "unknown here");
    }
    report.end_folder_named(&name);
}

fn check_meta(tokenizer: &Tokenizer, meta: &BTreeMap<String, Value>) -> Result<()> {
    let unknown = tokenizer.piece_id("<unk>");
    let found = [
        ("vocab", Some(tokenizer.vocab_size() as u64)),
        ("bos", Some(tokenizer.bos_id().into())),
        ("eos", Some(tokenizer.eos_id().into())),
        ("unk", unknown.map(u64::from)),
    ];
    for (key, found) in found {
        if let Some(wanted) = meta.get(key) {
            same(key, wanted.as_u64(), found)?;
        }
    }
    let marks = [
        ("im_start", tokenizer.start_of_turn_id()),
        ("im_end", tokenizer.end_of_turn_id()),
    ];
    for (key, id) in marks {
        if let Some(wanted) = meta.get(key).and_then(Value::as_str) {
            let piece = tokenizer.piece(id).context("a mark has a piece")?;
            same(key, wanted, &format!("{piece} = {id}"))?;
        }
    }
    Ok(())
}

fn check_encode(tokenizer: &Tokenizer, case: &TextCase) -> Result<()> {
    let ids = tokenizer.encode(&case.text, Trust::Trusted);
    same(&format!("ids of {:?}", case.text), &case.ids, &ids)?;
    check_decode(tokenizer, case)
}

fn check_decode(tokenizer: &Tokenizer, case: &TextCase) -> Result<()> {
    check_text(&case.decoded, &tokenizer.decode(&case.ids))?;
    check_text(
        &case.decoded,
        &stream(tokenizer.stream_decoder(), &case.ids),
    )
}

fn check_special(tokenizer: &Tokenizer, case: &TextCase) -> Result<()> {
    let TextCase { text, ids, .. } = case;
    let kept_ids = case.ids_spaces_kept.as_ref().unwrap_or(ids);
    let kept_text = case.decoded_spaces_kept.as_ref().unwrap_or(&case.decoded);
    let stripped = tokenizer.encode_with_special(text, SpaceBesideSpecial::Stripped);
    same(&format!("ids of {text:?}"), ids, &stripped)?;
    let kept = tokenizer.encode_with_special(text, SpaceBesideSpecial::Kept);
    same(&format!("ids of {text:?}, spaces kept"), kept_ids, &kept)?;
    check_text(&case.decoded, &tokenizer.decode(&stripped))?;
    check_text(kept_text, &tokenizer.decode(&kept))?;
    if let Some(wanted) = &case.decoded_with_special {
        check_with_special(wanted, &tokenizer.decode_with_special(ids))?;
    }
    Ok(())
}

/// transformers puts a space of its own before a run of special tokens. It is no part of the text, so spaces do not count.
fn check_with_special(wanted: &str, found: &str) -> Result<()> {
    let without_spaces = |text: &str| text.replace(' ', "");
    ensure!(
        without_spaces(wanted) == without_spaces(found),
        "text with special tokens: wanted {wanted:?}, found {found:?}"
    );
    Ok(())
}

/// Holds a decoded text against the reference's, as it is or with the spaces before punctuation that transformers takes out
/// unless told not to.
pub(super) fn check_text(wanted: &str, found: &str) -> Result<()> {
    ensure!(
        wanted == found || wanted == tidied(found),
        "text: wanted {wanted:?}, found {found:?}"
    );
    Ok(())
}

fn tidied(text: &str) -> String {
    let tidy = [
        (" .", "."),
        (" ?", "?"),
        (" !", "!"),
        (" ,", ","),
        (" ' ", "'"),
        (" n't", "n't"),
        (" 'm", "'m"),
        (" 's", "'s"),
        (" 've", "'ve"),
        (" 're", "'re"),
    ];
    tidy.iter()
        .fold(text.to_owned(), |text, (from, to)| text.replace(from, to))
}

fn stream(mut decoder: StreamDecoder, ids: &[u32]) -> String {
    let mut text: String = ids.iter().map(|id| decoder.push(*id)).collect();
    text.push_str(&decoder.finish());
    text
}
