//! How much the language groups can take, from what their leaders said last.

use std::time::Duration;

use crate::cluster_load::{GroupLoad, LoadReport};

/// Positions that a block of a group's cache holds.
const BLOCK_TOKENS: u64 = 16;
/// What a leader said longer ago says nothing of how it is now: it is silent, and its requests are about to be moved.
const STALE: Duration = Duration::from_secs(5);
/// Prompt positions that a group is given ahead at least: about one step of a busy group, so that it never waits for work.
const LEAST_AHEAD: u64 = 1024;
/// How much unstarted work a group is given ahead, in time at its rate. A seventh of a second covers rendering and the
/// way there; what waits longer waits here, where tenants take turns.
const AHEAD_SECONDS: f64 = 0.15;
/// After this long, half of a rate that was seen is forgotten: a group that is new has not said its rate yet.
const RATE_HALF_LIFE: Duration = Duration::from_secs(60);

/// What the groups together have. What is not known does not limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Room {
    /// Sequences that they run side by side.
    pub(crate) sequences: Option<u64>,
    /// Positions of their caches.
    pub(crate) tokens: Option<TokenRoom>,
    /// Prompt positions that they are given before the first token comes.
    pub(crate) ahead_tokens: Option<u64>,
    /// Rows they compute a second, as far as they were seen to.
    pub(crate) rows_per_second: Option<u64>,
}

/// Positions of caches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TokenRoom {
    pub(crate) total: u64,
    /// What sequences use, those of other coordinators too.
    pub(crate) used: u64,
}

/// Turns what leaders say into room, and remembers how fast they were.
#[derive(Debug, Default)]
pub(crate) struct RoomEstimator {
    /// Rows a second that were seen at that moment.
    best_rate: Option<(f64, Duration)>,
}

impl RoomEstimator {
    /// The room of the groups that said this. Those that have said nothing yet do not count; when none has, nothing is known.
    pub(crate) fn room(&mut self, loads: &[GroupLoad], now: Duration) -> Room {
        let fresh = loads.iter().filter(|load| load.age < STALE);
        let reports: Vec<&LoadReport> = fresh.map(|load| &load.report).collect();
        if reports.is_empty() {
            return Room::default();
        }
        let sequences = reports.iter().map(|report| match report.max_running {
            0 => None,
            most => Some(u64::from(most)),
        });
        let positions = |blocks: fn(&LoadReport) -> u32| -> u64 {
            let blocks = reports.iter().map(|report| u64::from(blocks(report)));
            blocks.sum::<u64>() * BLOCK_TOKENS
        };
        let total = positions(|report| report.blocks_total);
        let rate = self.rate(&reports, now);
        let least = LEAST_AHEAD * reports.len() as u64;
        Room {
            sequences: sequences.sum(),
            tokens: (total > 0).then(|| TokenRoom {
                total,
                used: positions(|report| report.blocks_used),
            }),
            ahead_tokens: Some(least.max((rate.unwrap_or_default() * AHEAD_SECONDS) as u64)),
            rows_per_second: rate.map(|rate| rate as u64).filter(|&rate| rate > 0),
        }
    }

    /// The best rate seen lately.
    fn rate(&mut self, reports: &[&LoadReport], now: Duration) -> Option<f64> {
        let rates = reports.iter().map(|report| report.rows_per_second);
        let rates = rates.filter(|rate| rate.is_finite() && *rate > 0.0);
        let seen: f64 = rates.map(f64::from).sum();
        let faded = self.best_rate.map_or(0.0, |(rate, at)| {
            let age = now.saturating_sub(at).as_secs_f64() / RATE_HALF_LIFE.as_secs_f64();
            rate * (-age).exp2()
        });
        if seen >= faded && seen > 0.0 {
            self.best_rate = Some((seen, now));
        }
        Some(seen.max(faded)).filter(|&rate| rate > 0.0)
    }
}

#[cfg(test)]
mod tests {
    use inkstone_cluster::GroupId;

    use super::*;

    fn said(report: LoadReport) -> GroupLoad {
        GroupLoad {
            group: GroupId::new("0"),
            epoch: None,
            age: Duration::ZERO,
            report,
        }
    }

    fn report() -> LoadReport {
        LoadReport {
            max_running: 64,
            blocks_used: 10,
            blocks_total: 100,
            rows_per_second: 20_000.0,
            ..LoadReport::default()
        }
    }

    fn at_rate(rows_per_second: f32) -> [GroupLoad; 1] {
        [said(LoadReport {
            rows_per_second,
            ..report()
        })]
    }

    #[test]
    fn rooms_of_groups_add_up() {
        let loads = [said(report()), said(report())];
        let room = RoomEstimator::default().room(&loads, Duration::ZERO);
        assert_eq!(room.sequences, Some(128));
        let tokens = TokenRoom {
            total: 3200,
            used: 320,
        };
        assert_eq!(room.tokens, Some(tokens));
        assert_eq!(room.ahead_tokens, Some(6_000));
        assert_eq!(room.rows_per_second, Some(40_000));
    }

    #[test]
    fn what_is_not_said_or_was_said_long_ago_limits_nothing() {
        let mut rooms = RoomEstimator::default();
        assert_eq!(rooms.room(&[], Duration::ZERO), Room::default());
        let silent = GroupLoad {
            age: STALE,
            ..said(report())
        };
        assert_eq!(rooms.room(&[silent], Duration::ZERO), Room::default());
        let older = LoadReport {
            max_running: 0,
            ..report()
        };
        let room = rooms.room(&[said(report()), said(older)], Duration::ZERO);
        assert_eq!(room.sequences, None);
        assert!(room.tokens.is_some());
    }

    #[test]
    fn a_rate_that_was_reached_is_forgotten_slowly() {
        let mut rooms = RoomEstimator::default();
        rooms.room(&at_rate(40_000.0), Duration::ZERO);
        let later = rooms.room(&at_rate(100.0), RATE_HALF_LIFE);
        assert_eq!(later.ahead_tokens, Some(3_000));
        let much_later = rooms.room(&at_rate(100.0), RATE_HALF_LIFE * 20);
        assert_eq!(much_later.ahead_tokens, Some(LEAST_AHEAD));
    }
}
