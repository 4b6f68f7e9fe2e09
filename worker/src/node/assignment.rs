//! What the registry asks of this node, and what becomes of a life when that changes: pure functions of the cluster's state.

use std::ops::Range;

use inkstone_cluster::{
    ClusterState, Epoch, GroupAssignment, GroupId, LanguageStatus, NodeId, Phase,
};

use crate::group::life::GroupLife;

/// This node's part in a language group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LanguageTask {
    pub(super) life: GroupLife,
    pub(super) world_size: usize,
    pub(super) ranks: Ranks,
}

/// Which ranks a node runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Ranks {
    /// All.
    Whole,
    /// Rank 0; these nodes run the others.
    Leader { others: Vec<NodeId> },
    /// One other rank.
    Follower { rank: usize, leader: NodeId },
    /// What was written is no assignment, and why.
    Unfit(String),
}

/// What becomes of a life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It goes on.
    GoesOn,
    /// It takes nothing new, and what runs may finish.
    Finishes,
    /// It is over.
    IsOver,
}

impl LanguageTask {
    /// What `node` is to run now; the latest, should several groups name it.
    pub(super) fn of(state: &ClusterState, node: &NodeId) -> Option<Self> {
        let groups = state.groups.iter();
        let named = groups.filter(|(_, (assignment, _))| assignment.ranks.contains(node));
        let (group, (assignment, epoch)) = named.max_by_key(|(_, (_, epoch))| *epoch)?;
        Some(Self::new(group, assignment, *epoch, node))
    }

    fn new(group: &GroupId, assignment: &GroupAssignment, epoch: Epoch, node: &NodeId) -> Self {
        Self {
            life: GroupLife {
                group: group.clone(),
                epoch,
            },
            world_size: assignment.ranks.len(),
            ranks: Ranks::of(&assignment.ranks, node),
        }
    }

    /// The ranks that this node runs.
    pub(super) fn own_ranks(&self) -> Range<usize> {
        match &self.ranks {
            Ranks::Whole => 0..self.world_size,
            Ranks::Leader { .. } => 0..1,
            Ranks::Follower { rank, .. } => *rank..*rank + 1,
            Ranks::Unfit(_) => 0..0,
        }
    }

    /// What becomes of this life. `is_stopping`: the process is told to stop.
    pub(super) fn fate(&self, state: &ClusterState, node: &NodeId, is_stopping: bool) -> Fate {
        let is_draining = is_stopping || state.draining.contains(node);
        let now = Self::of(state, node);
        if now.as_ref().is_some_and(|now| now.life == self.life) {
            // Whoever drains a node moves its work; until then it goes on, unless the process, or a rank's, is about to go.
            return match is_stopping || self.a_rank_leaves(state) {
                true => Fate::Finishes,
                false => Fate::GoesOn,
            };
        }
        // Requests that a leader finishes need all its ranks.
        if self.leader_finishes(state) {
            return Fate::Finishes;
        }
        match (now, state.groups.get(&self.life.group)) {
            (Some(_), _) if !is_stopping => Fate::IsOver,
            // The group lives on elsewhere. A node that was relieved of it may finish; one that was given up on may not.
            (_, Some(_)) if !is_draining => Fate::IsOver,
            _ => Fate::Finishes,
        }
    }

    /// A rank whose process is told to stop stays for what runs, and no longer.
    fn a_rank_leaves(&self, state: &ClusterState) -> bool {
        match &self.ranks {
            Ranks::Leader { others } => others
                .iter()
                .any(|node| self.is_said(state, node, |phase| *phase == Phase::Draining)),
            Ranks::Whole | Ranks::Follower { .. } | Ranks::Unfit(_) => false,
        }
    }

    fn leader_finishes(&self, state: &ClusterState) -> bool {
        match &self.ranks {
            Ranks::Follower { leader, .. } => {
                state.nodes.contains_key(leader)
                    && self.is_said(state, leader, |phase| *phase == Phase::Draining)
            }
            Ranks::Whole | Ranks::Leader { .. } | Ranks::Unfit(_) => false,
        }
    }

    /// Whether one of the other nodes of this life reads its weights yet.
    pub(super) fn others_load(&self, state: &ClusterState) -> bool {
        let loads = |node: &NodeId| {
            self.is_said(state, node, |phase| matches!(phase, Phase::Loading { .. }))
        };
        match &self.ranks {
            Ranks::Leader { others } => others.iter().any(loads),
            Ranks::Follower { leader, .. } => loads(leader),
            Ranks::Whole | Ranks::Unfit(_) => false,
        }
    }

    /// Whether a node says that its part in this life is like that.
    fn is_said(&self, state: &ClusterState, node: &NodeId, is: impl Fn(&Phase) -> bool) -> bool {
        let status = state.statuses.get(node);
        let language = status.and_then(|status| status.language.as_ref());
        language.is_some_and(|language| self.is_of(language) && is(&language.phase))
    }

    fn is_of(&self, status: &LanguageStatus) -> bool {
        status.group == self.life.group && status.epoch == self.life.epoch
    }
}

impl Ranks {
    fn of(ranks: &[NodeId], node: &NodeId) -> Self {
        let count = ranks.iter().filter(|rank| *rank == node).count();
        let place = ranks.iter().position(|rank| rank == node);
        match (place, ranks) {
            (Some(_), _) if count == ranks.len() => Self::Whole,
            (Some(_), _) if count > 1 => Self::Unfit(format!(
                "a node runs one rank or all, {node} is to run {count} of {}",
                ranks.len()
            )),
            (Some(0), [_, others @ ..]) => Self::Leader {
                others: others.to_vec(),
            },
            (Some(rank), [leader, ..]) => Self::Follower {
                rank,
                leader: leader.clone(),
            },
            _ => Self::Unfit(format!("{node} is to run no rank")),
        }
    }
}

#[cfg(test)]
mod tests {
    use inkstone_cluster::{NodeRecord, NodeStatus};

    use super::*;

    fn id(name: &str) -> NodeId {
        NodeId::new(name)
    }

    fn state(groups: &[(&str, u64, &[&str])]) -> ClusterState {
        let mut state = ClusterState::default();
        for (group, epoch, ranks) in groups {
            let assignment = GroupAssignment {
                ranks: ranks.iter().map(|name| id(name)).collect(),
            };
            let entry = (assignment, Epoch(*epoch));
            state.groups.insert(GroupId::new(*group), entry);
        }
        state
    }

    fn task(ranks: &[&str], node: &str) -> LanguageTask {
        LanguageTask::of(&state(&[("g", 5, ranks)]), &id(node)).unwrap()
    }

    #[test]
    fn a_node_runs_all_ranks_or_one() {
        assert_eq!(task(&["a"], "a").ranks, Ranks::Whole);
        assert_eq!(task(&["a", "a"], "a").own_ranks(), 0..2);
        let leader = Ranks::Leader {
            others: vec![id("b"), id("c")],
        };
        assert_eq!(task(&["a", "b", "c"], "a").ranks, leader);
        let follower = task(&["a", "b", "c"], "c");
        assert_eq!(follower.own_ranks(), 2..3);
        assert!(matches!(task(&["a", "b", "b"], "b").ranks, Ranks::Unfit(_)));
        let idle = LanguageTask::of(&state(&[("g", 5, &["a"])]), &id("b"));
        assert_eq!(idle, None);
    }

    #[test]
    fn the_latest_assignment_counts() {
        let state = state(&[("g", 5, &["a"]), ("h", 7, &["a"]), ("i", 9, &["b"])]);
        assert_eq!(LanguageTask::of(&state, &id("a")).unwrap().life.epoch.0, 7);
    }

    #[track_caller]
    fn check(node: &str, then: &ClusterState, is_stopping: bool, wanted: Fate) {
        let task = task(&["a", "b"], node);
        assert_eq!(task.fate(then, &id(node), is_stopping), wanted);
    }

    #[test]
    fn a_life_goes_on_while_its_epoch_names_the_node() {
        let same = state(&[("g", 5, &["a", "b"])]);
        check("a", &same, false, Fate::GoesOn);
        check("a", &same, true, Fate::Finishes);
    }

    #[test]
    fn a_group_that_is_taken_away_finishes() {
        check("a", &state(&[]), false, Fate::Finishes);
        check("b", &state(&[]), false, Fate::Finishes);
    }

    #[test]
    fn another_epoch_ends_a_life_at_once_unless_the_node_drains() {
        let mut moved = state(&[("g", 6, &["c", "d"])]);
        check("a", &moved, false, Fate::IsOver);
        check("a", &moved, true, Fate::Finishes);
        moved.draining.insert(id("a"));
        check("a", &moved, false, Fate::Finishes);
        check("a", &state(&[("g", 6, &["a", "c"])]), false, Fate::IsOver);
        check("a", &state(&[("h", 6, &["a"])]), false, Fate::IsOver);
    }

    #[test]
    fn a_leader_finishes_when_one_of_its_ranks_leaves() {
        let mut same = state(&[("g", 5, &["a", "b"])]);
        let mut says = |phase| {
            let status = NodeStatus {
                language: Some(LanguageStatus {
                    group: GroupId::new("g"),
                    epoch: Epoch(5),
                    phase,
                }),
                ..NodeStatus::default()
            };
            same.statuses.insert(id("b"), status);
            task(&["a", "b"], "a").fate(&same, &id("a"), false)
        };
        assert_eq!(says(Phase::Ready), Fate::GoesOn);
        assert_eq!(says(Phase::Draining), Fate::Finishes);
    }

    #[test]
    fn a_rank_stays_with_a_leader_that_finishes() {
        let mut moved = state(&[("g", 6, &["b", "c"])]);
        check("b", &moved, false, Fate::IsOver);
        let status = NodeStatus {
            language: Some(LanguageStatus {
                group: GroupId::new("g"),
                epoch: Epoch(5),
                phase: Phase::Draining,
            }),
            ..NodeStatus::default()
        };
        moved.statuses.insert(id("a"), status);
        // Its process is gone.
        check("b", &moved, false, Fate::IsOver);
        moved.nodes.insert(id("a"), record("a"));
        check("b", &moved, false, Fate::Finishes);
    }

    fn record(name: &str) -> NodeRecord {
        NodeRecord {
            id: id(name),
            incarnation: String::new(),
            host: String::new(),
            address: "a:1".parse().unwrap(),
            roles: [].into(),
            devices: 1,
            device_kind: String::new(),
            memory_bytes: 0,
            model: String::new(),
            version: String::new(),
        }
    }

    #[test]
    fn it_is_known_whether_the_others_still_load() {
        let task = task(&["a", "b"], "a");
        let mut state = state(&[("g", 5, &["a", "b"])]);
        assert!(!task.others_load(&state));
        let mut loads = |epoch| {
            let phase = Phase::Loading {
                done_bytes: 1,
                total_bytes: 2,
            };
            let status = NodeStatus {
                language: Some(LanguageStatus {
                    group: GroupId::new("g"),
                    epoch: Epoch(epoch),
                    phase,
                }),
                ..NodeStatus::default()
            };
            state.statuses.insert(id("b"), status);
            task.others_load(&state)
        };
        assert!(loads(5));
        assert!(!loads(4));
    }
}
