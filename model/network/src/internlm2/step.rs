//! What all layers of one forward share: where rows belong, their rotary angles, which of them are pictures, and the other ranks.

use std::cell::Cell;

use inkstone_interface::config::ModelConfig;

use super::{Batch, BatchError, ForwardError, ForwardStats, rope::RopeRule};
use crate::{
    collectives::{Collective, CollectiveError},
    kv_cache::KvCache,
    ops::{
        attention::{AttentionPlan, SequenceRows},
        rotary::{RotaryAngles, RotarySpan},
    },
    partial_lora::PictureRows,
    tensor::Tensor,
};

/// The rows of a batch that was checked.
pub(super) struct StepRows {
    pub(super) plan: AttentionPlan,
    pub(super) spans: Vec<RotarySpan>,
    pub(super) pictures: PictureRows,
}

impl StepRows {
    pub(super) fn new(
        batch: &Batch<'_>,
        cache: &KvCache,
        config: &ModelConfig,
        rope: &RopeRule,
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
        let spans = batch
            .sequences
            .iter()
            .map(|sequence| rope.span(sequence.start, sequence.num_rows(), sequence.rope_length))
            .collect();
        Ok(Self {
            plan: AttentionPlan::new(&sequences, cache.num_blocks()).map_err(BatchError::from)?,
            spans,
            pictures: batch.picture_rows(),
        })
    }

    pub(super) fn stats(&self, all_reduces: usize, is_replayed: bool) -> ForwardStats {
        ForwardStats {
            num_rows: self.plan.num_rows(),
            partial_lora_rows: self.pictures.len(),
            all_reduces,
            is_replayed,
        }
    }
}

pub(super) struct Step<'a> {
    pub(super) plan: &'a AttentionPlan,
    pub(super) angles: RotaryAngles,
    pub(super) pictures: &'a PictureRows,
    collective: &'a dyn Collective,
    all_reduces: Cell<usize>,
}

impl<'a> Step<'a> {
    pub(super) fn new(
        plan: &'a AttentionPlan,
        angles: RotaryAngles,
        pictures: &'a PictureRows,
        collective: &'a dyn Collective,
    ) -> Self {
        Self {
            plan,
            angles,
            pictures,
            collective,
            all_reduces: Cell::new(0),
        }
    }

    /// Sums a tensor over all ranks.
    pub(super) fn all_reduce_sum(&self, tensor: &mut Tensor) -> Result<(), CollectiveError> {
        self.all_reduces.set(self.all_reduces.get() + 1);
        self.collective.all_reduce_sum(tensor)
    }

    /// How many sums there were.
    pub(super) fn all_reduces(&self) -> usize {
        self.all_reduces.get()
    }
}
