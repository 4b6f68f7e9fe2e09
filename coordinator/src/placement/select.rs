//! Which nodes a group is given: one node that has devices for all its ranks, or else a node for each rank, on one machine if there is
//! one. Nodes that nothing speaks against come first, then those that have the weights already.

use std::collections::{BTreeMap, BTreeSet};

use inkstone_cluster::{GroupAssignment, NodeId, NodeRecord, Rank, Role, ShardKey};

use super::nodes::View;

/// A node that may be given ranks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Candidate<'a> {
    pub(super) node: &'a NodeRecord,
    /// It ran this group before.
    pub(super) is_own: bool,
    /// Another group that is broken has it.
    pub(super) is_taken: bool,
}

/// The nodes for `num_ranks` ranks, in rank order, if there are enough.
pub(super) fn select(
    view: &View<'_>,
    num_ranks: u32,
    candidates: &[Candidate<'_>],
    before: Option<&GroupAssignment>,
) -> Option<Vec<NodeId>> {
    let innocent: Vec<_> = candidates
        .iter()
        .filter(|candidate| !view.memory.is_suspect(&candidate.node.id))
        .copied()
        .collect();
    // A group on good nodes is better than one machine for all of it.
    for candidates in [&innocent[..], candidates] {
        let chosen = one_node(view, num_ranks, candidates)
            .or_else(|| several_nodes(view, num_ranks, candidates, before));
        if chosen.is_some() {
            return chosen;
        }
    }
    None
}

fn one_node(view: &View<'_>, num_ranks: u32, candidates: &[Candidate<'_>]) -> Option<Vec<NodeId>> {
    let large = candidates
        .iter()
        .filter(|candidate| candidate.node.devices >= num_ranks);
    let best = large.min_by_key(|candidate| {
        let node = candidate.node;
        let kept = num_kept(view, &node.id, num_ranks);
        (
            view.memory.is_suspect(&node.id),
            candidate.is_taken,
            num_ranks - kept,
            has_pictures(view, node),
            node.devices,
            !candidate.is_own,
            &node.id,
        )
    })?;
    Some(vec![best.node.id.clone(); num_ranks as usize])
}

fn several_nodes(
    view: &View<'_>,
    num_ranks: u32,
    candidates: &[Candidate<'_>],
    before: Option<&GroupAssignment>,
) -> Option<Vec<NodeId>> {
    let num_wanted = num_ranks as usize;
    let mut free: Vec<&Candidate<'_>> = candidates
        .iter()
        .filter(|candidate| candidate.node.devices > 0)
        .collect();
    if free.len() < num_wanted {
        return None;
    }
    let mut chosen: Vec<&NodeRecord> = vec![];
    while chosen.len() < num_wanted {
        let num_missing = num_wanted - chosen.len();
        let mut on_host: BTreeMap<&str, usize> = BTreeMap::new();
        for candidate in &free {
            *on_host.entry(&candidate.node.host).or_default() += 1;
        }
        let hosts: BTreeSet<&str> = chosen.iter().map(|node| node.host.as_str()).collect();
        let best = free.iter().enumerate().min_by_key(|(_, candidate)| {
            let node = candidate.node;
            let host = node.host.as_str();
            let num_there = on_host[host];
            // The smallest host that can take all that is missing, or else the one that can take most.
            let host_fit = match num_there >= num_missing {
                true => (0, num_there),
                false => (1, usize::MAX - num_there),
            };
            (
                view.memory.is_suspect(&node.id),
                !candidate.is_own,
                candidate.is_taken,
                !hosts.contains(host),
                host_fit,
                num_kept(view, &node.id, num_ranks) == 0,
                has_pictures(view, node),
                (node.devices, host, &node.id),
            )
        });
        let (index, _) = best?;
        chosen.push(free.remove(index).node);
    }
    Some(in_rank_order(view, num_ranks, &chosen, before))
}

/// Gives each node the rank whose weights it has, or had, as far as they do not compete.
fn in_rank_order(
    view: &View<'_>,
    num_ranks: u32,
    chosen: &[&NodeRecord],
    before: Option<&GroupAssignment>,
) -> Vec<NodeId> {
    let mut ranks: Vec<Option<&NodeId>> = vec![None; num_ranks as usize];
    let mut rest: BTreeSet<&NodeId> = chosen.iter().map(|node| &node.id).collect();
    let had = |node: &NodeId, rank: usize| {
        before.is_some_and(|before| {
            before.ranks.len() == num_ranks as usize && before.ranks.get(rank) == Some(node)
        })
    };
    let keeps = |node: &NodeId, rank: usize| {
        let key = ShardKey {
            rank: Rank(rank as u32),
            world_size: num_ranks,
        };
        let status = view.state.statuses.get(node);
        status.is_some_and(|status| status.kept.contains(&key))
    };
    type Wish<'a> = &'a dyn Fn(&NodeId, usize) -> bool;
    let wishes: [Wish<'_>; 4] = [
        &|node, rank| had(node, rank) && keeps(node, rank),
        &|node, rank| keeps(node, rank),
        &|node, rank| had(node, rank),
        &|_, _| true,
    ];
    for wish in wishes {
        for (rank, place) in ranks.iter_mut().enumerate() {
            if place.is_none() {
                *place = rest.iter().copied().find(|node| wish(node, rank));
                if let Some(node) = place {
                    rest.remove(*node);
                }
            }
        }
    }
    ranks.into_iter().flatten().cloned().collect()
}

/// How many shards of a group of this width a node has in memory.
fn num_kept(view: &View<'_>, node: &NodeId, num_ranks: u32) -> u32 {
    let Some(status) = view.state.statuses.get(node) else {
        return 0;
    };
    let of_width = status.kept.iter().filter(|key| key.world_size == num_ranks);
    u32::try_from(of_width.count()).map_or(num_ranks, |kept| kept.min(num_ranks))
}

/// Whether a node encodes pictures, or else could: it is then better left for that.
fn has_pictures(view: &View<'_>, node: &NodeRecord) -> (bool, bool) {
    let encodes = view.state.vision.contains_key(&node.id);
    (encodes, node.roles.contains(&Role::Vision))
}
