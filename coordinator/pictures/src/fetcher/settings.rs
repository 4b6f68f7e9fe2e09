//! How much a fetched picture may cost.

use std::time::Duration;

use super::allow::PrivateHost;

/// Limits of a [`GuardedFetcher`](super::GuardedFetcher).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FetchSettings {
    /// Of the body. The default, 20 MiB, is what vision workers take.
    pub max_bytes: usize,
    /// Width times height. The default, 40 megapixels, is what vision workers take.
    pub max_pixels: u64,
    /// Of status line and header fields; less than 8 KiB counts as 8 KiB, which is what servers send without thinking of it.
    pub max_head_bytes: usize,
    pub max_redirects: usize,
    /// For the name's addresses, the connection and TLS together, at each stop of a chain of redirects.
    pub connect_timeout: Duration,
    /// For the head of an answer, and for each further piece of its body.
    pub idle_timeout: Duration,
    /// For all of it: redirects, and the wait for a free place.
    pub total_timeout: Duration,
    /// Pictures on their way at the same time; the others wait. Each may hold up to twice `max_bytes` in memory.
    pub max_concurrent: usize,
    /// Hosts of one's own, whose addresses need not be public.
    pub allowed: Vec<PrivateHost>,
}

impl Default for FetchSettings {
    fn default() -> Self {
        Self {
            max_bytes: 20 << 20,
            max_pixels: 40_000_000,
            max_head_bytes: 32 << 10,
            max_redirects: 5,
            connect_timeout: Duration::from_secs(5),
            idle_timeout: Duration::from_secs(10),
            total_timeout: Duration::from_secs(30),
            max_concurrent: 16,
            allowed: Vec::new(),
        }
    }
}
