//! The registry in etcd, for clusters of many processes. Two threads of its own: one follows and writes, the other keeps leases, each
//! lease over a connection of its own; neither is held up by what the process computes. While etcd is away nothing changes but
//! [`Registry::is_connected`]: readers go on with the last that was known, leases and elections are tried for until they are there again.

mod announce;
mod campaign;
mod follow;
mod keys;
mod lease;
mod link;
mod pace;
mod record;
mod settings;
mod tenure;
mod thread;
mod view;
mod writes;

use std::{future::Future, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use serde::Serialize;
use tokio::sync::watch;

use announce::{Announced, EtcdAnnouncement};
use campaign::{Candidate, Election, EtcdCandidacy};
use follow::{Follower, Outlets};
use keys::{Key, Keys};
use record::Record;
pub use settings::EtcdSettings;
use tenure::Residence;
use thread::Thread;
use writes::Writer;

use crate::{
    Announcement, Candidacy, Change, ClusterState, CoordinatorRecord, Deployment, Epoch, Fence,
    GroupId, NodeId, NodeRecord, Registry, RegistryError, Revision, bounds,
};

/// Follows a cluster in etcd. Returns at once: until etcd answers for the first time what is known is empty. Errors are about the
/// settings only.
pub fn connect(settings: EtcdSettings) -> Result<Arc<dyn Registry>, RegistryError> {
    settings.check()?;
    let start = |name| {
        Thread::start(name).map_err(|error| {
            RegistryError::Unavailable(format!("no thread for the registry: {error}"))
        })
    };
    let (follower, leases) = (start("registry")?, start("registry-lease")?);
    let settings = Arc::new(settings);
    let (sender, receiver) = std::sync::mpsc::channel();
    let tried = Arc::clone(&settings);
    follower.spawn(async move { sender.send(link::try_out(&tried).await) });
    let ended = |_| Err(RegistryError::Unavailable("its thread ended".into()));
    receiver.recv().unwrap_or_else(ended)?;

    let keys = Keys::new(&settings.cluster);
    let outlets = Arc::new(Outlets {
        state: watch::Sender::default(),
        snapshot: watch::Sender::default(),
        connected: watch::Sender::new(false),
        client: watch::Sender::default(),
    });
    let following = Follower::new(Arc::clone(&settings), keys.clone(), Arc::clone(&outlets));
    follower.spawn(async move {
        let never = following.run().await;
        match never {}
    });
    let writer = Writer {
        keys,
        outlets,
        limit: settings.request_timeout,
    };
    Ok(Arc::new(EtcdRegistry {
        settings,
        writer,
        follower: Arc::new(follower),
        leases: Arc::new(leases),
    }))
}

struct EtcdRegistry {
    settings: Arc<EtcdSettings>,
    writer: Writer,
    follower: Arc<Thread>,
    leases: Arc<Thread>,
}

impl EtcdRegistry {
    /// Does something with the writer on the thread that its connection lives on.
    async fn write<T, F>(&self, write: impl FnOnce(Writer) -> F) -> Result<T, RegistryError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, RegistryError>> + Send + 'static,
    {
        let written = self.follower.spawn(write(self.writer.clone())).await;
        written.unwrap_or_else(|_| Err(RegistryError::Unavailable("its thread ended".into())))
    }

    /// A process's record; none, and a word in the log, if it cannot be written.
    fn record(
        &self,
        key: Key,
        id: &NodeId,
        incarnation: &str,
        value: &impl Serialize,
    ) -> Option<Record> {
        let value = bounds::check_name(id.as_str())
            .and_then(|()| bounds::encode("the record of a process", value))
            .inspect_err(|error| tracing::error!(%error, "this process cannot be announced"))
            .ok()?;
        let snapshot = self.writer.outlets.snapshot.subscribe();
        Some(Record::new(
            key,
            &self.writer.keys,
            value,
            incarnation.to_owned(),
            snapshot,
        ))
    }
}

#[async_trait]
impl Registry for EtcdRegistry {
    fn state(&self) -> watch::Receiver<Arc<ClusterState>> {
        self.writer.outlets.state.subscribe()
    }

    fn is_connected(&self) -> watch::Receiver<bool> {
        self.writer.outlets.connected.subscribe()
    }

    fn announce(&self, node: NodeRecord) -> Arc<dyn Announcement> {
        let (sender, status) = watch::channel(None);
        let key = Key::Node(node.id.clone());
        let tenant = self
            .record(key, &node.id, &node.incarnation, &node)
            .map(|record| Announced {
                record,
                status_key: self.writer.keys.text(&Key::Status(node.id.clone())),
                status,
            });
        let residence = tenant.map(|tenant| Residence::start(&self.leases, &self.settings, tenant));
        Arc::new(EtcdAnnouncement {
            status: sender,
            residence,
            _follower: Arc::clone(&self.follower),
        })
    }

    fn campaign(&self, coordinator: CoordinatorRecord) -> Arc<dyn Candidacy> {
        let (sender, fence) = watch::channel(None);
        let CoordinatorRecord {
            id, incarnation, ..
        } = &coordinator;
        let record = self.record(Key::Coordinator(id.clone()), id, incarnation, &coordinator);
        let tenant = record.and_then(|record| {
            Some(Candidate {
                record,
                election: Election {
                    key: self.writer.keys.text(&Key::Placer),
                    value: bounds::encode("a coordinator's name", id).ok()?,
                    fence: sender,
                    snapshot: self.writer.outlets.snapshot.subscribe(),
                },
            })
        });
        let residence = tenant.map(|tenant| Residence::start(&self.leases, &self.settings, tenant));
        Arc::new(EtcdCandidacy {
            fence,
            residence,
            _follower: Arc::clone(&self.follower),
        })
    }

    async fn assign(&self, fence: Fence, changes: Vec<Change>) -> Result<Revision, RegistryError> {
        self.write(async move |writer| writer.assign(fence, changes).await)
            .await
    }

    async fn set_deployment(
        &self,
        deployment: &Deployment,
        expected: Option<Revision>,
    ) -> Result<Revision, RegistryError> {
        let value = bounds::encode("a deployment", deployment)?;
        self.write(async move |writer| writer.set_deployment(value, expected).await)
            .await
    }

    async fn set_draining(&self, node: &NodeId, draining: bool) -> Result<(), RegistryError> {
        bounds::check_name(node.as_str())?;
        let node = node.clone();
        self.write(async move |writer| writer.set_draining(node, draining).await)
            .await
    }

    async fn publish_nccl_id(
        &self,
        group: &GroupId,
        epoch: Epoch,
        id: Bytes,
    ) -> Result<(), RegistryError> {
        bounds::check_name(group.as_str())?;
        let group = group.clone();
        self.write(async move |writer| writer.publish_nccl_id(group, epoch, id).await)
            .await
    }

    async fn nccl_id(&self, group: &GroupId, epoch: Epoch) -> Result<Bytes, RegistryError> {
        let group = group.clone();
        self.write(async move |writer| writer.nccl_id(group, epoch).await)
            .await
    }
}
