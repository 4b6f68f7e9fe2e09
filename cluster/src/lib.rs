//! Who is in the cluster: names of its parts and the current list of members. Members come from a fixed list; whoever
//! reads them sees a watched snapshot, so that another source can take the list's place without the readers noticing.

mod id;
mod membership;

pub use id::{Epoch, GroupId, InvalidAddress, NodeAddress, Rank};
pub use membership::{LanguageGroup, Members, Membership, MembershipError};
