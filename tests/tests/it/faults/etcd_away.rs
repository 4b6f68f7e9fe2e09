//! Etcd stopped, frozen, and with its past forgotten: membership waits, requests do not.

use std::time::{Duration, Instant};

use inkstone_tests::{
    cluster::{Cluster, Group},
    load::{Clients, Load},
    relay::Line,
    report::Row,
};
use tokio::time::sleep;

use super::{
    SERVE_AGAIN, Turn, always, assert_unmoved, assert_whole, is_patient, once, table, turn,
    two_groups,
};

const STREAMS: usize = 12;

/// How long etcd is away.
fn absence() -> Duration {
    Duration::from_secs(if is_patient() { 60 } else { 10 })
}

/// Takes etcd away under load and gives it back.
async fn without_etcd(
    fault: &str,
    turn: &Turn,
    take: fn(&mut Cluster),
    give_back: fn(&mut Cluster),
    away: Duration,
) {
    let mut cluster = Cluster::start(two_groups()).await;
    let before = cluster.groups();
    let load = Load::start(always(&cluster, STREAMS), &turn.cases);
    let at = load.wait_until_all_run(1).await;
    take(&mut cluster);
    sleep(away).await;
    let done = load.num_done();
    give_back(&mut cluster);
    let back = Instant::now();
    cluster.wait_until_right().await;
    let serving_again = Some(back.elapsed());
    // Some more, with what was heard from etcd.
    sleep(Duration::from_secs(2)).await;
    let report = load.finish().await;
    report.tabulate(
        table(),
        Row {
            fault,
            at,
            serving_again,
        },
    );
    report.assert_right();
    assert_whole(&cluster).await;
    assert!(done > 0, "no request was served while etcd was away");
    let lives = |groups: &[Group]| groups.iter().map(|one| one.epoch).collect::<Vec<_>>();
    eprintln!(
        "epochs before: {:?}, after: {:?}",
        lives(&before),
        lives(&cluster.groups())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn fault_stopped_etcd_costs_no_request() {
    let Some(turn) = turn().await else { return };
    let away = absence();
    let fault = format!("etcd stopped for {} s", away.as_secs());
    let (take, give_back) = (
        |cluster: &mut Cluster| cluster.etcd.stop(),
        |cluster: &mut Cluster| cluster.etcd.restart(),
    );
    without_etcd(&fault, &turn, take, give_back, away).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fault_frozen_etcd_whose_leases_run_out_costs_no_request() {
    let Some(turn) = turn().await else { return };
    let (take, give_back) = (
        |cluster: &mut Cluster| cluster.etcd.pause(),
        |cluster: &mut Cluster| cluster.etcd.resume(),
    );
    let fault = "etcd frozen for 6 s, three times the leases";
    without_etcd(fault, &turn, take, give_back, Duration::from_secs(6)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fault_compaction_while_a_coordinator_is_cut_off_hides_nothing_from_it() {
    let Some(turn) = turn().await else { return };
    let mut settings = two_groups();
    settings.relayed_to_etcd = vec!["c1".into()];
    let mut cluster = Cluster::start(settings).await;
    cluster.relay("c1-etcd").set(Line::Cut);
    let placed_by_other = |state: &inkstone_cluster::ClusterState| {
        state.coordinators.len() == 1 && state.placer.as_ref().is_some_and(|id| id.as_str() == "c0")
    };
    cluster
        .wait_until("c0 places alone", SERVE_AGAIN, placed_by_other)
        .await;
    // Both groups get new lives that the coordinator does not hear of, one of them on other nodes.
    for index in [0, 1] {
        let group = cluster.groups().remove(index);
        cluster.kill(group.follower());
        cluster.wait_for_new_life(&group, SERVE_AGAIN).await;
        if index == 0 {
            cluster.restart(group.follower());
        }
    }
    cluster.etcd.compact();
    cluster.relay("c1-etcd").set(Line::Open(Duration::ZERO));
    cluster.wait_until_right().await;
    let clients = Clients {
        addresses: vec![cluster.address("c1")],
        ..once(&cluster, STREAMS)
    };
    let report = Load::start(clients, &turn.cases).finish().await;
    assert_unmoved(&report);
    let lives: Vec<(String, u64)> = cluster
        .groups()
        .iter()
        .map(|group| (group.id.to_string(), group.epoch.0))
        .collect();
    for (_, receipt) in report.outcomes().iter().flat_map(|one| &one.receipts) {
        let life = (receipt.group.clone(), receipt.epoch);
        assert!(
            lives.contains(&life),
            "{life:?} is over; there are {lives:?}"
        );
    }
}
