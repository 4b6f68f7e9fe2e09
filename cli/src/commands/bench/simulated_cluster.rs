//! A cluster of processes whose groups compute nothing: tokens come as fast and in such bursts as from accelerators.

use std::{
    ops::Deref,
    path::{Path, PathBuf},
};

use inkstone_model::synthesize::{Preset, SynthesizeOptions, synthesize};
use tempfile::TempDir;

pub(crate) use super::process_cluster::Settings;
use super::process_cluster::{Executor, ProcessCluster};
use crate::telemetry::Console;

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

/// The processes of such a cluster.
pub(crate) struct SimulatedCluster(ProcessCluster);

impl SimulatedCluster {
    /// Starts the processes and waits until requests are taken.
    pub(crate) async fn start(model: &Model, settings: &Settings) -> anyhow::Result<Self> {
        let dir = model.path();
        let started = ProcessCluster::start(&dir, Executor::Simulated, settings);
        Ok(Self(started.await?))
    }
}

impl Deref for SimulatedCluster {
    type Target = ProcessCluster;

    fn deref(&self) -> &ProcessCluster {
        &self.0
    }
}

/// Flags and their values.
pub(crate) fn flags<const N: usize>(pairs: [(&str, String); N]) -> Vec<String> {
    let pairs = pairs.into_iter();
    pairs
        .flat_map(|(flag, value)| [flag.to_owned(), value])
        .collect()
}
