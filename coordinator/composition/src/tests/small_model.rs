//! What the small model was measured by: its questions are ours, and its right answers have our forms and are read as meant.

use inkstone_world::{Case, Part, Skill, draw_case};

use super::{CharMeter, SETTINGS, answers::admits, id};
use crate::{
    Asked, Release,
    steps::{caption, choice, places},
};

const NUM_CASES: u64 = 200;

fn cases(skill: Skill) -> impl Iterator<Item = Case> {
    (0..NUM_CASES).map(move |index| draw_case(skill, 11, index))
}

/// The user's text with `<image>` for pictures, the answer's beginning and the answer.
fn asked(case: &Case) -> (String, &'static str, &str) {
    let [turn] = &case.turns[..] else {
        panic!("composition asks once");
    };
    assert!(!case.has_system);
    let parts = turn.parts.iter().map(|part| match part {
        Part::Text(text) => text.as_str(),
        Part::Picture(_) => "<image>",
    });
    (
        parts.collect(),
        turn.answer_prefix.unwrap_or_default(),
        &turn.wanted,
    )
}

/// The segments that a question tells as numbered lines.
fn told(text: &str) -> Vec<String> {
    let (_, rest) = text.split_once("给定文章\"").unwrap();
    let (lines, _) = rest.split_once("\n\" ").unwrap();
    let lines = lines.lines().enumerate().map(|(number, line)| {
        line.strip_prefix(&format!("<Seg{number}> "))
            .unwrap()
            .to_owned()
    });
    lines.collect()
}

#[track_caller]
fn check_prompt(ours: &Asked, text: &str, prefix: &str) {
    let wanted = format!(
        "[UNUSED_TOKEN_146]user\n{text}[UNUSED_TOKEN_145]\n[UNUSED_TOKEN_146]assistant\n{prefix}"
    );
    assert_eq!(ours.generation.prompt.to_string(), wanted);
}

#[test]
fn places_are_asked_for_and_answered_as_in_training() {
    for case in cases(Skill::Places) {
        let (text, prefix, wanted) = asked(&case);
        let segments = told(&text);
        let (_, count) = text.rsplit_once("图像的").unwrap();
        let question = places::Question {
            segments: &segments,
            count: count.strip_suffix("行").unwrap().parse().ok(),
            pictures: &[],
        };
        let ours = question.ask(&SETTINGS, &CharMeter::WIDE).unwrap();
        check_prompt(&ours, &text, prefix);
        let read = question.read(wanted);
        let named: Vec<String> = read.places.iter().map(|k| format!("<Seg{k}>")).collect();
        assert_eq!(format!("{}。", named.join("，")), wanted);
        assert!(!read.by_default);
        assert!(
            admits(ours.generation.constraint.as_ref(), wanted),
            "{wanted}"
        );
    }
}

#[test]
fn captions_are_asked_for_and_answered_as_in_training() {
    for case in cases(Skill::Caption) {
        let (text, prefix, wanted) = asked(&case);
        let segments = told(&text);
        let number = |text: &str| text.split('>').next().unwrap().parse::<usize>().unwrap();
        let (_, question) = text.split_once("\n\" ").unwrap();
        let (past, last) = question.rsplit_once("给出适合在<Seg").unwrap();
        let earlier = past.split("<Seg").skip(1).map(|told| {
            let caption = told.split('"').nth(1).unwrap();
            (number(told), caption)
        });
        let earlier: Vec<(usize, &str)> = earlier.collect();
        let question = caption::Question {
            segments: &segments,
            place: number(last),
            earlier: &earlier,
        };
        let ours = question.ask(&SETTINGS, &CharMeter::WIDE).unwrap();
        check_prompt(&ours, &text, prefix);
        let read = caption::read(wanted, Release::Xc2);
        assert_eq!(format!("{read}\""), wanted);
    }
}

#[test]
fn choices_are_asked_for_and_answered_as_in_training() {
    let picture = id("x");
    for case in cases(Skill::ChoosePicture) {
        let (text, prefix, wanted) = asked(&case);
        let (_, article) = text.split_once('：').unwrap();
        let (article, candidates) = article.split_once("候选图像包括: ").unwrap();
        let mut segments: Vec<String> = vec![];
        let mut earlier = vec![];
        for line in article.lines() {
            let text = line.strip_prefix("<image>").unwrap_or(line);
            if text.len() < line.len() {
                earlier.push((segments.len() - 1, &picture));
            }
            segments.push(text.to_owned());
        }
        let candidates = vec![&picture; candidates.matches("<image>").count()];
        let question = choice::Question {
            segments: &segments,
            place: segments.len() - 1,
            earlier: &earlier,
            candidates: &candidates,
        };
        let ours = question.ask(&SETTINGS, &CharMeter::WIDE).unwrap();
        check_prompt(&ours, &text, prefix);
        assert!(admits(ours.generation.constraint.as_ref(), wanted));
        let letter = wanted.chars().last().unwrap();
        let read = question.read(wanted);
        assert_eq!(read.candidate, letter as usize - 'A' as usize);
        assert!(!read.by_default);
    }
}
