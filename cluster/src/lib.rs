//! Who is in the cluster: names of its parts and the current list of members. Members come from a fixed list; whoever
//! reads them sees a watched snapshot, so that another source can take the list's place without the readers noticing.

mod id;
mod membership;
mod registry;
mod state;

pub use id::{Epoch, GroupId, InvalidAddress, NodeAddress, NodeId, Rank};
pub use membership::{LanguageGroup, Members, Membership, MembershipError};
pub use registry::{Announcement, Candidacy, Change, Fence, Registry, RegistryError};
pub use state::{
    ClusterState, CoordinatorRecord, Deployment, GroupAssignment, LanguageStatus, NodeRecord,
    NodeStatus, Phase, Revision, Role, ShardKey, VisionStatus,
};
