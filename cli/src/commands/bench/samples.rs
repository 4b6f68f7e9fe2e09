//! Durations that were measured, and what is said of them.

use std::time::Duration;

use serde::Serialize;

/// What a set of durations comes to, in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Summary {
    pub(crate) count: usize,
    pub(crate) mean: f64,
    pub(crate) p50: f64,
    pub(crate) p90: f64,
    pub(crate) p99: f64,
    pub(crate) max: f64,
}

impl Summary {
    /// All zeros for no durations.
    pub(crate) fn of(durations: impl IntoIterator<Item = Duration>) -> Self {
        let mut sorted: Vec<Duration> = durations.into_iter().collect();
        sorted.sort_unstable();
        if sorted.is_empty() {
            return Self::default();
        }
        let total: f64 = sorted.iter().map(|&duration| milliseconds(duration)).sum();
        let at = |share| milliseconds(quantile(&sorted, share));
        Self {
            count: sorted.len(),
            mean: total / sorted.len() as f64,
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            max: at(1.0),
        }
    }
}

/// The smallest of the durations that at least `share` of them do not exceed (the nearest rank); zero when there are none.
pub(crate) fn quantile(sorted: &[Duration], share: f64) -> Duration {
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted
        .get(rank.clamp(1, sorted.len().max(1)) - 1)
        .copied()
        .unwrap_or_default()
}

/// For tables.
pub(crate) fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hundred() -> Vec<Duration> {
        (1..=100).map(Duration::from_millis).collect()
    }

    #[test]
    fn quantiles_are_values_that_were_measured() {
        let sorted = hundred();
        for (share, wanted) in [
            (0.0, 1),
            (0.5, 50),
            (0.9, 90),
            (0.99, 99),
            (0.991, 100),
            (1.0, 100),
        ] {
            assert_eq!(
                quantile(&sorted, share),
                Duration::from_millis(wanted),
                "{share}"
            );
        }
        assert_eq!(quantile(&sorted[..1], 0.99), Duration::from_millis(1));
        assert_eq!(quantile(&[], 0.5), Duration::ZERO);
    }

    #[test]
    fn a_summary_does_not_ask_for_order() {
        let mut durations = hundred();
        durations.reverse();
        let summary = Summary::of(durations);
        assert_eq!(summary, Summary::of(hundred()));
        assert_eq!(summary.count, 100);
        assert!((summary.mean - 50.5).abs() < 1e-9);
        assert_eq!((summary.p50, summary.p99, summary.max), (50.0, 99.0, 100.0));
    }

    #[test]
    fn one_slow_one_in_a_hundred_is_the_maximum_and_not_the_99th_percentile() {
        let mut durations = vec![Duration::from_millis(1); 99];
        durations.push(Duration::from_secs(9));
        let summary = Summary::of(durations);
        assert_eq!((summary.p99, summary.max), (1.0, 9000.0));
    }

    #[test]
    fn nothing_measured_is_all_zeros() {
        assert_eq!(Summary::of([]), Summary::default());
    }
}
