//! How processes become one group. A rank loads its shard, then calls the leader and says who it is; when all are there the
//! leader welcomes them, everyone meets in the TCP collective, and plans flow. Either side going away ends the group.

use std::{
    net::TcpListener,
    pin::Pin,
    sync::{Arc, Mutex, OnceLock},
    time::Duration,
};

use futures::{Stream, StreamExt};
use inkstone_model::collectives::{TcpCollective, TcpMember};
use inkstone_proto::worker::v1::{
    JoinRequest, JoinResponse, RankFailed, RankHello, RankReady, Welcome,
    group_service_server::{GroupService, GroupServiceServer},
    join_request, join_response,
};
use thiserror::Error;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::{plan_stream, rank::RankCommand};
use crate::executor::{ExecutorError, PeerRank, RANK_QUEUE, RankFailures};

/// Features of HD pictures reach tens of MB.
pub const MAX_MESSAGE_BYTES: usize = 256 << 20;

/// A group that did not form.
#[derive(Debug, Error)]
pub enum JoinError {
    /// Not all ranks came.
    #[error(
        "ranks {missing:?} did not join within {deadline:?}; start them with --leader pointing here"
    )]
    Missing {
        /// Who is not there.
        missing: Vec<usize>,
        /// How long we waited.
        deadline: Duration,
    },
    /// A rank came and failed.
    #[error("rank {rank} failed: {reason}")]
    RankFailed {
        /// The rank.
        rank: usize,
        /// What it said.
        reason: String,
    },
}

/// What the leader expects of a rank that joins.
#[derive(Clone, Debug)]
pub struct GroupTerms {
    /// Ranks of the group.
    pub world_size: usize,
    /// BLAKE3 of the checkpoint's config and tensor table.
    pub checkpoint_fingerprint: [u8; 32],
    /// Weight type.
    pub dtype: String,
}

/// The leader's side: takes ranks in as they come.
#[derive(Clone)]
pub struct JoinDesk {
    terms: Arc<GroupTerms>,
    seats: Arc<Mutex<Vec<Option<Seat>>>>,
    changed: Arc<watch::Sender<u64>>,
    /// Who runs steps, once the group stands.
    failures: Arc<OnceLock<RankFailures>>,
}

struct Seat {
    messages: mpsc::Sender<Result<JoinResponse, Status>>,
    state: SeatState,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum SeatState {
    Joined,
    Ready,
    Failed(String),
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

    /// The gRPC service that ranks call.
    pub fn service(&self) -> GroupServiceServer<Self> {
        GroupServiceServer::new(self.clone()).max_decoding_message_size(1 << 20)
    }

    /// Waits until all ranks have joined, welcomes them, and waits until all stand in the collective. `form` makes rank 0's
    /// end of it meanwhile. From then on the end of a rank is told to `failures`.
    pub async fn assemble<C: Send + 'static>(
        &self,
        welcome: Welcome,
        deadline: Duration,
        failures: RankFailures,
        form: impl FnOnce() -> Result<C, String> + Send + 'static,
    ) -> Result<(C, Vec<Box<dyn PeerRank>>), JoinError> {
        self.wait_until(deadline, |seat| seat.is_some()).await?;
        let epoch = welcome.epoch;
        self.send_to_all(&welcome).await;
        let own = tokio::task::spawn_blocking(form)
            .await
            .unwrap_or_else(|error| Err(error.to_string()))
            .map_err(|reason| JoinError::RankFailed { rank: 0, reason })?;
        self.wait_until(deadline, |seat| {
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

    /// Waits until a rank fails or leaves, and says which and why.
    pub async fn failure(&self) -> String {
        let mut changed = self.changed.subscribe();
        loop {
            if let Some(error) = self.first_failure() {
                return error.to_string();
            }
            let _ = changed.changed().await;
        }
    }

    async fn send_to_all(&self, welcome: &Welcome) {
        let senders: Vec<_> = self
            .seats()
            .iter()
            .flatten()
            .map(|seat| seat.messages.clone())
            .collect();
        for sender in senders {
            let message = join_response::Message::Welcome(welcome.clone());
            // A rank that went away shows in its seat.
            let _ = sender
                .send(Ok(JoinResponse {
                    message: Some(message),
                }))
                .await;
        }
    }

    async fn wait_until(
        &self,
        deadline: Duration,
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
        tokio::time::timeout(deadline, all_done)
            .await
            .unwrap_or_else(|_| {
                let seats = self.seats();
                let missing = seats
                    .iter()
                    .enumerate()
                    .filter(|(_, seat)| !done(seat.as_ref()));
                Err(JoinError::Missing {
                    missing: missing.map(|(at, _)| at + 1).collect(),
                    deadline,
                })
            })
    }

    fn first_failure(&self) -> Option<JoinError> {
        self.seats()
            .iter()
            .enumerate()
            .find_map(|(at, seat)| match seat {
                Some(Seat {
                    state: SeatState::Failed(reason),
                    ..
                }) => Some(JoinError::RankFailed {
                    rank: at + 1,
                    reason: reason.clone(),
                }),
                _ => None,
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

    fn admit(
        &self,
        hello: &RankHello,
        messages: mpsc::Sender<Result<JoinResponse, Status>>,
    ) -> Result<usize, Status> {
        let terms = &self.terms;
        let refuse = |what: String| Err(Status::failed_precondition(what));
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

    fn set_state(&self, rank: usize, state: SeatState) {
        if let (SeatState::Failed(reason), Some(failures)) = (&state, self.failures.get()) {
            let reason = reason.clone();
            failures.report(ExecutorError::RankGone { rank, reason });
        }
        if let Some(Some(seat)) = self.seats().get_mut(rank - 1) {
            seat.state = state;
        }
        self.changed.send_modify(|count| *count += 1);
    }

    fn seats(&self) -> std::sync::MutexGuard<'_, Vec<Option<Seat>>> {
        self.seats
            .lock()
            .expect("no code panics while it holds the seats")
    }
}

#[tonic::async_trait]
impl GroupService for JoinDesk {
    type JoinStream = Pin<Box<dyn Stream<Item = Result<JoinResponse, Status>> + Send>>;

    async fn join(
        &self,
        request: Request<Streaming<JoinRequest>>,
    ) -> Result<Response<Self::JoinStream>, Status> {
        let mut requests = request.into_inner();
        let first = requests
            .message()
            .await?
            .and_then(|request| request.message);
        let Some(join_request::Message::Hello(hello)) = first else {
            return Err(Status::invalid_argument("a rank says hello first"));
        };
        let (messages, receiver) = mpsc::channel(RANK_QUEUE);
        let rank = self.admit(&hello, messages)?;
        tracing::info!(rank, "a rank joined");
        self.set_state(rank, SeatState::Joined);
        let desk = self.clone();
        tokio::spawn(async move {
            loop {
                match requests
                    .message()
                    .await
                    .map(|request| request.and_then(|request| request.message))
                {
                    Ok(Some(join_request::Message::Ready(_))) => {
                        desk.set_state(rank, SeatState::Ready)
                    }
                    Ok(Some(join_request::Message::Failed(failed))) => {
                        desk.set_state(rank, SeatState::Failed(failed.reason));
                    }
                    Ok(Some(join_request::Message::Hello(_))) => {}
                    Ok(None) | Err(_) => break,
                }
            }
            tracing::warn!(rank, "a rank left");
            desk.set_state(rank, SeatState::Failed("its connection ended".to_owned()));
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}

struct RemoteRank {
    rank: usize,
    epoch: u64,
    messages: mpsc::Sender<Result<JoinResponse, Status>>,
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

/// A rank's side: its place in a group that stands.
pub struct Joined {
    /// The group's terms, as the leader gave them.
    pub welcome: Welcome,
    responses: Streaming<JoinResponse>,
    requests: mpsc::Sender<JoinRequest>,
}

impl Joined {
    /// Says hello on `channel` and waits to be welcomed.
    pub async fn say_hello(
        channel: tonic::transport::Channel,
        hello: RankHello,
        deadline: Duration,
    ) -> Result<Self, Status> {
        let mut client =
            inkstone_proto::worker::v1::group_service_client::GroupServiceClient::new(channel)
                .max_decoding_message_size(MAX_MESSAGE_BYTES);
        let (requests, receiver) = mpsc::channel(4);
        let _ = requests
            .send(request(join_request::Message::Hello(hello)))
            .await;
        let mut responses = client
            .join(ReceiverStream::new(receiver))
            .await?
            .into_inner();
        let first = tokio::time::timeout(deadline, responses.message())
            .await
            .map_err(|_| {
                Status::deadline_exceeded("the leader did not welcome us: other ranks are missing")
            })??;
        match first.and_then(|response| response.message) {
            Some(join_response::Message::Welcome(welcome)) => Ok(Self {
                welcome,
                responses,
                requests,
            }),
            _ => Err(Status::unavailable(
                "the leader went away before it welcomed us",
            )),
        }
    }

    /// Makes this rank's end of the collective and tells the leader how that went.
    pub async fn enter_collective(
        &self,
        rank: usize,
        world_size: usize,
        deadlines: Deadlines,
    ) -> Result<TcpCollective, String> {
        let member = deadlines.member(&self.welcome, rank, world_size);
        let rendezvous = self.welcome.rendezvous.clone();
        let formed = tokio::task::spawn_blocking(move || {
            TcpCollective::join(rendezvous.as_str(), &member).map_err(|error| error.to_string())
        })
        .await
        .unwrap_or_else(|error| Err(error.to_string()));
        let message = match &formed {
            Ok(_) => join_request::Message::Ready(RankReady {}),
            Err(reason) => join_request::Message::Failed(RankFailed {
                reason: reason.clone(),
            }),
        };
        let _ = self.requests.send(request(message)).await;
        formed
    }

    /// The next command; `None` when the leader is done with us.
    pub async fn next_command(&mut self) -> Result<Option<RankCommand>, String> {
        match self.responses.next().await {
            None => Ok(None),
            Some(Err(status)) => Err(format!("lost the leader: {}", status.message())),
            Some(Ok(response)) => plan_stream::from_wire(response, self.welcome.epoch)
                .map(Some)
                .map_err(|error| error.to_string()),
        }
    }
}

/// How long a member of a TCP group waits.
#[derive(Clone, Copy, Debug)]
pub struct Deadlines {
    /// For the group to be complete.
    pub join: Duration,
    /// For the others in one call.
    pub step: Duration,
}

impl Deadlines {
    /// The collective's view of a member.
    pub fn member(self, welcome: &Welcome, rank: usize, world_size: usize) -> TcpMember {
        TcpMember {
            group: welcome.group_id.clone(),
            epoch: welcome.epoch,
            rank,
            world_size,
            join_deadline: self.join,
            deadline: self.step,
        }
    }
}

/// Rank 0's end of the collective of a welcomed group.
pub fn lead_collective(
    listener: &TcpListener,
    welcome: &Welcome,
    world_size: usize,
    deadlines: Deadlines,
) -> Result<TcpCollective, String> {
    TcpCollective::lead(listener, &deadlines.member(welcome, 0, world_size))
        .map_err(|error| error.to_string())
}

fn request(message: join_request::Message) -> JoinRequest {
    JoinRequest {
        message: Some(message),
    }
}
