//! From names to addresses.

use std::{
    io,
    net::{IpAddr, ToSocketAddrs},
    sync::Arc,
};

use async_trait::async_trait;
use tokio::sync::Semaphore;

/// Tells a name's addresses. It is asked once for each connection, and only what it said then is connected to: a name that leads
/// elsewhere a moment later gains nothing.
#[async_trait]
pub(super) trait Resolver: Send + Sync + 'static {
    /// The addresses of a host, best first. Callers bound the time.
    async fn resolve(&self, host: &str) -> io::Result<Vec<IpAddr>>;
}

/// Asks as other programs of this machine do: its hosts file, its name servers.
#[derive(Debug)]
pub(super) struct SystemResolver {
    /// The system's resolver blocks a thread and cannot be told to stop.
    permits: Arc<Semaphore>,
}

/// Threads that wait for name servers. Slow names of strangers must not take all threads that this process has for blocking work.
const MAX_LOOKUPS: usize = 32;

impl Default for SystemResolver {
    fn default() -> Self {
        Self {
            permits: Arc::new(Semaphore::new(MAX_LOOKUPS)),
        }
    }
}

#[async_trait]
impl Resolver for SystemResolver {
    async fn resolve(&self, host: &str) -> io::Result<Vec<IpAddr>> {
        let permit = self.permits.clone().acquire_owned().await;
        let permit = permit.map_err(io::Error::other)?;
        let host = host.to_owned();
        let lookup = tokio::task::spawn_blocking(move || {
            let found = (host.as_str(), 0).to_socket_addrs();
            // Held until the thread is free, even where nobody waits for it any more.
            drop(permit);
            Ok(found?.map(|address| address.ip()).collect())
        });
        lookup.await.map_err(io::Error::other)?
    }
}
