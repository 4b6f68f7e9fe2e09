//! What all layers of one forward share: where rows belong, their rotary angles, which of them are pictures, and the other ranks.

use std::cell::Cell;

use inkstone_interface::config::ModelConfig;

use super::{Batch, BatchError, ForwardError, ForwardStats, rope::RopeRule};
use crate::{
    collectives::{Collective, CollectiveError},
    device::Device,
    kv_cache::KvCache,
    ops::{
        attention::{AttentionPlan, SequenceRows},
        rotary::RotaryAngles,
    },
    partial_lora::PictureRows,
    tensor::Tensor,
};

pub(super) struct Step<'a> {
    pub(super) plan: AttentionPlan,
    pub(super) angles: RotaryAngles,
    pub(super) pictures: PictureRows,
    collective: &'a dyn Collective,
    all_reduces: Cell<usize>,
}

impl<'a> Step<'a> {
    /// Checks the batch and prepares what its layers share.
    pub(super) fn new(
        batch: &Batch<'_>,
        cache: &KvCache,
        config: &ModelConfig,
        rope: &RopeRule,
        collective: &'a dyn Collective,
        device: &Device,
    ) -> Result<Self, ForwardError> {
        batch.check(config)?;
        if cache.num_layers() != config.num_hidden_layers {
            return Err(ForwardError::Batch(BatchError::Cache {
                wanted: config.num_hidden_layers,
                found: cache.num_layers(),
            }));
        }
        let sequences: Vec<_> = batch
            .sequences
            .iter()
            .map(|sequence| SequenceRows {
                start: sequence.start,
                num_rows: sequence.num_rows(),
                block_table: sequence.block_table,
            })
            .collect();
        let spans: Vec<_> = batch
            .sequences
            .iter()
            .map(|sequence| rope.span(sequence.start, sequence.num_rows(), sequence.rope_length))
            .collect();
        Ok(Self {
            plan: AttentionPlan::new(&sequences, cache.num_blocks()).map_err(BatchError::from)?,
            angles: RotaryAngles::new(device, config.head_dim(), &spans)?,
            pictures: batch.picture_rows(),
            collective,
            all_reduces: Cell::new(0),
        })
    }

    /// Sums a tensor over all ranks.
    pub(super) fn all_reduce_sum(&self, tensor: &mut Tensor) -> Result<(), CollectiveError> {
        self.all_reduces.set(self.all_reduces.get() + 1);
        self.collective.all_reduce_sum(tensor)
    }

    pub(super) fn into_stats(self) -> ForwardStats {
        ForwardStats {
            num_rows: self.plan.num_rows(),
            partial_lora_rows: self.pictures.len(),
            all_reduces: self.all_reduces.get(),
        }
    }
}
