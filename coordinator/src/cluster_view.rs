//! The members as this coordinator sees them: a client for each, kept connected for as long as it is a member, what it learnt about
//! them, and how busy they are. It finds a group for a request, and waits for one where there is none.

mod group;
mod patience;
mod vision_worker;

use std::sync::{Arc, Mutex};

use inkstone_cluster::{Members, Membership};
use tokio::{sync::watch, task::AbortHandle};

pub(crate) use group::{Group, Placed};
pub(crate) use patience::Patience;
pub(crate) use vision_worker::VisionWorker;

use crate::{
    admission::LoadSource,
    cluster_load::GroupLoad,
    model::ServedModel,
    routing::{self, Router, RoutingPolicy, VisionOutlook},
    worker_client::{Connector, Generation, PictureUpload, PlacedPicture, WorkerError},
};
use group::PromptBlocks;

/// The members and how to speak to them. Made within a runtime: a task follows the member list.
pub(crate) struct ClusterView {
    shared: Arc<Shared>,
    router: Router,
    following: AbortHandle,
}

struct Shared {
    membership: Membership,
    connector: Arc<dyn Connector>,
    roster: Mutex<Roster>,
}

/// The members of which list, in its order.
struct Roster {
    members: Arc<Members>,
    groups: Arc<[Arc<Group>]>,
    vision_workers: Arc<[Arc<VisionWorker>]>,
}

impl ClusterView {
    pub(crate) fn new(membership: Membership, connector: Arc<dyn Connector>) -> Self {
        let changes = membership.changes();
        let roster = Mutex::new(Roster::of(membership.current(), &connector, None));
        let shared = Arc::new(Shared {
            membership,
            connector,
            roster,
        });
        let following = tokio::spawn(follow(shared.clone(), changes)).abort_handle();
        Self {
            shared,
            router: Router::default(),
            following,
        }
    }

    /// The same with groups chosen in another way.
    pub(crate) fn routed_by(mut self, policy: RoutingPolicy) -> Self {
        self.router = Router::new(policy);
        self
    }

    /// The language groups, in the order of the member list.
    pub(crate) fn groups(&self) -> Arc<[Arc<Group>]> {
        self.shared.with_roster(|roster| roster.groups.clone())
    }

    /// The vision workers, in the order of the member list.
    pub(crate) fn vision_workers(&self) -> Arc<[Arc<VisionWorker>]> {
        self.shared
            .with_roster(|roster| roster.vision_workers.clone())
    }

    /// What the groups last said of their load; one that has not said anything is not in it.
    pub(crate) fn loads(&self) -> Vec<GroupLoad> {
        let groups = self.groups();
        groups.iter().filter_map(|group| group.load()).collect()
    }

    /// Has the group run it that is expected to be done first, or the next one that takes it. Where none does, waits for the members
    /// to change or to recover, as long as `patience` lasts.
    pub(crate) async fn generate(
        &self,
        model: &ServedModel,
        generation: &Generation,
        mut patience: Patience,
    ) -> Result<Placed, WorkerError> {
        let mut changes = self.shared.membership.changes();
        let mut blocks = PromptBlocks::new(model, generation);
        loop {
            changes.mark_unchanged();
            let error = match self.try_groups(model, generation, &mut blocks).await {
                Err(error) if patience.bears(&error) => error,
                answer => return answer,
            };
            if !patience.wait(&mut changes).await {
                return Err(error);
            }
        }
    }

    async fn try_groups(
        &self,
        model: &ServedModel,
        generation: &Generation,
        blocks: &mut PromptBlocks<'_>,
    ) -> Result<Placed, WorkerError> {
        let groups = self.groups();
        let outlooks: Vec<_> = groups.iter().map(|group| group.outlook(blocks)).collect();
        let draw = rand::random();
        let order = self.router.rank(blocks.num_tokens(), &outlooks, draw);
        let mut last = WorkerError::Unavailable("there is no language group".into());
        for index in order {
            let (group, outlook) = (&groups[index], &outlooks[index]);
            match group.generate(model, generation, blocks, outlook).await {
                Err(error) if error.is_about_this_worker() => {
                    tracing::warn!(group = %group.id, %error, "language group does not take a request");
                    // A group that is full says more than one that is away.
                    if !matches!(last, WorkerError::Busy { .. }) {
                        last = error;
                    }
                }
                answer => return answer,
            }
        }
        Err(last)
    }

    /// Uploads a picture to the vision worker that its bytes name, or to the next one that takes it; waits like `generate`.
    pub(crate) async fn put_picture(
        &self,
        model: &ServedModel,
        content: &blake3::Hash,
        upload: &PictureUpload,
        mut patience: Patience,
    ) -> Result<PlacedPicture, WorkerError> {
        let mut changes = self.shared.membership.changes();
        loop {
            changes.mark_unchanged();
            let error = match self.try_vision_workers(model, content, upload).await {
                Err(error) if patience.bears(&error) => error,
                answer => return answer,
            };
            if !patience.wait(&mut changes).await {
                return Err(error);
            }
        }
    }

    async fn try_vision_workers(
        &self,
        model: &ServedModel,
        content: &blake3::Hash,
        upload: &PictureUpload,
    ) -> Result<PlacedPicture, WorkerError> {
        let workers = self.vision_workers();
        let outlooks: Vec<VisionOutlook<'_>> =
            workers.iter().map(|worker| worker.outlook()).collect();
        let order = routing::rank_vision_workers(content, &outlooks);
        let mut last = WorkerError::Unavailable("there is no vision worker".into());
        for index in order {
            let worker = &workers[index];
            match worker.put_picture(model, upload).await {
                Err(error) if error.is_about_this_worker() => {
                    tracing::warn!(worker = %worker.address, %error, "vision worker does not take a picture");
                    last = error;
                }
                answer => return answer,
            }
        }
        Err(last)
    }
}

impl LoadSource for ClusterView {
    fn loads(&self) -> Vec<GroupLoad> {
        Self::loads(self)
    }
}

impl Drop for ClusterView {
    fn drop(&mut self) {
        self.following.abort();
    }
}

impl Shared {
    /// The roster of the current member list.
    fn with_roster<T>(&self, read: impl FnOnce(&Roster) -> T) -> T {
        let members = self.membership.current();
        let mut roster = self.roster.lock().expect("no panic while locked");
        if !Arc::ptr_eq(&members, &roster.members) {
            *roster = Roster::of(members, &self.connector, Some(&roster));
        }
        read(&roster)
    }
}

impl Roster {
    /// Who was there before is the same as before; what is known of it, and the connection to it, stay.
    fn of(members: Arc<Members>, connector: &Arc<dyn Connector>, before: Option<&Self>) -> Self {
        let groups = members.language_groups.iter().map(|member| {
            let mut known = before.iter().flat_map(|before| before.groups.iter());
            let known = known.find(|group| group.is(member)).cloned();
            known.unwrap_or_else(|| {
                let epoch = member.epoch.map(|epoch| epoch.0);
                tracing::info!(group = %member.id, epoch, leader = %member.leader, "language group is a member");
                Group::new(member, connector.language(&member.leader))
            })
        });
        let groups = groups.collect();
        let workers = members.vision_workers.iter().map(|address| {
            let mut known = before
                .iter()
                .flat_map(|before| before.vision_workers.iter());
            let known = known.find(|worker| worker.address == *address).cloned();
            known.unwrap_or_else(|| VisionWorker::new(address, connector.vision(address)))
        });
        Self {
            vision_workers: workers.collect(),
            groups,
            members,
        }
    }
}

/// Connects to new members before anybody asks for them.
async fn follow(shared: Arc<Shared>, mut changes: watch::Receiver<Arc<Members>>) {
    // A fixed list never changes, and a registry that ends leaves its last one.
    while changes.changed().await.is_ok() {
        shared.with_roster(|_| ());
    }
}

impl WorkerError {
    /// Whether another worker may do better with the same request.
    fn is_about_this_worker(&self) -> bool {
        match self {
            Self::Unavailable(_)
            | Self::NotServing(_)
            | Self::Silent(_)
            | Self::Busy { .. }
            | Self::EpochMismatch(_)
            | Self::OtherModel { .. } => true,
            Self::FeaturesMissing | Self::Refused(_) | Self::DeadlineExceeded | Self::Faulty(_) => {
                false
            }
        }
    }
}
