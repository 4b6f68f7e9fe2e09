//! Lives of groups on nodes that a registry tells what to do: with the tiny model, real gRPC and real collectives over loopback.

mod cluster;
mod joining;
mod nccl_ids;

use std::{collections::BTreeSet, time::Instant};

use inkstone_cluster::{Change, Epoch, NodeId, Phase, Rank, ShardKey};
use inkstone_proto::worker::v1::{
    PictureHeader, PutPictureRequest, RefusalReason, put_picture_request::Part,
    vision_service_client::VisionServiceClient,
};
use tonic::Code;

use self::cluster::{Cluster, Outcome};
use super::*;

/// Tokens that take a while.
const LONG: u32 = 400;

fn is_ready(phase: &Phase) -> Option<()> {
    (*phase == Phase::Ready).then_some(())
}

fn failure(phase: &Phase) -> Option<(String, BTreeSet<Rank>)> {
    match phase {
        Phase::Failed { reason, suspects } => Some((reason.clone(), suspects.clone())),
        _ => None,
    }
}

#[tokio::test]
async fn a_node_serves_what_it_is_told_and_refuses_other_epochs() {
    let cluster = Cluster::start(&[("a", 1)]).await;
    assert!(!cluster.is_serving("a").await);
    assert_eq!(
        cluster.call("a").await.err().unwrap().code(),
        Code::Unavailable
    );
    let epoch = cluster.place(&["a"]).await;
    cluster.wait_ready().await;
    assert!(cluster.is_serving("a").await);
    let mut call = cluster.call("a").await.unwrap();
    call.ask(1, Epoch(epoch.0 + 1), 4).await;
    assert_eq!(
        call.outcome(1).await,
        Outcome::Refused(RefusalReason::Epoch)
    );
    call.ask(2, epoch, 4).await;
    let Outcome::Answered(tokens) = call.outcome(2).await else {
        panic!("wanted an answer");
    };
    assert_eq!(tokens.len(), 4);
}

#[tokio::test]
async fn the_next_epoch_finds_the_weights_in_memory_and_ends_the_last_at_once() {
    let cluster = Cluster::start(&[("a", 1)]).await;
    let first = cluster.place(&["a"]).await;
    cluster.wait_ready().await;
    let whole = ShardKey {
        rank: Rank(0),
        world_size: 1,
    };
    assert_eq!(cluster.status("a").kept, [whole].into());
    let loads = cluster.loads("a");
    let mut call = cluster.call("a").await.unwrap();
    call.ask(1, first, LONG).await;
    call.first_token(1).await;
    let second = cluster.place(&["a"]).await;
    let outcome = call.outcome(1).await;
    assert_eq!(outcome, Outcome::Refused(RefusalReason::NotServing));
    cluster.wait_phase("a", second, is_ready).await;
    assert_eq!(cluster.loads("a"), loads, "nothing was loaded again");
    let mut call = cluster.call("a").await.unwrap();
    call.ask(1, first, 4).await;
    assert_eq!(
        call.outcome(1).await,
        Outcome::Refused(RefusalReason::Epoch)
    );
    call.ask(2, second, 4).await;
    assert!(matches!(call.outcome(2).await, Outcome::Answered(_)));
}

#[tokio::test]
async fn another_shard_takes_the_place_of_the_last() {
    let cluster = Cluster::start(&[("a", 2)]).await;
    cluster.place(&["a"]).await;
    cluster.wait_ready().await;
    let wide = cluster.place(&["a", "a"]).await;
    cluster.wait_phase("a", wide, is_ready).await;
    let shard = |rank| ShardKey {
        rank: Rank(rank),
        world_size: 2,
    };
    assert_eq!(cluster.status("a").kept, [shard(0), shard(1)].into());
    let too_wide = cluster.place(&["a", "a", "a", "a"]).await;
    let (reason, _) = cluster.wait_phase("a", too_wide, failure).await;
    assert!(reason.contains("2 devices"), "{reason}");
}

#[tokio::test]
async fn ranks_on_two_nodes_answer_as_one_and_a_lost_rank_is_named() {
    let mut cluster = Cluster::start(&[("a", 1), ("b", 1), ("c", 1)]).await;
    let alone = cluster.place(&["c"]).await;
    cluster.wait_phase("c", alone, is_ready).await;
    let mut call = cluster.call("c").await.unwrap();
    call.ask(1, alone, 12).await;
    let wanted = call.outcome(1).await;

    let epoch = cluster.place(&["a", "b"]).await;
    cluster.wait_ready().await;
    let mut call = cluster.call("a").await.unwrap();
    call.ask(1, epoch, 12).await;
    assert_eq!(call.outcome(1).await, wanted);
    call.ask(2, epoch, LONG).await;
    call.first_token(2).await;

    let since = Instant::now();
    cluster.kill("b");
    let outcome = call.outcome(2).await;
    assert_eq!(outcome, Outcome::Refused(RefusalReason::NotServing));
    let (reason, suspects) = cluster.wait_phase("a", epoch, failure).await;
    assert_eq!(suspects, [Rank(1)].into(), "{reason}");
    assert!(since.elapsed().as_secs() < 5, "{:?}", since.elapsed());
    assert!(!cluster.is_serving("a").await);

    // With a spare in its place the leader needs to load nothing.
    let loads = cluster.loads("a");
    let next = cluster.place(&["a", "c"]).await;
    cluster.wait_ready().await;
    assert_eq!(cluster.loads("a"), loads);
    let mut call = cluster.call("a").await.unwrap();
    call.ask(1, next, 12).await;
    assert_eq!(call.outcome(1).await, wanted);
}

#[tokio::test]
async fn a_lost_leader_is_named_by_its_ranks() {
    let mut cluster = Cluster::start(&[("a", 1), ("b", 1)]).await;
    let epoch = cluster.place(&["a", "b"]).await;
    cluster.wait_ready().await;
    cluster.kill("a");
    let (reason, suspects) = cluster.wait_phase("b", epoch, failure).await;
    assert_eq!(suspects, [Rank(0)].into(), "{reason}");
}

#[tokio::test]
async fn a_group_that_is_taken_away_finishes_what_runs() {
    let cluster = Cluster::start(&[("a", 1), ("b", 1)]).await;
    let epoch = cluster.place(&["a", "b"]).await;
    cluster.wait_ready().await;
    let mut call = cluster.call("a").await.unwrap();
    call.ask(1, epoch, LONG).await;
    call.first_token(1).await;
    cluster.remove().await;
    let draining = |phase: &Phase| (*phase == Phase::Draining).then_some(());
    cluster.wait_phase("a", epoch, draining).await;
    assert!(!cluster.is_serving("a").await);
    call.ask(2, epoch, 4).await;
    assert_eq!(
        call.outcome(2).await,
        Outcome::Refused(RefusalReason::NotServing)
    );
    let Outcome::Answered(tokens) = call.outcome(1).await else {
        panic!("the answer was cut");
    };
    assert!(!tokens.is_empty());
    for node in ["a", "b"] {
        cluster
            .wait(|state| {
                let status = state.statuses.get(&NodeId::new(node))?;
                status.language.is_none().then_some(())
            })
            .await;
    }
}

#[tokio::test]
async fn a_terminated_leader_keeps_its_ranks_until_its_streams_are_finished() {
    let mut cluster = Cluster::start(&[("a", 1), ("b", 1), ("c", 1)]).await;
    let epoch = cluster.place(&["a", "b"]).await;
    cluster.wait_ready().await;
    let mut call = cluster.call("a").await.unwrap();
    call.ask(1, epoch, LONG).await;
    call.first_token(1).await;
    cluster.terminate("a");
    let draining = |phase: &Phase| (*phase == Phase::Draining).then_some(());
    cluster.wait_phase("a", epoch, draining).await;
    // Somebody has moved the group meanwhile, and counts on the same rank.
    let next = cluster.place(&["b", "c"]).await;
    assert!(matches!(call.outcome(1).await, Outcome::Answered(_)));
    cluster.wait_for_end("a").await;
    let left = |state: &ClusterState| (!state.nodes.contains_key(&NodeId::new("a"))).then_some(());
    cluster.wait(left).await;
    cluster.wait_phase("b", next, is_ready).await;
}

#[tokio::test]
async fn a_terminated_rank_stays_until_its_leader_finished_what_runs() {
    let mut cluster = Cluster::start(&[("a", 1), ("b", 1)]).await;
    let epoch = cluster.place(&["a", "b"]).await;
    cluster.wait_ready().await;
    let mut call = cluster.call("a").await.unwrap();
    call.ask(1, epoch, LONG).await;
    call.first_token(1).await;
    cluster.terminate("b");
    assert!(matches!(call.outcome(1).await, Outcome::Answered(_)));
    cluster.wait_for_end("b").await;
    // The leader asks for another life; nobody is to blame.
    let (reason, suspects) = cluster.wait_phase("a", epoch, failure).await;
    assert!(suspects.is_empty(), "{reason}: {suspects:?}");
}

#[tokio::test]
async fn a_node_without_work_leaves_at_once() {
    let mut cluster = Cluster::start(&[("a", 1)]).await;
    cluster.terminate("a");
    let since = Instant::now();
    cluster.wait_for_end("a").await;
    assert!(since.elapsed().as_secs() < 5, "{:?}", since.elapsed());
}

#[tokio::test]
async fn pictures_are_taken_while_the_node_is_told_to() {
    let cluster = Cluster::start(&[("a", 1)]).await;
    let node = NodeId::new("a");
    let put = async || {
        let mut client = VisionServiceClient::new(cluster.channel("a").await);
        let file = bitmap();
        let header = Part::Header(PictureHeader {
            num_bytes: file.len() as u64,
            hd_num: 0,
            encode_soon: false,
        });
        let parts =
            [header, Part::Chunk(file.into())].map(|part| PutPictureRequest { part: Some(part) });
        client.put_picture(tokio_stream::iter(parts)).await
    };
    assert_eq!(put().await.unwrap_err().code(), Code::Unavailable);
    cluster
        .assign(Change::PutVision { node: node.clone() })
        .await;
    cluster
        .wait(|state| state.is_vision_ready(&node).then_some(()))
        .await;
    assert!(put().await.unwrap().into_inner().num_tokens > 0);
    let loads = cluster.loads("a");

    cluster
        .assign(Change::RemoveVision { node: node.clone() })
        .await;
    cluster
        .wait(|state| state.statuses.get(&node)?.vision.is_none().then_some(()))
        .await;
    assert_eq!(cluster.vision_status("a"), None);
    assert_eq!(put().await.unwrap_err().code(), Code::Unavailable);

    cluster
        .assign(Change::PutVision { node: node.clone() })
        .await;
    cluster
        .wait(|state| state.is_vision_ready(&node).then_some(()))
        .await;
    assert!(put().await.is_ok());
    assert_eq!(cluster.loads("a"), loads, "the encoder was still there");
}

/// A one-colour picture of 2 by 2 pixels, in the plainest format there is.
fn bitmap() -> Vec<u8> {
    let mut file = b"BM".to_vec();
    let header: [u32; 13] = [70, 0, 54, 40, 2, 2, 24 << 16 | 1, 0, 16, 2835, 2835, 0, 0];
    file.extend(header.iter().flat_map(|number| number.to_le_bytes()));
    file.extend([9; 16]);
    file
}
