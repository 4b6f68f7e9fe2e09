//! The list of members and the handle by which it is read.

use std::{collections::BTreeSet, sync::Arc};

use tokio::sync::watch;

use crate::{ClusterState, Epoch, GroupId, NodeAddress};

/// The members of a cluster at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Members {
    /// The replicas of the language model.
    pub language_groups: Vec<LanguageGroup>,
    /// The workers that encode pictures.
    pub vision_workers: Vec<NodeAddress>,
}

/// One replica of the language model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LanguageGroup {
    /// Its name.
    pub id: GroupId,
    /// Where its leader (rank 0) answers.
    pub leader: NodeAddress,
    /// Which life of the group this is about, for leaders that refuse requests of another; none where the list is fixed.
    pub epoch: Option<Epoch>,
}

/// Why a list of members is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MembershipError {
    /// There is nothing to answer with.
    #[error("at least one language group is wanted, found none")]
    NoLanguageGroup,
    /// There is nothing to look at pictures with.
    #[error("at least one vision worker is wanted, found none")]
    NoVisionWorker,
    /// Two members in one place.
    #[error("every member must have an address of its own, found {0} twice")]
    SameAddress(NodeAddress),
    /// Two groups of one name.
    #[error("every language group must have a name of its own, found `{0}` twice")]
    SameGroup(GroupId),
}

/// A handle on the current members; cheap to clone, all clones see the same list.
#[derive(Debug, Clone)]
pub struct Membership {
    current: watch::Receiver<Arc<Members>>,
}

impl Membership {
    /// A list that never changes.
    pub fn fixed(members: Members) -> Result<Self, MembershipError> {
        members.check()?;
        // The value stays readable when the sending half is gone.
        let (_, current) = watch::channel(Arc::new(members));
        Ok(Self { current })
    }

    /// Those members of what a registry holds that say they serve. There may be none. To be called within a runtime, in which
    /// a task follows for as long as there is a clone of the result.
    pub fn follow(mut state: watch::Receiver<Arc<ClusterState>>) -> Self {
        let members = Members::serving(&state.borrow_and_update());
        let (sender, current) = watch::channel(Arc::new(members));
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    // Nobody reads any more.
                    () = sender.closed() => return,
                    changed = state.changed() => if changed.is_err() { return },
                }
                let members = Members::serving(&state.borrow_and_update());
                sender.send_if_modified(|current| {
                    let differs = **current != members;
                    if differs {
                        *current = Arc::new(members);
                    }
                    differs
                });
            }
        });
        Self { current }
    }

    /// The members as last known.
    pub fn current(&self) -> Arc<Members> {
        self.current.borrow().clone()
    }

    /// The members, and word of every change.
    pub fn changes(&self) -> watch::Receiver<Arc<Members>> {
        self.current.clone()
    }
}

impl Members {
    fn serving(state: &ClusterState) -> Self {
        let ready = |id: &&GroupId| state.is_group_ready(id);
        let group = |id: &GroupId| {
            let (assignment, epoch) = state.groups.get(id)?;
            let leader = state.nodes.get(assignment.ranks.first()?)?;
            Some(LanguageGroup {
                id: id.clone(),
                leader: leader.address.clone(),
                epoch: Some(*epoch),
            })
        };
        let encoders = state.vision.keys().filter(|id| state.is_vision_ready(id));
        Self {
            language_groups: state
                .groups
                .keys()
                .filter(ready)
                .filter_map(group)
                .collect(),
            vision_workers: encoders
                .filter_map(|id| Some(state.nodes.get(id)?.address.clone()))
                .collect(),
        }
    }

    fn check(&self) -> Result<(), MembershipError> {
        if self.language_groups.is_empty() {
            return Err(MembershipError::NoLanguageGroup);
        }
        if self.vision_workers.is_empty() {
            return Err(MembershipError::NoVisionWorker);
        }
        let mut ids = BTreeSet::new();
        let mut addresses = BTreeSet::new();
        for group in &self.language_groups {
            if !ids.insert(&group.id) {
                return Err(MembershipError::SameGroup(group.id.clone()));
            }
        }
        let leaders = self.language_groups.iter().map(|group| &group.leader);
        for address in leaders.chain(&self.vision_workers) {
            if !addresses.insert(address) {
                return Err(MembershipError::SameAddress(address.clone()));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(groups: &[(&str, &str)], vision: &[&str]) -> Members {
        Members {
            language_groups: groups
                .iter()
                .map(|(id, leader)| LanguageGroup {
                    id: GroupId::new(*id),
                    leader: leader.parse().unwrap(),
                    epoch: None,
                })
                .collect(),
            vision_workers: vision.iter().map(|text| text.parse().unwrap()).collect(),
        }
    }

    #[test]
    fn a_fixed_list_is_what_every_clone_reads() {
        let list = members(&[("0", "a:1"), ("1", "b:1")], &["c:1"]);
        let membership = Membership::fixed(list.clone()).unwrap();
        assert_eq!(*membership.clone().current(), list);
        assert_eq!(*membership.current(), list);
    }

    #[test]
    fn lists_that_cannot_serve_are_refused() {
        for (list, wanted) in [
            (members(&[], &["c:1"]), "at least one language group"),
            (members(&[("0", "a:1")], &[]), "at least one vision worker"),
            (
                members(&[("0", "a:1"), ("0", "b:1")], &["c:1"]),
                "found `0` twice",
            ),
            (
                members(&[("0", "a:1")], &["c:1", "a:1"]),
                "found http://a:1 twice",
            ),
        ] {
            let error = Membership::fixed(list).unwrap_err().to_string();
            assert!(error.contains(wanted), "{error}");
        }
    }
}
