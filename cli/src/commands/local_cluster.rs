//! A whole cluster in this process: the same nodes, the same placement and the same services as in a real one, over a registry in
//! memory and gRPC on loopback.

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use anyhow::Context;
use inkstone_cluster::{
    ClusterState, Deployment, InProcessRegistry, NodeId, NodeStatus, Phase, Registry, Role,
};
use inkstone_coordinator::{PlacementSettings, Wanted};
use inkstone_worker::{
    config::{
        DEFAULT_NODE_JOIN_DEADLINE, DEFAULT_SILENCE, DEFAULT_STEP_DEADLINE, Deadlines,
        ExecutorSettings, NodeConfig,
    },
    node::run_node,
};
use tokio::{net::TcpListener, sync::oneshot, task::JoinSet};
use tokio_util::sync::CancellationToken;

use super::{
    composition::Composition, default_library::default_library, identity::random_name,
    vision_settings,
};
use crate::{
    arguments::{AdmissionArguments, CompositionArguments, EngineArguments},
    telemetry::Console,
};

/// What to run.
pub(crate) struct LocalCluster {
    pub(crate) model_dir: PathBuf,
    pub(crate) engine: EngineArguments,
    pub(crate) language_replicas: u32,
    pub(crate) tensor_parallel: u32,
    pub(crate) vision_workers: u32,
    pub(crate) grpc: SocketAddr,
    pub(crate) admission: AdmissionArguments,
    /// With what articles are composed; where nothing is said, without pictures.
    pub(crate) composition: Option<CompositionArguments>,
    pub(crate) grace: Duration,
}

impl LocalCluster {
    /// Runs until `shutdown`, or until a part fails that nothing can replace. `ready` hears the address once requests are taken.
    /// Stops front to back: clients' streams finish first, then the workers that feed them.
    pub(crate) async fn run(
        self,
        console: &Console,
        shutdown: CancellationToken,
        ready: oneshot::Sender<SocketAddr>,
    ) -> anyhow::Result<()> {
        let front = TcpListener::bind(self.grpc)
            .await
            .with_context(|| format!("cannot listen on {}", self.grpc))?;
        let composition = self.composition().await?;
        let registry = InProcessRegistry::new();
        let nodes_stop = CancellationToken::new();
        let mut nodes = JoinSet::new();
        for (role, number) in self.nodes() {
            let (listener, address) = loopback().await?;
            let config = self.node(role, number, address)?;
            let (registry, stop) = (Arc::clone(&registry), nodes_stop.clone());
            nodes.spawn(run_node(
                config,
                registry,
                listener,
                stop,
                console.progress(),
            ));
        }
        let (coordinator_ready, is_ready) = oneshot::channel();
        let coordinator_stop = CancellationToken::new();
        let mut coordinator = tokio::spawn(inkstone_coordinator::serve(
            self.coordinator(Arc::clone(&registry), composition),
            front,
            coordinator_stop.clone(),
            coordinator_ready,
        ));
        let start = async {
            tokio::select! {
                Ok(coordinator) = is_ready => {
                    let _ = ready.send(coordinator.address);
                    std::future::pending().await
                }
                error = failure(registry.as_ref()) => error,
            }
        };
        let result = tokio::select! {
            () = shutdown.cancelled() => Ok(()),
            ended = &mut coordinator => return ended?,
            error = start => Err(error),
            Some(ended) = nodes.join_next() => ended?.and_then(|()| Err(anyhow::anyhow!("a worker stopped by itself"))),
        };
        coordinator_stop.cancel();
        let _ = coordinator.await?;
        nodes_stop.cancel();
        while nodes.join_next().await.is_some() {}
        result
    }

    /// A node for each language group, and one for each vision worker.
    fn nodes(&self) -> impl Iterator<Item = (Role, u32)> + use<> {
        let language = (0..self.language_replicas).map(|number| (Role::Language, number));
        let vision = (0..self.vision_workers).map(|number| (Role::Vision, number));
        language.chain(vision)
    }

    fn node(&self, role: Role, number: u32, address: SocketAddr) -> anyhow::Result<NodeConfig> {
        let (name, devices) = match role {
            Role::Language => ("language", self.tensor_parallel),
            Role::Vision => ("vision", 1),
        };
        let ranks = self.language_replicas * self.tensor_parallel;
        Ok(NodeConfig {
            id: NodeId::new(format!("{name}-{number}")),
            incarnation: random_name(),
            host: "localhost".to_owned(),
            address: address.to_string().parse()?,
            roles: [role].into(),
            devices,
            model: self
                .engine
                .model_settings(self.model_dir.clone(), ranks as usize)?,
            group: self.engine.group(Deadlines {
                join: DEFAULT_NODE_JOIN_DEADLINE,
                step: DEFAULT_STEP_DEADLINE,
                silence: DEFAULT_SILENCE,
            }),
            vision_threads: self.engine.threads_of_each(self.vision_workers as usize),
            vision: vision_settings(ExecutorSettings::Device),
            grace: self.grace,
        })
    }

    /// What articles are composed with: the model that is built in has a library that is built in.
    async fn composition(&self) -> anyhow::Result<Composition> {
        let Some(arguments) = &self.composition else {
            return Ok(Composition::default());
        };
        let mut composition = Composition::of(arguments).await?;
        if composition.source.is_none() && self.engine.model.is_none() {
            composition.source = Some(Arc::new(default_library().await?));
        }
        Ok(composition)
    }

    fn coordinator(
        &self,
        registry: Arc<dyn Registry>,
        composition: Composition,
    ) -> inkstone_coordinator::Config {
        let mut placement = PlacementSettings::new(NodeId::new("coordinator-0"));
        placement.wanted = Wanted::Replace(Deployment {
            model: None,
            language_replicas: self.language_replicas,
            tensor_parallel: self.tensor_parallel,
            vision_replicas: self.vision_workers,
        });
        // There is nothing to choose from: each part has a node of its own.
        placement.policy.gather_for = Duration::ZERO;
        let mut config = inkstone_coordinator::Config::for_registry(registry, placement);
        config.timeouts.drain = self.grace;
        self.admission.apply(&mut config);
        composition.apply(&mut config);
        config
    }
}

/// Waits until a part fails before the cluster was ever ready: what does not start here does not start elsewhere.
async fn failure(registry: &dyn Registry) -> anyhow::Error {
    let mut state = registry.state();
    loop {
        if let Some(reason) = first_failure(&state.borrow_and_update()) {
            return anyhow::Error::msg(reason);
        }
        if state.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

fn first_failure(state: &ClusterState) -> Option<String> {
    let reason = |status: &NodeStatus| {
        let language = status.language.iter().map(|language| &language.phase);
        let vision = status.vision.iter().map(|vision| &vision.phase);
        language.chain(vision).find_map(|phase| match phase {
            Phase::Failed { reason, .. } => Some(reason.clone()),
            _ => None,
        })
    };
    state.statuses.values().find_map(reason)
}

async fn loopback() -> anyhow::Result<(TcpListener, SocketAddr)> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    Ok((listener, address))
}
