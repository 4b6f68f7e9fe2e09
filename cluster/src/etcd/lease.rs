//! A lease of our own, kept alive by the time that is left of it.

use std::time::Duration;

use etcd_client::{Client, Error, LeaseKeepAliveStream, LeaseKeeper};
use tokio::time::Instant;

use super::{
    link::{Failure, timed},
    settings::EtcdSettings,
};

/// A lease, as far as we know.
pub(super) struct Lease {
    pub(super) id: i64,
    ttl: Duration,
    /// When the last call that was answered was sent: etcd counts from then on, or from later.
    renewed: Instant,
    stream: Option<(LeaseKeeper, LeaseKeepAliveStream)>,
}

impl Lease {
    /// A new one.
    pub(super) async fn grant(
        client: &mut Client,
        settings: &EtcdSettings,
    ) -> Result<Self, Failure> {
        // Whole seconds, and not less than was wanted.
        let seconds = settings.lease.as_millis().div_ceil(1000);
        let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
        let renewed = Instant::now();
        let granted = timed(settings.request_timeout, client.lease_grant(seconds, None)).await?;
        Ok(Self {
            id: granted.id(),
            ttl: Duration::from_secs(granted.ttl().unsigned_abs()),
            renewed,
            stream: None,
        })
    }

    /// When it is to be renewed.
    pub(super) fn renew_at(&self) -> Instant {
        self.renewed + self.ttl / 3
    }

    /// Until when nobody else can take it for expired, by our clock. With a margin: two clocks do not run alike, and a timer may be late.
    pub(super) fn good_until(&self) -> Instant {
        self.renewed + self.ttl - (self.ttl / 10).max(Duration::from_millis(200))
    }

    /// Longest time that a renewal may take, so that there is time for another try.
    pub(super) fn patience(&self, settings: &EtcdSettings) -> Duration {
        settings.request_timeout.min(self.ttl / 3)
    }

    /// Renews it; whether it still was there.
    pub(super) async fn renew(
        &mut self,
        client: &mut Client,
        settings: &EtcdSettings,
    ) -> Result<bool, Failure> {
        let sent = Instant::now();
        let limit = self.patience(settings);
        // A stream that did not answer is not used again: a late answer to one question must not pass for one to another.
        let stream = self.stream.take();
        let (stream, is_alive) = match timed(limit, ask(client, self.id, stream)).await {
            Ok(answer) => answer,
            // So the client tells that its first question was answered with a time of zero.
            Err(failure) if failure.text.contains("lease not found") => return Ok(false),
            Err(failure) => return Err(failure),
        };
        self.stream = Some(stream);
        if is_alive {
            self.renewed = sent;
        }
        Ok(is_alive)
    }
}

type Stream = (LeaseKeeper, LeaseKeepAliveStream);

async fn ask(
    client: &mut Client,
    lease: i64,
    stream: Option<Stream>,
) -> Result<(Stream, bool), Error> {
    let Some((mut keeper, mut answers)) = stream else {
        // Asks once by itself, and fails where there is no such lease.
        return Ok((client.lease_keep_alive(lease).await?, true));
    };
    keeper.keep_alive().await?;
    match answers.message().await? {
        // A lost lease is no error to etcd: the stream goes on, and says zero for ever.
        Some(answer) => Ok(((keeper, answers), answer.ttl() > 0)),
        None => Err(Error::LeaseKeepAliveError("etcd ended the stream".into())),
    }
}
