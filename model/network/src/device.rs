//! Where tensors live and who computes on them. A [`Device`] is cheap to clone; every tensor carries the one it lives on.
//! The CPU device owns a pool of threads of its own, so that each tensor-parallel rank of a process has its share of the
//! cores and ranks do not wait for each other's work.

use std::fmt;

use thiserror::Error;

pub use crate::ops::cuda::CudaDevice;
use crate::ops::parallel::ThreadPool;
pub use crate::ops::simd::InstructionSet;
use crate::tensor::DType;

/// A place where tensors live and ops run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Device {
    Cpu(CpuDevice),
    /// One GPU. There are none of these where the crate was built without the feature `cuda`.
    Cuda(CudaDevice),
}

/// Why a device cannot be had.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum DeviceError {
    #[error("this binary was built without CUDA; build it with `--features cuda`")]
    NotBuilt,
    #[error(
        "no NVIDIA driver on this machine: libcuda.so cannot be opened; install the driver (580 or later), or use `--device cpu`"
    )]
    NoDriver,
    #[error("GPU {ordinal} is wanted, this machine has {found}")]
    NoSuchGpu { ordinal: usize, found: usize },
    #[error(
        "{name} cannot be opened; install CUDA 13's libraries, or put the folder that holds it on LD_LIBRARY_PATH"
    )]
    NoLibrary { name: &'static str },
    #[error("{name} is of generation {}.{}, {}.{} or later is wanted", found.0, found.1, wanted.0, wanted.1)]
    TooOld {
        name: String,
        found: (i32, i32),
        wanted: (i32, i32),
    },
    #[error("cannot {what}: {reason}")]
    Driver { what: &'static str, reason: String },
}

impl Device {
    /// A CPU device with `num_threads` threads of its own (at least one: the thread that calls an op takes part).
    pub fn cpu(num_threads: usize) -> Self {
        Self::Cpu(CpuDevice::new(num_threads))
    }

    /// The GPU of that number, with a stream of its own.
    ///
    /// # Errors
    /// [`DeviceError`] says what is missing for it: the feature, a driver, a GPU, a library.
    pub fn cuda(ordinal: usize) -> Result<Self, DeviceError> {
        CudaDevice::open(ordinal).map(Self::Cuda)
    }

    /// The type of activations beside weights of that type: f32 on the CPU, that of the weights on a GPU.
    pub fn activation_dtype(&self, weights: DType) -> DType {
        match self {
            Self::Cpu(_) => DType::F32,
            Self::Cuda(_) => weights,
        }
    }

    /// Waits for what was started on the device: for clocks, which would else measure how fast work is asked for.
    pub fn synchronize(&self) -> crate::tensor::Result<()> {
        match self {
            Self::Cpu(_) => Ok(()),
            Self::Cuda(device) => device.synchronize(),
        }
    }

    /// Free bytes and all bytes of a GPU's memory; nothing for the CPU, whose memory is not this process's alone.
    pub fn memory(&self) -> crate::tensor::Result<Option<(usize, usize)>> {
        match self {
            Self::Cpu(_) => Ok(None),
            Self::Cuda(device) => device.memory().map(Some),
        }
    }
}

/// The CPU with a thread pool of its own. Clones share the pool; two devices are equal when they share it.
#[derive(Clone)]
pub struct CpuDevice {
    pool: ThreadPool,
    instruction_set: InstructionSet,
}

impl CpuDevice {
    pub fn new(num_threads: usize) -> Self {
        Self {
            pool: ThreadPool::new(num_threads.max(1)),
            instruction_set: InstructionSet::best(),
        }
    }

    /// The vector instructions that kernels on this device use.
    pub(crate) fn instruction_set(&self) -> InstructionSet {
        self.instruction_set
    }

    /// The same threads, with vector instructions of at most this set: for tests and benchmarks, which run every form.
    pub fn with_instruction_set(&self, at_most: InstructionSet) -> Self {
        Self {
            instruction_set: at_most.min(InstructionSet::best()),
            ..self.clone()
        }
    }

    /// How many threads work on one op, the calling one included.
    pub fn num_threads(&self) -> usize {
        self.pool.num_threads()
    }

    /// Runs `task(0), ..., task(num_tasks - 1)`, each once, on the threads of this device, and returns when all are done.
    /// Which thread runs which task is open, so a task's result must not depend on it. Calls from within a task run in
    /// place, on that thread. A panic in a task reaches the caller.
    pub fn parallel_for(&self, num_tasks: usize, task: impl Fn(usize) + Sync) {
        self.pool.parallel_for(num_tasks, &task);
    }

    /// Cuts `data` into pieces of `chunk_len` elements (the last may be shorter) and runs `task(index, piece)` for each,
    /// as [`Self::parallel_for`] does. With `chunk_len` a multiple of the row length the pieces are whole rows.
    pub fn parallel_chunks_mut<T: Send>(
        &self,
        data: &mut [T],
        chunk_len: usize,
        task: impl Fn(usize, &mut [T]) + Sync,
    ) {
        self.pool.parallel_chunks_mut(data, chunk_len, &task);
    }
}

impl PartialEq for CpuDevice {
    fn eq(&self, other: &Self) -> bool {
        self.pool.is_same(&other.pool)
    }
}

impl Eq for CpuDevice {}

impl fmt::Debug for CpuDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cpu with {} threads", self.num_threads())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gpu_that_is_not_there_is_told_of() {
        let text = Device::cuda(4096).unwrap_err().to_string();
        let causes = ["--features cuda", "driver", "GPU 4096", "libcublasLt"];
        assert!(causes.iter().any(|cause| text.contains(cause)), "{text}");
    }
}
