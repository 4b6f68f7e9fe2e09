//! etcd away: at the start, for a while, one of its members, and back with older data.

use std::time::{Duration, Instant};

use inkstone_cluster::{Deployment, Epoch, NodeId, Phase, RegistryError, etcd::connect};
use tokio::time::sleep;

use crate::fixture::{
    Etcd, LEASE, Line, Wire, Witness, connected, coordinator, elected, epoch, eventually, has_node,
    is_installed, put_group, registry, settings, shows, vision, within, worker,
};

fn wanted() -> Deployment {
    Deployment {
        model: None,
        language_replicas: 1,
        tensor_parallel: 1,
        vision_replicas: 1,
    }
}

#[tokio::test]
async fn away_at_the_start_nothing_waits_and_all_is_there_when_it_comes() {
    if !is_installed() {
        return;
    }
    let mut etcd = Etcd::prepare("http");
    let asked = Instant::now();
    let registry = registry(&etcd.url);
    let announcement = registry.announce(worker("a", "1"));
    announcement.set_status(vision(Epoch(1), Phase::Joining));
    let candidacy = registry.campaign(coordinator("c"));
    assert!(asked.elapsed() < Duration::from_secs(1));
    assert!(!*registry.is_connected().borrow());
    assert!(registry.state().borrow().nodes.is_empty());
    let failed = within(
        Duration::from_secs(4),
        registry.set_deployment(&wanted(), None),
    )
    .await;
    assert!(
        matches!(failed, Err(RegistryError::Unavailable(_))),
        "{failed:?}"
    );
    assert_eq!(*candidacy.fence().borrow(), None);

    etcd.up();
    let fence = elected(candidacy.fence()).await;
    shows(&registry, "all of it", |state| {
        !state.statuses.is_empty() && !state.coordinators.is_empty() && has_node(state, "a")
    })
    .await;
    eventually(registry.is_connected(), "connected", |connected| *connected).await;
    registry
        .assign(fence, vec![put_group("g", &["a"], None)])
        .await
        .unwrap();
}

#[tokio::test]
async fn one_that_was_never_there_can_be_left() {
    if !is_installed() {
        return;
    }
    let etcd = Etcd::prepare("http");
    let registry = registry(&etcd.url);
    let announcement = registry.announce(worker("a", "1"));
    let candidacy = registry.campaign(coordinator("c"));
    let leaving = async {
        announcement.withdraw().await;
        candidacy.resign().await;
    };
    within(Duration::from_secs(2), leaving).await;
}

#[tokio::test]
async fn killed_and_started_on_the_same_data_nobody_is_missed_and_epochs_go_on() {
    if !is_installed() {
        return;
    }
    let mut etcd = Etcd::start();
    let (one, other) = (connected(&etcd.url).await, connected(&etcd.url).await);
    let announcement = one.announce(worker("a", "1"));
    announcement.set_status(vision(Epoch(1), Phase::Ready));
    let candidacy = other.campaign(coordinator("c"));
    let fence = elected(candidacy.fence()).await;
    let before = other
        .assign(fence, vec![put_group("g", &["a"], None)])
        .await
        .unwrap();
    shows(&other, "the worker", |state| !state.statuses.is_empty()).await;

    let mut witness = Witness::new(&other);
    let is_whole = |state: &inkstone_cluster::ClusterState| {
        assert!(
            has_node(state, "a") && !state.statuses.is_empty(),
            "{state:#?}"
        );
        assert_eq!(epoch(state, "g"), Some(Epoch(before.0 as u64)));
    };
    let outage = async {
        etcd.down();
        eventually(other.is_connected(), "away", |connected| !connected).await;
        // Longer than a lease.
        sleep(LEASE + Duration::from_secs(1)).await;
        assert_eq!(
            *candidacy.fence().borrow(),
            None,
            "nobody knows who else is elected"
        );
        let failed = other
            .assign(fence, vec![put_group("h", &["a"], None)])
            .await;
        assert!(
            matches!(failed, Err(RegistryError::Unavailable(_))),
            "{failed:?}"
        );
        etcd.up();
        eventually(other.is_connected(), "back", |connected| *connected).await;
        elected(candidacy.fence()).await
    };
    let fence = witness.during(is_whole, outage).await;
    let expected = Some(Epoch(before.0 as u64));
    let after = other
        .assign(fence, vec![put_group("g", &["a"], expected)])
        .await
        .unwrap();
    assert!(after > before);
    // Past the time in which the missing are borne with: it is really there.
    sleep(LEASE + Duration::from_millis(1500)).await;
    assert!(has_node(&other.state().borrow(), "a"));
    assert_ne!(etcd.lease_of("nodes/a"), 0);
}

#[tokio::test]
async fn with_older_data_the_last_that_was_known_stays() {
    if !is_installed() {
        return;
    }
    let mut etcd = Etcd::start();
    let registry = connected(&etcd.url).await;
    let candidacy = registry.campaign(coordinator("c"));
    let fence = elected(candidacy.fence()).await;
    let mut expected = None;
    for _ in 0..20 {
        registry
            .assign(fence, vec![put_group("g", &["a"], expected)])
            .await
            .unwrap();
        expected = epoch(&registry.state().borrow(), "g");
    }
    etcd.down();
    etcd.wipe();
    etcd.up();
    let mut witness = Witness::new(&registry);
    let is_whole = |state: &inkstone_cluster::ClusterState| assert_eq!(epoch(state, "g"), expected);
    witness
        .during(is_whole, sleep(Duration::from_secs(2)))
        .await;
    assert!(!*registry.is_connected().borrow());
    // A new process has known nothing else.
    let young = connected(&etcd.url).await;
    assert!(young.state().borrow().groups.is_empty());
}

#[tokio::test]
async fn the_next_address_is_used_when_one_does_not_answer() {
    if !is_installed() {
        return;
    }
    let etcd = Etcd::start();
    let wires = [Wire::to(etcd.port), Wire::to(etcd.port)];
    let nobody = format!("http://127.0.0.1:{}", crate::fixture::free_port());
    let registry = connect(settings(&[&nobody, &wires[0].url, &wires[1].url])).unwrap();
    let announcement = registry.announce(worker("a", "1"));
    shows(&registry, "the worker", |state| has_node(state, "a")).await;
    for round in 0..4 {
        let (good, bad) = (&wires[round % 2], &wires[(round + 1) % 2]);
        good.set(Line::Open);
        bad.set(if round < 2 { Line::Cut } else { Line::Frozen });
        let status = vision(Epoch(round as u64), Phase::Joining);
        announcement.set_status(status.clone());
        let id = NodeId::new("a");
        shows(&registry, "the status", |state| {
            state.statuses.get(&id) == Some(&status)
        })
        .await;
    }
}

#[tokio::test]
async fn a_member_of_three_is_not_missed() {
    if !is_installed() {
        return;
    }
    let mut members = Etcd::start_three();
    let urls: Vec<_> = members.iter().map(|member| member.url.clone()).collect();
    let urls: Vec<_> = urls.iter().map(String::as_str).collect();
    let (one, other) = (
        connect(settings(&urls)).unwrap(),
        connect(settings(&urls)).unwrap(),
    );
    let _announcement = one.announce(worker("a", "1"));
    let candidacy = other.campaign(coordinator("c"));
    let fence = elected(candidacy.fence()).await;
    other
        .assign(fence, vec![put_group("g", &["a"], None)])
        .await
        .unwrap();
    shows(&other, "the worker", |state| has_node(state, "a")).await;
    let mut witness = Witness::new(&other);
    let is_whole = |state: &inkstone_cluster::ClusterState| assert!(has_node(state, "a"));
    let loss = async {
        // The one that leads them, so that they have to agree on another.
        let leads = |member: &Etcd| {
            let status = member.ctl(&["endpoint", "status"]);
            status.split(", ").nth(4) == Some("true")
        };
        let leader = members.iter().position(leads).expect("one leads");
        members[leader].down();
        sleep(LEASE * 2).await;
        let fence = elected(candidacy.fence()).await;
        let write = other.assign(fence, vec![put_group("h", &["a"], None)]);
        within(Duration::from_secs(5), write).await.unwrap();
        shows(&one, "the group", |state| epoch(state, "h").is_some()).await;
    };
    witness.during(is_whole, loss).await;
}
