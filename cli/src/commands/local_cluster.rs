//! A whole cluster in this process: the same services as in a real one, over loopback gRPC.

use std::{net::SocketAddr, path::PathBuf};

use anyhow::Context;
use inkstone_cluster::{GroupId, LanguageGroup, Members};
use inkstone_worker::{
    config::RankPlacement, language::serve_language, picture_encoder::serve_vision,
};
use tokio::{net::TcpListener, sync::oneshot, task::JoinSet};
use tokio_util::sync::CancellationToken;

use crate::{arguments::EngineArguments, telemetry::Console};

/// What to run.
pub(crate) struct LocalCluster {
    pub(crate) model_dir: PathBuf,
    pub(crate) engine: EngineArguments,
    pub(crate) tensor_parallel: usize,
    pub(crate) vision_workers: usize,
    pub(crate) grpc: SocketAddr,
}

impl LocalCluster {
    /// Runs until `shutdown`, or until a part fails. `ready` hears the address once requests are taken. Stops in the
    /// order of [`Self::stop`].
    pub(crate) async fn run(
        self,
        console: &Console,
        shutdown: CancellationToken,
        ready: oneshot::Sender<SocketAddr>,
    ) -> anyhow::Result<()> {
        let front = TcpListener::bind(self.grpc)
            .await
            .with_context(|| format!("cannot listen on {}", self.grpc))?;
        let workers_stop = CancellationToken::new();
        let mut workers = JoinSet::new();
        let language = self
            .start_language(&mut workers, console, &workers_stop)
            .await?;
        let mut vision = Vec::with_capacity(self.vision_workers);
        for _ in 0..self.vision_workers {
            vision.push(
                self.start_vision(&mut workers, console, &workers_stop)
                    .await?,
            );
        }
        let members = members(language, &vision)?;
        let (coordinator_ready, is_ready) = oneshot::channel();
        let coordinator_stop = CancellationToken::new();
        let mut coordinator = tokio::spawn(inkstone_coordinator::serve(
            inkstone_coordinator::Config::for_members(members),
            front,
            coordinator_stop.clone(),
            coordinator_ready,
        ));
        tokio::spawn(async move {
            if let Ok(coordinator) = is_ready.await {
                let _ = ready.send(coordinator.address);
            }
        });
        let result = tokio::select! {
            () = shutdown.cancelled() => Ok(()),
            ended = &mut coordinator => return ended?,
            Some(ended) = workers.join_next() => ended?.and_then(|()| Err(anyhow::anyhow!("a worker stopped by itself"))),
        };
        // Front to back: clients' streams finish first, then the workers that feed them.
        coordinator_stop.cancel();
        let _ = coordinator.await?;
        workers_stop.cancel();
        while workers.join_next().await.is_some() {}
        result
    }

    async fn start_language(
        &self,
        workers: &mut JoinSet<anyhow::Result<()>>,
        console: &Console,
        stop: &CancellationToken,
    ) -> anyhow::Result<SocketAddr> {
        let settings = self
            .engine
            .model_settings(self.model_dir.clone(), self.tensor_parallel);
        let config = self
            .engine
            .language(settings, self.tensor_parallel, RankPlacement::InProcess);
        let (listener, address) = loopback().await?;
        workers.spawn(serve_language(
            config,
            listener,
            stop.clone(),
            console.progress(),
        ));
        Ok(address)
    }

    async fn start_vision(
        &self,
        workers: &mut JoinSet<anyhow::Result<()>>,
        console: &Console,
        stop: &CancellationToken,
    ) -> anyhow::Result<SocketAddr> {
        let settings = self
            .engine
            .model_settings(self.model_dir.clone(), self.vision_workers);
        let (listener, address) = loopback().await?;
        workers.spawn(serve_vision(
            self.engine.vision(settings),
            listener,
            stop.clone(),
            console.progress(),
        ));
        Ok(address)
    }
}

async fn loopback() -> anyhow::Result<(TcpListener, SocketAddr)> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    Ok((listener, address))
}

fn members(language: SocketAddr, vision: &[SocketAddr]) -> anyhow::Result<Members> {
    let vision = vision
        .iter()
        .map(|address| address.to_string().parse())
        .collect::<Result<_, _>>()?;
    Ok(Members {
        language_groups: vec![LanguageGroup {
            id: GroupId::new("group-0"),
            leader: language.to_string().parse()?,
            epoch: None,
        }],
        vision_workers: vision,
    })
}
