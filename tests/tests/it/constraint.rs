//! Answers that must have a form, from a real server: they have it, and a form that cannot be followed is that request's
//! affair alone.

use inkstone_proto::v1::{ChatRequest, ChoiceList, Constraint, constraint::Form};
use inkstone_tests::client::{ask, connect, greedy, picture, text, user};
use serde_json::Value;
use tonic::Code;
use tonic_types::StatusExt;

use crate::cluster_fixture::{Served, small_model};

/// A small model likes line breaks: between two parts of JSON it may put 48.
const MAX_TOKENS: u32 = 1000;
const SCHEMA: &str = r#"{
    "type": "object",
    "properties": {
        "colour": { "enum": ["red", "green", "blue"] },
        "count": { "type": "integer", "minimum": 0, "maximum": 9 },
        "seen": { "type": "boolean" }
    },
    "required": ["colour", "count", "seen"],
    "additionalProperties": false
}"#;

fn sample() -> Vec<u8> {
    let file = format!("{}/samples/scene-1.png", small_model());
    std::fs::read(file).expect("it ships")
}

fn constrained(form: Form) -> ChatRequest {
    let parts = vec![picture(sample()), text("What is in the picture?")];
    let mut request = greedy(vec![user(parts)], MAX_TOKENS);
    request.stop.as_mut().expect("greedy sets it").ignore_eos = false;
    request.constraint = Some(Constraint { form: Some(form) });
    request
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_have_the_form_that_was_asked_for() {
    let served = Served::start(small_model(), &["--tensor-parallel", "2"]);
    let mut client = connect(&served.address).await;
    let schema = constrained(Form::JsonSchema(SCHEMA.into()));
    let said = ask(&mut client, schema).await.expect("an answer").text;
    let said: Value = serde_json::from_str(&said).expect(&said);
    assert!(["red", "green", "blue"].contains(&said["colour"].as_str().expect("a string")));
    assert!((0..10).contains(&said["count"].as_i64().expect("a number")));
    assert!(said["seen"].is_boolean(), "{said}");

    let regex = constrained(Form::Regex("[A-C]{2}-[0-9]{3}".into()));
    let said = ask(&mut client, regex).await.expect("an answer").text;
    let (letters, digits) = said.split_once('-').expect(&said);
    assert!(letters.len() == 2 && letters.bytes().all(|b| (b'A'..=b'C').contains(&b)));
    assert!(digits.len() == 3 && digits.bytes().all(|b| b.is_ascii_digit()));

    let choices = ["a cat", "a dog in the rain", "一只猫"].map(str::to_owned);
    let choice = constrained(Form::Choices(ChoiceList {
        choices: choices.to_vec(),
    }));
    let said = ask(&mut client, choice).await.expect("an answer").text;
    assert!(choices.contains(&said), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_form_that_cannot_be_followed_is_refused_by_name_and_hurts_nobody_else() {
    let served = Served::start(small_model(), &[]);
    let client = connect(&served.address).await;
    let good = tokio::spawn({
        let mut client = client.clone();
        async move { ask(&mut client, constrained(Form::JsonSchema(SCHEMA.into()))).await }
    });
    for form in [
        Form::JsonSchema("{".into()),
        Form::JsonSchema(r#"{"type": "no such type"}"#.into()),
        Form::Regex("(".into()),
    ] {
        let refused = ask(&mut client.clone(), constrained(form)).await;
        let status = refused.expect_err("it cannot be followed");
        assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
        let details = status.get_details_bad_request().expect("what is wrong");
        let fields: Vec<_> = details.field_violations.iter().map(|v| &v.field).collect();
        assert_eq!(fields, ["constraint"], "{status:?}");
    }
    good.await.expect("no panic").expect("an answer");
}
