//! How a language group is chosen: by predicted cost, or in the ways that this is compared with.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::{Outlook, rank_groups};

/// By what a request's language group is chosen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum RoutingPolicy {
    /// By what the request is expected to cost each of them, what they have in their caches counted in.
    #[default]
    PredictedCost,
    /// One after the other. There to be compared with.
    RoundRobin,
    /// The one that runs fewest of this coordinator's requests. There to be compared with.
    LeastLoaded,
}

/// Chooses by a policy.
#[derive(Debug, Default)]
pub(crate) struct Router {
    policy: RoutingPolicy,
    turn: AtomicUsize,
}

impl Router {
    pub(crate) fn new(policy: RoutingPolicy) -> Self {
        Self {
            policy,
            turn: AtomicUsize::new(0),
        }
    }

    /// The groups in the order in which to try them for a prompt of so many positions; `draw` is a random number.
    pub(crate) fn rank(&self, num_tokens: usize, groups: &[Outlook], draw: u64) -> Vec<usize> {
        match self.policy {
            RoutingPolicy::PredictedCost => rank_groups(num_tokens, groups, draw),
            RoutingPolicy::RoundRobin => {
                let num = groups.len();
                let turn = self.turn.fetch_add(1, Ordering::Relaxed);
                (0..num).map(|at| (turn + at) % num).collect()
            }
            RoutingPolicy::LeastLoaded => {
                let mut order: Vec<usize> = (0..groups.len()).collect();
                // Equals take turns, so that an idle cluster is filled evenly.
                let turn = self.turn.fetch_add(1, Ordering::Relaxed) % groups.len().max(1);
                order.rotate_left(turn.min(groups.len()));
                order.sort_by_key(|&index| groups[index].num_running);
                order
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn running(num_running: usize) -> Outlook {
        Outlook {
            num_running,
            ..Outlook::default()
        }
    }

    #[test]
    fn round_robin_goes_round() {
        let router = Router::new(RoutingPolicy::RoundRobin);
        let groups = [running(9), running(0), running(3)];
        let firsts: Vec<_> = (0..6)
            .map(|draw| router.rank(10, &groups, draw)[0])
            .collect();
        assert_eq!(firsts, [0, 1, 2, 0, 1, 2]);
        assert!(router.rank(10, &[], 0).is_empty());
    }

    #[test]
    fn the_least_loaded_is_first_and_equals_take_turns() {
        let router = Router::new(RoutingPolicy::LeastLoaded);
        let groups = [running(2), running(1), running(1)];
        let mut firsts: Vec<_> = (0..6)
            .map(|draw| router.rank(10, &groups, draw)[0])
            .collect();
        firsts.sort_unstable();
        firsts.dedup();
        assert_eq!(firsts, [1, 2]);
        assert!(router.rank(10, &[], 0).is_empty());
    }
}
