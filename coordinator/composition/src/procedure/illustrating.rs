//! From places to pictures: captions, searches and choices, each as soon as what it waits for is there.

use super::{
    Composition, DropReason, Effect, Event, Input, Stage, State, Warning, Work,
    slot::{Progress, Slot},
};
use crate::{
    MAX_CANDIDATES, Meter, Picture, PictureId, PictureSource, StepOrder,
    article::{Illustration, SearchRequest, exclude},
    steps::{caption, choice},
};

impl Composition {
    pub(super) fn illustrating(&mut self, mut slots: Vec<Slot>, input: Input, meter: &dyn Meter) {
        let waiting_for = |work| slots.iter().position(|slot| slot.work() == Some(work));
        match input {
            Input::Answer { work, text } => {
                if let Some(at) = waiting_for(work) {
                    self.answered(&mut slots, at, &text);
                }
            }
            Input::Found { work, pictures } => {
                if let Some(at) = waiting_for(work)
                    && matches!(slots[at].progress, Progress::Searching)
                {
                    self.found(&mut slots, at, pictures);
                }
            }
            Input::Failed { work, reason } => {
                if let Some(at) = waiting_for(work) {
                    self.failed(&mut slots, at, reason);
                }
            }
            Input::Cancel => self.drop_all(&mut slots),
            Input::Start | Input::Text(_) | Input::TextDone { .. } => {}
        }
        self.advance(slots, meter);
    }

    /// Starts all that can be started; ends when all places are settled.
    pub(super) fn advance(&mut self, mut slots: Vec<Slot>, meter: &dyn Meter) {
        // A place that settles without a run may be what another waits for.
        while (0..slots.len()).any(|at| self.try_start(&mut slots, at, meter)) {}
        if slots.iter().all(Slot::is_settled) {
            let pictures = slots
                .iter()
                .filter_map(|slot| Some((slot.place, slot.illustration()?.clone())));
            self.finish(&pictures.collect::<Vec<_>>());
        } else {
            self.state = State::Illustrating(slots);
        }
    }

    /// Takes a place one step further where nothing holds it up.
    fn try_start(&mut self, slots: &mut [Slot], at: usize, meter: &dyn Meter) -> bool {
        let (earlier, rest) = slots.split_at(at);
        let captions_in_turn = self.request.captions == StepOrder::InTurn;
        let choices_in_turn = self.request.choices == StepOrder::InTurn;
        match &rest[0].progress {
            Progress::Waiting if self.request.source() == PictureSource::Uploads => {
                let is_turn = earlier.iter().all(Slot::is_settled);
                if is_turn {
                    let unused = self.unused_uploads(earlier);
                    slots[at].progress = Progress::Found(unused);
                }
                is_turn
            }
            Progress::Waiting => {
                let is_turn = !captions_in_turn || earlier.iter().all(Slot::is_past_caption);
                if is_turn {
                    self.begin_caption(slots, at, meter);
                }
                is_turn
            }
            Progress::Captioned => {
                let is_turn = earlier.iter().all(Slot::is_past_search);
                if is_turn {
                    self.begin_search(slots, at);
                }
                is_turn
            }
            Progress::Found(_) => {
                let is_turn = !choices_in_turn || earlier.iter().all(Slot::is_settled);
                if is_turn {
                    self.begin_choice(slots, at, meter);
                }
                is_turn
            }
            Progress::Captioning
            | Progress::Searching
            | Progress::Choosing(_)
            | Progress::Settled(_) => false,
        }
    }

    fn unused_uploads(&self, earlier: &[Slot]) -> Vec<Picture> {
        let mut unused = self.request.pictures.clone();
        for used in earlier.iter().filter_map(Slot::illustration) {
            // Two uploads may be the same picture: each is used once.
            if let Some(at) = unused.iter().position(|picture| picture == used.picture()) {
                unused.remove(at);
            }
        }
        unused
    }

    fn begin_caption(&mut self, slots: &mut [Slot], at: usize, meter: &dyn Meter) {
        let place = slots[at].place;
        let told = match self.request.captions {
            StepOrder::InTurn => &slots[..at],
            StepOrder::AtOnce => &[],
        };
        let told = told.iter().filter_map(|slot| {
            let caption = slot.caption.as_deref()?;
            Some((slot.place, caption))
        });
        let told: Vec<(usize, &str)> = told.collect();
        let question = caption::Question {
            segments: &self.segments,
            place,
            earlier: &told,
        };
        let work = Work::Caption { place };
        match question.ask(&self.settings(work), meter) {
            Ok(asked) => {
                self.generate(work, asked);
                slots[at].progress = Progress::Captioning;
            }
            Err(too_long) => {
                let reason = DropReason::CaptionFailed(too_long.to_string());
                self.drop_place(slots, at, reason);
            }
        }
    }

    fn begin_search(&mut self, slots: &mut [Slot], at: usize) {
        let Slot { place, caption, .. } = &slots[at];
        let place = *place;
        let search = SearchRequest {
            caption: caption.clone().unwrap_or_default(),
            exclude: self.excluded.clone(),
        };
        slots[at].progress = Progress::Searching;
        self.emit(Event::CandidatesRequest {
            place,
            search: search.clone(),
        });
        self.effects.push(Effect::Search {
            work: Work::Search { place },
            search,
            max_candidates: MAX_CANDIDATES,
        });
    }

    fn begin_choice(&mut self, slots: &mut [Slot], at: usize, meter: &dyn Meter) {
        let place = slots[at].place;
        let Progress::Found(pictures) = &slots[at].progress else {
            return;
        };
        let pictures = pictures.clone();
        if pictures.is_empty() {
            return self.drop_place(slots, at, DropReason::NoCandidates);
        }
        if pictures.len() == 1 {
            return self.select(slots, at, pictures, FIRST, String::new());
        }
        let told = match self.request.choices {
            _ if self.request.source() == PictureSource::Uploads => &slots[..at],
            StepOrder::InTurn => &slots[..at],
            StepOrder::AtOnce => &[],
        };
        let told = told.iter().filter_map(|slot| {
            let illustration = slot.illustration()?;
            Some((slot.place, &illustration.picture().id))
        });
        let told: Vec<(usize, &PictureId)> = told.collect();
        let candidates: Vec<&PictureId> = pictures.iter().map(|picture| &picture.id).collect();
        let question = choice::Question {
            segments: &self.segments,
            place,
            earlier: &told,
            candidates: &candidates,
        };
        let work = Work::Choice { place };
        match question.ask(&self.settings(work), meter) {
            Ok(asked) => {
                self.generate(work, asked);
                slots[at].progress = Progress::Choosing(pictures);
            }
            Err(too_long) => self.select_first(slots, at, pictures, too_long.to_string()),
        }
    }

    fn answered(&mut self, slots: &mut [Slot], at: usize, text: &str) {
        match &slots[at].progress {
            Progress::Captioning => self.captioned(slots, at, text),
            Progress::Choosing(pictures) => {
                let pictures = pictures.clone();
                let chosen = choice::read(text, pictures.len());
                self.select(slots, at, pictures, chosen, text.to_owned());
            }
            // An answer is nothing that a search could give; nothing runs in the other states.
            Progress::Searching
            | Progress::Waiting
            | Progress::Captioned
            | Progress::Found(_)
            | Progress::Settled(_) => {}
        }
    }

    fn captioned(&mut self, slots: &mut [Slot], at: usize, text: &str) {
        let caption = caption::read(text, self.request.release);
        if caption.is_empty() {
            return self.drop_place(slots, at, DropReason::EmptyCaption);
        }
        self.emit(Event::Caption {
            place: slots[at].place,
            text: caption.clone(),
        });
        slots[at].caption = Some(caption);
        slots[at].progress = Progress::Captioned;
        self.tell_captions(slots);
    }

    fn found(&mut self, slots: &mut [Slot], at: usize, pictures: Vec<Picture>) {
        let mut new = vec![];
        for picture in pictures {
            if new.len() < MAX_CANDIDATES && exclude(&mut self.excluded, &picture) {
                new.push(picture);
            }
        }
        if !new.is_empty() {
            self.emit(Event::Candidates {
                place: slots[at].place,
                pictures: new.clone(),
            });
        }
        slots[at].progress = Progress::Found(new);
    }

    fn failed(&mut self, slots: &mut [Slot], at: usize, reason: String) {
        match &slots[at].progress {
            Progress::Captioning => {
                self.drop_place(slots, at, DropReason::CaptionFailed(reason));
            }
            Progress::Searching => {
                self.drop_place(slots, at, DropReason::SourceFailed(reason));
            }
            Progress::Choosing(pictures) => {
                let pictures = pictures.clone();
                self.select_first(slots, at, pictures, reason);
            }
            Progress::Waiting | Progress::Captioned | Progress::Found(_) | Progress::Settled(_) => {
            }
        }
    }

    fn select_first(
        &mut self,
        slots: &mut [Slot],
        at: usize,
        pictures: Vec<Picture>,
        reason: String,
    ) {
        let place = slots[at].place;
        self.warn(Warning::ChoiceFailed { place, reason });
        let chosen = choice::Choice {
            by_default: true,
            ..FIRST
        };
        self.select(slots, at, pictures, chosen, String::new());
    }

    fn select(
        &mut self,
        slots: &mut [Slot],
        at: usize,
        pictures: Vec<Picture>,
        chosen: choice::Choice,
        raw: String,
    ) {
        let choice::Choice {
            candidate,
            by_default,
        } = chosen;
        // Letters are read within the number of candidates.
        let Some(picture) = pictures.get(candidate).cloned() else {
            return self.drop_place(slots, at, DropReason::NoCandidates);
        };
        let (group, candidate) = match self.request.source() {
            PictureSource::Uploads => (vec![picture.clone()], 0),
            PictureSource::Search => (pictures, candidate),
        };
        self.emit(Event::ImageSelected {
            place: slots[at].place,
            candidate,
            picture,
            raw,
            by_default,
        });
        let caption = slots[at].caption.clone().unwrap_or_default();
        let illustration = Illustration::new(caption, group, candidate, by_default);
        slots[at].progress = Progress::Settled(illustration);
        self.tell_pictures(slots);
    }

    fn drop_place(&mut self, slots: &mut [Slot], at: usize, reason: DropReason) {
        self.emit(Event::LocationDropped {
            place: slots[at].place,
            reason,
        });
        slots[at].progress = Progress::Settled(None);
        self.tell_pictures(slots);
    }

    fn drop_all(&mut self, slots: &mut [Slot]) {
        for at in 0..slots.len() {
            if slots[at].is_settled() {
                continue;
            }
            if let Some(work) = slots[at].work() {
                self.effects.push(Effect::Cancel(work));
            }
            self.drop_place(slots, at, DropReason::Cancelled);
        }
    }

    fn tell_captions(&mut self, slots: &[Slot]) {
        let done = slots.iter().filter(|slot| slot.caption.is_some()).count();
        self.progress(Stage::Captions, done, slots.len());
    }

    fn tell_pictures(&mut self, slots: &[Slot]) {
        let done = slots.iter().filter(|slot| slot.is_settled()).count();
        self.progress(Stage::Pictures, done, slots.len());
    }

    fn progress(&mut self, stage: Stage, done: usize, total: usize) {
        self.emit(Event::Progress { stage, done, total });
    }
}

const FIRST: choice::Choice = choice::Choice {
    candidate: 0,
    by_default: false,
};
