//! Who is taken into a group, and who is lost from it, by the leader's desk alone.

use std::time::Duration;

use inkstone_cluster::{Epoch, GroupId, Rank};
use inkstone_proto::worker::v1::{
    JoinRequest, RankHello, group_service_client::GroupServiceClient, join_request::Message,
};
use tokio::{net::TcpListener, sync::mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, transport::Channel};

use crate::{
    group::{
        join::{GroupTerms, JoinDesk},
        life::{Breakage, GroupLife},
    },
    service::{group::GroupServer, health::Health, listener::Services},
};

fn desk(epoch: u64) -> JoinDesk {
    JoinDesk::new(GroupTerms {
        life: Some(GroupLife {
            group: GroupId::new("g"),
            epoch: Epoch(epoch),
        }),
        world_size: 3,
        checkpoint_fingerprint: [7; 32],
        dtype: "F32".to_owned(),
        silence: Duration::from_millis(600),
    })
}

fn hello(group: &str, epoch: u64, rank: u32) -> RankHello {
    RankHello {
        rank,
        world_size: 3,
        checkpoint_fingerprint: vec![7; 32].into(),
        dtype: "F32".to_owned(),
        group_id: group.to_owned(),
        epoch,
    }
}

fn refusal(desk: &JoinDesk, hello: &RankHello) -> (Code, String) {
    let status = desk.admit(hello, mpsc::channel(1).0).unwrap_err();
    (status.code(), status.message().to_owned())
}

#[test]
fn ranks_of_other_lives_and_other_models_do_not_meet() {
    let desk = desk(5);
    let (code, message) = refusal(&desk, &hello("g", 4, 1));
    assert_eq!(code, Code::FailedPrecondition, "{message}");
    assert!(message.contains("wants epoch 4"), "{message}");
    let (code, _) = refusal(&desk, &hello("other", 5, 1));
    assert_eq!(code, Code::FailedPrecondition);
    let (code, _) = refusal(&desk, &hello("", 0, 1));
    assert_eq!(code, Code::FailedPrecondition);
    // The leader will hear of it.
    assert_eq!(refusal(&desk, &hello("g", 6, 1)).0, Code::Unavailable);
    let mut other_model = hello("g", 5, 1);
    other_model.checkpoint_fingerprint = vec![8; 32].into();
    assert_eq!(refusal(&desk, &other_model).0, Code::FailedPrecondition);
    assert_eq!(
        refusal(&desk, &hello("g", 5, 3)).0,
        Code::FailedPrecondition
    );
    assert_eq!(
        desk.admit(&hello("g", 5, 2), mpsc::channel(1).0).unwrap(),
        2
    );
    assert_eq!(
        refusal(&desk, &hello("g", 5, 2)).0,
        Code::FailedPrecondition
    );
}

#[tokio::test]
async fn a_silent_rank_is_lost_though_its_connection_stays() {
    let (server, desk) = (GroupServer::default(), desk(5));
    server.open(desk.clone());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let services = Services {
        health: Health::new(&[]).await,
        language: None,
        group: Some(server),
        vision: None,
    };
    let listening = services.listen(listener);
    let channel = Channel::from_shared(address)
        .unwrap()
        .connect()
        .await
        .unwrap();
    let mut client = GroupServiceClient::new(channel);
    let (mut calls, mut senders) = (Vec::new(), Vec::new());
    for rank in [1, 2] {
        let (requests, receiver) = mpsc::channel(4);
        let message = Some(Message::Hello(hello("g", 5, rank)));
        requests.send(JoinRequest { message }).await.unwrap();
        calls.push(client.join(ReceiverStream::new(receiver)).await.unwrap());
        senders.push(requests);
    }
    // Rank 2 gives signs of life, rank 1 does not.
    let alive = senders.pop().unwrap();
    let beat = tokio::spawn(async move {
        loop {
            let message = Some(Message::Alive(Default::default()));
            if alive.send(JoinRequest { message }).await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    let reason = tokio::time::timeout(Duration::from_secs(10), desk.failure())
        .await
        .expect("silence is noticed");
    assert!(
        reason.contains("rank 1") && reason.contains("silent"),
        "{reason}"
    );
    let breakage = desk.suspects(Breakage::new(reason)).await;
    assert_eq!(breakage.suspects, [Rank(1)].into());
    beat.abort();
    drop((calls, senders));
    listening.close().await;
}
