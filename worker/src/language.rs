//! Starts a language group as a process of its own, told by flags which ranks it runs: loads their shards, forms the group, serves it.
//! `formation` and `serving` are what a node does too, once for each life of a group.

pub(crate) mod formation;
mod kv_budget;
pub(crate) mod serving;
mod warm_up;

use std::{sync::Arc, time::Duration};

use anyhow::Context;
use futures::FutureExt;
use inkstone_cluster::{Epoch, GroupId};
use inkstone_model::checkpoint::{Checkpoint, Shard};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use self::{
    formation::{Formation, Formed, Meeting, Rendezvous},
    serving::ServingGroup,
};
use crate::{
    config::{ExecutorSettings, LanguageConfig, RankPlacement},
    group::{
        join::{GroupTerms, JoinDesk},
        life::{Breakage, GroupLife},
    },
    loading::{LanguageFiles, dtype_name, fingerprint, load_ranks, open_checkpoint},
    progress::ProgressSink,
    service::{
        group::GroupServer,
        health::{Health, Part},
        language::LanguageServer,
        listener::Services,
    },
};

/// Serves a language group on `listener` until `shutdown`, then lets running requests finish. An error means that the
/// group could not start or broke.
pub async fn serve_language(
    config: LanguageConfig,
    listener: TcpListener,
    shutdown: CancellationToken,
    progress: ProgressSink,
) -> anyhow::Result<()> {
    let checkpoint = open_checkpoint(&config.model).await?;
    let health = Health::new(&[Part::Language]).await;
    let (server, group) = (LanguageServer::new(), GroupServer::default());
    server.load();
    let desk = desk(&config, &checkpoint);
    if let Some(desk) = &desk {
        group.open(desk.clone());
    }
    let services = Services {
        health: health.clone(),
        language: Some(server.clone()),
        group: desk.is_some().then_some(group),
        vision: None,
    };
    let mut listening = services.listen(listener);
    let formed = tokio::select! {
        formed = form(&config, checkpoint, desk.as_ref(), progress) => formed,
        () = shutdown.cancelled() => return Ok(()),
    };
    let formed = formed.inspect_err(|error| {
        if let Some(desk) = &desk {
            desk.dismiss(Some(&Breakage::new(error.to_string())));
        }
    })?;
    let group = ServingGroup::begin(formed, server, health, desk).await;
    tracing::info!("the language group is ready");
    let broken = tokio::select! {
        breakage = group.serve() => Some(breakage),
        () = shutdown.cancelled() => finish(&group, config.grace).await,
        error = listening.ended() => return Err(error),
    };
    group.end(broken.as_ref()).await;
    listening.close().await;
    match broken {
        None => Ok(()),
        Some(breakage) => Err(anyhow::anyhow!("the language group failed: {breakage}")),
    }
}

/// Takes no new requests, and waits for those that run.
async fn finish(group: &ServingGroup, grace: Duration) -> Option<Breakage> {
    group.drain().await;
    tokio::select! {
        () = group.idle() => None,
        breakage = group.broken() => Some(breakage),
        () = tokio::time::sleep(grace) => {
            tracing::warn!(?grace, "requests were still running at the end of the grace time");
            None
        }
    }
}

fn desk(config: &LanguageConfig, checkpoint: &Checkpoint) -> Option<JoinDesk> {
    let terms = || GroupTerms {
        life: None,
        world_size: config.world_size,
        checkpoint_fingerprint: fingerprint(checkpoint),
        dtype: dtype_name(&config.model),
        silence: config.group.deadlines.silence,
    };
    match config.ranks {
        RankPlacement::InProcess => None,
        RankPlacement::Joining { .. } => Some(JoinDesk::new(terms())),
    }
}

async fn form(
    config: &LanguageConfig,
    checkpoint: Arc<Checkpoint>,
    desk: Option<&JoinDesk>,
    progress: ProgressSink,
) -> anyhow::Result<Formed> {
    let files = LanguageFiles::read(&config.model, &checkpoint).await?;
    let epoch = new_epoch();
    let formation = Formation {
        life: GroupLife {
            group: GroupId::new(format!("group-{epoch:x}")),
            epoch: Epoch(epoch),
        },
        world_size: config.world_size,
        settings: &config.group,
        checkpoint: &checkpoint,
        files: &files,
    };
    let (meeting, local) = match (config.ranks, desk) {
        (RankPlacement::Joining { rendezvous }, Some(desk)) => {
            let listener = std::net::TcpListener::bind(rendezvous)
                .with_context(|| format!("cannot listen on {rendezvous}"))?;
            let meeting = Meeting::Joining {
                desk,
                rendezvous: Rendezvous {
                    address: listener.local_addr()?.to_string(),
                    listener,
                },
                nccl_ids: None,
                patience: tokio::time::sleep(config.group.deadlines.join).boxed(),
            };
            (meeting, 1)
        }
        (RankPlacement::InProcess, _) | (RankPlacement::Joining { .. }, None) => {
            (Meeting::InProcess, config.world_size)
        }
    };
    let shards = (0..local).map(|rank| Shard {
        rank,
        world_size: config.world_size,
    });
    let models = match config.group.executor {
        ExecutorSettings::Device => {
            load_ranks(&checkpoint, &config.model, shards, &progress).await?
        }
        ExecutorSettings::Simulated { .. } => Vec::new(),
    };
    Ok(formation.form(models, meeting).await?)
}

/// A number that grows from one life of a group to the next: milliseconds since 1970.
fn new_epoch() -> u64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(1, |since| {
            u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
        })
}
