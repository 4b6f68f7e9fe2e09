//! A thread with a runtime of its own: what runs on it is not held up by what the process computes elsewhere.

use std::{future::Future, io, sync::mpsc, thread};

use tokio::{
    runtime::{Builder, Handle},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

/// Runs tasks until it is dropped; then they end where they stand.
#[derive(Debug)]
pub(super) struct Thread {
    runtime: Handle,
    stop: CancellationToken,
}

impl Thread {
    pub(super) fn start(name: &str) -> io::Result<Self> {
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let (sender, receiver) = mpsc::channel();
        thread::Builder::new().name(name.into()).spawn(move || {
            let runtime = Builder::new_current_thread().enable_all().build();
            match runtime {
                Ok(runtime) => {
                    let _ = sender.send(Ok(runtime.handle().clone()));
                    runtime.block_on(stopped.cancelled());
                }
                Err(error) => {
                    let _ = sender.send(Err(error));
                }
            }
        })?;
        let ended = |_| Err(io::Error::other("the thread ended at its start"));
        let runtime = receiver.recv().unwrap_or_else(ended)?;
        Ok(Self { runtime, stop })
    }

    /// Runs a task on this thread.
    pub(super) fn spawn<F>(&self, task: F) -> JoinHandle<F::Output>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        self.runtime.spawn(task)
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}
