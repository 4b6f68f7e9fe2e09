//! Starts a language group: loads the ranks' shards, joins them, runs the leader's loop and serves it.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::Context;
use inkstone_engine::{BLOCK_TOKENS, EngineLimits};
use inkstone_interface::description::ModelDescription;
use inkstone_model::{
    checkpoint::{Checkpoint, Shard},
    collectives::{Collective, LocalCollective, SingleCollective},
    internlm2::LanguageModel,
};
use inkstone_proto::worker::v1::{
    DescribeLanguageResponse, Welcome, language_service_server::LanguageServiceServer,
};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;

use crate::{
    config::{LanguageConfig, RankPlacement},
    executor::{DeviceExecutor, PeerRank, local_ranks},
    group::{
        join::{Deadlines, GroupTerms, JoinDesk, lead_collective},
        leader::{GroupStatus, Leader, LeaderHandle},
        rank::RankRunner,
    },
    loading::{dtype_name, fingerprint, load_rank, open_checkpoint, read_added_tokens},
    progress::ProgressSink,
    service::language::{LanguageServer, Serving},
};

/// Bytes of memory that stay for other things when the KV cache's size is chosen: three quarters of what is free.
const KV_MEMORY_SHARE: u64 = 4;
/// A cache holds at most this many of the longest prompts unless told otherwise.
const KV_PROMPTS: usize = 8;
/// After a shutdown, running sequences get this long to finish.
const DRAIN_GRACE: Duration = Duration::from_secs(30);

/// Serves a language group on `listener` until `shutdown`, then lets running sequences finish. An error means that the
/// group could not start or broke.
pub async fn serve_language(
    config: LanguageConfig,
    listener: TcpListener,
    shutdown: CancellationToken,
    progress: ProgressSink,
) -> anyhow::Result<()> {
    let checkpoint = open_checkpoint(&config.model).await?;
    let (health, health_service) = tonic_health::server::health_reporter();
    health
        .set_not_serving::<LanguageServiceServer<LanguageServer>>()
        .await;
    let server = LanguageServer::loading();
    let desk = JoinDesk::new(GroupTerms {
        world_size: config.world_size,
        checkpoint_fingerprint: fingerprint(&checkpoint),
        dtype: dtype_name(&config.model),
    });
    let router = Server::builder()
        .add_service(health_service)
        .add_service(LanguageServiceServer::new(server.clone()).max_decoding_message_size(16 << 20))
        .add_service(desk.service());
    let serving = tokio::spawn(router.serve_with_incoming(TcpListenerStream::new(listener)));
    let started = tokio::select! {
        started = start(&config, checkpoint, &desk, progress) => started?,
        () = shutdown.cancelled() => return Ok(()),
    };
    let handle = started.leader.handle();
    server.start(Serving {
        description: started.description,
        vocab_size: started.vocab_size,
        leader: handle.clone(),
    });
    health
        .set_serving::<LanguageServiceServer<LanguageServer>>()
        .await;
    tracing::info!("the language group is ready");
    let outcome = tokio::select! {
        reason = broken(&handle) => Err(anyhow::anyhow!("the language group failed: {reason}")),
        () = shutdown.cancelled() => Ok(()),
    };
    health
        .set_not_serving::<LanguageServiceServer<LanguageServer>>()
        .await;
    server.drain();
    wait_until_idle(&handle).await;
    serving.abort();
    drop((handle, server));
    let _ = serving.await;
    tokio::task::spawn_blocking(|| started.leader.stop()).await?;
    outcome
}

struct Started {
    leader: Leader,
    vocab_size: u32,
    description: DescribeLanguageResponse,
}

async fn start(
    config: &LanguageConfig,
    checkpoint: Arc<Checkpoint>,
    desk: &JoinDesk,
    progress: ProgressSink,
) -> anyhow::Result<Started> {
    let model_dir = config.model.model_dir.clone();
    let tokenizer_model = tokio::fs::read(model_dir.join("tokenizer.model"))
        .await
        .with_context(|| {
            format!(
                "cannot read {}",
                model_dir.join("tokenizer.model").display()
            )
        })?;
    let added_tokens = read_added_tokens(&model_dir).await?;
    let models = load_ranks(config, &checkpoint, progress).await?;
    let num_blocks = num_kv_blocks(config, checkpoint.description());
    let limits = EngineLimits {
        num_blocks,
        max_step_tokens: config.max_step_tokens.max(config.max_running),
        max_running: config.max_running,
        max_waiting: config.max_waiting,
    };
    limits.validate()?;
    let epoch = new_epoch();
    let executor = assemble(config, models, num_blocks, epoch, desk).await?;
    let positions = checkpoint.config().max_position_embeddings;
    let max_sequence_tokens = limits.max_sequence_tokens().min(positions);
    tracing::info!(
        num_blocks,
        kv_tokens = num_blocks * BLOCK_TOKENS,
        epoch,
        "the KV cache is allocated"
    );
    Ok(Started {
        leader: Leader::start(limits, Box::new(executor))?,
        vocab_size: u32::try_from(checkpoint.config().vocab_size)?,
        description: DescribeLanguageResponse {
            description_json: checkpoint.description().to_json(),
            tokenizer_model: tokenizer_model.into(),
            added_tokens,
            world_size: u32::try_from(config.world_size)?,
            epoch,
            max_sequence_tokens: u32::try_from(max_sequence_tokens)?,
        },
    })
}

/// Loads the ranks of this process side by side.
async fn load_ranks(
    config: &LanguageConfig,
    checkpoint: &Arc<Checkpoint>,
    progress: ProgressSink,
) -> anyhow::Result<Vec<Arc<LanguageModel>>> {
    let local = match config.ranks {
        RankPlacement::InProcess => config.world_size,
        RankPlacement::Joining { .. } => 1,
    };
    let loads = (0..local).map(|rank| {
        let (checkpoint, settings, progress) = (
            Arc::clone(checkpoint),
            config.model.clone(),
            Arc::clone(&progress),
        );
        let shard = Shard {
            rank,
            world_size: config.world_size,
        };
        tokio::task::spawn_blocking(move || load_rank(&checkpoint, &settings, shard, &progress))
    });
    let mut models = Vec::with_capacity(local);
    for load in loads.collect::<Vec<_>>() {
        models.push(load.await??);
    }
    Ok(models)
}

async fn assemble(
    config: &LanguageConfig,
    models: Vec<Arc<LanguageModel>>,
    num_blocks: usize,
    epoch: u64,
    desk: &JoinDesk,
) -> anyhow::Result<DeviceExecutor> {
    let mut models = models.into_iter();
    let own = models.next().context("a group has at least one rank")?;
    let (collective, peers): (Arc<dyn Collective>, Vec<Box<dyn PeerRank>>) = match config.ranks {
        _ if config.world_size == 1 => (Arc::new(SingleCollective), Vec::new()),
        RankPlacement::InProcess => {
            let mut ends =
                LocalCollective::group(config.world_size, config.step_deadline).into_iter();
            let first = ends.next().context("a group has at least one rank")?;
            let runners = models
                .zip(ends)
                .map(|(model, end)| RankRunner::new(model, num_blocks, Arc::new(end)));
            (Arc::new(first), local_ranks(runners.collect())?)
        }
        RankPlacement::Joining { rendezvous } => {
            join_processes(config, rendezvous, num_blocks, epoch, desk).await?
        }
    };
    Ok(DeviceExecutor::new(
        RankRunner::new(own, num_blocks, collective),
        peers,
    ))
}

async fn join_processes(
    config: &LanguageConfig,
    rendezvous: SocketAddr,
    num_blocks: usize,
    epoch: u64,
    desk: &JoinDesk,
) -> anyhow::Result<(Arc<dyn Collective>, Vec<Box<dyn PeerRank>>)> {
    let listener = std::net::TcpListener::bind(rendezvous)
        .with_context(|| format!("cannot listen on {rendezvous}"))?;
    let welcome = Welcome {
        epoch,
        group_id: format!("group-{epoch:x}"),
        rendezvous: listener.local_addr()?.to_string(),
        num_kv_blocks: u32::try_from(num_blocks)?,
    };
    let deadlines = Deadlines {
        join: config.join_deadline,
        step: config.step_deadline,
    };
    let (world_size, terms) = (config.world_size, welcome.clone());
    let form = move || lead_collective(&listener, &terms, world_size, deadlines);
    tracing::info!(
        ranks = world_size - 1,
        "waiting for the other ranks to join"
    );
    let (collective, peers) = desk.assemble(welcome, config.join_deadline, form).await?;
    Ok((Arc::new(collective), peers))
}

/// Positions that fit the memory: a quarter of what is free, at most [`KV_PROMPTS`] of the longest prompts.
pub fn default_kv_tokens(
    description: &ModelDescription,
    ranks_here: usize,
    world_size: usize,
) -> usize {
    let config = &description.config;
    let heads = config.num_key_value_heads / world_size;
    let bytes_per_token =
        (2 * heads * config.head_dim() * config.num_hidden_layers * 4 * ranks_here) as u64;
    let fits = available_memory() / KV_MEMORY_SHARE / bytes_per_token.max(1);
    let wanted = description.max_prompt_tokens.saturating_mul(KV_PROMPTS);
    usize::try_from(fits)
        .unwrap_or(usize::MAX)
        .clamp(BLOCK_TOKENS, wanted.max(BLOCK_TOKENS))
}

fn num_kv_blocks(config: &LanguageConfig, description: &ModelDescription) -> usize {
    let ranks_here = match config.ranks {
        RankPlacement::InProcess => config.world_size,
        RankPlacement::Joining { .. } => 1,
    };
    let default = || default_kv_tokens(description, ranks_here, config.world_size);
    config
        .kv_cache_tokens
        .unwrap_or_else(default)
        .div_ceil(BLOCK_TOKENS)
}

/// Bytes of free memory, as the kernel counts them; 4 GiB where it does not say.
fn available_memory() -> u64 {
    let kilobytes = std::fs::read_to_string("/proc/meminfo")
        .ok()
        .and_then(|text| {
            let line = text
                .lines()
                .find(|line| line.starts_with("MemAvailable:"))?;
            line.split_whitespace().nth(1)?.parse::<u64>().ok()
        });
    kilobytes.map_or(4 << 30, |kilobytes| kilobytes * 1024)
}

/// A number that grows from one life of a group to the next: milliseconds since 1970.
fn new_epoch() -> u64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(1, |since| {
            u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
        })
}

async fn broken(handle: &LeaderHandle) -> String {
    let mut status = handle.status();
    loop {
        match &*status.borrow_and_update() {
            GroupStatus::Serving => {}
            GroupStatus::Failed(reason) => return reason.clone(),
            GroupStatus::Stopped => return "it stopped".to_owned(),
        }
        if status.changed().await.is_err() {
            return "its loop is gone".to_owned();
        }
    }
}

async fn wait_until_idle(handle: &LeaderHandle) {
    let idle = async {
        while handle.load().running + handle.load().waiting > 0
            && *handle.status().borrow() == GroupStatus::Serving
        {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        // The last events are on their way to the readers.
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    if tokio::time::timeout(DRAIN_GRACE, idle).await.is_err() {
        tracing::warn!(grace = ?DRAIN_GRACE, "sequences were still running at the end of the grace time");
    }
}
