//! What the model answers: how it is read, and the forms that it is held to.

use proptest::prelude::*;
use regex::Regex;

use super::{id, strings};
use crate::{
    Constraint, Release,
    steps::{caption, choice, edit::one_line, places},
};

fn article(len: usize) -> Vec<String> {
    (0..len).map(|number| format!("segment {number}")).collect()
}

fn question(segments: &[String], count: Option<usize>) -> places::Question<'_> {
    places::Question {
        segments,
        count,
        pictures: &[],
    }
}

#[track_caller]
pub(super) fn admits(constraint: Option<&Constraint>, answer: &str) -> bool {
    let Some(Constraint::Regex(regex)) = constraint else {
        panic!("a form is wanted");
    };
    Regex::new(&format!("^(?:{regex})$"))
        .unwrap()
        .is_match(answer)
}

#[track_caller]
fn check_places(count: Option<usize>, answer: &str, wanted: &[usize]) {
    let segments = article(8);
    let read = question(&segments, count).read(answer);
    assert_eq!(read.places, wanted, "{answer}");
    assert!(!read.by_default);
}

#[test]
fn places_are_read_sorted_and_once_each() {
    check_places(None, "适合插入图像的行是<Seg1>，<Seg3>。", &[1, 3]);
    // Unsorted, which the demo pairs wrongly with the pictures.
    check_places(Some(3), "<Seg5>, <Seg2>, <Seg5>", &[2, 5]);
    // Empty digits, on which the demo crashes; numbers that no segment has; what is no number.
    let odd = "<Seg><Seg8><Seg99999999999999999999999><Seg-1><Seg 2><Seg+3><Seg6><Seg4";
    check_places(None, odd, &[6]);
    check_places(Some(2), "<Seg0><Seg1><Seg2>", &[0, 1]);
}

#[test]
fn places_that_did_not_parse_are_told_as_defaults() {
    let segments = article(7);
    let read = |count, answer: &str| question(&segments, count).read(answer);
    for answer in ["", "nowhere", "<Seg7>", "<Seg>"] {
        let spread = read(Some(3), answer);
        assert!(spread.by_default);
        assert_eq!(
            spread.places,
            [2, 4, 6],
            "after paragraphs, never after the title"
        );
        let automatic = read(None, answer);
        assert!(automatic.by_default);
        assert!(automatic.places.is_empty());
    }
    assert_eq!(read(Some(15), "").places, [1, 2, 3, 4, 5, 6]);
    let title_only = article(1);
    assert_eq!(question(&title_only, Some(2)).read("").places, [0]);
    assert_eq!(question(&[], Some(2)).read("<Seg0>").places, [0; 0]);
}

#[test]
fn answers_about_places_are_numbers_of_segments() {
    let segments = article(12);
    let automatic = question(&segments, None).constraint();
    for answer in [
        "<Seg0>",
        "<Seg1>，<Seg3>。",
        "<Seg2>, <Seg11>",
        "<Seg5>、<Seg7>和<Seg9>",
    ] {
        assert!(admits(automatic.as_ref(), answer), "{answer}");
    }
    for answer in [
        "",
        "<Seg12>",
        "<Seg>",
        "<Seg01>",
        "行<Seg1>",
        "<Seg1>，",
        "<Seg1>; x",
    ] {
        assert!(!admits(automatic.as_ref(), answer), "{answer}");
    }
    let three = question(&segments, Some(3)).constraint();
    assert!(admits(three.as_ref(), "<Seg1>，<Seg3>，<Seg5>。"));
    assert!(!admits(three.as_ref(), "<Seg1>，<Seg3>。"));
    // No more than there are paragraphs.
    let two = article(2);
    assert!(admits(
        question(&two, Some(5)).constraint().as_ref(),
        "<Seg1>。"
    ));
    assert_eq!(question(&[], Some(5)).constraint(), None);
    let longest = article(60);
    let Some(Constraint::Regex(regex)) = question(&longest, Some(15)).constraint() else {
        panic!("a form is wanted");
    };
    assert!(regex.len() < 8 * 1024, "it is more than a request may hold");
}

#[test]
fn captions_end_at_the_quote() {
    let read = |answer| caption::read(answer, Release::Xc2);
    assert_eq!(read(" 一只猫 \"。 又\""), "一只猫");
    assert_eq!(read("a cat"), "a cat");
    assert_eq!(read("a\n\r\n cat \" x"), "a cat");
    assert_eq!(read("\"a cat\""), "");
    assert_eq!(read(" \n"), "");
}

#[test]
fn captions_of_release_2_5_end_at_the_last_quote() {
    let read = |answer| caption::read(answer, Release::Xc2d5);
    assert_eq!(
        read("a \"cat\" here\"</output>\n<input>\"x\""),
        "a \"cat\" here"
    );
    assert_eq!(read("a cat"), "a cat");
    assert_eq!(read("a cat\"</out"), "a cat");
}

#[track_caller]
fn check_choice(answer: &str, num_candidates: usize, wanted: Option<usize>) {
    let wanted = choice::Choice {
        candidate: wanted.unwrap_or_default(),
        by_default: wanted.is_none(),
    };
    assert_eq!(choice::read(answer, num_candidates), wanted, "{answer}");
}

#[test]
fn a_choice_is_the_first_letter_that_stands_alone() {
    check_choice(": C", 4, Some(2));
    check_choice("：Ｂ。", 4, Some(1));
    check_choice("D", 4, Some(3));
    check_choice("图A最合适", 4, Some(0));
    check_choice("Answer: B, not A", 4, Some(1));
    check_choice("J", 10, Some(9));
}

#[test]
fn a_choice_that_is_none_falls_on_the_first_and_says_so() {
    // With uploads the demo crashes here.
    for answer in ["", ":", "E", "c", "ABC", "A4", "最"] {
        check_choice(answer, 4, None);
    }
    check_choice("D", 3, None);
    check_choice("A", 0, None);
}

#[test]
fn answers_about_choices_are_letters_of_candidates() {
    let ids = ["a", "b", "c"].map(id);
    let candidates: Vec<_> = ids.iter().collect();
    let question = choice::Question {
        segments: &strings(&["x"]),
        place: 0,
        earlier: &[],
        candidates: &candidates,
    };
    let constraint = question.constraint();
    for answer in [": A", "：C", "B", ":B", " C"] {
        assert!(admits(constraint.as_ref(), answer), "{answer}");
    }
    for answer in ["", ":", "D", "a", "A.", "AB"] {
        assert!(!admits(constraint.as_ref(), answer), "{answer}");
    }
}

#[test]
fn applied_texts_are_one_line() {
    assert_eq!(one_line("\n a\n\r\nb \u{3000}"), "a b");
    assert_eq!(one_line(" \n "), "");
}

fn any_answer() -> impl Strategy<Value = String> {
    let pieces = prop_oneof![
        Just("<Seg".to_owned()),
        Just(">".to_owned()),
        Just("\"".to_owned()),
        Just("</output>".to_owned()),
        "[0-9]{1,30}",
        "<Seg[0-9]{1,2}>",
        "[A-F:： ]{1,3}",
        "\\PC{0,4}",
        any::<char>().prop_map(String::from),
    ];
    prop::collection::vec(pieces, 0..16).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn places_of_any_answer_are_segments_in_order(
        answer in any_answer(),
        len in 0_usize..20,
        count in prop::option::of(1_usize..16),
    ) {
        let segments = article(len);
        let read = question(&segments, count).read(&answer);
        prop_assert!(read.places.is_sorted_by(|a, b| a < b), "{:?}", read);
        prop_assert!(read.places.iter().all(|place| *place < len));
        prop_assert!(read.places.len() <= count.unwrap_or(15));
        prop_assert!(!read.places.is_empty() || read.by_default);
        if let Some(count) = count && read.by_default && len > 1 {
            prop_assert_eq!(read.places.len(), count.min(len - 1));
        }
    }

    #[test]
    fn answers_in_the_form_are_read_as_they_are(
        places in prop::collection::btree_set(0_usize..20, 1..8),
        fixed in any::<bool>(),
    ) {
        let places: Vec<usize> = places.into_iter().collect();
        let segments = article(20);
        let named: Vec<String> = places.iter().map(|place| format!("<Seg{place}>")).collect();
        let answer = format!("{}。", named.join("，"));
        let question = question(&segments, fixed.then_some(places.len()));
        prop_assert!(admits(question.constraint().as_ref(), &answer));
        prop_assert_eq!(question.read(&answer).places, places);
    }

    #[test]
    fn captions_of_any_answer_are_one_clean_line(answer in any_answer()) {
        for release in [Release::Xc2, Release::Xc2d5] {
            let caption = caption::read(&answer, release);
            prop_assert_eq!(caption.trim(), &caption);
            prop_assert!(!caption.contains(['\n', '\r']));
            prop_assert_eq!(caption::clean(&caption), caption);
        }
    }

    #[test]
    fn choices_of_any_answer_are_candidates(answer in any_answer(), num_candidates in 1_usize..11) {
        let read = choice::read(&answer, num_candidates);
        prop_assert!(read.candidate < num_candidates);
    }

    #[test]
    fn any_applied_text_is_one_line(text in "(\\PC|\n|\r| ){0,20}") {
        let line = one_line(&text);
        prop_assert!(!line.contains(['\n', '\r']));
        prop_assert_eq!(one_line(&line), line);
    }
}
