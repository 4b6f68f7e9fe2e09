//! How a group of ranks can fail, and how a member can be refused when the group forms.

use std::{io, time::Duration};

use thiserror::Error;

use crate::tensor::TensorError;

#[derive(Debug, Error)]
pub enum CollectiveError {
    /// Someone aborted the group, or an earlier call on it failed.
    #[error("the group was aborted: {reason}")]
    Aborted { reason: String },
    #[error("rank {rank} waited {waited:?} for ranks {missing:?}, the deadline is {deadline:?}")]
    DeadlineExceeded {
        rank: usize,
        missing: Vec<usize>,
        waited: Duration,
        deadline: Duration,
    },
    #[error("rank {rank} has {wanted} elements, rank {peer} sent {found}")]
    LengthMismatch {
        rank: usize,
        peer: usize,
        wanted: usize,
        found: usize,
    },
    #[error(
        "rank {rank} is in operation {wanted}, rank {peer} in {found}: the ranks run different plans"
    )]
    OutOfStep {
        rank: usize,
        peer: usize,
        wanted: String,
        found: String,
    },
    #[error("lost rank {peer}: {source}")]
    PeerLost { peer: usize, source: io::Error },
    #[error("rank {rank} could not join the group: {source}")]
    Handshake { rank: usize, source: HandshakeError },
    #[error(transparent)]
    Tensor(#[from] TensorError),
}

/// Why a member is not let into a group. Both ends of a refused connection get the same reason.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum HandshakeError {
    #[error("wanted protocol version {wanted}, found {found}")]
    ProtocolVersion { wanted: u32, found: u32 },
    #[error("the peer belongs to another group")]
    Group,
    #[error("wanted epoch {wanted}, found {found}")]
    Epoch { wanted: u64, found: u64 },
    #[error("wanted a world of {wanted} ranks, found {found}")]
    WorldSize { wanted: u32, found: u32 },
    #[error("rank {found} is taken or not one of the {world_size} ranks")]
    Rank { found: u32, world_size: u32 },
    #[error("the peer does not speak this protocol")]
    NotAMember,
    #[error("no connection within {deadline:?}, missing ranks {missing:?}{}", refused_note(.refused))]
    Deadline {
        deadline: Duration,
        missing: Vec<usize>,
        /// What the last member that was refused meanwhile had wrong.
        refused: Option<Box<HandshakeError>>,
    },
    #[error("{0}")]
    Io(String),
}

impl From<io::Error> for HandshakeError {
    fn from(error: io::Error) -> Self {
        Self::Io(error.to_string())
    }
}

fn refused_note(refused: &Option<Box<HandshakeError>>) -> String {
    refused
        .as_ref()
        .map(|reason| format!("; the last one refused: {reason}"))
        .unwrap_or_default()
}
