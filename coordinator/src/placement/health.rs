//! How a language group is, as far as placing is concerned.

use std::collections::BTreeSet;

use inkstone_cluster::{Deployment, Epoch, GroupAssignment, GroupId, NodeId, Phase};

use super::{memory::said, nodes::View};

/// How a group is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Health {
    /// As wanted.
    Good(Standing),
    /// In a form that is not wanted any more, and as far as one can tell it serves.
    Outdated { why: String, is_ready: bool },
    /// A node of it is to be relieved.
    Relieved { node: NodeId, is_ready: bool },
    /// It finishes what runs, because a process of it is about to end.
    Leaving,
    /// Nothing is lost when it ends.
    Broken { why: String },
}

/// How far a group is that is as wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Standing {
    /// A node of it is missing, not long enough to be lost.
    Missing,
    /// It comes up.
    ComingUp,
    /// It serves.
    Ready,
}

/// A group and how it is.
#[derive(Debug, Clone)]
pub(super) struct Group<'a> {
    pub(super) id: &'a GroupId,
    pub(super) assignment: &'a GroupAssignment,
    pub(super) epoch: Epoch,
    pub(super) health: Health,
}

/// All groups: those that serve first, so that of two groups that claim one node the one that serves has it.
pub(super) fn groups<'a>(view: &View<'a>, deployment: &Deployment) -> Vec<Group<'a>> {
    let mut groups: Vec<Group<'a>> = view
        .state
        .groups
        .iter()
        .map(|(id, (assignment, epoch))| Group {
            id,
            assignment,
            epoch: *epoch,
            health: health(view, deployment, id, assignment, *epoch),
        })
        .collect();
    groups.sort_by_key(|group| (rank_of(&group.health), natural(group.id)));
    let mut taken: BTreeSet<&NodeId> = BTreeSet::new();
    for group in &mut groups {
        let nodes: BTreeSet<&NodeId> = group.assignment.ranks.iter().collect();
        if let Some(node) = nodes.intersection(&taken).next() {
            let why = format!("node {node} runs another group");
            group.health = Health::Broken { why };
        } else if !matches!(group.health, Health::Broken { .. }) {
            taken.extend(nodes);
        }
    }
    groups
}

fn rank_of(health: &Health) -> u8 {
    match health {
        Health::Good(Standing::Ready) => 0,
        Health::Outdated { is_ready: true, .. } | Health::Relieved { is_ready: true, .. } => 1,
        Health::Leaving => 2,
        Health::Good(Standing::ComingUp | Standing::Missing) => 3,
        Health::Outdated { .. } | Health::Relieved { .. } => 4,
        Health::Broken { .. } => 5,
    }
}

fn health(
    view: &View<'_>,
    deployment: &Deployment,
    id: &GroupId,
    assignment: &GroupAssignment,
    epoch: Epoch,
) -> Health {
    let ranks = &assignment.ranks;
    if let Some(why) = broken(view, id, assignment, epoch) {
        return Health::Broken { why };
    }
    let is_ready = view.state.is_group_ready(id);
    let phases = || {
        ranks
            .iter()
            .filter_map(|node| said(view.state, node, id, epoch))
    };
    if phases().any(|phase| *phase == Phase::Draining) {
        return Health::Leaving;
    }
    let mut nodes = ranks.iter();
    if let Some(node) = nodes.find(|node| view.state.draining.contains(*node)) {
        let node = node.clone();
        return Health::Relieved { node, is_ready };
    }
    let is_missing = ranks.iter().any(|node| view.node(node).is_none());
    if let Some(why) = outdated(view, deployment, assignment) {
        // One whose node is missing for a moment may serve all the same.
        return match is_ready || is_missing {
            true => Health::Outdated { why, is_ready },
            false => Health::Broken { why },
        };
    }
    Health::Good(match (is_missing, is_ready) {
        (true, _) => Standing::Missing,
        (false, false) => Standing::ComingUp,
        (false, true) => Standing::Ready,
    })
}

/// Why a group does not serve and will not by itself.
fn broken(
    view: &View<'_>,
    id: &GroupId,
    assignment: &GroupAssignment,
    epoch: Epoch,
) -> Option<String> {
    let (memory, policy, now) = (view.memory, view.policy, view.now);
    if let Some(why) = view.misfit(assignment) {
        return Some(why);
    }
    for node in &assignment.ranks {
        if memory.is_lost(node, policy, now) {
            return Some(format!("node {node} is gone"));
        }
        if let Some(Phase::Failed { reason, .. }) = said(view.state, node, id, epoch) {
            return Some(format!("node {node} says: {}", shorten(reason)));
        }
    }
    if let Some(node) = memory.restarted(view.state, id, assignment) {
        return Some(format!("node {node} was started anew"));
    }
    if memory.is_stalled(id, policy, now) {
        return Some(format!(
            "it does not get ready for {:?}",
            policy.stalled_after
        ));
    }
    None
}

fn outdated(
    view: &View<'_>,
    deployment: &Deployment,
    assignment: &GroupAssignment,
) -> Option<String> {
    let (wanted, found) = (deployment.tensor_parallel as usize, assignment.ranks.len());
    if wanted != found {
        return Some(format!("{wanted} ranks are wanted, it has {found}"));
    }
    let leader = assignment.ranks.first().and_then(|node| view.node(node))?;
    let wanted = view.model?;
    (leader.model != wanted).then(|| format!("model {wanted} is wanted, it has {}", leader.model))
}

/// Orders `group-2` before `group-10`.
pub(super) fn natural(id: &GroupId) -> (&str, Option<u64>) {
    match id.as_str().rsplit_once('-') {
        Some((name, number)) => match number.parse() {
            Ok(number) => (name, Some(number)),
            Err(_) => (id.as_str(), None),
        },
        None => (id.as_str(), None),
    }
}

/// Reasons go into logs and tables.
fn shorten(reason: &str) -> String {
    const MOST: usize = 120;
    match reason.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}…", &reason[..end]),
        None => reason.to_owned(),
    }
}
