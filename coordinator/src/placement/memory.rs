//! What the placing coordinator remembers between plans: since when a node is missing, whom failures were blamed on. None of it must
//! survive the process: a placer that was just elected only waits a moment longer before it takes a missing node for lost.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use inkstone_cluster::{
    ClusterState, Epoch, GroupAssignment, GroupId, NodeId, NodeStatus, Phase, Rank,
};

use super::Policy;

/// A time, as the time that passed since some moment of this process.
pub(crate) type Moment = Duration;

/// What is remembered.
#[derive(Debug, Clone, Default)]
pub(crate) struct Memory {
    /// Nodes that are missing, and since when.
    missing: BTreeMap<NodeId, Moment>,
    /// Nodes that failures were blamed on.
    suspects: BTreeMap<NodeId, Suspicion>,
    /// Groups as they were seen.
    groups: BTreeMap<GroupId, GroupMemory>,
    /// Vision assignments whose failure was noted.
    failed_vision: BTreeMap<NodeId, Epoch>,
    /// Nodes that still run what was taken from them, and since when.
    held: BTreeMap<NodeId, (GroupId, Epoch, Moment)>,
    /// Processes that were there when last looked.
    known: BTreeSet<(NodeId, String)>,
    /// When the first and the last of those that came lately did.
    came: Option<(Moment, Moment)>,
}

#[derive(Debug, Clone)]
struct Suspicion {
    /// The process that was blamed; another one of the name is innocent.
    incarnation: String,
    strikes: u32,
    /// Not used at all before.
    rests_until: Moment,
    /// Avoided until.
    until: Moment,
}

#[derive(Debug, Clone)]
struct GroupMemory {
    epoch: Epoch,
    /// The processes that the epoch was seen with.
    incarnations: BTreeMap<NodeId, String>,
    /// What its nodes last said, and since when they say it.
    said: Vec<Option<Phase>>,
    since: Moment,
    /// The epoch's failure was noted.
    is_noted: bool,
}

impl Memory {
    /// Takes in what the registry holds now.
    pub(crate) fn observe(&mut self, state: &ClusterState, policy: &Policy, now: Moment) {
        self.suspects.retain(|node, suspicion| {
            let record = state.nodes.get(node);
            let is_same = record.is_none_or(|node| node.incarnation == suspicion.incarnation);
            is_same && suspicion.until > now
        });
        self.note_missing(state, now);
        self.note_coming(state, policy, now);
        self.note_held(state, now);
        self.groups.retain(|id, _| state.groups.contains_key(id));
        for (id, (assignment, epoch)) in &state.groups {
            self.note_group(state, policy, now, (id, assignment, *epoch));
        }
        self.note_vision(state, policy, now);
    }

    /// Whether a node is missing for good, as far as one can tell.
    pub(crate) fn is_lost(&self, node: &NodeId, policy: &Policy, now: Moment) -> bool {
        let Some(since) = self.missing.get(node) else {
            return false;
        };
        let together = |other: &&Moment| other.abs_diff(*since) <= policy.lost_together_after;
        let num_together = self.missing.values().filter(together).count();
        // The registry itself is the likelier culprit when most are gone at once.
        let patience = if num_together > 1 && num_together > self.known.len() {
            policy.lost_together_after
        } else {
            policy.lost_after
        };
        now.saturating_sub(*since) >= patience
    }

    /// Whether nodes come one after the other just now, so that there is more to choose from in a moment.
    pub(crate) fn is_gathering(&self, policy: &Policy, now: Moment) -> bool {
        self.came.is_some_and(|(first, last)| {
            now.saturating_sub(last) < policy.gather_for
                && now.saturating_sub(first) < policy.gather_for * 4
        })
    }

    /// Whether a failure was blamed on a node, so that others are better.
    pub(crate) fn is_suspect(&self, node: &NodeId) -> bool {
        self.suspects.contains_key(node)
    }

    /// Whether a node must not be used yet.
    pub(crate) fn rests(&self, node: &NodeId, now: Moment) -> bool {
        let suspicion = self.suspects.get(node);
        suspicion.is_some_and(|suspicion| suspicion.rests_until > now)
    }

    /// Whether a node still runs what was taken from it.
    pub(crate) fn is_held(&self, node: &NodeId, policy: &Policy, now: Moment) -> bool {
        let held = self.held.get(node);
        held.is_some_and(|(_, _, since)| now.saturating_sub(*since) < policy.released_after)
    }

    /// The node of this group whose process is another one than when the epoch began, or when it last served.
    pub(crate) fn restarted<'a>(
        &self,
        state: &ClusterState,
        id: &GroupId,
        assignment: &'a GroupAssignment,
    ) -> Option<&'a NodeId> {
        let memory = self.groups.get(id)?;
        let is_other = |node: &&NodeId| {
            let (then, now) = (memory.incarnations.get(*node), state.nodes.get(*node));
            then.zip(now)
                .is_some_and(|(then, now)| *then != now.incarnation)
        };
        assignment.ranks.iter().find(is_other)
    }

    /// Whether a group says nothing new for so long that something must be wrong.
    pub(crate) fn is_stalled(&self, id: &GroupId, policy: &Policy, now: Moment) -> bool {
        let memory = self.groups.get(id);
        memory.is_some_and(|memory| now.saturating_sub(memory.since) >= policy.stalled_after)
    }

    fn note_missing(&mut self, state: &ClusterState, now: Moment) {
        let assigned = state.groups.values().flat_map(|(group, _)| &group.ranks);
        let named = assigned.chain(state.vision.keys());
        let missing: BTreeSet<&NodeId> = named
            .filter(|node| !state.nodes.contains_key(*node))
            .collect();
        self.missing.retain(|node, _| missing.contains(node));
        for node in missing {
            self.missing.entry(node.clone()).or_insert(now);
        }
    }

    fn note_coming(&mut self, state: &ClusterState, policy: &Policy, now: Moment) {
        let nodes = state.nodes.values();
        let there: BTreeSet<_> = nodes
            .map(|node| (node.id.clone(), node.incarnation.clone()))
            .collect();
        if !there.is_subset(&self.known) {
            let first = match self.came {
                Some((first, last)) if now.saturating_sub(last) < policy.gather_for => first,
                _ => now,
            };
            self.came = Some((first, now));
        }
        self.known = there;
    }

    fn note_held(&mut self, state: &ClusterState, now: Moment) {
        let mut held = BTreeMap::new();
        for (node, status) in &state.statuses {
            let Some((group, epoch)) = outlived(state, node, status) else {
                continue;
            };
            let since = match self.held.get(node) {
                Some((before, then, since)) if *before == group && *then == epoch => *since,
                _ => now,
            };
            held.insert(node.clone(), (group, epoch, since));
        }
        self.held = held;
    }

    fn note_group(
        &mut self,
        state: &ClusterState,
        policy: &Policy,
        now: Moment,
        (id, assignment, epoch): (&GroupId, &GroupAssignment, Epoch),
    ) {
        let said: Vec<Option<Phase>> = assignment
            .ranks
            .iter()
            .map(|node| said(state, node, id, epoch).cloned())
            .collect();
        let is_ready = state.is_group_ready(id);
        let memory = self
            .groups
            .entry(id.clone())
            .or_insert_with(|| GroupMemory {
                epoch,
                incarnations: BTreeMap::new(),
                said: vec![],
                since: now,
                is_noted: false,
            });
        if memory.epoch != epoch {
            *memory = GroupMemory {
                epoch,
                incarnations: BTreeMap::new(),
                said: vec![],
                since: now,
                is_noted: false,
            };
        }
        // Whoever serves now is the one to go by.
        if is_ready {
            memory.incarnations.clear();
        }
        for node in &assignment.ranks {
            if let Some(record) = state.nodes.get(node) {
                let incarnations = &mut memory.incarnations;
                incarnations
                    .entry(node.clone())
                    .or_insert_with(|| record.incarnation.clone());
            }
        }
        if memory.said != said || is_ready {
            memory.said = said;
            memory.since = now;
        }
        if memory.is_noted {
            return;
        }
        let mut blamed = blamed(&memory.said, &assignment.ranks);
        let is_stalled = now.saturating_sub(memory.since) >= policy.stalled_after;
        if is_stalled && blamed.is_empty() {
            blamed = silent(&memory.said, &assignment.ranks);
        }
        memory.is_noted = !blamed.is_empty();
        for node in blamed {
            self.blame(state, policy, now, &node);
        }
    }

    fn note_vision(&mut self, state: &ClusterState, policy: &Policy, now: Moment) {
        let vision = &state.vision;
        let failed = &mut self.failed_vision;
        failed.retain(|node, epoch| vision.get(node) == Some(epoch));
        let mut blamed = vec![];
        for (node, epoch) in vision {
            let status = state.statuses.get(node).and_then(|s| s.vision.as_ref());
            let has_failed = status.is_some_and(|status| {
                status.epoch == *epoch && matches!(status.phase, Phase::Failed { .. })
            });
            if has_failed && failed.insert(node.clone(), *epoch).is_none() {
                blamed.push(node.clone());
            }
        }
        for node in blamed {
            self.blame(state, policy, now, &node);
        }
    }

    fn blame(&mut self, state: &ClusterState, policy: &Policy, now: Moment, node: &NodeId) {
        let Some(record) = state.nodes.get(node) else {
            return;
        };
        let before = self.suspects.get(node);
        let strikes = match before {
            Some(before) if before.incarnation == record.incarnation => before.strikes,
            _ => 0,
        };
        let backoff = policy.first_backoff * 2_u32.saturating_pow(strikes.min(16));
        let suspicion = Suspicion {
            incarnation: record.incarnation.clone(),
            strikes: strikes + 1,
            rests_until: now + backoff.min(policy.longest_backoff),
            until: now + policy.suspect_for,
        };
        self.suspects.insert(node.clone(), suspicion);
    }
}

/// What a node says of its part in this life of a group.
pub(super) fn said<'a>(
    state: &'a ClusterState,
    node: &NodeId,
    id: &GroupId,
    epoch: Epoch,
) -> Option<&'a Phase> {
    let status = state.statuses.get(node)?.language.as_ref()?;
    (status.group == *id && status.epoch == epoch).then_some(&status.phase)
}

/// The life of a group that a node goes on with though it is not told to any more.
fn outlived(state: &ClusterState, node: &NodeId, status: &NodeStatus) -> Option<(GroupId, Epoch)> {
    let language = status.language.as_ref()?;
    let goes_on = match language.phase {
        Phase::Ready | Phase::Draining => true,
        // Nothing is lost when it is told something else.
        Phase::Loading { .. } | Phase::Joining | Phase::Failed { .. } => false,
    };
    let is_told = state
        .groups
        .get(&language.group)
        .is_some_and(|(group, epoch)| *epoch == language.epoch && group.ranks.contains(node));
    (goes_on && !is_told).then(|| (language.group.clone(), language.epoch))
}

/// Whom a failure is blamed on: those that are suspected by others, or else those that failed.
fn blamed(said: &[Option<Phase>], ranks: &[NodeId]) -> BTreeSet<NodeId> {
    let mut failed = BTreeSet::new();
    let mut suspected = BTreeSet::new();
    for (phase, node) in said.iter().zip(ranks) {
        let Some(Phase::Failed { suspects, .. }) = phase else {
            continue;
        };
        failed.insert(node.clone());
        let named = suspects.iter().filter_map(|Rank(rank)| {
            let rank = usize::try_from(*rank).ok()?;
            ranks.get(rank)
        });
        suspected.extend(named.cloned());
    }
    if suspected.is_empty() {
        failed
    } else {
        suspected
    }
}

/// Those that are not as far as others of a group that makes no progress.
fn silent(said: &[Option<Phase>], ranks: &[NodeId]) -> BTreeSet<NodeId> {
    let waits = |phase: &Option<Phase>| matches!(phase, Some(Phase::Joining | Phase::Ready));
    let all_wait = said.iter().all(waits);
    let parts = said.iter().zip(ranks);
    let behind = parts.filter(|(phase, _)| all_wait || !waits(phase));
    behind.map(|(_, node)| node.clone()).collect()
}
