//! Checkpoints into memory: what the processes of a language group and the vision worker do alike.

use std::{cell::Cell, collections::HashMap, path::Path, sync::Arc, time::Instant};

use anyhow::Context;
use bytes::Bytes;
use inkstone_interface::tokenizer::{ADDED_TOKENS_FILE, Tokenizer};
use inkstone_model::{
    checkpoint::{Checkpoint, Shard},
    internlm2::LanguageModel,
    load_options::LoadOptions,
};

use crate::{
    config::ModelSettings,
    constraint::ConstraintVocabulary,
    progress::{LoadProgress, ProgressSink},
};

/// Loads a rank's shard to the device of the process's rank of that `index`.
pub(crate) fn load_rank(
    checkpoint: &Checkpoint,
    settings: &ModelSettings,
    shard: Shard,
    index: usize,
    progress: &ProgressSink,
) -> anyhow::Result<Arc<LanguageModel>> {
    let started = Instant::now();
    let options = LoadOptions {
        dtype: settings.dtype,
        device: settings.open_device(index)?,
    };
    let part = format!("rank {}", shard.rank);
    let bytes_read = Cell::new(0);
    let report = |at: inkstone_model::checkpoint::LoadProgress<'_>| {
        bytes_read.set(at.bytes_done);
        progress(LoadProgress {
            part: part.clone(),
            bytes_done: at.bytes_done,
            bytes_total: at.bytes_total,
        });
    };
    let model = LanguageModel::load(checkpoint, shard, &options, &report)?;
    tracing::info!(
        rank = shard.rank,
        world_size = shard.world_size,
        bytes_read = bytes_read.get(),
        checkpoint_bytes = checkpoint.description().weight_bytes,
        seconds = started.elapsed().as_secs_f64(),
        "loaded the rank's shard"
    );
    Ok(Arc::new(model))
}

/// Loads shards side by side.
pub(crate) async fn load_ranks(
    checkpoint: &Arc<Checkpoint>,
    settings: &ModelSettings,
    shards: impl IntoIterator<Item = Shard>,
    progress: &ProgressSink,
) -> anyhow::Result<Vec<Arc<LanguageModel>>> {
    let loads = shards.into_iter().enumerate().map(|(index, shard)| {
        let (checkpoint, settings) = (Arc::clone(checkpoint), settings.clone());
        let progress = Arc::clone(progress);
        tokio::task::spawn_blocking(move || {
            load_rank(&checkpoint, &settings, shard, index, &progress)
        })
    });
    let loads: Vec<_> = loads.collect();
    let mut models = Vec::with_capacity(loads.len());
    for load in loads {
        models.push(load.await??);
    }
    Ok(models)
}

/// What a leader needs of a checkpoint's folder besides the weights. Cheap to clone.
#[derive(Clone)]
pub(crate) struct LanguageFiles {
    /// The tokenizer's file, which coordinators are given.
    pub(crate) tokenizer_model: Bytes,
    pub(crate) added_tokens: HashMap<String, u32>,
    /// For constraints.
    pub(crate) vocabulary: Arc<ConstraintVocabulary>,
}

impl LanguageFiles {
    pub(crate) async fn read(
        settings: &ModelSettings,
        checkpoint: &Arc<Checkpoint>,
    ) -> anyhow::Result<Self> {
        let file = settings.model_dir.join("tokenizer.model");
        let tokenizer_model = tokio::fs::read(&file)
            .await
            .with_context(|| format!("cannot read {}", file.display()))?;
        Ok(Self {
            tokenizer_model: tokenizer_model.into(),
            added_tokens: read_added_tokens(&settings.model_dir).await?,
            vocabulary: load_vocabulary(settings, checkpoint).await?,
        })
    }
}

pub(crate) async fn open_checkpoint(settings: &ModelSettings) -> anyhow::Result<Arc<Checkpoint>> {
    let dir = settings.model_dir.clone();
    let open = move || Checkpoint::open(Path::new(&dir)).map(Arc::new);
    Ok(tokio::task::spawn_blocking(open).await??)
}

/// What constraints need of the checkpoint's tokenizer.
pub(crate) async fn load_vocabulary(
    settings: &ModelSettings,
    checkpoint: &Arc<Checkpoint>,
) -> anyhow::Result<Arc<ConstraintVocabulary>> {
    let (dir, checkpoint) = (settings.model_dir.clone(), Arc::clone(checkpoint));
    tokio::task::spawn_blocking(move || vocabulary_in(&dir, &checkpoint)).await?
}

pub(crate) fn vocabulary_in(
    model_dir: &Path,
    checkpoint: &Checkpoint,
) -> anyhow::Result<Arc<ConstraintVocabulary>> {
    let tokenizer = Tokenizer::read(model_dir)?;
    let stop_token_ids = tokenizer.stop_token_ids();
    let num_tokens = checkpoint.config().vocab_size;
    ConstraintVocabulary::new(&tokenizer, num_tokens, &stop_token_ids)
        .map(Arc::new)
        .map_err(anyhow::Error::msg)
}

/// The checkpoint's `added_tokens.json`: names of ids; most checkpoints have none.
async fn read_added_tokens(model_dir: &Path) -> anyhow::Result<HashMap<String, u32>> {
    let file = model_dir.join(ADDED_TOKENS_FILE);
    match tokio::fs::read(&file).await {
        Ok(json) => serde_json::from_slice(&json)
            .with_context(|| format!("{} cannot be read", file.display())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(HashMap::new()),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", file.display())),
    }
}

/// All ranks of a group must hold the same model: its config, the names, shapes and types of its tensors, and a little of what is
/// in each of them, so that a fine-tuned checkpoint is not taken for the one that it was made of.
pub(crate) fn fingerprint(checkpoint: &Checkpoint) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(checkpoint.description().to_json().as_bytes());
    for tensor in checkpoint.tensors() {
        hasher
            .update(format!("{} {:?} {:?}\n", tensor.name, tensor.shape, tensor.stored).as_bytes());
        hasher.update(tensor.first_bytes);
    }
    *hasher.finalize().as_bytes()
}

pub(crate) fn dtype_name(settings: &ModelSettings) -> String {
    settings
        .dtype
        .map_or_else(|| "as stored".to_owned(), |dtype| format!("{dtype:?}"))
}

#[cfg(test)]
mod tests {
    use inkstone_model::synthesize::{Preset, SynthesizeOptions, synthesize};

    use super::*;

    #[test]
    fn weights_of_another_training_have_another_fingerprint() {
        let folder = tempfile::tempdir().unwrap();
        let made = |seed| {
            let dir = folder.path().join(format!("{seed}/tiny"));
            synthesize(
                Preset::Tiny,
                seed,
                &dir,
                SynthesizeOptions::default(),
                &|_| {},
            )
            .unwrap();
            fingerprint(&Checkpoint::open(&dir).unwrap())
        };
        let (one, other) = (made(1), made(2));
        assert_ne!(one, other, "same config, names and shapes");
        let again = Checkpoint::open(&folder.path().join("1/tiny")).unwrap();
        assert_eq!(one, fingerprint(&again));
    }
}
