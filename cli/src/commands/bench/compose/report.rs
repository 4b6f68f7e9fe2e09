//! What the measurement came to.

use std::{fmt, time::Duration};

use anyhow::{Context, ensure};
use serde::Serialize;

use super::{Run, Task, Way, Written, pictures::Acquaintance};
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

/// The cluster's own ways with pictures that it has met, or has not.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct CaseReport {
    pipeline: WayReport,
    at_once: WayReport,
    /// How many times as long one question after the other takes.
    ratio: f64,
    at_once_ratio: f64,
}

#[derive(Debug, Serialize)]
pub(super) struct Report {
    segments: usize,
    pictures: usize,
    /// 0: the pictures are uploads.
    candidates: usize,
    runs: usize,
    seed: u64,
    never_seen: CaseReport,
    seen_before: CaseReport,
    /// Pictures are always new: the demo keeps nothing of them.
    one_by_one: WayReport,
    goal: f64,
    /// The pipeline wrote, placed, captioned and chose the same every time, and so did the demo's order of work.
    is_same_article: bool,
    /// Of the last article of each of the cluster's own ways.
    #[serde(skip)]
    timelines: Vec<String>,
}

impl Report {
    pub(super) fn of(task: &Task, runs: &[(Way, Run)]) -> anyhow::Result<Self> {
        let of = |way: Way| {
            let runs = runs.iter().filter(move |(ran, _)| *ran == way);
            runs.map(|(_, run)| run).collect::<Vec<&Run>>()
        };
        let one_by_one = summary(&of(Way::OneByOne)).context("no runs")?;
        let case = |pictures| {
            let pipeline = summary(&of(Way::Pipeline(pictures))).context("no runs")?;
            let at_once = summary(&of(Way::AtOnce(pictures))).context("no runs")?;
            anyhow::Ok(CaseReport {
                pipeline,
                at_once,
                ratio: one_by_one.total_ms / pipeline.total_ms,
                at_once_ratio: one_by_one.total_ms / at_once.total_ms,
            })
        };
        // Those at once are told less, and may choose otherwise.
        let compared = [
            of(Way::Pipeline(Acquaintance::NeverSeen)),
            of(Way::Pipeline(Acquaintance::SeenBefore)),
            of(Way::OneByOne),
        ]
        .concat();
        let first: &Written = match &compared[..] {
            [first, ..] => &first.written,
            [] => anyhow::bail!("nothing was measured"),
        };
        ensure!(
            !first.places.is_empty(),
            "the model found no place for a picture in an article of {} segments: try another instruction or seed",
            first.segments.len()
        );
        let timelines = Way::ALL.into_iter().filter_map(|way| {
            let last = of(way).pop()?;
            let is_told = way != Way::OneByOne;
            is_told.then(|| format!("{way:?}\n{}\n", last.timeline))
        });
        Ok(Self {
            segments: first.segments.len(),
            pictures: first.places.len(),
            candidates: match task.has_uploads {
                true => 0,
                false => task.num_candidates,
            },
            runs: of(Way::OneByOne).len(),
            seed: task.seed,
            never_seen: case(Acquaintance::NeverSeen)?,
            seen_before: case(Acquaintance::SeenBefore)?,
            one_by_one,
            goal: GOAL,
            is_same_article: compared.iter().all(|run| run.written == *first),
            timelines: timelines.collect(),
        })
    }

    /// When what happened.
    pub(super) fn timeline(&self) -> String {
        self.timelines.concat()
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
            "{:<24}{:>24}{:>24}{:>16}",
            "pictures", "never seen before", "seen before", "always new"
        )?;
        writeln!(
            f,
            "{:<24}{:>12}{:>12}{:>12}{:>12}{:>16}",
            "", "pipeline", "at once", "pipeline", "at once", "one after other"
        )?;
        let own = [&self.never_seen, &self.seen_before].map(|case| [&case.pipeline, &case.at_once]);
        let own = own.as_flattened();
        let row = |f: &mut fmt::Formatter<'_>, name: &str, of: fn(&WayReport) -> f64| {
            write!(f, "{name:<24}")?;
            for way in own {
                write!(f, "{:>12.1}", of(way))?;
            }
            writeln!(f, "{:>16.1}", of(&self.one_by_one))
        };
        row(f, "text", |way| way.article_ms)?;
        row(f, "places", |way| way.places_ms)?;
        row(f, "to the last caption", |way| way.captions_ms)?;
        row(f, "to the last choice", |way| way.pictures_ms)?;
        row(f, "total", |way| way.total_ms)?;
        write!(f, "{:<24}", "pictures sent")?;
        for way in own {
            write!(f, "{:>12}", way.uploads)?;
        }
        writeln!(f, "{:>16}", self.one_by_one.uploads)?;
        let ratios = [&self.never_seen, &self.seen_before];
        let ratios = ratios.map(|case| [case.ratio, case.at_once_ratio]);
        write!(f, "{:<24}", "times as long")?;
        for ratio in ratios.as_flattened() {
            write!(f, "{ratio:>12.2}")?;
        }
        writeln!(f, "{:>16}", "1")?;
        writeln!(
            f,
            "times as long: one after the other takes, as each way does; the goal is at least {:.0}",
            self.goal
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
    use super::{super::timeline::Timeline, *};

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
            timeline: Timeline::default(),
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

    const NEW: Acquaintance = Acquaintance::NeverSeen;
    const SEEN: Acquaintance = Acquaintance::SeenBefore;

    #[test]
    fn medians_are_compared() {
        let runs = [
            (Way::Pipeline(NEW), run(10, 2)),
            (Way::Pipeline(NEW), run(1000, 2)),
            (Way::Pipeline(NEW), run(20, 2)),
            (Way::AtOnce(NEW), run(10, 1)),
            (Way::Pipeline(SEEN), run(5, 2)),
            (Way::AtOnce(SEEN), run(4, 1)),
            (Way::OneByOne, run(100, 2)),
        ];
        let report = Report::of(&task(), &runs).unwrap();
        let CaseReport {
            pipeline,
            ratio,
            at_once_ratio,
            ..
        } = report.never_seen;
        assert_eq!(pipeline.article_ms, 20.0);
        assert_eq!(pipeline.total_ms, 100.0);
        assert_eq!((ratio, at_once_ratio), (5.0, 10.0));
        let seen = report.seen_before;
        assert_eq!((seen.ratio, seen.at_once_ratio), (20.0, 25.0));
        assert_eq!((report.runs, report.pictures, report.segments), (1, 1, 2));
        // Those at once are told less, and may choose otherwise.
        assert!(report.is_same_article);
        let text = report.to_string();
        let row = "times as long                   5.00       10.00       20.00       25.00               1";
        assert!(text.lines().any(|line| line == row), "{text}");
        assert!(text.contains("the goal is at least 4"), "{text}");
    }

    #[test]
    fn another_choice_is_another_article() {
        let runs = |seen, one_by_one| {
            [
                (Way::Pipeline(NEW), run(10, 2)),
                (Way::AtOnce(NEW), run(10, 2)),
                (Way::Pipeline(SEEN), run(10, seen)),
                (Way::AtOnce(SEEN), run(10, 2)),
                (Way::OneByOne, run(100, one_by_one)),
            ]
        };
        let is_same =
            |runs: &[(Way, Run)]| Report::of(&task(), runs).map(|one| one.is_same_article);
        assert!(is_same(&runs(2, 2)).unwrap());
        assert!(!is_same(&runs(2, 1)).unwrap());
        assert!(!is_same(&runs(1, 2)).unwrap());
        assert!(is_same(&runs(2, 2)[..4]).is_err());
    }
}
