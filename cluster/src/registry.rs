//! The one place where a cluster's members are written down: [`Registry`]. There are two: in this process, and etcd.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::watch;

use crate::{
    ClusterState, CoordinatorRecord, Deployment, Epoch, GroupAssignment, GroupId, NodeId,
    NodeRecord, NodeStatus, Revision,
};

/// Where a cluster's members are written down. It is a hint of who is there, never a heartbeat of the data path: while it cannot be
/// reached its readers go on with the last they knew.
#[async_trait]
pub trait Registry: Send + Sync {
    /// Follows everything that is known. The value stays as it was while the registry is away, and never goes back to an earlier revision.
    fn state(&self) -> watch::Receiver<Arc<ClusterState>>;

    /// Whether the registry answers, as of now.
    fn is_connected(&self) -> watch::Receiver<bool>;

    /// Keeps a worker's record written for as long as the result lives, whatever becomes of leases and connections.
    fn announce(&self, node: NodeRecord) -> Arc<dyn Announcement>;

    /// Keeps a coordinator's record written, and stands for election as the one that places.
    fn campaign(&self, coordinator: CoordinatorRecord) -> Arc<dyn Candidacy>;

    /// Writes all changes, or none: only while this fence is the elected coordinator's, and only if every group is as the change
    /// expects it.
    async fn assign(&self, fence: Fence, changes: Vec<Change>) -> Result<Revision, RegistryError>;

    /// Writes what is wanted; with `expected`, only if what was wanted before was written at that revision (0: nothing was).
    async fn set_deployment(
        &self,
        deployment: &Deployment,
        expected: Option<Revision>,
    ) -> Result<Revision, RegistryError>;

    /// Says whether a node is to be relieved of its work.
    async fn set_draining(&self, node: &NodeId, draining: bool) -> Result<(), RegistryError>;

    /// Publishes the id by which the ranks of a group meet over NCCL in this epoch.
    async fn publish_nccl_id(
        &self,
        group: &GroupId,
        epoch: Epoch,
        id: Bytes,
    ) -> Result<(), RegistryError>;

    /// That id; an error when nobody published it within the registry's time limit.
    async fn nccl_id(&self, group: &GroupId, epoch: Epoch) -> Result<Bytes, RegistryError>;
}

/// A worker's record, kept written. Dropped, it is left to expire.
#[async_trait]
pub trait Announcement: Send + Sync {
    /// Says how far the worker is. Never waits; the last one said is what will be written.
    fn set_status(&self, status: NodeStatus);

    /// Takes the record away, as far as the registry answers within its time limit.
    async fn withdraw(&self);
}

/// A coordinator's record and its place in the election.
#[async_trait]
pub trait Candidacy: Send + Sync {
    /// The fence, while this coordinator is elected. It goes away before anybody else can be elected.
    fn fence(&self) -> watch::Receiver<Option<Fence>>;

    /// Takes the record away and gives the election up, as far as the registry answers within its time limit.
    async fn resign(&self);
}

/// Proof of having been elected: writes under it are refused once another was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Fence(pub Revision);

/// A change of who does what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Begins a life of a group: its epoch is the revision of this write.
    PutGroup {
        /// The group.
        group: GroupId,
        /// Who runs it.
        assignment: GroupAssignment,
        /// The epoch that it has now; none: there is no such group.
        expected: Option<Epoch>,
    },
    /// Ends a group.
    RemoveGroup {
        /// The group.
        group: GroupId,
        /// The epoch that it has now.
        expected: Epoch,
    },
    /// A node is to encode pictures.
    PutVision {
        /// The node.
        node: NodeId,
    },
    /// A node is to encode pictures no more.
    RemoveVision {
        /// The node.
        node: NodeId,
    },
}

/// Why the registry did not do it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RegistryError {
    /// It does not answer. What was asked may or may not have been done.
    #[error("the registry does not answer: {0}")]
    Unavailable(String),
    /// Another coordinator was elected.
    #[error("this coordinator is no longer the one that places")]
    Fenced,
    /// Something was not as expected: read again, and decide anew.
    #[error("the registry holds something else than expected: {0}")]
    Conflict(String),
    /// Something is there that we did not write.
    #[error("the registry holds something that cannot be read: {0}")]
    Unreadable(String),
    /// The settings are wrong.
    #[error("{0}")]
    Settings(String),
}
