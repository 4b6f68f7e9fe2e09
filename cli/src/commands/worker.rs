//! `inkstone worker`: a language group's leader or rank, or a vision worker, as a process of its own.

use std::time::Duration;

use anyhow::{Context, bail, ensure};
use inkstone_cluster::NodeAddress;
use inkstone_worker::{
    config::{ExecutorSettings, RankConfig, RankPlacement},
    language::serve_language,
    picture_encoder::serve_vision,
    rank_process::run_rank,
};
use tokio::net::TcpListener;

use super::run_until_stopped;
use crate::{
    arguments::{ExecutorChoice, RoleChoice, WorkerArguments},
    telemetry::Console,
};

pub(crate) fn run(arguments: WorkerArguments, console: &Console) -> anyhow::Result<()> {
    let model_dir = arguments
        .engine
        .model
        .clone()
        .context("a worker needs --model DIR")?;
    let world_size = arguments.tensor_parallel;
    if let Some(rank) = arguments.rank {
        ensure!(
            rank < world_size,
            "--rank {rank} is not below --tensor-parallel {world_size}"
        );
    }
    let local_ranks = if arguments.rank.is_some() {
        1
    } else {
        world_size
    };
    let settings = arguments
        .engine
        .model_settings(model_dir, local_ranks.max(1));
    let step_deadline = Duration::from_secs(arguments.step_deadline);
    let join_deadline = Duration::from_secs(arguments.join_deadline);
    let executor = match arguments.executor {
        ExecutorChoice::Device => ExecutorSettings::Device,
        ExecutorChoice::Simulated => ExecutorSettings::Simulated {
            answer_tokens: arguments.simulated_answer_tokens,
        },
    };
    run_until_stopped(async |shutdown| match (arguments.role, arguments.rank) {
        (RoleChoice::Vision, _) => {
            let mut config = arguments.engine.vision(settings);
            config.executor = executor;
            serve_vision(
                config,
                listen(&arguments).await?,
                shutdown,
                console.progress(),
            )
            .await
        }
        (RoleChoice::Language, Some(rank @ 1..)) => {
            let Some(leader) = &arguments.leader else {
                bail!("rank {rank} needs --leader HOST:PORT, the gRPC address of rank 0");
            };
            let config = RankConfig {
                model: settings,
                rank,
                world_size,
                leader: leader.parse::<NodeAddress>()?.as_uri().to_owned(),
                step_deadline,
                join_deadline,
            };
            run_rank(config, shutdown, console.progress()).await
        }
        (RoleChoice::Language, rank) => {
            let ranks = match rank {
                None => RankPlacement::InProcess,
                Some(_) => RankPlacement::Joining {
                    rendezvous: arguments.rendezvous,
                },
            };
            let mut config = arguments.engine.language(settings, world_size, ranks);
            config.executor = match arguments.executor {
                ExecutorChoice::Device => ExecutorSettings::Device,
                ExecutorChoice::Simulated => ExecutorSettings::Simulated {
                    answer_tokens: arguments.simulated_answer_tokens,
                },
            };
            config.step_deadline = step_deadline;
            config.join_deadline = join_deadline;
            config.executor = executor;
            serve_language(
                config,
                listen(&arguments).await?,
                shutdown,
                console.progress(),
            )
            .await
        }
    })
}

async fn listen(arguments: &WorkerArguments) -> anyhow::Result<TcpListener> {
    let listener = TcpListener::bind(arguments.grpc)
        .await
        .with_context(|| format!("cannot listen on {}", arguments.grpc))?;
    tracing::info!(address = %listener.local_addr()?, "listening");
    Ok(listener)
}
