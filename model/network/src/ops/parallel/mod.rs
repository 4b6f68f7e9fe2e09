//! The thread pool behind a CPU device: runs numbered tasks on a fixed set of threads.

use std::sync::Arc;

use rayon::prelude::*;

/// A fixed set of threads; clones share them.
#[derive(Clone)]
pub(crate) struct ThreadPool {
    num_threads: usize,
    workers: Option<Arc<rayon::ThreadPool>>,
}

impl ThreadPool {
    pub(crate) fn new(num_threads: usize) -> Self {
        let build = || {
            rayon::ThreadPoolBuilder::new()
                .num_threads(num_threads)
                .build()
                .expect("the operating system gives threads")
        };
        Self {
            num_threads,
            workers: (num_threads > 1).then(|| Arc::new(build())),
        }
    }

    pub(crate) fn num_threads(&self) -> usize {
        self.num_threads
    }

    pub(crate) fn is_same(&self, other: &Self) -> bool {
        match (&self.workers, &other.workers) {
            (Some(a), Some(b)) => Arc::ptr_eq(a, b),
            (None, None) => true,
            _ => false,
        }
    }

    pub(crate) fn parallel_for(&self, num_tasks: usize, task: &(impl Fn(usize) + Sync)) {
        match &self.workers {
            Some(pool) => pool.install(|| (0..num_tasks).into_par_iter().for_each(task)),
            None => (0..num_tasks).for_each(task),
        }
    }

    pub(crate) fn parallel_chunks_mut<T: Send>(
        &self,
        data: &mut [T],
        chunk_len: usize,
        task: &(impl Fn(usize, &mut [T]) + Sync),
    ) {
        let chunk_len = chunk_len.max(1);
        match &self.workers {
            Some(pool) => {
                pool.install(|| {
                    data.par_chunks_mut(chunk_len)
                        .enumerate()
                        .for_each(|(i, piece)| task(i, piece))
                });
            }
            None => data
                .chunks_mut(chunk_len)
                .enumerate()
                .for_each(|(i, piece)| task(i, piece)),
        }
    }
}
