//! A registry in this process, for a cluster that lives in one: what is dropped is gone at once, and it always answers.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::{sync::watch, time::timeout};

use crate::{
    Announcement, Candidacy, Change, ClusterState, CoordinatorRecord, Deployment, Epoch, Fence,
    GroupId, NodeId, NodeRecord, NodeStatus, Registry, RegistryError, Revision, bounds,
};

/// How long [`Registry::nccl_id`] waits: as long as the other registry does by default.
const TIME_LIMIT: Duration = Duration::from_secs(3);

/// The members of a cluster that lives in one process.
pub struct InProcessRegistry {
    shared: Arc<Shared>,
}

impl InProcessRegistry {
    /// An empty registry.
    #[expect(clippy::new_ret_no_self, reason = "it is used as a registry only")]
    pub fn new() -> Arc<dyn Registry> {
        Arc::new(Self {
            shared: Arc::new(Shared {
                book: Mutex::default(),
                state: watch::Sender::default(),
                connected: watch::Sender::new(true),
            }),
        })
    }
}

struct Shared {
    book: Mutex<Book>,
    state: watch::Sender<Arc<ClusterState>>,
    connected: watch::Sender<bool>,
}

/// What is written, and by whom.
#[derive(Default)]
struct Book {
    state: ClusterState,
    /// Whose the records are: the last announcement of a name owns it.
    nodes: BTreeMap<NodeId, Owner>,
    coordinators: BTreeMap<NodeId, Owner>,
    /// All who stand for election, in order; the first is elected.
    candidates: VecDeque<Candidate>,
    nccl_ids: BTreeMap<(GroupId, Epoch), Bytes>,
    last_owner: Owner,
}

/// Tells announcements and candidacies apart.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Owner(u64);

struct Candidate {
    owner: Owner,
    id: NodeId,
    fence: watch::Sender<Option<Fence>>,
}

impl Shared {
    fn book(&self) -> MutexGuard<'_, Book> {
        // No write leaves the book half done, so a panic of another thread does not spoil it.
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does a write, which gets a revision of its own, and shows it.
    fn write<T>(&self, write: impl FnOnce(&mut Book, Revision) -> T) -> T {
        self.try_write(|book, revision| Ok::<_, std::convert::Infallible>(write(book, revision)))
            .unwrap_or_else(|never| match never {})
    }

    /// Does a write, or nothing.
    fn try_write<T, E>(
        &self,
        write: impl FnOnce(&mut Book, Revision) -> Result<T, E>,
    ) -> Result<T, E> {
        let mut book = self.book();
        let revision = Revision(book.state.revision.0 + 1);
        let value = write(&mut book, revision)?;
        book.state.revision = revision;
        // Under the lock, so that readers see the writes in their order.
        self.state.send_replace(Arc::new(book.state.clone()));
        Ok(value)
    }
}

impl Book {
    fn new_owner(&mut self) -> Owner {
        self.last_owner.0 += 1;
        self.last_owner
    }

    /// The fence of whoever is elected.
    fn fence(&self) -> Option<Fence> {
        *self.candidates.front()?.fence.borrow()
    }

    /// Makes the first candidate the elected one, if it is not already.
    fn elect(&mut self, revision: Revision) {
        let first = self.candidates.front();
        self.state.placer = first.map(|candidate| candidate.id.clone());
        if let Some(candidate) = first {
            candidate.fence.send_if_modified(|fence| {
                let is_new = fence.is_none();
                fence.get_or_insert(Fence(revision));
                is_new
            });
        }
    }

    fn resign(&mut self, owner: Owner, id: &NodeId, revision: Revision) {
        if self.coordinators.get(id) == Some(&owner) {
            self.coordinators.remove(id);
            self.state.coordinators.remove(id);
        }
        let place = self.candidates.iter().position(|c| c.owner == owner);
        if let Some(candidate) = place.and_then(|place| self.candidates.remove(place)) {
            candidate.fence.send_replace(None);
        }
        self.elect(revision);
    }

    fn check(&self, change: &Change) -> Result<(), RegistryError> {
        let (group, expected) = match change {
            Change::PutGroup {
                group, expected, ..
            } => (group, *expected),
            Change::RemoveGroup { group, expected } => (group, Some(*expected)),
            Change::PutVision { .. } | Change::RemoveVision { .. } => return Ok(()),
        };
        let found = self.state.groups.get(group).map(|(_, epoch)| *epoch);
        if found == expected {
            return Ok(());
        }
        let text = |epoch: Option<Epoch>| epoch.map_or("none".into(), |epoch| epoch.to_string());
        Err(RegistryError::Conflict(format!(
            "group `{group}` was expected in epoch {}, found {}",
            text(expected),
            text(found)
        )))
    }

    fn apply(&mut self, change: Change, revision: Revision) {
        let epoch = Epoch(revision.0.unsigned_abs());
        match change {
            Change::PutGroup {
                group, assignment, ..
            } => {
                self.state.groups.insert(group, (assignment, epoch));
            }
            Change::RemoveGroup { group, .. } => {
                self.state.groups.remove(&group);
            }
            Change::PutVision { node } => {
                self.state.vision.insert(node, epoch);
            }
            Change::RemoveVision { node } => {
                self.state.vision.remove(&node);
            }
        }
    }

    fn check_epoch(&self, group: &GroupId, epoch: Epoch) -> Result<(), RegistryError> {
        match self.state.groups.get(group) {
            Some((_, found)) if *found == epoch => Ok(()),
            _ => Err(RegistryError::Conflict(format!(
                "group `{group}` is not in epoch {epoch}"
            ))),
        }
    }
}

#[async_trait]
impl Registry for InProcessRegistry {
    fn state(&self) -> watch::Receiver<Arc<ClusterState>> {
        self.shared.state.subscribe()
    }

    fn is_connected(&self) -> watch::Receiver<bool> {
        self.shared.connected.subscribe()
    }

    fn announce(&self, node: NodeRecord) -> Arc<dyn Announcement> {
        let id = node.id.clone();
        let owner = self.shared.write(|book, _| {
            let owner = book.new_owner();
            book.nodes.insert(node.id.clone(), owner);
            // What another process of this name said is not true of this one.
            book.state.statuses.remove(&node.id);
            book.state.nodes.insert(node.id.clone(), node);
            owner
        });
        Arc::new(InProcessAnnouncement {
            shared: Arc::clone(&self.shared),
            id,
            owner,
        })
    }

    fn campaign(&self, coordinator: CoordinatorRecord) -> Arc<dyn Candidacy> {
        let id = coordinator.id.clone();
        let (sender, fence) = watch::channel(None);
        let owner = self.shared.write(|book, revision| {
            let owner = book.new_owner();
            book.coordinators.insert(id.clone(), owner);
            book.state.coordinators.insert(id.clone(), coordinator);
            book.candidates.push_back(Candidate {
                owner,
                id: id.clone(),
                fence: sender,
            });
            book.elect(revision);
            owner
        });
        Arc::new(InProcessCandidacy {
            shared: Arc::clone(&self.shared),
            id,
            owner,
            fence,
        })
    }

    async fn assign(&self, fence: Fence, changes: Vec<Change>) -> Result<Revision, RegistryError> {
        bounds::check_changes(&changes)?;
        if changes.is_empty() {
            let book = self.shared.book();
            return match book.fence() == Some(fence) {
                true => Ok(book.state.revision),
                false => Err(RegistryError::Fenced),
            };
        }
        self.shared.try_write(|book, revision| {
            if book.fence() != Some(fence) {
                return Err(RegistryError::Fenced);
            }
            changes.iter().try_for_each(|change| book.check(change))?;
            for change in changes {
                book.apply(change, revision);
            }
            // Past lives do not meet again.
            let groups = &book.state.groups;
            book.nccl_ids.retain(|(group, epoch), _| {
                groups
                    .get(group)
                    .is_some_and(|(_, current)| current == epoch)
            });
            Ok(revision)
        })
    }

    async fn set_deployment(
        &self,
        deployment: &Deployment,
        expected: Option<Revision>,
    ) -> Result<Revision, RegistryError> {
        bounds::encode("a deployment", deployment)?;
        self.shared.try_write(|book, revision| {
            let found = book.state.deployment.as_ref();
            let found = found.map_or(Revision(0), |(_, revision)| *revision);
            if expected.is_some_and(|expected| expected != found) {
                return Err(RegistryError::Conflict(
                    "what is wanted was changed meanwhile".into(),
                ));
            }
            book.state.deployment = Some((deployment.clone(), revision));
            Ok(revision)
        })
    }

    async fn set_draining(&self, node: &NodeId, draining: bool) -> Result<(), RegistryError> {
        bounds::check_name(node.as_str())?;
        self.shared.write(|book, _| match draining {
            true => book.state.draining.insert(node.clone()),
            false => book.state.draining.remove(node),
        });
        Ok(())
    }

    async fn publish_nccl_id(
        &self,
        group: &GroupId,
        epoch: Epoch,
        id: Bytes,
    ) -> Result<(), RegistryError> {
        self.shared.try_write(|book, _| {
            book.check_epoch(group, epoch)?;
            book.nccl_ids.insert((group.clone(), epoch), id);
            Ok(())
        })
    }

    async fn nccl_id(&self, group: &GroupId, epoch: Epoch) -> Result<Bytes, RegistryError> {
        let key = (group.clone(), epoch);
        let mut changes = self.shared.state.subscribe();
        let published = async {
            // The sender is ours: there is always another change to wait for.
            while changes.changed().await.is_ok() {
                if let Some(id) = self.shared.book().nccl_ids.get(&key) {
                    return Some(id.clone());
                }
            }
            None
        };
        // After the subscription, so that none is missed.
        if let Some(id) = self.shared.book().nccl_ids.get(&key) {
            return Ok(id.clone());
        }
        match timeout(TIME_LIMIT, published).await {
            Ok(Some(id)) => Ok(id),
            _ => Err(RegistryError::Unavailable(format!(
                "nobody published the NCCL id of group `{group}` in epoch {epoch} within {TIME_LIMIT:?}"
            ))),
        }
    }
}

struct InProcessAnnouncement {
    shared: Arc<Shared>,
    id: NodeId,
    owner: Owner,
}

impl InProcessAnnouncement {
    fn remove(&self) {
        let is_owner = |book: &Book| book.nodes.get(&self.id) == Some(&self.owner);
        // Whoever took the name keeps it.
        let _ = self.shared.try_write(|book, _| {
            if !is_owner(book) {
                return Err(());
            }
            book.nodes.remove(&self.id);
            book.state.nodes.remove(&self.id);
            book.state.statuses.remove(&self.id);
            Ok(())
        });
    }
}

#[async_trait]
impl Announcement for InProcessAnnouncement {
    fn set_status(&self, status: NodeStatus) {
        let _ = self.shared.try_write(|book, _| {
            let is_owner = book.nodes.get(&self.id) == Some(&self.owner);
            if !is_owner || book.state.statuses.get(&self.id) == Some(&status) {
                return Err(());
            }
            book.state.statuses.insert(self.id.clone(), status);
            Ok(())
        });
    }

    async fn withdraw(&self) {
        self.remove();
    }
}

impl Drop for InProcessAnnouncement {
    fn drop(&mut self) {
        self.remove();
    }
}

struct InProcessCandidacy {
    shared: Arc<Shared>,
    id: NodeId,
    owner: Owner,
    fence: watch::Receiver<Option<Fence>>,
}

impl InProcessCandidacy {
    fn give_up(&self) {
        self.shared
            .write(|book, revision| book.resign(self.owner, &self.id, revision));
    }
}

#[async_trait]
impl Candidacy for InProcessCandidacy {
    fn fence(&self) -> watch::Receiver<Option<Fence>> {
        self.fence.clone()
    }

    async fn resign(&self) {
        self.give_up();
    }
}

impl Drop for InProcessCandidacy {
    fn drop(&mut self) {
        self.give_up();
    }
}
