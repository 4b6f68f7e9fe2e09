//! `inkstone worker`: a part of a cluster as a process of its own. With `--registry` the coordinators tell it what to run; without,
//! its flags do: a language group's leader or rank, or a vision worker.

use std::time::Duration;

use anyhow::{Context, bail, ensure};
use inkstone_cluster::{NodeAddress, Registry, Role};
use inkstone_worker::{
    config::{
        DEFAULT_JOIN_DEADLINE, DEFAULT_NODE_JOIN_DEADLINE, Deadlines, ExecutorSettings,
        LanguageConfig, ModelSettings, NodeConfig, RankConfig, RankPlacement, VisionConfig,
    },
    language::serve_language,
    node::run_node,
    picture_encoder::serve_vision,
    rank_process::run_rank,
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::{identity::Identity, run_until_stopped, vision_settings};
use crate::{
    arguments::{ExecutorChoice, RoleChoice, WorkerArguments},
    telemetry::Console,
};

pub(crate) fn run(arguments: WorkerArguments, console: &Console) -> anyhow::Result<()> {
    run_until_stopped(async |shutdown| match arguments.registry.connect()? {
        Some(registry) => arguments.run_node(registry, shutdown, console).await,
        None => arguments.run_as_told(shutdown, console).await,
    })
}

impl WorkerArguments {
    /// Takes its work from the registry.
    async fn run_node(
        &self,
        registry: std::sync::Arc<dyn Registry>,
        shutdown: CancellationToken,
        console: &Console,
    ) -> anyhow::Result<()> {
        ensure!(
            self.rank.is_none() && self.leader.is_none() && self.tensor_parallel == 1,
            "with --registry the coordinator says which ranks run where: leave out --rank, --leader and --tensor-parallel"
        );
        let listener = self.listen().await?;
        let identity = Identity::of(&self.registry, listener.local_addr()?)?;
        let role = |choice: &RoleChoice| match choice {
            RoleChoice::Language => Role::Language,
            RoleChoice::Vision => Role::Vision,
        };
        let mut group = self.engine.group(Deadlines {
            join: self.join_deadline(DEFAULT_NODE_JOIN_DEADLINE),
            step: self.step_deadline(),
            silence: Duration::from_millis(self.rank_silence),
        });
        group.executor = self.executor();
        let config = NodeConfig {
            id: identity.id,
            incarnation: identity.incarnation,
            host: identity.host,
            address: identity.address,
            roles: self.role.iter().map(role).collect(),
            devices: self.devices,
            model: self.model_settings(self.devices as usize)?,
            group,
            vision_threads: self.engine.threads_of_each(1),
            vision: vision_settings(self.executor()),
            grace: self.stop.grace(),
        };
        run_node(config, registry, listener, shutdown, console.progress()).await
    }

    /// Runs what its flags say.
    async fn run_as_told(
        &self,
        shutdown: CancellationToken,
        console: &Console,
    ) -> anyhow::Result<()> {
        let world_size = self.tensor_parallel;
        if let Some(rank) = self.rank {
            ensure!(
                rank < world_size,
                "--rank {rank} is not below --tensor-parallel {world_size}"
            );
        }
        let [role] = self.role[..] else {
            bail!("without --registry a worker has one --role");
        };
        match (role, self.rank) {
            (RoleChoice::Vision, _) => {
                let config = VisionConfig {
                    model: self.model_settings(1)?,
                    vision: vision_settings(self.executor()),
                    grace: self.stop.grace(),
                };
                let listener = self.listen().await?;
                serve_vision(config, listener, shutdown, console.progress()).await
            }
            (RoleChoice::Language, Some(rank @ 1..)) => {
                let Some(leader) = &self.leader else {
                    bail!("rank {rank} needs --leader HOST:PORT, the gRPC address of rank 0");
                };
                let config = RankConfig {
                    model: self.model_settings(1)?,
                    rank,
                    world_size,
                    leader: leader.parse::<NodeAddress>()?.as_uri().to_owned(),
                    deadlines: self.deadlines(),
                    grace: self.stop.grace(),
                };
                run_rank(config, shutdown, console.progress()).await
            }
            (RoleChoice::Language, rank) => {
                let (ranks, local) = match rank {
                    None => (RankPlacement::InProcess, world_size),
                    Some(_) => (self.joining(), 1),
                };
                let mut group = self.engine.group(self.deadlines());
                group.executor = self.executor();
                let config = LanguageConfig {
                    model: self.model_settings(local)?,
                    world_size,
                    ranks,
                    group,
                    grace: self.stop.grace(),
                };
                let listener = self.listen().await?;
                serve_language(config, listener, shutdown, console.progress()).await
            }
        }
    }

    fn joining(&self) -> RankPlacement {
        RankPlacement::Joining {
            rendezvous: self.rendezvous,
        }
    }

    fn model_settings(&self, parts: usize) -> anyhow::Result<ModelSettings> {
        let model_dir = self.engine.model.clone();
        let model_dir = model_dir.context("a worker needs --model DIR")?;
        self.engine.model_settings(model_dir, parts)
    }

    fn executor(&self) -> ExecutorSettings {
        match self.executor {
            ExecutorChoice::Device => ExecutorSettings::Device,
            ExecutorChoice::Simulated => ExecutorSettings::Simulated {
                answer_tokens: self.simulated_answer_tokens,
            },
        }
    }

    /// Without a registry nobody takes the place of a rank that is only slow: it is as patient with silence as with a step.
    fn deadlines(&self) -> Deadlines {
        Deadlines {
            join: self.join_deadline(DEFAULT_JOIN_DEADLINE),
            step: self.step_deadline(),
            silence: self.step_deadline(),
        }
    }

    fn join_deadline(&self, default: Duration) -> Duration {
        self.join_deadline.map_or(default, Duration::from_secs)
    }

    fn step_deadline(&self) -> Duration {
        Duration::from_secs(self.step_deadline)
    }

    async fn listen(&self) -> anyhow::Result<TcpListener> {
        let listener = TcpListener::bind(self.grpc)
            .await
            .with_context(|| format!("cannot listen on {}", self.grpc))?;
        tracing::info!(address = %listener.local_addr()?, "listening");
        Ok(listener)
    }
}
