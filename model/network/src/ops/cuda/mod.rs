//! NVIDIA GPUs. Everything that knows of CUDA is here and in `collectives/nccl.rs`; the ops next door call methods of [`CudaDevice`].
//! Without the feature `cuda` that type has no values, so that no caller need ask how the crate was built.
//!
//! A device is one stream on one GPU: ops are put on it in order and run when their turn comes; what is read back waits for them.
//! Memory that is given back is reused in that same order. Kernels are ours (`model/network/cuda/kernels`), matrix products of many
//! rows are cuBLASLt's. Activations have the type of the weights, bf16 or f16 (f32 for comparison); sums are f32.
//!
//! In tests the same code also drives an emulator of the kernels, so that it runs where there is no GPU.

#[cfg(not(feature = "cuda"))]
mod absent;
#[cfg(feature = "cuda")]
mod attention;
#[cfg(feature = "cuda")]
mod backend;
#[cfg(feature = "cuda")]
mod best_logits;
#[cfg(feature = "cuda")]
mod device;
#[cfg(all(feature = "cuda", test))]
#[path = "tests/emulator.rs"]
mod emulator;
#[cfg(feature = "cuda")]
mod gpu;
#[cfg(feature = "cuda")]
mod graphs;
#[cfg(feature = "cuda")]
mod linear;
#[cfg(feature = "cuda")]
mod matmul;
#[cfg(feature = "cuda")]
mod memory;
#[cfg(feature = "cuda")]
mod rowwise;
#[cfg(all(feature = "cuda", test))]
mod tests;
#[cfg(feature = "cuda")]
mod words;

/// Devices that tests run on beside the CPU: the emulator, and a GPU where there is one. What is missing is told of.
#[cfg(test)]
pub(crate) fn gpus() -> Vec<(&'static str, crate::device::Device)> {
    #[cfg(feature = "cuda")]
    return emulator::gpus();
    #[cfg(not(feature = "cuda"))]
    Vec::new()
}

#[cfg(not(feature = "cuda"))]
pub use absent::{CudaBuffer, CudaDevice, DecodeGraphs, DecodeInputs, UploadedPlan};
#[cfg(feature = "cuda")]
pub use attention::UploadedPlan;
#[cfg(feature = "cuda")]
pub use device::CudaDevice;
#[cfg(feature = "cuda")]
pub use graphs::{DecodeGraphs, DecodeInputs};
#[cfg(feature = "cuda")]
pub use memory::CudaBuffer;
