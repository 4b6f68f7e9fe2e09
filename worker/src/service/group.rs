//! `GroupService` on a leader: the calls of the other ranks.

use std::{
    pin::Pin,
    sync::{Arc, RwLock},
    time::{Duration, Instant},
};

use futures::Stream;
use inkstone_proto::worker::v1::{
    JoinRequest, JoinResponse, RankHello, group_service_server::GroupService, join_request::Message,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::{
    executor::RANK_QUEUE,
    group::join::{HEARTBEAT, JoinDesk, RankMessages, SeatState, alive},
};

/// How long a caller may take to say who it is.
const HELLO_DEADLINE: Duration = Duration::from_secs(5);

/// See the module's text. Cheap to clone; it answers UNAVAILABLE while there is no group to join.
#[derive(Clone, Default)]
pub struct GroupServer {
    desk: Arc<RwLock<Option<JoinDesk>>>,
}

impl GroupServer {
    /// Ranks join here from now on.
    pub fn open(&self, desk: JoinDesk) {
        *self.desk.write().expect("nobody panics with the desk") = Some(desk);
    }

    /// Nobody joins any more; those who are in stay.
    pub fn close(&self) {
        *self.desk.write().expect("nobody panics with the desk") = None;
    }

    fn desk(&self) -> Result<JoinDesk, Status> {
        let desk = self.desk.read().expect("nobody panics with the desk");
        desk.clone()
            .ok_or_else(|| Status::unavailable("this process leads no group now"))
    }
}

#[tonic::async_trait]
impl GroupService for GroupServer {
    type JoinStream = Pin<Box<dyn Stream<Item = Result<JoinResponse, Status>> + Send>>;

    async fn join(
        &self,
        request: Request<Streaming<JoinRequest>>,
    ) -> Result<Response<Self::JoinStream>, Status> {
        let mut requests = request.into_inner();
        let hello = hear_hello(&mut requests).await?;
        let desk = self.desk()?;
        let (messages, receiver) = mpsc::channel(RANK_QUEUE);
        let rank = desk.admit(&hello, messages.clone())?;
        tracing::info!(rank, epoch = hello.epoch, "a rank joined");
        desk.set_state(rank, SeatState::Joined);
        // Only the desk keeps the call open.
        let messages = messages.downgrade();
        tokio::spawn(async move {
            let end = listen(&desk, rank, requests, messages).await;
            tracing::info!(rank, reason = end, "a rank left");
            desk.set_state(rank, SeatState::Lost(end));
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}

async fn hear_hello(requests: &mut Streaming<JoinRequest>) -> Result<RankHello, Status> {
    let first = tokio::time::timeout(HELLO_DEADLINE, requests.message())
        .await
        .map_err(|_| Status::deadline_exceeded("a rank says hello at once"))??;
    match first.and_then(|request| request.message) {
        Some(Message::Hello(hello)) => Ok(hello),
        _ => Err(Status::invalid_argument("a rank says hello first")),
    }
}

/// Hears what a rank says, and tells it that the leader is there, until it leaves or is silent for too long.
async fn listen(
    desk: &JoinDesk,
    rank: usize,
    mut requests: Streaming<JoinRequest>,
    messages: mpsc::WeakSender<Result<JoinResponse, Status>>,
) -> String {
    let silence = desk.silence();
    let mut heard = Instant::now();
    let mut beat = tokio::time::interval(HEARTBEAT);
    loop {
        tokio::select! {
            request = requests.message() => {
                heard = Instant::now();
                desk.hear(rank);
                match request.map(|request| request.and_then(|request| request.message)) {
                    Ok(Some(Message::Ready(_))) => desk.set_state(rank, SeatState::Ready),
                    Ok(Some(Message::Failed(failed))) => {
                        desk.set_state(rank, SeatState::Failed(failed.reason));
                    }
                    Ok(Some(Message::Hello(_) | Message::Alive(_))) => {}
                    Ok(None) | Err(_) => return "its connection ended".to_owned(),
                }
            }
            _ = beat.tick() => {
                if heard.elapsed() > silence {
                    return format!("it was silent for {silence:?}");
                }
                tell_alive(messages.upgrade().as_ref());
            }
        }
    }
}

/// Where there is no room the rank has more to read than signs of life.
fn tell_alive(messages: Option<&RankMessages>) {
    if let Some(messages) = messages {
        let _ = messages.try_send(Ok(alive()));
    }
}
