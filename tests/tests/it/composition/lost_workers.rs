//! A leader that is killed in the middle of a composition is not noticed, but for the pause. Two language groups, each a process; the
//! other one goes on with what the lost one wrote.

use std::{thread, time::Duration};

use inkstone_proto::v1::{ComposeEvent, ComposeRequest, compose_event::Event};
use inkstone_tests::{pictures::stripes, process::Process};
use serde_json::Value;

use super::client::{Told, compose_events, connect, follow, follow_until, picture, request};
use crate::cluster_fixture::{program, small_model};

/// A fault may come just between two requests; then there is another try.
const TRIES: usize = 5;

struct TwoGroups {
    groups: Vec<Process>,
    _vision: Process,
    coordinator: Process,
    address: String,
}

impl TwoGroups {
    fn start() -> Self {
        let worker = |role: &str| {
            let arguments = ["worker", "--role", role, "--model", small_model()];
            let more = ["--grpc", "127.0.0.1:0", "--threads", "1"];
            Process::start(program(), &[&arguments[..], &more[..]].concat())
        };
        let groups = vec![worker("language"), worker("language")];
        let vision = worker("vision");
        let address = |process: &Process| process.wait_for("listening", "address");
        let leaders: Vec<String> = groups.iter().map(address).collect();
        let coordinator = Process::start(
            program(),
            &[
                "coordinator",
                "--grpc",
                "127.0.0.1:0",
                "--language",
                &leaders.join(","),
                "--vision",
                &address(&vision),
            ],
        );
        let address = coordinator.wait_for("coordinator ready", "address");
        Self {
            groups,
            _vision: vision,
            coordinator,
            address,
        }
    }

    /// The group that was given a request last.
    fn busy(&self) -> usize {
        let log = self.coordinator.log_text();
        let lines = log.lines().rev();
        let mut taken = lines.filter(|line| line.contains("request taken on"));
        let line: Value = serde_json::from_str(taken.next().expect("requests run")).expect("JSON");
        let group = line["fields"]["group"].as_str().expect("it says which");
        let number = group.rsplit('-').next().expect("it has a number");
        number.parse().expect("a number")
    }

    fn num_moved(&self) -> usize {
        let log = self.coordinator.log_text();
        log.matches("what ran the request is lost").count()
    }

    /// Has both groups take requests, so that either can go on at once.
    async fn wait_for_both(&self) {
        for _ in 0..1200 {
            let log = self.coordinator.log_text();
            if log.matches("language group described itself").count() >= 2 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("only one group is there:\n{}", self.coordinator.log_text());
    }
}

/// Others that compose the same beside it, so that a leader hardly ever has nothing to do.
const COMPANY: usize = 3;

/// Composes twice, the second time with a kill -9 of the leader at work as soon as `is_due`; both are the same, and so is what others
/// compose meanwhile.
async fn same_with_a_kill(request: ComposeRequest, is_due: fn(&[ComposeEvent]) -> bool) {
    for _ in 0..TRIES {
        let mut cluster = TwoGroups::start();
        cluster.wait_for_both().await;
        let mut client = connect(&cluster.address).await;
        let undisturbed = Told::of(&compose_events(&mut client, request.clone()).await);
        assert_eq!(cluster.num_moved(), 0, "nothing was lost yet");

        let company = (0..COMPANY).map(|_| {
            let (address, request) = (cluster.address.clone(), request.clone());
            tokio::spawn(async move {
                let mut client = connect(&address).await;
                Told::of(&compose_events(&mut client, request).await)
            })
        });
        let company: Vec<_> = company.collect();
        let stream = client.compose(request.clone()).await.expect("it is taken");
        let mut stream = stream.into_inner();
        let mut events = vec![];
        while !is_due(&events) {
            events.extend(follow_until(&mut stream, |_| true).await);
        }
        let busy = cluster.busy();
        cluster.groups[busy].kill();
        let first = events.len() as u64;
        events.extend(follow(&mut stream, first).await);
        let disturbed = Told::of(&events);
        assert_eq!(disturbed, undisturbed, "as if nothing had happened");
        for other in company {
            assert_eq!(other.await.expect("it ends"), undisturbed, "nor to others");
        }
        if cluster.num_moved() > 0 {
            return;
        }
        eprintln!("the leader had nothing to do when it was killed: once more");
        thread::sleep(Duration::from_millis(100));
    }
    panic!("in {TRIES} tries no leader was killed at work");
}

fn num(events: &[ComposeEvent], is_it: fn(&Event) -> bool) -> usize {
    let events = events.iter().filter_map(|event| event.event.as_ref());
    events.filter(|event| is_it(event)).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn composition_goes_on_when_its_leader_is_killed_while_it_writes() {
    let request = ComposeRequest {
        picture_count: Some(0),
        ..request("Write an article about the village with five paragraphs.")
    };
    let in_the_text =
        |events: &[ComposeEvent]| num(events, |event| matches!(event, Event::TextDelta(_))) >= 8;
    same_with_a_kill(request, in_the_text).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn composition_goes_on_when_its_leader_is_killed_while_it_chooses() {
    let request = ComposeRequest {
        pictures: (0..6).map(|seed| picture(stripes(seed))).collect(),
        ..request(
            "Write an article about the station from this outline:\n1. a red circle\n2. a blue star\n3. a green ring\n4. a black cross",
        )
    };
    let among_choices = |events: &[ComposeEvent]| {
        num(events, |event| matches!(event, Event::ImageSelected(_))) >= 1
    };
    same_with_a_kill(request, among_choices).await;
}
