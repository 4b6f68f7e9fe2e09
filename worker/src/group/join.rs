//! How processes become one group, the leader's side. A rank loads its shard, then calls the leader and says who it is; when all are
//! there the leader welcomes them, everyone meets in the TCP collective, and plans flow. Either side going away, or silent for too
//! long, ends the group. The rank's side is in `joined`, the call itself in `service/group`.

use std::{
    net::TcpListener,
    sync::{Arc, Mutex, OnceLock},
    time::{Duration, Instant},
};

use inkstone_cluster::Epoch;
use inkstone_model::{
    collectives::{Collective, NcclIds, TcpCollective, TcpMember, between_devices},
    device::Device,
};
use inkstone_proto::worker::v1::{
    GroupEnded, JoinResponse, LeaderAlive, RankHello, Welcome, join_response::Message,
};
use thiserror::Error;
use tokio::sync::{mpsc, watch};
use tonic::Status;

use super::{
    life::{Breakage, GroupLife},
    plan_stream,
    rank::RankCommand,
};
use crate::{
    config::Deadlines,
    executor::{ExecutorError, PeerRank, RANK_QUEUE, RankFailures},
};

/// Features of HD pictures reach tens of MB.
pub const MAX_MESSAGE_BYTES: usize = 256 << 20;
/// Between two signs of life, either way.
pub(crate) const HEARTBEAT: Duration = Duration::from_millis(250);
/// Once the group broke, how long to wait for ranks to say why before anybody is suspected.
const CAUSE_GRACE: Duration = Duration::from_millis(100);

/// A group that did not form.
#[derive(Debug, Error)]
pub enum JoinError {
    /// Not all ranks came.
    #[error("ranks {missing:?} did not join in time")]
    Missing {
        /// Who is not there.
        missing: Vec<usize>,
    },
    /// A rank came and failed.
    #[error("rank {rank} failed: {reason}")]
    RankFailed {
        /// The rank.
        rank: usize,
        /// What it said, or what became of its connection.
        reason: String,
    },
}

/// What the leader expects of a rank that joins.
#[derive(Clone, Debug)]
pub struct GroupTerms {
    /// The life that ranks must name; none: ranks take whichever the leader is in.
    pub life: Option<GroupLife>,
    /// Ranks of the group.
    pub world_size: usize,
    /// BLAKE3 of the checkpoint's config and tensor table.
    pub checkpoint_fingerprint: [u8; 32],
    /// Weight type.
    pub dtype: String,
    /// A rank that gives no sign of life for so long is lost.
    pub silence: Duration,
}

/// Takes ranks in as they come, for one life of a group. Cheap to clone.
#[derive(Clone)]
pub struct JoinDesk {
    terms: Arc<GroupTerms>,
    seats: Arc<Mutex<Vec<Option<Seat>>>>,
    changed: Arc<watch::Sender<u64>>,
    /// Who runs steps, once the group stands.
    failures: Arc<OnceLock<RankFailures>>,
}

/// Messages on their way to a rank.
pub(crate) type RankMessages = mpsc::Sender<Result<JoinResponse, Status>>;

struct Seat {
    messages: RankMessages,
    state: SeatState,
    heard: Instant,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum SeatState {
    Joined,
    Ready,
    /// It said so.
    Failed(String),
    /// It went away or is silent.
    Lost(String),
}

impl JoinDesk {
    /// Nobody is there yet.
    pub fn new(terms: GroupTerms) -> Self {
        let seats = (1..terms.world_size).map(|_| None).collect();
        Self {
            terms: Arc::new(terms),
            seats: Arc::new(Mutex::new(seats)),
            changed: Arc::new(watch::channel(0).0),
            failures: Arc::new(OnceLock::new()),
        }
    }

    /// How long a rank may be silent.
    pub(crate) fn silence(&self) -> Duration {
        self.terms.silence
    }

    /// Waits until all ranks have joined, welcomes them, and waits until all stand in the collective. `form` makes rank 0's
    /// end of it meanwhile. From then on the end of a rank is told to `failures`. `patience` is how long all may take to join: it
    /// ends when that is over.
    pub async fn assemble<C: Send + 'static>(
        &self,
        welcome: Welcome,
        (patience, meeting): (impl Future<Output = ()>, Duration),
        failures: RankFailures,
        form: impl FnOnce() -> Result<C, String> + Send + 'static,
    ) -> Result<(C, Vec<Box<dyn PeerRank>>), JoinError> {
        self.wait_until(patience, |seat| seat.is_some()).await?;
        let epoch = welcome.epoch;
        self.send_to_all(&Message::Welcome(welcome));
        let own = tokio::select! {
            own = tokio::task::spawn_blocking(form) => own.unwrap_or_else(|error| Err(error.to_string())),
            // Rank 0 would wait for it.
            reason = self.failure() => Err(reason),
        };
        // A rank that went away is the better reason for rank 0's failure.
        self.first_failure().map_or(Ok(()), Err)?;
        let own = own.map_err(|reason| JoinError::RankFailed { rank: 0, reason })?;
        self.wait_until(tokio::time::sleep(meeting), |seat| {
            seat.is_some_and(|seat| seat.state == SeatState::Ready)
        })
        .await?;
        let _ = self.failures.set(failures);
        match self.first_failure() {
            // It left before anybody was there to be told.
            Some(error) => Err(error),
            None => Ok((own, self.take_peers(epoch))),
        }
    }

    /// Waits until a rank fails, leaves or is silent for too long, and says which and why.
    pub async fn failure(&self) -> String {
        let mut changed = self.changed.subscribe();
        loop {
            if let Some(error) = self.first_failure() {
                return error.to_string();
            }
            let _ = changed.changed().await;
        }
    }

    /// The group broke: who is to blame, as far as it can be told in a moment. Ranks that are gone come before those that the leader's
    /// own rank suspects, and these before ranks that say they failed, since they fail when others go.
    pub async fn suspects(&self, broke: Breakage) -> Breakage {
        tokio::time::sleep(CAUSE_GRACE).await;
        let late = (self.terms.silence / 2).max(2 * HEARTBEAT);
        let (mut lost, mut failed) = (Vec::new(), Vec::new());
        for (at, seat) in self.seats().iter().enumerate() {
            match seat {
                None => lost.push(at + 1),
                Some(seat) => match seat.state {
                    SeatState::Lost(_) => lost.push(at + 1),
                    _ if seat.heard.elapsed() > late => lost.push(at + 1),
                    SeatState::Failed(_) => failed.push(at + 1),
                    SeatState::Joined | SeatState::Ready => {}
                },
            }
        }
        if !lost.is_empty() {
            return Breakage::by(lost, broke.reason);
        }
        if broke.suspects.is_empty() {
            return Breakage::by(failed, broke.reason);
        }
        broke
    }

    /// Tells the ranks that this life is over, and lets go of them. With a breakage when it is over because it broke.
    pub fn dismiss(&self, breakage: Option<&Breakage>) {
        let suspects = breakage.iter().flat_map(|breakage| &breakage.suspects);
        self.send_to_all(&Message::Ended(GroupEnded {
            failure: breakage.map_or_else(String::new, |breakage| breakage.reason.clone()),
            suspects: suspects.map(|rank| rank.0).collect(),
        }));
        self.seats().fill_with(|| None);
    }

    /// Gives a rank its seat, or says why there is none for it.
    pub(crate) fn admit(&self, hello: &RankHello, messages: RankMessages) -> Result<usize, Status> {
        let terms = &self.terms;
        let refuse = |what: String| Err(Status::failed_precondition(what));
        self.check_life(hello)?;
        if hello.world_size as usize != terms.world_size {
            return refuse(format!(
                "the group has {} ranks, the rank was started for {}",
                terms.world_size, hello.world_size
            ));
        }
        if hello.checkpoint_fingerprint != terms.checkpoint_fingerprint[..] {
            return refuse("the rank holds another checkpoint than the leader".to_owned());
        }
        if hello.dtype != terms.dtype {
            return refuse(format!(
                "the leader's weights are {}, the rank's {}",
                terms.dtype, hello.dtype
            ));
        }
        let rank = hello.rank as usize;
        let mut seats = self.seats();
        match rank.checked_sub(1).and_then(|at| seats.get_mut(at)) {
            Some(seat @ None) => {
                *seat = Some(Seat {
                    messages,
                    state: SeatState::Joined,
                    heard: Instant::now(),
                });
                Ok(rank)
            }
            Some(Some(_)) => refuse(format!("rank {rank} has joined already")),
            None => refuse(format!(
                "rank {rank} is not one of 1 to {}",
                terms.world_size - 1
            )),
        }
    }

    /// Ranks of different lives or groups must not meet.
    fn check_life(&self, hello: &RankHello) -> Result<(), Status> {
        let found = (hello.group_id.as_str(), Epoch(hello.epoch));
        let wanted = match &self.terms.life {
            None => ("", Epoch(0)),
            Some(life) => (life.group.as_str(), life.epoch),
        };
        if found == wanted {
            return Ok(());
        }
        let what = format!(
            "the leader is in epoch {} of group `{}`, the rank wants epoch {} of group `{}`",
            wanted.1, wanted.0, found.1, found.0
        );
        // Epochs grow over all groups: the leader has yet to hear of a later one.
        if self.terms.life.is_some() && found.1 > wanted.1 {
            return Err(Status::unavailable(what));
        }
        Err(Status::failed_precondition(what))
    }

    /// A rank gave a sign of life.
    pub(crate) fn hear(&self, rank: usize) {
        if let Some(Some(seat)) = self.seats().get_mut(rank - 1) {
            seat.heard = Instant::now();
        }
    }

    pub(crate) fn set_state(&self, rank: usize, state: SeatState) {
        if let (SeatState::Failed(reason) | SeatState::Lost(reason), Some(failures)) =
            (&state, self.failures.get())
        {
            let reason = reason.clone();
            failures.report(ExecutorError::RankGone { rank, reason });
        }
        if let Some(Some(seat)) = self.seats().get_mut(rank - 1) {
            // What a rank said of its end says more than that its connection ended.
            if !matches!(seat.state, SeatState::Failed(_)) {
                seat.state = state;
            }
        }
        self.changed.send_modify(|count| *count += 1);
    }

    /// Sends without waiting: a rank whose queue is full, or that went away, shows in its seat.
    fn send_to_all(&self, message: &Message) {
        for seat in self.seats().iter().flatten() {
            let _ = seat.messages.try_send(Ok(response(message.clone())));
        }
    }

    async fn wait_until(
        &self,
        patience: impl Future<Output = ()>,
        done: impl Fn(Option<&Seat>) -> bool,
    ) -> Result<(), JoinError> {
        let mut changed = self.changed.subscribe();
        let all_done = async {
            loop {
                if let Some(error) = self.first_failure() {
                    return Err(error);
                }
                if self.seats().iter().all(|seat| done(seat.as_ref())) {
                    return Ok(());
                }
                let _ = changed.changed().await;
            }
        };
        tokio::select! {
            outcome = all_done => outcome,
            () = patience => {
                let seats = self.seats();
                let missing = seats
                    .iter()
                    .enumerate()
                    .filter(|(_, seat)| !done(seat.as_ref()));
                Err(JoinError::Missing {
                    missing: missing.map(|(at, _)| at + 1).collect(),
                })
            }
        }
    }

    fn first_failure(&self) -> Option<JoinError> {
        let ended = |state: &SeatState| match state {
            SeatState::Failed(reason) | SeatState::Lost(reason) => Some(reason.clone()),
            SeatState::Joined | SeatState::Ready => None,
        };
        let seats = self.seats();
        seats.iter().enumerate().find_map(|(at, seat)| {
            let reason = ended(&seat.as_ref()?.state)?;
            Some(JoinError::RankFailed {
                rank: at + 1,
                reason,
            })
        })
    }

    fn take_peers(&self, epoch: u64) -> Vec<Box<dyn PeerRank>> {
        let seats = self.seats();
        let peers = seats.iter().flatten().enumerate();
        peers
            .map(|(at, seat)| {
                Box::new(RemoteRank {
                    rank: at + 1,
                    epoch,
                    messages: seat.messages.clone(),
                }) as Box<dyn PeerRank>
            })
            .collect()
    }

    fn seats(&self) -> std::sync::MutexGuard<'_, Vec<Option<Seat>>> {
        self.seats
            .lock()
            .expect("no code panics while it holds the seats")
    }
}

/// A sign of the leader's life.
pub(crate) fn alive() -> JoinResponse {
    response(Message::Alive(LeaderAlive {}))
}

fn response(message: Message) -> JoinResponse {
    JoinResponse {
        message: Some(message),
    }
}

struct RemoteRank {
    rank: usize,
    epoch: u64,
    messages: RankMessages,
}

impl PeerRank for RemoteRank {
    fn rank(&self) -> usize {
        self.rank
    }

    fn send(&mut self, command: RankCommand) -> Result<(), ExecutorError> {
        self.messages
            .try_send(Ok(plan_stream::to_wire(&command, self.epoch)))
            .map_err(|error| ExecutorError::RankGone {
                rank: self.rank,
                reason: match error {
                    mpsc::error::TrySendError::Full(_) => {
                        format!("{RANK_QUEUE} messages wait for it already")
                    }
                    mpsc::error::TrySendError::Closed(_) => "its connection ended".to_owned(),
                },
            })
    }
}

/// The collective's view of a member of a welcomed group.
pub(super) fn member(
    welcome: &Welcome,
    (rank, world_size): (usize, usize),
    deadlines: Deadlines,
) -> TcpMember {
    TcpMember {
        group: welcome.group_id.clone(),
        epoch: welcome.epoch,
        rank,
        world_size,
        join_deadline: deadlines.join,
        deadline: deadlines.step,
    }
}

/// Rank 0's end of the collective of a welcomed group, between the ranks' devices.
pub fn lead_collective(
    listener: &TcpListener,
    welcome: &Welcome,
    world_size: usize,
    deadlines: Deadlines,
    (device, nccl_ids): (&Device, Option<&dyn NcclIds>),
) -> Result<Arc<dyn Collective>, String> {
    let member = member(welcome, (0, world_size), deadlines);
    TcpCollective::lead(listener, &member)
        .and_then(|met| between_devices(Arc::new(met), device, nccl_ids))
        .map_err(|error| error.to_string())
}
