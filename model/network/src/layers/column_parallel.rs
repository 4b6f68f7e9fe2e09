//! A linear that opens a block: `wqkv`, `w1`, `w3`. Split by output rows, so that a rank computes its columns of the output from
//! a whole input and nothing need be exchanged.

use super::WeightReader;
use crate::{
    checkpoint::{CheckpointError, LinearKind},
    ops::linear::linear,
    partial_lora::{PartialLora, PictureRows, weight_name},
    tensor::{Result, Tensor},
};

pub struct ColumnParallelLinear {
    weight: Tensor,
    partial_lora: PartialLora,
}

impl ColumnParallelLinear {
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

    /// This rank's columns of `x Wᵀ`, with the low-rank branch on picture rows. x is `[num_rows, in]`; `picture_rows` are the rows
    /// of x that are pictures, which callers with several linears on one input select once.
    pub fn forward(
        &self,
        x: &Tensor,
        pictures: &PictureRows,
        picture_rows: Option<&Tensor>,
    ) -> Result<Tensor> {
        let mut y = linear(x, &self.weight, None)?;
        self.partial_lora.add_to(&mut y, pictures, picture_rows)?;
        Ok(y)
    }

    /// Bytes of the weight, without the branch.
    pub fn num_bytes(&self) -> usize {
        self.weight.num_elements() * self.weight.dtype().num_bytes()
    }
}
