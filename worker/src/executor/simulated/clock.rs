//! The time that a simulated step takes: slept in a process, counted in a test.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

/// Where a [`SimulatedExecutor`](super::SimulatedExecutor) takes its time from. Times count from the clock's making.
#[derive(Clone, Debug)]
pub enum Clock {
    /// The machine's: a step is slept through.
    Real {
        /// When it was made.
        origin: Instant,
    },
    /// One that stands still unless somebody waits. Clones show the same time, so that a test can read it.
    Virtual(Arc<AtomicU64>),
}

impl Clock {
    /// The machine's clock.
    pub fn real() -> Self {
        Self::Real {
            origin: Instant::now(),
        }
    }

    /// A clock that only waiting moves.
    pub fn paused() -> Self {
        Self::Virtual(Arc::new(AtomicU64::new(0)))
    }

    /// The time.
    pub fn now(&self) -> Duration {
        match self {
            Self::Real { origin } => origin.elapsed(),
            Self::Virtual(nanoseconds) => Duration::from_nanos(nanoseconds.load(Ordering::SeqCst)),
        }
    }

    /// Comes back at `time`, or at once when it is past.
    pub fn wait_until(&self, time: Duration) {
        match self {
            Self::Real { origin } => {
                thread::sleep(time.saturating_sub(origin.elapsed()));
            }
            Self::Virtual(nanoseconds) => {
                let time = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
                nanoseconds.fetch_max(time, Ordering::SeqCst);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_paused_clock_moves_by_waiting_only_and_never_back() {
        let clock = Clock::paused();
        let seen = clock.clone();
        clock.wait_until(Duration::from_secs(3600));
        clock.wait_until(Duration::from_secs(1));
        assert_eq!(seen.now(), Duration::from_secs(3600));
    }

    #[test]
    fn a_real_clock_waits() {
        let clock = Clock::real();
        let until = clock.now() + Duration::from_millis(5);
        clock.wait_until(until);
        assert!(clock.now() >= until);
    }
}
