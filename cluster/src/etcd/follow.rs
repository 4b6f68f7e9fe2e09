//! Follows what is written in etcd: a listing, then a watch from the revision after it. Whatever ends a watch (compaction, the member
//! that served it, the network) is answered with another listing, of which the difference to what is known is shown.

use std::{convert::Infallible, sync::Arc, time::Duration};

use etcd_client::{
    Client, EventType, GetOptions, KeyValue, WatchOptions, WatchResponse, WatchResponseStream,
};
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until},
};

use super::{
    keys::Keys,
    link::{Failure, Link, timed},
    pace::{Backoff, Complaints},
    settings::EtcdSettings,
    view::{Snapshot, View, Written},
};
use crate::ClusterState;

/// Keys that are asked for at once.
const PAGE: i64 = 500;
/// Most keys of a cluster; more are no cluster of ours.
const MAX_KEYS: usize = 50_000;
/// Longest wait between attempts.
const LONGEST_WAIT: Duration = Duration::from_secs(1);
/// A watch is not trusted for ever: so often all is listed anew.
const RELIST: Duration = Duration::from_secs(60);
/// What is at least between two listings.
const LISTING_PAUSE: Duration = Duration::from_millis(50);

/// Where others read what is known. The sending halves are the follower's.
pub(super) struct Outlets {
    pub(super) state: watch::Sender<Arc<ClusterState>>,
    pub(super) snapshot: watch::Sender<Arc<Snapshot>>,
    pub(super) connected: watch::Sender<bool>,
    /// A connection that answered, for those who write.
    pub(super) client: watch::Sender<Option<Client>>,
}

/// Follows one cluster.
pub(super) struct Follower {
    settings: Arc<EtcdSettings>,
    link: Link,
    keys: Keys,
    view: View,
    outlets: Arc<Outlets>,
    /// Until then, processes whose leases ended are still shown: etcd was away, and they may not have been able to renew.
    hold_until: Option<Instant>,
}

/// Why a watch is begun anew on the same connection.
enum WatchEnd {
    Cancelled(String),
    Relist,
}

impl Follower {
    pub(super) fn new(settings: Arc<EtcdSettings>, keys: Keys, outlets: Arc<Outlets>) -> Self {
        Self {
            link: Link::new(Arc::clone(&settings)),
            settings,
            view: View::new(keys.clone()),
            keys,
            outlets,
            hold_until: None,
        }
    }

    /// Follows until it is dropped.
    pub(super) async fn run(mut self) -> Infallible {
        let mut backoff = Backoff::new(LONGEST_WAIT);
        let mut complaints = Complaints::default();
        loop {
            let Err(failure) = self.connection(&mut backoff, &mut complaints).await;
            self.outlets.connected.send_replace(false);
            self.outlets.client.send_replace(None);
            self.outlets
                .snapshot
                .send_modify(|snapshot| Arc::make_mut(snapshot).is_live = false);
            if complaints.is_news(&failure.text, Instant::now()) {
                tracing::warn!(%failure, "etcd does not answer; going on with what is known");
            }
            backoff.wait().await;
        }
    }

    /// Follows over one connection, to its end.
    async fn connection(
        &mut self,
        backoff: &mut Backoff,
        complaints: &mut Complaints,
    ) -> Result<Infallible, Failure> {
        let mut client = self.link.connect().await?;
        if self.view.revision() > 0 {
            self.hold();
        }
        self.list(&mut client).await?;
        self.outlets.client.send_replace(Some(client.clone()));
        self.outlets.connected.send_replace(true);
        tracing::info!(revision = self.view.revision(), "following etcd");
        backoff.reset();
        complaints.reset();
        loop {
            if let WatchEnd::Cancelled(reason) = self.watch(&mut client).await? {
                tracing::info!(reason, "etcd ended a watch; listing anew");
            }
            sleep(LISTING_PAUSE).await;
            self.list(&mut client).await?;
        }
    }

    /// From now on for a while, shows processes that etcd took away.
    fn hold(&mut self) {
        // Whoever lost a lease takes a new one within the time of a lease, and has to connect for it.
        let patience = self.settings.lease + LONGEST_WAIT;
        self.hold_until = Some(Instant::now() + patience);
    }

    fn show(&self) {
        let snapshot = Snapshot {
            is_live: true,
            ..self.view.snapshot()
        };
        self.outlets.state.send_replace(Arc::clone(&snapshot.state));
        self.outlets.snapshot.send_replace(Arc::new(snapshot));
    }

    /// Reads all keys, of one revision.
    async fn list(&mut self, client: &mut Client) -> Result<(), Failure> {
        let end = self.keys.end();
        let mut from = self.keys.prefix().as_bytes().to_vec();
        let mut listing: Vec<KeyValue> = Vec::new();
        let mut revision = None;
        loop {
            let mut options = GetOptions::new().with_range(end.clone()).with_limit(PAGE);
            if let Some(revision) = revision {
                options = options.with_revision(revision);
            }
            let limit = self.settings.request_timeout;
            let mut page = timed(limit, client.get(from, Some(options))).await?;
            let found = page.header().map_or(0, |header| header.revision());
            revision.get_or_insert(found);
            listing.append(&mut page.take_kvs());
            if listing.len() > MAX_KEYS {
                return Err(Failure::new(format!(
                    "a cluster has at most {MAX_KEYS} keys, found more below {}",
                    self.keys.prefix()
                )));
            }
            match listing.last() {
                Some(last) if page.more() => from = [last.key(), b"\0"].concat(),
                _ => break,
            }
        }
        let revision = revision.unwrap_or_default();
        let known = self.view.revision();
        if revision < known {
            // Epochs would go back, and workers would refuse what is new as old.
            return Err(Failure::new(format!(
                "etcd is at revision {revision}, and was at {known} before: its data was replaced by older; \
                restore it with a bumped revision, or restart all processes of this cluster"
            )));
        }
        let listing = listing.iter().map(Written::from);
        self.view.list(listing, revision, self.hold_until.is_some());
        self.show();
        Ok(())
    }

    /// Watches from what is known on.
    async fn watch(&mut self, client: &mut Client) -> Result<WatchEnd, Failure> {
        let options = WatchOptions::new()
            .with_range(self.keys.end())
            .with_start_revision(self.view.revision() + 1)
            .with_progress_notify();
        let call = client.watch(self.keys.prefix(), Some(options));
        let stream = timed(self.settings.request_timeout, call).await?;
        // The watch ends with the sender.
        let (_sender, mut messages) = stream.split();
        let relist = sleep(RELIST);
        let beat = beat(client.clone(), &self.keys, &self.settings);
        tokio::pin!(relist, beat);
        loop {
            let released = async {
                match self.hold_until {
                    Some(until) => sleep_until(until).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                message = next(&mut messages) => {
                    let message = message?;
                    // Such a message has no revision to go on from.
                    if message.canceled() {
                        return Ok(WatchEnd::Cancelled(reason(&message)));
                    }
                    self.take(&message);
                }
                took = &mut beat => {
                    if took? > self.settings.lease / 3 {
                        self.hold();
                    }
                    beat.set(self::beat(client.clone(), &self.keys, &self.settings));
                }
                () = released => {
                    self.hold_until = None;
                    if self.view.release() {
                        self.show();
                    }
                }
                () = &mut relist => return Ok(WatchEnd::Relist),
            }
        }
    }

    fn take(&mut self, message: &WatchResponse) {
        let hold = self.hold_until.is_some();
        for event in message.events() {
            let Some(written) = event.kv().map(Written::from) else {
                continue;
            };
            match event.event_type() {
                EventType::Put => {
                    self.view.put(&written);
                }
                EventType::Delete => self.view.delete(written.key, hold),
            }
            self.view.advance(written.modified);
        }
        let is_progress = message.events().is_empty() && !message.created();
        if let (true, Some(header)) = (is_progress, message.header()) {
            self.view.advance(header.revision());
        }
        if !message.created() {
            self.show();
        }
    }
}

async fn next(messages: &mut WatchResponseStream) -> Result<WatchResponse, Failure> {
    let ended = || Failure::new("etcd ended the stream of changes");
    messages.message().await?.ok_or_else(ended)
}

fn reason(message: &WatchResponse) -> String {
    match (message.compact_revision(), message.cancel_reason()) {
        (0, "") => "no reason given".into(),
        (0, reason) => reason.into(),
        (revision, _) => format!("compacted up to revision {revision}"),
    }
}

/// Waits, and then asks whether the member still answers. A watch that says nothing does not tell. The time that it took is returned.
fn beat(
    mut client: Client,
    keys: &Keys,
    settings: &EtcdSettings,
) -> impl Future<Output = Result<Duration, Failure>> + use<> {
    let key = keys.prefix().to_owned();
    // So that no lease can end of a silence that is not noticed.
    let (pause, limit) = (
        settings.lease / 5,
        settings.request_timeout.min(settings.lease / 2),
    );
    async move {
        sleep(pause).await;
        let asked = Instant::now();
        let options = GetOptions::new().with_count_only();
        timed(limit, client.get(key, Some(options))).await?;
        Ok(asked.elapsed())
    }
}

impl<'a> From<&'a KeyValue> for Written<'a> {
    fn from(kv: &'a KeyValue) -> Self {
        Self {
            key: kv.key(),
            value: kv.value(),
            created: kv.create_revision(),
            modified: kv.mod_revision(),
            lease: kv.lease(),
        }
    }
}
