//! How weights are to be held, whichever part of the network is loaded.

use crate::{device::Device, tensor::DType};

/// Where weights go and as what type.
#[derive(Debug, Clone)]
pub struct LoadOptions {
    pub device: Device,
    /// Type of the large weights; as stored where `None`. Biases, norms and tables of places are f32 always.
    pub dtype: Option<DType>,
}
