//! Memory of a device, kept for reuse: taking it from the driver costs more than most kernels, and stops graphs from being captured.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard},
};

use super::backend::Backend;
use super::device::CudaDevice;
use crate::tensor::Result;

/// Bytes on a device. Given back to its pool when dropped; whatever still reads them was put on the stream before, and whoever gets
/// them next comes after.
pub struct CudaBuffer {
    address: u64,
    len: usize,
    /// What was taken for it.
    class: usize,
    device: CudaDevice,
    /// Where it goes back to, if not to the pool.
    arena: Option<Arc<Arena>>,
}

impl CudaBuffer {
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn address(&self) -> u64 {
        self.address
    }

    pub(super) fn device(&self) -> &CudaDevice {
        &self.device
    }

    pub(super) fn take(device: &CudaDevice, len: usize, use_of: Use) -> Result<Self> {
        match device.pool().arena() {
            Some(arena) if use_of == Use::Passing => arena.take(device, len),
            _ => Self::fresh(device, len, use_of),
        }
    }

    fn fresh(device: &CudaDevice, len: usize, use_of: Use) -> Result<Self> {
        let class = size_class(len, use_of);
        Ok(Self {
            address: device.pool().take(device.backend(), class)?,
            len,
            class,
            device: device.clone(),
            arena: None,
        })
    }
}

impl Drop for CudaBuffer {
    fn drop(&mut self) {
        match self.arena.take() {
            Some(arena) => arena.free().push(Self {
                address: self.address,
                len: self.class,
                class: self.class,
                device: self.device.clone(),
                arena: None,
            }),
            None => self.device.pool().give_back(self.class, self.address),
        }
    }
}

impl fmt::Debug for CudaBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes on {:?}", self.len, self.device)
    }
}

/// Memory that recorded work uses each time it is replayed: nobody else is given it, and it goes back to the pool with the arena.
/// Recordings that are never replayed side by side share one.
#[derive(Default)]
pub(super) struct Arena {
    free: Mutex<Vec<CudaBuffer>>,
}

impl Arena {
    /// The smallest buffer that is large enough.
    fn take(self: &Arc<Self>, device: &CudaDevice, len: usize) -> Result<CudaBuffer> {
        let mut free = self.free();
        let fitting = free.iter().enumerate().filter(|(_, free)| free.len >= len);
        let smallest = fitting.min_by_key(|(_, free)| free.len).map(|(at, _)| at);
        let mut buffer = match smallest {
            Some(at) => free.swap_remove(at),
            None => CudaBuffer::fresh(device, len, Use::Passing)?,
        };
        buffer.len = len;
        buffer.arena = Some(Arc::clone(self));
        Ok(buffer)
    }

    fn free(&self) -> MutexGuard<'_, Vec<CudaBuffer>> {
        self.free.lock().unwrap_or_else(|e| e.into_inner())
    }
}

/// What memory is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Use {
    /// Stays: takes what it needs and no more.
    Kept,
    /// Comes and goes in many sizes: rounded up, so that sizes meet again.
    Passing,
}

/// Free memory by size.
#[derive(Default)]
pub(super) struct Pool {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    free: HashMap<usize, Vec<u64>>,
    /// Bytes taken from the driver: what is in use and what is free here.
    held: usize,
    /// Where passing memory comes from while work is recorded.
    arena: Option<Arc<Arena>>,
}

impl Pool {
    fn take(&self, backend: &Backend, class: usize) -> Result<u64> {
        let mut state = self.state();
        if let Some(address) = state.free.get_mut(&class).and_then(Vec::pop) {
            return Ok(address);
        }
        let address = backend.allocate(class).or_else(|_| {
            // What lies unused in other sizes may be enough.
            state.release(backend)?;
            backend.allocate(class)
        })?;
        state.held += class;
        Ok(address)
    }

    fn give_back(&self, class: usize, address: u64) {
        self.state().free.entry(class).or_default().push(address);
    }

    /// Lets `work` have its passing memory from the arena.
    pub(super) fn within<T>(&self, arena: &Arc<Arena>, work: impl FnOnce() -> T) -> T {
        self.state().arena = Some(Arc::clone(arena));
        let done = work();
        self.state().arena = None;
        done
    }

    fn arena(&self) -> Option<Arc<Arena>> {
        self.state().arena.clone()
    }

    /// Gives everything that is free back to the driver.
    pub(super) fn release_all(&self, backend: &Backend) -> Result<()> {
        self.state().release(backend)
    }

    /// Bytes taken from the driver.
    pub(super) fn held(&self) -> usize {
        self.state().held
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }
}

impl State {
    fn release(&mut self, backend: &Backend) -> Result<()> {
        backend.synchronize()?;
        for (class, addresses) in self.free.drain() {
            self.held -= class * addresses.len();
            for address in addresses {
                backend.release(address);
            }
        }
        Ok(())
    }
}

/// The size that is taken for `len` bytes: multiples of 512, and from 4 KiB on at most an eighth more than is needed.
fn size_class(len: usize, use_of: Use) -> usize {
    const GRAIN: usize = 512;
    let len = len.max(1).next_multiple_of(GRAIN);
    match use_of {
        Use::Kept => len,
        Use::Passing => len.next_multiple_of((len.next_power_of_two() / 16).max(GRAIN)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_meet_again_and_waste_little() {
        assert_eq!(size_class(0, Use::Passing), 512);
        assert_eq!(size_class(513, Use::Kept), 1024);
        for len in [1, 5000, 65_537, 1_000_000, 33_554_433, 1_234_567_890] {
            let class = size_class(len, Use::Passing);
            assert!(
                class >= len && class <= len + len / 8 + 512,
                "{len}: {class}"
            );
            assert_eq!(size_class(class, Use::Passing), class);
        }
    }
}
