//! What etcd holds, as far as it was read: from listings and watched events to a [`ClusterState`]. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bytes::Bytes;
use serde::de::DeserializeOwned;

use super::keys::{Key, Keys};
use crate::{
    ClusterState, CoordinatorRecord, Deployment, Epoch, GroupAssignment, GroupId, NodeId,
    NodeRecord, NodeStatus, Revision,
};

/// Longest value that is read. Above the limit of what we write, for those who come after us.
const MAX_READ_BYTES: usize = 65_536;

/// A key as etcd gives it.
#[derive(Debug, Clone)]
pub(super) struct Written<'a> {
    pub(super) key: &'a [u8],
    pub(super) value: &'a [u8],
    /// The revision at which the key came to be.
    pub(super) created: i64,
    /// The revision of this value.
    pub(super) modified: i64,
    /// Zero: none.
    pub(super) lease: i64,
}

/// What is known of etcd's keys at one revision.
#[derive(Debug)]
pub(super) struct View {
    keys: Keys,
    revision: i64,
    entries: BTreeMap<Key, Entry>,
    /// Gone from etcd, and still shown.
    held: BTreeSet<Key>,
}

#[derive(Debug, Clone, PartialEq)]
struct Entry {
    value: Value,
    created: i64,
    modified: i64,
    lease: i64,
}

#[derive(Debug, Clone, PartialEq)]
enum Value {
    Node(NodeRecord),
    Status(NodeStatus),
    Coordinator(CoordinatorRecord),
    Draining,
    Deployment(Deployment),
    Group(GroupAssignment),
    Vision,
    Placer(NodeId),
    NcclId(Bytes),
}

/// What a view shows.
#[derive(Debug, Clone, Default)]
pub(super) struct Snapshot {
    /// Whether etcd is followed: else it may hold something else by now.
    pub(super) is_live: bool,
    pub(super) state: Arc<ClusterState>,
    /// Whose the records of processes and the election are.
    pub(super) owners: BTreeMap<Key, Owner>,
    pub(super) nccl_ids: BTreeMap<(GroupId, Epoch), Bytes>,
}

/// Whose a key is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Owner {
    /// The revision at which the key came to be.
    pub(super) created: i64,
    /// The lease that it is written under.
    pub(super) lease: i64,
}

impl View {
    pub(super) fn new(keys: Keys) -> Self {
        Self {
            keys,
            revision: 0,
            entries: BTreeMap::new(),
            held: BTreeSet::new(),
        }
    }

    /// What is shown is of this revision.
    pub(super) fn revision(&self) -> i64 {
        self.revision
    }

    /// Nothing was written up to here but what was told.
    pub(super) fn advance(&mut self, revision: i64) {
        self.revision = self.revision.max(revision);
    }

    /// Takes what is there at a revision, all of it. With `hold`, processes that are no longer in it are shown until
    /// [`Self::release`].
    pub(super) fn list<'a>(
        &mut self,
        listing: impl IntoIterator<Item = Written<'a>>,
        revision: i64,
        hold: bool,
    ) {
        let mut missing: BTreeSet<_> = self.entries.keys().cloned().collect();
        for written in listing {
            if let Some(key) = self.put(&written) {
                missing.remove(&key);
            }
        }
        for key in missing {
            self.remove(key, hold);
        }
        self.advance(revision);
    }

    /// Takes an event: a key was written. The key is returned where it is one of ours.
    pub(super) fn put(&mut self, written: &Written<'_>) -> Option<Key> {
        let Some(key) = self.keys.parse(written.key) else {
            let key = String::from_utf8_lossy(written.key).into_owned();
            tracing::debug!(key, "skipping a key that is not known");
            return None;
        };
        let entry = match Value::parse(&key, written.value) {
            Ok(value) => Entry {
                value,
                created: written.created,
                modified: written.modified,
                lease: written.lease,
            },
            Err(problem) => {
                let known = self.entries.get(&key);
                // Listings bring it again and again.
                tracing::warn!(
                    key = self.keys.text(&key),
                    problem,
                    kept = known.is_some(),
                    "skipping a value that cannot be read; one that could be read before is kept"
                );
                return Some(key);
            }
        };
        if let (
            Key::Node(id),
            Some(Entry {
                value: Value::Node(before),
                ..
            }),
            Value::Node(now),
        ) = (&key, self.entries.get(&key), &entry.value)
            && before.incarnation != now.incarnation
        {
            // What another process of this name said is not true of this one.
            let status = Key::Status(id.clone());
            if self
                .entries
                .get(&status)
                .is_some_and(|status| status.lease != entry.lease)
            {
                self.remove(status, false);
            }
        }
        self.held.remove(&key);
        self.entries.insert(key.clone(), entry);
        Some(key)
    }

    /// Takes an event: a key was deleted. With `hold`, a process stays shown until [`Self::release`].
    pub(super) fn delete(&mut self, key: &[u8], hold: bool) {
        if let Some(key) = self.keys.parse(key) {
            self.remove(key, hold);
        }
    }

    fn remove(&mut self, key: Key, hold: bool) {
        if !self.entries.contains_key(&key) {
        } else if hold && key.is_presence() {
            self.held.insert(key);
        } else {
            self.held.remove(&key);
            self.entries.remove(&key);
        }
    }

    /// Lets go of what is held; whether there was anything.
    pub(super) fn release(&mut self) -> bool {
        for key in &self.held {
            self.entries.remove(key);
        }
        !std::mem::take(&mut self.held).is_empty()
    }

    /// What is to be shown.
    pub(super) fn snapshot(&self) -> Snapshot {
        let mut snapshot = Snapshot::default();
        let mut state = ClusterState {
            revision: Revision(self.revision),
            ..ClusterState::default()
        };
        for (key, entry) in &self.entries {
            if key.is_presence() || *key == Key::Placer {
                let owner = Owner {
                    created: entry.created,
                    lease: entry.lease,
                };
                snapshot.owners.insert(key.clone(), owner);
            }
            let epoch = Epoch(entry.modified.unsigned_abs());
            match (key, &entry.value) {
                (Key::Node(id), Value::Node(node)) => {
                    state.nodes.insert(id.clone(), node.clone());
                }
                (Key::Status(id), Value::Status(status)) => {
                    state.statuses.insert(id.clone(), status.clone());
                }
                (Key::Coordinator(id), Value::Coordinator(coordinator)) => {
                    state.coordinators.insert(id.clone(), coordinator.clone());
                }
                (Key::Draining(id), Value::Draining) => {
                    state.draining.insert(id.clone());
                }
                (Key::Deployment, Value::Deployment(deployment)) => {
                    state.deployment = Some((deployment.clone(), Revision(entry.modified)));
                }
                (Key::Group(id), Value::Group(assignment)) => {
                    state.groups.insert(id.clone(), (assignment.clone(), epoch));
                }
                (Key::Vision(id), Value::Vision) => {
                    state.vision.insert(id.clone(), epoch);
                }
                (Key::Placer, Value::Placer(id)) => state.placer = Some(id.clone()),
                (Key::NcclId(group, epoch), Value::NcclId(id)) => {
                    snapshot
                        .nccl_ids
                        .insert((group.clone(), *epoch), id.clone());
                }
                _ => unreachable!("values are parsed by their keys"),
            }
        }
        snapshot.state = Arc::new(state);
        snapshot
    }
}

impl Snapshot {
    /// Whether a key that came to be, or was written, at this revision is known to be somebody else's by now, or nobody's.
    pub(super) fn is_lost(
        &self,
        key: &Key,
        revision: i64,
        is_ours: impl Fn(&Owner) -> bool,
    ) -> bool {
        let is_seen = self.is_live && self.state.revision.0 >= revision;
        is_seen && !self.owners.get(key).is_some_and(is_ours)
    }
}

impl Value {
    fn parse(key: &Key, value: &[u8]) -> Result<Self, String> {
        if value.len() > MAX_READ_BYTES {
            let len = value.len();
            return Err(format!(
                "at most {MAX_READ_BYTES} bytes are read, found {len}"
            ));
        }
        let named = |found: &NodeId, wanted: &NodeId| match found == wanted {
            true => Ok(()),
            false => Err(format!(
                "a record of `{wanted}` was expected, found one of `{found}`"
            )),
        };
        Ok(match key {
            Key::Node(id) => {
                let node: NodeRecord = json(value)?;
                named(&node.id, id)?;
                Self::Node(node)
            }
            Key::Status(_) => Self::Status(json(value)?),
            Key::Coordinator(id) => {
                let coordinator: CoordinatorRecord = json(value)?;
                named(&coordinator.id, id)?;
                Self::Coordinator(coordinator)
            }
            Key::Draining(_) => Self::Draining,
            Key::Deployment => Self::Deployment(json(value)?),
            Key::Group(_) => Self::Group(json(value)?),
            Key::Vision(_) => Self::Vision,
            Key::Placer => Self::Placer(json(value)?),
            Key::NcclId(..) => Self::NcclId(Bytes::copy_from_slice(value)),
        })
    }
}

fn json<T: DeserializeOwned>(value: &[u8]) -> Result<T, String> {
    serde_json::from_slice(value).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests;
