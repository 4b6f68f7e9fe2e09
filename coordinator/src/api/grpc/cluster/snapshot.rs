//! The cluster at one moment, as it goes over the wire.

use std::time::Duration;

use inkstone_cluster::{
    ClusterState, Deployment, Epoch, GroupAssignment, GroupId, LanguageStatus, Members, NodeId,
    NodeRecord, Phase, Role, VisionStatus,
};
use inkstone_proto::v1 as wire;

use crate::{
    cluster_load::GroupLoad,
    placement::{Memory, Policy, plan},
};

/// What a registry holds, with what the groups say of their load.
pub(super) fn of_registry(
    state: &ClusterState,
    loads: &[GroupLoad],
    policy: &Policy,
) -> wire::Cluster {
    let deployment = state.deployment.as_ref();
    wire::Cluster {
        revision: state.revision.0,
        placer: name(state.placer.as_ref()),
        deployment: deployment.map(|(wanted, _)| self::deployment(wanted)),
        deployment_revision: deployment.map_or(0, |(_, revision)| revision.0),
        nodes: state
            .nodes
            .values()
            .map(|record| node(state, record))
            .collect(),
        groups: state
            .groups
            .iter()
            .map(|(id, (assignment, epoch))| group(state, loads, id, assignment, *epoch))
            .collect(),
        vision_workers: state
            .vision
            .iter()
            .map(|(node, epoch)| vision_worker(state, node, *epoch))
            .collect(),
        coordinators: state
            .coordinators
            .values()
            .map(|coordinator| wire::Coordinator {
                name: coordinator.id.to_string(),
                address: coordinator.address.to_string(),
                version: coordinator.version.clone(),
            })
            .collect(),
        shortfalls: shortfalls(state, policy),
        ..wire::Cluster::default()
    }
}

/// What is known of members that are a fixed list.
pub(super) fn of_members(members: &Members, loads: &[GroupLoad]) -> wire::Cluster {
    let groups = members.language_groups.iter().map(|group| {
        let load = load_of(loads, &group.id, None);
        wire::LanguageGroup {
            name: group.id.to_string(),
            ranks: vec![group.leader.to_string()],
            // One that reports its load serves; of others nothing is known.
            phase: match load {
                Some(_) => wire::Phase::Ready,
                None => wire::Phase::Unspecified,
            }
            .into(),
            load,
            ..wire::LanguageGroup::default()
        }
    });
    let vision_workers = members
        .vision_workers
        .iter()
        .map(|address| wire::VisionWorker {
            node: address.to_string(),
            ..wire::VisionWorker::default()
        });
    wire::Cluster {
        registry: wire::RegistryStatus::None.into(),
        groups: groups.collect(),
        vision_workers: vision_workers.collect(),
        ..wire::Cluster::default()
    }
}

pub(super) fn deployment(deployment: &Deployment) -> wire::Deployment {
    wire::Deployment {
        model: deployment.model.clone().unwrap_or_default(),
        language_replicas: deployment.language_replicas,
        tensor_parallel: deployment.tensor_parallel,
        vision_replicas: deployment.vision_replicas,
    }
}

/// The same but for what changes with time alone.
pub(super) fn without_ages(mut cluster: wire::Cluster) -> wire::Cluster {
    for load in cluster
        .groups
        .iter_mut()
        .filter_map(|group| group.load.as_mut())
    {
        load.age_millis = 0;
    }
    // Counts all that is written, what is not shown here too.
    cluster.revision = 0;
    cluster
}

fn node(state: &ClusterState, record: &NodeRecord) -> wire::Node {
    let status = state.statuses.get(&record.id).cloned().unwrap_or_default();
    let roles = record.roles.iter().map(|role| match role {
        Role::Language => wire::NodeRole::Language.into(),
        Role::Vision => wire::NodeRole::Vision.into(),
    });
    wire::Node {
        name: record.id.to_string(),
        host: record.host.clone(),
        address: record.address.to_string(),
        roles: roles.collect(),
        devices: record.devices,
        device_kind: record.device_kind.clone(),
        memory_bytes: record.memory_bytes,
        model: record.model.clone(),
        version: record.version.clone(),
        draining: state.draining.contains(&record.id),
        language: status.language.as_ref().map(language_part),
        vision: status.vision.as_ref().map(vision_part),
        kept: status
            .kept
            .iter()
            .map(|key| wire::Shard {
                rank: key.rank.0,
                world_size: key.world_size,
            })
            .collect(),
    }
}

fn language_part(status: &LanguageStatus) -> wire::Part {
    wire::Part {
        group: status.group.to_string(),
        epoch: status.epoch.0,
        ..part(&status.phase)
    }
}

fn vision_part(status: &VisionStatus) -> wire::Part {
    wire::Part {
        epoch: status.epoch.0,
        ..part(&status.phase)
    }
}

fn part(phase: &Phase) -> wire::Part {
    let of = |phase: wire::Phase| wire::Part {
        phase: phase.into(),
        ..wire::Part::default()
    };
    match phase {
        Phase::Loading {
            done_bytes,
            total_bytes,
        } => wire::Part {
            loaded_bytes: *done_bytes,
            total_bytes: *total_bytes,
            ..of(wire::Phase::Loading)
        },
        Phase::Joining => of(wire::Phase::Joining),
        Phase::Ready => of(wire::Phase::Ready),
        Phase::Draining => of(wire::Phase::Draining),
        Phase::Failed { reason, .. } => wire::Part {
            reason: reason.clone(),
            ..of(wire::Phase::Failed)
        },
    }
}

fn group(
    state: &ClusterState,
    loads: &[GroupLoad],
    id: &GroupId,
    assignment: &GroupAssignment,
    epoch: Epoch,
) -> wire::LanguageGroup {
    // A node with several ranks speaks for all of them at once.
    let mut nodes: Vec<&NodeId> = assignment.ranks.iter().collect();
    nodes.dedup();
    let parts: Vec<wire::Part> = nodes
        .iter()
        .map(|node| {
            let status = state.statuses.get(*node).and_then(|s| s.language.as_ref());
            let is_about = |status: &&LanguageStatus| status.group == *id && status.epoch == epoch;
            let status = status.filter(is_about).map(|status| &status.phase);
            part_of(state, node, status)
        })
        .collect();
    let whole = whole(&parts);
    wire::LanguageGroup {
        name: id.to_string(),
        epoch: epoch.0,
        ranks: assignment.ranks.iter().map(ToString::to_string).collect(),
        phase: whole.phase,
        loaded_bytes: whole.loaded_bytes,
        total_bytes: whole.total_bytes,
        reason: whole.reason,
        load: load_of(loads, id, Some(epoch)),
    }
}

fn vision_worker(state: &ClusterState, node: &NodeId, epoch: Epoch) -> wire::VisionWorker {
    let status = state.statuses.get(node).and_then(|s| s.vision.as_ref());
    let status = status.filter(|status| status.epoch == epoch);
    let part = part_of(state, node, status.map(|status| &status.phase));
    wire::VisionWorker {
        node: node.to_string(),
        epoch: epoch.0,
        phase: part.phase,
        loaded_bytes: part.loaded_bytes,
        total_bytes: part.total_bytes,
        reason: part.reason,
    }
}

/// What a node was told to run, given what it says of it.
fn part_of(state: &ClusterState, node: &NodeId, phase: Option<&Phase>) -> wire::Part {
    let told = |phase: wire::Phase, reason: String| wire::Part {
        phase: phase.into(),
        reason,
        ..wire::Part::default()
    };
    match phase {
        _ if !state.nodes.contains_key(node) => {
            told(wire::Phase::Lost, format!("node {node} is not there"))
        }
        Some(phase) => part(phase),
        None => told(wire::Phase::Assigned, String::new()),
    }
}

/// A group is as far as the part of it that is least far.
fn whole(parts: &[wire::Part]) -> wire::Part {
    let order = |part: &&wire::Part| match part.phase() {
        wire::Phase::Unspecified => 0,
        wire::Phase::Lost => 1,
        wire::Phase::Failed => 2,
        wire::Phase::Draining => 3,
        wire::Phase::Assigned => 4,
        wire::Phase::Loading => 5,
        wire::Phase::Joining => 6,
        wire::Phase::Ready => 7,
    };
    let sum = |bytes: fn(&wire::Part) -> u64| {
        let parts = parts.iter();
        parts.fold(0_u64, |sum, part| sum.saturating_add(bytes(part)))
    };
    let least = parts.iter().min_by_key(order).cloned().unwrap_or_default();
    wire::Part {
        loaded_bytes: sum(|part| part.loaded_bytes),
        total_bytes: sum(|part| part.total_bytes),
        ..least
    }
}

fn load_of(loads: &[GroupLoad], id: &GroupId, epoch: Option<Epoch>) -> Option<wire::GroupLoad> {
    let is_about = |load: &&GroupLoad| {
        let epochs = load.epoch.zip(epoch);
        load.group == *id && epochs.is_none_or(|(found, wanted)| found == wanted)
    };
    let load = loads.iter().find(is_about)?;
    let report = &load.report;
    Some(wire::GroupLoad {
        age_millis: millis(load.age),
        waiting: report.waiting,
        running: report.running,
        prefill_tokens: report.prefill_tokens,
        blocks_used: report.blocks_used,
        blocks_cached: report.blocks_cached,
        blocks_total: report.blocks_total,
        steps: report.steps,
        step_millis: u32::try_from(millis(report.step)).unwrap_or(u32::MAX),
        rows_per_second: report.rows_per_second,
        prompt_tokens: report.prompt_tokens,
        cached_prompt_tokens: report.cached_prompt_tokens,
    })
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// What cannot be had whatever is remembered of failures.
fn shortfalls(state: &ClusterState, policy: &Policy) -> Vec<String> {
    let (memory, loads) = (Memory::default(), Default::default());
    plan(state, &memory, policy, &loads, Duration::ZERO).shortfalls
}

fn name(id: Option<&NodeId>) -> String {
    id.map(ToString::to_string).unwrap_or_default()
}
