//! `inkstone eval`: fresh cases of the small world, asked through a whole cluster.

use std::process::Command;

use serde_json::Value;

use crate::cluster_fixture::{program, tiny_model};

const SKILLS: [&str; 10] = [
    "describe",
    "question",
    "read",
    "two_pictures",
    "turns",
    "compose",
    "places",
    "caption",
    "choose_picture",
    "edit",
];

#[test]
fn the_figures_of_every_skill_are_printed_as_json() {
    let output = Command::new(program())
        .args([
            "eval",
            "--model",
            tiny_model(),
            "--seed",
            "5",
            "--count",
            "1",
            "--json",
        ])
        .output()
        .expect("it runs");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let printed: Value = serde_json::from_slice(&output.stdout).expect("JSON and nothing else");
    let all = printed.as_object().expect("an object");
    assert_eq!(all.keys().collect::<Vec<_>>(), ["skills"]);
    let skills = printed["skills"].as_object().expect("skills by name");
    assert_eq!(skills.len(), SKILLS.len());
    for name in SKILLS {
        let figure = skills[name].as_object().expect("a figure");
        assert_eq!(figure.keys().collect::<Vec<_>>(), ["accuracy", "count"]);
        let accuracy = figure["accuracy"].as_f64().expect("a number");
        assert!((0.0..=1.0).contains(&accuracy), "{name}: {accuracy}");
        let count = figure["count"].as_u64().expect("a number");
        // A conversation has several answers.
        assert!(
            count == 1 || name == "turns" && count > 1,
            "{name}: {count}"
        );
    }
}

#[test]
fn an_unknown_skill_is_named_with_those_there_are() {
    let output = Command::new(program())
        .args(["eval", "--skills", "read,paint"])
        .output()
        .expect("it runs");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(
        errors.contains("paint") && errors.contains("choose_picture"),
        "{errors}"
    );
}
