//! Waiting for a turn, seen by clients: who goes first, who leaves, what they are told, and what a reader that does not read costs others.

use std::time::Instant;

use futures::future::join_all;

use super::*;
use crate::worker_client::{
    EndReason, WorkerError,
    fake::{FakeGroup, Step},
};

/// One place, and as much room to wait as by default.
fn one_place(config: &mut Config) {
    config.limits.max_requests = 1;
}

fn endless() -> [Step; 1] {
    [Step::Repeat("word ".into(), Duration::from_millis(5))]
}

/// Says this after a moment, and ends.
fn brief(text: &'static str) -> [Step; 3] {
    [
        Step::Pause(Duration::from_millis(20)),
        Step::Text(text),
        Step::End(EndReason::Length),
    ]
}

fn from_tenant(tenant: &'static str, request: wire::ChatRequest) -> Request<wire::ChatRequest> {
    let mut request = Request::new(request);
    let metadata = request.metadata_mut();
    metadata.insert("inkstone-tenant", tenant.parse().unwrap());
    request
}

fn batch(mut request: wire::ChatRequest) -> wire::ChatRequest {
    request.priority = wire::Priority::Batch.into();
    request
}

/// A call that waits in the queue.
fn waiting(
    coordinator: &Coordinator,
    request: Request<wire::ChatRequest>,
) -> JoinHandle<Result<Streaming<wire::ChatResponse>, Status>> {
    let endpoint = coordinator.endpoint();
    tokio::spawn(async move {
        let channel = endpoint.connect().await.unwrap();
        let answer = ChatServiceClient::new(channel).chat(request).await;
        answer.map(tonic::Response::into_inner)
    })
}

/// Long enough for a call to arrive on this machine; tests that depend on the order wait this long between calls.
async fn arrive() {
    tokio::time::sleep(Duration::from_millis(150)).await;
}

fn tenants_asked(group: &FakeGroup) -> Vec<String> {
    let asked = group.asked();
    let salts = asked.iter().map(|asked| asked.cache_salt.to_vec());
    salts.map(|salt| String::from_utf8(salt).unwrap()).collect()
}

#[tokio::test]
async fn a_tenant_that_asks_much_does_not_hold_up_one_that_asks_little() {
    for (is_fair, wanted) in [
        // What was drawn for the loud one since the quiet one came is charged to it.
        (true, ["loud", "quiet", "loud", "loud"]),
        (false, ["loud", "loud", "loud", "quiet"]),
    ] {
        let cluster = FakeCluster::new(1, 1);
        let change = |config: &mut Config| {
            one_place(config);
            config.limits.fair_queueing = is_fair;
        };
        let coordinator = Coordinator::with(&cluster, change).await;
        let group = cluster.group();
        group.play(endless());
        let first = coordinator.chat(from_tenant("loud", question("hi"))).await;
        let mut calls = vec![];
        for tenant in ["loud", "loud", "quiet"] {
            group.play(brief("hello"));
            calls.push(waiting(&coordinator, from_tenant(tenant, question("hi"))));
            arrive().await;
        }
        assert_eq!(group.asked().len(), 1);
        drop(first);
        let read = calls.into_iter().map(async |call| {
            let answer = call.await.unwrap().unwrap();
            Answer::read(answer).await.finished();
        });
        join_all(read).await;
        assert_eq!(tenants_asked(group), wanted, "fair: {is_fair}");
    }
}

#[tokio::test]
async fn interactive_requests_go_before_batch_requests() {
    let cluster = FakeCluster::new(1, 1);
    let coordinator = Coordinator::with(&cluster, one_place).await;
    let group = cluster.group();
    group.play(endless());
    let first = coordinator.chat(question("hi")).await;
    let mut calls = vec![];
    for request in [batch(question("hi")), question("hi")] {
        group.play(brief("hello"));
        calls.push(waiting(&coordinator, Request::new(request)));
        arrive().await;
    }
    drop(first);
    for call in calls {
        Answer::read(call.await.unwrap().unwrap()).await.finished();
    }
    let asked = group.asked();
    let priorities: Vec<_> = asked.iter().map(|asked| asked.priority).collect();
    use crate::worker_client::Priority::{Batch, Interactive};
    assert_eq!(priorities, [Interactive, Interactive, Batch]);
}

#[tokio::test]
async fn a_queued_client_that_goes_away_is_never_run() {
    let cluster = FakeCluster::new(1, 1);
    let coordinator = Coordinator::with(&cluster, |config| {
        one_place(config);
        config.limits.max_queued_requests = 1;
    })
    .await;
    cluster.group().play(endless());
    let running = coordinator.chat(question("hi")).await.unwrap();
    let gone = waiting(&coordinator, Request::new(question("hi")));
    arrive().await;
    let status = coordinator.refusal(question("hi")).await;
    check_error(&status, Code::ResourceExhausted, "TOO_MANY_REQUESTS");
    gone.abort();
    // Its place in the queue is free at once, while the other one still runs.
    let next = waiting(&coordinator, Request::new(question("hi")));
    arrive().await;
    assert!(!next.is_finished(), "it waits");
    drop(running);
    Answer::read(next.await.unwrap().unwrap()).await.finished();
    assert_eq!(cluster.group().asked().len(), 2);
}

#[tokio::test]
async fn the_deadline_of_a_queued_request_ends_it() {
    let cluster = FakeCluster::new(1, 1);
    let coordinator = Coordinator::with(&cluster, one_place).await;
    cluster.group().play(endless());
    let _running = coordinator.chat(question("hi")).await.unwrap();
    let request = with_deadline(question("hi"), Duration::from_millis(200));
    let Err(status) = coordinator.chat(request).await else {
        panic!("it had its turn");
    };
    // The client's own timer races with ours.
    let codes = [Code::DeadlineExceeded, Code::Cancelled];
    assert!(codes.contains(&status.code()), "{status:?}");
    assert_eq!(cluster.group().asked().len(), 1);
}

#[tokio::test]
async fn shutdown_sends_queued_requests_away_and_lets_running_ones_end() {
    let cluster = FakeCluster::new(1, 1);
    let coordinator = Coordinator::with(&cluster, one_place).await;
    cluster.group().play([
        Step::Text("hello"),
        Step::Pause(Duration::from_millis(800)),
        Step::Text(" world"),
        Step::End(EndReason::Stop),
    ]);
    let running = coordinator.chat(question("hi")).await.unwrap();
    let queued = waiting(&coordinator, Request::new(question("hi")));
    arrive().await;
    coordinator.shutdown.cancel();
    let status = timeout(PATIENCE, queued)
        .await
        .unwrap()
        .unwrap()
        .unwrap_err();
    check_error(&status, Code::Unavailable, "SHUTTING_DOWN");
    assert_eq!(Answer::read(running).await.text(), "hello world");
    coordinator.stopped().await.unwrap();
}

#[tokio::test]
async fn a_request_that_waited_too_long_is_told_when_to_come_again() {
    let cluster = FakeCluster::new(1, 1);
    let coordinator = Coordinator::with(&cluster, |config| {
        one_place(config);
        config.timeouts.queued = Duration::from_millis(300);
    })
    .await;
    cluster.group().play(endless());
    let running = coordinator.chat(question("hi")).await.unwrap();
    let running = tokio::spawn(Answer::read(running));
    let status = coordinator.refusal(question("hi")).await;
    check_error(&status, Code::ResourceExhausted, "QUEUED_TOO_LONG");
    let retry = status
        .get_details_retry_info()
        .unwrap()
        .retry_delay
        .unwrap();
    // Computed from what was served meanwhile, and not the default of a second.
    assert_ne!(retry, Duration::from_secs(1));
    assert!(retry >= Duration::from_millis(100), "{retry:?}");
    running.abort();
}

#[tokio::test]
async fn one_reader_of_fifty_that_reads_nothing_costs_the_others_nothing_and_is_dropped() {
    const READERS: usize = 50;
    let cluster = FakeCluster::new(1, 1);
    let stall = Duration::from_secs(2);
    let coordinator =
        Coordinator::with(&cluster, |config| config.timeouts.reader_stall = stall).await;
    // Far more than the transports buffer, and far more than the queue keeps apart.
    let much = "hello world ".repeat(2000);
    cluster
        .group()
        .play([Step::Repeat(much, Duration::from_millis(1))]);
    let channel = coordinator.endpoint().initial_stream_window_size(65_535);
    let mut client = ChatServiceClient::new(channel.connect().await.unwrap());
    let mut slow = client.chat(question("hi")).await.unwrap().into_inner();
    next(&mut slow, 0).await.unwrap();
    // On the same connection as the slow one, which must not use up the window that they share.
    let steps: Vec<Step> = (0..20)
        .flat_map(|_| [Step::Pause(Duration::from_millis(20)), Step::Text("hello ")])
        .chain([Step::End(EndReason::Length)])
        .collect();
    for _ in 1..READERS {
        cluster.group().play(steps.clone());
    }
    let began = Instant::now();
    let others = (1..READERS).map(|_| {
        let mut client = client.clone();
        async move {
            let answer = client.chat(question("hi")).await.unwrap().into_inner();
            let answer = Answer::read(answer).await;
            assert_eq!(answer.text(), "hello ".repeat(20));
            answer.finished();
        }
    });
    timeout(PATIENCE, join_all(others)).await.unwrap();
    let took = began.elapsed();
    // 20 pauses of 20 ms by themselves; one that waited for the slow reader would take its whole stall.
    assert!(took < stall, "{took:?}");
    eventually("the slow one's sequence ends", || {
        cluster.group().num_running() == 0
    })
    .await;
    let mut seq = 1;
    let mut received = 0;
    let status = loop {
        match next(&mut slow, seq).await {
            Ok(Some(Event::Delta(delta))) => received += delta.text.len(),
            Ok(Some(_)) => {}
            Ok(None) => panic!("the answer was cut without an error"),
            Err(status) => break status,
        }
        seq += 1;
    };
    check_error(&status, Code::ResourceExhausted, "READER_TOO_SLOW");
    // What was buffered for it on the way: the windows of the transports and a few messages, not the answer.
    assert!(received < 1 << 20, "{received} bytes");
}

#[tokio::test]
async fn a_request_that_is_moved_keeps_its_place() {
    let cluster = FakeCluster::new(1, 1);
    let coordinator = Coordinator::with(&cluster, |config| {
        one_place(config);
        config.timeouts.recovery = PATIENCE;
    })
    .await;
    let group = cluster.group();
    group.play([
        Step::Text("hello"),
        Step::Pause(Duration::from_millis(400)),
        Step::Fail(WorkerError::Unavailable("killed".into())),
    ]);
    group.play([Step::Text(" world"), Step::End(EndReason::Length)]);
    let moved = coordinator.chat(question("hi")).await.unwrap();
    let queued = waiting(&coordinator, Request::new(question("wait")));
    arrive().await;
    let moved = Answer::read(moved).await;
    assert_eq!(moved.text(), "hello world");
    assert_eq!(moved.trailer("inkstone-moves"), "1");
    Answer::read(queued.await.unwrap().unwrap())
        .await
        .finished();
    // The one that waited came last, though it waited when the other one was lost.
    let asked = group.asked();
    let first_in_line: Vec<_> = asked.iter().map(|asked| asked.first_in_line).collect();
    assert_eq!(first_in_line, [false, true, false]);
    assert_eq!(asked[0].request_id, asked[1].request_id);
    assert_ne!(asked[1].request_id, asked[2].request_id);
}
