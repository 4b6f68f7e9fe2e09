//! Makes model folders with random weights: the exact shapes of the published releases for measuring, tiny ones for
//! tests. The same preset and seed give the same bytes on every machine. Weights are made in pieces and streamed to
//! disk, so that a 7B model needs no more memory than a tiny one.

mod files;
mod preset;
mod random;
mod vocabulary;
mod weights;

#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use rayon::prelude::*;

use crate::checkpoint::{
    ExpectedTensor, LoadProgress, TensorSpec, WeightsWriter, WriteError, encode_numbers, inventory,
};
use crate::tensor::DType;

pub use preset::{Preset, UnknownPreset};
pub use vocabulary::VocabularyError;

use random::NormalStream;
use weights::Distribution;

/// Bytes of one file at most, as published checkpoints have it by default.
const DEFAULT_MAX_FILE_BYTES: u64 = 5_000_000_000;
/// Elements made and written at a time.
const ELEMENTS_PER_WRITE: usize = 4 << 20;
/// Elements that one thread makes at a time.
const ELEMENTS_PER_TASK: usize = 64 << 10;
/// Elements made at a time in memory that stays in the first-level cache.
const ELEMENTS_PER_BLOCK: usize = 512;

/// How the weights are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SynthesizeOptions {
    pub dtype: DType,
    /// Above this the weights go to several files with an index.
    pub max_file_bytes: u64,
    /// Leave holes where the weights would be: for what only looks at a model's shape, such as a simulated executor. A 7B
    /// model then takes the disk no more than its tokenizer does.
    pub hollow: bool,
}

impl Default for SynthesizeOptions {
    fn default() -> Self {
        Self {
            dtype: DType::BF16,
            max_file_bytes: DEFAULT_MAX_FILE_BYTES,
            hollow: false,
        }
    }
}

/// Why no model was made. Nothing is left behind.
#[derive(Debug, thiserror::Error)]
pub enum SynthesizeError {
    #[error("{out} is not empty; wanted a folder that is new or empty: choose another or remove it", out = out.display())]
    NotEmpty { out: PathBuf },
    #[error("cannot write {path}: {source}", path = path.display())]
    Io {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error(transparent)]
    Write(#[from] WriteError),
    #[error(transparent)]
    Vocabulary(#[from] VocabularyError),
}

/// Makes the model folder `out` with random weights of the shapes of `preset`, and gives the bytes of its weights.
///
/// `out` appears whole or not at all: everything is written to a folder beside it, which is then renamed. It must not
/// exist yet or be empty. `progress` is called after each piece of each tensor.
pub fn synthesize(
    preset: Preset,
    seed: u64,
    out: &Path,
    options: SynthesizeOptions,
    progress: &dyn Fn(LoadProgress<'_>),
) -> Result<u64, SynthesizeError> {
    let staging = files::Staging::new(out)?;
    files::write_small_files(staging.dir(), preset, options.dtype)?;
    let bytes = write_weights(preset, seed, staging.dir(), options, progress)?;
    staging.publish()?;
    Ok(bytes)
}

fn write_weights(
    preset: Preset,
    seed: u64,
    dir: &Path,
    options: SynthesizeOptions,
    progress: &dyn Fn(LoadProgress<'_>),
) -> Result<u64, SynthesizeError> {
    let (config, structure) = (preset.config(), preset.structure());
    let tensors = inventory(&config, &structure);
    let spec = |tensor: &ExpectedTensor| TensorSpec {
        name: tensor.name.clone(),
        shape: tensor.shape.0.clone(),
        dtype: options.dtype,
    };
    let mut writer = WeightsWriter::new(
        dir,
        tensors.iter().map(spec).collect(),
        options.max_file_bytes,
    );
    let bytes_total = writer.bytes_total();
    if options.hollow {
        writer.finish_hollow()?;
        return Ok(bytes_total);
    }
    let mut bytes_done = 0;
    let mut buffer = vec![0u8; ELEMENTS_PER_WRITE * options.dtype.num_bytes()];
    for tensor in &tensors {
        let stream = NormalStream::new(seed, &tensor.name);
        let distribution = Distribution::of(tensor, &config, &structure);
        let num_elements: usize = tensor.shape.0.iter().product();
        for first in (0..num_elements).step_by(ELEMENTS_PER_WRITE) {
            let count = ELEMENTS_PER_WRITE.min(num_elements - first);
            let piece = &mut buffer[..count * options.dtype.num_bytes()];
            fill(stream, distribution, first, piece, options.dtype);
            writer.write(piece)?;
            bytes_done += piece.len() as u64;
            progress(LoadProgress {
                bytes_done,
                bytes_total,
                tensor: &tensor.name,
            });
        }
    }
    writer.finish()?;
    Ok(bytes_total)
}

/// Fills `piece` with numbers `first..` of a tensor, on all threads.
fn fill(
    stream: NormalStream,
    distribution: Distribution,
    first: usize,
    piece: &mut [u8],
    dtype: DType,
) {
    let size = dtype.num_bytes();
    piece
        .par_chunks_mut(ELEMENTS_PER_TASK * size)
        .enumerate()
        .for_each(|(task, piece)| {
            let first = first + task * ELEMENTS_PER_TASK;
            let mut block = [0f32; ELEMENTS_PER_BLOCK];
            for (index, bytes) in piece.chunks_mut(ELEMENTS_PER_BLOCK * size).enumerate() {
                let block = &mut block[..bytes.len() / size];
                let first = first + index * ELEMENTS_PER_BLOCK;
                stream.fill(
                    first as u64,
                    distribution.mean,
                    distribution.deviation,
                    block,
                );
                encode_numbers(block, dtype, bytes);
            }
        });
}
