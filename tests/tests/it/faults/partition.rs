//! A network that loses, cuts and resets: between coordinators and groups, between ranks, and around etcd. Every process has a
//! machine of its own.

use std::time::{Duration, Instant};

use inkstone_tests::{
    client::{connect, greedy, text, user},
    cluster::{Cluster, Group, Settings},
    load::{Clients, Load},
    network::Network,
    relay::Line,
};
use tokio::time::sleep;

use super::{
    SERVE_AGAIN, always, assert_resumed, assert_unmoved, assert_whole, in_the_middle, once, turn,
    turn_with_network, two_groups,
};

const STREAMS: usize = 16;

fn in_a_network() -> Settings {
    Settings {
        network: true,
        ..two_groups()
    }
}

fn network(cluster: &Cluster) -> &Network {
    cluster.network.as_ref().expect("it has one")
}

/// A form of trouble between a coordinator and a leader.
type Trouble = (&'static str, fn(&Network, &str));

/// A form of trouble between a leader and its follower.
type RankTrouble = (&'static str, fn(&Network, &str, &str));

#[tokio::test(flavor = "multi_thread")]
async fn partition_between_a_coordinator_and_a_group() {
    let Some(turn) = turn_with_network().await else {
        return;
    };
    let mut cluster = Cluster::start(in_a_network()).await;
    let moving: [Trouble; 4] = [
        ("coordinator | group, both ways", |net, leader| {
            net.cut("c0", leader);
        }),
        ("coordinator <- group lost", |net, leader| {
            net.cut_one_way(leader, "c0");
        }),
        ("coordinator -> group lost", |net, leader| {
            net.cut_one_way("c0", leader);
        }),
        ("coordinator | group, reset", |net, leader| {
            net.reset("c0", leader);
        }),
    ];
    let before = cluster.groups();
    for (fault, hurt) in moving {
        let clients = once(&cluster, STREAMS);
        let hurt = async |cluster: &mut Cluster, group: Group| {
            hurt(network(cluster), group.leader());
        };
        let (report, at) = in_the_middle(fault, &turn, &mut cluster, clients, hurt).await;
        assert_resumed(&report, at);
        let of_other = report.outcomes().iter().filter(|one| {
            let others = cluster.address("c1");
            one.coordinator == others && one.moves() > 0
        });
        assert_eq!(of_other.count(), 0, "the other coordinator hears it well");
        network(&cluster).heal();
        // Both ways are tried again: clients of this coordinator reach both groups.
        sleep(Duration::from_secs(3)).await;
    }
    let clients = once(&cluster, STREAMS);
    let hurt = async |cluster: &mut Cluster, group: Group| {
        network(cluster).lose("c0", group.leader(), 15);
    };
    let fault = "coordinator | group, 15 % of packets lost";
    let (report, _) = in_the_middle(fault, &turn, &mut cluster, clients, hurt).await;
    report.assert_right();
    network(&cluster).heal();
    assert_eq!(
        before,
        cluster.groups(),
        "a group that serves is left alone"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn partition_between_the_ranks_of_a_group() {
    let Some(turn) = turn_with_network().await else {
        return;
    };
    let mut cluster = Cluster::start(in_a_network()).await;
    let forms: [RankTrouble; 2] = [
        ("rank | rank, both ways", Network::cut),
        ("rank -> rank lost", |net, leader, follower| {
            net.cut_one_way(follower, leader);
        }),
    ];
    for (fault, form) in forms {
        let clients = once(&cluster, STREAMS);
        let hurt = async |cluster: &mut Cluster, group: Group| {
            form(network(cluster), group.leader(), group.follower());
            cluster.wait_for_new_life(&group, SERVE_AGAIN).await;
        };
        let (report, at) = in_the_middle(fault, &turn, &mut cluster, clients, hurt).await;
        assert_resumed(&report, at);
        network(&cluster).heal();
        assert_whole(&cluster).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn partition_around_etcd() {
    let Some(turn) = turn_with_network().await else {
        return;
    };
    let mut cluster = Cluster::start(in_a_network()).await;
    let all = cluster.running();
    let clients = once(&cluster, STREAMS * 2);
    let hurt = async |cluster: &mut Cluster, _: Group| {
        for name in &all {
            network(cluster).cut(name, "etcd");
        }
        sleep(Duration::from_secs(6)).await;
        network(cluster).heal();
        cluster.wait_until_right().await;
    };
    let fault = "everything | etcd for 6 s";
    let (report, _) = in_the_middle(fault, &turn, &mut cluster, clients, hurt).await;
    report.assert_right();

    // A leader that only etcd does not hear counts as gone: its group gets another life elsewhere, and what it still says is not
    // listened to.
    let clients = always(&cluster, STREAMS);
    let hurt = async |cluster: &mut Cluster, group: Group| {
        network(cluster).cut(group.leader(), "etcd");
        cluster.wait_for_new_life(&group, SERVE_AGAIN).await;
    };
    let fault = "leader | etcd";
    let (report, _) = in_the_middle(fault, &turn, &mut cluster, clients, hurt).await;
    // Whoever ends before the group's other rank is called away has nothing to move for.
    report.assert_right();
    network(&cluster).heal();
    cluster.wait_until_right().await;

    // A coordinator that etcd does not hear places no more, and serves on.
    let placer = cluster.placer().expect("one was elected");
    let clients = always(&cluster, STREAMS);
    let mut killed = String::new();
    let hurt = async |cluster: &mut Cluster, group: Group| {
        network(cluster).cut(&placer, "etcd");
        group.follower().clone_into(&mut killed);
        cluster.kill(&killed);
        cluster.wait_for_new_life(&group, SERVE_AGAIN).await;
    };
    let fault = "placing coordinator | etcd, and kill -9 of a rank";
    let (report, at) = in_the_middle(fault, &turn, &mut cluster, clients, hurt).await;
    assert_resumed(&report, at);
    let now = cluster.placer();
    assert!(now.is_some_and(|now| now != placer), "another one places");
    network(&cluster).heal();
    cluster.restart(&killed);
    assert_whole(&cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn partition_that_hides_a_death_leaves_no_half_open_call() {
    let Some(turn) = turn_with_network().await else {
        return;
    };
    let mut cluster = Cluster::start(in_a_network()).await;
    let clients = once(&cluster, STREAMS);
    let mut killed = String::new();
    let hurt = async |cluster: &mut Cluster, group: Group| {
        // No packet of the dead process's connections arrives: they stay half open.
        for other in ["c0", "c1", group.follower()] {
            network(cluster).cut(other, group.leader());
        }
        group.leader().clone_into(&mut killed);
        cluster.kill(&killed);
        cluster.wait_for_new_life(&group, SERVE_AGAIN).await;
    };
    let fault = "kill -9 of a leader that nobody is told of";
    let (report, at) = in_the_middle(fault, &turn, &mut cluster, clients, hurt).await;
    assert_resumed(&report, at);
    network(&cluster).heal();
    cluster.restart(&killed);
    cluster.wait_until_right().await;
    let report = Load::start(once(&cluster, STREAMS), &turn.cases)
        .finish()
        .await;
    assert_unmoved(&report);
    assert_whole(&cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn partition_of_a_slow_wire() {
    let Some(turn) = turn().await else { return };
    let mut settings = two_groups();
    settings.coordinators = 1;
    settings.relayed = ["l0", "l1", "l2", "l3", "l4", "v0", "v1"]
        .map(str::to_owned)
        .to_vec();
    let mut cluster = Cluster::start(settings).await;
    let set = |cluster: &Cluster, line| {
        for name in ["l0", "l1", "l2", "l3", "l4", "v0", "v1"] {
            cluster.relay(name).set(line);
        }
    };
    set(&cluster, Line::Open(Duration::from_millis(15)));
    let report = Load::start(once(&cluster, STREAMS), &turn.cases)
        .finish()
        .await;
    assert_unmoved(&report);
    // The wire to a leader freezes: the calls to it are open, and nothing comes.
    set(&cluster, Line::Open(Duration::ZERO));
    let clients = Clients {
        addresses: cluster.coordinators(),
        ..once(&cluster, STREAMS)
    };
    let hurt = async |cluster: &mut Cluster, group: Group| {
        cluster.relay(group.leader()).set(Line::Frozen);
    };
    let fault = "the wire to a leader freezes";
    let (report, at) = in_the_middle(fault, &turn, &mut cluster, clients, hurt).await;
    assert_resumed(&report, at);
}

#[tokio::test(flavor = "multi_thread")]
async fn partition_that_swallows_clients_ends_their_requests() {
    /// Longer than anybody waits here.
    const ANSWER_TOKENS: u32 = 3500;
    let Some(_turn) = turn_with_network().await else {
        return;
    };
    let mut settings = in_a_network();
    let silence = ["--client-silence", "2"].map(str::to_owned);
    settings.coordinator_arguments.extend(silence);
    let cluster = Cluster::start(settings).await;
    let mut streams = Vec::new();
    let mut client = connect(&cluster.address("c0")).await;
    for number in 0..8 {
        let question = text(&format!("Tell me of {number} circles."));
        let mut request = greedy(vec![user(vec![question])], ANSWER_TOKENS);
        request.stop.get_or_insert_default().ignore_eos = true;
        let stream = client.chat(request).await;
        streams.push(stream.expect("nothing is wrong with it").into_inner());
    }
    let begun = Instant::now();
    for stream in &mut streams {
        for _ in 0..100 {
            stream.message().await.unwrap().expect("a long answer");
        }
    }
    let whole_answers = begun.elapsed() * (ANSWER_TOKENS / 100);
    // Nobody says goodbye: the clients' machine is not heard any more.
    network(&cluster).cut_off_from_the_test("c0");
    let cut = Instant::now();
    assert!(!cluster.busy_groups_heard_by("c1").await.is_empty());
    while !cluster.busy_groups_heard_by("c1").await.is_empty() {
        assert!(
            cut.elapsed() < whole_answers / 2,
            "answers go on that nobody hears"
        );
        sleep(Duration::from_millis(100)).await;
    }
    network(&cluster).heal();
}
