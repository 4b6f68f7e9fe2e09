//! How often we try again, and how often we say that it did not work.

use std::time::Duration;

use tokio::time::Instant;

/// The first wait.
const SHORTEST: Duration = Duration::from_millis(100);
/// How often the same failure is logged.
const REPEAT: Duration = Duration::from_secs(30);

/// Waits that grow, each with jitter: a crowd that lost the same server does not come back as one.
#[derive(Debug)]
pub(super) struct Backoff {
    attempt: u32,
    longest: Duration,
}

impl Backoff {
    pub(super) fn new(longest: Duration) -> Self {
        Self {
            attempt: 0,
            longest,
        }
    }

    pub(super) fn reset(&mut self) {
        self.attempt = 0;
    }

    /// How long to wait before the next attempt.
    pub(super) fn delay(&mut self) -> Duration {
        let wait = SHORTEST * (1 << self.attempt.min(10));
        self.attempt = self.attempt.saturating_add(1);
        wait.min(self.longest).mul_f64(rand::random_range(0.5..1.0))
    }

    pub(super) async fn wait(&mut self) {
        tokio::time::sleep(self.delay()).await;
    }
}

/// Says what is new at once, and what goes on now and then.
#[derive(Debug, Default)]
pub(super) struct Complaints {
    last: Option<(String, Instant)>,
}

impl Complaints {
    /// Whether this is to be said now.
    pub(super) fn is_news(&mut self, text: &str, now: Instant) -> bool {
        let is_old = self
            .last
            .as_ref()
            .is_some_and(|(last, at)| last == text && now < *at + REPEAT);
        if !is_old {
            self.last = Some((text.to_owned(), now));
        }
        !is_old
    }

    pub(super) fn reset(&mut self) {
        self.last = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_the_longest_and_begin_anew() {
        let mut backoff = Backoff::new(Duration::from_secs(1));
        assert!(backoff.delay() <= SHORTEST);
        for _ in 0..100 {
            assert!(backoff.delay() <= Duration::from_secs(1));
        }
        assert!(backoff.delay() >= Duration::from_millis(500));
        backoff.reset();
        assert!(backoff.delay() <= SHORTEST);
    }

    #[test]
    fn the_same_failure_is_told_now_and_then() {
        let mut complaints = Complaints::default();
        let now = Instant::now();
        assert!(complaints.is_news("a", now));
        assert!(!complaints.is_news("a", now));
        assert!(complaints.is_news("b", now));
        assert!(complaints.is_news("b", now + REPEAT));
        assert!(!complaints.is_news("b", now + REPEAT));
        complaints.reset();
        assert!(complaints.is_news("b", now));
    }
}
