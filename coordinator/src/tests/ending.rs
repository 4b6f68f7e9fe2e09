//! Answers that end before their end: the client, the deadline, a reader that does not read, the cluster, shutdown.

use std::time::Duration;

use super::*;
use crate::{
    api::grpc::{chat::ChatService, deadline::Deadline},
    cluster_view::ClusterView,
    model::ServedModel,
    request::dispatcher::Dispatcher,
    worker_client::{
        EndReason, WorkerError,
        fake::{self, Script, Step},
    },
};

fn endless() -> Vec<Step> {
    let pause = Duration::from_millis(5);
    vec![Step::Repeat("word ".into(), pause)]
}

#[tokio::test]
async fn a_client_that_goes_away_ends_the_sequence() {
    let cluster = FakeCluster::new(1, 1);
    let coordinator = Coordinator::over(&cluster).await;
    cluster.group().play(endless());
    let mut answer = coordinator.chat(question("hi")).await.unwrap();
    for seq in 0..3 {
        next(&mut answer, seq).await.unwrap().unwrap();
    }
    assert_eq!(cluster.group().num_running(), 1);
    drop(answer);
    eventually("the sequence ends", || cluster.group().num_running() == 0).await;
}

#[tokio::test]
async fn a_client_that_goes_away_before_the_first_event_ends_the_sequence() {
    let cluster = FakeCluster::new(1, 1);
    let coordinator = Coordinator::over(&cluster).await;
    cluster.group().script(Script::NeverOpen);
    let call = coordinator.chat(question("hi"));
    let gone = timeout(Duration::from_millis(200), call).await;
    assert!(gone.is_err(), "the leader never answers");
    eventually("the sequence ends", || cluster.group().num_running() == 0).await;
}

#[tokio::test]
async fn the_deadline_ends_a_stream() {
    let cluster = FakeCluster::new(1, 1);
    let coordinator = Coordinator::over(&cluster).await;
    cluster.group().play(endless());
    let request = with_deadline(question("hi"), Duration::from_millis(400));
    let answer = Answer::read(coordinator.chat(request).await.unwrap()).await;
    assert!(!answer.deltas.is_empty());
    let status = answer.end.unwrap_err();
    check_error(&status, Code::DeadlineExceeded, "DEADLINE_EXCEEDED");
    eventually("the sequence ends", || cluster.group().num_running() == 0).await;
}

#[tokio::test]
async fn the_deadline_ends_a_request_that_no_leader_takes_on() {
    use inkstone_proto::v1::chat_service_server::ChatService as _;
    let cluster = FakeCluster::new(1, 1);
    cluster.group().script(Script::NeverOpen);
    let config = config(&cluster);
    let view = ClusterView::new(config.membership.clone(), Arc::new(cluster.clone()));
    let dispatcher = Arc::new(Dispatcher::new(view, config.limits, config.timeouts));
    let model = ServedModel::new(fake::language_description()).unwrap();
    dispatcher.open(Arc::new(model));
    // Not over the network: there the client's own timer and the transport's race with ours.
    let service = ChatService::new(dispatcher);
    let mut call = Request::new(question("hi"));
    let deadline = tokio::time::Instant::now() + Duration::from_millis(50);
    call.extensions_mut().insert(Deadline(deadline));
    let status = match service.chat(call).await {
        Ok(_) => panic!("no leader took the request on"),
        Err(status) => status,
    };
    check_error(&status, Code::DeadlineExceeded, "DEADLINE_EXCEEDED");
    eventually("the sequence ends", || cluster.group().num_running() == 0).await;
}

#[tokio::test]
async fn a_reader_that_does_not_read_is_dropped_and_others_are_not() {
    let cluster = FakeCluster::new(1, 1);
    let stall = Duration::from_millis(400);
    let change = |config: &mut Config| {
        config.timeouts.reader_stall = stall;
    };
    let coordinator = Coordinator::with(&cluster, change).await;
    // More than the buffers of both transports take.
    let much = "hello world ".repeat(4000);
    cluster
        .group()
        .play([Step::Repeat(much, Duration::from_millis(1))]);
    let channel = coordinator.endpoint().initial_stream_window_size(65_535);
    let mut client = ChatServiceClient::new(channel.connect().await.unwrap());
    let mut slow = client.chat(question("hi")).await.unwrap().into_inner();
    next(&mut slow, 0).await.unwrap();
    assert_eq!(cluster.group().num_running(), 1);

    // Slower than the stall, but read.
    let mut steps = vec![Step::Text("hello"); 8];
    for place in (0..8).rev() {
        steps.insert(place, Step::Pause(stall / 4));
    }
    steps.push(Step::End(EndReason::Length));
    cluster.group().play(steps);
    let other = client.chat(question("hi")).await.unwrap().into_inner();
    let other = Answer::read(other).await;
    assert_eq!(other.text(), "hello".repeat(8));
    other.finished();

    eventually("the slow one's sequence ends", || {
        cluster.group().num_running() == 0
    })
    .await;
    let mut seq = 1;
    let status = loop {
        match next(&mut slow, seq).await {
            Ok(Some(_)) => seq += 1,
            Ok(None) => panic!("the answer was cut without an error"),
            Err(status) => break status,
        }
    };
    check_error(&status, Code::ResourceExhausted, "READER_TOO_SLOW");
}

#[tokio::test]
async fn a_leader_that_is_away_is_unavailable_and_the_client_told_when_to_retry() {
    let cluster = FakeCluster::new(1, 1);
    let coordinator = Coordinator::over(&cluster).await;
    cluster.group().set_away(true);
    let status = coordinator.refusal(question("hi")).await;
    check_error(&status, Code::Unavailable, "LANGUAGE_UNAVAILABLE");
    let retry = status.get_details_retry_info().unwrap();
    assert_eq!(retry.retry_delay, Some(Duration::from_secs(1)));
    let pushback = status.metadata().get("grpc-retry-pushback-ms").unwrap();
    assert_eq!(pushback, "1000");

    cluster.group().set_away(false);
    let answer = Answer::read(coordinator.chat(question("hi")).await.unwrap()).await;
    assert_eq!(answer.text(), "hello");
}

#[tokio::test]
async fn another_group_answers_when_one_is_away() {
    let cluster = FakeCluster::new(2, 1);
    let coordinator = Coordinator::over(&cluster).await;
    cluster.groups[0].set_away(true);
    let answer = Answer::read(coordinator.chat(question("hi")).await.unwrap()).await;
    assert_eq!(answer.text(), "hello");
    assert_eq!(cluster.groups[1].asked().len(), 1);
}

#[tokio::test]
async fn a_group_that_was_started_anew_answers_under_its_new_epoch() {
    let cluster = FakeCluster::new(1, 1);
    let coordinator = Coordinator::over(&cluster).await;
    Answer::read(coordinator.chat(question("hi")).await.unwrap()).await;
    cluster.group().restart();
    let answer = Answer::read(coordinator.chat(question("hi")).await.unwrap()).await;
    assert_eq!(answer.text(), "hello");
    let epochs: Vec<_> = cluster
        .group()
        .asked()
        .iter()
        .map(|asked| asked.epoch.0)
        .collect();
    assert_eq!(epochs, [1, 1, 2]);
}

#[tokio::test]
async fn a_group_that_came_back_with_another_model_is_not_used() {
    let cluster = FakeCluster::new(1, 1);
    let coordinator = Coordinator::over(&cluster).await;
    Answer::read(coordinator.chat(question("hi")).await.unwrap()).await;
    let mut other = fake::model_description();
    other.name = "other".into();
    cluster.group().set_model(other);
    cluster.group().restart();
    let status = coordinator.refusal(question("hi")).await;
    check_error(&status, Code::Unavailable, "LANGUAGE_UNAVAILABLE");
    assert!(status.message().contains("other"), "{status:?}");
}

#[tokio::test]
async fn a_full_group_is_resource_exhausted_with_its_own_delay() {
    let cluster = FakeCluster::new(1, 1);
    let coordinator = Coordinator::over(&cluster).await;
    cluster.group().script(Script::Refuse(WorkerError::Busy {
        message: "64 sequences wait".into(),
        retry_after: Some(Duration::from_secs(7)),
    }));
    let status = coordinator.refusal(question("hi")).await;
    check_error(&status, Code::ResourceExhausted, "CLUSTER_FULL");
    let retry = status.get_details_retry_info().unwrap();
    assert_eq!(retry.retry_delay, Some(Duration::from_secs(7)));
}

#[tokio::test]
async fn shutdown_lets_running_answers_end_and_refuses_new_ones() {
    let cluster = FakeCluster::new(1, 1);
    let coordinator = Coordinator::over(&cluster).await;
    cluster.group().play([
        Step::Text("hello"),
        Step::Pause(Duration::from_millis(500)),
        Step::Text(" world"),
        Step::End(EndReason::Stop),
    ]);
    let channel = coordinator.channel().await;
    let mut client = ChatServiceClient::new(channel);
    let mut answer = client.chat(question("hi")).await.unwrap().into_inner();
    next(&mut answer, 0).await.unwrap();
    next(&mut answer, 1).await.unwrap();
    coordinator.shutdown.cancel();
    tokio::time::sleep(Duration::from_millis(100)).await;
    let status = client.chat(question("hi")).await.unwrap_err();
    check_error(&status, Code::Unavailable, "SHUTTING_DOWN");
    let last: Vec<_> = [next(&mut answer, 2).await, next(&mut answer, 3).await].into();
    assert!(matches!(&last[0], Ok(Some(Event::Delta(delta))) if delta.text == " world"));
    assert!(matches!(&last[1], Ok(Some(Event::Finished(_)))));
    coordinator.stopped().await.unwrap();
}

#[tokio::test]
async fn past_the_drain_limit_running_answers_are_cut() {
    let cluster = FakeCluster::new(1, 1);
    let change = |config: &mut Config| config.timeouts.drain = Duration::from_millis(200);
    let coordinator = Coordinator::with(&cluster, change).await;
    cluster.group().play(endless());
    let answer = coordinator.chat(question("hi")).await.unwrap();
    let answer = tokio::spawn(Answer::read(answer));
    eventually("the sequence runs", || cluster.group().num_running() == 1).await;
    coordinator.stop().await.unwrap();
    let status = answer.await.unwrap().end.unwrap_err();
    check_error(&status, Code::Unavailable, "SHUTTING_DOWN");
    assert_eq!(cluster.group().num_running(), 0);
}
