//! Two who want to place, and never two who may.

use std::time::Duration;

use inkstone_cluster::RegistryError;
use tokio::time::{Instant, sleep};

use crate::fixture::{
    Etcd, LEASE, Line, Wire, connected, coordinator, elected, epoch, eventually, is_installed,
    put_group, registry,
};

#[tokio::test]
async fn who_is_cut_off_stops_before_another_begins() {
    if !is_installed() {
        return;
    }
    let etcd = Etcd::start();
    let wires = [Wire::to(etcd.port), Wire::to(etcd.port)];
    let registries = [registry(&wires[0].url), registry(&wires[1].url)];
    let observer = connected(&etcd.url).await;
    let candidacies = [
        registries[0].campaign(coordinator("a")),
        registries[1].campaign(coordinator("b")),
    ];
    let (mut a, mut b) = (candidacies[0].fence(), candidacies[1].fence());
    tokio::select! {
        _ = a.wait_for(Option::is_some) => {}
        _ = b.wait_for(Option::is_some) => {}
    }
    let mut placer = usize::from(candidacies[0].fence().borrow().is_none());
    let mut expected = None;
    for line in [Line::Frozen, Line::Cut, Line::Frozen] {
        let past = elected(candidacies[placer].fence()).await;
        observer
            .assign(past, vec![put_group("g", &["n"], expected)])
            .await
            .unwrap();
        expected = epoch(&observer.state().borrow(), "g");
        wires[placer].set(line);
        let cut = Instant::now();
        let mut other = candidacies[1 - placer].fence();
        let fence = *other.wait_for(Option::is_some).await.unwrap();
        // At no moment two: when one begins the other has stopped.
        assert_eq!(*candidacies[placer].fence().borrow(), None);
        assert!(cut.elapsed() < LEASE * 3, "{:?}", cut.elapsed());
        let fence = fence.unwrap();
        assert!(fence > past, "{fence:?} after {past:?}");
        // What the one that was cut off still wants to write is refused, however it gets through.
        let late = observer
            .assign(past, vec![put_group("g", &["m"], expected)])
            .await;
        assert_eq!(late, Err(RegistryError::Fenced));
        wires[placer].set(Line::Open);
        placer = 1 - placer;
    }
    // All that time the group was written by those who could.
    observer
        .assign(elected(candidacies[placer].fence()).await, vec![])
        .await
        .unwrap();
    assert_eq!(epoch(&observer.state().borrow(), "g"), expected);
}

#[tokio::test]
async fn an_election_whose_key_was_deleted_is_over_and_held_again() {
    if !is_installed() {
        return;
    }
    let etcd = Etcd::start();
    let registry = connected(&etcd.url).await;
    let candidacy = registry.campaign(coordinator("a"));
    let fence = elected(candidacy.fence()).await;
    etcd.ctl(&["del", "/inkstone/v1/house/election/placer"]);
    let again = eventually(candidacy.fence(), "another fence", |found| {
        found.is_some_and(|found| found != fence)
    })
    .await;
    assert!(again.unwrap() > fence);
    let refused = registry.assign(fence, vec![]).await;
    assert_eq!(refused, Err(RegistryError::Fenced));
}

#[tokio::test]
async fn the_placer_places_on_while_its_lease_is_renewed() {
    if !is_installed() {
        return;
    }
    let etcd = Etcd::start();
    let registry = connected(&etcd.url).await;
    let candidacy = registry.campaign(coordinator("a"));
    let fence = elected(candidacy.fence()).await;
    let mut changes = candidacy.fence();
    changes.mark_unchanged();
    sleep(LEASE * 2 + Duration::from_millis(500)).await;
    assert!(!changes.has_changed().unwrap());
    registry.assign(fence, vec![]).await.unwrap();
}
