//! Leases: lost without a word, under a name that another took, over connections that nobody speaks on.

use std::time::Duration;

use inkstone_cluster::{
    ClusterState, Epoch, NodeId, Phase,
    etcd::{EtcdSettings, connect},
};
use tokio::time::sleep;

use crate::fixture::{
    Etcd, LEASE, Wire, Witness, connected, coordinator, elected, eventually, has_node,
    is_installed, registry, settings, shows, steady, vision, worker,
};

#[tokio::test]
async fn a_lease_that_was_lost_quietly_is_replaced_and_nobody_is_missed() {
    if !is_installed() {
        return;
    }
    let etcd = Etcd::start();
    let (one, other) = (connected(&etcd.url).await, connected(&etcd.url).await);
    let announcement = one.announce(worker("a", "1"));
    let status = vision(Epoch(1), Phase::Ready);
    announcement.set_status(status.clone());
    let candidacy = one.campaign(coordinator("c"));
    let fence = elected(candidacy.fence()).await;
    let id = NodeId::new("a");
    shows(&other, "the worker", |state| {
        state.statuses.get(&id) == Some(&status)
    })
    .await;
    let lease = etcd.lease_of("nodes/a");
    assert_ne!(lease, 0);

    let mut witness = Witness::new(&other);
    let is_whole = |state: &ClusterState| {
        assert!(has_node(state, "a"), "{state:#?}");
        assert_eq!(state.statuses.get(&id), Some(&status));
    };
    let freeze = async {
        etcd.freeze();
        // Before anybody else can be elected, and long before etcd can say anything.
        eventually(candidacy.fence(), "not placing", Option::is_none).await;
        sleep(LEASE).await;
        etcd.thaw();
        let again = elected(candidacy.fence()).await;
        assert!(again >= fence);
        // Past the time in which the missing are borne with.
        sleep(LEASE + Duration::from_millis(1500)).await;
    };
    witness.during(is_whole, freeze).await;
    let state = other.state().borrow().clone();
    assert!(has_node(&state, "a") && state.statuses.get(&id) == Some(&status));
    let renewed = etcd.lease_of("nodes/a");
    assert!(renewed != 0 && renewed != lease, "{renewed} after {lease}");
}

#[tokio::test]
async fn a_lease_that_was_taken_away_is_replaced() {
    if !is_installed() {
        return;
    }
    let etcd = Etcd::start();
    let registry = connected(&etcd.url).await;
    let _announcement = registry.announce(worker("a", "1"));
    shows(&registry, "the worker", |state| has_node(state, "a")).await;
    let lease = etcd.lease_of("nodes/a");
    etcd.ctl(&["lease", "revoke", &format!("{lease:x}")]);
    shows(&registry, "no worker", |state| !has_node(state, "a")).await;
    shows(&registry, "the worker again", |state| has_node(state, "a")).await;
    assert_ne!(etcd.lease_of("nodes/a"), lease);
}

#[tokio::test]
async fn a_record_that_was_deleted_is_written_again() {
    if !is_installed() {
        return;
    }
    let etcd = Etcd::start();
    let registry = connected(&etcd.url).await;
    let announcement = registry.announce(worker("a", "1"));
    announcement.set_status(vision(Epoch(1), Phase::Ready));
    shows(&registry, "the worker", |state| !state.statuses.is_empty()).await;
    etcd.ctl(&["del", "--prefix", "/inkstone/v1/house/"]);
    shows(&registry, "nothing", |state| state.nodes.is_empty()).await;
    shows(&registry, "the worker again", |state| {
        has_node(state, "a") && !state.statuses.is_empty()
    })
    .await;
}

#[tokio::test]
async fn an_older_process_that_comes_back_leaves_the_name_to_the_newer() {
    if !is_installed() {
        return;
    }
    let etcd = Etcd::start();
    let wire = Wire::to(etcd.port);
    let (old, new) = (registry(&wire.url), steady(&etcd.url).await);
    let _old = old.announce(worker("a", "1"));
    shows(&new, "the old one", |state| has_node(state, "a")).await;
    wire.set(crate::fixture::Line::Frozen);
    shows(&new, "nothing", |state| !has_node(state, "a")).await;
    let replacement = new.announce(worker("a", "2"));
    let id = NodeId::new("a");
    shows(&new, "the new one", |state| has_node(state, "a")).await;
    let mut witness = Witness::new(&new);
    let is_new = |state: &ClusterState| {
        assert_eq!(
            state.nodes.get(&id).map(|node| node.incarnation.as_str()),
            Some("2")
        );
    };
    let back = async {
        wire.set(crate::fixture::Line::Open);
        eventually(old.is_connected(), "back", |connected| *connected).await;
        sleep(LEASE * 2).await;
    };
    witness.during(is_new, back).await;
    // When the newer one leaves, the name is free again.
    replacement.withdraw().await;
    shows(&new, "the old one", |state| {
        state
            .nodes
            .get(&id)
            .is_some_and(|node| node.incarnation == "1")
    })
    .await;
}

#[tokio::test]
async fn a_connection_that_is_idle_stays() {
    if !is_installed() {
        return;
    }
    let etcd = Etcd::start();
    let wire = Wire::to(etcd.port);
    // Nothing of ours is said for a long time but what keeps connections alive.
    let registry = connect(EtcdSettings {
        lease: Duration::from_secs(120),
        ..settings(&[&wire.url])
    })
    .unwrap();
    let announcement = registry.announce(worker("a", "1"));
    shows(&registry, "the worker", |state| has_node(state, "a")).await;
    let before = wire.num_connections();
    assert_eq!(before, 2, "one to follow, one for the lease");
    let mut connected = registry.is_connected();
    connected.mark_unchanged();
    sleep(Duration::from_millis(12_500)).await;
    announcement.set_status(vision(Epoch(1), Phase::Ready));
    shows(&registry, "the status", |state| !state.statuses.is_empty()).await;
    assert_eq!(wire.num_connections(), before);
    assert!(!connected.has_changed().unwrap());
}
