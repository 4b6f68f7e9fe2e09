//! Runs one rank other than 0 as a process of its own: loads its shard, joins the leader, follows its plans.

use std::{
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use inkstone_model::{checkpoint::Shard, internlm2::LanguageModel};
use inkstone_proto::worker::v1::RankHello;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

use crate::{
    config::RankConfig,
    constraint::ConstraintVocabulary,
    group::{
        join::{Deadlines, Joined},
        rank::RankRunner,
    },
    loading::{dtype_name, fingerprint, load_rank, load_vocabulary, open_checkpoint},
    progress::ProgressSink,
};

/// A leader whose machine is gone is found out after this.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

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
    let vocabulary = load_vocabulary(&config.model, &checkpoint).await?;
    let settings = config.model.clone();
    let model =
        tokio::task::spawn_blocking(move || load_rank(&checkpoint, &settings, shard, &progress))
            .await??;
    let own = (model, vocabulary);
    let deadlines = Deadlines {
        join: config.join_deadline,
        step: config.step_deadline,
    };
    tokio::select! {
        result = follow_leader(&config, hello, own, deadlines) => result,
        () = shutdown.cancelled() => Ok(()),
    }
}

async fn follow_leader(
    config: &RankConfig,
    hello: RankHello,
    (model, vocabulary): (Arc<LanguageModel>, Arc<ConstraintVocabulary>),
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
    let mut runner = RankRunner::new(model, num_blocks, Arc::new(collective), vocabulary);
    let collective = runner.collective();
    let (commands, receiver) = std::sync::mpsc::sync_channel(16);
    let running = thread::Builder::new()
        .name(format!("rank-{}", config.rank))
        .spawn(move || {
            let followed = receiver
                .into_iter()
                .try_for_each(|command| runner.follow(command).map(drop));
            // The others must not wait for this rank.
            runner.collective().abort();
            followed
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
    // A step that the leader does not wait for any more must not hold this process.
    collective.abort();
    match tokio::task::spawn_blocking(move || running.join()).await? {
        Ok(Ok(())) => bail!(lost.unwrap_or_else(|| "the rank stopped".to_owned())),
        Ok(Err(error)) => Err(error.into()),
        Err(_) => bail!("the rank's thread panicked"),
    }
}

async fn connect(address: &str, deadline: Duration) -> anyhow::Result<Channel> {
    let endpoint = Channel::from_shared(address.to_owned())
        .with_context(|| format!("{address} is not an address; wanted http://host:port"))?
        .connect_timeout(Duration::from_secs(5))
        .http2_keep_alive_interval(KEEP_ALIVE)
        .tcp_nodelay(true);
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
