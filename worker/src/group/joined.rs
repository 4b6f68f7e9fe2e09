//! How processes become one group, the side of every rank but the leader: says hello, is welcomed, meets the others in the
//! collective, and is told what to run until the leader says farewell, breaks off or falls silent.

use std::{sync::Arc, time::Duration};

use futures::StreamExt;
use inkstone_cluster::{Epoch, GroupId};
use inkstone_model::{
    collectives::{Collective, NcclIds, TcpCollective, between_devices},
    device::Device,
};
use inkstone_proto::worker::v1::{
    JoinRequest, JoinResponse, RankAlive, RankFailed, RankHello, RankReady, Welcome,
    group_service_client::GroupServiceClient, join_request::Message,
    join_response::Message as FromLeader,
};
use tokio::{sync::mpsc, task::JoinHandle};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming, transport::Channel};

use super::{
    join::{HEARTBEAT, MAX_MESSAGE_BYTES, member},
    life::{Breakage, GroupLife},
    plan_stream,
    rank::RankCommand,
};
use crate::config::Deadlines;

/// The leader's rank.
const LEADER: usize = 0;

/// A rank's call to its leader, which has taken it in.
pub struct Seated {
    responses: Streaming<JoinResponse>,
    requests: mpsc::Sender<JoinRequest>,
    _heart: Heart,
    silence: Duration,
}

/// A rank's place in a group that stands.
pub struct Joined {
    /// The group's terms, as the leader gave them.
    pub welcome: Welcome,
    call: Seated,
}

/// Tells the leader that this rank is there, for as long as it lives.
struct Heart(JoinHandle<()>);

impl Drop for Heart {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Seated {
    /// Says hello on `channel`. An error with the code UNAVAILABLE may pass; others do not.
    pub async fn say_hello(
        channel: Channel,
        hello: RankHello,
        silence: Duration,
    ) -> Result<Self, Status> {
        let mut client =
            GroupServiceClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES);
        let (requests, receiver) = mpsc::channel(4);
        let _ = requests.send(request(Message::Hello(hello))).await;
        let responses = client
            .join(ReceiverStream::new(receiver))
            .await?
            .into_inner();
        Ok(Self {
            responses,
            _heart: beat(requests.clone()),
            requests,
            silence,
        })
    }

    /// Waits to be welcomed to this life of a group (none: whichever it is), which takes until all ranks are there.
    pub async fn be_welcomed(mut self, wanted: Option<&GroupLife>) -> Result<Joined, Breakage> {
        let welcome = match self.next().await? {
            Some(FromLeader::Welcome(welcome)) => welcome,
            Some(_) => {
                let reason = "the leader did not begin with a welcome";
                return Err(Breakage::by([LEADER], reason));
            }
            None => return Err(Breakage::new("the leader ended the group")),
        };
        let found = GroupLife {
            group: GroupId::new(welcome.group_id.as_str()),
            epoch: Epoch(welcome.epoch),
        };
        match wanted {
            Some(wanted) if *wanted != found => {
                let reason = format!("wanted to join {wanted}, the leader welcomed us to {found}");
                Err(Breakage::by([LEADER], reason))
            }
            _ => Ok(Joined {
                welcome,
                call: self,
            }),
        }
    }

    /// What the leader says next, but for signs of life; `None`: it ended the group as it should be.
    async fn next(&mut self) -> Result<Option<FromLeader>, Breakage> {
        loop {
            let lost =
                |reason: String| Breakage::by([LEADER], format!("lost the leader: {reason}"));
            let next = tokio::time::timeout(self.silence, self.responses.next()).await;
            let response = match next {
                Err(_) => return Err(lost(format!("it was silent for {:?}", self.silence))),
                Ok(None) => return Err(lost("its call ended".to_owned())),
                Ok(Some(Err(status))) => return Err(lost(status.message().to_owned())),
                Ok(Some(Ok(response))) => response,
            };
            match response.message {
                Some(FromLeader::Alive(_)) => {}
                Some(FromLeader::Ended(ended)) if ended.failure.is_empty() => return Ok(None),
                Some(FromLeader::Ended(ended)) => {
                    let suspects = ended.suspects.into_iter().map(|rank| rank as usize);
                    return Err(Breakage::by(suspects, ended.failure));
                }
                Some(message) => return Ok(Some(message)),
                None => return Err(lost("it sent an empty message".to_owned())),
            }
        }
    }
}

impl Joined {
    /// Makes this rank's end of the collective and tells the leader how that went.
    pub async fn enter_collective(
        &self,
        (rank, world_size): (usize, usize),
        deadlines: Deadlines,
        (device, nccl_ids): (Device, Option<Arc<dyn NcclIds>>),
    ) -> Result<Arc<dyn Collective>, String> {
        let member = member(&self.welcome, (rank, world_size), deadlines);
        let rendezvous = self.welcome.rendezvous.clone();
        let formed = tokio::task::spawn_blocking(move || {
            TcpCollective::join(rendezvous.as_str(), &member)
                .and_then(|met| between_devices(Arc::new(met), &device, nccl_ids.as_deref()))
                .map_err(|error| error.to_string())
        })
        .await
        .unwrap_or_else(|error| Err(error.to_string()));
        match &formed {
            Ok(_) => self.tell(Message::Ready(RankReady {})).await,
            Err(reason) => self.tell_failed(reason.clone()).await,
        }
        formed
    }

    /// Tells the leader that this rank cannot go on.
    pub async fn tell_failed(&self, reason: String) {
        self.tell(Message::Failed(RankFailed { reason })).await;
    }

    /// The next command; `None` when the leader ended the group as it should be.
    pub async fn next_command(&mut self) -> Result<Option<RankCommand>, Breakage> {
        let Some(message) = self.call.next().await? else {
            return Ok(None);
        };
        let response = JoinResponse {
            message: Some(message),
        };
        plan_stream::from_wire(response, self.welcome.epoch)
            .map(Some)
            .map_err(|error| Breakage::by([LEADER], error.to_string()))
    }

    async fn tell(&self, message: Message) {
        // Where the call is over the leader knows.
        let _ = self.call.requests.send(request(message)).await;
    }
}

fn beat(requests: mpsc::Sender<JoinRequest>) -> Heart {
    Heart(tokio::spawn(async move {
        let mut ticks = tokio::time::interval(HEARTBEAT);
        loop {
            ticks.tick().await;
            // Where there is no room the call does not move, and where it is closed it is over.
            let alive = request(Message::Alive(RankAlive {}));
            if let Err(mpsc::error::TrySendError::Closed(_)) = requests.try_send(alive) {
                return;
            }
        }
    }))
}

fn request(message: Message) -> JoinRequest {
    JoinRequest {
        message: Some(message),
    }
}
