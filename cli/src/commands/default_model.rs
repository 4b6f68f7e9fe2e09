//! Which checkpoint to serve when none is named: a tiny one with random weights, made on the spot. It shows that everything
//! runs; what it says means nothing.

use std::path::{Path, PathBuf};

use inkstone_model::synthesize::{Preset, SynthesizeOptions, synthesize};
use tempfile::TempDir;

use crate::telemetry::Console;

/// A checkpoint's folder; a made one goes when this is dropped.
pub(crate) enum ModelDir {
    Given(PathBuf),
    Made(TempDir),
}

impl ModelDir {
    /// `given`, or a tiny random checkpoint.
    pub(crate) fn given_or_default(
        given: Option<&Path>,
        console: &Console,
    ) -> anyhow::Result<Self> {
        if let Some(dir) = given {
            return Ok(Self::Given(dir.to_owned()));
        }
        console.line(
            "no --model given: serving a tiny model with random weights, which answers nonsense",
        );
        let parent = tempfile::Builder::new()
            .prefix("inkstone-model-")
            .tempdir()?;
        let out = parent.path().join("inkstone-tiny-random");
        synthesize(Preset::Tiny, 0, &out, SynthesizeOptions::default(), &|_| {})?;
        Ok(Self::Made(parent))
    }

    /// Where it is.
    pub(crate) fn path(&self) -> PathBuf {
        match self {
            Self::Given(dir) => dir.clone(),
            Self::Made(parent) => parent.path().join("inkstone-tiny-random"),
        }
    }
}
