//! How many tokens are served a second, and how long answers are: what a client that is sent away is told to wait is computed
//! from them.

use std::{collections::VecDeque, time::Duration};

/// How far back is looked.
const WINDOW_SECONDS: u64 = 10;
/// What an answer is taken to have until one has ended.
const FIRST_GUESS: f64 = 256.0;
/// How much one answer changes the mean.
const SHARE_OF_ONE: f64 = 1.0 / 16.0;

/// Tokens of the last seconds, and the mean length of answers.
#[derive(Debug, Default)]
pub(crate) struct Throughput {
    /// Each second in which something was served, and how much.
    seconds: VecDeque<(u64, u64)>,
    mean_output: Option<f64>,
}

impl Throughput {
    /// So many tokens were computed.
    pub(crate) fn served(&mut self, tokens: u64, now: Duration) {
        let second = now.as_secs();
        match self.seconds.back_mut() {
            Some((last, sum)) if *last == second => *sum = sum.saturating_add(tokens),
            _ => self.seconds.push_back((second, tokens)),
        }
        self.forget(second);
    }

    /// Tokens a second, over the last seconds; none when nothing was served in them.
    pub(crate) fn rate(&mut self, now: Duration) -> Option<f64> {
        self.forget(now.as_secs());
        let &(first, _) = self.seconds.front()?;
        let sum: u64 = self.seconds.iter().map(|(_, tokens)| tokens).sum();
        // The second that runs is not over, and one that has just begun says nothing.
        let span = (now.as_secs_f64() - first as f64).max(1.0);
        (sum > 0).then(|| sum as f64 / span)
    }

    /// An answer ended after so many tokens.
    pub(crate) fn answered(&mut self, tokens: u64) {
        let tokens = tokens as f64;
        let mean = self.mean_output.unwrap_or(tokens);
        self.mean_output = Some(mean + (tokens - mean) * SHARE_OF_ONE);
    }

    /// Tokens that answers will have, when they may have at most `max`.
    pub(crate) fn expected_output(&self, max: u64) -> u64 {
        max.min(self.mean_output.unwrap_or(FIRST_GUESS).ceil() as u64)
    }

    fn forget(&mut self, second: u64) {
        while let Some(&(first, _)) = self.seconds.front() {
            if first + WINDOW_SECONDS > second {
                break;
            }
            self.seconds.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn the_rate_is_that_of_the_last_seconds() {
        let mut throughput = Throughput::default();
        assert_eq!(throughput.rate(at(0)), None);
        for second in 0..30 {
            throughput.served(if second < 15 { 1000 } else { 100 }, at(second * 1000));
        }
        let rate = throughput.rate(at(30_000)).unwrap();
        assert!((95.0..=105.0).contains(&rate), "{rate}");
        assert_eq!(throughput.rate(at(60_000)), None);
        assert!(throughput.seconds.is_empty());
    }

    #[test]
    fn a_moment_is_not_taken_for_a_second() {
        let mut throughput = Throughput::default();
        throughput.served(500, at(5_000));
        assert_eq!(throughput.rate(at(5_001)), Some(500.0));
    }

    #[test]
    fn answers_are_expected_to_be_as_long_as_others_were() {
        let mut throughput = Throughput::default();
        assert_eq!(throughput.expected_output(10), 10);
        assert_eq!(throughput.expected_output(10_000), 256);
        for _ in 0..200 {
            throughput.answered(40);
        }
        assert_eq!(throughput.expected_output(10_000), 40);
        assert_eq!(throughput.expected_output(7), 7);
    }
}
