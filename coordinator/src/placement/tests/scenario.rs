//! A cluster written down as text, a line for each thing in it.
//!
//! ```text
//! want groups 2 tp 2 vision 1            what is wanted; `model NAME` may follow
//! node a host h devices 2 language       `vision`, `model m`, `kept 0/2,1/2`, `draining`, `as 2` (incarnation)
//! group group-0 7 on a a ready           phases: ready, loading, joining, leaving, silent, failed, failed(1)
//! vision a 5 ready
//! held a group-9 3                       it still runs what was taken from it
//! load group-0 12
//! ```

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use inkstone_cluster::{
    ClusterState, Deployment, Epoch, GroupAssignment, GroupId, LanguageStatus, NodeId, NodeRecord,
    Phase, Rank, Revision, Role, ShardKey, VisionStatus,
};

use crate::placement::{Loads, Memory, Moment, Plan, Policy, plan};

/// A placer at work on a cluster that is written down.
#[derive(Default)]
pub(super) struct Scenario {
    pub(super) state: ClusterState,
    pub(super) memory: Memory,
    pub(super) loads: Loads,
    pub(super) now: Moment,
}

impl Scenario {
    /// Begins with this cluster.
    pub(super) fn new(text: &str) -> Self {
        let mut scenario = Self::default();
        scenario.becomes(text);
        scenario
    }

    /// The cluster is this from now on; what is remembered stays.
    pub(super) fn becomes(&mut self, text: &str) {
        self.state = ClusterState::default();
        self.loads.clear();
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let words: Vec<&str> = line.split_whitespace().collect();
            match words[0] {
                "want" => self.want(&words[1..]),
                "node" => self.node(&words[1..]),
                "group" => self.group(&words[1..]),
                "vision" => self.vision(&words[1..]),
                "held" => self.says(words[1], words[2], number(words[3]), Phase::Draining),
                "load" => {
                    let load = number(words[2]);
                    self.loads.insert(GroupId::new(words[1]), load);
                }
                other => panic!("no such thing: {other}"),
            }
        }
    }

    /// Time passes, the placer looks, and plans.
    pub(super) fn plan_after(&mut self, passed: Duration) -> Plan {
        let policy = Policy::default();
        self.memory.observe(&self.state, &policy, self.now);
        self.now += passed;
        self.memory.observe(&self.state, &policy, self.now);
        plan(&self.state, &self.memory, &policy, &self.loads, self.now)
    }

    fn want(&mut self, words: &[&str]) {
        let mut deployment = Deployment {
            model: None,
            language_replicas: 0,
            tensor_parallel: 1,
            vision_replicas: 0,
        };
        for pair in words.chunks(2) {
            match pair[0] {
                "groups" => deployment.language_replicas = number(pair[1]) as u32,
                "tp" => deployment.tensor_parallel = number(pair[1]) as u32,
                "vision" => deployment.vision_replicas = number(pair[1]) as u32,
                "model" => deployment.model = Some(pair[1].into()),
                other => panic!("no such wish: {other}"),
            }
        }
        self.state.deployment = Some((deployment, Revision(1)));
    }

    fn node(&mut self, words: &[&str]) {
        let id = NodeId::new(words[0]);
        let mut node = record(&id);
        let mut rest = words[1..].iter();
        while let Some(word) = rest.next() {
            let mut value = || *rest.next().expect("a value");
            match *word {
                "host" => node.host = value().into(),
                "devices" => node.devices = number(value()) as u32,
                "model" => node.model = value().into(),
                "as" => node.incarnation = value().into(),
                "language" => drop(node.roles.insert(Role::Language)),
                "vision" => drop(node.roles.insert(Role::Vision)),
                "draining" => drop(self.state.draining.insert(id.clone())),
                "kept" => {
                    let kept = value().split(',').map(shard).collect();
                    self.state.statuses.entry(id.clone()).or_default().kept = kept;
                }
                other => panic!("no such thing about a node: {other}"),
            }
        }
        if node.roles.is_empty() {
            node.roles.insert(Role::Language);
        }
        self.state.nodes.insert(id, node);
    }

    fn group(&mut self, words: &[&str]) {
        let (id, epoch) = (GroupId::new(words[0]), Epoch(number(words[1])));
        assert_eq!(words[2], "on");
        let (phase, ranks) = words[3..].split_last().expect("a phase");
        let ranks: Vec<NodeId> = ranks.iter().map(|rank| NodeId::new(*rank)).collect();
        for rank in &ranks {
            let is_there = self.state.nodes.contains_key(rank);
            if let (Some(phase), true) = (parse_phase(phase), is_there) {
                self.says(rank.as_str(), id.as_str(), epoch.0, phase);
            }
        }
        let assignment = GroupAssignment { ranks };
        self.state.groups.insert(id, (assignment, epoch));
    }

    fn vision(&mut self, words: &[&str]) {
        let (node, epoch) = (NodeId::new(words[0]), Epoch(number(words[1])));
        if let (Some(phase), true) = (parse_phase(words[2]), self.state.nodes.contains_key(&node)) {
            let status = self.state.statuses.entry(node.clone()).or_default();
            status.vision = Some(VisionStatus { epoch, phase });
        }
        self.state.vision.insert(node, epoch);
    }

    fn says(&mut self, node: &str, group: &str, epoch: u64, phase: Phase) {
        let status = self.state.statuses.entry(NodeId::new(node)).or_default();
        status.language = Some(LanguageStatus {
            group: GroupId::new(group),
            epoch: Epoch(epoch),
            phase,
        });
    }
}

/// A node with one device that does nothing yet.
pub(super) fn record(id: &NodeId) -> NodeRecord {
    NodeRecord {
        id: id.clone(),
        incarnation: "1".into(),
        host: format!("host-of-{id}"),
        address: format!("{id}:7000").parse().expect("a name and a port"),
        roles: BTreeSet::new(),
        devices: 1,
        device_kind: "simulated".into(),
        memory_bytes: 1 << 30,
        model: "m".into(),
        version: "0".into(),
    }
}

fn parse_phase(word: &str) -> Option<Phase> {
    let failed = |suspects: &[u32]| Phase::Failed {
        reason: "broken".into(),
        suspects: suspects.iter().copied().map(Rank).collect(),
    };
    Some(match word {
        "silent" => return None,
        "ready" => Phase::Ready,
        "loading" => Phase::Loading {
            done_bytes: 1,
            total_bytes: 2,
        },
        "joining" => Phase::Joining,
        "leaving" => Phase::Draining,
        "failed" => failed(&[]),
        "failed(0)" => failed(&[0]),
        "failed(1)" => failed(&[1]),
        other => panic!("no such phase: {other}"),
    })
}

fn shard(text: &str) -> ShardKey {
    let (rank, world_size) = text.split_once('/').expect("rank/size");
    ShardKey {
        rank: Rank(number(rank) as u32),
        world_size: number(world_size) as u32,
    }
}

fn number(text: &str) -> u64 {
    text.parse().expect("a number")
}

/// Plans for a cluster after half a minute, so that nothing is merely missing, and compares.
#[track_caller]
pub(super) fn check(cluster: &str, wanted: &str) {
    let mut scenario = Scenario::new(cluster);
    let plan = scenario.plan_after(Duration::from_secs(30));
    check_plan(&plan, wanted);
}

#[track_caller]
pub(super) fn check_plan(plan: &Plan, wanted: &str) {
    let wanted: Vec<&str> = wanted
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    assert_eq!(plan.to_string(), wanted.join("\n"));
}

/// How many ranks each node was given.
pub(super) fn ranks_by_node(state: &ClusterState) -> BTreeMap<NodeId, Vec<GroupId>> {
    let mut by_node: BTreeMap<NodeId, Vec<GroupId>> = BTreeMap::new();
    for (id, (group, _)) in &state.groups {
        for node in &group.ranks {
            by_node.entry(node.clone()).or_default().push(id.clone());
        }
    }
    by_node
}
