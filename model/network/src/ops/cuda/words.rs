//! Lists of numbers that ops read beside tensors: indices, positions, tables.

use std::sync::Arc;

use super::{CudaBuffer, device::CudaDevice};
use crate::tensor::Result;

/// Numbers of 32 bits on a device: a list of its own, or what lies from some place on in a longer one.
#[derive(Clone, Debug)]
pub(super) struct Words {
    buffer: Arc<CudaBuffer>,
    first: usize,
}

impl Words {
    /// Sends a list that is read by the work of one step.
    pub(super) fn upload(device: &CudaDevice, words: &[u32]) -> Result<Self> {
        Ok(Self::over(Arc::new(device.upload_passing(words)?)))
    }

    pub(super) fn over(buffer: Arc<CudaBuffer>) -> Self {
        Self { buffer, first: 0 }
    }

    /// What lies from that place on.
    pub(super) fn from(&self, place: usize) -> Self {
        Self {
            buffer: Arc::clone(&self.buffer),
            first: self.first + place,
        }
    }

    /// The address of the number at a place.
    pub(super) fn at(&self, place: usize) -> u64 {
        self.buffer.address() + 4 * (self.first + place) as u64
    }

    pub(super) fn device(&self) -> &CudaDevice {
        self.buffer.device()
    }
}
