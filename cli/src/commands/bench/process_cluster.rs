//! A cluster of processes: coordinator, leaders and a vision worker.

use std::path::Path;

use futures::{FutureExt, future::select_all};

use super::processes::Process;

const ANY_PORT: &str = "127.0.0.1:0";

/// What computes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Executor {
    /// The model.
    Device,
    /// Nothing does: tokens come as fast and in such bursts as from accelerators.
    Simulated,
}

/// What the processes are told beside what all are.
#[derive(Clone, Debug, Default)]
pub(crate) struct Settings {
    /// Language groups.
    pub(crate) groups: usize,
    /// Flags of each of them.
    pub(crate) worker: Vec<String>,
    /// Flags of the coordinator.
    pub(crate) coordinator: Vec<String>,
}

/// The processes; killed when dropped.
pub(crate) struct ProcessCluster {
    pub(crate) coordinator: Process,
    pub(crate) leaders: Vec<Process>,
    /// Often nobody asks about pictures, but no cluster is without one.
    _vision: Process,
    /// The coordinator's, `http://host:port`.
    pub(crate) address: String,
}

impl ProcessCluster {
    /// Starts the processes and waits until requests are taken.
    pub(crate) async fn start(
        model: &Path,
        executor: Executor,
        settings: &Settings,
    ) -> anyhow::Result<Self> {
        let model = model.display().to_string();
        let executor = match executor {
            Executor::Device => "device",
            Executor::Simulated => "simulated",
        };
        let worker = |role: &str, more: &[String]| {
            let first = [
                "worker",
                "--executor",
                executor,
                "--grpc",
                ANY_PORT,
                "--role",
                role,
                "--model",
                &model,
            ];
            let mut all = first.map(str::to_owned).to_vec();
            all.extend(more.iter().cloned());
            all
        };
        let mut leaders = vec![];
        for _ in 0..settings.groups {
            let arguments = worker("language", &settings.worker);
            leaders.push(Process::start("language worker", &arguments)?);
        }
        let mut vision = Process::start("vision worker", &worker("vision", &[]))?;
        let mut addresses = vec![];
        for leader in &mut leaders {
            addresses.push(leader.address("listening").await?);
        }
        let addresses = addresses.join(",");
        let pictures = vision.address("listening").await?;
        let mut arguments = [
            "coordinator",
            "--grpc",
            ANY_PORT,
            "--language",
            &addresses,
            "--vision",
            &pictures,
        ]
        .map(str::to_owned)
        .to_vec();
        arguments.extend(settings.coordinator.iter().cloned());
        let mut coordinator = Process::start("coordinator", &arguments)?;
        let address = {
            let workers = leaders.iter_mut().chain([&mut vision]);
            let ended = select_all(workers.map(|worker| worker.ended().boxed()));
            tokio::select! {
                address = coordinator.address("coordinator ready") => address?,
                (error, ..) = ended => return Err(error),
            }
        };
        Ok(Self {
            coordinator,
            leaders,
            _vision: vision,
            address: format!("http://{address}"),
        })
    }
}
