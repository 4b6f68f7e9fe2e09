//! Starts a vision worker: loads the picture encoder and serves it.

use std::sync::Arc;

use inkstone_model::{
    checkpoint::Checkpoint,
    clip::{
        PictureFeatures, VisionModel,
        preprocess::{DecodeLimits, PreparedPicture},
    },
    device::Device,
    load_options::LoadOptions,
};
use inkstone_proto::worker::v1::vision_service_server::VisionServiceServer;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Server, server::TcpIncoming};

use crate::{
    config::{ExecutorSettings, VisionConfig},
    loading::open_checkpoint,
    progress::{LoadProgress, ProgressSink},
    service::vision::VisionServer,
    vision::{Encode, Encoder, FeatureCache, VisionWorker},
};

/// Serves a vision worker on `listener` until `shutdown`, then lets open calls finish.
pub async fn serve_vision(
    config: VisionConfig,
    listener: TcpListener,
    shutdown: CancellationToken,
    progress: ProgressSink,
) -> anyhow::Result<()> {
    let checkpoint = open_checkpoint(&config.model).await?;
    let description = Arc::new(checkpoint.description().clone());
    let encode: Box<dyn Encode> = match config.executor {
        ExecutorSettings::Device => Box::new(load(&config, checkpoint, progress).await?),
        ExecutorSettings::Simulated { .. } => Box::new(NoTower),
    };
    let encoder = Encoder::start(encode, config.max_queue)?;
    let limits = DecodeLimits {
        max_bytes: config.max_picture_bytes,
        max_pixels: config.max_picture_pixels,
    };
    let cache = FeatureCache::new(config.feature_cache_bytes);
    let worker = Arc::new(VisionWorker::new(
        description,
        limits,
        encoder,
        cache,
        config.max_queue,
    ));
    let (health, health_service) = tonic_health::server::health_reporter();
    health
        .set_serving::<VisionServiceServer<VisionServer>>()
        .await;
    tracing::info!("the vision worker is ready");
    Server::builder()
        .add_service(health_service)
        .add_service(
            VisionServiceServer::new(VisionServer::new(worker)).max_decoding_message_size(1 << 20),
        )
        .serve_with_incoming_shutdown(
            TcpIncoming::from(listener).with_nodelay(Some(true)),
            shutdown.cancelled(),
        )
        .await?;
    Ok(())
}

async fn load(
    config: &VisionConfig,
    checkpoint: Arc<Checkpoint>,
    progress: ProgressSink,
) -> anyhow::Result<Tower> {
    let settings = config.model.clone();
    let model = tokio::task::spawn_blocking(move || {
        let options = LoadOptions {
            dtype: settings.dtype,
            device: Device::cpu(settings.threads),
        };
        let report = |at: inkstone_model::checkpoint::LoadProgress<'_>| {
            progress(LoadProgress {
                part: "vision".to_owned(),
                bytes_done: at.bytes_done,
                bytes_total: at.bytes_total,
            });
        };
        VisionModel::load(&checkpoint, &options, &report)
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
