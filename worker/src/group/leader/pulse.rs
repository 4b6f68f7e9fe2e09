//! What anybody may know of the loop at any time without asking it, also while a step hangs: how busy the group is, whether its steps
//! go on, and what is in its cache.

use std::{
    sync::{Mutex, MutexGuard},
    time::{Duration, Instant},
};

use inkstone_engine::{EngineLimits, Load, Stats};

use super::cache_feed::CacheFeed;

/// Whether steps go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Steps done.
    pub steps: u64,
    /// How long the step that runs has taken by now; none: no step runs.
    pub step_age: Option<Duration>,
}

/// How busy a group is, and whether its steps go on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LoadReport {
    /// After the last step.
    pub load: Load,
    /// Counted since the group began.
    pub stats: Stats,
    /// Most sequences that run side by side.
    pub max_running: usize,
    /// Whether steps go on.
    pub progress: Progress,
    /// Rows of prompts that the group computes each second, however busy it is; none: not known yet.
    pub rows_per_second: Option<f64>,
}

/// See the module's text.
pub(super) struct Pulse {
    counted: Mutex<Counted>,
    /// What is in the cache.
    pub(super) cache: CacheFeed,
}

struct Counted {
    load: Load,
    stats: Stats,
    max_running: usize,
    steps: u64,
    step_since: Option<Instant>,
    rows_per_second: Option<f64>,
}

impl Pulse {
    pub(super) fn new(limits: &EngineLimits) -> Self {
        let load = Load {
            blocks_total: limits.num_blocks,
            ..Load::default()
        };
        Self {
            counted: Mutex::new(Counted {
                load,
                stats: Stats::default(),
                max_running: limits.max_running,
                steps: 0,
                step_since: None,
                rows_per_second: None,
            }),
            cache: CacheFeed::default(),
        }
    }

    pub(super) fn step_begins(&self, since: Instant) {
        self.lock().step_since = Some(since);
    }

    pub(super) fn step_is_done(&self, rows_per_second: Option<f64>) {
        let mut counted = self.lock();
        counted.step_since = None;
        counted.steps += 1;
        counted.rows_per_second = rows_per_second;
    }

    /// No step runs any more, whatever became of it.
    pub(super) fn stop(&self) {
        self.lock().step_since = None;
    }

    pub(super) fn tell_load(&self, load: Load, stats: Stats) {
        let mut counted = self.lock();
        counted.load = load;
        counted.stats = stats;
    }

    pub(super) fn load(&self) -> Load {
        self.lock().load
    }

    pub(super) fn report(&self) -> LoadReport {
        let counted = self.lock();
        LoadReport {
            load: counted.load,
            stats: counted.stats,
            max_running: counted.max_running,
            progress: Progress {
                steps: counted.steps,
                step_age: counted.step_since.map(|since| since.elapsed()),
            },
            rows_per_second: counted.rows_per_second,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Counted> {
        self.counted
            .lock()
            .expect("no code panics while it holds the counts")
    }
}
