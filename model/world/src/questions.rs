//! What can be asked about one scene, with the one right answer. A question that a scene cannot carry is None.

use crate::{
    language::{Item, Language, capital, fill},
    lot::Lot,
    scene::{Colour, GRID, Kind, Scene, Shape, Size, Thing},
};

/// A question and its answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Asked {
    /// What it is about, for tables.
    pub(crate) kind: &'static str,
    pub(crate) question: String,
    pub(crate) answer: String,
}

type Asker = fn(&Scene, &Language, &mut Lot) -> Option<Asked>;

/// Every kind of question but reading.
const ASKERS: [Asker; 9] = [
    ask_colour,
    ask_shape,
    ask_what,
    ask_where,
    ask_size,
    ask_count,
    ask_compare,
    ask_yes_no,
    ask_where_word,
];

/// Chance that reading is asked for, where there is a word and where there is none.
const READ_CHANCE: [f64; 2] = [0.30, 0.03];

/// Any question but to read or to describe.
pub(crate) fn ask_anything_seen(scene: &Scene, language: &Language, lot: &mut Lot) -> Asked {
    loop {
        let asker = *lot.pick(&ASKERS);
        if let Some(asked) = asker(scene, language, lot) {
            return asked;
        }
    }
}

/// Any question but to describe.
pub(crate) fn ask_anything(scene: &Scene, language: &Language, lot: &mut Lot) -> Asked {
    let [with_word, without] = READ_CHANCE;
    if lot.chance(if scene.word.is_some() {
        with_word
    } else {
        without
    }) {
        return ask_to_read(scene, language, lot);
    }
    ask_anything_seen(scene, language, lot)
}

pub(crate) fn ask_to_describe(scene: &Scene, language: &Language, lot: &mut Lot) -> Asked {
    Asked {
        kind: "describe",
        question: lot.pick(&language.texts.describe.asks).clone(),
        answer: describe(scene, language),
    }
}

pub(crate) fn ask_to_read(scene: &Scene, language: &Language, lot: &mut Lot) -> Asked {
    let answer = match &scene.word {
        Some(word) => language.answer("read", &[("word", &word.text)]),
        None => language.answer("no_word", &[]),
    };
    Asked {
        kind: "read",
        question: language.ask(lot, "read", &[]),
        answer,
    }
}

/// A question about a thing, then one that calls it `it`.
pub(crate) fn ask_twice(scene: &Scene, language: &Language, lot: &mut Lot) -> Option<[Asked; 2]> {
    let unique = scene.unique();
    let thing = pick_thing(&unique, lot)?;
    let place = (language.place(thing), &language.texts.follow.place, "where");
    let size = (language.size(thing), &language.texts.follow.size, "size");
    let (first, second) = if lot.chance(0.5) {
        (place, size)
    } else {
        (size, place)
    };
    let question = language.ask(lot, first.2, &[("kind", &language.kind(thing.kind()))]);
    Some([
        Asked {
            kind: "follow",
            question,
            answer: first.0,
        },
        Asked {
            kind: "follow",
            question: second.1.clone(),
            answer: second.0,
        },
    ])
}

fn describe(scene: &Scene, language: &Language) -> String {
    let texts = &language.texts;
    let items: Vec<String> = scene
        .things
        .iter()
        .map(|thing| {
            let facts = [
                ("np", language.np(Item::of(thing))),
                ("cell", texts.cells[thing.cell()].clone()),
            ];
            fill(
                &texts.describe.item,
                &facts.each_ref().map(|(n, f)| (*n, f.as_str())),
            )
        })
        .collect();
    let wording = if items.len() == 1 {
        &texts.describe.shape
    } else {
        &texts.describe.shapes
    };
    let listed = language.clauses(&items);
    let facts = [
        ("n", language.number(items.len())),
        ("list", listed.as_str()),
    ];
    let shapes = fill(wording, &facts);
    let word = scene.word.as_ref().map(|word| {
        let facts = [("word", word.text.as_str()), ("row", &texts.rows[word.row])];
        fill(&texts.describe.word, &facts)
    });
    let relation = relation(scene, language);
    language.space(&[
        &shapes,
        relation.as_deref().unwrap_or_default(),
        word.as_deref().unwrap_or_default(),
    ])
}

/// How the first thing stands to the last.
fn relation(scene: &Scene, language: &Language) -> Option<String> {
    let [first, .., last] = scene.things.as_slice() else {
        return None;
    };
    let wording = if first.row != last.row {
        &language.texts.describe.relation_row
    } else {
        &language.texts.describe.relation_column
    };
    let [a, b] = [first, last].map(|thing| language.sized(Item::of(thing)));
    Some(fill(wording, &[("a", &a), ("b", &b)]))
}

fn ask_colour(scene: &Scene, language: &Language, lot: &mut Lot) -> Option<Asked> {
    let things = scene.things.iter();
    let lone: Vec<&Thing> = things.filter(|t| scene.count_shape(t.shape) == 1).collect();
    let (thing, question) = if !lone.is_empty() && lot.chance(0.6) {
        let thing = pick_thing(&lone, lot)?;
        let facts = [("shape", language.shape(thing.shape))];
        (thing, language.ask(lot, "colour_of_shape", &facts))
    } else {
        let thing = lot.pick(&scene.things);
        let facts = [("cell", language.texts.cells[thing.cell()].as_str())];
        (thing, language.ask(lot, "colour_of_cell", &facts))
    };
    Some(Asked {
        kind: "colour",
        question,
        answer: language.answer("colour", &[("colour", language.colour(thing.colour))]),
    })
}

fn ask_shape(scene: &Scene, language: &Language, lot: &mut Lot) -> Option<Asked> {
    let things = scene.things.iter();
    let lone: Vec<&Thing> = things
        .filter(|t| scene.count_colour(t.colour) == 1)
        .collect();
    let thing = pick_thing(&lone, lot)?;
    let facts = [("colour", language.colour(thing.colour))];
    Some(Asked {
        kind: "shape",
        question: language.ask(lot, "shape_of_colour", &facts),
        answer: language.answer("shape", &[("shape", language.shape(thing.shape))]),
    })
}

fn ask_what(scene: &Scene, language: &Language, lot: &mut Lot) -> Option<Asked> {
    let held = |cell: &usize| scene.things.iter().find(|thing| thing.cell() == *cell);
    let word_row = scene.word.as_ref().map(|word| word.row);
    let empty: Vec<usize> = (0..GRID * GRID)
        .filter(|cell| held(cell).is_none() && word_row != Some(cell / GRID))
        .collect();
    let cell = if !empty.is_empty() && lot.chance(0.15) {
        *lot.pick(&empty)
    } else {
        lot.pick(&scene.things).cell()
    };
    let answer = match held(&cell) {
        Some(thing) => {
            let np = capital(&language.np(Item::of(thing)));
            language.answer("what", &[("np", &np)])
        }
        None => language.answer("nothing", &[]),
    };
    Some(Asked {
        kind: "what",
        question: language.ask(lot, "what_is_at", &[("cell", &language.texts.cells[cell])]),
        answer,
    })
}

fn ask_where(scene: &Scene, language: &Language, lot: &mut Lot) -> Option<Asked> {
    let unique = scene.unique();
    let thing = pick_thing(&unique, lot)?;
    Some(Asked {
        kind: "where",
        question: language.ask(lot, "where", &[("kind", &language.kind(thing.kind()))]),
        answer: language.place(thing),
    })
}

fn ask_size(scene: &Scene, language: &Language, lot: &mut Lot) -> Option<Asked> {
    let unique = scene.unique();
    let thing = pick_thing(&unique, lot)?;
    Some(Asked {
        kind: "size",
        question: language.ask(lot, "size", &[("kind", &language.kind(thing.kind()))]),
        answer: language.size(thing),
    })
}

fn ask_count(scene: &Scene, language: &Language, lot: &mut Lot) -> Option<Asked> {
    let roll = lot.share();
    let present = lot.pick(&scene.things);
    let (question, count) = if roll < 0.34 {
        (language.ask(lot, "count", &[]), scene.things.len())
    } else if roll < 0.67 {
        let colour = mostly(present.colour, &Colour::ALL, lot);
        let facts = [("colour", language.colour(colour))];
        let question = language.ask(lot, "count_colour", &facts);
        (question, scene.count_colour(colour))
    } else {
        let shape = mostly(present.shape, &Shape::ALL, lot);
        let question = language.ask(lot, "count_shape", &[("shapes", &language.shapes(shape))]);
        (question, scene.count_shape(shape))
    };
    let answer = match count {
        0 => language.answer("count_none", &[]),
        1 => language.answer("count_one", &[]),
        _ => language.answer("count", &[("n", language.number(count))]),
    };
    Some(Asked {
        kind: "count",
        question,
        answer,
    })
}

/// What is there, or now and then any.
fn mostly<T: Copy>(present: T, all: &[T], lot: &mut Lot) -> T {
    if lot.chance(0.75) {
        present
    } else {
        *lot.pick(all)
    }
}

fn ask_compare(scene: &Scene, language: &Language, lot: &mut Lot) -> Option<Asked> {
    let unique = scene.unique();
    let pairs: Vec<(Kind, Kind)> = unique
        .iter()
        .flat_map(|a| unique.iter().map(move |b| (a, b)))
        .filter(|(a, b)| a.size > b.size)
        .map(|(a, b)| (a.kind(), b.kind()))
        .collect();
    if pairs.is_empty() {
        return None;
    }
    let (large, small) = *lot.pick(&pairs);
    let (name, right) = if lot.chance(0.6) {
        ("larger", large)
    } else {
        ("smaller", small)
    };
    let (a, b) = in_any_order(large, small, lot);
    Some(Asked {
        kind: "compare",
        question: ask_about_two(language, lot, name, a, b),
        answer: language.answer("which", &[("kind", &language.kind(right))]),
    })
}

fn in_any_order<T>(a: T, b: T, lot: &mut Lot) -> (T, T) {
    if lot.chance(0.5) { (a, b) } else { (b, a) }
}

fn ask_about_two(language: &Language, lot: &mut Lot, name: &str, a: Kind, b: Kind) -> String {
    let (a, b) = (language.kind(a), language.kind(b));
    language.ask(lot, name, &[("a", &a), ("b", &b)])
}

fn ask_yes_no(scene: &Scene, language: &Language, lot: &mut Lot) -> Option<Asked> {
    let unique = scene.unique();
    if unique.len() >= 2 && lot.chance(0.5) {
        let pair = lot.sample(&unique, 2);
        return ask_relation(pair[0], pair[1], language, lot);
    }
    let (mut colour, mut shape) = lot.pick(&scene.things).kind();
    if lot.chance(0.5) {
        if lot.chance(0.5) {
            colour = *lot.pick(&Colour::ALL);
        } else {
            shape = *lot.pick(&Shape::ALL);
        }
    }
    let kind = (colour, shape);
    Some(Asked {
        kind: "yes_no",
        question: language.ask(lot, "exists", &[("kind", &language.kind(kind))]),
        answer: language.yes_or_no(scene.count_kind(kind) > 0),
    })
}

fn ask_relation(a: &Thing, b: &Thing, language: &Language, lot: &mut Lot) -> Option<Asked> {
    let (name, is_so) = if a.row != b.row && (a.column == b.column || lot.chance(0.5)) {
        ("above", a.row < b.row)
    } else if a.column != b.column {
        ("left", a.column < b.column)
    } else {
        return None;
    };
    Some(Asked {
        kind: "yes_no",
        question: ask_about_two(language, lot, name, a.kind(), b.kind()),
        answer: language.yes_or_no(is_so),
    })
}

fn ask_where_word(scene: &Scene, language: &Language, lot: &mut Lot) -> Option<Asked> {
    let row = &language.texts.rows[scene.word.as_ref()?.row];
    Some(Asked {
        kind: "where_word",
        question: language.ask(lot, "where_word", &[]),
        answer: language.answer("where", &[("cell", row)]),
    })
}

fn pick_thing<'a>(among: &[&'a Thing], lot: &mut Lot) -> Option<&'a Thing> {
    (!among.is_empty()).then(|| *lot.pick(among))
}

impl Language {
    /// One of the wordings of a question.
    fn ask(&self, lot: &mut Lot, name: &str, facts: &[(&str, &str)]) -> String {
        fill(lot.wording(&self.texts.ask[name]), facts)
    }

    fn answer(&self, name: &str, facts: &[(&str, &str)]) -> String {
        fill(&self.texts.answer[name], facts)
    }

    pub(crate) fn yes_or_no(&self, yes: bool) -> String {
        self.answer(if yes { "yes" } else { "no" }, &[])
    }

    fn place(&self, thing: &Thing) -> String {
        self.answer("where", &[("cell", &self.texts.cells[thing.cell()])])
    }

    fn size(&self, thing: &Thing) -> String {
        let size: Size = thing.size;
        self.answer("size", &[("size", &self.texts.sizes[&size])])
    }
}

#[cfg(test)]
mod tests;
