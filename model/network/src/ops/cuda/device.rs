//! A GPU with a stream of its own, and what ops are put on it with.
#![expect(unsafe_code, reason = "addresses of a device are no references")]

use std::{ffi::c_void, fmt, sync::Arc};

use super::{
    backend::{Backend, Launch, PIECE},
    gpu::Gpu,
    graphs::DecodeGraphs,
    memory::{CudaBuffer, Pool, Use},
};
use crate::{
    device::DeviceError,
    ops::rotary::QkvLayout,
    tensor::{DType, Result, Tensor, TensorError},
};

/// A GPU as one rank uses it. Clones share it; two devices are equal when they do.
#[derive(Clone)]
pub struct CudaDevice {
    inner: Arc<Inner>,
}

struct Inner {
    backend: Backend,
    pool: Pool,
}

impl CudaDevice {
    /// The GPU of that number, with the kernels loaded.
    ///
    /// # Errors
    /// [`DeviceError`] says what is missing: a driver, a GPU, a library.
    pub fn open(ordinal: usize) -> Result<Self, DeviceError> {
        Ok(Self::over(Backend::Gpu(Gpu::open(ordinal)?)))
    }

    pub(super) fn over(backend: Backend) -> Self {
        Self {
            inner: Arc::new(Inner {
                backend,
                pool: Pool::default(),
            }),
        }
    }

    pub(super) fn backend(&self) -> &Backend {
        &self.inner.backend
    }

    pub(super) fn pool(&self) -> &Pool {
        &self.inner.pool
    }

    pub(crate) fn zeros(&self, num_bytes: usize) -> Result<CudaBuffer> {
        let buffer = self.passing(num_bytes)?;
        // SAFETY: the buffer has that many bytes.
        unsafe { self.backend().clear(buffer.address(), num_bytes)? };
        Ok(buffer)
    }

    /// Memory that holds whatever it held.
    pub(crate) fn passing(&self, num_bytes: usize) -> Result<CudaBuffer> {
        CudaBuffer::take(self, num_bytes, Use::Passing)
    }

    pub(crate) fn upload(&self, bytes: &[u8]) -> Result<CudaBuffer> {
        let buffer = CudaBuffer::take(self, bytes.len(), Use::Kept)?;
        // SAFETY: the buffer has as many bytes.
        unsafe { self.backend().copy_in(buffer.address(), bytes)? };
        Ok(buffer)
    }

    /// As [`Self::upload`], of bytes that are made piece by piece: `fill` is given each piece's first byte and the piece to write. What
    /// is filled goes to the device while the next piece is being filled.
    pub(crate) fn upload_pieces(
        &self,
        num_bytes: usize,
        fill: &mut dyn FnMut(usize, &mut [u8]),
    ) -> Result<CudaBuffer> {
        let buffer = CudaBuffer::take(self, num_bytes, Use::Kept)?;
        for start in (0..num_bytes).step_by(PIECE) {
            let len = PIECE.min(num_bytes - start);
            let to = buffer.address() + start as u64;
            // SAFETY: the piece lies in the buffer.
            unsafe {
                self.backend()
                    .copy_piece_in(to, len, &mut |bytes| fill(start, bytes))?
            };
        }
        Ok(buffer)
    }

    pub(crate) fn download(
        &self,
        buffer: &CudaBuffer,
        start: usize,
        bytes: &mut [u8],
    ) -> Result<()> {
        assert!(start + bytes.len() <= buffer.len(), "inside the buffer");
        // SAFETY: just checked.
        unsafe {
            self.backend()
                .copy_out(buffer.address() + start as u64, bytes)
        }
    }

    pub(crate) fn copy_bytes(
        &self,
        from: &CudaBuffer,
        from_start: usize,
        to: &CudaBuffer,
        to_start: usize,
        len: usize,
    ) -> Result<()> {
        assert!(
            from_start + len <= from.len() && to_start + len <= to.len(),
            "inside the buffers"
        );
        let (from, to) = (
            from.address() + from_start as u64,
            to.address() + to_start as u64,
        );
        // SAFETY: just checked; callers copy between buffers, or between blocks of one.
        unsafe { self.backend().copy(from, to, len) }
    }

    pub(crate) fn decode_graphs(
        &self,
        layout: QkvLayout,
        num_blocks: usize,
        most_rows: usize,
    ) -> Result<DecodeGraphs> {
        DecodeGraphs::new(self, layout, num_blocks, most_rows)
    }

    /// Free bytes and all bytes of the GPU. What lies unused in the pool is given back first, so that it counts as free.
    pub(crate) fn memory(&self) -> Result<(usize, usize)> {
        self.pool().release_all(self.backend())?;
        self.backend().memory()
    }

    /// Bytes that this device holds of the GPU: what is in use, and what is kept for reuse.
    pub(crate) fn held_bytes(&self) -> usize {
        self.pool().held()
    }

    /// Makes calls of this thread that name no GPU mean this one.
    pub(crate) fn bind(&self) -> Result<()> {
        self.backend().bind()
    }

    /// What tells this GPU from any other, of any machine.
    pub(crate) fn identity(&self) -> Result<[u8; 16]> {
        self.backend().identity()
    }

    /// The stream, for libraries that put work on it.
    pub(crate) fn stream(&self) -> *mut c_void {
        self.backend().stream()
    }

    /// Waits until all ops so far are done.
    pub(crate) fn synchronize(&self) -> Result<()> {
        self.backend().synchronize()
    }
}

impl PartialEq for CudaDevice {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.inner, &other.inner)
    }
}

impl Eq for CudaDevice {}

impl fmt::Debug for CudaDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.backend().describe())
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // Nobody is left to tell; a process that ends gives everything back anyway.
        let _ = self.pool.release_all(&self.backend);
    }
}

/// Where a tensor's elements are on the device.
pub(super) fn address(tensor: &Tensor) -> Result<u64> {
    let (buffer, start) = tensor.cuda_buffer("address")?;
    Ok(buffer.address() + start as u64)
}

/// The same for a tensor that is written: its storage must not be shared.
pub(super) fn address_mut(tensor: &mut Tensor) -> Result<u64> {
    tensor.check_unshared("address_mut")?;
    address(tensor)
}

/// A kernel's name for a type.
pub(super) fn kernel(name: &str, dtype: DType) -> String {
    let suffix = match dtype {
        DType::F32 => "f32",
        DType::BF16 => "bf16",
        DType::F16 => "f16",
    };
    format!("{name}_{suffix}")
}

/// Checks that a tensor has the type that an op wants here.
pub(super) fn check_dtype(what: &'static str, tensor: &Tensor, wanted: DType) -> Result<()> {
    if tensor.dtype() == wanted {
        return Ok(());
    }
    let reason = format!("wanted a tensor of {wanted:?}, found {:?}", tensor.dtype());
    Err(TensorError::Unsupported { what, reason })
}

/// A grid of one dimension.
pub(super) fn line(num_blocks: usize, block: usize) -> Launch {
    Launch {
        grid: [num_blocks, 1, 1],
        block,
        shared: 0,
    }
}

/// Puts a kernel on the stream; arguments in the kernel's order and of its types (addresses u64, int i32, float f32).
macro_rules! launch {
    ($device:expr, $kernel:expr, $launch:expr, $($argument:expr),+ $(,)?) => {{
        let launch: $crate::ops::cuda::backend::Launch = $launch;
        if launch.grid.contains(&0) {
            // No rows: a launch of nothing is an error to the driver, and none to us.
            Ok(())
        } else {
            // SAFETY: each call below stands beside the shapes it was checked for.
            unsafe {
                $device.backend().launch(
                    &$kernel,
                    launch,
                    &[$($crate::ops::cuda::backend::Argument::from($argument)),+],
                )
            }
        }
    }};
}
pub(super) use launch;
