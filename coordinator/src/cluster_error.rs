//! Why what was asked about the cluster cannot be done. Which status a reason becomes is decided in `api::error`, as for requests.

use std::time::Duration;

/// Why what was asked about the cluster cannot be done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ClusterError {
    /// The members are a fixed list.
    #[error(
        "the members of this coordinator are a fixed list; to change the cluster while it runs, start coordinators and workers with \
         --registry"
    )]
    NoRegistry,
    /// There is no node of this name.
    #[error("there is no node `{wanted}`, there are: {}", list(.known))]
    NodeNotFound { wanted: String, known: Vec<String> },
    /// Something else is wanted than the caller knew.
    #[error("what is wanted was changed meanwhile: read it again, then decide anew")]
    DeploymentChanged,
    /// Nothing can be written.
    #[error("{message}; the cluster serves on as it is, try again later")]
    RegistryAway {
        message: String,
        retry_after: Duration,
    },
    /// As many watches as allowed are open.
    #[error("{limit} watches are open, the limit is {limit}")]
    TooManyWatches { limit: usize, retry_after: Duration },
}

impl ClusterError {
    /// The stable name of the reason.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::NoRegistry => "NO_REGISTRY",
            Self::NodeNotFound { .. } => "NODE_NOT_FOUND",
            Self::DeploymentChanged => "DEPLOYMENT_CHANGED",
            Self::RegistryAway { .. } => "REGISTRY_UNAVAILABLE",
            Self::TooManyWatches { .. } => "TOO_MANY_WATCHES",
        }
    }
}

fn list(names: &[String]) -> String {
    match names {
        [] => "none".into(),
        names => names.join(", "),
    }
}
