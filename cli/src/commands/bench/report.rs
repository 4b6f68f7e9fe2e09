//! What a load's records come to: rates, latencies, goodput.

use std::{fmt, time::Duration};

use serde::Serialize;

use super::{load::Record, samples::Summary};

/// What makes a request good.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct GoodLimits {
    /// Milliseconds to the first token.
    pub(crate) first_token_ms: f64,
    /// Milliseconds of each later token, on average over the answer.
    pub(crate) later_token_ms: f64,
}

/// The figures of a load. Latencies are those of requests that succeeded.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct LoadReport {
    pub(crate) requests: usize,
    pub(crate) failed: usize,
    /// What the first one that failed says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) failure: Option<String>,
    pub(crate) seconds: f64,
    pub(crate) requests_per_second: f64,
    pub(crate) tokens_per_second: f64,
    pub(crate) good_requests_per_second: f64,
    pub(crate) good_share: f64,
    pub(crate) limits: GoodLimits,
    pub(crate) mean_prompt_tokens: f64,
    pub(crate) mean_answer_tokens: f64,
    pub(crate) time_to_first_token_ms: Summary,
    pub(crate) between_tokens_ms: Summary,
    pub(crate) whole_answer_ms: Summary,
}

impl LoadReport {
    pub(crate) fn of(records: &[Record], limits: GoodLimits) -> Self {
        let good = || {
            records
                .iter()
                .filter(|record| record.is_good(limits))
                .count() as f64
        };
        let whole: Vec<&Record> = records.iter().filter(|r| r.failure.is_none()).collect();
        let begin = records.iter().map(|record| record.sent).min();
        let end = records.iter().map(|record| record.last_token).max();
        let seconds = end
            .unwrap_or_default()
            .saturating_sub(begin.unwrap_or_default())
            .as_secs_f64();
        let per_second = |count: f64| if seconds > 0.0 { count / seconds } else { 0.0 };
        let tokens: u64 = records.iter().map(|record| record.tokens).sum();
        let mean = |of: fn(&Record) -> u64| {
            whole.iter().map(|record| of(record)).sum::<u64>() as f64 / whole.len().max(1) as f64
        };
        Self {
            requests: records.len(),
            failed: records.len() - whole.len(),
            failure: records.iter().find_map(|record| record.failure.clone()),
            seconds,
            requests_per_second: per_second(whole.len() as f64),
            tokens_per_second: per_second(tokens as f64),
            good_requests_per_second: per_second(good()),
            good_share: good() / records.len().max(1) as f64,
            limits,
            mean_prompt_tokens: mean(|record| record.prompt_tokens),
            mean_answer_tokens: mean(|record| record.tokens),
            time_to_first_token_ms: Summary::of(
                whole
                    .iter()
                    .filter_map(|record| record.time_to_first_token()),
            ),
            between_tokens_ms: Summary::of(
                whole.iter().flat_map(|record| record.gaps.iter().copied()),
            ),
            whole_answer_ms: Summary::of(
                whole
                    .iter()
                    .map(|record| record.last_token.saturating_sub(record.sent)),
            ),
        }
    }
}

impl Record {
    fn is_good(&self, limits: GoodLimits) -> bool {
        let within = |duration: Duration, limit: f64| duration.as_secs_f64() * 1e3 <= limit;
        self.failure.is_none()
            && self
                .time_to_first_token()
                .is_some_and(|first| within(first, limits.first_token_ms))
            && within(self.time_per_later_token(), limits.later_token_ms)
    }
}

impl fmt::Display for LoadReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let GoodLimits {
            first_token_ms,
            later_token_ms,
        } = self.limits;
        writeln!(
            f,
            "{} requests in {:.2} s, {} failed; {:.1} prompt and {:.1} answer tokens on average",
            self.requests,
            self.seconds,
            self.failed,
            self.mean_prompt_tokens,
            self.mean_answer_tokens
        )?;
        if let Some(failure) = &self.failure {
            writeln!(f, "the first failure: {failure}")?;
        }
        writeln!(f, "{:<24} {:>10.2}", "requests/s", self.requests_per_second)?;
        writeln!(
            f,
            "{:<24} {:>10.1}",
            "output tokens/s", self.tokens_per_second
        )?;
        writeln!(
            f,
            "{:<24} {:>10.2}  ({:.1} % of requests: first token within {first_token_ms} ms, later ones within \
             {later_token_ms} ms each)",
            "good requests/s",
            self.good_requests_per_second,
            100.0 * self.good_share
        )?;
        writeln!(
            f,
            "{:<24} {:>10} {:>10} {:>10} {:>10} {:>10}",
            "milliseconds", "p50", "p90", "p99", "max", "mean"
        )?;
        for (name, summary) in [
            ("to the first token", self.time_to_first_token_ms),
            ("between tokens", self.between_tokens_ms),
            ("whole answer", self.whole_answer_ms),
        ] {
            let Summary {
                p50,
                p90,
                p99,
                max,
                mean,
                ..
            } = summary;
            writeln!(
                f,
                "{name:<24} {p50:>10.2} {p90:>10.2} {p99:>10.2} {max:>10.2} {mean:>10.2}"
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: GoodLimits = GoodLimits {
        first_token_ms: 100.0,
        later_token_ms: 20.0,
    };

    /// Sent at `sent`, first token `first` later, three more `later` apart.
    fn record(sent: u64, first: u64, later: u64) -> Record {
        let ms = Duration::from_millis;
        Record {
            sent: ms(sent),
            first_token: Some(ms(sent + first)),
            last_token: ms(sent + first + 3 * later),
            tokens: 4,
            prompt_tokens: 10,
            gaps: vec![ms(later); 3],
            ..Record::default()
        }
    }

    #[test]
    fn goodput_counts_requests_that_meet_both_limits() {
        let broken = Record {
            failure: Some("gone".to_owned()),
            ..record(0, 10, 10)
        };
        let records = [
            record(0, 100, 20),
            record(0, 101, 20),
            record(0, 100, 21),
            broken,
            record(930, 10, 20),
        ];
        let report = LoadReport::of(&records, LIMITS);
        assert_eq!((report.requests, report.failed), (5, 1));
        assert_eq!(report.failure.as_deref(), Some("gone"));
        assert!((report.seconds - 1.0).abs() < 1e-9, "{}", report.seconds);
        assert!((report.good_requests_per_second - 2.0).abs() < 1e-9);
        assert!((report.good_share - 0.4).abs() < 1e-9);
        assert!((report.tokens_per_second - 20.0).abs() < 1e-9);
        assert!((report.requests_per_second - 4.0).abs() < 1e-9);
    }

    #[test]
    fn latencies_are_those_of_whole_answers() {
        let broken = Record {
            failure: Some("gone".to_owned()),
            ..record(0, 9000, 9000)
        };
        let report = LoadReport::of(&[record(0, 50, 10), broken], LIMITS);
        assert_eq!(report.time_to_first_token_ms.max, 50.0);
        assert_eq!(report.between_tokens_ms.count, 3);
        assert_eq!(report.whole_answer_ms.max, 80.0);
    }

    #[test]
    fn no_records_make_a_report_of_zeros() {
        let report = LoadReport::of(&[], LIMITS);
        assert_eq!(report.tokens_per_second, 0.0);
        assert!(report.to_string().contains("0 requests"));
    }
}
