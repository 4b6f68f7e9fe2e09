//! `inkstone.v1.ClusterService`.

mod snapshot;

use std::{sync::Arc, time::Duration};

use futures::{StreamExt, stream, stream::BoxStream};
use inkstone_cluster::{
    ClusterState, Deployment, Membership, NodeId, Registry, RegistryError, Revision,
};
use inkstone_proto::v1 as wire;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use crate::{
    api::error::to_status,
    cluster_error::ClusterError,
    config::Config,
    error::{FieldViolation, RequestError},
    placement::Policy,
    request::dispatcher::Dispatcher,
};

/// Watches at once: each costs a look at the cluster now and then.
const MAX_WATCHES: usize = 64;
const DEFAULT_INTERVAL: Duration = Duration::from_secs(1);
const SHORTEST_INTERVAL: Duration = Duration::from_millis(100);
const LONGEST_INTERVAL: Duration = Duration::from_secs(60);
const MAX_REPLICAS: u32 = 1024;
const MAX_TENSOR_PARALLEL: u32 = 64;
/// How often a change is decided anew because somebody else wrote meanwhile.
const MAX_ATTEMPTS: usize = 5;

/// The service over a registry, or over a fixed list of members.
pub(crate) struct ClusterService {
    view: Arc<View>,
    watches: Arc<Semaphore>,
    closing: CancellationToken,
}

/// What this coordinator knows of the cluster.
struct View {
    registry: Option<Arc<dyn Registry>>,
    membership: Membership,
    policy: Policy,
    /// This coordinator's name.
    coordinator: String,
    dispatcher: Arc<Dispatcher>,
}

impl ClusterService {
    /// Watches end when `closing` is cancelled.
    pub(crate) fn new(
        config: &Config,
        dispatcher: Arc<Dispatcher>,
        closing: CancellationToken,
    ) -> Self {
        let placement = config.placement.as_ref();
        Self {
            view: Arc::new(View {
                registry: config.registry.clone(),
                membership: config.membership.clone(),
                policy: placement.map_or_else(Policy::default, |p| p.policy.clone()),
                coordinator: placement.map_or_else(String::new, |p| p.id.to_string()),
                dispatcher,
            }),
            watches: Arc::new(Semaphore::new(MAX_WATCHES)),
            closing,
        }
    }

    fn watch(&self, call: &wire::WatchClusterRequest) -> Result<Watch, RequestError> {
        let permit = self.watches.clone().try_acquire_owned();
        let permit = permit.map_err(|_| ClusterError::TooManyWatches {
            limit: MAX_WATCHES,
            retry_after: self.view.retry_after(),
        })?;
        let interval = match call.interval_millis {
            0 => DEFAULT_INTERVAL,
            millis => Duration::from_millis(millis.into()),
        };
        let (shortest, longest) = (SHORTEST_INTERVAL, LONGEST_INTERVAL);
        if !(shortest..=longest).contains(&interval) {
            let (least, most) = (shortest.as_millis(), longest.as_millis());
            let description = format!(
                "must be from {least} to {most}, or 0 for {}, found {}",
                DEFAULT_INTERVAL.as_millis(),
                call.interval_millis
            );
            return Err(RequestError::invalid("interval_millis", description));
        }
        Ok(Watch {
            view: self.view.clone(),
            interval,
            closing: self.closing.clone(),
            next: Instant::now(),
            last: None,
            _permit: permit,
        })
    }

    async fn set_deployment(
        &self,
        call: &wire::SetDeploymentRequest,
    ) -> Result<(Deployment, Revision), RequestError> {
        let registry = self.view.registry()?;
        check(call)?;
        let mut last = None;
        for _ in 0..MAX_ATTEMPTS {
            let state = registry.state().borrow().clone();
            let found = state.deployment.clone();
            let revision = found
                .as_ref()
                .map_or(Revision(0), |(_, revision)| *revision);
            if call
                .expected_revision
                .is_some_and(|expected| expected != revision.0)
            {
                return Err(ClusterError::DeploymentChanged.into());
            }
            let deployment = changed(found.map(|(deployment, _)| deployment), call);
            match registry.set_deployment(&deployment, Some(revision)).await {
                Ok(revision) => {
                    tracing::info!(?deployment, revision = revision.0, "deployment written");
                    return Ok((deployment, revision));
                }
                // What we saw is old; what is new is told in a moment.
                Err(error @ RegistryError::Conflict(_)) => {
                    last = Some(error);
                    let mut state = registry.state();
                    let news = state.wait_for(|state| deployment_revision(state) != revision);
                    let _ = tokio::time::timeout(DEFAULT_INTERVAL, news).await;
                }
                Err(error) => return Err(self.view.failed(&error)),
            }
        }
        tracing::debug!(?last, "the deployment is changed by others again and again");
        Err(ClusterError::DeploymentChanged.into())
    }

    async fn drain(&self, call: &wire::DrainRequest) -> Result<(), RequestError> {
        let registry = self.view.registry()?;
        let state = registry.state().borrow().clone();
        let node = NodeId::new(call.node.as_str());
        // One that is gone may be forgotten, not relieved.
        let is_known =
            state.nodes.contains_key(&node) || (call.undo && state.draining.contains(&node));
        if !is_known {
            return Err(ClusterError::NodeNotFound {
                wanted: call.node.clone(),
                known: state.nodes.keys().map(ToString::to_string).collect(),
            }
            .into());
        }
        let written = registry.set_draining(&node, !call.undo).await;
        written.map_err(|error| self.view.failed(&error))?;
        tracing::info!(%node, draining = !call.undo, "node is to be relieved, or not any more");
        Ok(())
    }
}

#[tonic::async_trait]
impl wire::cluster_service_server::ClusterService for ClusterService {
    async fn get_cluster(
        &self,
        _: Request<wire::GetClusterRequest>,
    ) -> Result<Response<wire::GetClusterResponse>, Status> {
        let cluster = Some(self.view.snapshot());
        Ok(Response::new(wire::GetClusterResponse { cluster }))
    }

    type WatchClusterStream = BoxStream<'static, Result<wire::WatchClusterResponse, Status>>;

    async fn watch_cluster(
        &self,
        call: Request<wire::WatchClusterRequest>,
    ) -> Result<Response<Self::WatchClusterStream>, Status> {
        let watch = self.watch(&call.into_inner());
        let watch = watch.map_err(|error| to_status(&error, ""))?;
        Ok(Response::new(watch.into_stream()))
    }

    async fn set_deployment(
        &self,
        call: Request<wire::SetDeploymentRequest>,
    ) -> Result<Response<wire::SetDeploymentResponse>, Status> {
        let written = self.set_deployment(&call.into_inner()).await;
        let (deployment, revision) = written.map_err(|error| to_status(&error, ""))?;
        Ok(Response::new(wire::SetDeploymentResponse {
            deployment: Some(snapshot::deployment(&deployment)),
            revision: revision.0,
        }))
    }

    async fn drain(
        &self,
        call: Request<wire::DrainRequest>,
    ) -> Result<Response<wire::DrainResponse>, Status> {
        let call = call.into_inner();
        let drained = self.drain(&call).await;
        drained.map_err(|error| to_status(&error, ""))?;
        let draining = !call.undo;
        Ok(Response::new(wire::DrainResponse { draining }))
    }
}

impl View {
    fn snapshot(&self) -> wire::Cluster {
        let loads = self.dispatcher.cluster.loads();
        match &self.registry {
            Some(registry) => {
                let state = registry.state().borrow().clone();
                let is_connected = *registry.is_connected().borrow();
                let cluster = snapshot::of_registry(&state, &loads, &self.policy);
                wire::Cluster {
                    registry: match is_connected {
                        true => wire::RegistryStatus::Connected,
                        false => wire::RegistryStatus::Away,
                    }
                    .into(),
                    coordinator: self.coordinator.clone(),
                    ..cluster
                }
            }
            None => snapshot::of_members(&self.membership.current(), &loads),
        }
    }

    fn registry(&self) -> Result<&Arc<dyn Registry>, RequestError> {
        let registry = self.registry.as_ref();
        Ok(registry.ok_or(ClusterError::NoRegistry)?)
    }

    fn retry_after(&self) -> Duration {
        self.dispatcher.timeouts.retry_after
    }

    fn failed(&self, error: &RegistryError) -> RequestError {
        match error {
            RegistryError::Unavailable(_) => ClusterError::RegistryAway {
                message: error.to_string(),
                retry_after: self.retry_after(),
            }
            .into(),
            RegistryError::Conflict(_) => ClusterError::DeploymentChanged.into(),
            RegistryError::Fenced | RegistryError::Unreadable(_) | RegistryError::Settings(_) => {
                RequestError::Internal(error.to_string())
            }
        }
    }
}

/// A reader of changes. It looks when it is asked for the next one, so nothing piles up for a slow reader.
struct Watch {
    view: Arc<View>,
    interval: Duration,
    closing: CancellationToken,
    /// The earliest time for the next answer.
    next: Instant,
    last: Option<wire::Cluster>,
    _permit: OwnedSemaphorePermit,
}

impl Watch {
    fn into_stream(self) -> BoxStream<'static, Result<wire::WatchClusterResponse, Status>> {
        let answers = stream::unfold(Some(self), |watch| async {
            let mut watch = watch?;
            let closing = watch.closing.clone();
            match closing.run_until_cancelled(watch.next()).await {
                Some(cluster) => {
                    let cluster = Some(cluster);
                    Some((Ok(wire::WatchClusterResponse { cluster }), Some(watch)))
                }
                None => {
                    let retry_after = watch.view.retry_after();
                    let error = RequestError::ShuttingDown { retry_after };
                    Some((Err(to_status(&error, "")), None))
                }
            }
        });
        answers.boxed()
    }

    async fn next(&mut self) -> wire::Cluster {
        loop {
            sleep_until(self.next).await;
            self.next = Instant::now() + self.interval;
            let cluster = self.view.snapshot();
            let comparable = snapshot::without_ages(cluster.clone());
            if self.last.as_ref() != Some(&comparable) {
                self.last = Some(comparable);
                return cluster;
            }
        }
    }
}

fn deployment_revision(state: &ClusterState) -> Revision {
    let deployment = state.deployment.as_ref();
    deployment.map_or(Revision(0), |(_, revision)| *revision)
}

/// What was wanted, with what the call says.
fn changed(found: Option<Deployment>, call: &wire::SetDeploymentRequest) -> Deployment {
    let found = found.unwrap_or(Deployment {
        model: None,
        language_replicas: 1,
        tensor_parallel: 1,
        vision_replicas: 1,
    });
    Deployment {
        model: match &call.model {
            Some(model) => Some(model.clone()).filter(|model| !model.is_empty()),
            None => found.model,
        },
        language_replicas: call.language_replicas.unwrap_or(found.language_replicas),
        tensor_parallel: call.tensor_parallel.unwrap_or(found.tensor_parallel),
        vision_replicas: call.vision_replicas.unwrap_or(found.vision_replicas),
    }
}

fn check(call: &wire::SetDeploymentRequest) -> Result<(), RequestError> {
    let bounds = [
        ("language_replicas", call.language_replicas, 0, MAX_REPLICAS),
        (
            "tensor_parallel",
            call.tensor_parallel,
            1,
            MAX_TENSOR_PARALLEL,
        ),
        ("vision_replicas", call.vision_replicas, 0, MAX_REPLICAS),
    ];
    let violations: Vec<_> = bounds
        .into_iter()
        .filter_map(|(path, value, least, most)| {
            let value = value.filter(|value| !(least..=most).contains(value))?;
            let description = format!("must be from {least} to {most}, found {value}");
            Some(FieldViolation::new(path, description))
        })
        .collect();
    match violations.is_empty() {
        true => Ok(()),
        false => Err(RequestError::Invalid(violations)),
    }
}
