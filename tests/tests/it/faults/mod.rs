//! Clusters of real processes and a real etcd, hurt in every way we know while clients listen: each of them must hear exactly what it
//! would have heard, after a pause at most. The tests take the machine for themselves, one after the other.

mod etcd_away;
mod hang;
mod kill;
mod partition;
mod restart;
mod soak;

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use inkstone_tests::{
    cases::{Case, record},
    cluster::{Cluster, Group, Settings},
    etcd,
    load::{Clients, Load},
    network,
    report::{Report, Row},
};
use tokio::sync::{Mutex, MutexGuard, OnceCell};

use crate::cluster_fixture::{Served, program, small_model};

/// Kinds of requests are eight, so these are four of each.
const NUM_CASES: usize = 32;

/// Long enough that a fault falls into the middle of every answer.
const MAX_TOKENS: u32 = 160;

/// Tokens that every client has heard when a fault comes.
const MIDDLE: u32 = 24;

/// A request that is moved goes on within 3 s when another group is there. Debug builds on a machine that does other things, too,
/// are given more; the table says how long it took.
const RESUME: Duration = Duration::from_secs(3 * SLACK);

/// A spare serves within 10 s.
const SERVE_AGAIN: Duration = Duration::from_secs(10 * SLACK);

const SLACK: u64 = 4;

static TURN: Mutex<()> = Mutex::const_new(());

/// The right to use the machine, and what is right.
struct Turn {
    cases: Vec<Arc<Case>>,
    _guard: MutexGuard<'static, ()>,
}

/// Waits for this test's turn; none where the machine lacks something, which is said.
async fn turn() -> Option<Turn> {
    static CASES: OnceCell<Vec<Arc<Case>>> = OnceCell::const_new();
    if std::env::var_os("INKSTONE_FAULTS").is_none() {
        eprintln!("skipped: clusters are hurt with INKSTONE_FAULTS=1 only, one after the other");
        return None;
    }
    if !etcd::is_installed() {
        eprintln!("skipped: etcd and etcdctl are not installed");
        return None;
    }
    let guard = TURN.lock().await;
    let undisturbed = async || {
        let served = Served::start(small_model(), &["--tensor-parallel", "2"]);
        record(&served.address, NUM_CASES, MAX_TOKENS).await
    };
    Some(Turn {
        cases: CASES.get_or_init(undisturbed).await.clone(),
        _guard: guard,
    })
}

/// The same, for a test that makes networks.
async fn turn_with_network() -> Option<Turn> {
    if !network::is_possible() {
        eprintln!("skipped: network namespaces take root, `ip` and `nft`");
        return None;
    }
    turn().await
}

/// Two coordinators, two groups of two ranks, a spare, two vision workers.
fn two_groups() -> Settings {
    Settings::new(program(), small_model())
}

/// Where the table of recoveries is.
fn table() -> &'static Path {
    Path::new(env!("CARGO_TARGET_TMPDIR"))
}

/// So many clients, dealt out over all coordinators, each for one answer.
fn once(cluster: &Cluster, streams: usize) -> Clients {
    Clients {
        addresses: cluster.coordinators(),
        streams,
        repeat: false,
        elsewhere: false,
    }
}

/// The same, again and again.
fn always(cluster: &Cluster, streams: usize) -> Clients {
    Clients {
        repeat: true,
        ..once(cluster, streams)
    }
}

/// Hurts a cluster in the middle of all answers of `clients`, and tells what came of them. `hurt` is given the group that most of those
/// run in whose coordinator is the first of `clients`; it ends when all that it waits for serves again, and how long that took is in
/// the table.
async fn in_the_middle(
    fault: &str,
    turn: &Turn,
    cluster: &mut Cluster,
    clients: Clients,
    hurt: impl AsyncFnOnce(&mut Cluster, Group),
) -> (Report, Instant) {
    let first = clients.addresses[0].clone();
    let load = Load::start(clients, &turn.cases);
    load.wait_until_all_run(MIDDLE).await;
    let group = cluster.group(&load.busiest_group(|coordinator| coordinator == first));
    let at = Instant::now();
    hurt(cluster, group).await;
    let serving_again = at.elapsed();
    let report = load.finish().await;
    report.tabulate(
        table(),
        Row {
            fault,
            at,
            serving_again: Some(serving_again),
        },
    );
    (report, at)
}

/// All members are there, all that is wanted serves, and nothing is left of what was asked.
async fn assert_whole(cluster: &Cluster) {
    cluster.wait_until_right().await;
    cluster.wait_until_idle().await;
}

/// Whether tests that wait long are wanted.
fn is_patient() -> bool {
    std::env::var("INKSTONE_LONG_TESTS").is_ok_and(|value| value == "1")
}

/// Every answer was right, some were moved, and none waited longer than it may.
#[track_caller]
fn assert_resumed(report: &Report, at: Instant) {
    report.assert_right();
    assert!(report.num_moved() > 0, "nothing had to move");
    let pause = report.longest_pause(at, |_| true);
    assert!(pause < RESUME, "a stream paused for {pause:?}");
}

/// Every answer was right, and none had to move.
#[track_caller]
fn assert_unmoved(report: &Report) {
    report.assert_right();
    assert_eq!(report.num_moved(), 0, "requests were moved for nothing");
}
