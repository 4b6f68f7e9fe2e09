//! Fifty instructions for the small model through a whole cluster, with a library that `inkstone library import` made: what comes out
//! follows the request about as often as the small model does where each skill is measured by itself.

use std::{collections::BTreeMap, ops::AddAssign, sync::Arc};

use inkstone_proto::v1::{ComposeRequest, PictureSource};
use inkstone_world::{Case, Part, Skill, draw_case, draw_picture};
use tokio::{sync::Semaphore, task::JoinSet};

use super::{
    client::{Client, Told, compose, connect, greedy, picture},
    pictures::{Kind, NUM_ALIKE, drawn_library, import, kind_in, kinds, right_one, source, words},
};
use crate::cluster_fixture::{Served, small_model};

/// Title, detailed request, outline, plain request, reference pictures.
const NUM_KINDS: usize = 5;
const NUM_OF_EACH: usize = 10;
const SEED: u64 = 2027;
const AT_ONCE: usize = 8;

/// What the small model gets right (README, `inkstone eval --seed 2026 --count 500`): right ones of how many.
const ARTICLES: Skilled = Skilled::new(494, 500);
const PLACES: Skilled = Skilled::new(499, 500);
const CAPTIONS: Skilled = Skilled::new(497, 500);
/// Of those cases of `choose_picture` that have four candidates, as a search brings them.
const CHOICES: Skilled = Skilled::new(169, 170);

/// How often a run may fall below what is demanded although nothing is worse than it was.
const FALSE_ALARMS: f64 = 1e-4;

/// How often something was right where it was measured.
#[derive(Clone, Copy)]
struct Skilled {
    right: usize,
    count: usize,
}

impl Skilled {
    const fn new(right: usize, count: usize) -> Self {
        Self { right, count }
    }

    /// How many of `count` must be right. Both the measurement and this run are samples of the same model: given that so many are
    /// right in both together, the share that falls to this run is hypergeometric, and less than this has a chance of at most
    /// [`FALSE_ALARMS`]. (Fisher's exact test.)
    fn least(self, count: usize) -> usize {
        let mut least = 0;
        for right in 0..=count {
            if self.chance_of_fewer(count, right) > FALSE_ALARMS {
                break;
            }
            least = right;
        }
        least
    }

    /// The chance of fewer than `right` of `count`, where `right` together with those measured are as many as were found.
    fn chance_of_fewer(self, count: usize, right: usize) -> f64 {
        let Some(fewer) = right.checked_sub(1) else {
            return 0.0;
        };
        // What was seen: `fewer` here and `self.right` there.
        let all = self.count + count;
        let all_right = self.right + fewer;
        let weight = |here: usize| {
            if here > all_right || all_right - here > self.count {
                return f64::NEG_INFINITY;
            }
            choose(count, here) + choose(self.count, all_right - here) - choose(all, all_right)
        };
        (0..=fewer).map(|here| weight(here).exp()).sum()
    }
}

/// The logarithm of a binomial coefficient.
fn choose(of: usize, count: usize) -> f64 {
    let logarithm = |number: usize| (number as f64).ln();
    (1..=count)
        .map(|number| logarithm(of - count + number) - logarithm(number))
        .sum()
}

#[test]
fn composition_demands_follow_from_what_was_measured() {
    // By hand: 10 of 10 there; of 6 here none right is 1 in 8008, which happens; of 7, 1 in 19448, which does not.
    let sure = Skilled::new(10, 10);
    assert_eq!(sure.least(6), 0);
    assert_eq!(sure.least(7), 1);
    // The larger the run, the nearer to what was measured.
    for measured in [ARTICLES, PLACES, CAPTIONS, CHOICES] {
        let share = |count: usize| measured.least(count) as f64 / count as f64;
        let accuracy = measured.right as f64 / measured.count as f64;
        assert!(share(50) < share(200) && share(200) < accuracy);
    }
    // What is demanded of choices is out of reach for one who guesses.
    assert!(CHOICES.least(100) > 100 / NUM_ALIKE);
}

/// How often something was right here.
#[derive(Debug, Clone, Copy, Default)]
struct Count {
    right: usize,
    count: usize,
}

impl Count {
    fn add(&mut self, is_right: bool) {
        self.right += usize::from(is_right);
        self.count += 1;
    }
}

impl AddAssign for Count {
    fn add_assign(&mut self, other: Self) {
        self.right += other.right;
        self.count += other.count;
    }
}

/// What came of an instruction.
#[derive(Debug, Default)]
struct Figures {
    articles: Count,
    places: Count,
    captions: Count,
    choices: Count,
    /// Choices of each letter, whatever was right.
    letters: [usize; NUM_ALIKE],
    remarks: Vec<String>,
}

impl Figures {
    fn add(&mut self, other: Self) {
        self.articles += other.articles;
        self.places += other.places;
        self.captions += other.captions;
        self.choices += other.choices;
        for (sum, letter) in self.letters.iter_mut().zip(other.letters) {
            *sum += letter;
        }
        self.remarks.extend(other.remarks);
    }
}

/// Ten of each kind.
fn cases() -> Vec<Case> {
    let mut by_kind: BTreeMap<&str, Vec<Case>> = BTreeMap::new();
    let is_enough = |by_kind: &BTreeMap<&str, Vec<Case>>| {
        by_kind.len() == NUM_KINDS && by_kind.values().all(|cases| cases.len() == NUM_OF_EACH)
    };
    for index in 0.. {
        if is_enough(&by_kind) {
            break;
        }
        let case = draw_case(Skill::Compose, SEED, index);
        let cases = by_kind.entry(case.turns[0].kind).or_default();
        if cases.len() < NUM_OF_EACH {
            cases.push(case);
        }
    }
    by_kind.into_values().flatten().collect()
}

fn is_chinese(text: &str) -> bool {
    text.chars().any(|c| ('\u{4e00}'..='\u{9fff}').contains(&c))
}

/// As a client would ask for it: the pictures are for the writing, those of the article come from the library.
fn asked(case: &Case, number: usize) -> ComposeRequest {
    let mut instruction = String::new();
    let mut pictures = vec![];
    for part in &case.turns[0].parts {
        match part {
            Part::Text(text) if text == " " => {}
            Part::Text(text) => instruction += text,
            Part::Picture(scene) => pictures.push(picture(draw_picture(scene))),
        }
    }
    ComposeRequest {
        pictures,
        picture_count: [None, Some(2), Some(3)][number % 3],
        picture_source: PictureSource::Search.into(),
        ..greedy(&instruction)
    }
}

/// Whether a text shows a thing: another word behind it changes nothing then.
fn shows_something(text: &str) -> bool {
    let end = if is_chinese(text) { "好" } else { " so" };
    Skill::Edit.is_right(text, &format!("{text}{end}"))
}

/// Segments after which a picture fits (`model/training/README.md`): those that show something, and, of a wanted number, the earliest
/// others.
fn fitting(segments: &[String], count: Option<u32>) -> Vec<u32> {
    let (mut shown, others): (Vec<u32>, Vec<u32>) =
        (1..segments.len() as u32).partition(|at| shows_something(&segments[*at as usize]));
    if let Some(count) = count {
        shown.extend(others);
        shown.truncate(count as usize);
        shown.sort_unstable();
    }
    shown
}

async fn hold(mut client: Client, case: &Case, number: usize) -> Figures {
    let mut figures = Figures::default();
    let request = asked(case, number);
    let count = request.picture_count;
    let told = compose(&mut client, request).await;
    let wanted = &case.turns[0].wanted;
    let is_right = Skill::Compose.is_right(wanted, &told.segments.join("\n"));
    figures.articles.add(is_right);
    if !is_right {
        figures.remark(
            number,
            format!("wanted {wanted:?}, got {:?}", told.segments),
        );
    }
    assert!(told.error.is_none() && !told.segments.is_empty());

    let places = told.places();
    let fitting = fitting(&told.segments, count);
    figures.places.add(places == fitting);
    if places != fitting {
        figures.remark(number, format!("places {places:?}, not {fitting:?}"));
    }
    for (place, caption) in &told.captions {
        let segment = &told.segments[*place as usize];
        if shows_something(segment) {
            let names_it = Skill::Edit.is_right(segment, caption);
            figures.captions.add(names_it);
            if !names_it {
                figures.remark(number, format!("caption {caption:?} for {segment:?}"));
            }
        }
    }
    figures.choose(&told);
    figures
}

impl Figures {
    fn remark(&mut self, number: usize, remark: String) {
        self.remarks.push(format!("instruction {number}: {remark}"));
    }

    /// Counts the choices among four that go by what the caption names.
    fn choose(&mut self, told: &Told) {
        for (place, selected) in &told.selected {
            let candidates = &told.candidates[place];
            let Some(kind) = kind_in(&told.captions[place]) else {
                continue;
            };
            let sources: Vec<&str> = candidates.iter().map(|one| &*one.source).collect();
            let alike = (0..NUM_ALIKE).map(|index| source(kind, index));
            let is_clear = sources.len() == NUM_ALIKE
                && alike.into_iter().all(|source| sources.contains(&&*source));
            if !is_clear {
                // The article asked for such pictures before, so that others came.
                continue;
            }
            assert!(!selected.by_default, "the answer has a form: {selected:#?}");
            let right = source(kind, right_one(kind));
            let chosen = selected.candidate as usize;
            self.choices.add(sources[chosen] == right);
            self.letters[chosen] += 1;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn composition_of_fifty_instructions_follows_them_as_the_small_model_can() {
    let library = import(&drawn_library("fifty instructions"));
    let served = Served::start(small_model(), &["--library", library.location()]);
    let client = connect(&served.address).await;
    let cases = cases();
    assert_eq!(cases.len(), NUM_KINDS * NUM_OF_EACH);
    let chinese = cases
        .iter()
        .filter(|case| is_chinese(&case.turns[0].wanted));
    assert!((15..=35).contains(&chinese.count()), "both languages");

    let permits = Arc::new(Semaphore::new(AT_ONCE));
    let mut running = JoinSet::new();
    for (number, case) in cases.into_iter().enumerate() {
        let (client, permits) = (client.clone(), Arc::clone(&permits));
        running.spawn(async move {
            let _permit = permits.acquire().await.expect("it is never closed");
            hold(client, &case, number).await
        });
    }
    let mut all = Figures::default();
    for figures in running.join_all().await {
        all.add(figures);
    }
    all.remarks.iter().for_each(|remark| eprintln!("{remark}"));
    eprintln!("letters A to D: {:?}", all.letters);
    // Enough of each to tell a model that knows from one that guesses.
    assert!(
        all.captions.count >= 80 && all.choices.count >= 80,
        "{all:?}"
    );
    for (name, found, measured) in [
        ("articles that follow the request", all.articles, ARTICLES),
        ("articles whose places are right", all.places, PLACES),
        ("captions that name what is shown", all.captions, CAPTIONS),
        ("choices among four", all.choices, CHOICES),
    ] {
        let Count { right, count } = found;
        let least = measured.least(count);
        let (before, of) = (measured.right, measured.count);
        eprintln!("{name}: {right} of {count}, at least {least} (measured: {before} of {of})");
        assert!(right >= least, "{name}: {right} of {count}, wanted {least}");
    }
}

/// What a user sends goes in, each picture once, where the text speaks of something.
#[tokio::test(flavor = "multi_thread")]
async fn composition_places_what_was_uploaded_each_picture_once() {
    let served = Served::start(small_model(), &[]);
    let mut client = connect(&served.address).await;
    let cases = (0..).map(|index| draw_case(Skill::ChoosePicture, SEED, index));
    // Drawn pictures of any kind.
    let pictures = cases.flat_map(|case| {
        let parts = case.turns.into_iter().flat_map(|turn| turn.parts);
        parts.filter_map(|part| match part {
            Part::Picture(scene) => Some(draw_picture(&scene)),
            Part::Text(_) => None,
        })
    });
    let pictures: Vec<Vec<u8>> = pictures.take(3).collect();
    let listed: Vec<String> = kinds()
        .take(4)
        .enumerate()
        .map(|(number, kind): (usize, Kind)| format!("{}. a {}", number + 1, words(kind)[0]))
        .collect();
    let outline = listed.join("\n");
    let instruction = format!("Write an article about the park from this outline:\n{outline}");
    for count in [None, Some(2)] {
        let request = ComposeRequest {
            pictures: pictures.iter().cloned().map(picture).collect(),
            picture_count: count,
            ..greedy(&instruction)
        };
        let told = compose(&mut client, request).await;
        let wanted = count.unwrap_or(3);
        assert_eq!(told.accepted.picture_count, Some(wanted));
        assert_eq!(told.selected.len(), told.places().len(), "{told:#?}");
        assert!(told.places().len() <= wanted as usize);
        assert!(!told.places().is_empty());
        let mut names: Vec<_> = told.selected.values().map(|it| &it.picture).collect();
        names.sort_by_key(|picture| picture.as_ref().map(|picture| &picture.id));
        names.dedup();
        assert_eq!(names.len(), told.places().len(), "each once: {told:#?}");
        assert!(told.captions.is_empty() && told.searches.is_empty());
    }
}
