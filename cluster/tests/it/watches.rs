//! Watches: cut off while etcd forgets, ended by etcd, fed with what cannot be read.

use std::time::Duration;

use etcd_client::Client;
use inkstone_cluster::{
    Change, Epoch, GroupId, NodeId, Phase,
    etcd::{EtcdSettings, connect},
};
use tokio::time::sleep;

use crate::fixture::{
    Etcd, LEASE, Line, Log, Wire, Witness, connected, coordinator, elected, epoch, eventually,
    has_node, is_installed, put_group, registry, settings, shows, steady, vision, worker,
};

#[tokio::test]
async fn what_was_deleted_and_compacted_while_cut_off_is_seen_afterwards() {
    if !is_installed() {
        return;
    }
    let etcd = Etcd::start();
    let wire = Wire::to(etcd.port);
    let (far, near) = (registry(&wire.url), steady(&etcd.url).await);
    let candidacy = near.campaign(coordinator("c"));
    let fence = elected(candidacy.fence()).await;
    let (gone, stays) = (
        near.announce(worker("gone", "1")),
        near.announce(worker("stays", "1")),
    );
    near.assign(
        fence,
        vec![
            put_group("old", &["gone"], None),
            put_group("kept", &["stays"], None),
        ],
    )
    .await
    .unwrap();
    near.set_draining(&NodeId::new("gone"), true).await.unwrap();
    let before = shows(&far, "both workers", |state| {
        has_node(state, "gone") && has_node(state, "stays") && !state.draining.is_empty()
    })
    .await;

    wire.set(Line::Cut);
    eventually(far.is_connected(), "cut off", |connected| !connected).await;
    gone.withdraw().await;
    near.set_draining(&NodeId::new("gone"), false)
        .await
        .unwrap();
    let changes = vec![
        Change::RemoveGroup {
            group: GroupId::new("old"),
            expected: epoch(&before, "old").unwrap(),
        },
        put_group("kept", &["stays"], epoch(&before, "kept")),
        put_group("new", &["stays"], None),
    ];
    near.assign(fence, changes).await.unwrap();
    stays.set_status(vision(Epoch(1), Phase::Ready));
    let after = shows(&near, "the status", |state| !state.statuses.is_empty()).await;
    etcd.ctl(&["compaction", &etcd.revision().to_string(), "--physical"]);
    assert_eq!(
        *far.state().borrow(),
        before,
        "it goes on with the last it knew"
    );

    let mut witness = Witness::new(&far);
    let back = async {
        wire.set(Line::Open);
        shows(&far, "what was changed", |state| {
            state.groups == after.groups && state.draining.is_empty() && !state.statuses.is_empty()
        })
        .await;
        shows(&far, "that one is gone", |state| !has_node(state, "gone")).await;
    };
    let kept = |state: &inkstone_cluster::ClusterState| assert!(has_node(state, "stays"));
    witness.during(kept, back).await;
    // And it goes on from there.
    near.assign(fence, vec![put_group("more", &["stays"], None)])
        .await
        .unwrap();
    let seen = shows(&far, "the last group", |state| {
        epoch(state, "more").is_some()
    })
    .await;
    assert_eq!(seen.nodes.len(), 1);
}

#[tokio::test]
async fn a_watch_that_etcd_cancels_is_begun_anew_from_a_listing() {
    if !is_installed() {
        return;
    }
    let log = Log::start();
    let etcd = Etcd::start();
    let wire = Wire::to(etcd.port);
    // Patient enough that the standstill below passes for a slow moment.
    let far = connect(EtcdSettings {
        lease: Duration::from_secs(60),
        request_timeout: Duration::from_secs(20),
        ..settings(&[&wire.url])
    })
    .unwrap();
    eventually(far.is_connected(), "etcd answers", |connected| *connected).await;
    let near = connected(&etcd.url).await;
    let candidacy = near.campaign(coordinator("c"));
    let fence = elected(candidacy.fence()).await;
    near.assign(fence, vec![put_group("old", &["a"], None)])
        .await
        .unwrap();
    let before = shows(&far, "the group", |state| epoch(state, "old").is_some()).await;
    let num_connections = wire.num_connections();

    // A watcher that does not read falls behind, and then what it has not read is compacted.
    wire.set(Line::Frozen);
    let mut client = Client::connect([&etcd.url], None).await.unwrap();
    for number in 0..500 {
        let value = vec![b'x'; 60_000];
        client
            .put(format!("/inkstone/v1/house/ballast/{number}"), value, None)
            .await
            .unwrap();
    }
    let remove = Change::RemoveGroup {
        group: GroupId::new("old"),
        expected: epoch(&before, "old").unwrap(),
    };
    near.assign(fence, vec![remove, put_group("new", &["a"], None)])
        .await
        .unwrap();
    client
        .delete(
            "/inkstone/v1/house/ballast/",
            Some(etcd_client::DeleteOptions::new().with_prefix()),
        )
        .await
        .unwrap();
    etcd.ctl(&["compaction", &etcd.revision().to_string()]);
    sleep(Duration::from_millis(500)).await;

    let mut witness = Witness::new(&far);
    let back = async {
        wire.set(Line::Open);
        shows(&far, "the change", |state| {
            epoch(state, "new").is_some() && epoch(state, "old").is_none()
        })
        .await
    };
    witness.during(|_| {}, back).await;
    assert!(
        log.text().contains("compacted up to revision"),
        "the trap was not sprung"
    );
    assert_eq!(
        wire.num_connections(),
        num_connections,
        "the same connection goes on"
    );
    near.assign(fence, vec![put_group("more", &["a"], None)])
        .await
        .unwrap();
    shows(&far, "what comes after", |state| {
        epoch(state, "more").is_some()
    })
    .await;
}

#[tokio::test]
async fn what_cannot_be_read_is_skipped() {
    if !is_installed() {
        return;
    }
    let etcd = Etcd::start();
    let registry = connected(&etcd.url).await;
    let candidacy = registry.campaign(coordinator("c"));
    let fence = elected(candidacy.fence()).await;
    registry
        .assign(fence, vec![put_group("g", &["a"], None)])
        .await
        .unwrap();
    let known = epoch(&registry.state().borrow(), "g");
    let mut client = Client::connect([&etcd.url], None).await.unwrap();
    let strange: [(&[u8], &[u8]); 9] = [
        (b"/inkstone/v1/house/groups/g", b"nonsense"),
        (b"/inkstone/v1/house/groups/h", b"{\"ranks\": 7}"),
        (b"/inkstone/v1/house/nodes/a", b"\xff\xfe"),
        (b"/inkstone/v1/house/nodes/\xff", b"{}"),
        (b"/inkstone/v1/house/nodes/a/b/c", b"{}"),
        (b"/inkstone/v1/house/", b""),
        (b"/inkstone/v1/house/nccl/g/minus-one", b""),
        (b"/inkstone/v1/house/deployment", b"[]"),
        (b"/inkstone/v1/house/status/a", b"null"),
    ];
    for (key, value) in strange {
        client.put(key, value, None).await.unwrap();
    }
    registry
        .assign(fence, vec![put_group("after", &["a"], None)])
        .await
        .unwrap();
    // The same by a listing, of one that has not known the group before.
    let young = connected(&etcd.url).await;
    for (who, expected) in [(&registry, known), (&young, None)] {
        let state = shows(who, "what can be read", |state| {
            epoch(state, "after").is_some()
        })
        .await;
        assert_eq!(epoch(&state, "g"), expected);
        assert_eq!(epoch(&state, "h"), None);
        assert!(state.nodes.is_empty() && state.statuses.is_empty());
        assert_eq!(state.deployment, None);
    }
}

#[tokio::test]
async fn clusters_that_share_an_etcd_do_not_see_each_other() {
    if !is_installed() {
        return;
    }
    let etcd = Etcd::start();
    let one = connected(&etcd.url).await;
    let other = connect(EtcdSettings {
        cluster: "house-2".into(),
        ..settings(&[&etcd.url])
    })
    .unwrap();
    let _here = one.announce(worker("a", "1"));
    let _there = other.announce(worker("b", "1"));
    shows(&one, "its own", |state| has_node(state, "a")).await;
    shows(&other, "its own", |state| has_node(state, "b")).await;
    let (a, b) = (
        one.campaign(coordinator("a")),
        other.campaign(coordinator("b")),
    );
    elected(a.fence()).await;
    elected(b.fence()).await;
    sleep(LEASE / 2).await;
    assert!(!has_node(&one.state().borrow(), "b") && !has_node(&other.state().borrow(), "a"));
}
