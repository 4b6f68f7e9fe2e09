//! A file per command; here is what they share: turning flags into settings, and stopping on a signal.

pub(crate) mod bench;
pub(crate) mod chat;
pub(crate) mod client;
pub(crate) mod compose;
pub(crate) mod composition;
pub(crate) mod coordinator;
pub(crate) mod default_library;
pub(crate) mod default_model;
pub(crate) mod drain;
pub(crate) mod eval;
pub(crate) mod identity;
pub(crate) mod library;
pub(crate) mod local_cluster;
pub(crate) mod model;
pub(crate) mod scale;
pub(crate) mod serve;
pub(crate) mod status;
pub(crate) mod table;
pub(crate) mod worker;

use std::{future::Future, path::PathBuf, thread};

use inkstone_worker::config as defaults;
use inkstone_worker::config::{
    Deadlines, DeviceKind, ExecutorSettings, GroupSettings, ModelSettings, VisionSettings,
};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::arguments::{DeviceChoice, EngineArguments};

impl EngineArguments {
    /// Settings for `parts` ranks (or encoders) that share this process's threads.
    ///
    /// # Errors
    /// When a device is asked for that this machine or this binary does not have: better now than in a worker's first life.
    pub(crate) fn model_settings(
        &self,
        model_dir: PathBuf,
        parts: usize,
    ) -> anyhow::Result<ModelSettings> {
        let settings = ModelSettings {
            model_dir,
            dtype: self.dtype.map(Into::into),
            threads: self.threads_of_each(parts),
            device: match self.device {
                DeviceChoice::Cpu => DeviceKind::Cpu,
                DeviceChoice::Cuda => DeviceKind::Cuda { first: 0 },
            },
        };
        if settings.device != DeviceKind::Cpu {
            settings.open_device(parts.saturating_sub(1))?;
        }
        Ok(settings)
    }

    /// Threads for each of `parts` that share this process's.
    pub(crate) fn threads_of_each(&self, parts: usize) -> usize {
        let threads = self
            .threads
            .unwrap_or_else(|| thread::available_parallelism().map_or(1, usize::from));
        (threads / parts.max(1)).max(1)
    }

    /// How a language group runs.
    pub(crate) fn group(&self, deadlines: Deadlines) -> GroupSettings {
        GroupSettings {
            executor: ExecutorSettings::Device,
            kv_cache_tokens: self.kv_cache_tokens,
            max_step_tokens: self.max_step_tokens,
            max_running: self.max_running,
            max_waiting: self.max_waiting,
            decode_graphs: !self.no_decode_graphs,
            deadlines,
        }
    }
}

/// How a vision worker takes and encodes pictures.
pub(crate) fn vision_settings(executor: ExecutorSettings) -> VisionSettings {
    VisionSettings {
        executor,
        max_picture_bytes: defaults::DEFAULT_MAX_PICTURE_BYTES,
        max_picture_pixels: defaults::DEFAULT_MAX_PICTURE_PIXELS,
        max_queue: defaults::DEFAULT_VISION_QUEUE,
        feature_cache_bytes: defaults::DEFAULT_FEATURE_CACHE_BYTES,
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
