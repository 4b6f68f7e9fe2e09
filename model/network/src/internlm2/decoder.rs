//! One decoder layer: attention and feed-forward, each on normed input and added to the residual stream.

use super::{ForwardError, attention::Attention, mlp::Mlp, step::Step};
use crate::{
    checkpoint::{CheckpointError, Shard},
    kv_cache::KvPages,
    layers::{RmsNorm, WeightReader},
    ops::{elementwise::add_assign, rotary::QkvLayout},
    tensor::Tensor,
};

pub(super) struct DecoderLayer {
    attention_norm: RmsNorm,
    attention: Attention,
    ffn_norm: RmsNorm,
    feed_forward: Mlp,
}

impl DecoderLayer {
    pub(super) fn load(
        reader: &WeightReader<'_>,
        layer: usize,
        shard: Shard,
    ) -> Result<Self, CheckpointError> {
        let norm =
            |name: &str| RmsNorm::load(reader, &format!("model.layers.{layer}.{name}.weight"));
        Ok(Self {
            attention_norm: norm("attention_norm")?,
            attention: Attention::load(reader, layer, shard)?,
            ffn_norm: norm("ffn_norm")?,
            feed_forward: Mlp::load(reader, layer)?,
        })
    }

    /// hidden is the residual stream, `[num_rows, hidden_size]`, the same on every rank before and after.
    pub(super) fn forward(
        &self,
        hidden: &mut Tensor,
        step: &Step<'_>,
        pages: &mut KvPages,
    ) -> Result<(), ForwardError> {
        let x = self.attention_norm.forward(hidden)?;
        let attended = self.attention.forward(&x, step, pages)?;
        let x = self.ffn_norm.add_and_forward(hidden, &attended)?;
        add_assign(hidden, &self.feed_forward.forward(&x, step)?)?;
        Ok(())
    }

    /// How this rank's heads lie.
    pub(super) fn layout(&self) -> QkvLayout {
        self.attention.layout()
    }

    /// Bytes of weights that every row reads.
    pub(super) fn decode_bytes(&self) -> usize {
        self.attention.num_bytes() + self.feed_forward.num_bytes()
    }
}
