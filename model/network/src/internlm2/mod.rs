//! The language model, InternLM2 with Partial LoRA, as one rank of a tensor-parallel group runs it (spec sections 2, 3 and 8).
//! A forward takes a ragged batch: chunks of prompts and single tokens of many sequences go through the layers together, so that
//! weights are read once for all of them.

mod attention;
mod batch;
mod decode_graphs;
mod decoder;
mod mlp;
mod profile;
mod projector;
mod rope;
mod step;
#[cfg(test)]
mod tests;

use std::sync::Mutex;

use inkstone_interface::config::ModelConfig;
use thiserror::Error;

pub use batch::{Batch, BatchError, BatchSequence, Input, LogitsRows};
pub use rope::RopeRule;

use self::{
    decode_graphs::Recorded,
    decoder::DecoderLayer,
    projector::Projector,
    step::{Step, StepRows},
};
use crate::{
    checkpoint::{Checkpoint, CheckpointError, LoadProgress, Shard, ShardError},
    clip::PictureFeatures,
    collectives::{Collective, CollectiveError},
    device::Device,
    kv_cache::KvCache,
    layers::{RmsNorm, WeightReader},
    load_options::LoadOptions,
    ops::{embedding::gather_rows, linear::linear_wide, rotary::RotaryAngles},
    tensor::{DType, Tensor, TensorError},
};

/// One rank's share of the language model, and the projector, which every rank has whole.
pub struct LanguageModel {
    config: ModelConfig,
    shard: Shard,
    device: Device,
    rope: RopeRule,
    projector: Projector,
    tok_embeddings: Tensor,
    layers: Vec<DecoderLayer>,
    norm: RmsNorm,
    /// This rank's rows of the head.
    output: Tensor,
    /// Decode steps, for the cache that they were recorded with.
    recorded: Mutex<Option<Recorded>>,
}

/// What a forward gives.
#[derive(Debug)]
pub struct ForwardOutput {
    /// Logits for this rank's part of the vocabulary, `[num_logits_rows, vocab_size / world_size]` f32, in the order of the batch.
    pub logits: Tensor,
    pub stats: ForwardStats,
}

/// What a forward did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ForwardStats {
    /// Rows that went through the layers.
    pub num_rows: usize,
    /// Rows that went through the low-rank branches: those of pictures, each counted once.
    pub partial_lora_rows: usize,
    /// Sums over all ranks: two for each layer, pictures or not.
    pub all_reduces: usize,
    /// Whether a recorded step was replayed.
    pub is_replayed: bool,
}

/// Why a model cannot be loaded.
#[derive(Debug, Error)]
pub enum LoadError {
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    #[error(transparent)]
    Shard(#[from] ShardError),
}

/// Why a forward failed. Only a collective's failure concerns more than the batch.
#[derive(Debug, Error)]
pub enum ForwardError {
    #[error(transparent)]
    Batch(#[from] BatchError),
    #[error(transparent)]
    Collective(#[from] CollectiveError),
    #[error(transparent)]
    Tensor(#[from] TensorError),
}

/// Looks at the hidden states of a forward, `[num_rows, hidden_size]`: the embeddings (0), after each layer (1 to the number of
/// layers), and after the final norm.
pub type Observer<'a> = &'a mut dyn FnMut(usize, &Tensor);

impl LanguageModel {
    /// Loads this rank's share. `progress` is told of the bytes read.
    pub fn load(
        checkpoint: &Checkpoint,
        shard: Shard,
        options: &LoadOptions,
        progress: &dyn Fn(LoadProgress<'_>),
    ) -> Result<Self, LoadError> {
        let config = checkpoint.config().clone();
        shard.check(&config)?;
        let reader = checkpoint
            .reader(progress)
            .expecting(checkpoint.language_bytes(shard)?);
        let reader = WeightReader::new(&reader, checkpoint, shard, options);
        let layers = (0..config.num_hidden_layers)
            .map(|layer| DecoderLayer::load(&reader, layer, shard))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            shard,
            device: options.device.clone(),
            rope: RopeRule::new(&config),
            projector: Projector::load(&reader)?,
            tok_embeddings: reader.weight("model.tok_embeddings.weight")?,
            layers,
            norm: RmsNorm::load(&reader, "model.norm.weight")?,
            output: reader.weight("output.weight")?,
            recorded: Mutex::default(),
            config,
        })
    }

    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    pub fn shard(&self) -> Shard {
        self.shard
    }

    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The first token of this rank's part of the vocabulary: column 0 of its logits.
    pub fn first_vocab_id(&self) -> u32 {
        self.shard.vocab(&self.config).start as u32
    }

    /// The type that suits the cache of this model: that of its weights.
    pub fn kv_dtype(&self) -> DType {
        self.output.dtype()
    }

    /// A cache for this rank's share of the heads, of the type that suits the model.
    pub fn new_kv_cache(&self, num_blocks: usize) -> KvCache {
        let dtype = self.kv_dtype();
        KvCache::new(&self.config, self.shard, num_blocks, dtype, &self.device)
    }

    /// Bytes of weights that a decode step reads on this rank: all but the embeddings, the projector and the low-rank branches.
    pub fn decode_weight_bytes(&self) -> usize {
        let layers: usize = self.layers.iter().map(DecoderLayer::decode_bytes).sum();
        layers + num_bytes(&self.output)
    }

    /// Projects a picture's features to rows that take the place of embeddings, `[num_tokens, hidden_size]`.
    pub fn project(&self, features: &PictureFeatures) -> Result<Tensor, TensorError> {
        let shape = [features.num_tokens(), features.width()];
        let features = Tensor::from_f32(&self.device, &shape, features.data())?;
        let dtype = self.device.activation_dtype(self.kv_dtype());
        self.projector.forward(&features.to_dtype(dtype)?)
    }

    /// Runs a batch through the model: writes its keys and values to the cache and gives the logits that were asked for. All ranks of
    /// the group make the same call.
    pub fn forward(
        &self,
        batch: &Batch<'_>,
        cache: &mut KvCache,
        collective: &dyn Collective,
    ) -> Result<ForwardOutput, ForwardError> {
        self.run(batch, cache, collective, None)
    }

    /// As [`Self::forward`], with someone looking on. For tests.
    pub fn forward_with(
        &self,
        batch: &Batch<'_>,
        cache: &mut KvCache,
        collective: &dyn Collective,
        observer: Observer<'_>,
    ) -> Result<ForwardOutput, ForwardError> {
        self.run(batch, cache, collective, Some(observer))
    }

    fn run(
        &self,
        batch: &Batch<'_>,
        cache: &mut KvCache,
        collective: &dyn Collective,
        observer: Option<Observer<'_>>,
    ) -> Result<ForwardOutput, ForwardError> {
        let rows = StepRows::new(batch, cache, &self.config, &self.rope)?;
        let replayed = match observer {
            None => self.replay(batch, &rows, cache, collective)?,
            Some(_) => None,
        };
        let is_replayed = replayed.is_some();
        let (hidden, all_reduces) = match replayed {
            Some(replayed) => replayed,
            None => self.compute(batch, &rows, cache, collective, observer)?,
        };
        let wanted = gather_rows(&hidden, &batch.logits_rows())?;
        let logits = linear_wide(&self.norm.forward(&wanted)?, &self.output)?;
        let stats = rows.stats(all_reduces, is_replayed);
        Ok(ForwardOutput { logits, stats })
    }

    /// The hidden states after all layers, and how many sums over ranks that took.
    fn compute(
        &self,
        batch: &Batch<'_>,
        rows: &StepRows,
        cache: &mut KvCache,
        collective: &dyn Collective,
        mut observer: Option<Observer<'_>>,
    ) -> Result<(Tensor, usize), ForwardError> {
        let angles = RotaryAngles::new(&self.device, self.config.head_dim(), &rows.spans)?;
        let step = Step::new(&rows.plan, angles, &rows.pictures, collective);
        let mut hidden = batch.embed(&self.tok_embeddings)?;
        self.through_layers(&mut hidden, &step, cache, &mut |index, hidden| {
            if let Some(observer) = observer.as_mut() {
                observer(index, hidden);
            }
        })?;
        if let Some(observer) = observer {
            observer(self.layers.len() + 1, &self.norm.forward(&hidden)?);
        }
        Ok((hidden, step.all_reduces()))
    }

    fn through_layers(
        &self,
        hidden: &mut Tensor,
        step: &Step<'_>,
        cache: &mut KvCache,
        observe: Observer<'_>,
    ) -> Result<(), ForwardError> {
        observe(0, hidden);
        for (index, layer) in self.layers.iter().enumerate() {
            layer.forward(hidden, step, cache.layer(index))?;
            observe(index + 1, hidden);
        }
        Ok(())
    }
}

fn num_bytes(tensor: &Tensor) -> usize {
    tensor.num_elements() * tensor.dtype().num_bytes()
}
