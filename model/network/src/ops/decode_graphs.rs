//! Steps in which every sequence has one row, the token drawn last, are all alike: a device that gains by it records them once and
//! replays them with other rows. A GPU does (`cuda/graphs.rs`); on the CPU calling an op costs nothing.

pub use super::cuda::{DecodeGraphs, DecodeInputs};
use super::{
    attention::AttentionPlan,
    rotary::{QkvLayout, RotarySpan},
};
use crate::{device::Device, tensor::Result};

/// What is particular to a step of single rows.
pub struct DecodeRows<'a> {
    /// The token of each row.
    pub ids: &'a [u32],
    /// The position of each row, with its frequencies.
    pub spans: &'a [RotarySpan],
    pub plan: &'a AttentionPlan,
}

impl DecodeGraphs {
    /// For steps of up to `most_rows` rows of a model with this layout of heads, on a cache of `num_blocks` blocks; nothing for devices
    /// that do not record.
    pub fn on(
        device: &Device,
        layout: QkvLayout,
        num_blocks: usize,
        most_rows: usize,
    ) -> Result<Option<Self>> {
        match device {
            Device::Cpu(_) => Ok(None),
            Device::Cuda(device) => device
                .decode_graphs(layout, num_blocks, most_rows)
                .map(Some),
        }
    }
}
