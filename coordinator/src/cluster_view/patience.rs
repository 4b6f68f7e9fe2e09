//! How long, and for what, a request waits for a worker that takes it.

use std::{sync::Arc, time::Duration};

use inkstone_cluster::Members;
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

use crate::worker_client::WorkerError;

/// Between the first two rounds; doubled from round to round. A member that comes is tried at once.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// How long a request waits for a worker.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    until: Instant,
    /// It was running: a worker that is full will have room for it, as it comes first there.
    is_move: bool,
    pause: Duration,
}

impl Patience {
    /// Of a request that did not run yet. Where all are full it does not wait: whoever sent it is told when to come again.
    pub(crate) fn of_new(until: Instant) -> Self {
        Self {
            until,
            is_move: false,
            pause: FIRST_PAUSE,
        }
    }

    /// Of a request that was running.
    pub(crate) fn of_moved(until: Instant) -> Self {
        Self {
            is_move: true,
            ..Self::of_new(until)
        }
    }

    /// Whether waiting may help.
    pub(super) fn bears(&self, error: &WorkerError) -> bool {
        match error {
            WorkerError::Busy { .. } => self.is_move,
            error => error.is_about_this_worker(),
        }
    }

    /// Waits for the members to change, or for a moment, and says whether there was time left to wait.
    pub(super) async fn wait(&mut self, changes: &mut watch::Receiver<Arc<Members>>) -> bool {
        let now = Instant::now();
        if now >= self.until {
            return false;
        }
        // Requests that lost the same group do not come back in step.
        let pause = self.pause.mul_f64(0.5 + rand::random::<f64>());
        let again = (now + pause).min(self.until);
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        let changed = async {
            if changes.changed().await.is_err() {
                // The list is the last one.
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            () = changed => {}
            () = sleep_until(again) => {}
        }
        true
    }
}
