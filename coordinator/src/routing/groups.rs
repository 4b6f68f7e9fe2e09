//! Which language group a request goes to: the one that is expected to be done with its prompt first, and to go on fastest.

use std::{cmp::Reverse, time::Duration};

use super::scatter;
use crate::cluster_load::LoadReport;

/// A report that is older says little: four were due since.
const STALE: Duration = Duration::from_secs(1);
/// Rows of prompt that a sequence in the batch is reckoned as: those that it computes while the newcomer waits and runs, each of which
/// costs more than a row of prompt. So sixteen sequences weigh as much as a prompt of 512 tokens.
const ROWS_OF_SEQUENCE: f64 = 32.0;
/// What a row counts that this prompt has to compute, against one that is computed before it anyway: somebody waits for it, and what
/// another group has already is lost work to all.
const OWN_ROWS: f64 = 2.0;
/// What a row counts in addition in a cache that is full, where it drives out what others may come back for. So prompts that have only their
/// beginning in common spread over all caches.
const DRIVES_OUT: f64 = 1.0;
/// What a group is taken to compute each second while no group has said it. Only differences count then.
const UNKNOWN_RATE: f64 = 1000.0;
/// A group counts as slow below this share of the best rate: rates are estimates, and with a preference for whoever looks a little
/// faster all prompts that are new would go to one group.
const SLOW_SHARE: f64 = 0.6;
/// Costs this near to the least one are as good, as reports are a quarter of a second old: a share of it, or a block. Not a time: in
/// ten milliseconds a fast group computes hundreds of rows, and whoever holds the beginning of a prompt would get them all.
const NEAR_SHARE: f64 = 0.1;
const NEAR_ROWS: f64 = 16.0;

/// What is known of a group when a request is to go somewhere.
#[derive(Debug, Clone, Default)]
pub(crate) struct Outlook {
    /// What it last said of its load, and how long ago.
    pub(crate) report: Option<(LoadReport, Duration)>,
    /// Rows of prompts that it computes each second; 0: not known.
    pub(crate) rows_per_second: f32,
    /// Requests of this coordinator that it runs.
    pub(crate) num_running: usize,
    /// Requests sent to it that its last report cannot know of.
    pub(crate) unreported_requests: u32,
    /// Positions of their prompts that it has to compute.
    pub(crate) unreported_rows: u64,
    /// Positions of this prompt that it is expected to have in its cache.
    pub(crate) cached_tokens: usize,
    /// It failed a moment ago.
    pub(crate) is_avoided: bool,
}

/// The groups in the order in which to try them for a prompt of so many positions. Those that spoke of their load lately go by
/// predicted cost; the others by power of two choices among this coordinator's own counts, as all coordinators would find the same
/// one least busy. `draw` is a random number: of equals each comes first equally often.
pub(crate) fn rank_groups(num_tokens: usize, groups: &[Outlook], draw: u64) -> Vec<usize> {
    let best_rate = groups.iter().map(|group| group.rows_per_second);
    let best_rate = match f64::from(best_rate.fold(0.0, f32::max)) {
        known if known > 0.0 => known,
        _ => UNKNOWN_RATE,
    };
    let mut costly = vec![];
    let mut stale = vec![];
    let mut avoided = vec![];
    for (index, group) in groups.iter().enumerate() {
        match group.fresh() {
            _ if group.is_avoided => avoided.push(index),
            Some(report) => costly.push((index, group.cost(report, num_tokens, best_rate))),
            None => stale.push(index),
        }
    }
    costly.sort_by(|a, b| a.1.total_cmp(&b.1));
    let least = costly.first().map_or(0.0, |(_, cost)| *cost);
    let near = least * (1.0 + NEAR_SHARE) + NEAR_ROWS / best_rate;
    let num_near = costly.partition_point(|(_, cost)| *cost <= near);
    costly[..num_near]
        .sort_by_key(|&(index, _)| (Reverse(groups[index].cached_tokens), scatter(draw, index)));
    for unsure in [&mut stale, &mut avoided] {
        unsure.sort_by_key(|&index| scatter(draw, index));
        if let [first, second, ..] = unsure[..]
            && groups[second].num_running < groups[first].num_running
        {
            unsure.swap(0, 1);
        }
    }
    let by_cost = costly.into_iter().map(|(index, _)| index);
    by_cost.chain(stale).chain(avoided).collect()
}

impl Outlook {
    fn fresh(&self) -> Option<&LoadReport> {
        let report = self.report.as_ref().filter(|(_, age)| *age <= STALE);
        report.map(|(report, _)| report)
    }

    /// Seconds until the prompt is computed, with what it costs others, and what company costs afterwards.
    fn cost(&self, report: &LoadReport, num_tokens: usize, best_rate: f64) -> f64 {
        let own_rows = num_tokens.saturating_sub(self.cached_tokens) as f64;
        let queued_rows = (report.prefill_tokens + self.unreported_rows) as f64;
        let company = report.running + report.waiting + self.unreported_requests;
        let known = f64::from(self.rows_per_second);
        let is_slow = known > 0.0 && known < SLOW_SHARE * best_rate;
        let rate = if is_slow { known } else { best_rate };
        ((OWN_ROWS + DRIVES_OUT * fullness(report)) * own_rows
            + queued_rows
            + f64::from(company) * ROWS_OF_SEQUENCE)
            / rate
    }
}

/// Which share of a group's blocks is taken, by sequences or by what may be found again.
fn fullness(report: &LoadReport) -> f64 {
    let taken = f64::from(report.blocks_used) + f64::from(report.blocks_cached);
    taken / f64::from(report.blocks_total).max(taken).max(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn idle() -> Outlook {
        Outlook {
            report: Some((LoadReport::default(), Duration::ZERO)),
            rows_per_second: 1000.0,
            ..Outlook::default()
        }
    }

    fn busy(report: LoadReport) -> Outlook {
        Outlook {
            report: Some((report, Duration::ZERO)),
            ..idle()
        }
    }

    fn first(num_tokens: usize, groups: &[Outlook]) -> Vec<usize> {
        let mut counts = vec![0; groups.len()];
        for draw in 0..400 {
            counts[rank_groups(num_tokens, groups, draw)[0]] += 1;
        }
        counts
    }

    #[test]
    fn equals_come_first_equally_often() {
        for count in first(100, &[idle(), idle(), idle(), idle()]) {
            assert!((70..130).contains(&count), "{count}");
        }
    }

    #[test]
    fn a_cached_beginning_wins_unless_its_group_is_so_busy_that_computing_is_quicker() {
        let cached = |running| Outlook {
            cached_tokens: 800,
            ..busy(LoadReport {
                running,
                ..LoadReport::default()
            })
        };
        assert_eq!(first(1000, &[idle(), cached(4), idle()]), [0, 400, 0]);
        assert_eq!(first(1000, &[idle(), cached(60), idle()])[1], 0);
        // A short one is worth it among equals.
        let little = Outlook {
            cached_tokens: 32,
            ..idle()
        };
        assert_eq!(first(1000, &[idle(), little, idle()]), [0, 400, 0]);
    }

    #[test]
    fn a_busy_group_is_as_busy_on_a_fast_accelerator() {
        let fast = |running, cached_tokens| Outlook {
            rows_per_second: 40_000.0,
            cached_tokens,
            ..busy(LoadReport {
                running,
                ..LoadReport::default()
            })
        };
        assert_eq!(first(200, &[fast(0, 0), fast(20, 100)]), [400, 0]);
        assert_eq!(first(200, &[fast(0, 0), fast(2, 100)]), [0, 400]);
    }

    #[test]
    fn what_shares_little_goes_where_it_drives_nothing_out() {
        let full = |cached_tokens| Outlook {
            cached_tokens,
            ..busy(LoadReport {
                blocks_used: 10,
                blocks_cached: 90,
                blocks_total: 100,
                ..LoadReport::default()
            })
        };
        assert_eq!(first(1000, &[full(200), idle()]), [0, 400]);
        assert_eq!(first(1000, &[full(600), idle()]), [400, 0]);
    }

    #[test]
    fn a_queue_of_prompts_counts_whether_reported_or_only_sent() {
        let queue = busy(LoadReport {
            prefill_tokens: 5000,
            waiting: 2,
            ..LoadReport::default()
        });
        let sent = Outlook {
            unreported_requests: 2,
            unreported_rows: 3000,
            ..idle()
        };
        let groups = [queue, sent, idle()];
        for draw in 0..50 {
            assert_eq!(rank_groups(500, &groups, draw), [2, 1, 0]);
        }
    }

    #[test]
    fn a_slow_group_gets_less_and_one_of_unknown_speed_is_tried() {
        let slow = Outlook {
            rows_per_second: 100.0,
            ..idle()
        };
        let unknown = Outlook {
            rows_per_second: 0.0,
            ..idle()
        };
        let counts = first(500, &[slow, unknown, idle()]);
        assert_eq!(counts[0], 0);
        assert!(counts[1] > 100 && counts[2] > 100, "{counts:?}");
    }

    #[test]
    fn without_reports_the_less_busy_of_two_is_chosen_and_never_the_busiest() {
        let running = |num_running| Outlook {
            num_running,
            ..Outlook::default()
        };
        let groups = [running(5), running(1), running(3), running(2)];
        let counts = first(100, &groups);
        assert_eq!(counts[0], 0, "{counts:?}");
        assert!(counts[1] > counts[3] && counts[3] > counts[2], "{counts:?}");
        assert!(
            counts[2] > 0,
            "two choices, not the least of all: {counts:?}"
        );
    }

    #[test]
    fn who_speaks_goes_before_who_is_silent_and_who_failed_comes_last() {
        let silent = Outlook {
            report: Some((LoadReport::default(), Duration::from_secs(2))),
            ..idle()
        };
        let failed = Outlook {
            is_avoided: true,
            ..idle()
        };
        let loaded = busy(LoadReport {
            running: 60,
            ..LoadReport::default()
        });
        let groups = [failed, silent, loaded];
        for draw in 0..50 {
            assert_eq!(rank_groups(100, &groups, draw), [2, 1, 0]);
        }
    }

    #[test]
    fn every_group_is_in_the_order_once() {
        let groups: Vec<_> = (0..7)
            .map(|index| Outlook {
                report: (index % 3 != 0).then(|| (LoadReport::default(), Duration::ZERO)),
                is_avoided: index % 2 == 0,
                num_running: index,
                ..idle()
            })
            .collect();
        for draw in 0..50 {
            let mut order = rank_groups(10, &groups, draw);
            order.sort_unstable();
            assert_eq!(order, (0..7).collect::<Vec<_>>());
        }
        assert!(rank_groups(10, &[], 0).is_empty());
    }
}
