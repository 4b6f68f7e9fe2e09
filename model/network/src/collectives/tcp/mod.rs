//! Ranks that are processes, on one machine or several, joined by a socket between each two. [`rendezvous`] forms the group,
//! [`exchange`] moves frames to and from all peers at once; here are the sums and gathers made of such exchanges.

mod exchange;
mod rendezvous;

use std::{
    net::{Shutdown, TcpListener, TcpStream, ToSocketAddrs},
    ops::Range,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use self::exchange::Exchange;
use super::{Collective, CollectiveError, Operation, Result, add_assign};
use crate::tensor::Tensor;

/// Above this many elements a group of more than two sums in pieces: each rank sums one piece and shares it, which moves
/// `2 (n - 1) / n` of the data per rank instead of `n - 1` times all of it, for one more round trip.
const MIN_ELEMENTS_IN_PIECES: usize = 16 * 1024;

/// Who a process is in the group that it joins. All members must agree on all fields but the rank.
#[derive(Clone, Debug)]
pub struct TcpMember {
    /// Name of the group; members of other groups are refused.
    pub group: String,
    /// Which forming of the group this is; members of other epochs are refused.
    pub epoch: u64,
    pub rank: usize,
    pub world_size: usize,
    /// How long to wait for the group to be complete.
    pub join_deadline: Duration,
    /// How long one call may wait for the others.
    pub deadline: Duration,
}

/// One rank's end of a group of processes. Dropping it closes its sockets, which fails the group for the others.
pub struct TcpCollective {
    rank: usize,
    deadline: Duration,
    /// The socket to each other rank; none at this rank's own place.
    peers: Vec<Option<TcpStream>>,
    is_aborted: AtomicBool,
    /// By rank: whether a call waits for it, or failed by it.
    awaited: Vec<AtomicBool>,
    state: Mutex<State>,
}

/// What one call leaves for the next.
#[derive(Default)]
struct State {
    sequence: u32,
    /// What came from each peer; kept so that its memory is used again.
    inbox: Vec<Vec<f32>>,
}

impl TcpCollective {
    /// Forms a group as its rank 0: waits at `listener` for all other members and tells each where the others are.
    pub fn lead(listener: &TcpListener, member: &TcpMember) -> Result<Self> {
        Self::new(member, rendezvous::lead(listener, member))
    }

    /// Joins the group whose rank 0 listens at `leader`. It may begin to listen later than this call.
    pub fn join(leader: impl ToSocketAddrs, member: &TcpMember) -> Result<Self> {
        Self::new(member, rendezvous::join(leader, member))
    }

    fn new(
        member: &TcpMember,
        peers: Result<Vec<Option<TcpStream>>, super::HandshakeError>,
    ) -> Result<Self> {
        let peers = peers.map_err(|source| CollectiveError::Handshake {
            rank: member.rank,
            source,
        })?;
        Ok(Self {
            rank: member.rank,
            deadline: member.deadline,
            is_aborted: AtomicBool::new(false),
            awaited: peers.iter().map(|_| AtomicBool::new(false)).collect(),
            state: Mutex::new(State {
                sequence: 0,
                inbox: vec![Vec::new(); peers.len()],
            }),
            peers,
        })
    }

    /// Sends `outbox(peer)` to every peer and fills the inbox with what they send. `wanted(peer)` is how much is expected.
    fn exchange<'a>(
        &self,
        state: &mut State,
        operation: Operation,
        outbox: impl Fn(usize) -> &'a [f32],
        wanted: impl Fn(usize) -> Option<usize>,
    ) -> Result<()> {
        state.sequence = state.sequence.wrapping_add(1);
        let mut exchange = Exchange::new(self.rank, operation, state.sequence);
        for (peer, (socket, inbox)) in self.peers.iter().zip(&mut state.inbox).enumerate() {
            if let Some(socket) = socket {
                let named = (peer, &self.awaited[peer]);
                exchange.add(named, socket, outbox(peer), inbox, wanted(peer));
            }
        }
        let outcome = exchange.run(self.deadline, &self.is_aborted);
        if let Err(error) = &outcome {
            self.blame(error);
            self.abort();
        }
        outcome
    }

    /// Of those that a call waited for, an error may name one.
    fn blame(&self, error: &CollectiveError) {
        match error {
            CollectiveError::PeerLost { peer, .. }
            | CollectiveError::OutOfStep { peer, .. }
            | CollectiveError::LengthMismatch { peer, .. } => {
                for (rank, is_awaited) in self.awaited.iter().enumerate() {
                    is_awaited.store(rank == *peer, Ordering::Relaxed);
                }
            }
            CollectiveError::Aborted { .. }
            | CollectiveError::DeadlineExceeded { .. }
            | CollectiveError::Handshake { .. }
            | CollectiveError::Tensor(_) => {}
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Everyone gets everything and sums for itself.
    fn sum_whole(&self, state: &mut State, values: &mut [f32]) -> Result<()> {
        let len = values.len();
        self.exchange(state, Operation::AllReduce, |_| values, |_| Some(len))?;
        self.sum_in_rank_order(state, values);
        Ok(())
    }

    /// Rank `r` sums piece `r` for all.
    fn sum_in_pieces(&self, state: &mut State, values: &mut [f32]) -> Result<()> {
        let pieces: Vec<_> = (0..self.world_size())
            .map(|rank| piece(values.len(), self.world_size(), rank))
            .collect();
        let mine = pieces[self.rank].clone();
        let outbox = |peer: usize| &values[pieces[peer].clone()];
        self.exchange(state, Operation::AllReduce, outbox, |_| Some(mine.len()))?;
        self.sum_in_rank_order(state, &mut values[mine.clone()]);

        let outbox = |_| &values[mine.clone()];
        let wanted = |peer: usize| Some(pieces[peer].len());
        self.exchange(state, Operation::SharePieces, outbox, wanted)?;
        for (peer, range) in pieces.into_iter().enumerate() {
            if peer != self.rank {
                values[range].copy_from_slice(&state.inbox[peer]);
            }
        }
        Ok(())
    }

    /// Adds what the peers sent to this rank's `values`, from rank 0 up, so that every rank gets the same bits.
    fn sum_in_rank_order(&self, state: &mut State, values: &mut [f32]) {
        state.inbox[self.rank].clear();
        state.inbox[self.rank].extend_from_slice(values);
        values.copy_from_slice(&state.inbox[0]);
        for part in &state.inbox[1..] {
            add_assign(values, part);
        }
    }
}

impl Collective for TcpCollective {
    fn rank(&self) -> usize {
        self.rank
    }

    fn world_size(&self) -> usize {
        self.peers.len()
    }

    fn all_reduce_sum(&self, tensor: &mut Tensor) -> Result<()> {
        tensor.change_f32(|values| {
            let mut state = self.lock();
            if self.world_size() > 2 && values.len() >= MIN_ELEMENTS_IN_PIECES {
                self.sum_in_pieces(&mut state, values)
            } else {
                self.sum_whole(&mut state, values)
            }
        })
    }

    fn all_gather(&self, mine: &[f32]) -> Result<Vec<Vec<f32>>> {
        let mut state = self.lock();
        self.exchange(&mut state, Operation::AllGather, |_| mine, |_| None)?;
        let part = |rank: usize| match rank == self.rank {
            true => mine.to_vec(),
            false => state.inbox[rank].clone(),
        };
        Ok((0..self.world_size()).map(part).collect())
    }

    fn barrier(&self) -> Result<()> {
        self.exchange(&mut self.lock(), Operation::Barrier, |_| &[], |_| Some(0))
    }

    fn awaited(&self) -> Vec<usize> {
        let awaited = self.awaited.iter().enumerate();
        awaited
            .filter(|(_, is_awaited)| is_awaited.load(Ordering::Relaxed))
            .map(|(rank, _)| rank)
            .collect()
    }

    fn abort(&self) {
        self.is_aborted.store(true, Ordering::SeqCst);
        for peer in self.peers.iter().flatten() {
            // A socket that is closed already is as aborted as it can be.
            let _ = peer.shutdown(Shutdown::Both);
        }
    }
}

/// Piece `index` of `len` elements cut into `count` pieces of nearly the same length.
fn piece(len: usize, count: usize, index: usize) -> Range<usize> {
    len * index / count..len * (index + 1) / count
}
