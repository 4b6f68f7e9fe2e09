//! What is known of a language group beside what its requests are told: how busy it is, what it has in its cache, when it failed. The
//! connection to the leader writes it, routing reads it.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use inkstone_prefix::BlockHashes;
use tokio::time::Instant;

use crate::{
    cluster_load::LoadReport,
    routing::{CacheChange, Outlook, PrefixIndex},
};

/// A request that was sent so shortly before a report came may not be in it.
const ON_ITS_WAY: Duration = Duration::from_millis(50);
/// Requests that no report counts yet, at most: more are sent in a quarter of a second only when the group refuses them.
const MAX_UNREPORTED: usize = 1024;

/// What is known of a group.
#[derive(Default)]
pub(crate) struct Pulse(Mutex<State>);

#[derive(Default)]
struct State {
    report: Option<(LoadReport, Instant)>,
    /// Rows of prompts that it computes each second, as it said last; 0: not known.
    rows_per_second: f32,
    blocks: PrefixIndex,
    /// When each was sent, and how many positions it has to compute; in the order in which they were sent.
    unreported: BTreeMap<u64, (Instant, u64)>,
    num_sent: u64,
    health: Health,
}

impl Pulse {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no panic while locked")
    }

    /// The leader said how busy its group is.
    pub(crate) fn load(&self, report: LoadReport) {
        self.lock().load(report, Instant::now());
    }

    /// The leader said what changed in its cache.
    pub(crate) fn cache(&self, change: &CacheChange) {
        self.lock().blocks.apply(change);
    }

    /// A request goes there; it counts until a report counts it, or it ends.
    pub(crate) fn sent(self: &Arc<Self>, num_rows: u64, blocks: Option<&BlockHashes>) -> Sent {
        let id = self.lock().sent(num_rows, blocks, Instant::now());
        Sent(self.clone(), id)
    }

    /// The group took a request on.
    pub(crate) fn thrives(&self) {
        self.lock().health = Health::default();
    }

    /// The connection broke, or the group said that it does not serve.
    pub(crate) fn failed(&self) {
        self.lock().failed(Instant::now());
    }

    /// What its last report said, and how long ago.
    pub(crate) fn last_report(&self) -> Option<(LoadReport, Duration)> {
        let state = self.lock();
        state.report.map(|(report, when)| (report, when.elapsed()))
    }

    /// What to think of the group for a request with this prompt.
    pub(crate) fn outlook(&self, blocks: Option<&BlockHashes>, num_running: usize) -> Outlook {
        self.lock().outlook(blocks, num_running, Instant::now())
    }
}

impl State {
    fn load(&mut self, report: LoadReport, now: Instant) {
        if report.rows_per_second > 0.0 {
            self.rows_per_second = report.rows_per_second;
        }
        self.report = Some((report, now));
        let is_counted = |sent: &Instant| now.saturating_duration_since(*sent) > ON_ITS_WAY;
        self.unreported.retain(|_, (sent, _)| !is_counted(sent));
    }

    fn sent(&mut self, num_rows: u64, blocks: Option<&BlockHashes>, now: Instant) -> u64 {
        if self.unreported.len() >= MAX_UNREPORTED {
            self.unreported.pop_first();
        }
        self.num_sent += 1;
        self.unreported.insert(self.num_sent, (now, num_rows));
        if let Some(blocks) = blocks {
            let ends = blocks.picture_ends.iter().map(|(_, hash)| hash);
            let hashes = blocks.full.iter().chain(ends).map(|hash| hash.short());
            self.blocks.expect(hashes, now);
        }
        self.num_sent
    }

    fn failed(&mut self, now: Instant) {
        self.health.failed(now);
        self.blocks.expect_nothing();
        self.unreported.clear();
    }

    fn outlook(&self, blocks: Option<&BlockHashes>, num_running: usize, now: Instant) -> Outlook {
        let cached_tokens = blocks.map_or(0, |blocks| {
            let limit = blocks.num_tokens.saturating_sub(1);
            blocks.covered(limit, |hash| self.blocks.holds(hash.short(), now))
        });
        let report = self.report;
        Outlook {
            report: report.map(|(report, when)| (report, now.saturating_duration_since(when))),
            rows_per_second: self.rows_per_second,
            num_running,
            unreported_requests: self.unreported.len() as u32,
            unreported_rows: self.unreported.values().map(|(_, rows)| rows).sum(),
            cached_tokens,
            is_avoided: self.health.is_avoided(now),
        }
    }
}

/// A request that was sent, until it ends.
pub(crate) struct Sent(Arc<Pulse>, u64);

impl Drop for Sent {
    fn drop(&mut self) {
        self.0.lock().unreported.remove(&self.1);
    }
}

/// Whether to keep away from a worker that failed: for half a second, and longer each time while it does nothing but fail.
#[derive(Debug, Default)]
pub(crate) struct Health {
    num_failures: u32,
    failed: Option<Instant>,
}

impl Health {
    const SHORTEST: Duration = Duration::from_millis(500);
    /// Doublings: 16 s at most.
    const MAX_DOUBLINGS: u32 = 5;

    pub(crate) fn failed(&mut self, now: Instant) {
        self.num_failures = self.num_failures.saturating_add(1);
        self.failed = Some(now);
    }

    pub(crate) fn is_avoided(&self, now: Instant) -> bool {
        let doublings = self.num_failures.saturating_sub(1).min(Self::MAX_DOUBLINGS);
        let avoided = Self::SHORTEST * (1 << doublings);
        let failed = self.failed;
        failed.is_some_and(|failed| now.saturating_duration_since(failed) < avoided)
    }
}

#[cfg(test)]
mod tests {
    use inkstone_prefix::{Span, block_hashes};

    use super::*;

    fn blocks(num_tokens: u32) -> BlockHashes {
        let ids: Vec<_> = (0..num_tokens).collect();
        block_hashes([7; 32], &[Span::Tokens(&ids)])
    }

    #[test]
    fn a_beginning_is_expected_where_it_was_sent_until_the_group_fails() {
        let now = Instant::now();
        let mut state = State::default();
        let cached = |state: &State, num_tokens| {
            state
                .outlook(Some(&blocks(num_tokens)), 0, now)
                .cached_tokens
        };
        assert_eq!(cached(&state, 100), 0);
        state.sent(40, Some(&blocks(40)), now);
        // Two whole blocks are shared with the longer prompt.
        assert_eq!(cached(&state, 100), 32);
        // At least one position is computed.
        assert_eq!(cached(&state, 32), 31);
        state.failed(now);
        assert_eq!(cached(&state, 100), 0);
        assert_eq!(state.outlook(None, 0, now).unreported_requests, 0);
        state.blocks.apply(&CacheChange {
            reset: true,
            added: blocks(16).full.iter().map(|hash| hash.short()).collect(),
            removed: vec![],
        });
        assert_eq!(cached(&state, 100), 16);
    }

    #[test]
    fn what_was_sent_counts_until_a_report_can_know_of_it() {
        let begin = Instant::now();
        let after = |millis| begin + Duration::from_millis(millis);
        let at_rate = |rows_per_second| LoadReport {
            rows_per_second,
            ..LoadReport::default()
        };
        let mut state = State::default();
        state.sent(40, None, begin);
        state.sent(30, None, after(90));
        state.load(at_rate(900.0), after(100));
        let outlook = state.outlook(None, 3, after(100));
        assert_eq!(
            (outlook.unreported_requests, outlook.unreported_rows),
            (1, 30)
        );
        assert_eq!(outlook.num_running, 3);
        state.load(at_rate(0.0), after(350));
        let outlook = state.outlook(None, 3, after(400));
        assert_eq!(outlook.unreported_requests, 0);
        assert_eq!(outlook.report.unwrap().1, Duration::from_millis(50));
        assert_eq!(outlook.rows_per_second, 900.0, "not known is not slow");
    }

    #[test]
    fn a_worker_is_avoided_longer_the_more_often_it_fails() {
        let mut now = Instant::now();
        let mut health = Health::default();
        assert!(!health.is_avoided(now));
        for millis in [500, 1000, 2000, 4000, 8000, 16_000, 16_000] {
            health.failed(now);
            now += Duration::from_millis(millis - 1);
            assert!(health.is_avoided(now), "{millis}");
            now += Duration::from_millis(1);
            assert!(!health.is_avoided(now), "{millis}");
        }
    }
}
