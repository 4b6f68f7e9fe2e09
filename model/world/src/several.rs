//! What can be asked about two or three pictures, which questions call Image1, Image2, Image3.

use crate::{
    language::{Item, Language, fill},
    lot::Lot,
    questions::{Asked, ask_anything},
    scene::{Kind, Scene},
};

/// Any question about these scenes.
pub(crate) fn ask_about_several(scenes: &[Scene], language: &Language, lot: &mut Lot) -> Asked {
    let about = lot.below(scenes.len());
    let roll = lot.share();
    let asked = match roll {
        0.0..0.30 => Some(ask_what_is_in(scenes, about, language, lot)),
        0.30..0.50 => ask_which_shows(scenes, about, language, lot),
        _ => None,
    };
    let asked = asked.or_else(|| {
        let asked = (roll < 0.65).then(|| ask_which_has_more(scenes, language, lot));
        asked.flatten()
    });
    let asked = asked
        .or_else(|| (roll < 0.75 && scenes.len() == 2).then(|| ask_both(scenes, language, lot)));
    asked.unwrap_or_else(|| ask_about_one(scenes, about, language, lot))
}

fn ask_what_is_in(scenes: &[Scene], about: usize, language: &Language, lot: &mut Lot) -> Asked {
    let wording = &language.texts.pictures;
    let name = name(about);
    let list = shown(&scenes[about], language);
    Asked {
        kind: "what_is_in",
        question: fill(lot.wording(&wording.what_is_in), &[("i", &name)]),
        answer: fill(&wording.shows, &[("i", &name), ("list", &list)]),
    }
}

/// Which one shows what no other does.
fn ask_which_shows(
    scenes: &[Scene],
    about: usize,
    language: &Language,
    lot: &mut Lot,
) -> Option<Asked> {
    let wording = &language.texts.pictures;
    let is_lone = |kind: &Kind| {
        let holders = scenes.iter().filter(|scene| scene.count_kind(*kind) > 0);
        holders.count() == 1
    };
    let kinds = scenes[about].things.iter().map(|thing| thing.kind());
    let lone: Vec<Kind> = kinds.filter(is_lone).collect();
    if lone.is_empty() {
        return None;
    }
    let kind = language.kind(*lot.pick(&lone));
    Some(Asked {
        kind: "which_shows",
        question: fill(lot.wording(&wording.which_shows), &[("kind", &kind)]),
        answer: fill(&wording.image, &[("i", &name(about))]),
    })
}

/// Which one has more shapes: one, or all the same.
fn ask_which_has_more(scenes: &[Scene], language: &Language, lot: &mut Lot) -> Option<Asked> {
    let wording = &language.texts.pictures;
    let counts: Vec<usize> = scenes.iter().map(|scene| scene.things.len()).collect();
    let most = *counts.iter().max()?;
    let holders: Vec<usize> = (0..counts.len()).filter(|i| counts[*i] == most).collect();
    let answer = match holders.as_slice() {
        [one] => fill(&wording.image, &[("i", &name(*one))]),
        all if all.len() == counts.len() => wording.same.clone(),
        _ => return None,
    };
    Some(Asked {
        kind: "more",
        question: lot.pick(&wording.more).clone(),
        answer,
    })
}

fn ask_both(scenes: &[Scene], language: &Language, lot: &mut Lot) -> Asked {
    let things: Vec<_> = scenes.iter().flat_map(|scene| &scene.things).collect();
    let shape = lot.pick(&things).shape;
    let facts = [("shape", language.shape(shape))];
    Asked {
        kind: "both",
        question: fill(lot.wording(&language.texts.pictures.both), &facts),
        answer: language.yes_or_no(scenes.iter().all(|scene| scene.count_shape(shape) > 0)),
    }
}

fn ask_about_one(scenes: &[Scene], about: usize, language: &Language, lot: &mut Lot) -> Asked {
    let asked = ask_anything(&scenes[about], language, lot);
    let facts = [("i", name(about)), ("question", asked.question)];
    let facts = facts.each_ref().map(|(name, fact)| (*name, fact.as_str()));
    Asked {
        kind: asked.kind,
        question: fill(&language.texts.pictures.in_image, &facts),
        answer: asked.answer,
    }
}

fn name(about: usize) -> String {
    (about + 1).to_string()
}

/// Everything in a picture, without places.
fn shown(scene: &Scene, language: &Language) -> String {
    let things = scene.things.iter();
    let mut items: Vec<String> = things.map(|thing| language.np(Item::of(thing))).collect();
    if let Some(word) = &scene.word {
        let facts = [("word", word.text.as_str())];
        items.push(fill(&language.texts.pictures.with_word, &facts));
    }
    language.list(&items)
}
