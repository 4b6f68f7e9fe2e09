//! The checkpoint that ships with Inkstone: it sees, it sees with its pictures' weights, and it says the same however it is run.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;
use tempfile::TempDir;

use crate::cluster_fixture::{Served, program};

/// Skills that cannot be done without looking. To choose among pictures is one more, but that it has not learnt well yet.
const SEEING: &str = "describe,question,read,two_pictures";

fn pretrained() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../model/pretrained/inkstone-small")
}

fn run(arguments: &[&str]) -> Vec<u8> {
    let output = Command::new(program())
        .args(arguments)
        .output()
        .expect("it runs");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {errors}");
    output.stdout
}

/// Accuracy of each skill over `count` cases.
fn accuracies(skills: &str, count: &str, more: &[&str]) -> BTreeMap<String, f64> {
    let mut arguments = vec![
        "eval", "--seed", "77", "--count", count, "--skills", skills, "--json",
    ];
    arguments.extend(more);
    let printed: Value = serde_json::from_slice(&run(&arguments)).expect("JSON");
    let skills = printed["skills"].as_object().expect("skills by name");
    let accuracy = |figure: &Value| figure["accuracy"].as_f64().expect("a number");
    skills
        .iter()
        .map(|(name, figure)| (name.clone(), accuracy(figure)))
        .collect()
}

/// Every answer of a run of all skills.
fn answers(more: &[&str]) -> Vec<Value> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("answers.jsonl");
    let mut arguments = vec!["eval", "--seed", "78", "--count", "24", "--json"];
    arguments.extend(["--answers", file.to_str().expect("UTF-8")]);
    arguments.extend(more);
    run(&arguments);
    let lines = fs::read_to_string(&file).expect("it was written");
    let lines = lines.lines().map(serde_json::from_str);
    lines.collect::<Result<_, _>>().expect("JSON lines")
}

/// The share of answers that two runs have in common.
fn agreement(one: &[Value], other: &[Value]) -> f64 {
    assert_eq!(one.len(), other.len());
    let same = one.iter().zip(other).filter(|(a, b)| {
        assert_eq!((&a["skill"], &a["case"]), (&b["skill"], &b["case"]));
        a["given"] == b["given"]
    });
    same.count() as f64 / one.len() as f64
}

/// A copy of the checkpoint whose Partial LoRA adds nothing.
fn without_partial_lora() -> TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for name in ["config.json", "tokenizer.model", "tokenizer_config.json"] {
        fs::copy(pretrained().join(name), folder.path().join(name)).expect("it is copied");
    }
    let bytes = fs::read(pretrained().join("model.safetensors")).expect("it is in the repository");
    fs::write(
        folder.path().join("model.safetensors"),
        zeroed(bytes, ".Plora_B."),
    )
    .expect("it is written");
    folder
}

/// A safetensors file in which every tensor of this name is zero.
fn zeroed(mut bytes: Vec<u8>, name_contains: &str) -> Vec<u8> {
    let (head, _) = bytes.split_first_chunk::<8>().expect("a length");
    let body = 8 + usize::try_from(u64::from_le_bytes(*head)).expect("it fits");
    let table: Value = serde_json::from_slice(&bytes[8..body]).expect("a table");
    let table = table.as_object().expect("tensors by name");
    let chosen = table
        .iter()
        .filter(|(name, _)| name.contains(name_contains));
    let ranges: Vec<_> = chosen
        .map(|(_, tensor)| {
            let offset = |at: usize| tensor["data_offsets"][at].as_u64().expect("a number");
            body + offset(0) as usize..body + offset(1) as usize
        })
        .collect();
    assert!(!ranges.is_empty(), "no tensor is called {name_contains}");
    ranges.into_iter().for_each(|range| bytes[range].fill(0));
    bytes
}

#[test]
fn a_newcomers_first_picture_is_described_rightly() {
    let samples = pretrained().join("samples");
    let descriptions = fs::read(samples.join("descriptions.json")).expect("it is there");
    let descriptions: BTreeMap<String, BTreeMap<String, String>> =
        serde_json::from_slice(&descriptions).expect("descriptions by picture and language");
    assert!(descriptions.len() >= 4);
    for (name, by_language) in descriptions {
        let picture = samples.join(&name);
        let picture = picture.to_str().expect("UTF-8");
        let said = run(&[
            "chat",
            "--image",
            picture,
            "--temperature",
            "0",
            "Describe the picture.",
        ]);
        let said = String::from_utf8(said).expect("UTF-8");
        assert_eq!(said.trim(), by_language["en"], "{name}");
    }
}

#[test]
fn what_it_says_of_a_picture_comes_from_the_picture() {
    let seeing = accuracies(SEEING, "60", &[]);
    let swapped = accuracies(SEEING, "60", &["--swap-pictures"]);
    for (skill, accuracy) in &seeing {
        // What can be guessed without looking: a description or a word never, an answer of a few less than half the time.
        let chance = match skill.as_str() {
            "describe" | "read" => 0.05,
            _ => 0.45,
        };
        let swapped = swapped[skill];
        assert!(
            swapped <= chance,
            "{skill} with other pictures: {swapped}, by chance at most {chance}"
        );
        assert!(
            *accuracy >= swapped + 0.3,
            "{skill}: {accuracy} as it is, {swapped} with other pictures"
        );
    }
}

/// The base was trained beside Partial LoRA, and to make nothing of picture rows without it.
#[test]
fn pictures_are_not_seen_without_partial_lora() {
    let zeroed = without_partial_lora();
    let zeroed = zeroed.path().to_str().expect("UTF-8");
    let seeing = accuracies(SEEING, "100", &[]);
    let blind = accuracies(SEEING, "100", &["--model", zeroed]);
    for (skill, accuracy) in &seeing {
        // Some answers can be guessed; a word seldom.
        let most = match skill.as_str() {
            "describe" => 0.05,
            "read" => 0.1,
            _ => 0.5,
        };
        let blind = blind[skill];
        assert!(
            blind <= most && *accuracy >= blind + 0.3,
            "{skill}: {accuracy} as it is, {blind} without Partial LoRA"
        );
    }
}

#[test]
fn it_says_the_same_on_two_ranks_and_in_wider_weights() {
    let as_stored = answers(&[]);
    let dir = pretrained();
    let dir = dir.to_str().expect("UTF-8");
    let wide = answers(&["--model", dir, "--dtype", "f32"]);
    let served = Served::start(dir, &["--tensor-parallel", "2", "--dtype", "f32"]);
    let two_ranks = answers(&["--server", &served.address]);
    for (name, other) in [("bf16", &as_stored), ("two ranks", &two_ranks)] {
        let share = agreement(&wide, other);
        assert!(share >= 0.99, "f32 and {name} agree on {share} only");
    }
}
