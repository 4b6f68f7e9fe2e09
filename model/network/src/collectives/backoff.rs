//! How a rank waits for the others: it spins for as long as a step's ranks are usually apart, then lets other threads run,
//! then sleeps in short naps, so that a wait is quick when it is short and cheap when it is long.

use std::{
    hint, thread,
    time::{Duration, Instant},
};

/// Spins are a few nanoseconds each: together about as long as two ranks of a decode step are apart.
const NUM_SPINS: u32 = 4_000;
const NUM_YIELDS: u32 = 64;
const NAP: Duration = Duration::from_micros(100);

/// The clock and the pace of one wait.
pub(super) struct Backoff {
    started: Instant,
    num_rounds: u32,
}

impl Backoff {
    pub(super) fn start() -> Self {
        Self {
            started: Instant::now(),
            num_rounds: 0,
        }
    }

    /// Starts the pace again after progress; the clock goes on.
    pub(super) fn progressed(&mut self) {
        self.num_rounds = 0;
    }

    pub(super) fn waited(&self) -> Duration {
        self.started.elapsed()
    }

    /// Spins or yields once and says whether the wait is still short enough to do so.
    pub(super) fn spin(&mut self) -> bool {
        if self.num_rounds >= NUM_SPINS + NUM_YIELDS {
            return false;
        }
        if self.num_rounds < NUM_SPINS {
            hint::spin_loop();
        } else {
            thread::yield_now();
        }
        self.num_rounds += 1;
        true
    }

    /// Spins, yields or naps once, whichever the wait has come to. An unpark ends a nap early.
    pub(super) fn pause(&mut self) {
        if !self.spin() {
            thread::park_timeout(NAP);
        }
    }
}
