//! The members as this coordinator sees them: a client for each, what it learnt about them, and how busy they are.
//! A member is checked for serving the right model before its first use.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use inkstone_cluster::{Epoch, GroupId, Membership, NodeAddress};

use crate::{
    model::ServedModel,
    routing,
    worker_client::{
        Connector, Generation, GenerationStream, LanguageClient, LanguageDescription,
        PictureUpload, PlacedPicture, VisionClient, WorkerError,
    },
};

/// The members and how to speak to them.
pub(crate) struct ClusterView {
    membership: Membership,
    connector: Arc<dyn Connector>,
    groups: Mutex<HashMap<NodeAddress, Arc<Group>>>,
    vision_workers: Mutex<HashMap<NodeAddress, Arc<VisionWorker>>>,
}

/// A language group.
pub(crate) struct Group {
    pub(crate) id: GroupId,
    leader: NodeAddress,
    client: Arc<dyn LanguageClient>,
    /// Its life when it last described itself; none while it is not known to serve the right model.
    epoch: tokio::sync::Mutex<Option<Epoch>>,
    num_running: Arc<AtomicUsize>,
}

/// A vision worker.
pub(crate) struct VisionWorker {
    pub(crate) address: NodeAddress,
    client: Arc<dyn VisionClient>,
    /// Set once it is known to serve the right model.
    checked: tokio::sync::OnceCell<()>,
}

impl ClusterView {
    pub(crate) fn new(membership: Membership, connector: Arc<dyn Connector>) -> Self {
        Self {
            membership,
            connector,
            groups: Mutex::default(),
            vision_workers: Mutex::default(),
        }
    }

    /// The language groups, in the order of the member list.
    pub(crate) fn groups(&self) -> Vec<Arc<Group>> {
        let members = self.membership.current();
        let mut known = self.groups.lock().expect("no panic while locked");
        known.retain(|address, _| {
            let mut listed = members.language_groups.iter();
            listed.any(|group| group.leader == *address)
        });
        let listed = members.language_groups.iter();
        let handles = listed.map(|listed| {
            let group = known.entry(listed.leader.clone()).or_insert_with(|| {
                Arc::new(Group {
                    id: listed.id.clone(),
                    leader: listed.leader.clone(),
                    client: self.connector.language(&listed.leader),
                    epoch: tokio::sync::Mutex::default(),
                    num_running: Arc::default(),
                })
            });
            group.clone()
        });
        handles.collect()
    }

    /// The vision workers, in the order of the member list.
    pub(crate) fn vision_workers(&self) -> Vec<Arc<VisionWorker>> {
        let members = self.membership.current();
        let mut known = self.vision_workers.lock().expect("no panic while locked");
        known.retain(|address, _| members.vision_workers.contains(address));
        let handles = members.vision_workers.iter().map(|address| {
            let worker = known.entry(address.clone()).or_insert_with(|| {
                Arc::new(VisionWorker {
                    address: address.clone(),
                    client: self.connector.vision(address),
                    checked: tokio::sync::OnceCell::new(),
                })
            });
            worker.clone()
        });
        handles.collect()
    }

    /// Starts a sequence on the least busy group that answers.
    pub(crate) async fn generate(
        &self,
        model: &ServedModel,
        generation: &Generation,
    ) -> Result<GenerationStream, WorkerError> {
        let groups = self.groups();
        let num_running: Vec<_> = groups
            .iter()
            .map(|group| group.num_running.load(Ordering::Relaxed))
            .collect();
        let mut last = WorkerError::Unavailable("there is no language group".into());
        for index in routing::rank_groups(&num_running) {
            let group = &groups[index];
            match group.generate(model, generation).await {
                Err(error) if error.is_about_this_worker() => {
                    tracing::warn!(group = %group.id, %error, "language group does not answer");
                    last = error;
                }
                answer => return answer,
            }
        }
        Err(last)
    }

    /// Uploads a picture to the vision worker that its bytes name, or to the next one that answers.
    pub(crate) async fn put_picture(
        &self,
        model: &ServedModel,
        content: &blake3::Hash,
        upload: &PictureUpload,
    ) -> Result<PlacedPicture, WorkerError> {
        let workers = self.vision_workers();
        let addresses: Vec<_> = workers
            .iter()
            .map(|worker| worker.address.clone())
            .collect();
        let mut last = WorkerError::Unavailable("there is no vision worker".into());
        for index in routing::rank_vision_workers(content, &addresses) {
            let worker = &workers[index];
            match worker.put_picture(model, upload).await {
                Err(error) if error.is_about_this_worker() => {
                    tracing::warn!(worker = %worker.address, %error, "vision worker does not answer");
                    last = error;
                }
                answer => return answer,
            }
        }
        Err(last)
    }
}

impl Group {
    /// Asks the group what it serves.
    pub(crate) async fn describe(&self) -> Result<LanguageDescription, WorkerError> {
        self.client.describe().await
    }

    async fn generate(
        &self,
        model: &ServedModel,
        generation: &Generation,
    ) -> Result<GenerationStream, WorkerError> {
        let epoch = self.known_epoch(model).await?;
        match self.generate_in(epoch, generation).await {
            Err(WorkerError::EpochMismatch(_)) => {
                self.forget_epoch(epoch).await;
                let epoch = self.known_epoch(model).await?;
                self.generate_in(epoch, generation).await
            }
            answer => answer,
        }
    }

    async fn generate_in(
        &self,
        epoch: Epoch,
        generation: &Generation,
    ) -> Result<GenerationStream, WorkerError> {
        let generation = Generation {
            epoch,
            ..generation.clone()
        };
        let running = Running::count(&self.num_running);
        let mut events = self.client.generate(generation).await?;
        // The count falls when the stream is dropped, at its end or before.
        events.keep(running);
        Ok(events)
    }

    /// The group's life, once it is known to serve this model.
    async fn known_epoch(&self, model: &ServedModel) -> Result<Epoch, WorkerError> {
        let mut epoch = self.epoch.lock().await;
        if let Some(epoch) = *epoch {
            return Ok(epoch);
        }
        let answer = self.client.describe().await?;
        check_model(model, &answer.model, &self.leader)?;
        tracing::info!(group = %self.id, epoch = %answer.epoch, "language group serves the model");
        Ok(*epoch.insert(answer.epoch))
    }

    async fn forget_epoch(&self, gone: Epoch) {
        let mut epoch = self.epoch.lock().await;
        // Another request may have learnt the new one already.
        if *epoch == Some(gone) {
            *epoch = None;
        }
    }
}

impl VisionWorker {
    /// Makes sure that the worker serves this model; asks it only the first time.
    pub(crate) async fn check(&self, model: &ServedModel) -> Result<(), WorkerError> {
        let ask = || async {
            let found = self.client.describe().await?;
            check_model(model, &found, &self.address)?;
            tracing::info!(worker = %self.address, "vision worker serves the model");
            Ok(())
        };
        self.checked.get_or_try_init(ask).await.copied()
    }

    async fn put_picture(
        &self,
        model: &ServedModel,
        upload: &PictureUpload,
    ) -> Result<PlacedPicture, WorkerError> {
        self.check(model).await?;
        self.client.put_picture(upload.clone()).await
    }
}

impl WorkerError {
    /// Whether another worker may do better with the same request.
    fn is_about_this_worker(&self) -> bool {
        match self {
            Self::Unavailable(_)
            | Self::Busy { .. }
            | Self::EpochMismatch(_)
            | Self::OtherModel { .. } => true,
            Self::FeaturesMissing | Self::Refused(_) | Self::DeadlineExceeded | Self::Faulty(_) => {
                false
            }
        }
    }
}

fn check_model(
    model: &ServedModel,
    found: &inkstone_interface::description::ModelDescription,
    worker: &NodeAddress,
) -> Result<(), WorkerError> {
    if model.is(found) {
        return Ok(());
    }
    Err(WorkerError::OtherModel {
        wanted: model.description.name.clone(),
        found: found.name.clone(),
        worker: worker.clone(),
    })
}

/// A request that runs on a group, counted while it lives.
struct Running(Arc<AtomicUsize>);

impl Running {
    fn count(num_running: &Arc<AtomicUsize>) -> Self {
        num_running.fetch_add(1, Ordering::Relaxed);
        Self(num_running.clone())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
