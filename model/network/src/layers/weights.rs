//! Reads the tensors that a rank holds, sliced as the rules say and of the type that was asked for.

use inkstone_interface::config::ModelConfig;

use crate::{
    checkpoint::{Checkpoint, CheckpointError, Reader, Shard, TensorKind, shard::slice_for},
    load_options::LoadOptions,
    tensor::{DType, Tensor},
};

/// A checkpoint as one rank reads it.
pub struct WeightReader<'a> {
    reader: &'a Reader<'a>,
    checkpoint: &'a Checkpoint,
    shard: Shard,
    options: &'a LoadOptions,
}

impl<'a> WeightReader<'a> {
    pub fn new(
        reader: &'a Reader<'a>,
        checkpoint: &'a Checkpoint,
        shard: Shard,
        options: &'a LoadOptions,
    ) -> Self {
        Self {
            reader,
            checkpoint,
            shard,
            options,
        }
    }

    pub fn config(&self) -> &ModelConfig {
        self.checkpoint.config()
    }

    pub fn checkpoint(&self) -> &Checkpoint {
        self.checkpoint
    }

    /// This rank's part of a large weight, of the type that weights are to be held in.
    pub fn weight(&self, name: &str) -> Result<Tensor, CheckpointError> {
        self.read(name, self.options.dtype)
    }

    /// This rank's part of a small parameter, as f32.
    pub fn parameter(&self, name: &str) -> Result<Tensor, CheckpointError> {
        self.read(name, Some(DType::F32))
    }

    /// The bias of a linear with that weight, of the type that its results have.
    pub fn bias(&self, name: &str, weight: &Tensor) -> Result<Tensor, CheckpointError> {
        let dtype = self.options.device.activation_dtype(weight.dtype());
        self.read(name, Some(dtype))
    }

    fn read(&self, name: &str, dtype: Option<DType>) -> Result<Tensor, CheckpointError> {
        let kind = TensorKind::of(name).ok_or_else(|| CheckpointError::NoSuchTensor {
            tensor: name.to_owned(),
        })?;
        let slice = slice_for(kind, self.shard, self.config());
        let device = &self.options.device;
        self.reader.read_to(name, slice, dtype, device)
    }
}
