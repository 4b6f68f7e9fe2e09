//! One life of a group: from the moment its ranks are told to meet until it breaks, is taken away or begins anew.

use std::{collections::BTreeSet, fmt};

use inkstone_cluster::{Epoch, GroupId, Rank};

/// Which life of which group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupLife {
    /// The group.
    pub group: GroupId,
    /// Its epoch.
    pub epoch: Epoch,
}

/// A life that broke.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Breakage {
    /// Why, for people.
    pub reason: String,
    /// Ranks that did not answer, as far as it can be told from here.
    pub suspects: BTreeSet<Rank>,
}

impl Breakage {
    /// Nobody is suspected.
    pub fn new(reason: impl Into<String>) -> Self {
        Self::by([], reason)
    }

    /// These ranks are.
    pub fn by(ranks: impl IntoIterator<Item = usize>, reason: impl Into<String>) -> Self {
        let rank = |rank: usize| Rank(u32::try_from(rank).unwrap_or(u32::MAX));
        Self {
            reason: reason.into(),
            suspects: ranks.into_iter().map(rank).collect(),
        }
    }
}

impl fmt::Display for GroupLife {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} in epoch {}", self.group, self.epoch)
    }
}

impl fmt::Display for Breakage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

impl std::error::Error for Breakage {}
