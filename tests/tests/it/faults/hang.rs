//! SIGSTOP: a process that holds its connections and says nothing. Nobody hangs with it.

use inkstone_tests::{
    cluster::{Cluster, Group},
    load::Load,
};

use super::{
    SERVE_AGAIN, assert_resumed, assert_unmoved, assert_whole, in_the_middle, once, turn,
    two_groups,
};

const STREAMS: usize = 64;

async fn freeze(fault: &str, which: fn(&Group) -> &str) {
    let Some(turn) = turn().await else { return };
    let mut cluster = Cluster::start(two_groups()).await;
    let clients = once(&cluster, STREAMS);
    let mut name = String::new();
    let hurt = async |cluster: &mut Cluster, group: Group| {
        which(&group).clone_into(&mut name);
        cluster.process(&name).pause();
        cluster.wait_for_new_life(&group, SERVE_AGAIN).await;
    };
    let (report, at) = in_the_middle(fault, &turn, &mut cluster, clients, hurt).await;
    assert_resumed(&report, at);
    assert_eq!(report.len(), STREAMS, "none hangs");
    // It wakes up in a world that went on without it: it is the spare now, and disturbs nobody.
    let load = Load::start(once(&cluster, STREAMS / 4), &turn.cases);
    cluster.process(&name).resume();
    cluster.wait_until_right().await;
    let report = load.finish().await;
    assert_unmoved(&report);
    assert_whole(&cluster).await;
    let groups = cluster.groups();
    let is_used = groups.iter().any(|group| group.nodes.contains(&name));
    assert!(!is_used, "{name} is in {groups:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn fault_frozen_rank_hangs_nobody() {
    freeze("SIGSTOP of a follower rank, 64 streams", Group::follower).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fault_frozen_leader_hangs_nobody() {
    freeze("SIGSTOP of a leader, 64 streams", Group::leader).await;
}
