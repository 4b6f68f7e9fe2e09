//! Starts a vision worker: loads the picture encoder and serves it. A process of its own does that here; a node does it when it is
//! told to.

use std::sync::Arc;

use inkstone_model::{
    checkpoint::Checkpoint,
    clip::{
        PictureFeatures, VisionModel,
        preprocess::{DecodeLimits, PreparedPicture},
    },
    load_options::LoadOptions,
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{
    config::{ExecutorSettings, ModelSettings, VisionConfig, VisionSettings},
    loading::open_checkpoint,
    progress::{LoadProgress, ProgressSink},
    service::{
        health::{Health, Part},
        listener::Services,
        vision::VisionServer,
    },
    vision::{Encode, Encoder, FeatureCache, VisionWorker},
};

/// Serves a vision worker on `listener` until `shutdown`, then takes no more pictures and lets open calls finish.
pub async fn serve_vision(
    config: VisionConfig,
    listener: TcpListener,
    shutdown: CancellationToken,
    progress: ProgressSink,
) -> anyhow::Result<()> {
    let checkpoint = open_checkpoint(&config.model).await?;
    let health = Health::new(&[Part::Vision]).await;
    let server = VisionServer::default();
    let services = Services {
        health: health.clone(),
        language: None,
        group: None,
        vision: Some(server.clone()),
    };
    let mut listening = services.listen(listener);
    tokio::select! {
        worker = start_encoder(&config.model, &config.vision, checkpoint, progress) => server.start(worker?),
        () = shutdown.cancelled() => return Ok(()),
    }
    health.set(Part::Vision, true).await;
    tracing::info!("the vision worker is ready");
    tokio::select! {
        () = shutdown.cancelled() => {}
        error = listening.ended() => return Err(error),
    }
    health.set(Part::Vision, false).await;
    if tokio::time::timeout(config.grace, server.drain())
        .await
        .is_err()
    {
        tracing::warn!(grace = ?config.grace, "calls were still open at the end of the grace time");
    }
    listening.close().await;
    Ok(())
}

/// Loads the encoder and starts its thread.
pub(crate) async fn start_encoder(
    model: &ModelSettings,
    settings: &VisionSettings,
    checkpoint: Arc<Checkpoint>,
    progress: ProgressSink,
) -> anyhow::Result<Arc<VisionWorker>> {
    let description = Arc::new(checkpoint.description().clone());
    let encode: Box<dyn Encode> = match settings.executor {
        ExecutorSettings::Device => Box::new(load(model, checkpoint, progress).await?),
        ExecutorSettings::Simulated { .. } => Box::new(NoTower),
    };
    let encoder = Encoder::start(encode, settings.max_queue)?;
    let limits = DecodeLimits {
        max_bytes: settings.max_picture_bytes,
        max_pixels: settings.max_picture_pixels,
    };
    let cache = FeatureCache::new(settings.feature_cache_bytes);
    let worker = VisionWorker::new(description, limits, encoder, cache, settings.max_queue);
    Ok(Arc::new(worker))
}

async fn load(
    settings: &ModelSettings,
    checkpoint: Arc<Checkpoint>,
    progress: ProgressSink,
) -> anyhow::Result<Tower> {
    let settings = settings.clone();
    let model = tokio::task::spawn_blocking(move || {
        let options = LoadOptions {
            dtype: settings.dtype,
            device: settings.open_device(0)?,
        };
        let report = |at: inkstone_model::checkpoint::LoadProgress<'_>| {
            progress(LoadProgress {
                part: "vision".to_owned(),
                bytes_done: at.bytes_done,
                bytes_total: at.bytes_total,
            });
        };
        anyhow::Ok(VisionModel::load(&checkpoint, &options, &report)?)
    })
    .await??;
    Ok(Tower(model))
}

struct Tower(VisionModel);

impl Encode for Tower {
    fn encode(&mut self, pictures: &[&PreparedPicture]) -> Result<Vec<PictureFeatures>, String> {
        self.0.encode(pictures).map_err(|error| error.to_string())
    }
}

/// The encoder of a simulated cluster, whose groups never ask for features.
struct NoTower;

impl Encode for NoTower {
    fn encode(&mut self, _: &[&PreparedPicture]) -> Result<Vec<PictureFeatures>, String> {
        Err(
            "this vision worker is simulated and has no features: ask one with --executor device"
                .to_owned(),
        )
    }
}
