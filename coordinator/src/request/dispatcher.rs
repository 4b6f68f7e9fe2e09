//! Takes requests on, each when its turn has come, and runs it as a task of its own until it ends or the coordinator stops.

use std::sync::{Arc, OnceLock};

use tokio::time::{Instant, timeout_at};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::Instrument;

use super::{ChatRequest, event_stream::EventStream, pictures::PictureRoom, run::Run};
use crate::{
    admission::{Admission, Asked},
    cluster_view::ClusterView,
    config::{Limits, Timeouts},
    error::RequestError,
    model::ServedModel,
};

/// The requests of this coordinator.
pub(crate) struct Dispatcher {
    pub(crate) cluster: Arc<ClusterView>,
    pub(crate) limits: Limits,
    pub(crate) timeouts: Timeouts,
    pub(crate) picture_room: PictureRoom,
    /// Set once the members have answered.
    model: OnceLock<Arc<ServedModel>>,
    admission: Arc<Admission>,
    tasks: TaskTracker,
    /// No new request is taken on.
    draining: CancellationToken,
    /// Running requests are cut.
    cut: CancellationToken,
}

impl Dispatcher {
    pub(crate) fn new(cluster: ClusterView, limits: Limits, timeouts: Timeouts) -> Self {
        let cluster = Arc::new(cluster);
        Self {
            admission: Arc::new(Admission::new(&limits, &timeouts, cluster.clone())),
            cluster,
            picture_room: PictureRoom::new(limits.max_kept_picture_bytes),
            limits,
            timeouts,
            model: OnceLock::new(),
            tasks: TaskTracker::new(),
            draining: CancellationToken::new(),
            cut: CancellationToken::new(),
        }
    }

    /// Requests are taken on from now. Called once, in the runtime.
    pub(crate) fn open(&self, model: Arc<ServedModel>) {
        assert!(self.model.set(model).is_ok(), "the model is learnt once");
        let looking = self.admission.clone().keep_looking(self.draining.clone());
        self.tasks.spawn(looking);
    }

    /// The served model, once the members have answered.
    pub(crate) fn model(&self) -> Result<&Arc<ServedModel>, RequestError> {
        self.model.get().ok_or(RequestError::Starting {
            retry_after: self.timeouts.retry_after,
        })
    }

    /// Takes a request on when its turn has come; its task ends when the events are dropped. Dropping the future takes the request
    /// out of the queue.
    pub(crate) async fn start(
        self: &Arc<Self>,
        request: ChatRequest,
    ) -> Result<EventStream, RequestError> {
        let model = self.model()?.clone();
        model.check_name(&request.model)?;
        let asked = Asked::by(&request, &model.description.picture);
        let place = self.admission.admit(asked, request.deadline).await?;
        let span = tracing::info_span!("request", request_id = %request.request_id);
        let (run, events) = Run::new(self.clone(), model, request, place.clone());
        let task = async move {
            run.drive().await;
            drop(place);
        };
        self.tasks.spawn(task.instrument(span));
        Ok(events)
    }

    /// Returns when running requests are to be cut.
    pub(crate) async fn cut(&self) {
        self.cut.cancelled().await;
    }

    /// Refuses new requests and those that wait, lets the running ones end, and cuts those that take longer than the drain
    /// limit. What goes on by further requests has the same time: `begun` waits for it, and ends by itself.
    pub(crate) async fn drain(&self, begun: impl Future<Output = ()>) {
        let end = Instant::now() + self.timeouts.drain;
        self.admission.close_to_new();
        self.tasks.close();
        tracing::info!(num_requests = self.tasks.len(), "draining");
        begun.await;
        self.draining.cancel();
        self.admission.close();
        if timeout_at(end, self.tasks.wait()).await.is_err() {
            tracing::warn!(
                num_requests = self.tasks.len(),
                "drain limit reached, requests are cut"
            );
            self.cut.cancel();
            self.tasks.wait().await;
        }
    }
}
