//! `inkstone model`: what a checkpoint holds, and checkpoints with random weights.

use std::{
    io::{self, Write},
    path::Path,
};

use inkstone_model::{
    checkpoint::{Checkpoint, LoadProgress as At},
    synthesize::{Preset, SynthesizeOptions, synthesize},
};
use inkstone_worker::progress::LoadProgress;

use crate::{
    arguments::{ModelArguments, ModelCommand},
    telemetry::Console,
};

pub(crate) fn run(arguments: ModelArguments, console: &Console) -> anyhow::Result<()> {
    match arguments.command {
        ModelCommand::Inspect {
            dir,
            tensor_parallel,
        } => inspect(&dir, tensor_parallel),
        ModelCommand::Synthesize {
            preset,
            seed,
            dtype,
            hollow,
            out,
        } => {
            let options = SynthesizeOptions {
                dtype: dtype.into(),
                hollow,
                ..SynthesizeOptions::default()
            };
            make(preset, seed, &out, options, console)
        }
    }
}

fn inspect(dir: &Path, tensor_parallel: usize) -> anyhow::Result<()> {
    let checkpoint = Checkpoint::open(dir)?;
    let report = checkpoint.inspect(tensor_parallel)?;
    writeln!(io::stdout().lock(), "{report}")?;
    Ok(())
}

fn make(
    preset: Preset,
    seed: u64,
    out: &Path,
    options: SynthesizeOptions,
    console: &Console,
) -> anyhow::Result<()> {
    let progress = console.progress();
    let report = |at: At<'_>| {
        progress(LoadProgress {
            part: "writing".to_owned(),
            bytes_done: at.bytes_done,
            bytes_total: at.bytes_total,
        });
    };
    let bytes = synthesize(preset, seed, out, options, &report)?;
    console.line(&format!(
        "wrote {} with {bytes} bytes of weights",
        out.display()
    ));
    Ok(())
}
