//! A cluster as JSON: the fields of the proto by their names, enumerations as lower-case words, nothing left out.

use inkstone_proto::v1::{
    Cluster, GroupLoad, LanguageGroup, Node, NodeRole, Part, Phase, RegistryStatus, VisionWorker,
};
use serde_json::{Value, json};

/// The whole cluster.
pub(super) fn of(cluster: &Cluster) -> Value {
    let deployment = cluster.deployment.as_ref().map(|deployment| {
        json!({
            "model": deployment.model,
            "language_replicas": deployment.language_replicas,
            "tensor_parallel": deployment.tensor_parallel,
            "vision_replicas": deployment.vision_replicas,
        })
    });
    let coordinators = cluster.coordinators.iter().map(|coordinator| {
        json!({
            "name": coordinator.name,
            "address": coordinator.address,
            "version": coordinator.version,
        })
    });
    json!({
        "revision": cluster.revision,
        "registry": match cluster.registry() {
            RegistryStatus::Unspecified => "unspecified",
            RegistryStatus::None => "none",
            RegistryStatus::Connected => "connected",
            RegistryStatus::Away => "away",
        },
        "coordinator": cluster.coordinator,
        "placer": cluster.placer,
        "deployment": deployment,
        "deployment_revision": cluster.deployment_revision,
        "nodes": cluster.nodes.iter().map(node).collect::<Vec<_>>(),
        "groups": cluster.groups.iter().map(group).collect::<Vec<_>>(),
        "vision_workers": cluster.vision_workers.iter().map(vision).collect::<Vec<_>>(),
        "coordinators": coordinators.collect::<Vec<_>>(),
        "shortfalls": cluster.shortfalls,
    })
}

fn node(node: &Node) -> Value {
    let roles = node.roles().map(|role| match role {
        NodeRole::Unspecified => "unspecified",
        NodeRole::Language => "language",
        NodeRole::Vision => "vision",
    });
    let kept = node
        .kept
        .iter()
        .map(|shard| json!({ "rank": shard.rank, "world_size": shard.world_size }));
    json!({
        "name": node.name,
        "host": node.host,
        "address": node.address,
        "roles": roles.collect::<Vec<_>>(),
        "devices": node.devices,
        "device_kind": node.device_kind,
        "memory_bytes": node.memory_bytes,
        "model": node.model,
        "version": node.version,
        "draining": node.draining,
        "language": node.language.as_ref().map(part),
        "vision": node.vision.as_ref().map(part),
        "kept": kept.collect::<Vec<_>>(),
    })
}

fn part(part: &Part) -> Value {
    json!({
        "group": part.group,
        "epoch": part.epoch,
        "phase": phase(part.phase()),
        "loaded_bytes": part.loaded_bytes,
        "total_bytes": part.total_bytes,
        "reason": part.reason,
    })
}

fn group(group: &LanguageGroup) -> Value {
    json!({
        "name": group.name,
        "epoch": group.epoch,
        "ranks": group.ranks,
        "phase": phase(group.phase()),
        "loaded_bytes": group.loaded_bytes,
        "total_bytes": group.total_bytes,
        "reason": group.reason,
        "load": group.load.as_ref().map(load),
    })
}

fn load(load: &GroupLoad) -> Value {
    json!({
        "age_millis": load.age_millis,
        "waiting": load.waiting,
        "running": load.running,
        "prefill_tokens": load.prefill_tokens,
        "blocks_used": load.blocks_used,
        "blocks_cached": load.blocks_cached,
        "blocks_total": load.blocks_total,
        "steps": load.steps,
        "step_millis": load.step_millis,
        "rows_per_second": load.rows_per_second,
        "prompt_tokens": load.prompt_tokens,
        "cached_prompt_tokens": load.cached_prompt_tokens,
    })
}

fn vision(worker: &VisionWorker) -> Value {
    json!({
        "node": worker.node,
        "epoch": worker.epoch,
        "phase": phase(worker.phase()),
        "loaded_bytes": worker.loaded_bytes,
        "total_bytes": worker.total_bytes,
        "reason": worker.reason,
    })
}

fn phase(phase: Phase) -> &'static str {
    match phase {
        Phase::Unspecified => "unspecified",
        Phase::Assigned => "assigned",
        Phase::Loading => "loading",
        Phase::Joining => "joining",
        Phase::Ready => "ready",
        Phase::Draining => "draining",
        Phase::Failed => "failed",
        Phase::Lost => "lost",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_have_the_names_of_the_proto() {
        let cluster = Cluster {
            registry: RegistryStatus::Connected.into(),
            groups: vec![LanguageGroup {
                name: "group-0".into(),
                phase: Phase::Ready.into(),
                load: Some(GroupLoad {
                    running: 2,
                    ..GroupLoad::default()
                }),
                ..LanguageGroup::default()
            }],
            ..Cluster::default()
        };
        let value = of(&cluster);
        assert_eq!(value["registry"], "connected");
        assert_eq!(value["deployment"], Value::Null);
        assert_eq!(value["groups"][0]["phase"], "ready");
        assert_eq!(value["groups"][0]["load"]["running"], 2);
    }
}
