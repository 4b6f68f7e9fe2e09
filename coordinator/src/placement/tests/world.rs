//! A made-up cluster that does what it is told: nodes load, join and serve, one step a round.

use std::time::Duration;

use inkstone_cluster::{
    Change, ClusterState, Epoch, GroupId, LanguageStatus, NodeId, NodeStatus, Phase, Rank,
    ShardKey, VisionStatus,
};

use crate::placement::{Loads, Memory, Moment, Plan, Policy, plan};

/// A cluster, and who places in it.
pub(super) struct World {
    pub(super) state: ClusterState,
    pub(super) memory: Memory,
    pub(super) now: Moment,
}

impl World {
    pub(super) fn new(state: ClusterState) -> Self {
        Self {
            state,
            memory: Memory::default(),
            now: Moment::ZERO,
        }
    }

    /// What the placer would do now.
    pub(super) fn plan(&mut self) -> Plan {
        let policy = Policy::default();
        self.memory.observe(&self.state, &policy, self.now);
        plan(&self.state, &self.memory, &policy, &Loads::new(), self.now)
    }

    /// Time passes, and every node gets a step further with what it was told.
    pub(super) fn pass(&mut self, time: Duration) {
        self.now += time;
        let nodes: Vec<NodeId> = self.state.nodes.keys().cloned().collect();
        for node in nodes {
            let mut status = self.state.statuses.remove(&node).unwrap_or_default();
            self.step_language(&node, &mut status);
            self.step_vision(&node, &mut status);
            self.state.statuses.insert(node, status);
        }
        let nodes = &self.state.nodes;
        self.state
            .statuses
            .retain(|node, _| nodes.contains_key(node));
    }

    /// Does what a registry does with changes, and insists on what it insists on.
    pub(super) fn apply(&mut self, plan: &Plan) {
        self.state.revision.0 += 1;
        let epoch = Epoch(self.state.revision.0 as u64);
        for step in &plan.steps {
            let current = |group: &GroupId| self.state.groups.get(group).map(|(_, epoch)| *epoch);
            match step.change.clone() {
                Change::PutGroup {
                    group,
                    assignment,
                    expected,
                } => {
                    assert_eq!(current(&group), expected, "{plan}");
                    self.state.groups.insert(group, (assignment, epoch));
                }
                Change::RemoveGroup { group, expected } => {
                    assert_eq!(current(&group), Some(expected), "{plan}");
                    self.state.groups.remove(&group);
                }
                Change::PutVision { node } => {
                    self.state.vision.insert(node, epoch);
                }
                Change::RemoveVision { node } => {
                    assert!(self.state.vision.remove(&node).is_some(), "{plan}");
                }
            }
        }
    }

    fn step_language(&self, node: &NodeId, status: &mut NodeStatus) {
        let mut groups = self.state.groups.iter();
        let Some((id, (group, epoch))) = groups.find(|(_, (group, _))| group.ranks.contains(node))
        else {
            status.language = None;
            return;
        };
        let current = status.language.take();
        let current = current.filter(|status| status.group == *id && status.epoch == *epoch);
        let phase = match current.map(|status| status.phase) {
            None => Phase::Loading {
                done_bytes: 0,
                total_bytes: 1,
            },
            Some(Phase::Loading { .. }) => Phase::Joining,
            Some(Phase::Joining) => Phase::Ready,
            Some(phase) => phase,
        };
        if phase == Phase::Joining {
            let ranks = group.ranks.iter().enumerate();
            let own = ranks.filter(|(_, rank)| *rank == node);
            status.kept = own
                .map(|(rank, _)| ShardKey {
                    rank: Rank(rank as u32),
                    world_size: group.ranks.len() as u32,
                })
                .collect();
        }
        status.language = Some(LanguageStatus {
            group: id.clone(),
            epoch: *epoch,
            phase,
        });
    }

    fn step_vision(&self, node: &NodeId, status: &mut NodeStatus) {
        let Some(epoch) = self.state.vision.get(node) else {
            status.vision = None;
            return;
        };
        let current = status.vision.take();
        let phase = match current.filter(|status| status.epoch == *epoch) {
            Some(current) if current.phase != Phase::Joining => current.phase,
            Some(_) => Phase::Ready,
            None => Phase::Joining,
        };
        status.vision = Some(VisionStatus {
            epoch: *epoch,
            phase,
        });
    }
}
