//! Why a request is sent away instead of being let wait.

use std::time::Duration;

/// Which bound a request would have passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ShedReason {
    /// As many wait as may.
    #[error("{limit} requests wait already, the limit is {limit}")]
    Requests { limit: usize },
    /// As many of this tenant wait as may.
    #[error("{limit} requests of this tenant wait already, the limit is {limit}")]
    TenantRequests { limit: usize },
    /// What waits would have too many tokens.
    #[error("the requests that wait would have more than {limit} tokens")]
    Tokens { limit: u64 },
    /// What waits of this tenant would have too many tokens.
    #[error("the requests of this tenant that wait would have more than {limit} tokens")]
    TenantTokens { limit: u64 },
    /// What waits would hold too much memory.
    #[error("the requests that wait would hold more than {limit} bytes")]
    Bytes { limit: u64 },
    /// It had to make room for one of a tenant that has fewer waiting.
    #[error("the queue is full and other tenants have fewer requests in it")]
    Displaced,
    /// Its turn did not come in time.
    #[error("the request waited {} s and its turn did not come", .limit.as_secs_f32())]
    WaitedTooLong { limit: Duration },
}

impl ShedReason {
    /// The stable name that clients branch on.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Requests { .. } | Self::Tokens { .. } | Self::Bytes { .. } => "TOO_MANY_REQUESTS",
            Self::TenantRequests { .. } | Self::TenantTokens { .. } | Self::Displaced => {
                "TENANT_QUEUE_FULL"
            }
            Self::WaitedTooLong { .. } => "QUEUED_TOO_LONG",
        }
    }

    /// The name in metrics: one for each bound.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Requests { .. } => "requests",
            Self::TenantRequests { .. } => "tenant_requests",
            Self::Tokens { .. } => "tokens",
            Self::TenantTokens { .. } => "tenant_tokens",
            Self::Bytes { .. } => "bytes",
            Self::Displaced => "displaced",
            Self::WaitedTooLong { .. } => "waited_too_long",
        }
    }
}
