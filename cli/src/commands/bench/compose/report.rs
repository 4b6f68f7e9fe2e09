//! What the measurement came to.

use std::{fmt, time::Duration};

use anyhow::{Context, ensure};
use serde::Serialize;

use super::{Run, Task, Way, Written};
use crate::commands::bench::samples::{milliseconds, quantile};

/// How many times as long the demo's order of work should take at least.
const GOAL: f64 = 4.0;

/// How long the stages of one article took, each from the end of the one before.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Timings {
    pub(super) article: Duration,
    pub(super) places: Duration,
    /// To the last caption; searches and choices of earlier places run meanwhile.
    pub(super) captions: Duration,
    /// To the last choice.
    pub(super) pictures: Duration,
}

impl Timings {
    fn total(&self) -> Duration {
        self.article + self.places + self.captions + self.pictures
    }
}

/// Medians over the runs of one way, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct WayReport {
    article_ms: f64,
    places_ms: f64,
    captions_ms: f64,
    pictures_ms: f64,
    total_ms: f64,
    /// Pictures that were sent for one article.
    uploads: usize,
}

#[derive(Debug, Serialize)]
pub(super) struct Report {
    segments: usize,
    pictures: usize,
    /// 0: the pictures are uploads.
    candidates: usize,
    runs: usize,
    seed: u64,
    pipeline: WayReport,
    at_once: WayReport,
    one_by_one: WayReport,
    /// How many times as long one question after the other takes.
    ratio: f64,
    at_once_ratio: f64,
    goal: f64,
    /// The pipeline wrote, placed, captioned and chose the same every time, and so did the demo's order of work.
    is_same_article: bool,
}

impl Report {
    pub(super) fn of(task: &Task, runs: &[(Way, Run)]) -> anyhow::Result<Self> {
        let of = |way: Way| {
            let runs = runs.iter().filter(move |(ran, _)| *ran == way);
            runs.map(|(_, run)| run).collect::<Vec<&Run>>()
        };
        let [pipeline, at_once, one_by_one] = Way::ALL.map(|way| summary(&of(way)));
        let first: &Written = match &of(Way::Pipeline)[..] {
            [first, ..] => &first.written,
            [] => anyhow::bail!("nothing was measured"),
        };
        let compared = [of(Way::Pipeline), of(Way::OneByOne)].concat();
        let (pipeline, at_once) = (pipeline.context("no runs")?, at_once.context("no runs")?);
        let one_by_one = one_by_one.context("no runs")?;
        ensure!(
            !first.places.is_empty(),
            "the model found no place for a picture in an article of {} segments: try another instruction or seed",
            first.segments.len()
        );
        Ok(Self {
            segments: first.segments.len(),
            pictures: first.places.len(),
            candidates: match task.has_uploads {
                true => 0,
                false => task.num_candidates,
            },
            runs: of(Way::Pipeline).len(),
            seed: task.seed,
            ratio: one_by_one.total_ms / pipeline.total_ms,
            at_once_ratio: one_by_one.total_ms / at_once.total_ms,
            goal: GOAL,
            is_same_article: compared.iter().all(|run| run.written == *first),
            pipeline,
            at_once,
            one_by_one,
        })
    }
}

/// `None` without runs.
fn summary(runs: &[&Run]) -> Option<WayReport> {
    let median = |stage: fn(&Timings) -> Duration| {
        let mut sorted: Vec<Duration> = runs.iter().map(|run| stage(&run.timings)).collect();
        sorted.sort_unstable();
        milliseconds(quantile(&sorted, 0.5))
    };
    Some(WayReport {
        article_ms: median(|timings| timings.article),
        places_ms: median(|timings| timings.places),
        captions_ms: median(|timings| timings.captions),
        pictures_ms: median(|timings| timings.pictures),
        total_ms: median(Timings::total),
        uploads: runs.first()?.num_uploads,
    })
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            segments,
            pictures,
            candidates,
            runs,
            seed,
            ..
        } = self;
        let from = match candidates {
            0 => "of the user's own".to_owned(),
            candidates => format!("out of {candidates} each"),
        };
        writeln!(
            f,
            "an article of {segments} segments with {pictures} pictures {from}, seed {seed}; medians of {runs} runs, milliseconds"
        )?;
        writeln!(
            f,
            "{:<24} {:>12} {:>12} {:>16}",
            "", "pipeline", "at once", "one after other"
        )?;
        let row = |f: &mut fmt::Formatter<'_>, name: &str, of: fn(&WayReport) -> f64| {
            let [pipeline, at_once, one_by_one] =
                [&self.pipeline, &self.at_once, &self.one_by_one].map(of);
            writeln!(
                f,
                "{name:<24} {pipeline:>12.1} {at_once:>12.1} {one_by_one:>16.1}"
            )
        };
        row(f, "text", |way| way.article_ms)?;
        row(f, "places", |way| way.places_ms)?;
        row(f, "to the last caption", |way| way.captions_ms)?;
        row(f, "to the last choice", |way| way.pictures_ms)?;
        row(f, "total", |way| way.total_ms)?;
        writeln!(
            f,
            "{:<24} {:>12} {:>12} {:>16}",
            "pictures sent", self.pipeline.uploads, self.at_once.uploads, self.one_by_one.uploads
        )?;
        writeln!(
            f,
            "one after the other / pipeline: {:.2} (goal: at least {:.0}); / at once: {:.2}",
            self.ratio, self.goal, self.at_once_ratio
        )?;
        writeln!(
            f,
            "{}",
            match self.is_same_article {
                true => "pipeline and one after the other came to the same article every time",
                false => "the articles differ between the ways or the runs",
            }
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(milliseconds: u64, chosen: u32) -> Run {
        let stage = Duration::from_millis(milliseconds);
        Run {
            written: Written {
                segments: vec!["A title".into(), "text".into()],
                places: vec![1],
                captions: vec!["a sea".into()],
                chosen: vec![chosen],
            },
            timings: Timings {
                article: stage,
                places: stage,
                captions: stage,
                pictures: 2 * stage,
            },
            num_uploads: 4,
        }
    }

    fn task() -> Task {
        Task {
            instruction: "Write.".into(),
            num_pictures: 1,
            num_candidates: 4,
            has_uploads: false,
            max_tokens: 100,
            seed: 1,
            pool: vec![],
        }
    }

    #[test]
    fn medians_are_compared() {
        let runs = [
            (Way::Pipeline, run(10, 2)),
            (Way::Pipeline, run(1000, 2)),
            (Way::Pipeline, run(20, 2)),
            (Way::AtOnce, run(10, 1)),
            (Way::OneByOne, run(100, 2)),
        ];
        let report = Report::of(&task(), &runs).unwrap();
        assert_eq!(report.pipeline.article_ms, 20.0);
        assert_eq!(report.pipeline.total_ms, 100.0);
        assert_eq!((report.ratio, report.at_once_ratio), (5.0, 10.0));
        assert_eq!((report.runs, report.pictures, report.segments), (3, 1, 2));
        // Those at once are told less, and may choose otherwise.
        assert!(report.is_same_article);
        let text = report.to_string();
        assert!(text.contains("5.00 (goal: at least 4)"), "{text}");
    }

    #[test]
    fn another_choice_is_another_article() {
        let runs = [
            (Way::Pipeline, run(10, 2)),
            (Way::AtOnce, run(10, 2)),
            (Way::OneByOne, run(100, 1)),
        ];
        assert!(!Report::of(&task(), &runs).unwrap().is_same_article);
        assert!(Report::of(&task(), &runs[..1]).is_err());
    }
}
