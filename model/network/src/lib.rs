//! The network of InternLM-XComposer2, written once: checkpoints and shards, the CLIP tower, the projector, InternLM2
//! with Partial LoRA, sampling, and the collectives that join tensor-parallel ranks. It knows no request and no wire.

pub mod checkpoint;
pub mod clip;
pub mod collectives;
pub mod device;
#[cfg(test)]
mod goldens;
pub mod internlm2;
pub mod kv_cache;
pub mod layers;
pub mod load_options;
pub mod ops;
pub mod partial_lora;
pub mod sampling;
pub mod synthesize;
pub mod tensor;
