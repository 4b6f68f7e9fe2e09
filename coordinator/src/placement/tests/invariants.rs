//! What holds whatever the cluster looks like: made-up clusters in any state, healthy or not, and a placer that is let loose on them.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use inkstone_cluster::{
    Change, ClusterState, Deployment, Epoch, GroupAssignment, GroupId, LanguageStatus, NodeId,
    Phase, Rank, Revision, Role, VisionStatus,
};
use proptest::prelude::*;

use super::{
    scenario::{ranks_by_node, record},
    world::World,
};
use crate::placement::Plan;

const NUM_NODES: usize = 7;

/// Rounds in which something is changed: one for each group that rolls, is replaced or goes, and a few more.
const MAX_CHANGES: usize = 10;
/// Longer than any patience of the placer.
const IDLE_ROUNDS: usize = 35;
const ROUND: Duration = Duration::from_secs(2);

fn node_name(index: usize) -> NodeId {
    NodeId::new(format!("n{index}"))
}

#[derive(Debug, Clone)]
struct DrawnNode {
    is_there: bool,
    host: u8,
    devices: u32,
    roles: u8,
    other_model: bool,
    draining: bool,
    vision: Option<(bool, u8)>,
}

#[derive(Debug, Clone)]
struct DrawnGroup {
    ranks: Vec<usize>,
    phases: Vec<u8>,
}

fn drawn_node() -> impl Strategy<Value = DrawnNode> {
    (
        prop::bool::weighted(0.85),
        0..3_u8,
        0..4_u32,
        1..4_u8,
        prop::bool::weighted(0.1),
        prop::bool::weighted(0.1),
        prop::option::weighted(0.3, (any::<bool>(), 0..5_u8)),
    )
        .prop_map(
            |(is_there, host, devices, roles, other_model, draining, vision)| DrawnNode {
                is_there,
                host,
                devices,
                roles,
                other_model,
                draining,
                vision,
            },
        )
}

fn drawn_group() -> impl Strategy<Value = DrawnGroup> {
    (1..4_usize, any::<bool>()).prop_flat_map(|(width, one_node)| {
        let rank = 0..NUM_NODES;
        let ranks = match one_node {
            true => rank.prop_map(move |node| vec![node; width]).boxed(),
            false => prop::collection::vec(rank, width).boxed(),
        };
        let phases = prop_oneof![
            // Most of what runs is healthy.
            Just(vec![3; NUM_NODES]),
            prop::collection::vec(0..6_u8, NUM_NODES),
        ];
        (ranks, phases).prop_map(|(ranks, phases)| DrawnGroup { ranks, phases })
    })
}

prop_compose! {
    fn drawn_state()(
        nodes in prop::collection::vec(drawn_node(), NUM_NODES),
        groups in prop::collection::vec(drawn_group(), 0..4),
        replicas in 0..4_u32,
        width in 1..4_u32,
        vision in 0..3_u32,
        names_model in any::<bool>(),
    ) -> ClusterState {
        let mut state = ClusterState {
            revision: Revision(100),
            ..ClusterState::default()
        };
        let deployment = Deployment {
            model: names_model.then(|| "m".to_owned()),
            language_replicas: replicas,
            tensor_parallel: width,
            vision_replicas: vision,
        };
        state.deployment = Some((deployment, Revision(1)));
        for (index, drawn) in nodes.iter().enumerate() {
            add_node(&mut state, &node_name(index), drawn);
        }
        for (index, drawn) in groups.iter().enumerate() {
            add_group(&mut state, index, drawn);
        }
        state
    }
}

fn add_node(state: &mut ClusterState, id: &NodeId, drawn: &DrawnNode) {
    if drawn.is_there {
        let mut node = record(id);
        node.host = format!("host-{}", drawn.host);
        node.devices = drawn.devices;
        if drawn.roles & 1 != 0 {
            node.roles.insert(Role::Language);
        }
        if drawn.roles & 2 != 0 {
            node.roles.insert(Role::Vision);
        }
        if drawn.other_model {
            node.model = "other".into();
        }
        state.nodes.insert(id.clone(), node);
        if drawn.draining {
            state.draining.insert(id.clone());
        }
    }
    if let Some((is_said, phase)) = drawn.vision {
        let epoch = Epoch(7);
        state.vision.insert(id.clone(), epoch);
        if is_said && drawn.is_there {
            let phase = phase_of(phase, 0);
            let status = state.statuses.entry(id.clone()).or_default();
            status.vision = Some(VisionStatus { epoch, phase });
        }
    }
}

fn add_group(state: &mut ClusterState, index: usize, drawn: &DrawnGroup) {
    let (id, epoch) = (
        GroupId::new(format!("group-{index}")),
        Epoch(10 + index as u64),
    );
    let ranks: Vec<NodeId> = drawn.ranks.iter().copied().map(node_name).collect();
    for (node, phase) in drawn.ranks.iter().zip(&drawn.phases) {
        let node = node_name(*node);
        if state.nodes.contains_key(&node) && *phase < 5 {
            let status = state.statuses.entry(node).or_default();
            status.language = Some(LanguageStatus {
                group: id.clone(),
                epoch,
                phase: phase_of(*phase, ranks.len()),
            });
        }
    }
    state.groups.insert(id, (GroupAssignment { ranks }, epoch));
}

fn phase_of(number: u8, num_ranks: usize) -> Phase {
    match number {
        0 => Phase::Loading {
            done_bytes: 1,
            total_bytes: 2,
        },
        1 => Phase::Joining,
        2 => Phase::Failed {
            reason: "drawn".into(),
            suspects: (0..num_ranks as u32 / 2).map(Rank).collect(),
        },
        3 => Phase::Ready,
        _ => Phase::Draining,
    }
}

/// What a plan must not do to the cluster that it was made for.
fn check_plan(state: &ClusterState, plan: &Plan) {
    let (deployment, _) = state.deployment.as_ref().expect("something is wanted");
    let mut seen = BTreeSet::new();
    let mut num_ready = num_ready(state);
    for step in &plan.steps {
        let name = match &step.change {
            Change::PutGroup { group, .. } | Change::RemoveGroup { group, .. } => {
                format!("group {group}")
            }
            Change::PutVision { node } | Change::RemoveVision { node } => format!("node {node}"),
        };
        assert!(seen.insert(name), "changed twice:\n{plan}");
        match &step.change {
            Change::PutGroup {
                group, assignment, ..
            } => {
                check_assignment(state, assignment, plan);
                // A group that serves begins anew for a reason only.
                let has_reason = !state.is_group_ready(group)
                    || is_relieved(state, group)
                    || state.groups[group].0.ranks.len() != deployment.tensor_parallel as usize
                    || is_misfit(state, group)
                    || has_other_model(state, group);
                assert!(has_reason, "{plan}");
            }
            Change::RemoveGroup { group, .. } => {
                if !state.is_group_ready(group) || is_misfit(state, group) {
                    continue;
                }
                if !is_relieved(state, group) {
                    let wanted = deployment.language_replicas as usize;
                    assert!(num_ready > wanted, "{num_ready} serve:\n{plan}");
                }
                num_ready -= 1;
            }
            Change::PutVision { node } => {
                let node = &state.nodes[node];
                assert!(node.roles.contains(&Role::Vision), "{plan}");
                assert!(!state.draining.contains(&node.id), "{plan}");
            }
            Change::RemoveVision { node } => {
                assert!(state.vision.contains_key(node), "{plan}");
            }
        }
    }
}

fn check_assignment(state: &ClusterState, assignment: &GroupAssignment, plan: &Plan) {
    let mut counts: BTreeMap<&NodeId, usize> = BTreeMap::new();
    for node in &assignment.ranks {
        *counts.entry(node).or_default() += 1;
    }
    let num_ranks = assignment.ranks.len();
    assert!(counts.len() == 1 || counts.len() == num_ranks, "{plan}");
    let mut models = BTreeSet::new();
    for (id, count) in counts {
        let node = &state.nodes[id];
        assert!(count <= node.devices as usize, "{plan}");
        assert!(node.roles.contains(&Role::Language), "{plan}");
        assert!(!state.draining.contains(id), "{plan}");
        models.insert(&node.model);
    }
    assert_eq!(models.len(), 1, "{plan}");
}

/// Groups that serve and could go on doing so.
fn num_ready(state: &ClusterState) -> usize {
    let groups = state.groups.keys();
    groups
        .filter(|id| state.is_group_ready(id) && !is_misfit(state, id))
        .count()
}

fn is_relieved(state: &ClusterState, id: &GroupId) -> bool {
    let (group, _) = &state.groups[id];
    group.ranks.iter().any(|node| state.draining.contains(node))
}

fn has_other_model(state: &ClusterState, id: &GroupId) -> bool {
    let (group, _) = &state.groups[id];
    group
        .ranks
        .iter()
        .any(|node| state.nodes[node].model != "m")
}

/// What no placer would have written.
fn is_misfit(state: &ClusterState, id: &GroupId) -> bool {
    let (group, _) = &state.groups[id];
    let nodes: BTreeSet<_> = group.ranks.iter().collect();
    let models: BTreeSet<_> = nodes
        .iter()
        .filter_map(|node| Some(&state.nodes.get(*node)?.model))
        .collect();
    let bad = |node: &&&NodeId| {
        let record = &state.nodes[**node];
        let num_ranks = group.ranks.iter().filter(|rank| rank == *node).count();
        num_ranks > record.devices as usize || !record.roles.contains(&Role::Language)
    };
    models.len() > 1
        || (nodes.len() != 1 && nodes.len() != group.ranks.len())
        || nodes.iter().any(|node| bad(&node))
}

/// Runs the placer until it has been content for longer than anything is waited for.
fn settle(world: &mut World) {
    let mut num_changes = 0;
    let mut num_idle = 0;
    while num_idle < IDLE_ROUNDS {
        let plan = world.plan();
        check_plan(&world.state, &plan);
        num_idle += 1;
        if !plan.steps.is_empty() {
            num_idle = 0;
            num_changes += 1;
        }
        assert!(num_changes <= MAX_CHANGES, "no end of changes:\n{plan}");
        world.apply(&plan);
        world.pass(ROUND);
    }
}

/// Whether there is a node left that another group could be given.
fn has_room(state: &ClusterState) -> bool {
    let (deployment, _) = state.deployment.as_ref().expect("something is wanted");
    let width = deployment.tensor_parallel;
    let by_node = ranks_by_node(state);
    let model = state.groups.values().find_map(|(group, _)| {
        let leader = state.nodes.get(&group.ranks[0])?;
        Some(leader.model.clone())
    });
    let model = deployment.model.clone().or(model);
    let is_free = |id: &NodeId| {
        let in_use = by_node.get(id).is_some_and(|groups| {
            let mut groups = groups.iter();
            groups.any(|group| {
                !state.groups[group]
                    .0
                    .ranks
                    .iter()
                    .any(|n| !state.nodes.contains_key(n))
            })
        });
        let status = state.statuses.get(id);
        let leaves = status.is_some_and(|status| {
            let language = status.language.as_ref().map(|s| &s.phase);
            let vision = status.vision.as_ref().map(|s| &s.phase);
            language == Some(&Phase::Draining) || vision == Some(&Phase::Draining)
        });
        !in_use && !leaves
    };
    let free: Vec<_> = state
        .nodes
        .values()
        .filter(|node| {
            is_free(&node.id)
                && node.roles.contains(&Role::Language)
                && !state.draining.contains(&node.id)
                && node.devices > 0
                && model.as_ref().is_none_or(|model| *model == node.model)
        })
        .collect();
    free.len() >= width as usize || free.iter().any(|node| node.devices >= width)
}

proptest! {
    #[test]
    fn from_any_state_placing_settles_and_nothing_is_left_undone(state in drawn_state()) {
        let mut world = World::new(state);
        settle(&mut world);
        let state = &world.state;
        let (deployment, _) = state.deployment.as_ref().unwrap();
        // Nobody is in two groups that run.
        for (node, groups) in ranks_by_node(state) {
            let distinct: BTreeSet<_> = groups
                .iter()
                .filter(|id| state.groups[*id].0.ranks.iter().all(|n| state.nodes.contains_key(n)))
                .collect();
            prop_assert!(distinct.len() <= 1, "{node} is in {distinct:?}");
        }
        let num_ready = state.groups.keys().filter(|id| state.is_group_ready(id)).count();
        let wanted = deployment.language_replicas as usize;
        // Groups that leave of their own accord do so in their own time.
        let leaves = |status: &inkstone_cluster::NodeStatus| {
            status.language.as_ref().is_some_and(|s| s.phase == Phase::Draining)
        };
        let num_leaving = state.statuses.values().filter(|status| leaves(status)).count();
        prop_assert!(num_ready <= wanted + num_leaving, "{num_ready} of {wanted}");
        // With another model in the cluster the majority decides which one counts.
        let one_model = state.nodes.values().all(|node| node.model == "m");
        if one_model && num_leaving == 0 && num_ready < wanted {
            prop_assert!(!has_room(state), "{num_ready} of {wanted} serve: {:?}", state.groups);
        }
    }

    #[test]
    fn the_same_cluster_gets_the_same_plan(state in drawn_state()) {
        let plan = |state: &ClusterState| World::new(state.clone()).plan();
        prop_assert_eq!(plan(&state), plan(&state));
    }

    #[test]
    fn what_is_settled_is_left_alone_by_a_placer_that_knows_nothing(state in drawn_state()) {
        let mut world = World::new(state);
        settle(&mut world);
        let mut fresh = World::new(world.state.clone());
        let first = fresh.plan();
        prop_assert!(first.steps.is_empty(), "{}", first);
        fresh.pass(ROUND * 5);
        let second = fresh.plan();
        prop_assert!(second.steps.is_empty(), "{}", second);
    }

    #[test]
    fn nodes_that_come_and_go_never_stop_what_runs_elsewhere(
        state in drawn_state(),
        falls in prop::collection::vec((0..NUM_NODES, any::<bool>()), 1..12),
    ) {
        let mut world = World::new(state);
        for (index, restarts) in falls {
            let id = node_name(index);
            if let Some(mut node) = world.state.nodes.remove(&id) {
                world.state.statuses.remove(&id);
                if restarts {
                    node.incarnation += "+";
                    world.state.nodes.insert(id, node);
                }
            } else {
                let mut node = record(&id);
                node.roles.insert(Role::Language);
                world.state.nodes.insert(id, node);
            }
            for _ in 0..4 {
                let plan = world.plan();
                let serving: Vec<_> = world
                    .state
                    .groups
                    .keys()
                    .filter(|id| world.state.is_group_ready(id))
                    .collect();
                if !serving.is_empty() {
                    check_plan(&world.state, &plan);
                }
                world.apply(&plan);
                world.pass(ROUND / 4);
            }
        }
    }
}
