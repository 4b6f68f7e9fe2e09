//! Vision workers: each is a node of its own, so this is the plainer half of placing.

use inkstone_cluster::{Change, Deployment, NodeId, NodeRecord, Phase, Role};

use super::{nodes::View, plan::Plan};

/// How a node that was told to encode pictures is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Health {
    /// Missing, not long enough to be lost.
    Missing,
    ComingUp,
    Ready,
    /// It has another model than the served one.
    OtherModel,
    /// The node is to be relieved.
    Relieved {
        is_ready: bool,
    },
    /// Its process is about to end.
    Leaving,
    Failed,
    /// It was never one for this.
    Misfit,
    Gone,
}

/// Adds what is to change of the vision workers.
pub(super) fn plan_vision(plan: &mut Plan, view: &View<'_>, deployment: &Deployment) {
    let assigned = view.state.vision.keys();
    let workers: Vec<(&NodeId, Health)> = assigned.map(|node| (node, health(view, node))).collect();
    let wanted = deployment.vision_replicas as usize;
    let count = |is: &dyn Fn(Health) -> bool| workers.iter().filter(|(_, how)| is(*how)).count();
    let num_ready = count(&|how| how == Health::Ready);
    let num_before = count(&|how| how <= Health::Ready);

    let spares = spares(view, &workers);
    let new: Vec<_> = spares
        .iter()
        .filter(|node| !view.memory.rests(&node.id, view.now))
        .take(wanted.saturating_sub(num_before))
        .collect();
    for node in &new {
        let why = format!("{num_before} of {wanted} are there");
        plan.push(put(&node.id), why);
    }
    let num_good = num_before + new.len();
    let is_coming_up = !new.is_empty() || num_before > num_ready;
    remove_surplus(plan, view, &workers, wanted, num_good);
    // So many of those that are gone may come back and be of use.
    let mut num_lacking = wanted.saturating_sub(num_good);
    for (node, how) in &workers {
        let is_put = new.iter().any(|new| new.id == **node);
        let why = match how {
            Health::Gone if num_lacking == 0 => "it is gone, and others are there",
            Health::Gone => {
                num_lacking -= 1;
                continue;
            }
            Health::Failed if num_good >= wanted && !is_put => "it failed, and others are there",
            Health::Misfit => "it does not encode pictures",
            Health::OtherModel if num_ready >= wanted => "it has another model, and others serve",
            // With nothing coming up there is nothing to wait for.
            Health::Relieved { is_ready } if !is_ready || num_ready >= wanted || !is_coming_up => {
                "the node is to be relieved"
            }
            Health::Relieved { .. } => {
                plan.waits = true;
                continue;
            }
            _ => continue,
        };
        plan.push(remove(node), why);
    }
    if num_good < wanted {
        plan.waits = true;
        let num_resting = spares.len() - new.len();
        let mut text = format!(
            "{num_good} of {wanted} vision workers have a place: no other node may encode pictures"
        );
        if num_resting > 0 {
            text += &format!(" ({num_resting} after a failure, not used for a moment)");
        }
        plan.shortfalls.push(text);
    }
}

fn health(view: &View<'_>, id: &NodeId) -> Health {
    let Some(node) = view.node(id) else {
        return match view.memory.is_lost(id, view.policy, view.now) {
            true => Health::Gone,
            false => Health::Missing,
        };
    };
    if !node.roles.contains(&Role::Vision) {
        return Health::Misfit;
    }
    let is_ready = view.state.is_vision_ready(id);
    let epoch = view.state.vision.get(id);
    let status = view.state.statuses.get(id).and_then(|s| s.vision.as_ref());
    match status.filter(|status| Some(&status.epoch) == epoch) {
        Some(status) if status.phase == Phase::Draining => return Health::Leaving,
        Some(status) if matches!(status.phase, Phase::Failed { .. }) => return Health::Failed,
        _ => {}
    }
    if view.state.draining.contains(id) {
        Health::Relieved { is_ready }
    } else if !view.has_model(node) {
        Health::OtherModel
    } else if is_ready {
        Health::Ready
    } else {
        Health::ComingUp
    }
}

/// Nodes that could encode pictures and do not, the best first: those that cannot do anything else, or do nothing else.
fn spares<'a>(view: &View<'a>, workers: &[(&NodeId, Health)]) -> Vec<&'a NodeRecord> {
    let runs_group = |id: &NodeId| {
        let mut groups = view.state.groups.values();
        groups.any(|(group, _)| group.ranks.contains(id))
    };
    let is_free = |id: &NodeId| {
        let worker = workers.iter().find(|(node, _)| *node == id);
        worker.is_none_or(|(_, how)| *how == Health::Failed)
    };
    let nodes = view.state.nodes.values();
    let mut spares: Vec<_> = nodes
        .filter(|node| view.is_eligible(node, Role::Vision) && is_free(&node.id))
        .collect();
    spares.sort_by_key(|node| {
        (
            view.memory.is_suspect(&node.id),
            node.roles.contains(&Role::Language),
            runs_group(&node.id),
            node.devices,
            &node.id,
        )
    });
    spares
}

/// Ends what is more than wanted: what does not serve first, then what failures are blamed on, then what runs a group too, then the last.
fn remove_surplus(
    plan: &mut Plan,
    view: &View<'_>,
    workers: &[(&NodeId, Health)],
    wanted: usize,
    num_good: usize,
) {
    let mut good: Vec<_> = workers
        .iter()
        .filter(|(_, how)| *how <= Health::Ready)
        .collect();
    good.sort_by_key(|(node, how)| {
        let language = view
            .node(node)
            .map(|node| node.roles.contains(&Role::Language));
        (
            *how,
            !view.memory.is_suspect(node),
            language != Some(true),
            std::cmp::Reverse(*node),
        )
    });
    for (node, _) in good.into_iter().take(num_good.saturating_sub(wanted)) {
        plan.push(remove(node), format!("{wanted} are wanted"));
    }
}

fn put(node: &NodeId) -> Change {
    Change::PutVision { node: node.clone() }
}

fn remove(node: &NodeId) -> Change {
    Change::RemoveVision { node: node.clone() }
}
