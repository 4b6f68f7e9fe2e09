//! The five edits of a paragraph, and what each should give.

use crate::{
    articles::{any_item, any_topic, place, seen, unseen},
    language::{Item, Language, any_language, fill},
    lot::Lot,
    prompts,
    scene::Colour,
};

/// What is done to a paragraph.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    Rewrite,
    Expand,
    Abbreviate,
    InsertBefore,
    InsertAfter,
}

impl Operation {
    pub(crate) const ALL: [Self; 5] = [
        Self::Rewrite,
        Self::Expand,
        Self::Abbreviate,
        Self::InsertBefore,
        Self::InsertAfter,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Rewrite => "rewrite",
            Self::Expand => "expand",
            Self::Abbreviate => "abbreviate",
            Self::InsertBefore => "insert_before",
            Self::InsertAfter => "insert_after",
        }
    }
}

/// A paragraph to work on: its text, what it shows, and which wording it has.
struct Paragraph {
    text: String,
    item: Option<Item>,
    style: usize,
}

impl Paragraph {
    fn any(language: &Language, lot: &mut Lot) -> Self {
        let wording = &language.texts.article;
        let item = lot.chance(0.8).then(|| any_item(lot));
        let style = match item {
            Some(_) => lot.below(wording.seen.len()),
            None => lot.below(wording.unseen.len()),
        };
        Self {
            text: worded(language, item, style),
            item,
            style,
        }
    }

    /// The sentence that makes it longer.
    fn more(&self, language: &'static Language) -> &'static str {
        let more = &language.texts.article.more;
        &more[self.style % more.len()]
    }
}

fn worded(language: &Language, item: Option<Item>, style: usize) -> String {
    match item {
        Some(item) => seen(language, item, style),
        None => unseen(language, style),
    }
}

/// A prompt and its answer.
pub(crate) fn any_edit(operation: Operation, lot: &mut Lot) -> (String, String) {
    let language = any_language(lot);
    let paragraph = Paragraph::any(language, lot);
    match operation {
        Operation::Rewrite | Operation::Expand => rework(operation, &paragraph, language, lot),
        Operation::Abbreviate => abbreviate(&paragraph, language, lot),
        Operation::InsertBefore | Operation::InsertAfter => {
            insert(operation, &paragraph, language, lot)
        }
    }
}

/// A thing to write about, and how the request asks for it.
fn material(language: &Language, lot: &mut Lot) -> (Item, String) {
    let item = any_item(lot);
    let wording = lot.wording(&language.texts.outline_asks);
    (item, fill(wording, &[("np", &language.np(item))]))
}

fn rework(
    operation: Operation,
    paragraph: &Paragraph,
    language: &'static Language,
    lot: &mut Lot,
) -> (String, String) {
    let (asked, also) = if lot.chance(0.6) {
        let (other, asked) = material(language, lot);
        let facts = [("np", language.np(other))];
        let facts = facts.each_ref().map(|(name, fact)| (*name, fact.as_str()));
        (asked, fill(&language.texts.article.also, &facts))
    } else {
        Default::default()
    };
    if operation == Operation::Rewrite {
        let new = worded(language, paragraph.item, paragraph.style + 1);
        let prompt = prompts::rewrite(&paragraph.text, &asked);
        (prompt, language.space(&[&new, &also]))
    } else {
        let prompt = prompts::expand(&paragraph.text, &asked);
        let more = paragraph.more(language);
        (prompt, language.space(&[&paragraph.text, more, &also]))
    }
}

fn abbreviate(
    paragraph: &Paragraph,
    language: &'static Language,
    lot: &mut Lot,
) -> (String, String) {
    let wording = &language.texts.article;
    let text = if lot.chance(0.5) {
        language.space(&[&paragraph.text, paragraph.more(language)])
    } else if lot.chance(0.3) {
        let place = place(language, any_topic(lot));
        let opening = fill(&wording.opening, &[("place", place)]);
        language.space(&[&opening, &paragraph.text])
    } else {
        paragraph.text.clone()
    };
    let short = match paragraph.item {
        Some(item) => fill(&wording.short_seen, &[("np", &language.np(item))]),
        None => wording.short_unseen.clone(),
    };
    (prompts::abbreviate(&text), short)
}

fn insert(
    operation: Operation,
    paragraph: &Paragraph,
    language: &'static Language,
    lot: &mut Lot,
) -> (String, String) {
    let (item, asked) = material(language, lot);
    let neighbour = if lot.chance(0.85) {
        Paragraph::any(language, lot).text
    } else {
        String::new()
    };
    let (first, second) = match operation {
        Operation::InsertBefore => (&neighbour, &paragraph.text),
        _ => (&paragraph.text, &neighbour),
    };
    let (colour, _) = item.kind;
    let style = Colour::ALL.iter().position(|other| *other == colour);
    let answer = seen(language, item, style.unwrap_or_default());
    (prompts::insert(first, second, &asked), answer)
}
