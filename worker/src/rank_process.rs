//! Runs one rank other than 0 whose leader is another process: joins the leader, follows its plans. As a process of its own that
//! was told by flags where the leader is, here; a node does it when the registry says so.

use std::{
    sync::{
        Arc,
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
    thread,
    time::Duration,
};

use anyhow::Context;
use inkstone_model::{
    checkpoint::Shard,
    collectives::{Collective, NcclIds},
    internlm2::LanguageModel,
};
use inkstone_proto::worker::v1::RankHello;
use tokio::{sync::oneshot, time::timeout};
use tokio_util::sync::CancellationToken;
use tonic::{
    Code, Status,
    transport::{Channel, Endpoint},
};

use crate::{
    config::{Deadlines, RankConfig},
    constraint::ConstraintVocabulary,
    executor::ExecutorError,
    group::{
        joined::{Joined, Seated},
        life::{Breakage, GroupLife},
        rank::{RankCommand, RankRunner},
    },
    loading::{dtype_name, fingerprint, load_rank, load_vocabulary, open_checkpoint},
    progress::ProgressSink,
};

/// A leader whose machine is gone is found out after this.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// For one try to reach the leader.
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);
/// Between two tries.
const RETRY: Duration = Duration::from_millis(100);
/// Commands that the rank's thread has not taken yet.
const COMMAND_QUEUE: usize = 16;
/// How long the rank's thread gets to end once its commands have.
const THREAD_GRACE: Duration = Duration::from_secs(2);
/// When this rank fails, how long to wait for the leader to say who failed first.
const FAREWELL: Duration = Duration::from_secs(1);

/// Runs one rank other than 0 until its leader is done with it. After `shutdown` the leader has the grace time to end the group.
pub async fn run_rank(
    config: RankConfig,
    shutdown: CancellationToken,
    progress: ProgressSink,
) -> anyhow::Result<()> {
    let checkpoint = open_checkpoint(&config.model).await?;
    let seat = RankSeat {
        life: None,
        rank: config.rank,
        world_size: config.world_size,
        fingerprint: fingerprint(&checkpoint),
        dtype: dtype_name(&config.model),
        deadlines: config.deadlines,
        nccl_ids: None,
    };
    let shard = Shard {
        rank: config.rank,
        world_size: config.world_size,
    };
    let vocabulary = load_vocabulary(&config.model, &checkpoint).await?;
    let settings = config.model.clone();
    let model =
        tokio::task::spawn_blocking(move || load_rank(&checkpoint, &settings, shard, 0, &progress))
            .await??;
    let endpoint = endpoint(&config.leader)?;
    let joined = tokio::select! {
        joined = seat.join(&endpoint, tokio::time::sleep(config.deadlines.join)) => joined?,
        () = shutdown.cancelled() => return Ok(()),
    };
    let stop = CancellationToken::new();
    let (first_step, _) = oneshot::channel();
    let following = seat.follow(joined, (model, vocabulary), stop.clone(), first_step);
    tokio::pin!(following);
    tokio::select! {
        end = &mut following => return Ok(end?),
        () = shutdown.cancelled() => {}
    }
    // The others need this rank for as long as requests run.
    if let Ok(end) = timeout(config.grace, &mut following).await {
        return Ok(end?);
    }
    stop.cancel();
    let _ = following.await;
    Ok(())
}

/// A rank's place in a group, wherever the leader is.
#[derive(Clone)]
pub(crate) struct RankSeat {
    /// The life that it joins; none: whichever the leader is in.
    pub(crate) life: Option<GroupLife>,
    pub(crate) rank: usize,
    pub(crate) world_size: usize,
    pub(crate) fingerprint: [u8; 32],
    pub(crate) dtype: String,
    pub(crate) deadlines: Deadlines,
    /// Where rank 0 leaves NCCL's id; none: the ranks hand it on among themselves.
    pub(crate) nccl_ids: Option<Arc<dyn NcclIds>>,
}

/// Where a leader answers.
pub(crate) fn endpoint(address: &str) -> anyhow::Result<Endpoint> {
    Ok(Channel::from_shared(address.to_owned())
        .with_context(|| format!("{address} is not an address; wanted http://host:port"))?
        .connect_timeout(CONNECT_DEADLINE)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .tcp_nodelay(true))
}

impl RankSeat {
    /// Calls the leader until it takes this rank in, and waits for the others. `patience` ends when that took too long.
    pub(crate) async fn join(
        &self,
        endpoint: &Endpoint,
        patience: impl Future<Output = ()>,
    ) -> Result<Joined, Breakage> {
        tokio::pin!(patience);
        let mut last_refusal = None;
        let seated = tokio::select! {
            seated = self.be_seated(endpoint, &mut last_refusal) => seated?,
            () = &mut patience => {
                let last = last_refusal.unwrap_or_else(|| "it does not answer".to_owned());
                let reason = format!("the leader at {} took no rank in: {last}", endpoint.uri());
                return Err(Breakage::by([0], reason));
            }
        };
        let joined = tokio::select! {
            joined = seated.be_welcomed(self.life.as_ref()) => joined?,
            // The leader knows who is missing.
            () = patience => return Err(Breakage::new("the leader did not welcome us: other ranks are missing")),
        };
        tracing::info!(
            rank = self.rank,
            epoch = joined.welcome.epoch,
            "joined the group"
        );
        Ok(joined)
    }

    async fn be_seated(
        &self,
        endpoint: &Endpoint,
        last_refusal: &mut Option<String>,
    ) -> Result<Seated, Breakage> {
        loop {
            let hello = timeout(CONNECT_DEADLINE, self.say_hello(endpoint)).await;
            let status = match hello {
                Ok(Ok(seated)) => return Ok(seated),
                Ok(Err(status)) => status,
                Err(_) => Status::unavailable(format!("no answer within {CONNECT_DEADLINE:?}")),
            };
            let reason = status.message().to_owned();
            match status.code() {
                // It is not there yet, or has not heard of this life yet.
                Code::Unavailable => *last_refusal = Some(reason),
                _ => {
                    let reason = format!("the leader at {} refused: {reason}", endpoint.uri());
                    return Err(Breakage::by([self.rank], reason));
                }
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    async fn say_hello(&self, endpoint: &Endpoint) -> Result<Seated, Status> {
        let channel = endpoint
            .connect()
            .await
            .map_err(|error| Status::unavailable(error.to_string()))?;
        let life = self.life.as_ref();
        let hello = RankHello {
            rank: u32::try_from(self.rank).unwrap_or(u32::MAX),
            world_size: u32::try_from(self.world_size).unwrap_or(u32::MAX),
            checkpoint_fingerprint: self.fingerprint.to_vec().into(),
            dtype: self.dtype.clone(),
            group_id: life.map_or_else(String::new, |life| life.group.as_str().to_owned()),
            epoch: life.map_or(0, |life| life.epoch.0),
        };
        Seated::say_hello(channel, hello, self.deadlines.silence).await
    }

    /// Runs what the leader says, until it says farewell, or something breaks, or `stop`. `first_step` hears of the first step
    /// that this rank ran.
    pub(crate) async fn follow(
        &self,
        mut joined: Joined,
        (model, vocabulary): (Arc<LanguageModel>, Arc<ConstraintVocabulary>),
        stop: CancellationToken,
        first_step: oneshot::Sender<()>,
    ) -> Result<(), Breakage> {
        let place = (self.rank, self.world_size);
        let between = (model.device().clone(), self.nccl_ids.clone());
        let collective = tokio::select! {
            collective = joined.enter_collective(place, self.deadlines, between) => collective,
            () = stop.cancelled() => return Ok(()),
        };
        let collective = match collective {
            Ok(collective) => collective,
            Err(reason) => return Err(farewell(joined, reason).await),
        };
        let num_blocks = joined.welcome.num_kv_blocks as usize;
        let runner = RankRunner::new(model, num_blocks, collective, vocabulary);
        let mut thread = RankThread::start(runner, first_step)
            .map_err(|error| Breakage::by([self.rank], error.to_string()))?;
        let end = loop {
            let command = tokio::select! {
                command = joined.next_command() => command,
                failed = &mut thread.ended => {
                    let reason = failed.unwrap_or_else(|_| "the rank's thread panicked".to_owned());
                    break Err(farewell(joined, reason).await);
                }
                () = stop.cancelled() => break Ok(()),
            };
            match command {
                // That the thread has ended is seen in the next turn.
                Ok(Some(command)) => tokio::select! {
                    () = thread.take(command) => {}
                    () = stop.cancelled() => break Ok(()),
                },
                Ok(None) => break Ok(()),
                Err(breakage) => break Err(breakage),
            }
        };
        thread.end().await;
        end
    }
}

/// This rank failed, which may be because another one did: the leader knows.
async fn farewell(mut joined: Joined, reason: String) -> Breakage {
    tracing::warn!(reason, "this rank cannot go on");
    joined.tell_failed(reason.clone()).await;
    let hear = async {
        loop {
            match joined.next_command().await {
                Ok(Some(_)) => {}
                Ok(None) => return Breakage::new(reason.clone()),
                Err(breakage) => return breakage,
            }
        }
    };
    let heard = timeout(FAREWELL, hear).await;
    heard.unwrap_or_else(|_| Breakage::new(reason))
}

/// The thread that runs the rank.
struct RankThread {
    commands: SyncSender<RankCommand>,
    collective: Arc<dyn Collective>,
    /// Hears why the thread ended by itself.
    ended: oneshot::Receiver<String>,
    thread: Option<thread::JoinHandle<()>>,
}

impl RankThread {
    fn start(runner: RankRunner, first_step: oneshot::Sender<()>) -> std::io::Result<Self> {
        let (commands, receiver) = sync_channel(COMMAND_QUEUE);
        let (failed, ended) = oneshot::channel();
        let collective = runner.collective();
        let thread = thread::Builder::new()
            .name(format!("rank-{}", runner.rank()))
            .spawn(move || {
                if let Err(error) = run(runner, receiver, first_step) {
                    // Where nobody hears it the rank is being ended.
                    let _ = failed.send(error.to_string());
                }
            })?;
        Ok(Self {
            commands,
            collective,
            ended,
            thread: Some(thread),
        })
    }

    /// Steps go in lock-step with the collective, so this waits for one step at most.
    async fn take(&self, command: RankCommand) {
        if let Err(TrySendError::Full(command)) = self.commands.try_send(command) {
            let commands = self.commands.clone();
            let _ = tokio::task::spawn_blocking(move || commands.send(command)).await;
        }
    }

    /// Ends the thread and waits for it, so that its memory is free.
    async fn end(mut self) {
        let thread = self.thread.take();
        let rank = self.collective.rank();
        // A step that the leader does not wait for any more must not hold this rank.
        drop(self);
        if let Some(thread) = thread {
            let join = tokio::task::spawn_blocking(move || drop(thread.join()));
            if timeout(THREAD_GRACE, join).await.is_err() {
                tracing::error!(rank, "a rank's thread is left behind");
            }
        }
    }
}

impl Drop for RankThread {
    fn drop(&mut self) {
        self.collective.abort();
    }
}

fn run(
    mut runner: RankRunner,
    commands: Receiver<RankCommand>,
    first_step: oneshot::Sender<()>,
) -> Result<(), ExecutorError> {
    let mut first_step = Some(first_step);
    let followed = commands.into_iter().try_for_each(|command| {
        let stepped = runner.follow(command)?.is_some();
        if stepped && let Some(first_step) = first_step.take() {
            let _ = first_step.send(());
        }
        Ok(())
    });
    // The others must not wait for this rank.
    runner.collective().abort();
    followed
}
