//! A driver that answers by the book: what comes back depends on what was asked, never on when. Results are handed over in an
//! order that a test chooses.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    ComposeRequest, Generation, Meter, Picture,
    article::{Article, ArticleId, SearchRequest},
    procedure::{Composition, Effect, Event, FinishReason, Input, Usage, Work},
    tests::{CharMeter, found},
};

#[derive(Debug, Clone)]
pub(super) struct World {
    pub(super) article: String,
    pub(super) places: String,
    /// Answers that are not those by the book.
    pub(super) answers: BTreeMap<Work, String>,
    /// What a search finds where it is not four new pictures.
    pub(super) finds: BTreeMap<usize, Vec<Picture>>,
    pub(super) failing: BTreeSet<Work>,
    pub(super) meter: CharMeter,
}

impl World {
    /// A title and so many paragraphs; places as the model answers them.
    pub(super) fn of(paragraphs: usize, places: &str) -> Self {
        let paragraphs = (1..=paragraphs).map(|number| format!("paragraph {number}\n\n"));
        Self {
            article: format!("A title\n{}", paragraphs.collect::<String>()),
            places: places.to_owned(),
            answers: BTreeMap::new(),
            finds: BTreeMap::new(),
            failing: BTreeSet::new(),
            meter: CharMeter::WIDE,
        }
    }

    fn answer(&self, work: Work, generation: &Generation) -> Input {
        if self.failing.contains(&work) {
            let reason = "no group".to_owned();
            return Input::Failed { work, reason };
        }
        let by_the_book = match work {
            Work::Places => self.places.clone(),
            Work::Caption { place } => format!("caption {place}\" and more"),
            Work::Choice { place } => {
                let num_candidates = generation.prompt.to_string().matches(".<image>").count();
                let letters = ["A", "B", "C", "D", "E", "F", "G", "H", "I", "J"];
                format!(": {}", letters[(place + 1) % num_candidates])
            }
            Work::Article | Work::Search { .. } => panic!("{work:?} has no answer"),
        };
        let own = self.answers.get(&work).cloned();
        let text = own.unwrap_or(by_the_book);
        Input::Answer { work, text }
    }

    fn find(&self, work: Work, search: &SearchRequest) -> Input {
        if self.failing.contains(&work) {
            let reason = "library is gone".to_owned();
            return Input::Failed { work, reason };
        }
        let Work::Search { place } = work else {
            panic!("{work:?} is no search");
        };
        let pictures = self.finds.get(&place).cloned().unwrap_or_else(|| {
            let letters = ["a", "b", "c", "d"];
            let name = |letter| found(&format!("{place}{letter}"));
            let found: Vec<Picture> = letters.map(name).into();
            // Not again.
            let is_new = |picture: &&Picture| {
                !search
                    .exclude
                    .iter()
                    .any(|known| known == picture.exclusion())
            };
            assert_eq!(found.iter().filter(is_new).count(), 4);
            found
        });
        Input::Found { work, pictures }
    }

    /// What a piece of work brings, in order.
    fn results(&self, effect: &Effect) -> Vec<Input> {
        match effect {
            Effect::Generate {
                work: Work::Article,
                ..
            } => {
                let chars: Vec<char> = self.article.chars().collect();
                let texts = chars
                    .chunks(7)
                    .map(|chunk| Input::Text(chunk.iter().collect()));
                let end = if self.failing.contains(&Work::Article) {
                    let reason = "no group".to_owned();
                    Input::Failed {
                        work: Work::Article,
                        reason,
                    }
                } else {
                    let usage = Usage {
                        prompt_tokens: 3,
                        output_tokens: 5,
                    };
                    Input::TextDone {
                        finish: FinishReason::Stop,
                        usage,
                    }
                };
                texts.chain([end]).collect()
            }
            Effect::Generate { work, generation } => vec![self.answer(*work, generation)],
            Effect::Search { work, search, .. } => vec![self.find(*work, search)],
            Effect::Emit(_) | Effect::Cancel(_) => vec![],
        }
    }
}

/// What happened.
#[derive(Debug, Default)]
pub(super) struct Run {
    pub(super) events: Vec<Event>,
    pub(super) generations: BTreeMap<Work, Generation>,
    pub(super) searches: BTreeMap<Work, SearchRequest>,
    pub(super) cancelled: Vec<Work>,
    /// Most pieces of work that ran side by side.
    pub(super) most_at_once: usize,
}

impl Run {
    pub(super) fn article(&self) -> &Article {
        match self.events.last() {
            Some(Event::Done { article }) => article,
            other => panic!("it ended with {other:?}"),
        }
    }

    /// The names of the shown pictures, by segment.
    pub(super) fn pictures(&self) -> Vec<(usize, String)> {
        let segments = self.article().segments().iter().enumerate();
        let shown = segments.filter_map(|(number, segment)| {
            let picture = segment.illustration.as_ref()?.picture();
            Some((number, picture.id.to_string()))
        });
        shown.collect()
    }

    pub(super) fn prompt(&self, work: Work) -> String {
        self.generations[&work].prompt.to_string()
    }

    #[track_caller]
    pub(super) fn has(&self, wanted: &Event) {
        assert!(
            self.events.contains(wanted),
            "{wanted:?} is not among {:#?}",
            self.events
        );
    }
}

/// Which of so many results comes in next.
pub(super) type Chooser<'a> = &'a mut dyn FnMut(usize) -> usize;

/// Runs a request to its end. `cancel_after` inputs the user wants no more.
pub(super) fn drive(
    request: ComposeRequest,
    world: &World,
    choose: Chooser<'_>,
    cancel_after: Option<usize>,
) -> Run {
    let id = ArticleId("article".into());
    let mut composition = Composition::new(id, request.check().unwrap());
    let mut run = Run::default();
    // Each queue is one piece of work's results.
    let mut open: Vec<(Work, Vec<Input>)> = vec![];
    let mut input = Input::Start;
    for step in 0..10_000 {
        let effects = composition.apply(input, &world.meter);
        take(effects, world, &mut run, &mut open);
        run.most_at_once = run.most_at_once.max(open.len());
        if composition.is_ended() {
            check_events(&run);
            // Whatever comes now comes too late.
            for late in open.into_iter().flat_map(|(_, results)| results) {
                assert_eq!(composition.apply(late, &world.meter), []);
            }
            assert_eq!(composition.apply(Input::Cancel, &world.meter), []);
            return run;
        }
        if cancel_after == Some(step) {
            input = Input::Cancel;
            continue;
        }
        assert!(!open.is_empty(), "it waits for nothing: {:#?}", run.events);
        let chosen = choose(open.len()) % open.len();
        let (_, results) = &mut open[chosen];
        input = results.remove(0);
        if results.is_empty() {
            open.remove(chosen);
        }
    }
    panic!("it does not end");
}

fn take(effects: Vec<Effect>, world: &World, run: &mut Run, open: &mut Vec<(Work, Vec<Input>)>) {
    for effect in effects {
        let results = world.results(&effect);
        match effect {
            Effect::Emit(numbered) => {
                assert_eq!(numbered.sequence, run.events.len() as u64);
                run.events.push(numbered.event);
            }
            Effect::Generate { work, generation } => {
                let length = world.meter.num_tokens(&generation.prompt);
                assert!(length + generation.max_new_tokens <= world.meter.context);
                assert!(
                    run.generations.insert(work, *generation).is_none(),
                    "{work:?} runs twice"
                );
                open.push((work, results));
            }
            Effect::Search { work, search, .. } => {
                assert!(
                    run.searches.insert(work, search).is_none(),
                    "{work:?} runs twice"
                );
                open.push((work, results));
            }
            Effect::Cancel(work) => {
                let at = open.iter().position(|(known, _)| *known == work);
                open.remove(at.expect("only what runs is cancelled"));
                run.cancelled.push(work);
            }
        }
    }
}

/// In the order in which it is asked for.
pub(super) fn in_order(_: usize) -> usize {
    0
}

pub(super) fn drive_in_order(request: ComposeRequest, world: &World) -> Run {
    drive(request, world, &mut in_order, None)
}

/// The rules that events keep whatever happens.
#[track_caller]
fn check_events(run: &Run) {
    let events = &run.events;
    let last = events.len() - 1;
    assert_eq!(events.iter().position(Event::is_last), Some(last));
    let mut segments = 0;
    // How far each place has come.
    let mut places: BTreeMap<usize, Vec<&str>> = BTreeMap::new();
    let mut text_is_done = false;
    for event in events {
        let mut tell = |place: usize, what| {
            let told = places.get_mut(&place).expect("the place was told");
            told.push(what);
        };
        match event {
            Event::SegmentClosed { index, .. } => {
                assert_eq!(*index, segments);
                assert!(!text_is_done);
                segments += 1;
            }
            Event::TextDelta { text } => assert!(!text_is_done && !text.is_empty()),
            Event::ArticleDone { num_segments, .. } => {
                assert_eq!(*num_segments, segments);
                text_is_done = true;
            }
            Event::Locations { places: told, .. } => {
                assert!(text_is_done && places.is_empty());
                places.extend(told.places.iter().map(|place| (*place, vec![])));
                assert!(told.places.is_sorted_by(|a, b| a < b));
                assert!(told.places.iter().all(|place| *place < segments));
            }
            Event::Caption { place, .. } => tell(*place, "caption"),
            Event::CandidatesRequest { place, .. } => tell(*place, "request"),
            Event::Candidates { place, .. } => tell(*place, "candidates"),
            Event::ImageSelected { place, .. } => tell(*place, "selected"),
            Event::LocationDropped { place, .. } => tell(*place, "dropped"),
            Event::Progress { done, total, .. } => assert!(done <= total),
            Event::Accepted { .. }
            | Event::Warning { .. }
            | Event::Done { .. }
            | Event::Error { .. } => {}
        }
    }
    for (place, told) in places {
        let (end, before) = told.split_last().expect("every place comes to something");
        assert!(["selected", "dropped"].contains(end), "{place}: {told:?}");
        assert!(
            ["caption", "request", "candidates"].starts_with(before),
            "{place}: {told:?}"
        );
    }
}
