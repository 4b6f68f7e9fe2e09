//! A worker's record and status, kept written.

use std::sync::Arc;

use async_trait::async_trait;
use etcd_client::{Compare, CompareOp, PutOptions, Txn, TxnOp};
use tokio::{
    sync::watch,
    time::{Duration, Instant, sleep_until},
};

use super::{
    pace::Complaints,
    record::{Record, transact},
    tenure::{Residence, Tenant, Tenure},
    thread::Thread,
};
use crate::{Announcement, NodeStatus, Phase, bounds};

/// Least time between two words about progress.
const PROGRESS_PAUSE: Duration = Duration::from_millis(500);
/// Least time between two words of any kind.
const SHORTEST_PAUSE: Duration = Duration::from_millis(20);
/// Wait after a word that was not written.
const RETRY: Duration = Duration::from_millis(300);

/// The announcement as its owner holds it.
pub(super) struct EtcdAnnouncement {
    pub(super) status: watch::Sender<Option<NodeStatus>>,
    /// None: what was announced cannot be written, and the log says why.
    pub(super) residence: Option<Residence>,
    /// What is seen of etcd tells whether the record is still there.
    pub(super) _follower: Arc<Thread>,
}

#[async_trait]
impl Announcement for EtcdAnnouncement {
    fn set_status(&self, status: NodeStatus) {
        self.status.send_replace(Some(status));
    }

    async fn withdraw(&self) {
        if let Some(residence) = &self.residence {
            residence.leave().await;
        }
    }
}

/// The announcement as it lives under a lease.
pub(super) struct Announced {
    pub(super) record: Record,
    pub(super) status_key: String,
    pub(super) status: watch::Receiver<Option<NodeStatus>>,
}

impl Tenant for Announced {
    async fn live(&mut self, tenure: Tenure) {
        loop {
            let first = self.status.borrow_and_update().clone();
            let with = || vec![status_op(&self.status_key, first.as_ref(), tenure.lease)];
            // One write for both: nobody sees the process without what it said, nor with what another of its name said.
            let revision = self.record.write(&tenure, with).await;
            tracing::info!(key = self.record.text_key, revision, "announced");
            tokio::select! {
                () = self.record.missing(&tenure, revision) => {}
                () = keep_told(self.status.clone(), first, &self.record.text_key, &self.status_key, &tenure) => {}
            }
            tracing::warn!(
                key = self.record.text_key,
                "the record is not in etcd any more"
            );
        }
    }
}

/// Writes what was said, or that nothing was.
fn status_op(key: &str, status: Option<&NodeStatus>, lease: i64) -> TxnOp {
    match status.and_then(encode) {
        Some(value) => put(key, value, lease),
        None => TxnOp::delete(key, None),
    }
}

/// Writes what is said, the last word at last.
async fn keep_told(
    mut status: watch::Receiver<Option<NodeStatus>>,
    mut told: Option<NodeStatus>,
    record_key: &str,
    status_key: &str,
    tenure: &Tenure,
) {
    let mut complaints = Complaints::default();
    let mut last = Instant::now();
    loop {
        let said = status.borrow_and_update().clone();
        if said == told {
            // The sender is dropped with the whole tenancy only.
            if status.changed().await.is_err() {
                return std::future::pending().await;
            }
            continue;
        }
        let pause = match is_step(told.as_ref(), said.as_ref()) {
            true => SHORTEST_PAUSE,
            false => PROGRESS_PAUSE,
        };
        if last.elapsed() < pause {
            // Something more important may be said meanwhile.
            tokio::select! {
                () = sleep_until(last + pause) => {}
                _ = status.changed() => {}
            }
            continue;
        }
        let Some(value) = said.as_ref().and_then(encode) else {
            told = said;
            continue;
        };
        // Only beside our own record.
        let is_ours = Compare::lease(record_key, CompareOp::Equal, tenure.lease);
        let txn = Txn::new()
            .when([is_ours])
            .and_then([put(status_key, value, tenure.lease)]);
        last = Instant::now();
        match transact(tenure, txn).await {
            // If it was not ours: that the record is missing will be seen.
            Ok(_) => {
                told = said;
                complaints.reset();
            }
            Err(failure) => {
                if complaints.is_news(&failure.text, Instant::now()) {
                    tracing::warn!(%failure, key = status_key, "the status was not written; trying again");
                }
                sleep_until(Instant::now() + RETRY).await;
            }
        }
    }
}

fn put(key: &str, value: Vec<u8>, lease: i64) -> TxnOp {
    TxnOp::put(key, value, Some(PutOptions::new().with_lease(lease)))
}

fn encode(status: &NodeStatus) -> Option<Vec<u8>> {
    bounds::encode("a status", status)
        .inspect_err(|error| tracing::error!(%error, "a status is not written"))
        .ok()
}

/// Whether something else changed than how much is loaded.
fn is_step(before: Option<&NodeStatus>, after: Option<&NodeStatus>) -> bool {
    let without_progress = |status: Option<&NodeStatus>| {
        let mut status = status.cloned()?;
        let language = status.language.as_mut().map(|part| &mut part.phase);
        let vision = status.vision.as_mut().map(|part| &mut part.phase);
        for phase in [language, vision].into_iter().flatten() {
            if let Phase::Loading {
                done_bytes,
                total_bytes,
            } = phase
            {
                (*done_bytes, *total_bytes) = (0, 0);
            }
        }
        Some(status)
    };
    without_progress(before) != without_progress(after)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Epoch, VisionStatus};

    #[test]
    fn only_how_much_is_loaded_can_wait() {
        let status = |phase| NodeStatus {
            vision: Some(VisionStatus {
                epoch: Epoch(1),
                phase,
            }),
            ..NodeStatus::default()
        };
        let loading = |done_bytes| {
            status(Phase::Loading {
                done_bytes,
                total_bytes: 9,
            })
        };
        assert!(!is_step(Some(&loading(1)), Some(&loading(2))));
        assert!(is_step(Some(&loading(1)), Some(&status(Phase::Ready))));
        assert!(is_step(None, Some(&loading(1))));
    }
}
