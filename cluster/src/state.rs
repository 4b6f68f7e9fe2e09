//! What the registry holds: who is there, what is wanted, who was told to do what. Plain data, written as JSON.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::{Epoch, GroupId, NodeAddress, NodeId, Rank};

/// Counts the changes of a registry; every write has a higher one than all before.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Revision(pub i64);

/// What a process may be told to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Ranks of the language model.
    Language,
    /// The picture encoder.
    Vision,
}

/// A worker process that offers itself. It is there for as long as the process renews its lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRecord {
    /// Its name: another process of the same name takes its place.
    pub id: NodeId,
    /// Tells the processes of one name apart.
    pub incarnation: String,
    /// The machine it runs on.
    pub host: String,
    /// Where it answers.
    pub address: NodeAddress,
    /// What it may be told to run.
    pub roles: BTreeSet<Role>,
    /// Language ranks that it can run.
    pub devices: u32,
    /// What its devices are: `cpu`, `cuda`, `simulated`.
    pub device_kind: String,
    /// Memory of a device.
    pub memory_bytes: u64,
    /// Name of the model whose checkpoint it has.
    pub model: String,
    /// The program's version.
    pub version: String,
}

/// How far a node is with what it was told.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// What it does for a language group.
    pub language: Option<LanguageStatus>,
    /// What it does with pictures.
    pub vision: Option<VisionStatus>,
    /// Shards whose weights it holds, running or not: what loads at once when it is asked for again.
    pub kept: BTreeSet<ShardKey>,
}

/// A node's part in a language group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LanguageStatus {
    /// The group.
    pub group: GroupId,
    /// The life of the group that this is about.
    pub epoch: Epoch,
    /// How far it is.
    pub phase: Phase,
}

/// A node's part as a vision worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VisionStatus {
    /// The assignment that this is about.
    pub epoch: Epoch,
    /// How far it is.
    pub phase: Phase,
}

/// How far a part is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "phase")]
pub enum Phase {
    /// Reads weights.
    Loading {
        /// Bytes read.
        done_bytes: u64,
        /// Bytes to read.
        total_bytes: u64,
    },
    /// Has its weights and waits for the others of its group.
    Joining,
    /// The first forward ran: it serves.
    Ready,
    /// Finishes what runs and takes nothing new.
    Draining,
    /// This life of the part is over.
    Failed {
        /// Why, for people.
        reason: String,
        /// Ranks that did not answer, as far as it can tell: not to be used again at once.
        suspects: BTreeSet<Rank>,
    },
}

/// Which part of the weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ShardKey {
    /// Which shard.
    pub rank: Rank,
    /// Of how many.
    pub world_size: u32,
}

/// A coordinator that is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CoordinatorRecord {
    /// Its name.
    pub id: NodeId,
    /// Tells the processes of one name apart.
    pub incarnation: String,
    /// Where it answers clients.
    pub address: NodeAddress,
    /// The program's version.
    pub version: String,
}

/// What is wanted of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Deployment {
    /// The model's name; not set: the one that the nodes have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Language groups.
    pub language_replicas: u32,
    /// Ranks of each.
    pub tensor_parallel: u32,
    /// Vision workers.
    pub vision_replicas: u32,
}

/// Who runs a language group. Its epoch is the revision at which this was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupAssignment {
    /// The node of each rank, in order; the first leads. Either all are one node, or all differ.
    pub ranks: Vec<NodeId>,
}

/// Everything that is known of a cluster at one revision.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ClusterState {
    /// The registry's revision that this is of.
    pub revision: Revision,
    /// Worker processes.
    pub nodes: BTreeMap<NodeId, NodeRecord>,
    /// What they say of themselves; one that has not said anything is not in here.
    pub statuses: BTreeMap<NodeId, NodeStatus>,
    /// Nodes that are to be given nothing new, and to be relieved of what they have.
    pub draining: BTreeSet<NodeId>,
    /// Coordinators.
    pub coordinators: BTreeMap<NodeId, CoordinatorRecord>,
    /// The coordinator that places, if one was elected.
    pub placer: Option<NodeId>,
    /// What is wanted, and since when.
    pub deployment: Option<(Deployment, Revision)>,
    /// Who runs which language group, in which epoch.
    pub groups: BTreeMap<GroupId, (GroupAssignment, Epoch)>,
    /// Who encodes pictures, in which epoch.
    pub vision: BTreeMap<NodeId, Epoch>,
}

impl ClusterState {
    /// Whether all ranks of a group say that this life of it serves.
    pub fn is_group_ready(&self, id: &GroupId) -> bool {
        let Some((assignment, epoch)) = self.groups.get(id) else {
            return false;
        };
        let serves = |node: &NodeId| {
            let language = self.statuses.get(node).and_then(|s| s.language.as_ref());
            self.nodes.contains_key(node)
                && language.is_some_and(|status| {
                    status.group == *id && status.epoch == *epoch && status.phase == Phase::Ready
                })
        };
        !assignment.ranks.is_empty() && assignment.ranks.iter().all(serves)
    }

    /// Whether a node encodes pictures and says so.
    pub fn is_vision_ready(&self, node: &NodeId) -> bool {
        let status = self.statuses.get(node).and_then(|s| s.vision.as_ref());
        self.nodes.contains_key(node)
            && self.vision.get(node).is_some_and(|epoch| {
                status.is_some_and(|status| status.epoch == *epoch && status.phase == Phase::Ready)
            })
    }
}
