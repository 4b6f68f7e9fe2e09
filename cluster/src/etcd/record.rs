//! A process's own record, written under its lease: put there, seen to be there still, and put back.

use std::sync::Arc;

use etcd_client::{Client, Compare, CompareOp, Error, PutOptions, Txn, TxnOp, TxnOpResponse};
use serde_json::Value;
use tokio::{
    sync::watch,
    time::{Duration, Instant, sleep},
};

use super::{
    keys::{Key, Keys},
    link::Failure,
    pace::{Backoff, Complaints},
    tenure::Tenure,
    view::Snapshot,
};

/// How often a name that another process took is asked for again.
const TAKEN_PAUSE: Duration = Duration::from_secs(2);
/// Least time between two writes of a record, whoever deletes it.
const MISSING_PAUSE: Duration = Duration::from_millis(200);

/// A record, and how its process is told from others of its name.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) key: Key,
    pub(super) text_key: String,
    pub(super) value: Vec<u8>,
    pub(super) incarnation: String,
    pub(super) snapshot: watch::Receiver<Arc<Snapshot>>,
    /// The registry's revision before the first attempt to write it: another process's record of this name that was written later is
    /// of a newer process. An attempt whose answer was lost may have been the one that wrote ours, so what we were told does not tell.
    since: Option<i64>,
    complaints: Complaints,
}

/// What came of an attempt to write a record.
enum Attempt {
    /// Written, at this revision.
    Written(i64),
    /// Another process of the name is there.
    Taken,
}

impl Record {
    pub(super) fn new(
        key: Key,
        keys: &Keys,
        value: Vec<u8>,
        incarnation: String,
        snapshot: watch::Receiver<Arc<Snapshot>>,
    ) -> Self {
        Self {
            text_key: keys.text(&key),
            key,
            value,
            incarnation,
            snapshot,
            since: None,
            complaints: Complaints::default(),
        }
    }

    /// Writes the record, with what goes with it, however long it takes. The revision is returned.
    pub(super) async fn write(&mut self, tenure: &Tenure, with: impl Fn() -> Vec<TxnOp>) -> i64 {
        let mut backoff = Backoff::new(Duration::from_secs(1));
        loop {
            match self.attempt(tenure, with()).await {
                Ok(Attempt::Written(revision)) => {
                    self.complaints.reset();
                    return revision;
                }
                Ok(Attempt::Taken) => {
                    if self.complaints.is_news("taken", Instant::now()) {
                        tracing::warn!(
                            key = self.text_key,
                            "another process took this one's name; staying out of its way"
                        );
                    }
                    sleep(TAKEN_PAUSE).await;
                }
                Err(failure) => {
                    if self.complaints.is_news(&failure.text, Instant::now()) {
                        tracing::warn!(%failure, key = self.text_key, "the record was not written; trying again");
                    }
                    backoff.wait().await;
                }
            }
        }
    }

    /// Waits until etcd shows that the record of this revision is there no more.
    pub(super) async fn missing(&self, tenure: &Tenure, revision: i64) {
        let is_missing = |snapshot: &Arc<Snapshot>| {
            snapshot.is_lost(&self.key, revision, |owner| owner.lease == tenure.lease)
        };
        let mut snapshot = self.snapshot.clone();
        if snapshot.wait_for(is_missing).await.is_err() {
            // Nobody follows any more: the process is about to end.
            std::future::pending().await
        }
        sleep(MISSING_PAUSE).await;
    }

    async fn attempt(&mut self, tenure: &Tenure, with: Vec<TxnOp>) -> Result<Attempt, Failure> {
        let get = TxnOp::get(self.text_key.clone(), None);
        let before = transact(tenure, Txn::new().and_then([get])).await?;
        let since = *self.since.get_or_insert(before.revision);
        let is_unchanged = match before.found {
            None => Compare::create_revision(self.text_key.clone(), CompareOp::Equal, 0),
            Some(found) if found.modified > since && !self.is_own(&found) => {
                return Ok(Attempt::Taken);
            }
            // Our own, under a lease that is lost or about to be, or that of an older process, which is replaced.
            Some(found) => {
                Compare::mod_revision(self.text_key.clone(), CompareOp::Equal, found.modified)
            }
        };
        let lease = PutOptions::new().with_lease(tenure.lease);
        let put = TxnOp::put(self.text_key.clone(), self.value.clone(), Some(lease));
        let ops: Vec<_> = std::iter::once(put).chain(with).collect();
        let written = transact(tenure, Txn::new().when([is_unchanged]).and_then(ops)).await?;
        if written.succeeded {
            Ok(Attempt::Written(written.revision))
        } else {
            Err(Failure::new("the record was changed meanwhile"))
        }
    }

    fn is_own(&self, found: &Found) -> bool {
        incarnation(&found.value).as_deref() == Some(&self.incarnation)
    }
}

/// What a transaction said.
pub(super) struct Answer {
    pub(super) succeeded: bool,
    pub(super) revision: i64,
    /// The first key that was asked for, where it is there.
    pub(super) found: Option<Found>,
}

pub(super) struct Found {
    pub(super) value: Vec<u8>,
    pub(super) created: i64,
    pub(super) modified: i64,
    pub(super) lease: i64,
}

pub(super) async fn transact(tenure: &Tenure, txn: Txn) -> Result<Answer, Failure> {
    let call = async |mut client: Client| -> Result<_, Error> { client.txn(txn).await };
    let answer = tenure.call(call).await?;
    let found = answer.op_responses().into_iter().find_map(|op| match op {
        TxnOpResponse::Get(get) => get.kvs().first().map(|kv| Found {
            value: kv.value().to_vec(),
            created: kv.create_revision(),
            modified: kv.mod_revision(),
            lease: kv.lease(),
        }),
        _ => None,
    });
    Ok(Answer {
        succeeded: answer.succeeded(),
        revision: answer.header().map_or(0, |header| header.revision()),
        found,
    })
}

/// Which process wrote a record, whatever else it holds.
fn incarnation(record: &[u8]) -> Option<String> {
    let record: Value = serde_json::from_slice(record).ok()?;
    Some(record.get("incarnation")?.as_str()?.to_owned())
}
