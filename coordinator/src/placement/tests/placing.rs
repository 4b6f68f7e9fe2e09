//! The placer at work on a real registry, with nodes that do as they are told.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use inkstone_cluster::{
    Announcement, Candidacy, Change, ClusterState, CoordinatorRecord, Deployment, Epoch, Fence,
    GroupId, InProcessRegistry, LanguageStatus, NodeId, NodeRecord, NodeStatus, Phase, Registry,
    RegistryError, Revision, Role, VisionStatus,
};
use tokio::{sync::watch, task::JoinHandle, time::timeout};

use super::scenario::record;
use crate::{
    config::{PlacementSettings, Wanted},
    placement::{Loads, apply::Placing},
};

const PATIENCE: Duration = Duration::from_secs(20);

fn deployment(language_replicas: u32, vision_replicas: u32) -> Deployment {
    Deployment {
        model: None,
        language_replicas,
        tensor_parallel: 1,
        vision_replicas,
    }
}

fn placing(registry: &Arc<dyn Registry>, name: &str, wanted: Wanted) -> Placing {
    let mut settings = PlacementSettings::new(NodeId::new(name));
    settings.wanted = wanted;
    settings.policy.gather_for = Duration::from_millis(50);
    settings.policy.lost_after = Duration::from_millis(50);
    let coordinator = CoordinatorRecord {
        id: settings.id.clone(),
        incarnation: "1".into(),
        address: format!("{name}:1").parse().unwrap(),
        version: "0".into(),
    };
    Placing::start(registry.clone(), settings, coordinator, Loads::new)
}

/// A node that serves at once whatever it is told to.
struct ObedientNode {
    working: JoinHandle<()>,
}

impl ObedientNode {
    fn start(registry: &Arc<dyn Registry>, name: &str, role: Role) -> Self {
        let id = NodeId::new(name);
        let mut node = record(&id);
        node.roles = BTreeSet::from([role]);
        let announcement = registry.announce(node);
        let mut state = registry.state();
        let working = tokio::spawn(async move {
            loop {
                let status = told(&state.borrow_and_update(), &id);
                announcement.set_status(status);
                if state.changed().await.is_err() {
                    return;
                }
            }
        });
        Self { working }
    }

    /// Its process ends.
    fn kill(self) {
        self.working.abort();
    }
}

fn told(state: &ClusterState, id: &NodeId) -> NodeStatus {
    let mut groups = state.groups.iter();
    let group = groups.find(|(_, (group, _))| group.ranks.contains(id));
    NodeStatus {
        language: group.map(|(group, (_, epoch))| LanguageStatus {
            group: group.clone(),
            epoch: *epoch,
            phase: Phase::Ready,
        }),
        vision: state.vision.get(id).map(|epoch| VisionStatus {
            epoch: *epoch,
            phase: Phase::Ready,
        }),
        kept: BTreeSet::new(),
    }
}

async fn until(
    registry: &Arc<dyn Registry>,
    what: &str,
    holds: impl FnMut(&Arc<ClusterState>) -> bool,
) -> Arc<ClusterState> {
    let mut state = registry.state();
    let seen = timeout(PATIENCE, state.wait_for(holds)).await;
    seen.unwrap_or_else(|_| panic!("{what}"))
        .expect("the registry is there")
        .clone()
}

fn num_ready(state: &ClusterState) -> (usize, usize) {
    let groups = state.groups.keys().filter(|id| state.is_group_ready(id));
    let vision = state.vision.keys().filter(|id| state.is_vision_ready(id));
    (groups.count(), vision.count())
}

#[tokio::test]
async fn what_is_wanted_comes_to_be_and_a_spare_takes_over() {
    let registry = InProcessRegistry::new();
    let a = ObedientNode::start(&registry, "a", Role::Language);
    let _b = ObedientNode::start(&registry, "b", Role::Language);
    let _c = ObedientNode::start(&registry, "c", Role::Language);
    let _v = ObedientNode::start(&registry, "v", Role::Vision);
    let placing = placing(&registry, "p", Wanted::AtFirst(deployment(2, 1)));
    let state = until(&registry, "all serve", |state| num_ready(state) == (2, 1)).await;
    let group = &state.groups[&GroupId::new("group-0")];
    assert_eq!(group.0.ranks, [NodeId::new("a")]);
    let before = group.1;

    a.kill();
    let moved = |state: &Arc<ClusterState>| {
        let (group, epoch) = &state.groups[&GroupId::new("group-0")];
        group.ranks == [NodeId::new("c")] && *epoch > before && num_ready(state) == (2, 1)
    };
    until(&registry, "the spare serves", moved).await;

    registry
        .set_deployment(&deployment(1, 1), None)
        .await
        .unwrap();
    until(&registry, "one goes", |state| state.groups.len() == 1).await;
    placing.resign().await;
    assert!(registry.state().borrow().coordinators.is_empty());
}

#[tokio::test]
async fn another_placer_goes_on_without_changing_what_runs() {
    let registry = InProcessRegistry::new();
    let _a = ObedientNode::start(&registry, "a", Role::Language);
    let b = ObedientNode::start(&registry, "b", Role::Language);
    let first = placing(&registry, "p", Wanted::AtFirst(deployment(2, 0)));
    let state = until(&registry, "all serve", |state| num_ready(state) == (2, 0)).await;
    let second = placing(&registry, "q", Wanted::AtFirst(deployment(7, 7)));
    first.resign().await;
    let elected = |state: &Arc<ClusterState>| state.placer == Some(NodeId::new("q"));
    until(&registry, "the other is elected", elected).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let now = registry.state().borrow().clone();
    assert_eq!(now.groups, state.groups);
    // What the second one says counts only where nothing was wanted.
    assert_eq!(now.deployment, state.deployment);

    b.kill();
    let _c = ObedientNode::start(&registry, "c", Role::Language);
    until(&registry, "it places", |state| num_ready(state) == (2, 0)).await;
    second.resign().await;
}

#[tokio::test]
async fn a_file_replaces_what_was_wanted() {
    let registry = InProcessRegistry::new();
    registry
        .set_deployment(&deployment(5, 5), None)
        .await
        .unwrap();
    let placing = placing(&registry, "p", Wanted::Replace(deployment(1, 0)));
    let replaced = |state: &Arc<ClusterState>| {
        state.deployment.as_ref().map(|(d, _)| d) == Some(&deployment(1, 0))
    };
    until(&registry, "it is replaced", replaced).await;
    placing.resign().await;
}

/// A registry that refuses the first writes.
struct Obstinate {
    inner: Arc<dyn Registry>,
    refusals: Mutex<VecDeque<RegistryError>>,
}

#[async_trait]
impl Registry for Obstinate {
    fn state(&self) -> watch::Receiver<Arc<ClusterState>> {
        self.inner.state()
    }

    fn is_connected(&self) -> watch::Receiver<bool> {
        self.inner.is_connected()
    }

    fn announce(&self, node: NodeRecord) -> Arc<dyn Announcement> {
        self.inner.announce(node)
    }

    fn campaign(&self, coordinator: CoordinatorRecord) -> Arc<dyn Candidacy> {
        self.inner.campaign(coordinator)
    }

    async fn assign(&self, fence: Fence, changes: Vec<Change>) -> Result<Revision, RegistryError> {
        let refusal = self.refusals.lock().unwrap().pop_front();
        match refusal {
            Some(refusal) => Err(refusal),
            None => self.inner.assign(fence, changes).await,
        }
    }

    async fn set_deployment(
        &self,
        deployment: &Deployment,
        expected: Option<Revision>,
    ) -> Result<Revision, RegistryError> {
        self.inner.set_deployment(deployment, expected).await
    }

    async fn set_draining(&self, node: &NodeId, draining: bool) -> Result<(), RegistryError> {
        self.inner.set_draining(node, draining).await
    }

    async fn publish_nccl_id(
        &self,
        group: &GroupId,
        epoch: Epoch,
        id: Bytes,
    ) -> Result<(), RegistryError> {
        self.inner.publish_nccl_id(group, epoch, id).await
    }

    async fn nccl_id(&self, group: &GroupId, epoch: Epoch) -> Result<Bytes, RegistryError> {
        self.inner.nccl_id(group, epoch).await
    }
}

#[tokio::test]
async fn a_registry_that_refuses_is_asked_again() {
    let inner = InProcessRegistry::new();
    let refusals = VecDeque::from([
        RegistryError::Conflict("drawn".into()),
        RegistryError::Unavailable("drawn".into()),
        RegistryError::Fenced,
    ]);
    let obstinate = Arc::new(Obstinate {
        inner: inner.clone(),
        refusals: Mutex::new(refusals),
    });
    let registry: Arc<dyn Registry> = obstinate.clone();
    let _a = ObedientNode::start(&registry, "a", Role::Language);
    let placing = placing(&registry, "p", Wanted::AtFirst(deployment(1, 0)));
    until(&registry, "it serves", |state| num_ready(state) == (1, 0)).await;
    assert!(obstinate.refusals.lock().unwrap().is_empty());
    placing.resign().await;
}
