//! What every registry owes, asked of each.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use inkstone_cluster::{
    Change, Deployment, Epoch, Fence, GroupId, InProcessRegistry, LanguageStatus, Membership,
    NodeId, NodeStatus, Phase, Registry, RegistryError, Revision,
};
use tokio::time::sleep;

use crate::fixture::{
    Etcd, LEASE, Witness, coordinator, elected, epoch, eventually, has_node, is_installed,
    put_group, registry, shows, vision, within, worker,
};

/// Where the processes of a test meet.
enum House {
    InProcess(Arc<dyn Registry>),
    Etcd(Etcd),
}

impl House {
    /// The registry as one process sees it.
    fn process(&self) -> Arc<dyn Registry> {
        match self {
            Self::InProcess(registry) => Arc::clone(registry),
            Self::Etcd(etcd) => registry(&etcd.url),
        }
    }

    /// Waits until what was dropped is gone, if it ever will be.
    async fn settle(&self) {
        match self {
            Self::InProcess(_) => sleep(Duration::from_millis(20)).await,
            Self::Etcd(_) => sleep(LEASE + Duration::from_secs(1)).await,
        }
    }
}

macro_rules! behaviours {
    ($($name:ident),* $(,)?) => {
        mod in_process {
            $(
                #[tokio::test]
                async fn $name() {
                    let registry = super::InProcessRegistry::new();
                    super::$name(super::House::InProcess(registry)).await;
                }
            )*
        }
        mod etcd {
            $(
                #[tokio::test]
                async fn $name() {
                    if super::is_installed() {
                        super::$name(super::House::Etcd(super::Etcd::start())).await;
                    }
                }
            )*
        }
    };
}

behaviours! {
    what_is_announced_is_seen_until_it_is_withdrawn,
    what_is_dropped_goes,
    another_process_of_a_name_takes_its_place,
    the_last_word_about_progress_is_seen,
    one_is_elected_and_the_next_when_it_resigns,
    the_next_is_elected_when_one_is_dropped,
    epochs_are_revisions_and_grow,
    changes_are_made_all_or_not_at_all,
    a_fence_of_the_past_is_refused,
    what_is_wanted_is_written_over_what_was_expected_only,
    draining_is_said_and_taken_back,
    ranks_meet_by_an_id_of_their_epoch,
    what_cannot_be_written_is_refused,
    members_are_those_that_say_they_serve,
}

async fn what_is_announced_is_seen_until_it_is_withdrawn(house: House) {
    let (one, other) = (house.process(), house.process());
    let record = worker("a", "1");
    let announcement = one.announce(record.clone());
    let seen = shows(&other, "the record", |state| has_node(state, "a")).await;
    assert_eq!(seen.nodes[&record.id], record);
    let status = vision(Epoch(3), Phase::Joining);
    announcement.set_status(status.clone());
    shows(&other, "the status", |state| {
        state.statuses.get(&record.id) == Some(&status)
    })
    .await;
    within(Duration::from_secs(5), announcement.withdraw()).await;
    let seen = shows(&other, "nothing of it", |state| !has_node(state, "a")).await;
    assert!(seen.statuses.is_empty());
    // Nothing that is said later brings it back.
    announcement.set_status(status);
    sleep(Duration::from_millis(300)).await;
    assert!(other.state().borrow().statuses.is_empty());
}

async fn what_is_dropped_goes(house: House) {
    let (one, other) = (house.process(), house.process());
    let announcement = one.announce(worker("a", "1"));
    announcement.set_status(vision(Epoch(1), Phase::Ready));
    shows(&other, "the status", |state| !state.statuses.is_empty()).await;
    drop(announcement);
    let seen = shows(&other, "nothing of it", |state| !has_node(state, "a")).await;
    assert!(seen.statuses.is_empty());
}

async fn another_process_of_a_name_takes_its_place(house: House) {
    let (one, other) = (house.process(), house.process());
    let first = one.announce(worker("a", "1"));
    first.set_status(vision(Epoch(1), Phase::Ready));
    shows(&other, "the first one's status", |state| {
        !state.statuses.is_empty()
    })
    .await;
    let second = other.announce(worker("a", "2"));
    let is_second = |state: &inkstone_cluster::ClusterState| {
        state
            .nodes
            .get(&NodeId::new("a"))
            .is_some_and(|node| node.incarnation == "2")
    };
    let seen = shows(&one, "the second", is_second).await;
    assert!(seen.statuses.is_empty(), "it said nothing yet: {seen:#?}");
    // Neither the first one's words nor its end are the second one's.
    first.set_status(vision(Epoch(1), Phase::Draining));
    sleep(Duration::from_millis(700)).await;
    assert!(one.state().borrow().statuses.is_empty());
    second.set_status(vision(Epoch(2), Phase::Ready));
    shows(&one, "the second one's status", |state| {
        !state.statuses.is_empty()
    })
    .await;
    first.withdraw().await;
    drop(first);
    house.settle().await;
    let state = one.state().borrow().clone();
    assert!(is_second(&state) && state.statuses.len() == 1, "{state:#?}");
}

async fn the_last_word_about_progress_is_seen(house: House) {
    let (one, other) = (house.process(), house.process());
    let announcement = one.announce(worker("a", "1"));
    let before = shows(&other, "the record", |state| has_node(state, "a")).await;
    for done_bytes in 0..200 {
        let phase = Phase::Loading {
            done_bytes,
            total_bytes: 200,
        };
        announcement.set_status(vision(Epoch(1), phase));
        sleep(Duration::from_millis(5)).await;
    }
    announcement.set_status(vision(Epoch(1), Phase::Ready));
    let ready = vision(Epoch(1), Phase::Ready);
    let id = NodeId::new("a");
    let readied = std::time::Instant::now();
    let seen = shows(&other, "ready", |state| {
        state.statuses.get(&id) == Some(&ready)
    })
    .await;
    if let House::Etcd(_) = house {
        // A second and more of progress at two words a second, the first and the last one.
        let num_writes = seen.revision.0 - before.revision.0;
        assert!(num_writes <= 10, "{num_writes} writes");
        assert!(
            readied.elapsed() < Duration::from_secs(2),
            "it is told at once"
        );
    }
}

async fn one_is_elected_and_the_next_when_it_resigns(house: House) {
    let processes = [house.process(), house.process(), house.process()];
    let first = processes[0].campaign(coordinator("a"));
    let fence = elected(first.fence()).await;
    let others: Vec<_> = processes[1..]
        .iter()
        .zip(["b", "c"])
        .map(|(process, id)| process.campaign(coordinator(id)))
        .collect();
    let seen = shows(&processes[1], "all three", |state| {
        state.coordinators.len() == 3
    })
    .await;
    assert_eq!(seen.placer, Some(NodeId::new("a")));
    assert!(others.iter().all(|other| other.fence().borrow().is_none()));

    within(Duration::from_secs(5), first.resign()).await;
    assert_eq!(*first.fence().borrow(), None);
    let (mut b, mut c) = (others[0].fence(), others[1].fence());
    let next = within(Duration::from_secs(20), async {
        tokio::select! {
            fence = b.wait_for(Option::is_some) => fence.unwrap().unwrap(),
            fence = c.wait_for(Option::is_some) => fence.unwrap().unwrap(),
        }
    })
    .await;
    assert!(next > fence);
    let num_elected = others
        .iter()
        .filter(|other| other.fence().borrow().is_some());
    assert_eq!(num_elected.count(), 1);
    let seen = shows(&processes[0], "two, one placing", |state| {
        state.coordinators.len() == 2 && state.placer.is_some()
    })
    .await;
    assert!(
        seen.coordinators
            .contains_key(seen.placer.as_ref().unwrap())
    );
}

async fn the_next_is_elected_when_one_is_dropped(house: House) {
    let (one, other) = (house.process(), house.process());
    let first = one.campaign(coordinator("a"));
    let fence = elected(first.fence()).await;
    let second = other.campaign(coordinator("b"));
    let mut gone = first.fence();
    drop(first);
    let next = elected(second.fence()).await;
    assert!(next > fence);
    // Whoever still reads the first one's does not take it for elected.
    assert!(gone.borrow_and_update().is_none());
}

async fn epochs_are_revisions_and_grow(house: House) {
    let process = house.process();
    let mut witness = Witness::new(&process);
    let candidacy = process.campaign(coordinator("a"));
    let fence = elected(candidacy.fence()).await;
    let work = async {
        let mut last = Revision(fence.0.0);
        let mut expected = None;
        for turn in 0..4 {
            let changes = vec![
                put_group("g", &["a"], expected),
                Change::PutVision {
                    node: NodeId::new("v"),
                },
            ];
            let revision = process.assign(fence, changes).await.unwrap();
            assert!(revision > last, "{revision:?} after {last:?}");
            let state = process.state().borrow().clone();
            assert_eq!(
                epoch(&state, "g"),
                Some(Epoch(revision.0 as u64)),
                "{turn}: shown at once"
            );
            assert_eq!(state.vision[&NodeId::new("v")], Epoch(revision.0 as u64));
            expected = epoch(&state, "g");
            last = revision;
        }
        // A group that comes back comes back later.
        let remove = Change::RemoveGroup {
            group: GroupId::new("g"),
            expected: expected.unwrap(),
        };
        let remove_vision = Change::RemoveVision {
            node: NodeId::new("v"),
        };
        process
            .assign(fence, vec![remove, remove_vision])
            .await
            .unwrap();
        let state = process.state().borrow().clone();
        assert!(state.groups.is_empty() && state.vision.is_empty());
        let again = process
            .assign(fence, vec![put_group("g", &["a"], None)])
            .await
            .unwrap();
        assert!(again > last);
    };
    witness.during(|_| {}, work).await;
}

async fn changes_are_made_all_or_not_at_all(house: House) {
    let process = house.process();
    let candidacy = process.campaign(coordinator("a"));
    let fence = elected(candidacy.fence()).await;
    process
        .assign(fence, vec![put_group("g", &["a"], None)])
        .await
        .unwrap();
    let known = epoch(&process.state().borrow(), "g").unwrap();
    let stale = Epoch(known.0 - 1);
    for wrong in [
        put_group("g", &["b"], None),
        put_group("g", &["b"], Some(stale)),
        put_group("h", &["b"], Some(known)),
        Change::RemoveGroup {
            group: GroupId::new("g"),
            expected: stale,
        },
    ] {
        let right = Change::PutVision {
            node: NodeId::new("v"),
        };
        let error = process.assign(fence, vec![right, wrong]).await.unwrap_err();
        let RegistryError::Conflict(text) = &error else {
            panic!("a conflict is wanted, found {error:?}");
        };
        assert!(text.contains("was expected in epoch"), "{text}");
    }
    let state = process.state().borrow().clone();
    assert_eq!(epoch(&state, "g"), Some(known));
    assert!(state.vision.is_empty());
}

async fn a_fence_of_the_past_is_refused(house: House) {
    let (one, other) = (house.process(), house.process());
    let first = one.campaign(coordinator("a"));
    let past = elected(first.fence()).await;
    one.assign(past, vec![put_group("g", &["a"], None)])
        .await
        .unwrap();
    first.resign().await;
    let second = other.campaign(coordinator("b"));
    let fence = elected(second.fence()).await;
    let before = shows(&one, "the second placing", |state| {
        state.placer == Some(NodeId::new("b"))
    })
    .await;
    for changes in [vec![put_group("h", &["a"], None)], vec![]] {
        let refused = one.assign(past, changes).await;
        assert_eq!(refused, Err(RegistryError::Fenced));
    }
    let made_up = Fence(Revision(fence.0.0 + 1));
    let refused = one
        .assign(made_up, vec![put_group("h", &["a"], None)])
        .await;
    assert_eq!(refused, Err(RegistryError::Fenced));
    assert!(other.assign(fence, vec![]).await.unwrap() >= before.revision);
    other
        .assign(fence, vec![put_group("h", &["b"], None)])
        .await
        .unwrap();
    let seen = shows(&one, "the second one's group", |state| {
        epoch(state, "h").is_some()
    })
    .await;
    assert_eq!(seen.groups.len(), 2);
}

async fn what_is_wanted_is_written_over_what_was_expected_only(house: House) {
    let process = house.process();
    let wanted = |language_replicas| Deployment {
        model: None,
        language_replicas,
        tensor_parallel: 2,
        vision_replicas: 1,
    };
    let first = process
        .set_deployment(&wanted(1), Some(Revision(0)))
        .await
        .unwrap();
    assert_eq!(
        process.state().borrow().deployment,
        Some((wanted(1), first))
    );
    for wrong in [Revision(0), Revision(first.0 + 1)] {
        let refused = process.set_deployment(&wanted(2), Some(wrong)).await;
        assert!(
            matches!(refused, Err(RegistryError::Conflict(_))),
            "{refused:?}"
        );
    }
    let second = process
        .set_deployment(&wanted(3), Some(first))
        .await
        .unwrap();
    let third = process.set_deployment(&wanted(4), None).await.unwrap();
    assert!(first < second && second < third);
    assert_eq!(
        process.state().borrow().deployment,
        Some((wanted(4), third))
    );
}

async fn draining_is_said_and_taken_back(house: House) {
    let (one, other) = (house.process(), house.process());
    let id = NodeId::new("a");
    one.set_draining(&id, true).await.unwrap();
    shows(&other, "draining", |state| state.draining.contains(&id)).await;
    one.set_draining(&id, false).await.unwrap();
    shows(&other, "not draining", |state| state.draining.is_empty()).await;
}

async fn ranks_meet_by_an_id_of_their_epoch(house: House) {
    let (one, other) = (house.process(), house.process());
    let candidacy = one.campaign(coordinator("a"));
    let fence = elected(candidacy.fence()).await;
    one.assign(fence, vec![put_group("g", &["a", "b"], None)])
        .await
        .unwrap();
    let group = GroupId::new("g");
    let known = epoch(&one.state().borrow(), "g").unwrap();
    let id = Bytes::from_static(&[7; 128]);
    let (published, found) = tokio::join!(
        async {
            sleep(Duration::from_millis(300)).await;
            one.publish_nccl_id(&group, known, id.clone()).await
        },
        other.nccl_id(&group, known)
    );
    published.unwrap();
    assert_eq!(found.unwrap(), id);
    assert_eq!(one.nccl_id(&group, known).await.unwrap(), id);

    one.assign(fence, vec![put_group("g", &["b", "a"], Some(known))])
        .await
        .unwrap();
    let late = one.publish_nccl_id(&group, known, id).await;
    assert!(matches!(late, Err(RegistryError::Conflict(_))), "{late:?}");
    let next = epoch(&one.state().borrow(), "g").unwrap();
    let nobody = within(Duration::from_secs(10), other.nccl_id(&group, next)).await;
    assert!(
        matches!(nobody, Err(RegistryError::Unavailable(_))),
        "{nobody:?}"
    );
}

async fn what_cannot_be_written_is_refused(house: House) {
    let process = house.process();
    let candidacy = process.campaign(coordinator("a"));
    let fence = elected(candidacy.fence()).await;
    let twice = vec![put_group("g", &["a"], None), put_group("g", &["b"], None)];
    let many = (0..=inkstone_cluster::MAX_CHANGES).map(|i| put_group(&i.to_string(), &["a"], None));
    for changes in [
        twice,
        many.collect(),
        vec![put_group("g/h", &["a"], None)],
        vec![put_group("g", &["a b"], None)],
        vec![put_group("g", &["a-node"; 1000], None)],
    ] {
        let refused = process.assign(fence, changes).await;
        assert!(
            matches!(refused, Err(RegistryError::Settings(_))),
            "{refused:?}"
        );
    }
    let refused = process.set_draining(&NodeId::new(""), true).await;
    assert!(
        matches!(refused, Err(RegistryError::Settings(_))),
        "{refused:?}"
    );
    assert!(process.state().borrow().groups.is_empty());
    // As much as is allowed is no trouble.
    let most = (0..inkstone_cluster::MAX_CHANGES).map(|i| put_group(&i.to_string(), &["a"], None));
    process.assign(fence, most.collect()).await.unwrap();
    assert_eq!(
        process.state().borrow().groups.len(),
        inkstone_cluster::MAX_CHANGES
    );
}

async fn members_are_those_that_say_they_serve(house: House) {
    let (one, other) = (house.process(), house.process());
    let membership = Membership::follow(other.state());
    assert_eq!(membership.current().language_groups, []);
    let candidacy = one.campaign(coordinator("c"));
    let fence = elected(candidacy.fence()).await;
    let announcement = one.announce(worker("a", "1"));
    let put_vision = Change::PutVision {
        node: NodeId::new("a"),
    };
    let changes = vec![put_group("g", &["a"], None), put_vision];
    let revision = one.assign(fence, changes).await.unwrap();
    let serving = |epoch| NodeStatus {
        language: Some(LanguageStatus {
            group: GroupId::new("g"),
            epoch,
            phase: Phase::Ready,
        }),
        ..vision(epoch, Phase::Ready)
    };
    let life = Epoch(revision.0 as u64);
    announcement.set_status(serving(life));
    let members = eventually(membership.changes(), "a member of each kind", |members| {
        !members.language_groups.is_empty() && !members.vision_workers.is_empty()
    })
    .await;
    assert_eq!(members.language_groups[0].epoch, Some(life));
    assert_eq!(members.language_groups[0].leader, worker("a", "1").address);
    assert_eq!(members.vision_workers, [worker("a", "1").address]);

    // Another life is not ready because the one before it was.
    one.assign(fence, vec![put_group("g", &["a"], Some(life))])
        .await
        .unwrap();
    eventually(membership.changes(), "no group", |members| {
        members.language_groups.is_empty()
    })
    .await;
    announcement.withdraw().await;
    let members = membership.changes();
    eventually(members, "no member", |members| {
        members.vision_workers.is_empty()
    })
    .await;
}
