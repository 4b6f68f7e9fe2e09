//! Starts a language group: loads the ranks' shards, joins them, runs the leader's loop and serves it.

mod kv_budget;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context, ensure};
use inkstone_engine::EngineLimits;
use inkstone_model::{
    checkpoint::{Checkpoint, Shard},
    collectives::{Collective, LocalCollective, SingleCollective},
    internlm2::{LanguageModel, RopeRule},
};
use inkstone_proto::worker::v1::{
    DescribeLanguageResponse, Welcome, language_service_server::LanguageServiceServer,
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Server, server::TcpIncoming};

use self::kv_budget::KvBudget;
use crate::{
    config::{ExecutorSettings, LanguageConfig, MAX_WAIT_STEPS, RankPlacement},
    constraint::ConstraintVocabulary,
    executor::{DeviceExecutor, Executor, LocalRank, PeerRank, RankFailures},
    feature_fetcher::FeatureFetcher,
    group::{
        join::{Deadlines, GroupTerms, JoinDesk, lead_collective},
        leader::{GroupStatus, Leader, LeaderHandle, PictureSource},
        rank::RankRunner,
    },
    loading::{
        dtype_name, fingerprint, load_rank, load_vocabulary, open_checkpoint, read_added_tokens,
    },
    progress::ProgressSink,
    service::language::{LanguageServer, RequestTerms, Serving},
    simulated_group,
};

/// After a shutdown, running requests get this long to finish.
const DRAIN_GRACE: Duration = Duration::from_secs(30);
/// A coordinator or a rank whose machine is gone is found out after this.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// Largest message of a coordinator: a prompt of the longest context.
const MAX_REQUEST_BYTES: usize = 16 << 20;

/// Serves a language group on `listener` until `shutdown`, then lets running requests finish. An error means that the
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
    let service = LanguageServiceServer::new(server.clone());
    let router = Server::builder()
        .http2_keepalive_interval(Some(KEEP_ALIVE))
        .add_service(health_service)
        .add_service(service.max_decoding_message_size(MAX_REQUEST_BYTES))
        .add_service(desk.service());
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    let serving = tokio::spawn(router.serve_with_incoming(incoming));
    let started = tokio::select! {
        started = start(&config, checkpoint, &desk, progress) => started?,
        () = shutdown.cancelled() => return Ok(()),
    };
    let handle = started.leader.handle();
    server.start(started.serving);
    health
        .set_serving::<LanguageServiceServer<LanguageServer>>()
        .await;
    tracing::info!("the language group is ready");
    let outcome = tokio::select! {
        reason = broken(&handle) => Err(anyhow::anyhow!("the language group failed: {reason}")),
        reason = desk.failure() => {
            // A step that runs fails by itself; an idle loop has to be told.
            handle.fail(reason.clone()).await;
            Err(anyhow::anyhow!("the language group failed: {reason}"))
        }
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
    serving: Serving,
}

async fn start(
    config: &LanguageConfig,
    checkpoint: Arc<Checkpoint>,
    desk: &JoinDesk,
    progress: ProgressSink,
) -> anyhow::Result<Started> {
    let model_dir = config.model.model_dir.clone();
    let tokenizer_file = model_dir.join("tokenizer.model");
    let tokenizer_model = tokio::fs::read(&tokenizer_file)
        .await
        .with_context(|| format!("cannot read {}", tokenizer_file.display()))?;
    let added_tokens = read_added_tokens(&model_dir).await?;
    let vocabulary = load_vocabulary(&config.model, &checkpoint).await?;
    let epoch = new_epoch();
    let ready = match config.executor {
        ExecutorSettings::Device => {
            let terms = (epoch, desk, Arc::clone(&vocabulary));
            start_ranks(config, &checkpoint, progress, terms).await?
        }
        ExecutorSettings::Simulated { answer_tokens } => {
            simulate(config, &checkpoint, answer_tokens)?
        }
    };
    let limits = EngineLimits {
        num_blocks: ready.num_blocks,
        max_step_tokens: config.max_step_tokens.max(config.max_running),
        max_running: config.max_running,
        max_waiting: config.max_waiting,
        max_wait_steps: MAX_WAIT_STEPS,
    };
    limits.validate()?;
    let positions = checkpoint.config().max_position_embeddings;
    let max_sequence_tokens = limits.max_sequence_tokens().min(positions);
    let leader = Leader::start(limits, ready.executor, ready.pictures)?;
    let description = DescribeLanguageResponse {
        description_json: checkpoint.description().to_json(),
        tokenizer_model: tokenizer_model.into(),
        added_tokens,
        world_size: u32::try_from(config.world_size)?,
        epoch,
        max_sequence_tokens: u32::try_from(max_sequence_tokens)?,
    };
    let terms = RequestTerms {
        epoch,
        vocab_size: u32::try_from(checkpoint.config().vocab_size)?,
        max_sequence_tokens,
        model_fingerprint: fingerprint(&checkpoint),
        rope: RopeRule::new(checkpoint.config()),
    };
    let serving = Serving {
        description,
        terms: Arc::new(terms),
        vocabulary,
        leader: leader.handle(),
    };
    Ok(Started { leader, serving })
}

/// What the leader drives.
struct Ready {
    executor: Box<dyn Executor>,
    pictures: Box<dyn PictureSource>,
    num_blocks: usize,
}

fn simulate(
    config: &LanguageConfig,
    checkpoint: &Checkpoint,
    answer_tokens: Option<usize>,
) -> anyhow::Result<Ready> {
    ensure!(
        config.ranks == RankPlacement::InProcess,
        "simulated ranks all run in the leader's process: leave out --rank"
    );
    let description = checkpoint.description();
    let cost = simulated_group::cost_model(description, config.world_size);
    let kv_tokens = config.kv_cache_tokens.unwrap_or_else(|| cost.kv_tokens());
    let num_blocks = kv_tokens.div_ceil(inkstone_engine::BLOCK_TOKENS);
    tracing::info!(num_blocks, kv_tokens, "the KV cache is simulated");
    let executor =
        simulated_group::executor(description, config.world_size, num_blocks, answer_tokens);
    Ok(Ready {
        executor: Box::new(executor),
        pictures: Box::new(simulated_group::NoPictures),
        num_blocks,
    })
}

async fn start_ranks(
    config: &LanguageConfig,
    checkpoint: &Arc<Checkpoint>,
    progress: ProgressSink,
    (epoch, desk, vocabulary): (u64, &JoinDesk, Arc<ConstraintVocabulary>),
) -> anyhow::Result<Ready> {
    let models = load_ranks(config, checkpoint, progress).await?;
    let dtype = models
        .first()
        .context("a group has at least one rank")?
        .kv_dtype();
    let budget = KvBudget {
        config: checkpoint.config(),
        world_size: config.world_size,
        ranks_here: models.len(),
        dtype,
    };
    let max_prompt_tokens = checkpoint.description().max_prompt_tokens;
    let num_blocks = budget.num_blocks(config.kv_cache_tokens, max_prompt_tokens);
    budget.tell(num_blocks);
    let assembly = Assembly {
        num_blocks,
        epoch,
        vocabulary,
    };
    Ok(Ready {
        executor: Box::new(assembly.executor(config, models, desk).await?),
        pictures: Box::new(FeatureFetcher::default()),
        num_blocks,
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

/// What all ranks of a group agree on.
struct Assembly {
    num_blocks: usize,
    epoch: u64,
    vocabulary: Arc<ConstraintVocabulary>,
}

impl Assembly {
    async fn executor(
        self,
        config: &LanguageConfig,
        models: Vec<Arc<LanguageModel>>,
        desk: &JoinDesk,
    ) -> anyhow::Result<DeviceExecutor> {
        let (failures, reports) = RankFailures::channel();
        let mut models = models.into_iter();
        let own = models.next().context("a group has at least one rank")?;
        let (collective, peers): (Arc<dyn Collective>, Vec<Box<dyn PeerRank>>) = match config.ranks
        {
            _ if config.world_size == 1 => (Arc::new(SingleCollective), Vec::new()),
            RankPlacement::InProcess => {
                let ends = LocalCollective::group(config.world_size, config.step_deadline);
                let mut ends = ends.into_iter();
                let first = ends.next().context("a group has at least one rank")?;
                let mut peers: Vec<Box<dyn PeerRank>> = Vec::new();
                for (model, end) in models.zip(ends) {
                    let runner = self.runner(model, Arc::new(end));
                    peers.push(Box::new(LocalRank::start(runner, failures.clone())?));
                }
                (Arc::new(first), peers)
            }
            RankPlacement::Joining { rendezvous } => {
                let failures = failures.clone();
                self.join_processes(config, rendezvous, desk, failures)
                    .await?
            }
        };
        let own = self.runner(own, collective);
        let reports = (failures, reports);
        let executor = DeviceExecutor::start(own, peers, reports, config.step_deadline)?;
        Ok(executor)
    }

    fn runner(&self, model: Arc<LanguageModel>, collective: Arc<dyn Collective>) -> RankRunner {
        let vocabulary = Arc::clone(&self.vocabulary);
        RankRunner::new(model, self.num_blocks, collective, vocabulary)
    }

    async fn join_processes(
        &self,
        config: &LanguageConfig,
        rendezvous: SocketAddr,
        desk: &JoinDesk,
        failures: RankFailures,
    ) -> anyhow::Result<(Arc<dyn Collective>, Vec<Box<dyn PeerRank>>)> {
        let listener = std::net::TcpListener::bind(rendezvous)
            .with_context(|| format!("cannot listen on {rendezvous}"))?;
        let welcome = Welcome {
            epoch: self.epoch,
            group_id: format!("group-{:x}", self.epoch),
            rendezvous: listener.local_addr()?.to_string(),
            num_kv_blocks: u32::try_from(self.num_blocks)?,
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
        let assembled = desk.assemble(welcome, config.join_deadline, failures, form);
        let (collective, peers) = assembled.await?;
        Ok((Arc::new(collective), peers))
    }
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
        tracing::warn!(grace = ?DRAIN_GRACE, "requests were still running at the end of the grace time");
    }
}
