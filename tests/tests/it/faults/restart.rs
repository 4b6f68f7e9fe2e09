//! SIGTERM: a process goes when its work is done, at once when it is told twice, and a cluster is renewed piece by piece without
//! anybody noticing.

use std::time::{Duration, Instant};

use inkstone_tests::{
    cases::record,
    cluster::Cluster,
    load::{Clients, Load},
    report::Row,
};

use super::{MIDDLE, always, assert_whole, once, table, turn, two_groups};

#[tokio::test(flavor = "multi_thread")]
async fn recovery_rolling_restart_of_every_process_fails_no_stream() {
    let Some(_turn) = turn().await else { return };
    let mut cluster = Cluster::start(two_groups()).await;
    // Short answers: a process that drains waits for them.
    let cases = record(&cluster.coordinators()[0], 16, 64).await;
    let clients = Clients {
        elsewhere: true,
        ..always(&cluster, 12)
    };
    let load = Load::start(clients, &cases);
    let at = load.wait_until_all_run(1).await;
    for name in cluster.running() {
        let began = Instant::now();
        let status = cluster.stop(&name, Duration::from_secs(60));
        assert!(status.success(), "{name} ended with {status}");
        let ended = began.elapsed();
        cluster.restart(&name);
        cluster.wait_until_right().await;
        eprintln!(
            "{name} drained for {:.1} s and was replaced after {:.1} s",
            ended.as_secs_f64(),
            began.elapsed().as_secs_f64()
        );
    }
    let serving_again = Some(at.elapsed());
    let report = load.finish().await;
    let fault = "SIGTERM and restart of every process in turn";
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
    assert!(report.len() > 24, "only {} requests", report.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn fault_second_sigterm_ends_a_process_at_once() {
    let Some(turn) = turn().await else { return };
    for name in ["c0", "l0", "v0"] {
        let mut settings = two_groups();
        (settings.coordinators, settings.vision_nodes) = (1, 1);
        (settings.language_nodes, settings.language_replicas) = (1, 1);
        (settings.devices, settings.tensor_parallel) = (2, 2);
        let mut cluster = Cluster::start(settings).await;
        // Enough that much is left to finish when the second signal comes.
        let load = Load::start(once(&cluster, 32), &turn.cases);
        load.wait_until_all_run(MIDDLE).await;
        if name != "v0" {
            cluster.process(name).terminate();
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let began = Instant::now();
        let status = cluster.stop(name, Duration::from_secs(30));
        let took = began.elapsed();
        if name == "v0" {
            assert!(status.success(), "{name} had nothing to finish: {status}");
        } else {
            assert!(
                !status.success(),
                "{name} was told twice and says all is well"
            );
            assert!(took < Duration::from_secs(5), "{name} took {took:?}");
        }
        drop(load);
    }
}
