//! What a group holds in its prefix cache, as far as a coordinator knows: what its leader said, and what requests that were just sent
//! there will leave. It is a guess by the first bytes of hashes; a wrong one costs time and nothing else.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    time::Duration,
};

use tokio::time::Instant;

/// Blocks that are remembered of a group at most. 524288: eight million positions, more than any group's cache has.
const MAX_KNOWN: usize = 1 << 19;
/// Blocks that are expected of requests just sent at most.
const MAX_EXPECTED: usize = 1 << 16;
/// How long a block is expected before the leader says that it is there. 10 s: a wait and a long prompt.
const EXPECTED_FOR: Duration = Duration::from_secs(10);

/// What a leader said of its cache.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct CacheChange {
    /// What was told before counts no more.
    pub(crate) reset: bool,
    pub(crate) added: Vec<u64>,
    pub(crate) removed: Vec<u64>,
}

/// The blocks of a group's cache by the first bytes of their hashes.
#[derive(Debug, Default)]
pub(crate) struct PrefixIndex {
    known: HashSet<u64>,
    /// Until when each is expected.
    expected: HashMap<u64, Instant>,
    /// The expected ones in the order in which they were expected.
    order: VecDeque<(Instant, u64)>,
}

impl PrefixIndex {
    /// Takes in what the leader said.
    pub(crate) fn apply(&mut self, change: &CacheChange) {
        if change.reset {
            self.known.clear();
        }
        // Removed first: a block that left and came again in one message is there.
        for hash in &change.removed {
            self.known.remove(hash);
            self.expected.remove(hash);
        }
        for &hash in &change.added {
            if self.known.len() < MAX_KNOWN {
                self.known.insert(hash);
            }
            self.expected.remove(&hash);
        }
    }

    /// A request with these blocks goes there.
    pub(crate) fn expect(&mut self, hashes: impl IntoIterator<Item = u64>, now: Instant) {
        let until = now + EXPECTED_FOR;
        for hash in hashes {
            if self.known.contains(&hash) {
                continue;
            }
            self.expected.insert(hash, until);
            self.order.push_back((until, hash));
        }
        while let Some(&(until, hash)) = self.order.front() {
            if until > now && self.order.len() <= MAX_EXPECTED {
                break;
            }
            self.order.pop_front();
            // It may have been expected anew since.
            if self.expected.get(&hash) == Some(&until) {
                self.expected.remove(&hash);
            }
        }
    }

    /// Nothing is expected any more: what was sent there is lost.
    pub(crate) fn expect_nothing(&mut self) {
        self.expected.clear();
        self.order.clear();
    }

    /// Whether a block is there, or will be soon.
    pub(crate) fn holds(&self, hash: u64, now: Instant) -> bool {
        self.known.contains(&hash) || self.expected.get(&hash).is_some_and(|until| *until > now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(reset: bool, added: &[u64], removed: &[u64]) -> CacheChange {
        CacheChange {
            reset,
            added: added.to_vec(),
            removed: removed.to_vec(),
        }
    }

    fn held(index: &PrefixIndex, now: Instant) -> Vec<u64> {
        (0..10).filter(|&hash| index.holds(hash, now)).collect()
    }

    #[test]
    fn it_follows_what_the_leader_says() {
        let now = Instant::now();
        let mut index = PrefixIndex::default();
        index.apply(&change(true, &[1, 2, 3], &[]));
        index.apply(&change(false, &[4, 2], &[2, 3, 9]));
        assert_eq!(held(&index, now), [1, 2, 4]);
        index.apply(&change(true, &[5], &[]));
        assert_eq!(held(&index, now), [5]);
    }

    #[test]
    fn what_was_just_sent_is_expected_for_a_while() {
        let begin = Instant::now();
        let mut index = PrefixIndex::default();
        index.apply(&change(true, &[1], &[]));
        index.expect([1, 2, 3], begin);
        assert_eq!(held(&index, begin), [1, 2, 3]);
        // One came, one did not.
        index.apply(&change(false, &[2], &[]));
        let later = begin + EXPECTED_FOR;
        assert_eq!(held(&index, later), [1, 2]);
        // What was expected counts no longer than what the leader says.
        index.apply(&change(false, &[], &[2]));
        assert_eq!(held(&index, begin), [1, 3]);
        // Expected anew, it lives anew.
        index.expect([3], begin + EXPECTED_FOR / 2);
        index.expect([4], later);
        assert_eq!(held(&index, later), [1, 3, 4]);
        index.expect_nothing();
        assert_eq!(held(&index, later), [1]);
    }

    #[test]
    fn it_does_not_grow_without_end() {
        let now = Instant::now();
        let mut index = PrefixIndex::default();
        index.expect(0..3 * MAX_EXPECTED as u64, now);
        assert!(index.order.len() <= MAX_EXPECTED);
        assert!(index.expected.len() <= MAX_EXPECTED);
        assert!(
            index.holds(3 * MAX_EXPECTED as u64 - 1, now),
            "the last ones stay"
        );
        let many: Vec<_> = (0..2 * MAX_KNOWN as u64).collect();
        index.apply(&change(true, &many, &[]));
        assert_eq!(index.known.len(), MAX_KNOWN);
    }
}
