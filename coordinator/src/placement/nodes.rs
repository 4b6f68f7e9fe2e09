//! Which nodes may be told to run what.

use std::collections::BTreeMap;

use inkstone_cluster::{
    ClusterState, Deployment, GroupAssignment, NodeId, NodeRecord, Phase, Role,
};

use super::{Memory, Moment, Policy};

/// What planning looks at.
#[derive(Clone, Copy)]
pub(super) struct View<'a> {
    pub(super) state: &'a ClusterState,
    pub(super) memory: &'a Memory,
    pub(super) policy: &'a Policy,
    pub(super) now: Moment,
    /// The model that is served; none: no node says.
    pub(super) model: Option<&'a str>,
}

impl<'a> View<'a> {
    pub(super) fn node(&self, id: &NodeId) -> Option<&'a NodeRecord> {
        self.state.nodes.get(id)
    }

    /// Whether a node has the model that is served.
    pub(super) fn has_model(&self, node: &NodeRecord) -> bool {
        Some(node.model.as_str()) == self.model
    }

    /// Whether a node may be given something new in this role, now or once it has rested.
    pub(super) fn is_eligible(&self, node: &NodeRecord, role: Role) -> bool {
        node.roles.contains(&role)
            && self.has_model(node)
            && !self.state.draining.contains(&node.id)
            && !self.is_leaving(&node.id)
    }

    /// Whether a node finishes what it was told to run, of its own accord: its process is about to end.
    pub(super) fn is_leaving(&self, id: &NodeId) -> bool {
        let Some(status) = self.state.statuses.get(id) else {
            return false;
        };
        let language = status.language.as_ref().is_some_and(|language| {
            let assigned = self.state.groups.get(&language.group);
            language.phase == Phase::Draining
                && assigned.is_some_and(|(_, epoch)| *epoch == language.epoch)
        });
        let vision = status.vision.as_ref().is_some_and(|vision| {
            vision.phase == Phase::Draining && self.state.vision.get(id) == Some(&vision.epoch)
        });
        language || vision
    }

    /// Why nodes cannot run a group, whatever state they are in. Nodes that are missing are not judged.
    pub(super) fn misfit(&self, assignment: &GroupAssignment) -> Option<String> {
        let ranks = &assignment.ranks;
        let Some(leader) = ranks.first() else {
            return Some("it has no ranks".into());
        };
        let mut counts: BTreeMap<&NodeId, u32> = BTreeMap::new();
        for node in ranks {
            *counts.entry(node).or_default() += 1;
        }
        if counts.len() != 1 && counts.len() != ranks.len() {
            return Some("its ranks are neither on one node nor on one each".into());
        }
        let model = self.node(leader).map(|node| &node.model);
        for (id, count) in counts {
            let Some(node) = self.node(id) else { continue };
            if !node.roles.contains(&Role::Language) {
                return Some(format!("node {id} does not run the language model"));
            }
            if node.devices < count {
                let devices = node.devices;
                return Some(format!("node {id} has {devices} devices for {count} ranks"));
            }
            if model.is_some_and(|model| *model != node.model) {
                return Some(format!("node {id} has another model than its leader"));
            }
        }
        None
    }
}

/// The model to serve: the wanted one, or else what most of what runs has, or else what most devices have.
pub(super) fn served_model<'a>(
    state: &'a ClusterState,
    deployment: &'a Deployment,
) -> Option<&'a str> {
    if let Some(model) = &deployment.model {
        return Some(model);
    }
    let mut votes: BTreeMap<&str, (usize, u64)> = BTreeMap::new();
    for node in state.nodes.values() {
        let vote = votes.entry(&node.model).or_default();
        vote.1 += u64::from(node.devices);
    }
    for (assignment, _) in state.groups.values() {
        let leader = assignment.ranks.first();
        if let Some(leader) = leader.and_then(|leader| state.nodes.get(leader)) {
            votes.entry(&leader.model).or_default().0 += 1;
        }
    }
    // The first name of those with most votes.
    let best = votes.into_iter().rev().max_by_key(|(_, vote)| *vote);
    best.map(|(model, _)| model)
}
