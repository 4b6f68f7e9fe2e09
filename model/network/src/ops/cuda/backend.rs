//! What runs kernels: a GPU through its driver, or in tests the emulator. Everything above sees addresses and names of kernels.
#![expect(unsafe_code, reason = "addresses of a device are no references")]

use std::ffi::c_void;

#[cfg(test)]
use super::emulator::{self, Emulator};
use super::gpu::{self, Gpu};
use crate::tensor::{DType, Result};

pub(super) enum Backend {
    Gpu(Gpu),
    #[cfg(test)]
    Emulator(Emulator),
}

/// Bytes that are filled and copied at a time when much is brought to a device: long enough for the copy to run at full speed.
pub(super) const PIECE: usize = 32 << 20;

/// How many threads run a kernel.
#[derive(Clone, Copy, Debug)]
pub(super) struct Launch {
    pub(super) grid: [usize; 3],
    pub(super) block: usize,
    /// Bytes of shared memory beyond what the kernel declares.
    pub(super) shared: usize,
}

/// An argument of a kernel, as the kernel finds it at its address: the first bytes are those of its type, since hosts of GPUs are
/// little-endian.
#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
pub(super) struct Argument(u64);

impl From<u64> for Argument {
    fn from(address: u64) -> Self {
        Self(address)
    }
}

impl From<i32> for Argument {
    fn from(number: i32) -> Self {
        Self(u64::from(number.cast_unsigned()))
    }
}

impl From<f32> for Argument {
    fn from(number: f32) -> Self {
        Self(u64::from(number.to_bits()))
    }
}

/// Addresses of arguments, as launches take them.
pub(super) fn pointers(arguments: &[Argument]) -> Vec<*mut c_void> {
    let pointer = |argument: &Argument| std::ptr::from_ref(argument).cast_mut().cast();
    arguments.iter().map(pointer).collect()
}

/// Work that was put down instead of being done, to be done any number of times.
pub(super) enum Recording {
    Gpu(gpu::Recording),
    #[cfg(test)]
    Emulator(emulator::Recording),
}

/// `y = scale · x · wᵀ (+ bias) (+ y)`, all by address: x `[rows, depth]` and w `[columns, depth]` of `dtype`, y
/// `[rows, columns]` of `out_dtype`, bias `[columns]` of `out_dtype`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Product {
    pub(super) x: u64,
    pub(super) w: u64,
    pub(super) y: u64,
    pub(super) bias: Option<u64>,
    pub(super) rows: usize,
    pub(super) columns: usize,
    pub(super) depth: usize,
    pub(super) dtype: DType,
    pub(super) out_dtype: DType,
    pub(super) scale: f32,
    pub(super) adds_to_y: bool,
}

macro_rules! each {
    ($self:ident, $backend:ident => $call:expr) => {
        match $self {
            Self::Gpu($backend) => $call,
            #[cfg(test)]
            Self::Emulator($backend) => $call,
        }
    };
}

impl Backend {
    pub(super) fn allocate(&self, num_bytes: usize) -> Result<u64> {
        each!(self, backend => backend.allocate(num_bytes))
    }

    /// The address must have come from `allocate`, and nothing on the stream may use it any more.
    pub(super) fn release(&self, address: u64) {
        each!(self, backend => backend.release(address));
    }

    /// # Safety
    /// `bytes.len()` bytes from `to` on must be allocated.
    pub(super) unsafe fn copy_in(&self, to: u64, bytes: &[u8]) -> Result<()> {
        // SAFETY: the caller's.
        each!(self, backend => unsafe { backend.copy_in(to, bytes) })
    }

    /// Lets `fill` write `len` bytes (at most [`PIECE`]) and puts their copy on the stream: while it runs, the next piece may be filled.
    ///
    /// # Safety
    /// `len` bytes from `to` on must be allocated.
    pub(super) unsafe fn copy_piece_in(
        &self,
        to: u64,
        len: usize,
        fill: &mut dyn FnMut(&mut [u8]),
    ) -> Result<()> {
        // SAFETY: the caller's.
        each!(self, backend => unsafe { backend.copy_piece_in(to, len, fill) })
    }

    /// Returns once the bytes are there.
    ///
    /// # Safety
    /// `bytes.len()` bytes from `from` on must be allocated.
    pub(super) unsafe fn copy_out(&self, from: u64, bytes: &mut [u8]) -> Result<()> {
        // SAFETY: the caller's.
        each!(self, backend => unsafe { backend.copy_out(from, bytes) })
    }

    /// # Safety
    /// Both ranges must be allocated and not overlap.
    pub(super) unsafe fn copy(&self, from: u64, to: u64, len: usize) -> Result<()> {
        // SAFETY: the caller's.
        each!(self, backend => unsafe { backend.copy(from, to, len) })
    }

    /// # Safety
    /// The range must be allocated.
    pub(super) unsafe fn clear(&self, at: u64, len: usize) -> Result<()> {
        // SAFETY: the caller's.
        each!(self, backend => unsafe { backend.clear(at, len) })
    }

    /// # Safety
    /// The arguments must be those of the kernel in number and type, and what they point to large enough for the launch.
    pub(super) unsafe fn launch(
        &self,
        kernel: &str,
        launch: Launch,
        arguments: &[Argument],
    ) -> Result<()> {
        // SAFETY: the caller's.
        each!(self, backend => unsafe { backend.launch(kernel, launch, arguments) })
    }

    /// Records what `work` puts on the stream, in place of doing it. Bytes of the host cannot be part of that: they would be read when
    /// it is replayed.
    pub(super) fn record(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<Recording> {
        match self {
            Self::Gpu(gpu) => gpu.record(work).map(Recording::Gpu),
            #[cfg(test)]
            Self::Emulator(emulator) => emulator.record(work).map(Recording::Emulator),
        }
    }

    /// Puts what was recorded on the stream.
    ///
    /// # Safety
    /// Everything that the recorded work names by address must still be there.
    pub(super) unsafe fn replay(&self, recording: &Recording) -> Result<()> {
        match (self, recording) {
            // SAFETY: the caller's.
            (Self::Gpu(gpu), Recording::Gpu(recording)) => unsafe { gpu.replay(recording) },
            #[cfg(test)]
            // SAFETY: the caller's.
            (Self::Emulator(emulator), Recording::Emulator(recording)) => unsafe {
                emulator.replay(recording)
            },
            #[cfg(test)]
            _ => panic!("recorded on another device"),
        }
    }

    /// # Safety
    /// The addresses must hold what [`Product`] says.
    pub(super) unsafe fn multiply(&self, product: &Product) -> Result<()> {
        // SAFETY: the caller's.
        each!(self, backend => unsafe { backend.multiply(product) })
    }

    /// Waits for everything on the stream.
    pub(super) fn synchronize(&self) -> Result<()> {
        each!(self, backend => backend.synchronize())
    }

    pub(super) fn bind(&self) -> Result<()> {
        each!(self, backend => backend.bind())
    }

    pub(super) fn identity(&self) -> Result<[u8; 16]> {
        each!(self, backend => backend.identity())
    }

    pub(super) fn stream(&self) -> *mut c_void {
        each!(self, backend => backend.stream())
    }

    /// Free bytes and all bytes.
    pub(super) fn memory(&self) -> Result<(usize, usize)> {
        each!(self, backend => backend.memory())
    }

    /// Blocks of threads that can run side by side, about: what work should be cut into at least.
    pub(super) fn num_multiprocessors(&self) -> usize {
        each!(self, backend => backend.num_multiprocessors())
    }

    pub(super) fn describe(&self) -> String {
        each!(self, backend => backend.describe())
    }
}
