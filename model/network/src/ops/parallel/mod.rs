//! The thread pool behind a CPU device: runs numbered tasks on a fixed set of threads. It is made for many short calls (a
//! decode step makes hundreds): a call wakes threads that still spin from the last one, takes part in the work itself,
//! and waits only for threads that hold a task, never for one that sleeps.
#![expect(
    unsafe_code,
    reason = "tasks borrow from the caller, who waits for them; pieces of a slice go to other threads"
)]

mod pool;
#[cfg(test)]
mod tests;

pub(crate) use pool::ThreadPool;

impl ThreadPool {
    /// Cuts `data` into pieces of `chunk_len` elements (the last may be shorter) and runs `task(index, piece)` for each.
    pub(crate) fn parallel_chunks_mut<T: Send>(
        &self,
        data: &mut [T],
        chunk_len: usize,
        task: &(impl Fn(usize, &mut [T]) + Sync),
    ) {
        let chunk_len = chunk_len.max(1);
        let len = data.len();
        let start = SharedPointer(data.as_mut_ptr());
        self.parallel_for(len.div_ceil(chunk_len), &|index| {
            let first = index * chunk_len;
            // SAFETY: each index is run once and its piece lies in `data`, which this call borrows for as long as tasks
            // run; the pieces of different indices do not overlap.
            let piece = unsafe {
                std::slice::from_raw_parts_mut(start.get().add(first), chunk_len.min(len - first))
            };
            task(index, piece);
        });
    }
}

/// A pointer that tasks may take to other threads. Whoever writes through it sees to it that tasks touch disjoint places.
pub(crate) struct SharedPointer<T>(pub(crate) *mut T);

impl<T> SharedPointer<T> {
    pub(crate) fn get(&self) -> *mut T {
        self.0
    }
}

// SAFETY: sharing the address is harmless; every access through it is an unsafe block with a reason of its own.
unsafe impl<T: Send> Send for SharedPointer<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for SharedPointer<T> {}
