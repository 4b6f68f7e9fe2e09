//! When what happened in one article: where the pipeline waits is seen here.

use std::{fmt, time::Duration};

use inkstone_proto::v1::compose_event::Event;

use crate::commands::bench::samples::milliseconds;

/// The events of one article that end or begin something.
#[derive(Debug, Default)]
pub(super) struct Timeline(Vec<(Duration, String)>);

impl Timeline {
    pub(super) fn note(&mut self, at: Duration, event: &Event) {
        let what = match event {
            Event::Accepted(_) => "accepted".to_owned(),
            Event::TextDelta(_) if self.has_text() => return,
            Event::TextDelta(_) => FIRST_TEXT.to_owned(),
            Event::ArticleDone(_) => "article".to_owned(),
            Event::Locations(told) => format!("places {:?}", told.locations),
            Event::Caption(told) => format!("caption of {}: {}", told.location, told.text),
            Event::CandidatesRequest(told) => format!("search for {}", told.location),
            Event::Candidates(told) => format!("candidates of {}", told.location),
            Event::ImageSelected(told) => format!("choice for {}", told.location),
            Event::LocationDropped(told) => format!("{} dropped", told.location),
            Event::Done(_) => "done".to_owned(),
            Event::Error(_) => "error".to_owned(),
            Event::SegmentClosed(_) | Event::Progress(_) | Event::Warning(_) => return,
        };
        self.0.push((at, what));
    }

    fn has_text(&self) -> bool {
        self.0.iter().any(|(_, what)| what == FIRST_TEXT)
    }
}

const FIRST_TEXT: &str = "first text";

impl fmt::Display for Timeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, what) in &self.0 {
            writeln!(f, "{:>8.1} ms  {what}", milliseconds(*at))?;
        }
        Ok(())
    }
}
