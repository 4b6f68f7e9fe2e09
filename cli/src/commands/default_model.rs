//! Which checkpoint to serve when none is named: the small one that is built into the binary. It was trained on the world of
//! `model/training/README.md`, pictures of coloured shapes and short words, and knows nothing else.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context;
use tempfile::TempDir;

use crate::telemetry::Console;

/// The files of the checkpoint, as the training program exported them.
macro_rules! pretrained {
    ($($name:literal),* $(,)?) => {
        [$((
            $name,
            include_bytes!(concat!("../../../model/pretrained/inkstone-small/", $name)).as_slice(),
        )),*]
    };
}

const NAME: &str = "inkstone-small";
const FILES: [(&str, &[u8]); 5] = pretrained![
    "config.json",
    "generation_config.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "model.safetensors",
];

/// A checkpoint's folder; an unpacked one goes when this is dropped.
pub(crate) enum ModelDir {
    Given(PathBuf),
    Unpacked(TempDir),
}

impl ModelDir {
    /// `given`, or the small checkpoint, unpacked to a temporary folder.
    pub(crate) fn given_or_default(
        given: Option<&Path>,
        console: &Console,
    ) -> anyhow::Result<Self> {
        if let Some(dir) = given {
            return Ok(Self::Given(dir.to_owned()));
        }
        console.line(
            "no --model given: serving inkstone-small, which knows pictures of coloured shapes and short words",
        );
        let parent = tempfile::Builder::new()
            .prefix("inkstone-model-")
            .tempdir()?;
        let dir = parent.path().join(NAME);
        unpack(&dir).with_context(|| format!("cannot unpack the model to {}", dir.display()))?;
        Ok(Self::Unpacked(parent))
    }

    /// Where it is.
    pub(crate) fn path(&self) -> PathBuf {
        match self {
            Self::Given(dir) => dir.clone(),
            Self::Unpacked(parent) => parent.path().join(NAME),
        }
    }
}

fn unpack(dir: &Path) -> std::io::Result<()> {
    fs::create_dir(dir)?;
    for (name, content) in FILES {
        fs::write(dir.join(name), content)?;
    }
    Ok(())
}
