//! The attention block of a decoder layer: `wo(attention(wqkv(x)))`.

use super::{ForwardError, step::Step};
use crate::{
    checkpoint::{CheckpointError, LinearKind, Shard},
    kv_cache::KvPages,
    layers::{ColumnParallelLinear, RowParallelLinear, WeightReader},
    ops::{
        attention::{attention, rotate_and_write_pages},
        rotary::QkvLayout,
    },
    tensor::Tensor,
};

pub(super) struct Attention {
    /// This rank's heads.
    layout: QkvLayout,
    wqkv: ColumnParallelLinear,
    wo: RowParallelLinear,
}

impl Attention {
    pub(super) fn load(
        reader: &WeightReader<'_>,
        layer: usize,
        shard: Shard,
    ) -> Result<Self, CheckpointError> {
        let config = reader.config();
        Ok(Self {
            layout: QkvLayout {
                num_kv_heads: shard.key_value_heads(config).len(),
                group: config.num_attention_heads / config.num_key_value_heads,
                head_dim: config.head_dim(),
            },
            wqkv: ColumnParallelLinear::load(reader, layer, LinearKind::Wqkv)?,
            wo: RowParallelLinear::load(reader, layer, LinearKind::Wo)?,
        })
    }

    /// x is normed, `[num_rows, hidden_size]`; so is the result, without the residual.
    pub(super) fn forward(
        &self,
        x: &Tensor,
        step: &Step<'_>,
        pages: &mut KvPages,
    ) -> Result<Tensor, ForwardError> {
        let picture_rows = step.pictures.select(x)?;
        let mut qkv = self.wqkv.forward(x, step.pictures, picture_rows.as_ref())?;
        rotate_and_write_pages(&mut qkv, &self.layout, &step.angles, step.plan, pages)?;
        let heads = attention(&qkv, &self.layout, step.plan, pages)?;
        let mut y = self.wo.forward_part(&heads, step.pictures)?;
        step.all_reduce_sum(&mut y)?;
        Ok(y)
    }

    /// How this rank's columns of the fused projection lie.
    pub(super) fn layout(&self) -> QkvLayout {
        self.layout
    }

    pub(super) fn num_bytes(&self) -> usize {
        self.wqkv.num_bytes() + self.wo.num_bytes()
    }
}
