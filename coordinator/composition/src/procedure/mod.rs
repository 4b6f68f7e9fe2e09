//! The procedure: from a request to an article with pictures, as a state machine. It says which runs of the model and which
//! searches come next, takes their results in any order, and tells the user what happens. It always ends, with
//! [`Event::Done`] or [`Event::Error`], once everything that it asked for was answered, failed or cancelled.
//!
//! What waits for what:
//! * the places wait for the whole article, since any of its segments may be one;
//! * a caption waits for the captions before it, which its question tells (not with [`StepOrder::AtOnce`]);
//! * a search waits for its caption, and for the searches before it, whose pictures it must not bring again;
//! * a choice waits for its candidates, and for the choices before it, whose pictures stand in its question (not with
//!   `AtOnce`).
//!
//! So captions, searches and choices of different places run side by side, and what comes out does not depend on the order in
//! which their results come in. Each run has a seed of its own, made of the request's, the step and the place.
//!
//! A failure costs as little as it can: a place whose caption or search fails is dropped, a choice that fails falls on the first
//! candidate, an article without places stays without pictures.
//!
//! [`StepOrder::AtOnce`]: crate::StepOrder::AtOnce

mod event;
mod illustrating;
mod slot;
mod work;

pub use self::{
    event::{ComposeError, DropReason, Event, FinishReason, Numbered, Stage, Usage, Warning},
    work::{Effect, Input, Work},
};

use self::slot::Slot;
use crate::{
    Asked, CheckedRequest, ComposeRequest, Meter, PictureCount, PictureId, PictureSource,
    SegmentReader, TooLong,
    article::{Article, ArticleId, Illustration},
    generation::{StepSettings, derive_seed},
    steps::{places, write},
};

/// See the module's text.
#[derive(Debug, Clone)]
pub struct Composition {
    id: ArticleId,
    request: ComposeRequest,
    warnings: Vec<Warning>,
    next_sequence: u64,
    segments: Vec<String>,
    /// What searches brought, by what their source calls it.
    excluded: Vec<String>,
    state: State,
    effects: Vec<Effect>,
}

#[derive(Debug, Clone)]
enum State {
    Ready,
    Writing(SegmentReader),
    Placing,
    Illustrating(Vec<Slot>),
    Ended,
}

impl Composition {
    pub fn new(id: ArticleId, request: CheckedRequest) -> Self {
        let (request, warnings) = request.into_parts();
        Self {
            id,
            request,
            warnings,
            next_sequence: 0,
            segments: vec![],
            excluded: vec![],
            state: State::Ready,
            effects: vec![],
        }
    }

    pub fn id(&self) -> &ArticleId {
        &self.id
    }

    /// Whether the last event was told.
    pub fn is_ended(&self) -> bool {
        matches!(self.state, State::Ended)
    }

    /// Takes what the driver tells, and says what it does next.
    pub fn apply(&mut self, input: Input, meter: &dyn Meter) -> Vec<Effect> {
        match std::mem::replace(&mut self.state, State::Ended) {
            State::Ready => self.ready(input, meter),
            State::Writing(reader) => self.writing(reader, input, meter),
            State::Placing => self.placing(input, meter),
            State::Illustrating(slots) => self.illustrating(slots, input, meter),
            State::Ended => {}
        }
        std::mem::take(&mut self.effects)
    }

    fn ready(&mut self, input: Input, meter: &dyn Meter) {
        match input {
            Input::Start => {
                let request = Box::new(self.request.clone());
                self.emit(Event::Accepted { request });
                for warning in std::mem::take(&mut self.warnings) {
                    self.warn(warning);
                }
                self.begin_article(meter);
            }
            Input::Cancel => self.fail(ComposeError::Cancelled),
            Input::Text(_)
            | Input::TextDone { .. }
            | Input::Answer { .. }
            | Input::Found { .. }
            | Input::Failed { .. } => self.state = State::Ready,
        }
    }

    fn begin_article(&mut self, meter: &dyn Meter) {
        let settings = StepSettings {
            system: self.request.system.text(),
            release: self.request.release,
            sampling: self.request.sampling,
            seed: self.request.seed,
        };
        match write::ask(&self.request, &settings, meter) {
            Ok(asked) => {
                self.generate(Work::Article, asked);
                self.state = State::Writing(SegmentReader::new(self.request.max_segments));
            }
            Err(TooLong { num_tokens, limit }) => {
                self.fail(ComposeError::PromptTooLong { num_tokens, limit });
            }
        }
    }

    fn writing(&mut self, mut reader: SegmentReader, input: Input, meter: &dyn Meter) {
        match input {
            Input::Text(text) => {
                self.read(&mut reader, text);
                if reader.is_full() {
                    let limit = self.request.max_segments;
                    self.warn(Warning::TooManySegments { limit });
                    self.effects.push(Effect::Cancel(Work::Article));
                    self.end_article(reader, FinishReason::Length, None, meter);
                } else {
                    self.state = State::Writing(reader);
                }
            }
            Input::TextDone { finish, usage } => {
                self.end_article(reader, finish, Some(usage), meter);
            }
            Input::Failed {
                work: Work::Article,
                reason,
            } => self.fail(ComposeError::Failed { reason }),
            Input::Cancel => {
                self.effects.push(Effect::Cancel(Work::Article));
                self.end_article(reader, FinishReason::Cancelled, None, meter);
            }
            Input::Start | Input::Answer { .. } | Input::Found { .. } | Input::Failed { .. } => {
                self.state = State::Writing(reader);
            }
        }
    }

    fn read(&mut self, reader: &mut SegmentReader, mut text: String) {
        let read = reader.push(&text);
        text.truncate(read.num_bytes);
        if !text.is_empty() {
            self.emit(Event::TextDelta { text });
        }
        for segment in read.closed {
            self.close_segment(segment);
        }
    }

    fn close_segment(&mut self, text: String) {
        let index = self.segments.len();
        self.segments.push(text.clone());
        self.emit(Event::SegmentClosed { index, text });
    }

    fn end_article(
        &mut self,
        reader: SegmentReader,
        finish: FinishReason,
        usage: Option<Usage>,
        meter: &dyn Meter,
    ) {
        if let Some(last) = reader.finish() {
            self.close_segment(last);
        }
        if self.segments.is_empty() {
            return self.fail(match finish {
                FinishReason::Cancelled => ComposeError::Cancelled,
                FinishReason::Stop | FinishReason::Length => ComposeError::Empty,
            });
        }
        self.emit(Event::ArticleDone {
            num_segments: self.segments.len(),
            finish,
            usage,
        });
        match (finish, self.request.picture_count) {
            (FinishReason::Cancelled, _) | (_, PictureCount::None) => self.finish(&[]),
            (FinishReason::Stop | FinishReason::Length, _) => self.begin_places(meter),
        }
    }

    fn begin_places(&mut self, meter: &dyn Meter) {
        let uploads = self.uploads();
        let asked = self
            .places_question(&uploads)
            .ask(&self.settings(Work::Places), meter);
        match asked {
            Ok(asked) => {
                self.generate(Work::Places, asked);
                self.state = State::Placing;
            }
            Err(too_long) => {
                let reason = too_long.to_string();
                self.warn(Warning::LocationsFailed { reason });
                let places = self.places_question(&uploads).default_places();
                self.begin_illustrating(places, String::new(), meter);
            }
        }
    }

    fn placing(&mut self, input: Input, meter: &dyn Meter) {
        match input {
            Input::Answer {
                work: Work::Places,
                text,
            } => {
                let uploads = self.uploads();
                let places = self.places_question(&uploads).read(&text);
                self.begin_illustrating(places, text, meter);
            }
            Input::Failed {
                work: Work::Places,
                reason,
            } => {
                self.warn(Warning::LocationsFailed { reason });
                self.finish(&[]);
            }
            Input::Cancel => {
                self.effects.push(Effect::Cancel(Work::Places));
                self.finish(&[]);
            }
            Input::Start
            | Input::Text(_)
            | Input::TextDone { .. }
            | Input::Answer { .. }
            | Input::Found { .. }
            | Input::Failed { .. } => self.state = State::Placing,
        }
    }

    fn begin_illustrating(&mut self, places: places::Places, raw: String, meter: &dyn Meter) {
        let slots: Vec<Slot> = places
            .places
            .iter()
            .map(|&place| Slot::new(place))
            .collect();
        let found = slots.len();
        self.emit(Event::Locations { places, raw });
        if let PictureCount::Fixed(wanted) = self.request.picture_count
            && found < wanted
        {
            self.warn(Warning::FewerPlaces { wanted, found });
        }
        self.advance(slots, meter);
    }

    /// The pictures that go into the article, where they are the user's own.
    fn uploads(&self) -> Vec<PictureId> {
        match self.request.source() {
            PictureSource::Uploads => self.request.pictures.iter().map(|p| p.id.clone()).collect(),
            PictureSource::Search => vec![],
        }
    }

    fn places_question<'a>(&'a self, uploads: &'a [PictureId]) -> places::Question<'a> {
        places::Question {
            segments: &self.segments,
            count: match self.request.picture_count {
                PictureCount::Fixed(count) => Some(count),
                PictureCount::None | PictureCount::Automatic => None,
            },
            pictures: uploads,
        }
    }

    /// How a step after the article is asked.
    fn settings(&self, work: Work) -> StepSettings<'_> {
        let (step, run) = match work {
            Work::Article => (0, 0),
            Work::Places => (1, 0),
            Work::Caption { place } => (2, place),
            Work::Search { place } => (3, place),
            Work::Choice { place } => (4, place),
        };
        StepSettings {
            system: self.request.system.text(),
            release: self.request.release,
            sampling: self.request.later_sampling(),
            seed: derive_seed(self.request.seed, step, run as u64),
        }
    }

    fn generate(&mut self, work: Work, asked: Asked) {
        if asked.is_shortened {
            let (stage, place) = match work {
                Work::Article => (Stage::Article, None),
                Work::Places => (Stage::Locations, None),
                Work::Caption { place } => (Stage::Captions, Some(place)),
                Work::Search { place } | Work::Choice { place } => (Stage::Pictures, Some(place)),
            };
            self.warn(Warning::ContextShortened { stage, place });
        }
        self.effects.push(Effect::Generate {
            work,
            generation: Box::new(asked.generation),
        });
    }

    fn emit(&mut self, event: Event) {
        let sequence = self.next_sequence;
        self.next_sequence += 1;
        self.effects
            .push(Effect::Emit(Numbered { sequence, event }));
    }

    fn warn(&mut self, warning: Warning) {
        self.emit(Event::Warning { warning });
    }

    fn fail(&mut self, error: ComposeError) {
        let stage = Stage::Article;
        self.emit(Event::Error { stage, error });
        self.state = State::Ended;
    }

    fn finish(&mut self, pictures: &[(usize, Illustration)]) {
        let texts = std::mem::take(&mut self.segments).into_iter().enumerate();
        let written = texts.map(|(number, text)| {
            let mut pictures = pictures.iter();
            let picture = pictures.find(|(place, _)| *place == number);
            (text, picture.map(|(_, picture)| picture.clone()))
        });
        let article = Article::new(
            self.id.clone(),
            self.request.clone(),
            written,
            std::mem::take(&mut self.excluded),
        );
        let article = Box::new(article);
        self.emit(Event::Done { article });
        self.state = State::Ended;
    }
}

#[cfg(test)]
mod tests;
