//! Takes requests on, within the limit, and runs each as a task of its own until it ends or the coordinator stops.

use std::sync::{Arc, OnceLock};

use tokio::sync::Semaphore;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::Instrument;

use super::{ChatRequest, event_stream::EventStream, run::Run};
use crate::{
    cluster_view::ClusterView,
    config::{Limits, Timeouts},
    error::RequestError,
    model::ServedModel,
};

/// The requests of this coordinator.
pub(crate) struct Dispatcher {
    pub(crate) cluster: ClusterView,
    pub(crate) limits: Limits,
    pub(crate) timeouts: Timeouts,
    /// Set once the members have answered.
    model: OnceLock<Arc<ServedModel>>,
    permits: Arc<Semaphore>,
    tasks: TaskTracker,
    /// No new request is taken on.
    draining: CancellationToken,
    /// Running requests are cut.
    cut: CancellationToken,
}

impl Dispatcher {
    pub(crate) fn new(cluster: ClusterView, limits: Limits, timeouts: Timeouts) -> Self {
        Self {
            cluster,
            permits: Arc::new(Semaphore::new(limits.max_requests)),
            limits,
            timeouts,
            model: OnceLock::new(),
            tasks: TaskTracker::new(),
            draining: CancellationToken::new(),
            cut: CancellationToken::new(),
        }
    }

    /// Requests are taken on from now. Called once.
    pub(crate) fn open(&self, model: Arc<ServedModel>) {
        assert!(self.model.set(model).is_ok(), "the model is learnt once");
    }

    /// The served model, once the members have answered.
    pub(crate) fn model(&self) -> Result<&Arc<ServedModel>, RequestError> {
        self.model.get().ok_or(RequestError::Starting {
            retry_after: self.timeouts.retry_after,
        })
    }

    /// Takes a request on; its task ends when the events are dropped.
    pub(crate) fn start(
        self: &Arc<Self>,
        request: ChatRequest,
    ) -> Result<EventStream, RequestError> {
        let retry_after = self.timeouts.retry_after;
        if self.draining.is_cancelled() {
            return Err(RequestError::ShuttingDown { retry_after });
        }
        let model = self.model()?.clone();
        model.check_name(&request.model)?;
        let permit = self.permits.clone().try_acquire_owned().map_err(|_| {
            RequestError::TooManyRequests {
                limit: self.limits.max_requests,
                retry_after,
            }
        })?;
        let span = tracing::info_span!("request", request_id = %request.request_id);
        let (run, events) = Run::new(self.clone(), model, request);
        let task = async move {
            run.drive().await;
            drop(permit);
        };
        self.tasks.spawn(task.instrument(span));
        Ok(events)
    }

    /// Returns when running requests are to be cut.
    pub(crate) async fn cut(&self) {
        self.cut.cancelled().await;
    }

    /// Refuses new requests, lets the running ones end, and cuts those that take longer than the drain limit.
    pub(crate) async fn drain(&self) {
        self.draining.cancel();
        self.tasks.close();
        tracing::info!(num_requests = self.tasks.len(), "draining");
        let limit = self.timeouts.drain;
        if tokio::time::timeout(limit, self.tasks.wait())
            .await
            .is_err()
        {
            tracing::warn!(
                num_requests = self.tasks.len(),
                "drain limit reached, requests are cut"
            );
            self.cut.cancel();
            self.tasks.wait().await;
        }
    }
}
