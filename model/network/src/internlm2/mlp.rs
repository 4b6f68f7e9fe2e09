//! The feed-forward block of a decoder layer: `w2(silu(w1 x) * w3 x)`.

use super::{ForwardError, step::Step};
use crate::{
    checkpoint::{CheckpointError, LinearKind},
    layers::{ColumnParallelLinear, RowParallelLinear, WeightReader},
    ops::activation::silu_mul,
    tensor::Tensor,
};

pub(super) struct Mlp {
    w1: ColumnParallelLinear,
    w3: ColumnParallelLinear,
    w2: RowParallelLinear,
}

impl Mlp {
    pub(super) fn load(reader: &WeightReader<'_>, layer: usize) -> Result<Self, CheckpointError> {
        Ok(Self {
            w1: ColumnParallelLinear::load(reader, layer, LinearKind::W1)?,
            w3: ColumnParallelLinear::load(reader, layer, LinearKind::W3)?,
            w2: RowParallelLinear::load(reader, layer, LinearKind::W2)?,
        })
    }

    /// x is normed, `[num_rows, hidden_size]`; the result has the same shape, without the residual.
    pub(super) fn forward(&self, x: &Tensor, step: &Step<'_>) -> Result<Tensor, ForwardError> {
        let picture_rows = step.pictures.select(x)?;
        let column_parallel =
            |w: &ColumnParallelLinear| w.forward(x, step.pictures, picture_rows.as_ref());
        let mut inner = column_parallel(&self.w1)?;
        silu_mul(&mut inner, &column_parallel(&self.w3)?)?;
        let mut y = self.w2.forward_part(&inner, step.pictures)?;
        step.all_reduce_sum(&mut y)?;
        Ok(y)
    }

    pub(super) fn num_bytes(&self) -> usize {
        self.w1.num_bytes() + self.w3.num_bytes() + self.w2.num_bytes()
    }
}
