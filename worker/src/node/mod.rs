//! A worker that takes its work from the registry. It announces itself, and then runs what it is assigned: a whole language group, its
//! leader, another rank, a vision worker, one life after another on one listener, without the process ending. What breaks is
//! reported and waits for a new epoch; while the registry is away everything goes on as it is.

mod assignment;
mod board;
mod follower;
mod language;
mod leader;
mod nccl_ids;
#[cfg(test)]
mod tests;
mod vision;
mod weights;

use std::sync::Arc;

use inkstone_cluster::{ClusterState, NodeId, NodeRecord, Registry, Role};
use inkstone_model::checkpoint::Checkpoint;
use tokio::{net::TcpListener, sync::watch};
use tokio_util::sync::CancellationToken;

use self::{board::StatusBoard, language::LanguagePart, vision::VisionPart};
pub use crate::config::NodeConfig;
use crate::{
    config::{DeviceKind, ExecutorSettings},
    loading::open_checkpoint,
    progress::ProgressSink,
    service::{
        group::GroupServer,
        health::{Health, Part},
        language::LanguageServer,
        listener::Services,
        vision::VisionServer,
    },
};

/// What the parts of a node share; cheap to clone.
#[derive(Clone)]
struct Node {
    config: Arc<NodeConfig>,
    checkpoint: Arc<Checkpoint>,
    board: Arc<StatusBoard>,
    health: Health,
    /// What is known of the cluster.
    state: watch::Receiver<Arc<ClusterState>>,
    registry: Arc<dyn Registry>,
    /// The process is told to stop.
    shutdown: CancellationToken,
    progress: ProgressSink,
}

/// Runs a node on `listener` until `shutdown`; then it takes no new work, finishes what runs within its grace time, and leaves the
/// registry. An error means that it could not start.
pub async fn run_node(
    config: NodeConfig,
    registry: Arc<dyn Registry>,
    listener: TcpListener,
    shutdown: CancellationToken,
    progress: ProgressSink,
) -> anyhow::Result<()> {
    let checkpoint = open_checkpoint(&config.model).await?;
    let has = |role| config.roles.contains(&role);
    let health = Health::new(&parts(&config)).await;
    let (language, vision) = (LanguageServer::new(), VisionServer::default());
    let group = GroupServer::default();
    let services = Services {
        health: health.clone(),
        language: has(Role::Language).then(|| language.clone()),
        group: has(Role::Language).then(|| group.clone()),
        vision: has(Role::Vision).then(|| vision.clone()),
    };
    let mut listening = services.listen(listener);
    let announcement = registry.announce(record(&config, &checkpoint));
    let node = Node {
        config: Arc::new(config),
        checkpoint,
        board: Arc::new(StatusBoard::new(Arc::clone(&announcement))),
        health,
        state: registry.state(),
        registry,
        shutdown,
        progress,
    };
    tracing::info!(node = %node.config.id, address = %node.config.address, "the node waits for work");
    // A part without its role is never assigned anything: it only waits for the end.
    let language = LanguagePart::new(node.clone(), language, group);
    let vision = VisionPart::new(node.clone(), vision);
    let life = async { tokio::join!(Box::pin(language.run()), Box::pin(vision.run())) };
    tokio::select! {
        _ = life => {}
        error = listening.ended() => return Err(error),
    }
    announcement.withdraw().await;
    listening.close().await;
    tracing::info!(node = %node.config.id, "the node has left");
    Ok(())
}

fn parts(config: &NodeConfig) -> Vec<Part> {
    let part = |role: &Role| match role {
        Role::Language => Part::Language,
        Role::Vision => Part::Vision,
    };
    config.roles.iter().map(part).collect()
}

fn record(config: &NodeConfig, checkpoint: &Checkpoint) -> NodeRecord {
    NodeRecord {
        id: config.id.clone(),
        incarnation: config.incarnation.clone(),
        host: config.host.clone(),
        address: config.address.clone(),
        roles: config.roles.clone(),
        devices: config.devices,
        device_kind: match config.group.executor {
            ExecutorSettings::Simulated { .. } => "simulated".to_owned(),
            ExecutorSettings::Device => match config.model.device {
                DeviceKind::Cpu => "cpu".to_owned(),
                DeviceKind::Cuda { .. } => "cuda".to_owned(),
            },
        },
        memory_bytes: memory_bytes() / u64::from(config.devices.max(1)),
        model: checkpoint.description().name.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    }
}

/// Memory of this machine, as the kernel counts it; 0 where it does not say.
fn memory_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with("MemTotal:"));
    let kilobytes = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
    kilobytes.map_or(0, |kilobytes| kilobytes * 1024)
}

impl Node {
    fn id(&self) -> &NodeId {
        &self.config.id
    }

    /// Waits until the cluster's state changes or the process is told to stop. A registry that is gone changes nothing any more.
    async fn news(&mut self) {
        let changed = async {
            if self.state.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            () = changed => {}
            () = self.shutdown.cancelled() => {}
        }
    }
}
