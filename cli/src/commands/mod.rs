//! A file per command; here is what they share: turning flags into settings, and stopping on a signal.

pub(crate) mod bench;
pub(crate) mod chat;
pub(crate) mod client;
pub(crate) mod coordinator;
pub(crate) mod default_model;
pub(crate) mod eval;
pub(crate) mod local_cluster;
pub(crate) mod model;
pub(crate) mod serve;
pub(crate) mod worker;

use std::{future::Future, path::PathBuf, thread};

use inkstone_worker::config as defaults;
use inkstone_worker::config::{
    ExecutorSettings, LanguageConfig, ModelSettings, RankPlacement, VisionConfig,
};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::arguments::EngineArguments;

impl EngineArguments {
    /// Settings for `parts` ranks (or encoders) that share this process's threads.
    pub(crate) fn model_settings(&self, model_dir: PathBuf, parts: usize) -> ModelSettings {
        let threads = self
            .threads
            .unwrap_or_else(|| thread::available_parallelism().map_or(1, usize::from));
        ModelSettings {
            model_dir,
            dtype: self.dtype.map(Into::into),
            threads: (threads / parts).max(1),
        }
    }

    /// Settings of a language group's leader process.
    pub(crate) fn language(
        &self,
        model: ModelSettings,
        world_size: usize,
        ranks: RankPlacement,
    ) -> LanguageConfig {
        LanguageConfig {
            model,
            world_size,
            ranks,
            executor: ExecutorSettings::Device,
            kv_cache_tokens: self.kv_cache_tokens,
            max_step_tokens: self.max_step_tokens,
            max_running: self.max_running,
            max_waiting: self.max_waiting,
            step_deadline: defaults::DEFAULT_STEP_DEADLINE,
            join_deadline: defaults::DEFAULT_JOIN_DEADLINE,
        }
    }

    /// Settings of a vision worker.
    pub(crate) fn vision(&self, model: ModelSettings) -> VisionConfig {
        VisionConfig {
            model,
            executor: ExecutorSettings::Device,
            max_picture_bytes: defaults::DEFAULT_MAX_PICTURE_BYTES,
            max_picture_pixels: defaults::DEFAULT_MAX_PICTURE_PIXELS,
            max_queue: defaults::DEFAULT_VISION_QUEUE,
            feature_cache_bytes: defaults::DEFAULT_FEATURE_CACHE_BYTES,
        }
    }
}

/// Runs `work` on a runtime; the token it gets is cancelled by the first SIGINT or SIGTERM, and a second one ends the
/// process at once.
pub(crate) fn run_until_stopped<F>(work: impl FnOnce(CancellationToken) -> F) -> anyhow::Result<()>
where
    F: Future<Output = anyhow::Result<()>>,
{
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let result = runtime.block_on(async {
        let shutdown = CancellationToken::new();
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let token = shutdown.clone();
        tokio::spawn(async move {
            for attempt in 0.. {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
                if attempt > 0 {
                    std::process::exit(130);
                }
                tracing::info!("stopping; a second signal stops at once");
                token.cancel();
            }
        });
        work(shutdown).await
    });
    // Threads that still compute are not waited for: what they do is of no use to anybody.
    runtime.shutdown_background();
    result
}
