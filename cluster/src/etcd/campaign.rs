//! A coordinator's record, and its place in the election. Elected is whoever made the election's key; the fence is the revision at which
//! it came to be.

use std::sync::Arc;

use async_trait::async_trait;
use etcd_client::{Compare, CompareOp, PutOptions, Txn, TxnOp};
use tokio::{
    sync::watch,
    time::{Duration, Instant, sleep, sleep_until, timeout},
};

use super::{
    keys::Key,
    pace::{Backoff, Complaints},
    record::{Found, Record, transact},
    tenure::{Residence, Tenant, Tenure},
    thread::Thread,
    view::Snapshot,
};
use crate::{Candidacy, Fence, Revision};

/// Whether somebody is elected is asked again after this time, even when nothing was heard.
const ASK_AGAIN: Duration = Duration::from_secs(2);

/// The candidacy as its owner holds it.
pub(super) struct EtcdCandidacy {
    pub(super) fence: watch::Receiver<Option<Fence>>,
    /// None: the record cannot be written, and the log says why.
    pub(super) residence: Option<Residence>,
    /// What is seen of etcd tells whether the election is over.
    pub(super) _follower: Arc<Thread>,
}

#[async_trait]
impl Candidacy for EtcdCandidacy {
    fn fence(&self) -> watch::Receiver<Option<Fence>> {
        self.fence.clone()
    }

    async fn resign(&self) {
        if let Some(residence) = &self.residence {
            residence.leave().await;
        }
    }
}

/// The candidacy as it lives under a lease.
pub(super) struct Candidate {
    pub(super) record: Record,
    pub(super) election: Election,
}

impl Tenant for Candidate {
    async fn live(&mut self, tenure: Tenure) {
        let Self { record, election } = self;
        let present = async {
            loop {
                let revision = record.write(&tenure, Vec::new).await;
                record.missing(&tenure, revision).await;
            }
        };
        tokio::join!(present, election.stand(&tenure));
    }
}

/// Stands for election.
pub(super) struct Election {
    pub(super) key: String,
    /// Our name, as it is written.
    pub(super) value: Vec<u8>,
    pub(super) fence: watch::Sender<Option<Fence>>,
    pub(super) snapshot: watch::Receiver<Arc<Snapshot>>,
}

/// While this lives, we are elected; it ends with whatever ends the lease.
struct Elected<'a> {
    fence: &'a watch::Sender<Option<Fence>>,
}

impl Drop for Elected<'_> {
    fn drop(&mut self) {
        self.fence.send_if_modified(|fence| fence.take().is_some());
    }
}

impl Election {
    /// Never ends.
    async fn stand(&self, tenure: &Tenure) {
        let mut backoff = Backoff::new(Duration::from_secs(1));
        let mut complaints = Complaints::default();
        loop {
            match self.attempt(tenure).await {
                Ok(found) if found.lease == tenure.lease => {
                    self.serve(tenure, found.created).await;
                }
                Ok(found) => self.until_gone(found.created).await,
                Err(failure) => {
                    if complaints.is_news(&failure.text, Instant::now()) {
                        tracing::warn!(%failure, "could not stand for election; trying again");
                    }
                    backoff.wait().await;
                    continue;
                }
            }
            backoff.reset();
            complaints.reset();
            // However often elections are lost: etcd is not asked without end.
            backoff.wait().await;
        }
    }

    /// Makes the election's key if there is none; whose it is is returned. An attempt that was made before and not answered is found
    /// as our own.
    async fn attempt(&self, tenure: &Tenure) -> Result<Found, super::link::Failure> {
        let lease = PutOptions::new().with_lease(tenure.lease);
        let put = TxnOp::put(self.key.clone(), self.value.clone(), Some(lease));
        let is_absent = Compare::create_revision(self.key.clone(), CompareOp::Equal, 0);
        let get = TxnOp::get(self.key.clone(), None);
        let txn = Txn::new().when([is_absent]).and_then([put]).or_else([get]);
        let answer = transact(tenure, txn).await?;
        Ok(answer.found.unwrap_or(Found {
            value: self.value.clone(),
            created: answer.revision,
            modified: answer.revision,
            lease: tenure.lease,
        }))
    }

    /// Is elected, for as long as nobody else can be: by our clock, whether or not etcd answers.
    async fn serve(&self, tenure: &Tenure, created: i64) {
        let mut good_until = tenure.good_until.clone();
        let mut snapshot = self.snapshot.clone();
        let elected = Elected { fence: &self.fence };
        tracing::info!(fence = created, "elected to place");
        loop {
            let until = *good_until.borrow_and_update();
            if until <= Instant::now() {
                tracing::warn!("etcd did not renew the lease in time; not placing any more");
                drop(elected);
                // If the lease was not lost after all, the key is still ours: another attempt tells.
                if good_until.changed().await.is_err() {
                    std::future::pending().await
                }
                return;
            }
            let fence = Some(Fence(Revision(created)));
            self.fence.send_if_modified(|current| {
                let is_new = *current != fence;
                *current = fence;
                is_new
            });
            let is_over = |snapshot: &Arc<Snapshot>| is_over(snapshot, created);
            tokio::select! {
                () = sleep_until(until) => {}
                changed = good_until.changed() => if changed.is_err() {
                    // Whoever renews has ended, and so will this.
                    sleep_until(until).await;
                },
                over = async { snapshot.wait_for(is_over).await.is_ok() } => {
                    if over {
                        tracing::warn!("another election was held; not placing any more");
                        return;
                    }
                    sleep_until(until).await;
                }
            }
        }
    }

    /// Waits until the election that came to be at this revision is over, or long enough to ask.
    async fn until_gone(&self, created: i64) {
        let mut snapshot = self.snapshot.clone();
        let gone = snapshot.wait_for(|snapshot| is_over(snapshot, created));
        let follower_ended = timeout(ASK_AGAIN, gone)
            .await
            .is_ok_and(|gone| gone.is_err());
        if follower_ended {
            sleep(ASK_AGAIN).await;
        }
    }
}

/// Whether the election that came to be at this revision is known to be over.
fn is_over(snapshot: &Snapshot, created: i64) -> bool {
    snapshot.is_lost(&Key::Placer, created, |owner| owner.created == created)
}
