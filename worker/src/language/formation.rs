//! How one life of a language group comes to be: ranks on their threads or joined from other processes, the leader's loop, and a
//! first forward.

use std::{net::TcpListener, sync::Arc, time::Duration};

use anyhow::{Context, ensure};
use futures::future::BoxFuture;
use inkstone_engine::EngineLimits;
use inkstone_model::{
    checkpoint::Checkpoint,
    collectives::{Collective, LocalCollective, NcclIds, SingleCollective, between_devices},
    internlm2::{LanguageModel, RopeRule},
};
use inkstone_proto::worker::v1::{DescribeLanguageResponse, Welcome};
use tokio::task::spawn_blocking;

use super::{kv_budget::KvBudget, warm_up::warm_up};
use crate::{
    config::{ExecutorSettings, GroupSettings, MAX_WAIT_STEPS},
    executor::{DeviceExecutor, Executor, LocalRank, PeerRank, RankFailures},
    feature_fetcher::FeatureFetcher,
    group::{
        join::{JoinDesk, JoinError, lead_collective},
        leader::{Leader, PictureSource},
        life::{Breakage, GroupLife},
        rank::RankRunner,
    },
    loading::{LanguageFiles, fingerprint},
    service::language::{RequestTerms, Serving},
    simulated_group,
};

/// What is known of a life before it begins.
pub(crate) struct Formation<'a> {
    pub(crate) life: GroupLife,
    pub(crate) world_size: usize,
    pub(crate) settings: &'a GroupSettings,
    pub(crate) checkpoint: &'a Checkpoint,
    pub(crate) files: &'a LanguageFiles,
}

/// Where the ranks are.
pub(crate) enum Meeting<'a> {
    /// All in this process, a thread each.
    InProcess,
    /// Rank 0 here; every other rank in a process of its own.
    Joining {
        /// Where they join.
        desk: &'a JoinDesk,
        /// Where they meet for the collective.
        rendezvous: Rendezvous,
        /// Where rank 0 leaves NCCL's id; none: the ranks hand it on among themselves.
        nccl_ids: Option<Arc<dyn NcclIds>>,
        /// Ends when they took too long to join.
        patience: BoxFuture<'a, ()>,
    },
}

/// Where ranks meet for the TCP collective; those of GPUs go on from there to NCCL.
pub(crate) struct Rendezvous {
    pub(crate) listener: TcpListener,
    /// `host:port`, as the others reach it.
    pub(crate) address: String,
}

/// A group that ran its first forward.
pub(crate) struct Formed {
    pub(crate) leader: Leader,
    pub(crate) serving: Serving,
    pub(crate) step_deadline: Duration,
}

/// What the leader drives.
struct Ready {
    executor: Box<dyn Executor>,
    pictures: Box<dyn PictureSource>,
    num_blocks: usize,
}

impl Formation<'_> {
    /// Forms the group with the models of this process's ranks, rank 0 first; a simulated group has none.
    pub(crate) async fn form(
        self,
        models: Vec<Arc<LanguageModel>>,
        meeting: Meeting<'_>,
    ) -> Result<Formed, Breakage> {
        let desk = match &meeting {
            Meeting::InProcess => None,
            Meeting::Joining { desk, .. } => Some(*desk),
        };
        let broken = |error: anyhow::Error| Breakage::by([0], format!("{error:#}"));
        let ready = match self.settings.executor {
            ExecutorSettings::Device => self.start_ranks(models, meeting).await?,
            ExecutorSettings::Simulated { answer_tokens } => {
                self.simulate(answer_tokens, desk).map_err(broken)?
            }
        };
        let formed = self.start_leader(ready).map_err(broken)?;
        let bos_token_id = self.checkpoint.config().bos_token_id;
        match (warm_up(&formed.leader.handle(), bos_token_id).await, desk) {
            (Ok(()), _) => Ok(formed),
            (Err(reason), Some(desk)) => Err(desk.suspects(first_forward(&reason)).await),
            (Err(reason), None) => Err(Breakage::by([0], first_forward(&reason).reason)),
        }
    }

    fn start_leader(&self, ready: Ready) -> anyhow::Result<Formed> {
        let (settings, checkpoint) = (self.settings, self.checkpoint);
        let limits = EngineLimits {
            num_blocks: ready.num_blocks,
            max_step_tokens: settings.max_step_tokens.max(settings.max_running),
            max_running: settings.max_running,
            max_waiting: settings.max_waiting,
            max_wait_steps: MAX_WAIT_STEPS,
        };
        limits.validate()?;
        let positions = checkpoint.config().max_position_embeddings;
        let max_sequence_tokens = limits.max_sequence_tokens().min(positions);
        let leader = Leader::start(limits, ready.executor, ready.pictures)?;
        let description = DescribeLanguageResponse {
            description_json: checkpoint.description().to_json(),
            tokenizer_model: self.files.tokenizer_model.clone(),
            added_tokens: self.files.added_tokens.clone(),
            world_size: u32::try_from(self.world_size)?,
            epoch: self.life.epoch.0,
            max_sequence_tokens: u32::try_from(max_sequence_tokens)?,
            ..DescribeLanguageResponse::default()
        };
        let terms = RequestTerms {
            epoch: self.life.epoch.0,
            vocab_size: u32::try_from(checkpoint.config().vocab_size)?,
            max_sequence_tokens,
            model_fingerprint: fingerprint(checkpoint),
            rope: RopeRule::new(checkpoint.config()),
        };
        let serving = Serving {
            description,
            terms: Arc::new(terms),
            vocabulary: Arc::clone(&self.files.vocabulary),
            leader: leader.handle(),
        };
        Ok(Formed {
            leader,
            serving,
            step_deadline: settings.deadlines.step,
        })
    }

    fn simulate(
        &self,
        answer_tokens: Option<usize>,
        desk: Option<&JoinDesk>,
    ) -> anyhow::Result<Ready> {
        ensure!(
            desk.is_none(),
            "simulated ranks all run in the leader's process: leave out --rank, or offer a device for each"
        );
        let description = self.checkpoint.description();
        let cost = simulated_group::cost_model(description, self.world_size);
        let kv_tokens = self.settings.kv_cache_tokens;
        let kv_tokens = kv_tokens.unwrap_or_else(|| cost.kv_tokens());
        let num_blocks = kv_tokens.div_ceil(inkstone_engine::BLOCK_TOKENS);
        tracing::info!(num_blocks, kv_tokens, "the KV cache is simulated");
        let executor =
            simulated_group::executor(description, self.world_size, num_blocks, answer_tokens);
        Ok(Ready {
            executor: Box::new(executor),
            pictures: Box::new(simulated_group::NoPictures),
            num_blocks,
        })
    }

    async fn start_ranks(
        &self,
        models: Vec<Arc<LanguageModel>>,
        meeting: Meeting<'_>,
    ) -> Result<Ready, Breakage> {
        let broken = |error: anyhow::Error| Breakage::by([0], format!("{error:#}"));
        let num_blocks = self.num_blocks(&models).await.map_err(broken)?;
        let executor = match meeting {
            Meeting::InProcess => self.in_process(models, num_blocks).await.map_err(broken)?,
            Meeting::Joining { .. } if self.world_size == 1 => {
                self.in_process(models, num_blocks).await.map_err(broken)?
            }
            Meeting::Joining {
                desk,
                rendezvous,
                nccl_ids,
                patience,
            } => {
                let own = models.into_iter().next();
                let own = own.ok_or_else(|| Breakage::new("rank 0 has no weights"))?;
                self.joined((own, num_blocks), desk, (rendezvous, nccl_ids), patience)
                    .await?
            }
        };
        Ok(Ready {
            executor: Box::new(executor),
            pictures: Box::new(FeatureFetcher::default()),
            num_blocks,
        })
    }

    async fn num_blocks(&self, models: &[Arc<LanguageModel>]) -> anyhow::Result<usize> {
        let first = models.first().context("a group has at least one rank")?;
        let (here, settings) = (models.to_vec(), self.settings);
        let (rows, running) = (settings.max_step_tokens, settings.max_running);
        let free = spawn_blocking(move || free_on_gpus(&here, rows.max(running), running));
        let budget = KvBudget {
            config: self.checkpoint.config(),
            world_size: self.world_size,
            ranks_here: models.len(),
            dtype: first.kv_dtype(),
            free_on_gpu: free.await??,
        };
        let max_prompt_tokens = self.checkpoint.description().max_prompt_tokens;
        let num_blocks = budget.num_blocks(self.settings.kv_cache_tokens, max_prompt_tokens);
        budget.tell(num_blocks);
        Ok(num_blocks)
    }

    async fn in_process(
        &self,
        models: Vec<Arc<LanguageModel>>,
        num_blocks: usize,
    ) -> anyhow::Result<DeviceExecutor> {
        let (failures, reports) = RankFailures::channel();
        let deadline = self.settings.deadlines.step;
        let ends: Vec<Arc<dyn Collective>> = match models.len() {
            1 => vec![Arc::new(SingleCollective)],
            ranks => {
                let ends = LocalCollective::group(ranks, deadline).into_iter();
                let joins = ends.zip(&models).map(|(end, model)| {
                    let device = model.device().clone();
                    spawn_blocking(move || between_devices(Arc::new(end), &device, None))
                });
                let mut ends = Vec::with_capacity(ranks);
                for join in joins.collect::<Vec<_>>() {
                    ends.push(join.await??);
                }
                ends
            }
        };
        let mut runners = models.into_iter().zip(ends);
        let (model, end) = runners.next().context("a group has at least one rank")?;
        let own = self.runner(model, num_blocks, end).await?;
        let mut peers: Vec<Box<dyn PeerRank>> = Vec::new();
        for (model, end) in runners {
            let runner = self.runner(model, num_blocks, end).await?;
            peers.push(Box::new(LocalRank::start(runner, failures.clone())?));
        }
        Ok(DeviceExecutor::start(
            own,
            peers,
            (failures, reports),
            deadline,
        )?)
    }

    async fn joined(
        &self,
        (model, num_blocks): (Arc<LanguageModel>, usize),
        desk: &JoinDesk,
        (rendezvous, nccl_ids): (Rendezvous, Option<Arc<dyn NcclIds>>),
        patience: BoxFuture<'_, ()>,
    ) -> Result<DeviceExecutor, Breakage> {
        let (failures, reports) = RankFailures::channel();
        let deadlines = self.settings.deadlines;
        let welcome = Welcome {
            epoch: self.life.epoch.0,
            group_id: self.life.group.as_str().to_owned(),
            rendezvous: rendezvous.address,
            num_kv_blocks: u32::try_from(num_blocks).unwrap_or(u32::MAX),
        };
        let (world_size, terms) = (self.world_size, welcome.clone());
        let listener = rendezvous.listener;
        let device = model.device().clone();
        let form = move || {
            let between = (&device, nccl_ids.as_deref());
            lead_collective(&listener, &terms, world_size, deadlines, between)
        };
        tracing::info!(
            ranks = world_size - 1,
            "waiting for the other ranks to join"
        );
        let waits = (patience, deadlines.join);
        let assembled = desk.assemble(welcome, waits, failures.clone(), form).await;
        let (collective, peers) = match assembled {
            Ok(assembled) => assembled,
            Err(error) => return Err(suspects(desk, error).await),
        };
        let own = self.runner(model, num_blocks, collective).await;
        own.and_then(|own| {
            let executor = DeviceExecutor::start(own, peers, (failures, reports), deadlines.step)?;
            Ok(executor)
        })
        .map_err(|error| Breakage::by([0], format!("{error:#}")))
    }

    /// A rank with its cache, and its decode steps recorded where they can be.
    async fn runner(
        &self,
        model: Arc<LanguageModel>,
        num_blocks: usize,
        collective: Arc<dyn Collective>,
    ) -> anyhow::Result<RankRunner> {
        let vocabulary = Arc::clone(&self.files.vocabulary);
        let (decode_graphs, max_running) = (self.settings.decode_graphs, self.settings.max_running);
        let made = spawn_blocking(move || {
            let mut runner = RankRunner::new(model, num_blocks, collective, vocabulary);
            if decode_graphs {
                runner.record_decode(max_running);
            }
            runner
        });
        Ok(made.await?)
    }
}

fn first_forward(reason: &str) -> Breakage {
    Breakage::new(format!("the first forward failed: {reason}"))
}

/// Free bytes of the GPU of these ranks that has the fewest, beside what the largest step takes; none without GPUs.
fn free_on_gpus(
    models: &[Arc<LanguageModel>],
    num_rows: usize,
    num_logits: usize,
) -> anyhow::Result<Option<u64>> {
    let mut fewest: Option<u64> = None;
    for model in models {
        let step_bytes = model
            .step_bytes_on_gpu(num_rows, num_logits)
            .context("the largest step does not run on the GPU")?;
        let Some((step_bytes, (free, _))) = step_bytes.zip(model.device().memory()?) else {
            continue;
        };
        tracing::info!(step_bytes, free, "the GPU's memory beside the weights");
        let left = free.saturating_sub(step_bytes) as u64;
        fewest = Some(fewest.map_or(left, |fewest| fewest.min(left)));
    }
    Ok(fewest)
}

/// A group that did not form.
async fn suspects(desk: &JoinDesk, error: JoinError) -> Breakage {
    let reason = error.to_string();
    match error {
        JoinError::Missing { missing } => Breakage::by(missing, reason),
        JoinError::RankFailed { .. } => desk.suspects(Breakage::new(reason)).await,
    }
}
