//! Prompts of the reference, with the tokenizers they were made with.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::*;

#[test]
fn readme_example_takes_the_positions_the_spec_counts() {
    let Some(model) = golden_data::real_tokenizer() else {
        return;
    };
    let tokenizer = Tokenizer::from_model_bytes(&model).unwrap();
    let messages = [ChatMessage::user(
        "<ImageHere>Please describe this image in detail.",
    )];
    let num_tokens = |bos| {
        let options = RenderOptions {
            bos,
            num_pictures: 1,
            ..RenderOptions::default()
        };
        VL.render(&tokenizer, &messages, &options)
            .unwrap()
            .num_tokens(&[1225])
    };
    assert_eq!(
        (num_tokens(BosRule::Once), num_tokens(BosRule::Reference)),
        (1375, 1376)
    );
}

#[derive(Deserialize)]
struct Manifest {
    cases: BTreeMap<String, serde_json::Value>,
}

#[derive(Deserialize)]
struct PromptCase {
    prompt: String,
    #[serde(default)]
    images: Vec<String>,
    bos: Option<String>,
}

/// Takes a prompt of the reference apart into the messages it was made from.
fn messages_of(prompt: &str) -> Vec<ChatMessage> {
    let turns = prompt
        .split("[UNUSED_TOKEN_146]")
        .skip(1)
        .filter_map(|turn| turn.strip_suffix(CLOSE));
    let message = |turn: &str| match turn.split_once('\n').unwrap() {
        ("system", text) => ChatMessage::system(text),
        ("user", text) => ChatMessage::user(text),
        ("assistant", text) => ChatMessage::assistant(text),
        (role, _) => panic!("unknown role {role}"),
    };
    turns.map(message).collect()
}

/// Ids with one -1 for each picture, however many tokens it takes.
fn ids_of(prompt: &RenderedPrompt) -> Vec<i32> {
    let ids = prompt.parts.iter().flat_map(|part| match part {
        PromptPart::Tokens(ids) => ids.iter().map(|&id| id as i32).collect(),
        PromptPart::Picture { .. } => vec![-1],
    });
    ids.collect()
}

#[test]
fn prompts_equal_the_reference() {
    let mut compared = 0;
    let folders = [
        ("xc2-vl-tiny", VL),
        ("xc2-comp-tiny", COMPOSITION),
        ("xc2-realvocab-tiny", COMPOSITION),
        ("xc2-4khd-tiny", FOUR_KHD),
        ("xc2d5-tiny", XC2D5),
    ];
    for (folder, template) in folders {
        let Some(manifest) = golden_data::read(&format!("{folder}/manifest.json")) else {
            continue;
        };
        let own = golden_data::read(&format!("{folder}/checkpoint/tokenizer.model"));
        let Some(model) = own.or_else(golden_data::real_tokenizer) else {
            continue;
        };
        let tokenizer = Tokenizer::from_model_bytes(&model).unwrap();
        let manifest: Manifest = serde_json::from_slice(&manifest).unwrap();
        let tensors =
            golden_data::IntTensors::read(&format!("{folder}/goldens.safetensors")).unwrap();
        for (name, case) in manifest.cases {
            let Some(mut wanted) = tensors.get(&format!("{name}.ids")) else {
                continue;
            };
            let Ok(case) = serde_json::from_value::<PromptCase>(case) else {
                continue;
            };
            wanted.dedup_by(|a, b| *a == -1 && *b == -1);
            let reference =
                case.bos.as_deref().is_some_and(|bos| bos != "once") || wanted.starts_with(&[1, 1]);
            let options = RenderOptions {
                bos: if reference {
                    BosRule::Reference
                } else {
                    BosRule::Once
                },
                ..options(wanted.iter().filter(|&&id| id == -1).count())
            };
            let prompt = template
                .render(&tokenizer, &messages_of(&case.prompt), &options)
                .unwrap();
            assert_eq!(ids_of(&prompt), wanted, "{folder} {name} {:?}", case.images);
            compared += 1;
        }
    }
    assert!(compared > 0, "there is no prompt to compare");
}
