//! English and Chinese for the same facts. The wording is the training program's `texts.json`; its `|` marks (they show
//! Chinese word ends to the tokenizer's training) are removed.

use std::{collections::BTreeMap, sync::LazyLock};

use serde::Deserialize;

use crate::{
    lot::Lot,
    scene::{Colour, Kind, Shape, Size, Thing},
};

static TEXTS: LazyLock<[Language; 2]> = LazyLock::new(|| {
    let file = include_str!("../../training/world/texts.json").replace('|', "");
    let texts: BTreeMap<Code, Texts> =
        serde_json::from_str(&file).expect("texts.json holds what the world says");
    let languages = texts
        .into_iter()
        .map(|(code, texts)| Language { code, texts });
    languages
        .collect::<Vec<_>>()
        .try_into()
        .expect("texts.json has two languages")
});

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Code {
    En,
    Zh,
}

/// One language and its wording.
#[derive(Debug)]
pub(crate) struct Language {
    pub(crate) code: Code,
    pub(crate) texts: Texts,
}

/// `texts.json`. Lists hold wordings of which any will do.
#[derive(Debug, Deserialize)]
pub(crate) struct Texts {
    pub(crate) sizes: BTreeMap<Size, String>,
    pub(crate) colours: BTreeMap<Colour, String>,
    pub(crate) shapes: BTreeMap<Shape, String>,
    plural: String,
    numbers: Vec<String>,
    pub(crate) cells: Vec<String>,
    pub(crate) rows: Vec<String>,
    pub(crate) describe: Describe,
    pub(crate) ask: BTreeMap<String, Vec<String>>,
    pub(crate) answer: BTreeMap<String, String>,
    pub(crate) follow: Follow,
    pub(crate) pictures: Pictures,
    pub(crate) article: ArticleTexts,
    pub(crate) outline_asks: Vec<String>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Describe {
    pub(crate) asks: Vec<String>,
    pub(crate) shapes: String,
    pub(crate) shape: String,
    pub(crate) item: String,
    pub(crate) relation_row: String,
    pub(crate) relation_column: String,
    pub(crate) word: String,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Follow {
    #[serde(rename = "where")]
    pub(crate) place: String,
    pub(crate) size: String,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Pictures {
    pub(crate) what_is_in: Vec<String>,
    pub(crate) shows: String,
    pub(crate) with_word: String,
    pub(crate) which_shows: Vec<String>,
    pub(crate) more: Vec<String>,
    pub(crate) image: String,
    pub(crate) same: String,
    pub(crate) both: Vec<String>,
    pub(crate) in_image: String,
}

#[derive(Debug, Deserialize)]
pub(crate) struct ArticleTexts {
    pub(crate) places: Vec<String>,
    pub(crate) titles: Vec<String>,
    pub(crate) picture_title: String,
    pub(crate) opening: String,
    pub(crate) picture_opening: String,
    pub(crate) seen: Vec<String>,
    pub(crate) unseen: Vec<String>,
    pub(crate) ending: String,
    pub(crate) more: Vec<String>,
    pub(crate) also: String,
    pub(crate) short_seen: String,
    pub(crate) short_unseen: String,
    pub(crate) requests: BTreeMap<String, Vec<String>>,
    pub(crate) in_language: BTreeMap<Code, String>,
}

/// A thing as an article speaks of it: size where it is said, colour, shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Item {
    pub(crate) size: Option<Size>,
    pub(crate) kind: Kind,
}

impl Item {
    /// The thing with its size.
    pub(crate) fn of(thing: &Thing) -> Self {
        Self {
            size: Some(thing.size),
            kind: thing.kind(),
        }
    }
}

/// Both languages.
pub(crate) fn languages() -> &'static [Language; 2] {
    &TEXTS
}

pub(crate) fn any_language(lot: &mut Lot) -> &'static Language {
    lot.pick(languages())
}

impl Language {
    pub(crate) fn number(&self, count: usize) -> &str {
        &self.texts.numbers[count]
    }

    pub(crate) fn colour(&self, colour: Colour) -> &str {
        &self.texts.colours[&colour]
    }

    pub(crate) fn shape(&self, shape: Shape) -> &str {
        &self.texts.shapes[&shape]
    }

    pub(crate) fn shapes(&self, shape: Shape) -> String {
        format!("{}{}", self.shape(shape), self.texts.plural)
    }

    /// What stands between words.
    pub(crate) fn bar(&self) -> &'static str {
        match self.code {
            Code::En => " ",
            Code::Zh => "",
        }
    }

    /// `red circle`: how a question names a thing.
    pub(crate) fn kind(&self, (colour, shape): Kind) -> String {
        format!("{}{}{}", self.colour(colour), self.bar(), self.shape(shape))
    }

    /// `large red circle`.
    pub(crate) fn sized(&self, item: Item) -> String {
        let kind = self.kind(item.kind);
        match item.size {
            Some(size) => format!("{}{}{kind}", self.texts.sizes[&size], self.bar()),
            None => kind,
        }
    }

    /// `a large red circle`: how a thing is brought up.
    pub(crate) fn np(&self, item: Item) -> String {
        let sized = self.sized(item);
        match self.code {
            Code::En if sized.starts_with(['a', 'e', 'i', 'o', 'u']) => format!("an {sized}"),
            Code::En => format!("a {sized}"),
            Code::Zh => format!("一个{sized}"),
        }
    }

    /// `a, b and c`.
    pub(crate) fn list(&self, items: &[String]) -> String {
        match self.code {
            Code::En => join(items, ", ", " and "),
            Code::Zh => join(items, "、", "和"),
        }
    }

    /// A list whose items have verbs.
    pub(crate) fn clauses(&self, items: &[String]) -> String {
        match self.code {
            Code::En => self.list(items),
            Code::Zh => items.join("，"),
        }
    }

    /// Sentences after one another.
    pub(crate) fn space(&self, sentences: &[&str]) -> String {
        let said: Vec<&str> = sentences
            .iter()
            .copied()
            .filter(|s| !s.is_empty())
            .collect();
        said.join(self.bar())
    }
}

fn join(items: &[String], comma: &str, conjunction: &str) -> String {
    match items {
        [] => String::new(),
        [only] => only.clone(),
        [first @ .., last] => format!("{}{conjunction}{last}", first.join(comma)),
    }
}

/// Puts facts into the `{name}`s of a wording.
pub(crate) fn fill(wording: &str, facts: &[(&str, &str)]) -> String {
    facts.iter().fold(wording.to_owned(), |text, (name, fact)| {
        text.replace(&format!("{{{name}}}"), fact)
    })
}

pub(crate) fn capital(text: &str) -> String {
    let mut characters = text.chars();
    let first = characters
        .next()
        .map(|first| first.to_uppercase().to_string());
    first.unwrap_or_default() + characters.as_str()
}
