//! How long a step may take, by how long steps of late took: a rank that hangs is found out in seconds, though the slowest step that
//! there may be (a long prefill chunk on a CPU) takes minutes.

use std::time::Duration;

/// No step is given less: a machine that is busy with other things is not one that hangs.
const LEAST: Duration = Duration::from_secs(2);
/// How many times longer than expected a step may take.
const MARGIN: f64 = 10.0;
/// Steps that are measured before anything is expected.
const ENOUGH_STEPS: u32 = 32;
/// Steps of a size that are measured before their time says anything about others.
const ENOUGH_OF_A_SIZE: u32 = 4;
/// How much of a new measure goes into the mean.
const NEW_SHARE: f64 = 0.1;

/// See the module's text.
#[derive(Debug)]
pub(super) struct StepPace {
    /// No step is given more.
    limit: Duration,
    num_steps: u32,
    /// By the number of rows, a power of two and all up to the next.
    sizes: [Size; 24],
}

/// Steps of about one size, the newest counting most.
#[derive(Clone, Copy, Debug, Default)]
struct Size {
    num_steps: u32,
    rows: f64,
    seconds: f64,
}

impl StepPace {
    /// Nothing is measured yet.
    pub(super) fn new(limit: Duration) -> Self {
        Self {
            limit,
            num_steps: 0,
            sizes: [Size::default(); 24],
        }
    }

    /// A step of `num_rows` took so long.
    pub(super) fn record(&mut self, num_rows: usize, took: Duration) {
        let Some(log) = num_rows.checked_ilog2() else {
            return;
        };
        let at = (log as usize).min(self.sizes.len() - 1);
        self.sizes[at].record(num_rows as f64, took.as_secs_f64());
        self.num_steps = self.num_steps.saturating_add(1);
    }

    /// How long a step of `num_rows` may take.
    pub(super) fn deadline(&self, num_rows: usize) -> Duration {
        if self.num_steps < ENOUGH_STEPS {
            return self.limit;
        }
        let estimates = self.sizes.iter().filter_map(|size| size.expected(num_rows));
        let expected = estimates.fold(f64::INFINITY, f64::min);
        let allowed = Duration::try_from_secs_f64(MARGIN * expected).unwrap_or(self.limit);
        allowed.max(LEAST).min(self.limit)
    }
}

impl Size {
    fn record(&mut self, rows: f64, seconds: f64) {
        self.num_steps = self.num_steps.saturating_add(1);
        let share = NEW_SHARE.max(1.0 / f64::from(self.num_steps));
        self.rows += share * (rows - self.rows);
        self.seconds += share * (seconds - self.seconds);
    }

    /// Seconds that a step of `num_rows` takes at most, by steps of this size: fewer rows take no longer, and more rows no longer than
    /// in proportion.
    fn expected(&self, num_rows: usize) -> Option<f64> {
        let times = (num_rows as f64 / self.rows).max(1.0);
        (self.num_steps >= ENOUGH_OF_A_SIZE).then_some(self.seconds * times)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(120);

    fn measured(steps: &[(usize, u64)], times: usize) -> StepPace {
        let mut pace = StepPace::new(LIMIT);
        for _ in 0..times {
            for (num_rows, millis) in steps {
                pace.record(*num_rows, Duration::from_millis(*millis));
            }
        }
        pace
    }

    #[test]
    fn until_enough_is_measured_a_step_may_take_what_is_set() {
        assert_eq!(measured(&[(1, 5)], 31).deadline(1), LIMIT);
        assert_eq!(measured(&[(1, 5)], 32).deadline(1), LEAST);
    }

    #[test]
    fn a_step_may_take_ten_times_what_it_should() {
        let pace = measured(&[(1, 300), (512, 4000)], 40);
        let seconds = |num_rows| pace.deadline(num_rows).as_secs_f64();
        assert!((seconds(1) - 3.0).abs() < 0.1, "{}", seconds(1));
        assert!((seconds(512) - 40.0).abs() < 0.1, "{}", seconds(512));
        // By those of 512 rows, which take no less; by those of one row, in proportion.
        assert!((seconds(100) - 40.0).abs() < 0.1, "{}", seconds(100));
        assert!((seconds(4) - 12.0).abs() < 0.1, "{}", seconds(4));
        assert_eq!(pace.deadline(100_000), LIMIT, "never more than is set");
    }

    #[test]
    fn steps_never_seen_get_the_time_that_their_rows_may_take() {
        let pace = measured(&[(1, 20)], 1000);
        assert_eq!(pace.deadline(16), Duration::from_millis(3200));
        assert_eq!(pace.deadline(1024), LIMIT);
    }

    #[test]
    fn the_pace_follows_steps_that_become_slower() {
        let mut pace = measured(&[(8, 10)], 1000);
        assert_eq!(pace.deadline(8), LEAST);
        for _ in 0..60 {
            pace.record(8, Duration::from_secs(1));
        }
        assert!(pace.deadline(8) > Duration::from_secs(9));
    }

    #[test]
    fn a_step_without_rows_says_nothing() {
        assert_eq!(measured(&[(0, 0)], 1000).deadline(1), LIMIT);
    }

    #[test]
    fn a_limit_below_the_least_holds() {
        let mut pace = measured(&[(1, 5)], 100);
        pace.limit = Duration::from_millis(300);
        assert_eq!(pace.deadline(1), Duration::from_millis(300));
    }
}
