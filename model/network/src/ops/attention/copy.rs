//! Copying a block of the cache.

use super::cpu;
use crate::{
    device::Device,
    kv_cache::KvPages,
    tensor::{Result, TensorError},
};

/// Copies all heads' keys and values of a block to another.
pub(crate) fn copy_block(pages: &mut KvPages, from: u32, to: u32) -> Result<()> {
    let (from, to, num_blocks) = (from as usize, to as usize, pages.num_blocks());
    if from.max(to) >= num_blocks {
        let reason = format!("block {from} to block {to} of {num_blocks}");
        return Err(TensorError::Unsupported {
            what: "copy_block",
            reason,
        });
    }
    match pages.keys.device().clone() {
        Device::Cpu(_) => cpu::copy_block(pages, from, to),
        Device::Cuda(device) => device.copy_block(pages, from, to),
    }
}
