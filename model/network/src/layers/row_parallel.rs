//! A linear that closes a block: `wo`, `w2`. Split by input columns: a rank multiplies its columns of the input, and the sum over
//! all ranks is the output. The low-rank branch is split along, so that one sum completes both (spec section 8).

use super::WeightReader;
use crate::{
    checkpoint::{CheckpointError, LinearKind},
    ops::linear::linear,
    partial_lora::{PartialLora, PictureRows, weight_name},
    tensor::{Result, Tensor},
};

pub struct RowParallelLinear {
    weight: Tensor,
    partial_lora: PartialLora,
}

impl RowParallelLinear {
    pub fn load(
        reader: &WeightReader<'_>,
        layer: usize,
        kind: LinearKind,
    ) -> Result<Self, CheckpointError> {
        Ok(Self {
            weight: reader.weight(&weight_name(layer, kind, "weight"))?,
            partial_lora: PartialLora::load(reader, layer, kind)?,
        })
    }

    /// This rank's part of the sum that gives `x Wᵀ` with the low-rank branch on picture rows. x is this rank's columns of the
    /// input, `[num_rows, in / world_size]`; the result is `[num_rows, out]`, to be summed over all ranks.
    pub fn forward_part(&self, x: &Tensor, pictures: &PictureRows) -> Result<Tensor> {
        let mut y = linear(x, &self.weight, None)?;
        let picture_rows = pictures.select(x)?;
        self.partial_lora
            .add_to(&mut y, pictures, picture_rows.as_ref())?;
        Ok(y)
    }

    /// Bytes of the weight, without the branch.
    pub fn num_bytes(&self) -> usize {
        self.weight.num_elements() * self.weight.dtype().num_bytes()
    }
}
