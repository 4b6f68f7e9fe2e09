//! The projector from picture features to the language model's width: a linear, GELU, a linear (spec section 4.2).

use crate::{
    checkpoint::CheckpointError,
    layers::WeightReader,
    ops::{activation::gelu_erf, linear::linear},
    tensor::{Result, Tensor},
};

pub(super) struct Projector {
    /// Weight and bias of each linear.
    linears: [(Tensor, Tensor); 2],
}

impl Projector {
    pub(super) fn load(reader: &WeightReader<'_>) -> Result<Self, CheckpointError> {
        let linear = |index: usize| -> Result<_, CheckpointError> {
            let weight = reader.weight(&format!("vision_proj.{index}.weight"))?;
            let bias = reader.bias(&format!("vision_proj.{index}.bias"), &weight)?;
            Ok((weight, bias))
        };
        Ok(Self {
            linears: [linear(0)?, linear(2)?],
        })
    }

    /// features `[num_tokens, width]`; gives `[num_tokens, hidden_size]`.
    pub(super) fn forward(&self, features: &Tensor) -> Result<Tensor> {
        let [(first, first_bias), (second, second_bias)] = &self.linears;
        let mut inner = linear(features, first, Some(first_bias))?;
        gelu_erf(&mut inner)?;
        linear(&inner, second, Some(second_bias))
    }
}
