//! Writes that are made once, on demand: assignments, what is wanted, who is to be relieved, NCCL ids.

use std::{future::Future, sync::Arc, time::Duration};

use bytes::Bytes;
use etcd_client::{Client, Compare, CompareOp, PutOptions, Txn, TxnOp, TxnOpResponse};
use tokio::time::{Instant, timeout_at};

use super::{
    follow::Outlets,
    keys::{Key, Keys},
    link::{Failure, timed},
};
use crate::{Change, Epoch, Fence, GroupId, NodeId, RegistryError, Revision, bounds};

/// An NCCL id is of use while the ranks of a life meet, and goes by itself.
const NCCL_ID_SECONDS: i64 = 600;

/// Writes one cluster's keys.
#[derive(Clone)]
pub(super) struct Writer {
    pub(super) keys: Keys,
    pub(super) outlets: Arc<Outlets>,
    pub(super) limit: Duration,
}

/// What a transaction did.
struct Outcome {
    revision: i64,
    /// None: it was done. Else the revisions at which the keys that were asked for came to be and were written, zero where
    /// they are not there.
    refused: Option<Vec<(i64, i64)>>,
}

impl Writer {
    pub(super) async fn assign(
        &self,
        fence: Fence,
        changes: Vec<Change>,
    ) -> Result<Revision, RegistryError> {
        bounds::check_changes(&changes)?;
        let placer = self.keys.text(&Key::Placer);
        let mut compares = vec![Compare::create_revision(
            placer.clone(),
            CompareOp::Equal,
            fence.0.0,
        )];
        let mut ops = Vec::new();
        let mut gets = vec![TxnOp::get(placer, None)];
        let mut expectations = Vec::new();
        for change in &changes {
            let (key, value, expected) = match change {
                Change::PutGroup {
                    group,
                    assignment,
                    expected,
                } => {
                    let value = bounds::encode("a group's assignment", assignment)?;
                    let expected = expected.unwrap_or(Epoch(0));
                    (
                        Key::Group(group.clone()),
                        Some(value),
                        Some((group, expected)),
                    )
                }
                Change::RemoveGroup { group, expected } => {
                    (Key::Group(group.clone()), None, Some((group, *expected)))
                }
                Change::PutVision { node } => {
                    (Key::Vision(node.clone()), Some(b"{}".to_vec()), None)
                }
                Change::RemoveVision { node } => (Key::Vision(node.clone()), None, None),
            };
            let key = self.keys.text(&key);
            if let Some((group, expected)) = expected {
                let modified = i64::try_from(expected.0).unwrap_or(i64::MAX);
                let compare = Compare::mod_revision(key.clone(), CompareOp::Equal, modified);
                compares.push(compare);
                gets.push(TxnOp::get(key.clone(), None));
                expectations.push((group, modified));
            }
            ops.push(match value {
                Some(value) => TxnOp::put(key, value, None),
                None => TxnOp::delete(key, None),
            });
        }
        let outcome = self.transact(compares, ops, gets).await?;
        let Some(found) = outcome.refused else {
            return Ok(Revision(outcome.revision));
        };
        let mut found = found.into_iter();
        if found.next().is_none_or(|(created, _)| created != fence.0.0) {
            return Err(RegistryError::Fenced);
        }
        for ((group, expected), (_, modified)) in expectations.into_iter().zip(found) {
            if expected != modified {
                let text = |epoch: i64| match epoch {
                    0 => "none".to_owned(),
                    epoch => epoch.to_string(),
                };
                return Err(RegistryError::Conflict(format!(
                    "group `{group}` was expected in epoch {}, found {}",
                    text(expected),
                    text(modified)
                )));
            }
        }
        Err(RegistryError::Conflict("it changed meanwhile".into()))
    }

    pub(super) async fn set_deployment(
        &self,
        value: Vec<u8>,
        expected: Option<Revision>,
    ) -> Result<Revision, RegistryError> {
        let key = self.keys.text(&Key::Deployment);
        let compare =
            |expected: Revision| Compare::mod_revision(key.clone(), CompareOp::Equal, expected.0);
        let compares = expected.map(compare).into_iter().collect();
        let put = TxnOp::put(key.clone(), value, None);
        let outcome = self.transact(compares, vec![put], Vec::new()).await?;
        match outcome.refused {
            None => Ok(Revision(outcome.revision)),
            Some(_) => Err(RegistryError::Conflict(
                "what is wanted was changed meanwhile".into(),
            )),
        }
    }

    pub(super) async fn set_draining(
        &self,
        node: NodeId,
        draining: bool,
    ) -> Result<(), RegistryError> {
        let key = self.keys.text(&Key::Draining(node));
        let op = match draining {
            true => TxnOp::put(key, "{}", None),
            false => TxnOp::delete(key, None),
        };
        self.transact(Vec::new(), vec![op], Vec::new()).await?;
        Ok(())
    }

    pub(super) async fn publish_nccl_id(
        &self,
        group: GroupId,
        epoch: Epoch,
        id: Bytes,
    ) -> Result<(), RegistryError> {
        let key = self.keys.text(&Key::NcclId(group.clone(), epoch));
        let group_key = self.keys.text(&Key::Group(group.clone()));
        let modified = i64::try_from(epoch.0).unwrap_or(i64::MAX);
        let is_current = Compare::mod_revision(group_key, CompareOp::Equal, modified);
        let lease = self
            .call(async |mut client| client.lease_grant(NCCL_ID_SECONDS, None).await)
            .await?;
        let options = PutOptions::new().with_lease(lease.id());
        let put = TxnOp::put(key, id.to_vec(), Some(options));
        let outcome = self
            .transact(vec![is_current], vec![put], Vec::new())
            .await?;
        match outcome.refused {
            None => Ok(()),
            Some(_) => Err(RegistryError::Conflict(format!(
                "group `{group}` is not in epoch {epoch}"
            ))),
        }
    }

    pub(super) async fn nccl_id(
        &self,
        group: GroupId,
        epoch: Epoch,
    ) -> Result<Bytes, RegistryError> {
        let mut snapshot = self.outlets.snapshot.subscribe();
        let key = (group, epoch);
        let published = snapshot.wait_for(|snapshot| snapshot.nccl_ids.contains_key(&key));
        let found = match timeout_at(Instant::now() + self.limit, published).await {
            Ok(Ok(snapshot)) => snapshot.nccl_ids.get(&key).cloned(),
            _ => None,
        };
        found.ok_or_else(|| {
            RegistryError::Unavailable(format!(
                "nobody published the NCCL id of group `{}` in epoch {} within {:?}",
                key.0, key.1, self.limit
            ))
        })
    }

    /// Calls etcd over the connection that is followed, once there is one.
    async fn call<T, F>(&self, call: impl FnOnce(Client) -> F) -> Result<T, RegistryError>
    where
        F: Future<Output = Result<T, etcd_client::Error>>,
    {
        let until = Instant::now() + self.limit;
        let mut clients = self.outlets.client.subscribe();
        let client = match timeout_at(until, clients.wait_for(Option::is_some)).await {
            Ok(Ok(client)) => client.clone(),
            _ => None,
        };
        let away = || Failure::new(format!("no connection to etcd within {:?}", self.limit));
        let client = client.ok_or_else(away)?;
        Ok(timed(until - Instant::now(), call(client)).await?)
    }

    /// Does `ops` if all of `compares` hold, and else asks for `gets`. What was done is in the state that is shown when this
    /// returns, as far as etcd still answers.
    async fn transact(
        &self,
        compares: Vec<Compare>,
        ops: Vec<TxnOp>,
        gets: Vec<TxnOp>,
    ) -> Result<Outcome, RegistryError> {
        let until = Instant::now() + self.limit;
        let txn = Txn::new().when(compares).and_then(ops).or_else(gets);
        let answer = self.call(async |mut client| client.txn(txn).await).await?;
        let revision = answer.header().map_or(0, |header| header.revision());
        let responses = answer.op_responses();
        if !answer.succeeded() {
            let found = responses.iter().map(|response| match response {
                TxnOpResponse::Get(get) => get
                    .kvs()
                    .first()
                    .map_or((0, 0), |kv| (kv.create_revision(), kv.mod_revision())),
                _ => (0, 0),
            });
            return Ok(Outcome {
                revision,
                refused: Some(found.collect()),
            });
        }
        let wrote = responses.iter().any(|response| match response {
            TxnOpResponse::Put(_) => true,
            TxnOpResponse::Delete(delete) => delete.deleted() > 0,
            _ => false,
        });
        if wrote {
            let mut state = self.outlets.state.subscribe();
            let shown = state.wait_for(|state| state.revision.0 >= revision);
            // It was done, seen or not.
            let _ = timeout_at(until, shown).await;
        }
        Ok(Outcome {
            revision,
            refused: None,
        })
    }
}
