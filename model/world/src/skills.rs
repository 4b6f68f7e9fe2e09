//! The skills that the small model is measured by, and their cases: what is asked, and what should be answered.

use std::{fmt, str::FromStr};

use crate::{
    articles::Article,
    edits::{Operation, any_edit},
    judge,
    language::{Item, Language, any_language},
    lot::Lot,
    prompts,
    questions::{Asked, ask_anything, ask_anything_seen, ask_to_describe, ask_to_read, ask_twice},
    requests::{Style, any_request, picture_request},
    scene::{Colour, Scene, Shape, draw_scene},
    several::ask_about_several,
};

/// What a case measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Skill {
    /// Describe the picture.
    Describe,
    /// Answer one question about it.
    Question,
    /// Read the word in it.
    Read,
    /// Answer one question about two or three pictures.
    TwoPictures,
    /// Answer several questions about a picture, one after the other.
    Turns,
    /// Write an article that was asked for in words or with pictures.
    Compose,
    /// Say after which paragraphs a picture fits.
    Places,
    /// Give the caption for a place.
    Caption,
    /// Choose the picture that fits.
    ChoosePicture,
    /// Edit a paragraph.
    Edit,
}

impl Skill {
    pub const ALL: [Self; 10] = [
        Self::Describe,
        Self::Question,
        Self::Read,
        Self::TwoPictures,
        Self::Turns,
        Self::Compose,
        Self::Places,
        Self::Caption,
        Self::ChoosePicture,
        Self::Edit,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Describe => "describe",
            Self::Question => "question",
            Self::Read => "read",
            Self::TwoPictures => "two_pictures",
            Self::Turns => "turns",
            Self::Compose => "compose",
            Self::Places => "places",
            Self::Caption => "caption",
            Self::ChoosePicture => "choose_picture",
            Self::Edit => "edit",
        }
    }

    /// Whether an answer counts: the wanted one word for word, or, for articles and edits, one that follows the request
    /// (number of paragraphs, things in each, language; word for word where there are no things).
    pub fn is_right(self, wanted: &str, given: &str) -> bool {
        match self {
            Self::Compose | Self::Edit => judge::follows(wanted, given),
            _ => judge::is_same(wanted, given),
        }
    }
}

impl fmt::Display for Skill {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// No skill has this name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownSkill(String);

impl fmt::Display for UnknownSkill {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = Skill::ALL.map(Skill::name).join(", ");
        write!(f, "skill must be one of {names}, found {}", self.0)
    }
}

impl std::error::Error for UnknownSkill {}

impl FromStr for Skill {
    type Err = UnknownSkill;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let mut all = Self::ALL.into_iter();
        all.find(|skill| skill.name() == name)
            .ok_or_else(|| UnknownSkill(name.to_owned()))
    }
}

/// A piece of what the user says.
#[derive(Debug, Clone, PartialEq)]
pub enum Part {
    Text(String),
    Picture(Box<Scene>),
}

/// The user's side of a turn, and what the model should say.
#[derive(Debug, Clone, PartialEq)]
pub struct Turn {
    /// What is asked, within the skill.
    pub kind: &'static str,
    pub parts: Vec<Part>,
    /// The given beginning of the answer; `wanted` is what follows it.
    pub answer_prefix: Option<&'static str>,
    pub wanted: String,
}

/// A conversation to have with the model. Later turns stand on the model's own earlier answers.
#[derive(Debug, Clone, PartialEq)]
pub struct Case {
    pub skill: Skill,
    /// Whether the release's own system text opens the prompt: it does in chats, and not in composition.
    pub has_system: bool,
    /// At least one.
    pub turns: Vec<Turn>,
}

impl Case {
    fn composition(skill: Skill, turn: Turn) -> Self {
        Self {
            skill,
            has_system: false,
            turns: vec![turn],
        }
    }

    fn chat(skill: Skill, pictures: Vec<Part>, asked: Vec<Asked>) -> Self {
        let mut pictures = Some(pictures);
        let turns = asked.into_iter().map(|asked| {
            let mut parts = pictures.take().unwrap_or_default();
            parts.push(Part::Text(asked.question));
            Turn {
                kind: asked.kind,
                parts,
                answer_prefix: None,
                wanted: asked.answer,
            }
        });
        Self {
            skill,
            has_system: true,
            turns: turns.collect(),
        }
    }

    /// Puts unrelated pictures in place of its own: a model that looks at them is then right by chance only.
    pub fn swap_pictures(&mut self, lot: &mut Lot) {
        let parts = self.turns.iter_mut().flat_map(|turn| &mut turn.parts);
        for part in parts {
            if let Part::Picture(scene) = part {
                **scene = draw_scene(lot);
            }
        }
    }
}

/// The case of this number: the same for the same seed, whatever else is drawn.
pub fn draw_case(skill: Skill, seed: u64, index: u64) -> Case {
    let lot = &mut Lot::new(seed, skill.name(), index);
    match skill {
        Skill::Describe => about_one(skill, ask_to_describe, |_| true, lot),
        Skill::Question => about_one(skill, ask_anything_seen, |_| true, lot),
        Skill::Read => about_one(skill, ask_to_read, |scene| scene.word.is_some(), lot),
        Skill::TwoPictures => two_pictures(lot),
        Skill::Turns => turns(lot),
        Skill::Compose => compose(lot),
        Skill::Places => places(lot),
        Skill::Caption => caption(lot),
        Skill::ChoosePicture => choose_picture(lot),
        Skill::Edit => edit(lot),
    }
}

fn text(text: impl Into<String>) -> Part {
    Part::Text(text.into())
}

fn picture(scene: Scene) -> Part {
    Part::Picture(Box::new(scene))
}

fn scene_such_that(lot: &mut Lot, fits: impl Fn(&Scene) -> bool) -> Scene {
    loop {
        let scene = draw_scene(lot);
        if fits(&scene) {
            return scene;
        }
    }
}

fn about_one(
    skill: Skill,
    ask: fn(&Scene, &Language, &mut Lot) -> Asked,
    fits: fn(&Scene) -> bool,
    lot: &mut Lot,
) -> Case {
    let scene = scene_such_that(lot, fits);
    let asked = ask(&scene, any_language(lot), lot);
    Case::chat(skill, vec![picture(scene)], vec![asked])
}

fn two_pictures(lot: &mut Lot) -> Case {
    let count = lot.between(2, 3);
    let scenes: Vec<Scene> = (0..count).map(|_| draw_scene(lot)).collect();
    let asked = ask_about_several(&scenes, any_language(lot), lot);
    let pictures = scenes.into_iter().enumerate().flat_map(|(index, scene)| {
        [
            text(format!("Image{} ", index + 1)),
            picture(scene),
            text("; "),
        ]
    });
    Case::chat(Skill::TwoPictures, pictures.collect(), vec![asked])
}

fn turns(lot: &mut Lot) -> Case {
    let scene = draw_scene(lot);
    let count = lot.between(2, 5);
    let asked = different_questions(&scene, count, lot);
    let picture_last = lot.chance(0.1);
    let mut case = Case::chat(Skill::Turns, vec![picture(scene)], asked);
    if picture_last {
        case.turns[0].parts.reverse();
    }
    case
}

/// Questions of which none is asked twice, some that say `it`, often with a description before or after them.
fn different_questions(scene: &Scene, count: usize, lot: &mut Lot) -> Vec<Asked> {
    let mut language = any_language(lot);
    let mut asked: Vec<Asked> = vec![];
    for _ in 0..4 * count {
        if asked.len() >= count {
            break;
        }
        if lot.chance(0.1) {
            language = any_language(lot);
        }
        if lot.chance(0.08)
            && let Some(both) = ask_twice(scene, language, lot)
        {
            asked.extend(both);
            continue;
        }
        let new = ask_anything(scene, language, lot);
        if !asked.iter().any(|old| asks_the_same(old, &new)) {
            asked.push(new);
        }
    }
    if lot.chance(0.55) {
        let place = if lot.chance(0.5) { 0 } else { asked.len() };
        asked.insert(place, ask_to_describe(scene, language, lot));
    }
    asked
}

fn asks_the_same(a: &Asked, b: &Asked) -> bool {
    let about_word = |asked: &Asked| ["read", "where_word"].contains(&asked.kind);
    a.question == b.question || (about_word(a) && a.kind == b.kind)
}

fn compose(lot: &mut Lot) -> Case {
    let style = lot.below(Style::ALL.len() + 1);
    let (kind, parts, article) = match Style::ALL.get(style) {
        Some(style) => {
            let (request, article) = any_request(*style, lot);
            (style.name(), vec![text(request)], article)
        }
        None => {
            let (parts, article) = compose_from_pictures(lot);
            ("pictures", parts, article)
        }
    };
    let turn = Turn {
        kind,
        parts,
        answer_prefix: None,
        wanted: article.segments().join("\n"),
    };
    Case::composition(Skill::Compose, turn)
}

/// Pictures joined by spaces, directly followed by the request.
fn compose_from_pictures(lot: &mut Lot) -> (Vec<Part>, Article) {
    let count = *lot.pick(&[1, 1, 2]);
    let scenes: Vec<Scene> = (0..count).map(|_| draw_scene(lot)).collect();
    let (request, article) = picture_request(&scenes, lot);
    let mut parts = vec![];
    for scene in scenes {
        parts.extend([picture(scene), text(" ")]);
    }
    parts.pop();
    parts.push(text(request));
    (parts, article)
}

fn places(lot: &mut Lot) -> Case {
    let article = Article::any(lot);
    let count = lot.chance(0.5).then(|| lot.between(1, 6));
    let turn = Turn {
        kind: if count.is_some() { "some" } else { "automatic" },
        parts: vec![text(prompts::places(&article.segments(), count))],
        answer_prefix: Some(prompts::PLACES_PREFIX),
        wanted: prompts::places_answer(&article.fitting(count)),
    };
    Case::composition(Skill::Places, turn)
}

fn caption(lot: &mut Lot) -> Case {
    let article = Article::any(lot);
    let segments = article.segments();
    let paragraphs: Vec<usize> = (1..segments.len()).collect();
    let count = lot.between(1, paragraphs.len().min(3));
    let mut places = lot.sample(&paragraphs, count);
    places.sort_unstable();
    places.retain(|place| article.item(*place).is_some() || lot.chance(0.4));
    let place = places.pop().unwrap_or_else(|| article.visual()[0]);
    let past: Vec<(usize, String)> = places
        .into_iter()
        .map(|place| (place, article.caption(place)))
        .collect();
    let turn = Turn {
        kind: if article.item(place).is_some() {
            "thing"
        } else {
            "place"
        },
        parts: vec![text(prompts::caption(&segments, &past, place))],
        answer_prefix: Some(prompts::CAPTION_PREFIX),
        wanted: format!("{}\"", article.caption(place)),
    };
    Case::composition(Skill::Caption, turn)
}

fn choose_picture(lot: &mut Lot) -> Case {
    let article = Article::any(lot);
    let mut parts = vec![text(prompts::CHOOSE)];
    let item = tell_up_to_a_picture(&article, &mut parts, lot);
    parts.push(text(prompts::CANDIDATES));
    let count = lot.between(2, 4);
    let right = lot.below(count);
    for (index, letter) in prompts::LETTERS.into_iter().take(count).enumerate() {
        let scene = if index == right {
            scene_showing(item, lot)
        } else {
            scene_not_showing(item, lot)
        };
        let line_end = if index == 0 { "" } else { "\n" };
        parts.extend([text(format!("{line_end}{letter}.")), picture(scene)]);
    }
    let turn = Turn {
        kind: ["two", "three", "four"][count - 2],
        parts,
        answer_prefix: Some(prompts::CHOICE_PREFIX),
        wanted: format!(": {}", prompts::LETTERS[right]),
    };
    Case::composition(Skill::ChoosePicture, turn)
}

/// The article up to a place for a picture, now and then with an earlier picture in it; what the place should show.
fn tell_up_to_a_picture(article: &Article, parts: &mut Vec<Part>, lot: &mut Lot) -> Item {
    let visual = article.visual();
    let count = *lot.pick(&[1, 1, 1, 2]);
    let mut places = lot.sample(&visual, visual.len().min(count));
    places.sort_unstable();
    let segments = article.segments();
    let items = places.iter().filter_map(|place| article.item(*place));
    let items: Vec<Item> = items.collect();
    let mut start = 0;
    for (index, place) in places.iter().enumerate() {
        let told = segments[start..=*place].iter();
        let told: String = told.map(|segment| format!("{segment}\n")).collect();
        parts.push(text(told));
        start = place + 1;
        if index + 1 < places.len() {
            parts.push(picture(scene_showing(items[index], lot)));
        }
    }
    *items.last().expect("an article shows something")
}

fn scene_showing(item: Item, lot: &mut Lot) -> Scene {
    scene_such_that(lot, |scene| {
        let mut things = scene.things.iter();
        things.any(|thing| {
            thing.kind() == item.kind && item.size.is_none_or(|size| size == thing.size)
        })
    })
}

/// A picture without the thing, often with one of its colour or of its shape.
fn scene_not_showing(item: Item, lot: &mut Lot) -> Scene {
    loop {
        let scene = if lot.chance(0.6) {
            let (colour, shape) = item.kind;
            let kind = if lot.chance(0.5) {
                (colour, *lot.pick(&Shape::ALL))
            } else {
                (*lot.pick(&Colour::ALL), shape)
            };
            scene_showing(Item { size: None, kind }, lot)
        } else {
            draw_scene(lot)
        };
        if scene.count_kind(item.kind) == 0 {
            return scene;
        }
    }
}

fn edit(lot: &mut Lot) -> Case {
    let operation = *lot.pick(&Operation::ALL);
    let (prompt, wanted) = any_edit(operation, lot);
    let turn = Turn {
        kind: operation.name(),
        parts: vec![text(prompt)],
        answer_prefix: None,
        wanted,
    };
    Case::composition(Skill::Edit, turn)
}

#[cfg(test)]
mod tests;
