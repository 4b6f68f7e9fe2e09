//! Kill -9 of every part, in the middle of 32 answers.

use std::time::{Duration, Instant};

use inkstone_proto::v1::{
    ChatRequest, ChatResponse, chat_response::Event, chat_service_client::ChatServiceClient,
};
use inkstone_tests::{
    client::connect,
    cluster::{Cluster, Group},
    load::{Clients, Load},
    report::Row,
};

use tokio::time::timeout;
use tonic::{Code, Status, Streaming, transport::Channel};
use tonic_types::StatusExt;

use super::{
    MIDDLE, RESUME, SERVE_AGAIN, Turn, assert_resumed, assert_unmoved, assert_whole, in_the_middle,
    is_patient, once, table, turn, two_groups,
};

const STREAMS: usize = 32;

/// Kills a node of the group that has most of the answers; the spare takes its place. Gives the node's name.
async fn kill_one(
    fault: &str,
    turn: &Turn,
    cluster: &mut Cluster,
    which: fn(&Group) -> &str,
) -> String {
    let clients = once(cluster, STREAMS);
    let mut killed = String::new();
    let hurt = async |cluster: &mut Cluster, group: Group| {
        which(&group).clone_into(&mut killed);
        cluster.kill(&killed);
        cluster.wait_for_new_life(&group, SERVE_AGAIN).await;
    };
    let (report, at) = in_the_middle(fault, turn, cluster, clients, hurt).await;
    assert_resumed(&report, at);
    assert_eq!(report.len(), STREAMS);
    killed
}

#[tokio::test(flavor = "multi_thread")]
async fn fault_killed_leader_or_rank_is_replaced_and_its_requests_go_on() {
    let Some(turn) = turn().await else { return };
    let mut cluster = Cluster::start(two_groups()).await;
    let fault = "kill -9 of a leader";
    let leader = kill_one(fault, &turn, &mut cluster, Group::leader).await;
    cluster.restart(&leader);
    cluster.wait_until_right().await;
    let fault = "kill -9 of a follower rank";
    kill_one(fault, &turn, &mut cluster, Group::follower).await;
    assert_whole(&cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fault_killed_process_with_a_whole_group_is_replaced() {
    let Some(turn) = turn().await else { return };
    let mut settings = two_groups();
    (settings.language_nodes, settings.devices) = (3, 2);
    let mut cluster = Cluster::start(settings).await;
    assert_eq!(cluster.groups()[0].nodes.len(), 1, "a group is one process");
    let fault = "kill -9 of a group in one process";
    kill_one(fault, &turn, &mut cluster, Group::leader).await;
    assert_whole(&cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fault_killed_vision_worker_is_missed_by_nobody() {
    let Some(turn) = turn().await else { return };
    let mut cluster = Cluster::start(two_groups()).await;
    // Answers that run already, and questions about pictures that are just being looked at.
    let running = Load::start(once(&cluster, STREAMS), &turn.cases);
    running.wait_until_all_run(MIDDLE).await;
    let about_pictures = turn
        .cases
        .iter()
        .filter(|case| case.kind.contains("picture"));
    let about_pictures: Vec<_> = about_pictures.cloned().collect();
    let asked = Load::start(once(&cluster, about_pictures.len()), &about_pictures);
    tokio::time::sleep(Duration::from_millis(20)).await;
    let at = Instant::now();
    cluster.kill("v0");
    let report = asked.finish().await;
    report.tabulate(
        table(),
        Row {
            fault: "kill -9 of a vision worker, questions on their way",
            at,
            serving_again: None,
        },
    );
    report.assert_right();
    let report = running.finish().await;
    let fault = "kill -9 of a vision worker, answers running";
    report.tabulate(
        table(),
        Row {
            fault,
            at,
            serving_again: None,
        },
    );
    assert_unmoved(&report);
    // What the lost worker had looked at is looked at again by the other when a request moves.
    let fault = "kill -9 of a follower rank, a vision worker gone";
    kill_one(fault, &turn, &mut cluster, Group::follower).await;
    assert_whole(&cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fault_killed_placing_coordinator_takes_its_own_streams_only() {
    let Some(turn) = turn().await else { return };
    let mut cluster = Cluster::start(two_groups()).await;
    let placer = cluster.placer().expect("one was elected");
    let address = cluster.address(&placer);
    let clients = once(&cluster, STREAMS);
    let hurt = async |cluster: &mut Cluster, _: Group| {
        cluster.kill(&placer);
        let other = |state: &inkstone_cluster::ClusterState| {
            let now = state.placer.as_ref();
            now.is_some_and(|now| now.as_str() != placer)
        };
        let wanted = "another coordinator places";
        cluster.wait_until(wanted, SERVE_AGAIN, other).await;
    };
    let fault = "kill -9 of the placing coordinator";
    let (mut report, at) = in_the_middle(fault, &turn, &mut cluster, clients, hurt).await;
    report.excuse(|one| one.coordinator == address);
    assert_eq!(report.len(), STREAMS / 2, "those of the other coordinator");
    assert_unmoved(&report);
    let pause = report.longest_pause(at, |_| true);
    assert!(pause < RESUME, "a stream of the other paused for {pause:?}");
    // The other one places.
    let others = cluster.coordinators().into_iter();
    let others = others.filter(|one| *one != address);
    let clients = Clients {
        addresses: others.collect(),
        ..once(&cluster, STREAMS)
    };
    let mut killed = String::new();
    let hurt = async |cluster: &mut Cluster, group: Group| {
        group.follower().clone_into(&mut killed);
        cluster.kill(&killed);
        cluster.wait_for_new_life(&group, SERVE_AGAIN).await;
    };
    let fault = "kill -9 of a follower rank, the placing coordinator gone";
    let (report, at) = in_the_middle(fault, &turn, &mut cluster, clients, hurt).await;
    assert_resumed(&report, at);
    cluster.restart(&placer);
    cluster.restart(&killed);
    assert_whole(&cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fault_killed_etcd_is_missed_by_nobody() {
    let Some(turn) = turn().await else { return };
    let mut cluster = Cluster::start(two_groups()).await;
    let clients = once(&cluster, STREAMS);
    let hurt = async |cluster: &mut Cluster, _: Group| cluster.etcd.kill();
    let fault = "kill -9 of etcd";
    let (report, _) = in_the_middle(fault, &turn, &mut cluster, clients, hurt).await;
    assert_unmoved(&report);
    // New requests are served without it, too, and a lost rank's requests go on elsewhere.
    let clients = once(&cluster, STREAMS);
    let hurt = async |cluster: &mut Cluster, group: Group| cluster.kill(group.follower());
    let fault = "kill -9 of a follower rank, etcd gone";
    let (report, at) = in_the_middle(fault, &turn, &mut cluster, clients, hurt).await;
    assert_resumed(&report, at);
    cluster.etcd.restart();
    assert_whole(&cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn recovery_waits_for_the_only_group_to_come_back() {
    let Some(turn) = turn().await else { return };
    let mut settings = two_groups();
    (settings.language_nodes, settings.language_replicas) = (2, 1);
    let mut cluster = Cluster::start(settings).await;
    let clients = once(&cluster, STREAMS / 2);
    let hurt = async |cluster: &mut Cluster, group: Group| {
        cluster.kill(group.follower());
        tokio::time::sleep(Duration::from_millis(500)).await;
        cluster.restart(group.follower());
        cluster.wait_for_new_life(&group, SERVE_AGAIN).await;
    };
    let fault = "kill -9 of a rank of the only group, started again";
    let (report, _) = in_the_middle(fault, &turn, &mut cluster, clients, hurt).await;
    report.assert_right();
    assert!(report.num_moved() > 0, "nothing had to move");
    assert_whole(&cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn recovery_ends_with_a_typed_error_where_nothing_is_left() {
    let Some(turn) = turn().await else { return };
    let mut settings = two_groups();
    (settings.language_nodes, settings.language_replicas) = (2, 1);
    let mut cluster = Cluster::start(settings).await;
    let mut client = connect(&cluster.coordinators()[0]).await;
    let request = turn.cases[0].request.clone();
    let running = client.chat(request.clone()).await.expect("it is taken");
    let mut running = running.into_inner();
    while !matches!(next(&mut running).await, Ok(Event::Delta(_))) {}
    let group = cluster.groups().remove(0);
    cluster.kill(group.follower());
    // A new request is not kept waiting for long, one that ran is for longer.
    let status = timeout(Duration::from_secs(25), refusal(&mut client, request)).await;
    assert_typed(&status.expect("it is told in time"), "LANGUAGE_UNAVAILABLE");
    if is_patient() {
        let status = timeout(Duration::from_secs(45), end(&mut running)).await;
        assert_typed(&status.expect("it is told in time"), "RECOVERY_FAILED");
    }
}

/// Asks for what cannot be, and gives the error.
async fn refusal(client: &mut ChatServiceClient<Channel>, request: ChatRequest) -> Status {
    match client.chat(request).await {
        Ok(stream) => end(&mut stream.into_inner()).await,
        Err(status) => status,
    }
}

/// The error that ends a stream.
async fn end(stream: &mut Streaming<ChatResponse>) -> Status {
    loop {
        if let Err(status) = next(stream).await {
            return status;
        }
    }
}

async fn next(stream: &mut Streaming<ChatResponse>) -> Result<Event, Status> {
    let response = stream.message().await?.expect("it does not end");
    Ok(response.event.expect("an event"))
}

#[track_caller]
fn assert_typed(status: &Status, reason: &str) {
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    let details = status.get_error_details();
    let info = details.error_info().expect("a reason");
    assert_eq!(info.reason, reason, "{status}");
    let retry = details.retry_info().expect("when to try again");
    assert!(retry.retry_delay.is_some(), "{status}");
}
