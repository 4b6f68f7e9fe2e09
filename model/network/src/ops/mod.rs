//! The small set of operations that the network is written against. Each has one plain reference and a form per device.

pub mod activation;
pub mod attention;
pub mod best_logits;
pub mod cuda;
pub mod decode_graphs;
pub mod elementwise;
pub mod embedding;
pub(crate) mod exponential;
pub mod full_attention;
pub mod linear;
pub mod norm;
pub(crate) mod parallel;
pub mod patch_embedding;
pub mod rotary;
pub mod rows;
pub(crate) mod simd;
pub(crate) mod vectorised;
