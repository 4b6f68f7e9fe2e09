//! Requests for an article, and the article that each asks for.

use crate::{
    articles::{Article, any_items, any_title, any_topic, place, title_of, usual_items},
    language::{Item, Language, any_language, fill},
    lot::Lot,
    scene::Scene,
};

/// What a request starts from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Style {
    Title,
    Detailed,
    Outline,
    Plain,
}

impl Style {
    pub(crate) const ALL: [Self; 4] = [Self::Title, Self::Detailed, Self::Outline, Self::Plain];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Title => "title",
            Self::Detailed => "detailed",
            Self::Outline => "outline",
            Self::Plain => "plain",
        }
    }
}

/// A request in words alone.
pub(crate) fn any_request(style: Style, lot: &mut Lot) -> (String, Article) {
    let language = any_language(lot);
    let topic = any_topic(lot);
    let most = if style == Style::Outline { 4 } else { 5 };
    let count = lot.between(2, most);
    let items = match style {
        Style::Outline => any_items(lot, count),
        Style::Plain => usual_items(topic, count),
        Style::Title | Style::Detailed => {
            let named = lot.between(1, count.min(4));
            any_items(lot, named)
        }
    };
    let title = if style == Style::Title {
        any_title(lot)
    } else {
        0
    };
    let (answer_in, in_language) = match style {
        Style::Detailed => language_of_answer(language, lot),
        _ => (language, ""),
    };
    let facts = [
        ("place", place(language, topic).to_owned()),
        ("title", title_of(language, topic, title)),
        ("n", number(language, count, lot)),
        ("list", language.list(&named(language, &items))),
        ("outline", outline(language, &items)),
        ("in_language", in_language.to_owned()),
    ];
    let facts = facts.each_ref().map(|(name, fact)| (*name, fact.as_str()));
    let wordings = &language.texts.article.requests[style.name()];
    let request = fill(lot.wording(wordings), &facts);
    let title = title_of(answer_in, topic, title);
    let article = Article::planned(answer_in, Some(topic), title, plan(items, count));
    (request.trim_end().to_owned(), article)
}

/// A request about pictures: their things in order, one a paragraph, then paragraphs that show nothing.
pub(crate) fn picture_request(scenes: &[Scene], lot: &mut Lot) -> (String, Article) {
    let language = any_language(lot);
    let wording = &language.texts.article;
    let count = lot.between(2, 5);
    let things = scenes.iter().flat_map(|scene| &scene.things);
    let items: Vec<Item> = things.map(Item::of).take(count).collect();
    let facts = number(language, count, lot);
    let request = fill(lot.wording(&wording.requests["pictures"]), &[("n", &facts)]);
    let title = wording.picture_title.clone();
    (
        request,
        Article::planned(language, None, title, plan(items, count)),
    )
}

/// The language wanted of the answer, and the sentence that says so, which may be missing where it is the request's own.
fn language_of_answer(
    language: &'static Language,
    lot: &mut Lot,
) -> (&'static Language, &'static str) {
    let wanted = if lot.chance(0.5) {
        any_language(lot)
    } else {
        language
    };
    let is_said = wanted.code != language.code || lot.chance(0.6);
    let said = &language.texts.article.in_language[&wanted.code];
    (wanted, if is_said { said } else { "" })
}

fn plan(items: Vec<Item>, count: usize) -> Vec<Option<Item>> {
    let items = items.into_iter().map(Some);
    items.chain(std::iter::repeat(None)).take(count).collect()
}

fn named(language: &Language, items: &[Item]) -> Vec<String> {
    items.iter().map(|item| language.np(*item)).collect()
}

fn outline(language: &Language, items: &[Item]) -> String {
    let lines = named(language, items);
    let lines = lines.iter().enumerate();
    let lines = lines.map(|(index, np)| format!("{}. {np}", index + 1));
    lines.collect::<Vec<_>>().join("\n")
}

/// A number in digits or words.
fn number(language: &Language, count: usize, lot: &mut Lot) -> String {
    if lot.chance(0.5) {
        count.to_string()
    } else {
        language.number(count).to_owned()
    }
}
