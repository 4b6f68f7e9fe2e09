//! A vision worker among the members.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering},
};

use inkstone_cluster::NodeAddress;
use tokio::time::Instant;

use super::group::check_model;
use crate::{
    model::ServedModel,
    routing::VisionOutlook,
    worker_client::{Health, PictureUpload, PlacedPicture, VisionClient, WorkerError},
};

/// A vision worker.
pub(crate) struct VisionWorker {
    pub(crate) address: NodeAddress,
    client: Arc<dyn VisionClient>,
    /// Set once it is known to serve the right model.
    checked: tokio::sync::OnceCell<()>,
    in_flight: AtomicUsize,
    health: Mutex<Health>,
}

impl VisionWorker {
    pub(super) fn new(address: &NodeAddress, client: Arc<dyn VisionClient>) -> Arc<Self> {
        Arc::new(Self {
            address: address.clone(),
            client,
            checked: tokio::sync::OnceCell::new(),
            in_flight: AtomicUsize::new(0),
            health: Mutex::default(),
        })
    }

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

    pub(super) fn outlook(&self) -> VisionOutlook<'_> {
        VisionOutlook {
            address: &self.address,
            in_flight: self.in_flight.load(Ordering::Relaxed),
            is_avoided: self.health().is_avoided(Instant::now()),
        }
    }

    pub(super) async fn put_picture(
        &self,
        model: &ServedModel,
        upload: &PictureUpload,
    ) -> Result<PlacedPicture, WorkerError> {
        let _in_flight = InFlight::count(&self.in_flight);
        let put = async {
            self.check(model).await?;
            self.client.put_picture(upload.clone()).await
        };
        let answer = put.await;
        let mut health = self.health();
        match &answer {
            Ok(_) => *health = Health::default(),
            Err(WorkerError::Busy { .. }) => {}
            Err(error) if error.is_about_this_worker() => health.failed(Instant::now()),
            Err(_) => {}
        }
        answer
    }

    fn health(&self) -> std::sync::MutexGuard<'_, Health> {
        self.health.lock().expect("no panic while locked")
    }
}

/// A picture on its way.
struct InFlight<'a>(&'a AtomicUsize);

impl<'a> InFlight<'a> {
    fn count(in_flight: &'a AtomicUsize) -> Self {
        in_flight.fetch_add(1, Ordering::Relaxed);
        Self(in_flight)
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
