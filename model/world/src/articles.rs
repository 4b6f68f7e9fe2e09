//! Short articles: a title, then paragraphs of which each shows one thing or none. The wording follows from the topic and
//! the paragraph's number, so that a request has one right answer.

use crate::{
    language::{Item, Language, any_language, capital, fill},
    lot::Lot,
    scene::{Colour, Shape, Size},
};

/// Topics are the places of `texts.json`.
const NUM_TOPICS: usize = 10;
const NUM_TITLES: usize = 3;

/// An article.
#[derive(Debug, Clone)]
pub(crate) struct Article {
    pub(crate) language: &'static Language,
    /// None: it is about pictures.
    pub(crate) topic: Option<usize>,
    title: String,
    paragraphs: Vec<String>,
    /// What each paragraph shows.
    items: Vec<Option<Item>>,
}

impl Article {
    /// What a request gets: each paragraph shows what `plan` says; a last one that shows nothing is the ending.
    pub(crate) fn planned(
        language: &'static Language,
        topic: Option<usize>,
        title: String,
        plan: Vec<Option<Item>>,
    ) -> Self {
        let wording = &language.texts.article;
        let start = topic.unwrap_or_default();
        let count = plan.len();
        let mut paragraphs: Vec<String> = plan
            .iter()
            .enumerate()
            .map(|(number, item)| match item {
                Some(item) => seen(language, *item, start + number),
                None if number > 0 && number + 1 == count => wording.ending.clone(),
                None => unseen(language, start + number),
            })
            .collect();
        if let Some(first) = paragraphs.first_mut() {
            *first = language.space(&[&opening(language, topic), first]);
        }
        Self {
            language,
            topic,
            title,
            paragraphs,
            items: plan,
        }
    }

    /// An article to work on: paragraphs that show something and others in any order, often of any wording.
    pub(crate) fn any(lot: &mut Lot) -> Self {
        let language = any_language(lot);
        let topic = any_topic(lot);
        let count = lot.between(2, 6);
        let mut shows: Vec<bool> = (0..count).map(|_| lot.chance(0.6)).collect();
        if !shows.contains(&true) {
            shows[lot.below(count)] = true;
        }
        let mut items = any_items(lot, shows.iter().filter(|shows| **shows).count()).into_iter();
        let plan: Vec<Option<Item>> = shows
            .iter()
            .map(|shows| shows.then(|| items.next()).flatten())
            .collect();
        let title = title_of(language, topic, any_title(lot));
        let mut article = Self::planned(language, Some(topic), title, plan);
        if lot.chance(0.5) {
            article.paragraphs = article
                .items
                .iter()
                .map(|item| any_paragraph_about(language, *item, lot))
                .collect();
        }
        article
    }

    /// Title and paragraphs.
    pub(crate) fn segments(&self) -> Vec<&str> {
        let paragraphs = self.paragraphs.iter().map(String::as_str);
        std::iter::once(self.title.as_str())
            .chain(paragraphs)
            .collect()
    }

    /// What a segment shows; the title shows nothing.
    pub(crate) fn item(&self, segment: usize) -> Option<Item> {
        self.items[segment.checked_sub(1)?]
    }

    /// Segments that show something; there is at least one in [`Self::any`].
    pub(crate) fn visual(&self) -> Vec<usize> {
        (1..=self.items.len())
            .filter(|segment| self.item(*segment).is_some())
            .collect()
    }

    /// Segments after which a picture fits, ascending: those that show something, or, of a wanted `count`, these and then
    /// the earliest others.
    pub(crate) fn fitting(&self, count: Option<usize>) -> Vec<usize> {
        let mut fitting = self.visual();
        if let Some(count) = count {
            fitting.extend((1..=self.items.len()).filter(|segment| self.item(*segment).is_none()));
            fitting.truncate(count);
            fitting.sort_unstable();
        }
        fitting
    }

    /// The caption of a picture after a segment: what it shows, or else the article's place.
    pub(crate) fn caption(&self, segment: usize) -> String {
        match self.item(segment) {
            Some(item) => self.language.np(item),
            None => place(self.language, self.topic.unwrap_or_default()).to_owned(),
        }
    }
}

fn opening(language: &Language, topic: Option<usize>) -> String {
    let wording = &language.texts.article;
    match topic {
        Some(topic) => fill(&wording.opening, &[("place", place(language, topic))]),
        None => wording.picture_opening.clone(),
    }
}

fn any_paragraph_about(language: &Language, item: Option<Item>, lot: &mut Lot) -> String {
    match item {
        Some(item) => seen(language, item, lot.below(language.texts.article.seen.len())),
        None => unseen(language, lot.below(language.texts.article.unseen.len())),
    }
}

pub(crate) fn any_topic(lot: &mut Lot) -> usize {
    lot.below(NUM_TOPICS)
}

pub(crate) fn any_title(lot: &mut Lot) -> usize {
    lot.below(NUM_TITLES)
}

pub(crate) fn place(language: &Language, topic: usize) -> &str {
    &language.texts.article.places[topic]
}

pub(crate) fn title_of(language: &Language, topic: usize, style: usize) -> String {
    let words = place(language, topic).split(' ').map(|word| match word {
        "the" => word.to_owned(),
        other => capital(other),
    });
    let place = words.collect::<Vec<_>>().join(" ");
    fill(&language.texts.article.titles[style], &[("Place", &place)])
}

/// A paragraph that shows a thing.
pub(crate) fn seen(language: &Language, item: Item, style: usize) -> String {
    let wording = &language.texts.article.seen;
    fill(
        &wording[style % wording.len()],
        &[("np", &language.np(item))],
    )
}

/// A paragraph that shows nothing.
pub(crate) fn unseen(language: &Language, style: usize) -> String {
    let wording = &language.texts.article.unseen;
    wording[style % wording.len()].clone()
}

/// A thing, its size said in every other case.
pub(crate) fn any_item(lot: &mut Lot) -> Item {
    Item {
        size: lot.chance(0.5).then(|| *lot.pick(&Size::ALL)),
        kind: (*lot.pick(&Colour::ALL), *lot.pick(&Shape::ALL)),
    }
}

/// Things of different kinds.
pub(crate) fn any_items(lot: &mut Lot, count: usize) -> Vec<Item> {
    let mut items: Vec<Item> = vec![];
    while items.len() < count {
        let item = any_item(lot);
        if items.iter().all(|other| other.kind != item.kind) {
            items.push(item);
        }
    }
    items
}

/// The things of a topic where a request names none.
pub(crate) fn usual_items(topic: usize, count: usize) -> Vec<Item> {
    let item = |number: usize| Item {
        size: None,
        kind: (
            Colour::ALL[(topic + 3 * number) % Colour::ALL.len()],
            Shape::ALL[(topic + number) % Shape::ALL.len()],
        ),
    };
    (0..count).map(item).collect()
}

#[cfg(test)]
mod tests;
