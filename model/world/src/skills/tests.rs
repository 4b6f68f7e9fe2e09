use super::*;
use crate::{draw::draw_picture, judge::things, language::languages, scene::Thing};

fn cases(skill: Skill, count: u64) -> impl Iterator<Item = Case> {
    (0..count).map(move |index| draw_case(skill, 9, index))
}

fn scenes(case: &Case) -> Vec<&Scene> {
    let parts = case.turns.iter().flat_map(|turn| &turn.parts);
    let scenes = parts.filter_map(|part| match part {
        Part::Picture(scene) => Some(&**scene),
        Part::Text(_) => None,
    });
    scenes.collect()
}

fn said(turn: &Turn) -> String {
    let parts = turn.parts.iter().map(|part| match part {
        Part::Picture(_) => "<image>",
        Part::Text(text) => text,
    });
    parts.collect()
}

#[test]
fn the_same_seed_gives_the_same_case_and_the_same_pictures() {
    for skill in Skill::ALL {
        let files = |case: &Case| {
            scenes(case)
                .into_iter()
                .map(draw_picture)
                .collect::<Vec<_>>()
        };
        let (one, other) = (draw_case(skill, 3, 5), draw_case(skill, 3, 5));
        assert_eq!(one, other);
        assert_eq!(files(&one), files(&other));
        assert_ne!(one, draw_case(skill, 4, 5), "{skill}: another seed");
        assert_ne!(one, draw_case(skill, 3, 6), "{skill}: another number");
    }
}

#[test]
fn the_wanted_answer_is_right_and_another_cases_is_not() {
    for skill in Skill::ALL {
        let mut differ = 0;
        let all: Vec<Case> = cases(skill, 60).collect();
        for pair in all.windows(2) {
            let [wanted, other] = [0, 1].map(|index| &pair[index].turns[0].wanted);
            assert!(skill.is_right(wanted, wanted));
            assert!(skill.is_right(wanted, &format!(" {wanted}\n")));
            assert!(!skill.is_right(wanted, "no idea"), "{wanted}");
            differ += usize::from(!skill.is_right(wanted, other));
        }
        assert!(differ > 35, "{skill}: {differ} of 59 neighbours differ");
    }
}

#[test]
fn only_composition_leaves_the_system_text_out_and_begins_answers() {
    for skill in Skill::ALL {
        let case = draw_case(skill, 1, 0);
        let is_chat = skill < Skill::Compose;
        assert_eq!(case.has_system, is_chat);
        let has_prefix = [Skill::Places, Skill::Caption, Skill::ChoosePicture].contains(&skill);
        assert_eq!(case.turns[0].answer_prefix.is_some(), has_prefix);
        assert_eq!(skill.name().parse(), Ok(skill));
    }
    assert!("paint".parse::<Skill>().is_err());
}

#[test]
fn several_pictures_are_numbered() {
    for case in cases(Skill::TwoPictures, 50) {
        let prompt = said(&case.turns[0]);
        let count = scenes(&case).len();
        let numbered: String = (1..=count).map(|k| format!("Image{k} <image>; ")).collect();
        assert!(prompt.starts_with(&numbered), "{prompt}");
        assert!((2..=3).contains(&count));
    }
}

#[test]
fn conversations_show_the_picture_once_and_ask_nothing_twice() {
    let lengths: Vec<usize> = cases(Skill::Turns, 200)
        .map(|case| {
            assert_eq!(scenes(&case).len(), 1);
            let asked: Vec<String> = case.turns.iter().skip(1).map(said).collect();
            assert!(asked.iter().all(|question| !question.contains("<image>")));
            case.turns.len()
        })
        .collect();
    assert!(lengths.iter().all(|length| (1..=7).contains(length)));
    assert!(lengths.iter().any(|length| *length > 3));
}

/// Whether an article's words, in either language, with or without its size, name a thing.
fn is_named(thing: &Thing, words: &str) -> bool {
    let item = Item::of(thing);
    let sizeless = Item { size: None, ..item };
    let named = |language: &Language| [item, sizeless].map(|item| language.np(item));
    let mut languages = languages().iter();
    languages.any(|language| named(language).contains(&words.to_owned()))
}

#[test]
fn one_candidate_shows_what_the_text_speaks_of_last() {
    for case in cases(Skill::ChoosePicture, 100) {
        let turn = &case.turns[0];
        let prompt = said(turn);
        assert!(prompt.starts_with("根据给定上下文和候选图像，选择合适的配图："));
        let (told, candidates) = prompt
            .split_once("候选图像包括: ")
            .expect("candidates follow");
        let count = candidates.matches("<image>").count();
        let letters: Vec<String> = (0..count)
            .map(|k| format!("{}.<image>", ["A", "B", "C", "D"][k]))
            .collect();
        assert_eq!(candidates, letters.join("\n"));
        let right = turn
            .wanted
            .strip_prefix(": ")
            .expect("a colon, then the letter");
        let right = ["A", "B", "C", "D"]
            .iter()
            .position(|letter| *letter == right)
            .expect("a letter");
        let last = *things(told).last().expect("the text shows something");
        let scenes = scenes(&case);
        let candidates = scenes[scenes.len() - count..].iter();
        let shown = candidates.map(|scene| scene.things.iter().any(|thing| is_named(thing, last)));
        let holders: Vec<usize> = shown
            .enumerate()
            .filter_map(|(index, shows)| shows.then_some(index))
            .collect();
        assert_eq!(holders, [right], "{told}");
    }
}

#[test]
fn requests_with_pictures_place_them_before_the_words() {
    let with_pictures: Vec<Case> = cases(Skill::Compose, 60)
        .filter(|case| !scenes(case).is_empty())
        .collect();
    assert!(!with_pictures.is_empty());
    for case in with_pictures {
        let prompt = said(&case.turns[0]);
        let words = prompt
            .trim_start_matches("<image> ")
            .trim_start_matches("<image>");
        assert!(
            !words.contains("<image>") && !words.starts_with(' '),
            "{prompt}"
        );
    }
}

#[test]
fn swapped_pictures_change_the_pictures_and_nothing_else() {
    let case = draw_case(Skill::TwoPictures, 2, 0);
    let mut swapped = case.clone();
    swapped.swap_pictures(&mut Lot::new(2, "swap", 0));
    assert_ne!(scenes(&case), scenes(&swapped));
    assert_eq!(said(&case.turns[0]), said(&swapped.turns[0]));
    assert_eq!(case.turns[0].wanted, swapped.turns[0].wanted);
}
