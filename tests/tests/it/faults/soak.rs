//! Faults drawn from a seed, one after the other, on a cluster that is asked all the time. `INKSTONE_SOAK_SECONDS` says for how long,
//! `INKSTONE_SOAK_SEED` repeats a draw.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use inkstone_tests::{
    cluster::{Cluster, Settings},
    load::{Clients, Load},
    network::{self, Network},
    report::Row,
};
use tokio::time::sleep;

use super::{always, assert_whole, table, turn, two_groups};

/// Where nobody asks for more.
const DEFAULT_SECONDS: u64 = 40;

/// How long it may take after a fault until all that is wanted serves.
const RIGHT_AGAIN: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, Copy)]
enum Fault {
    KillLeader,
    KillFollower,
    KillTwoFollowers,
    KillVision,
    KillCoordinator,
    KillEtcd,
    StopEtcd,
    FreezeEtcd,
    FreezeFollower,
    FreezeLeader,
    StopLanguageNode,
    StopVision,
    KillFollowerAndCompact,
    CutCoordinatorFromLeader,
    CutRanks,
    CutLeaderFromEtcd,
    LosePackets,
}

/// Those that take a network of the cluster's own are last.
const FAULTS: [Fault; 17] = [
    Fault::KillLeader,
    Fault::KillFollower,
    Fault::KillTwoFollowers,
    Fault::KillVision,
    Fault::KillCoordinator,
    Fault::KillEtcd,
    Fault::StopEtcd,
    Fault::FreezeEtcd,
    Fault::FreezeFollower,
    Fault::FreezeLeader,
    Fault::StopLanguageNode,
    Fault::StopVision,
    Fault::KillFollowerAndCompact,
    Fault::CutCoordinatorFromLeader,
    Fault::CutRanks,
    Fault::CutLeaderFromEtcd,
    Fault::LosePackets,
];

const NUM_WITHOUT_NETWORK: usize = 13;

/// Numbers that follow from a seed: SplitMix64.
struct Draw(u64);

impl Draw {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    fn milliseconds(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_millis(from + self.next() % (to - from))
    }

    /// All faults once, in some order, before any comes again.
    fn shuffled(&mut self, has_network: bool) -> Vec<Fault> {
        let mut faults = FAULTS.to_vec();
        if !has_network {
            faults.truncate(NUM_WITHOUT_NETWORK);
        }
        for index in (1..faults.len()).rev() {
            faults.swap(index, self.below(index + 1));
        }
        faults
    }
}

fn number(variable: &str) -> Option<u64> {
    let value = std::env::var(variable).ok()?;
    let number = value.parse();
    Some(number.unwrap_or_else(|_| panic!("{variable} must be a number, found `{value}`")))
}

/// A coordinator that was killed: answers that it was giving then are lost.
struct Killed {
    coordinator: String,
    /// Just before it was.
    from: Instant,
    /// When it was gone.
    until: Instant,
}

/// Does it, and gives the members that are down or frozen for it.
fn hurt(
    fault: Fault,
    cluster: &mut Cluster,
    draw: &mut Draw,
    killed: &mut Vec<Killed>,
) -> Vec<String> {
    let groups = cluster.groups();
    let which = draw.below(groups.len());
    let group = &groups[which];
    match fault {
        Fault::KillLeader => kill(cluster, &[group.leader()]),
        Fault::KillFollower => kill(cluster, &[group.follower()]),
        Fault::KillTwoFollowers => {
            let other = &groups[(which + 1) % groups.len()];
            kill(cluster, &[group.follower(), other.follower()])
        }
        Fault::KillVision => kill(cluster, &[["v0", "v1"][draw.below(2)]]),
        Fault::KillCoordinator => {
            let name = ["c0", "c1"][draw.below(2)];
            let from = Instant::now();
            let names = kill(cluster, &[name]);
            killed.push(Killed {
                coordinator: cluster.address(name),
                from,
                until: Instant::now(),
            });
            names
        }
        Fault::KillEtcd => {
            cluster.etcd.kill();
            Vec::new()
        }
        Fault::StopEtcd => {
            cluster.etcd.stop();
            Vec::new()
        }
        Fault::FreezeEtcd => {
            cluster.etcd.pause();
            Vec::new()
        }
        Fault::FreezeFollower => freeze(cluster, group.follower()),
        Fault::FreezeLeader => freeze(cluster, group.leader()),
        Fault::StopLanguageNode => stop(cluster, group.nodes[draw.below(2)].as_str()),
        Fault::StopVision => stop(cluster, ["v0", "v1"][draw.below(2)]),
        Fault::KillFollowerAndCompact => {
            let names = kill(cluster, &[group.follower()]);
            cluster.etcd.compact();
            names
        }
        Fault::CutCoordinatorFromLeader => {
            network(cluster).cut(["c0", "c1"][draw.below(2)], group.leader());
            Vec::new()
        }
        Fault::CutRanks => {
            network(cluster).cut(group.leader(), group.follower());
            Vec::new()
        }
        Fault::CutLeaderFromEtcd => {
            network(cluster).cut(group.leader(), "etcd");
            Vec::new()
        }
        Fault::LosePackets => {
            network(cluster).lose(["c0", "c1"][draw.below(2)], group.leader(), 10);
            network(cluster).lose(group.leader(), group.follower(), 3);
            Vec::new()
        }
    }
}

fn network(cluster: &Cluster) -> &Network {
    cluster.network.as_ref().expect("it has one")
}

fn kill(cluster: &mut Cluster, names: &[&str]) -> Vec<String> {
    for name in names {
        cluster.kill(name);
    }
    names.iter().map(|&name| name.to_owned()).collect()
}

fn freeze(cluster: &Cluster, name: &str) -> Vec<String> {
    cluster.process(name).pause();
    vec![name.to_owned()]
}

fn stop(cluster: &mut Cluster, name: &str) -> Vec<String> {
    let status = cluster.stop(name, RIGHT_AGAIN);
    assert!(status.success(), "{name} ended with {status}");
    vec![name.to_owned()]
}

/// Undoes what a fault did.
fn mend(fault: Fault, cluster: &mut Cluster, names: &[String]) {
    match fault {
        Fault::KillEtcd | Fault::StopEtcd => cluster.etcd.restart(),
        Fault::FreezeEtcd => cluster.etcd.resume(),
        Fault::FreezeFollower | Fault::FreezeLeader => {
            for name in names {
                cluster.process(name).resume();
            }
        }
        Fault::CutCoordinatorFromLeader
        | Fault::CutRanks
        | Fault::CutLeaderFromEtcd
        | Fault::LosePackets => network(cluster).heal(),
        Fault::KillLeader
        | Fault::KillFollower
        | Fault::KillTwoFollowers
        | Fault::KillVision
        | Fault::KillCoordinator
        | Fault::StopLanguageNode
        | Fault::StopVision
        | Fault::KillFollowerAndCompact => {
            for name in names {
                cluster.restart(name);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn recovery_soak_under_faults_from_a_seed() {
    let Some(turn) = turn().await else { return };
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.expect("it is after 1970").as_nanos() as u64;
    let seed = number("INKSTONE_SOAK_SEED").unwrap_or(now);
    let seconds = number("INKSTONE_SOAK_SECONDS").unwrap_or(DEFAULT_SECONDS);
    eprintln!("INKSTONE_SOAK_SEED={seed} INKSTONE_SOAK_SECONDS={seconds}");
    let settings = Settings {
        language_nodes: 7,
        language_replicas: 3,
        network: network::is_possible(),
        ..two_groups()
    };
    let mut cluster = Cluster::start(settings).await;
    let clients = Clients {
        elsewhere: true,
        ..always(&cluster, 16)
    };
    let load = Load::start(clients, &turn.cases);
    let at = load.wait_until_all_run(1).await;
    let mut draw = Draw(seed);
    let (mut killed, mut faults, mut slowest) = (Vec::new(), Vec::new(), Duration::ZERO);
    let mut num_faults = 0;
    while at.elapsed() < Duration::from_secs(seconds) {
        if faults.is_empty() {
            faults = draw.shuffled(cluster.network.is_some());
        }
        let fault = faults.pop().expect("there are some");
        sleep(draw.milliseconds(200, 2000)).await;
        let began = at.elapsed();
        let names = hurt(fault, &mut cluster, &mut draw, &mut killed);
        sleep(draw.milliseconds(200, 4000)).await;
        mend(fault, &mut cluster, &names);
        let took = cluster.wait_until_right_within(RIGHT_AGAIN).await;
        slowest = slowest.max(took);
        num_faults += 1;
        eprintln!(
            "{:6.1} s: {fault:?} {names:?}, right again {:.1} s after it was mended",
            began.as_secs_f64(),
            took.as_secs_f64()
        );
    }
    let mut report = load.finish().await;
    let margin = Duration::from_secs(1);
    report.excuse(|one| {
        killed.iter().any(|killed| {
            one.coordinator == killed.coordinator
                && one.started <= killed.until
                && killed.from <= one.ended + margin
        })
    });
    let fault = format!("{num_faults} faults in {seconds} s, seed {seed}");
    report.tabulate(
        table(),
        Row {
            fault: &fault,
            at,
            serving_again: Some(slowest),
        },
    );
    eprintln!(
        "{} requests, {} of them moved; {} lost with {} killed coordinators",
        report.len(),
        report.num_moved(),
        report.num_excused(),
        killed.len()
    );
    report.assert_right();
    assert_whole(&cluster).await;
}
