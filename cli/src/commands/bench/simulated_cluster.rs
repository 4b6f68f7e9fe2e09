//! A cluster of processes whose groups compute nothing: coordinator, leaders and a vision worker, with tokens as fast and in such bursts as from
//! accelerators.

use std::path::{Path, PathBuf};

use futures::{FutureExt, future::select_all};
use inkstone_model::synthesize::{Preset, SynthesizeOptions, synthesize};
use tempfile::TempDir;

use super::processes::Process;
use crate::telemetry::Console;

const ANY_PORT: &str = "127.0.0.1:0";

/// The checkpoint that the processes read.
pub(crate) enum Model {
    Given(PathBuf),
    Made(TempDir),
}

impl Model {
    /// The one that was given, or else a hollow one of the 7B shape.
    pub(crate) fn of(given: Option<&Path>, console: &Console) -> anyhow::Result<Self> {
        if let Some(dir) = given {
            return Ok(Self::Given(dir.to_owned()));
        }
        let parent = tempfile::Builder::new()
            .prefix("inkstone-hollow-")
            .tempdir()?;
        let options = SynthesizeOptions {
            hollow: true,
            ..SynthesizeOptions::default()
        };
        let preset = Preset::Vl7b;
        console.line(&format!("making a hollow model of the shape {preset}"));
        synthesize(preset, 0, &parent.path().join("model"), options, &|_| {})?;
        Ok(Self::Made(parent))
    }

    fn path(&self) -> PathBuf {
        match self {
            Self::Given(dir) => dir.clone(),
            Self::Made(parent) => parent.path().join("model"),
        }
    }
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

/// The processes of a cluster.
pub(crate) struct SimulatedCluster {
    pub(crate) coordinator: Process,
    pub(crate) leaders: Vec<Process>,
    /// Nobody asks about pictures, but no cluster is without one.
    _vision: Process,
    /// The coordinator's, `http://host:port`.
    pub(crate) address: String,
}

impl SimulatedCluster {
    /// Starts the processes and waits until requests are taken.
    pub(crate) async fn start(model: &Model, settings: &Settings) -> anyhow::Result<Self> {
        let model = model.path().display().to_string();
        let worker = |role: &str, more: &[String]| {
            let first = [
                "worker",
                "--executor",
                "simulated",
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

/// Flags and their values.
pub(crate) fn flags<const N: usize>(pairs: [(&str, String); N]) -> Vec<String> {
    let pairs = pairs.into_iter();
    pairs
        .flat_map(|(flag, value)| [flag.to_owned(), value])
        .collect()
}
