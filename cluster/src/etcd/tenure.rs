//! Life under a lease: takes one, keeps it, and takes another when it is lost. What is written under it is the tenant's.

use std::{
    future::Future,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use etcd_client::{Client, Error};
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{Instant, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    lease::Lease,
    link::{Failure, Link, timed},
    pace::{Backoff, Complaints},
    settings::EtcdSettings,
    thread::Thread,
};

/// What lives under a lease.
pub(super) trait Tenant: Send + 'static {
    /// Lives for as long as the lease does: dropped when it is lost, and called again with the next one.
    fn live(&mut self, tenure: Tenure) -> impl Future<Output = ()> + Send;
}

/// A lease that is kept by another task, and a connection that works as far as that task knows.
#[derive(Clone)]
pub(super) struct Tenure {
    pub(super) lease: i64,
    client: watch::Receiver<Client>,
    /// Until when the lease cannot have expired, by our clock.
    pub(super) good_until: watch::Receiver<Instant>,
    limit: Duration,
}

impl Tenure {
    /// Calls etcd.
    pub(super) async fn call<T, F>(&self, call: impl FnOnce(Client) -> F) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let client = self.client.borrow().clone();
        timed(self.limit, call(client)).await
    }
}

/// A tenant at work, from outside.
#[derive(Debug)]
pub(super) struct Residence {
    leave: CancellationToken,
    task: Mutex<JoinHandle<()>>,
    left: watch::Receiver<bool>,
    limit: Duration,
    /// The task's thread lives for as long as somebody needs it.
    _thread: Arc<Thread>,
}

impl Residence {
    /// Lets a tenant live.
    pub(super) fn start(
        thread: &Arc<Thread>,
        settings: &Arc<EtcdSettings>,
        tenant: impl Tenant,
    ) -> Self {
        let leave = CancellationToken::new();
        let (sender, left) = watch::channel(false);
        let task = {
            let (settings, leave) = (Arc::clone(settings), leave.clone());
            thread.spawn(async move {
                dwell(settings, tenant, leave).await;
                sender.send_replace(true);
            })
        };
        Self {
            leave,
            task: Mutex::new(task),
            left,
            limit: settings.request_timeout,
            _thread: Arc::clone(thread),
        }
    }

    /// Ends the tenant's life, and gives its lease back as far as etcd answers in time.
    pub(super) async fn leave(&self) {
        self.leave.cancel();
        let mut left = self.left.clone();
        // The task has a limit of its own for its last call.
        let _ = timeout(self.limit * 2, left.wait_for(|left| *left)).await;
    }
}

impl Drop for Residence {
    /// The lease is left to expire.
    fn drop(&mut self) {
        self.task
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .abort();
    }
}

async fn dwell(settings: Arc<EtcdSettings>, mut tenant: impl Tenant, leave: CancellationToken) {
    let mut link = Link::new(Arc::clone(&settings));
    let mut complaints = Complaints::default();
    loop {
        let moved_in = tokio::select! {
            biased;
            () = leave.cancelled() => return,
            moved_in = move_in(&mut link, &settings, &mut complaints) => moved_in,
        };
        let (lease, client) = moved_in;
        let id = lease.id;
        let (clients, client) = watch::channel(client);
        let (good_untils, good_until) = watch::channel(lease.good_until());
        let tenure = Tenure {
            lease: id,
            client: client.clone(),
            good_until,
            limit: lease.patience(&settings),
        };
        // The tenant's life is over at the end of this, before the lease is given back or another is taken.
        let is_leaving = tokio::select! {
            biased;
            () = leave.cancelled() => true,
            () = keep(lease, &mut link, &settings, clients, good_untils) => false,
            () = tenant.live(tenure) => true,
        };
        let mut client = client.borrow().clone();
        if is_leaving {
            if let Err(failure) = timed(settings.request_timeout, client.lease_revoke(id)).await {
                tracing::warn!(%failure, "a lease could not be given back; it expires");
            }
            return;
        }
        tracing::warn!("the lease in etcd was lost; taking a new one");
    }
}

/// Takes a lease, however long that takes.
async fn move_in(
    link: &mut Link,
    settings: &EtcdSettings,
    complaints: &mut Complaints,
) -> (Lease, Client) {
    let mut backoff = Backoff::new(settings.lease / 5);
    loop {
        let granted = async {
            let mut client = link.connect().await?;
            let lease = Lease::grant(&mut client, settings).await?;
            Ok::<_, Failure>((lease, client))
        };
        match granted.await {
            Ok(granted) => {
                complaints.reset();
                return granted;
            }
            Err(failure) => {
                if complaints.is_news(&failure.text, Instant::now()) {
                    tracing::warn!(%failure, "no lease from etcd yet");
                }
                backoff.wait().await;
            }
        }
    }
}

/// Renews a lease until etcd says that it is gone. Silence, however long, is no such word.
async fn keep(
    mut lease: Lease,
    link: &mut Link,
    settings: &EtcdSettings,
    clients: watch::Sender<Client>,
    good_untils: watch::Sender<Instant>,
) {
    let mut backoff = Backoff::new(settings.lease / 5);
    let mut complaints = Complaints::default();
    let mut client = clients.borrow().clone();
    sleep_until(lease.renew_at()).await;
    loop {
        match lease.renew(&mut client, settings).await {
            Ok(true) => {
                backoff.reset();
                complaints.reset();
                good_untils.send_replace(lease.good_until());
                sleep_until(lease.renew_at()).await;
            }
            Ok(false) => return,
            Err(failure) => {
                if complaints.is_news(&failure.text, Instant::now()) {
                    tracing::warn!(%failure, "the lease in etcd was not renewed; trying again");
                }
                backoff.wait().await;
                // Another member, or the same one again if there is no other.
                match link.connect().await {
                    Ok(connected) => {
                        client = connected;
                        clients.send_replace(client.clone());
                    }
                    Err(failure) => tracing::debug!(%failure, "no connection to renew the lease"),
                }
            }
        }
    }
}
