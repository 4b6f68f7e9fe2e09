//! `inkstone serve`: a whole cluster in one process.

use tokio::sync::oneshot;

use super::{default_model::ModelDir, local_cluster::LocalCluster, run_until_stopped};
use crate::{arguments::ServeArguments, telemetry::Console};

pub(crate) fn run(arguments: ServeArguments, console: &Console) -> anyhow::Result<()> {
    let model = ModelDir::given_or_default(arguments.engine.model.as_deref(), console)?;
    let cluster = LocalCluster {
        model_dir: model.path(),
        engine: arguments.engine,
        language_replicas: arguments.language_replicas,
        tensor_parallel: u32::try_from(arguments.tensor_parallel)?.max(1),
        vision_workers: u32::try_from(arguments.vision_workers)?.max(1),
        grpc: arguments.front.grpc,
        admission: arguments.front.admission,
        grace: arguments.front.stop.grace(),
        composition: Some(arguments.front.composition),
    };
    run_until_stopped(async |shutdown| {
        let (ready, is_ready) = oneshot::channel();
        let told = console.clone();
        tokio::spawn(async move {
            if let Ok(address) = is_ready.await {
                told.line(&format!(
                    "ready: gRPC on {address}; try: inkstone chat --server {address} --image PICTURE \"What is this?\"\n  \
                     or: inkstone compose --server {address} \"Write an article about the park with three paragraphs.\" --out article.html"
                ));
            }
        });
        cluster.run(console, shutdown, ready).await
    })
}
