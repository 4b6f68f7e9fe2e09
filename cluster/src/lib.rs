//! Who is in the cluster: names of its parts, what each was told to do, and the current list of members. It is written down in a
//! [`Registry`], in this process or in etcd; whoever reads the members sees a watched snapshot, whether they follow the registry
//! or come from a fixed list.

mod bounds;
pub mod etcd;
mod id;
mod in_process;
mod membership;
mod registry;
mod state;

pub use bounds::{MAX_CHANGES, MAX_NAME_BYTES, MAX_VALUE_BYTES, check_name};
pub use id::{Epoch, GroupId, InvalidAddress, NodeAddress, NodeId, Rank};
pub use in_process::InProcessRegistry;
pub use membership::{LanguageGroup, Members, Membership, MembershipError};
pub use registry::{Announcement, Candidacy, Change, Fence, Registry, RegistryError};
pub use state::{
    ClusterState, CoordinatorRecord, Deployment, GroupAssignment, LanguageStatus, NodeRecord,
    NodeStatus, Phase, Revision, Role, ShardKey, VisionStatus,
};
