//! Starts a language group: loads the ranks' shards, joins them, runs the leader's loop and serves it.

use std::{
    cell::Cell,
    collections::HashMap,
    net::SocketAddr,
    path::Path,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use inkstone_engine::{BLOCK_TOKENS, EngineLimits};
use inkstone_interface::{description::ModelDescription, tokenizer::ADDED_TOKENS_FILE};
use inkstone_model::{
    checkpoint::{Checkpoint, Shard},
    collectives::{Collective, LocalCollective, SingleCollective},
    device::Device,
    internlm2::LanguageModel,
    load_options::LoadOptions,
};
use inkstone_proto::worker::v1::{
    DescribeLanguageResponse, RankHello, Welcome, language_service_server::LanguageServiceServer,
};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Server};

use crate::{
    config::{LanguageConfig, ModelSettings, RankConfig, RankPlacement},
    executor::{DeviceExecutor, PeerRank, local_ranks},
    group::{
        join::{Deadlines, GroupTerms, JoinDesk, Joined, lead_collective},
        leader::{GroupStatus, Leader, LeaderHandle},
        rank::RankRunner,
    },
    progress::{LoadProgress, ProgressSink},
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

/// Runs one rank other than 0 until its leader is done with it.
pub async fn run_rank(
    config: RankConfig,
    shutdown: CancellationToken,
    progress: ProgressSink,
) -> anyhow::Result<()> {
    let checkpoint = open_checkpoint(&config.model).await?;
    let hello = RankHello {
        rank: u32::try_from(config.rank)?,
        world_size: u32::try_from(config.world_size)?,
        checkpoint_fingerprint: fingerprint(&checkpoint).to_vec().into(),
        dtype: dtype_name(&config.model),
    };
    let shard = Shard {
        rank: config.rank,
        world_size: config.world_size,
    };
    let settings = config.model.clone();
    let model =
        tokio::task::spawn_blocking(move || load_rank(&checkpoint, &settings, shard, &progress))
            .await??;
    let deadlines = Deadlines {
        join: config.join_deadline,
        step: config.step_deadline,
    };
    tokio::select! {
        result = follow_leader(&config, hello, model, deadlines) => result,
        () = shutdown.cancelled() => Ok(()),
    }
}

async fn follow_leader(
    config: &RankConfig,
    hello: RankHello,
    model: Arc<LanguageModel>,
    deadlines: Deadlines,
) -> anyhow::Result<()> {
    let channel = connect(&config.leader, config.join_deadline).await?;
    let mut joined = Joined::say_hello(channel, hello, config.join_deadline)
        .await
        .map_err(|status| {
            anyhow::anyhow!(
                "the leader at {} refused: {}",
                config.leader,
                status.message()
            )
        })?;
    let collective = joined
        .enter_collective(config.rank, config.world_size, deadlines)
        .await
        .map_err(anyhow::Error::msg)?;
    tracing::info!(
        rank = config.rank,
        epoch = joined.welcome.epoch,
        "joined the group"
    );
    let num_blocks = joined.welcome.num_kv_blocks as usize;
    let mut runner = RankRunner::new(model, num_blocks, Arc::new(collective));
    let (commands, receiver) = std::sync::mpsc::sync_channel(16);
    let running = thread::Builder::new()
        .name(format!("rank-{}", config.rank))
        .spawn(move || {
            receiver
                .into_iter()
                .try_for_each(|command| runner.follow(command))
        })?;
    let lost = loop {
        match joined.next_command().await {
            Ok(Some(command)) => {
                // Steps go in lock-step with the collective, so this waits for one step at most.
                let commands = commands.clone();
                if tokio::task::spawn_blocking(move || commands.send(command))
                    .await?
                    .is_err()
                {
                    break None;
                }
            }
            Ok(None) => break Some("the leader closed the group".to_owned()),
            Err(reason) => break Some(reason),
        }
    };
    drop(commands);
    match tokio::task::spawn_blocking(move || running.join()).await? {
        Ok(Ok(())) => bail!(lost.unwrap_or_else(|| "the rank stopped".to_owned())),
        Ok(Err(error)) => Err(error.into()),
        Err(_) => bail!("the rank's thread panicked"),
    }
}

/// The checkpoint's `added_tokens.json`: names of ids; most checkpoints have none.
async fn read_added_tokens(model_dir: &Path) -> anyhow::Result<HashMap<String, u32>> {
    let file = model_dir.join(ADDED_TOKENS_FILE);
    match tokio::fs::read(&file).await {
        Ok(json) => serde_json::from_slice(&json)
            .with_context(|| format!("{} cannot be read", file.display())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(HashMap::new()),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", file.display())),
    }
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

fn load_rank(
    checkpoint: &Checkpoint,
    settings: &ModelSettings,
    shard: Shard,
    progress: &ProgressSink,
) -> anyhow::Result<Arc<LanguageModel>> {
    let started = Instant::now();
    let options = LoadOptions {
        dtype: settings.dtype,
        device: Device::cpu(settings.threads),
    };
    let part = format!("rank {}", shard.rank);
    let bytes_read = Cell::new(0);
    let report = |at: inkstone_model::checkpoint::LoadProgress<'_>| {
        bytes_read.set(at.bytes_done);
        progress(LoadProgress {
            part: part.clone(),
            bytes_done: at.bytes_done,
            bytes_total: at.bytes_total,
        });
    };
    let model = LanguageModel::load(checkpoint, shard, &options, &report)?;
    tracing::info!(
        rank = shard.rank,
        world_size = shard.world_size,
        bytes_read = bytes_read.get(),
        checkpoint_bytes = checkpoint.description().weight_bytes,
        seconds = started.elapsed().as_secs_f64(),
        "loaded the rank's shard"
    );
    Ok(Arc::new(model))
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

pub(crate) async fn open_checkpoint(settings: &ModelSettings) -> anyhow::Result<Arc<Checkpoint>> {
    let dir = settings.model_dir.clone();
    let open = move || Checkpoint::open(Path::new(&dir)).map(Arc::new);
    Ok(tokio::task::spawn_blocking(open).await??)
}

/// All ranks of a group must hold the same model: its config and the names, shapes and types of its tensors.
fn fingerprint(checkpoint: &Checkpoint) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(checkpoint.description().to_json().as_bytes());
    for tensor in checkpoint.tensors() {
        hasher
            .update(format!("{} {:?} {:?}\n", tensor.name, tensor.shape, tensor.stored).as_bytes());
    }
    *hasher.finalize().as_bytes()
}

fn dtype_name(settings: &ModelSettings) -> String {
    settings
        .dtype
        .map_or_else(|| "as stored".to_owned(), |dtype| format!("{dtype:?}"))
}

/// A number that grows from one life of a group to the next: milliseconds since 1970.
fn new_epoch() -> u64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(1, |since| {
            u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
        })
}

async fn connect(address: &str, deadline: Duration) -> anyhow::Result<Channel> {
    let endpoint = Channel::from_shared(address.to_owned())
        .with_context(|| format!("{address} is not an address; wanted http://host:port"))?
        .connect_timeout(Duration::from_secs(5));
    let started = Instant::now();
    loop {
        match endpoint.connect().await {
            Ok(channel) => return Ok(channel),
            Err(error) if started.elapsed() > deadline => {
                return Err(error)
                    .with_context(|| format!("no leader at {address} within {deadline:?}"));
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
        }
    }
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
