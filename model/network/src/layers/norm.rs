//! RMS norm with its weight, whole on every rank.

use super::WeightReader;
use crate::{
    checkpoint::CheckpointError,
    ops::norm::{add_rms_norm, rms_norm},
    tensor::{Result, Tensor},
};

pub struct RmsNorm {
    weight: Tensor,
    eps: f64,
}

impl RmsNorm {
    /// Loads the weight `name`.
    pub fn load(reader: &WeightReader<'_>, name: &str) -> Result<Self, CheckpointError> {
        Ok(Self {
            weight: reader.parameter(name)?,
            eps: reader.config().rms_norm_eps,
        })
    }

    /// Norms the rows of x `[num_rows, hidden_size]`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        rms_norm(x, &self.weight, self.eps)
    }

    /// Adds delta to x, and norms the rows of the sum.
    pub fn add_and_forward(&self, x: &mut Tensor, delta: &Tensor) -> Result<Tensor> {
        add_rms_norm(x, delta, &self.weight, self.eps)
    }
}
