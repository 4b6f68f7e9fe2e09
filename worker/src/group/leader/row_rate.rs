//! How fast a group computes prompts: what it takes for a row more in a step, told apart from what a step takes anyway. Rows by seconds would tell
//! how busy the group was: one that only answers reads all weights for a few rows, and looks slow to whoever chooses a group by it.

use std::time::Duration;

/// What is left of the weight of a step with each that follows: half of it after some 140.
const FADING: f64 = 0.995;
/// By how many rows steps differ at least before anything follows from it.
const LEAST_SPREAD_ROWS: f64 = 4.0;
/// The share of a step's time that the spread must explain: below it a row more costs nothing that could be told from chance, as
/// where an accelerator waits for its memory.
const LEAST_SHARE: f64 = 0.25;

/// A line through steps, by least squares: seconds over rows.
#[derive(Debug, Default)]
pub(super) struct RowRate {
    weight: f64,
    mean_rows: f64,
    mean_seconds: f64,
    /// Sums of squares and products of what differs from the means.
    rows_rows: f64,
    rows_seconds: f64,
    /// The last that could be told.
    rows_per_second: Option<f64>,
}

impl RowRate {
    /// A step that is done.
    pub(super) fn step(&mut self, num_rows: usize, took: Duration) {
        let (rows, seconds) = (num_rows as f64, took.as_secs_f64());
        self.weight = self.weight * FADING + 1.0;
        let (before, share) = (rows - self.mean_rows, 1.0 / self.weight);
        self.mean_rows += before * share;
        self.mean_seconds += (seconds - self.mean_seconds) * share;
        self.rows_rows = self.rows_rows * FADING + before * (rows - self.mean_rows);
        self.rows_seconds = self.rows_seconds * FADING + before * (seconds - self.mean_seconds);
        if let Some(rate) = self.told_now() {
            self.rows_per_second = Some(rate);
        }
    }

    /// Rows of prompts each second, as far as the steps so far tell.
    pub(super) fn rows_per_second(&self) -> Option<f64> {
        self.rows_per_second
    }

    fn told_now(&self) -> Option<f64> {
        let spread = (self.rows_rows / self.weight).sqrt();
        let seconds_a_row = self.rows_seconds / self.rows_rows;
        let explained = seconds_a_row * spread;
        let tells = spread >= LEAST_SPREAD_ROWS && explained >= LEAST_SHARE * self.mean_seconds;
        (tells && seconds_a_row > 0.0).then(|| seconds_a_row.recip())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 5 ms a step for the weights, and 30,000 rows a second on top of what those 5 ms hide.
    fn took(rows: usize) -> Duration {
        Duration::from_secs_f64((rows as f64 / 30_000.0).max(0.005))
    }

    fn after(steps: impl IntoIterator<Item = usize>) -> Option<f64> {
        let mut rate = RowRate::default();
        for rows in steps {
            rate.step(rows, took(rows));
        }
        rate.rows_per_second()
    }

    /// Prompts of 1500, and `answers` steps with few rows after each.
    fn prompts(count: usize, answers: usize) -> impl Iterator<Item = usize> {
        (0..count).flat_map(move |_| [1500].into_iter().chain((0..answers).map(|at| 1 + at % 3)))
    }

    #[test]
    fn a_group_is_as_fast_when_it_has_little_to_do() {
        for (count, answers) in [(1, 3), (1, 100), (20, 3), (20, 60), (5, 200)] {
            let rate = after(prompts(count, answers)).unwrap();
            assert!(
                (27_000.0..36_000.0).contains(&rate),
                "{count} {answers}: {rate}"
            );
        }
    }

    #[test]
    fn nothing_is_said_before_rows_made_a_difference_and_the_last_is_kept_afterwards() {
        assert_eq!(after([]), None);
        assert_eq!(after([1500]), None);
        assert_eq!(after((0..500).map(|at| 30 + at % 60)), None);
        let rate = after(prompts(3, 5).chain((0..3000).map(|at| at % 32))).unwrap();
        assert!((27_000.0..36_000.0).contains(&rate), "{rate}");
    }

    #[test]
    fn a_group_that_becomes_slow_is_known_to_be() {
        let mut rate = RowRate::default();
        for rows in prompts(20, 9) {
            rate.step(rows, took(rows));
        }
        for rows in prompts(60, 9) {
            rate.step(rows, took(rows) * 4);
        }
        let rate = rate.rows_per_second().unwrap();
        assert!((6_000.0..9_000.0).contains(&rate), "{rate}");
    }

    #[test]
    fn chance_does_not_make_it_fast_or_slow() {
        let mut rate = RowRate::default();
        for (at, rows) in prompts(40, 20).enumerate() {
            let jitter = Duration::from_micros((at as u64 * 7919) % 2000);
            rate.step(rows, took(rows) + jitter);
        }
        let rate = rate.rows_per_second().unwrap();
        assert!((25_000.0..36_000.0).contains(&rate), "{rate}");
    }
}
