//! What is measured of compositions.

use std::time::Duration;

use inkstone_composition::procedure::{ComposeError, Event, Work};
use metrics::{
    Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram,
};

const COMPOSITIONS: &str = "inkstone_compositions_total";
const DURATION: &str = "inkstone_composition_duration_seconds";
const ARTICLES: &str = "inkstone_articles";
const PICTURE_BYTES: &str = "inkstone_article_picture_bytes";
const STEP: &str = "inkstone_composition_step_seconds";
const STEPS_AGAIN: &str = "inkstone_composition_steps_again_total";
const SEARCHES: &str = "inkstone_picture_searches_total";

/// Tells the recorder what the metrics mean.
pub(super) fn describe() {
    describe_counter!(COMPOSITIONS, "compositions by outcome");
    describe_histogram!(
        DURATION,
        Unit::Seconds,
        "from the first step's start to the last event"
    );
    describe_gauge!(ARTICLES, "articles that are kept");
    describe_gauge!(
        PICTURE_BYTES,
        Unit::Bytes,
        "pictures that are kept for articles"
    );
    describe_histogram!(
        STEP,
        Unit::Seconds,
        "steps that were answered, from the queue to their end, by kind"
    );
    describe_counter!(
        STEPS_AGAIN,
        "steps that were sent away and came again, by kind"
    );
    describe_counter!(SEARCHES, "searches for pictures by outcome");
}

/// A kind of step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StepKind {
    Article,
    Places,
    Caption,
    Choice,
    Edit,
}

impl StepKind {
    /// Of the runs of a composition; a search is none.
    pub(super) fn of(work: Work) -> Self {
        match work {
            Work::Article => Self::Article,
            Work::Places => Self::Places,
            Work::Caption { .. } => Self::Caption,
            Work::Choice { .. } | Work::Search { .. } => Self::Choice,
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Article => "article",
            Self::Places => "places",
            Self::Caption => "caption",
            Self::Choice => "choice",
            Self::Edit => "edit",
        }
    }

    /// It was answered.
    pub(super) fn measure(self, took: Duration) {
        histogram!(STEP, "kind" => self.name()).record(took);
    }

    /// It was sent away and comes again.
    pub(super) fn count_again(self) {
        counter!(STEPS_AGAIN, "kind" => self.name()).increment(1);
    }
}

/// A composition is over. `is_cut`: before its time.
pub(super) fn composed(last: Option<&Event>, is_cut: bool, took: Duration) -> &'static str {
    let outcome = match last {
        Some(Event::Error { error, .. }) => match error {
            ComposeError::PromptTooLong { .. } => "PROMPT_TOO_LONG",
            ComposeError::Failed { .. } => "FAILED",
            ComposeError::Empty => "EMPTY",
            ComposeError::Cancelled => "CANCELLED",
        },
        _ if is_cut => "CANCELLED",
        _ => "DONE",
    };
    counter!(COMPOSITIONS, "outcome" => outcome).increment(1);
    histogram!(DURATION).record(took);
    outcome
}

/// How a search ended.
pub(super) fn searched(outcome: &'static str) {
    counter!(SEARCHES, "outcome" => outcome).increment(1);
}

/// So much is kept.
pub(super) fn kept(num_articles: usize, picture_bytes: usize) {
    gauge!(ARTICLES).set(num_articles as f64);
    gauge!(PICTURE_BYTES).set(picture_bytes as f64);
}
