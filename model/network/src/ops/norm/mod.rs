//! Norms over the last dimension.

mod layer_norm;

pub use layer_norm::layer_norm;
