//! Members come and go: whom a coordinator speaks to follows the list, and requests wait a while for somebody to be on it.

use inkstone_cluster::{
    ClusterState, Epoch, GroupAssignment, GroupId, LanguageStatus, Membership, NodeAddress, NodeId,
    NodeRecord, NodeStatus, Phase, Revision, Role, VisionStatus,
};
use tokio::sync::watch;

use super::*;
use crate::{
    cluster_view::ClusterView,
    worker_client::{
        WorkerError,
        fake::{Step, Tale},
    },
};

/// A registry's state that a test writes.
struct Written(watch::Sender<Arc<ClusterState>>);

impl Written {
    fn new() -> (Self, Membership) {
        let (sender, state) = watch::channel(Arc::default());
        (Self(sender), Membership::follow(state))
    }

    /// These groups and vision workers are ready, and nobody else.
    fn write(&self, groups: &[(&str, &NodeAddress, u64)], vision: &[&NodeAddress]) {
        let mut state = ClusterState {
            revision: Revision(self.0.borrow().revision.0 + 1),
            ..ClusterState::default()
        };
        for (name, address, epoch) in groups {
            let (node, group, epoch) = (NodeId::new(*name), GroupId::new(*name), Epoch(*epoch));
            state.nodes.insert(node.clone(), record(&node, address));
            let status = NodeStatus {
                language: Some(LanguageStatus {
                    group: group.clone(),
                    epoch,
                    phase: Phase::Ready,
                }),
                ..NodeStatus::default()
            };
            state.statuses.insert(node.clone(), status);
            let assignment = GroupAssignment { ranks: vec![node] };
            state.groups.insert(group, (assignment, epoch));
        }
        for (index, address) in vision.iter().enumerate() {
            let node = NodeId::new(format!("vision-{index}"));
            state.nodes.insert(node.clone(), record(&node, address));
            let status = NodeStatus {
                vision: Some(VisionStatus {
                    epoch: Epoch(1),
                    phase: Phase::Ready,
                }),
                ..NodeStatus::default()
            };
            state.statuses.insert(node.clone(), status);
            state.vision.insert(node, Epoch(1));
        }
        self.0.send_replace(Arc::new(state));
    }
}

fn record(node: &NodeId, address: &NodeAddress) -> NodeRecord {
    NodeRecord {
        id: node.clone(),
        incarnation: "1".into(),
        host: "here".into(),
        address: address.clone(),
        roles: [Role::Language, Role::Vision].into(),
        devices: 1,
        device_kind: "simulated".into(),
        memory_bytes: 0,
        model: "fake-vl".into(),
        version: "0".into(),
    }
}

/// A coordinator over members that a test writes.
async fn following(cluster: &FakeCluster, membership: Membership) -> Coordinator {
    let mut config = config(cluster);
    config.membership = membership;
    config.timeouts.first_group = PATIENCE;
    config.timeouts.recovery = PATIENCE;
    let mut coordinator = Coordinator::starting(config, Arc::new(cluster.clone())).await;
    coordinator.ready().await;
    coordinator
}

#[tokio::test]
async fn who_stays_on_the_list_stays_the_same_and_another_epoch_is_another_member() {
    let cluster = FakeCluster::new(2, 1);
    let (one, two) = (&cluster.groups[0].address, &cluster.groups[1].address);
    let (written, membership) = Written::new();
    let view = ClusterView::new(membership, Arc::new(cluster.clone()));
    assert!(view.groups().is_empty());
    written.write(&[("a", one, 1), ("b", two, 1)], &[]);
    eventually("both are members", || view.groups().len() == 2).await;
    let before = view.groups();
    written.write(&[("a", one, 1), ("b", two, 2)], &[]);
    let is_new = || {
        let now = view.groups();
        now.len() == 2 && !Arc::ptr_eq(&now[1], &before[1])
    };
    eventually("the new epoch is seen", is_new).await;
    assert!(Arc::ptr_eq(&view.groups()[0], &before[0]));
    written.write(&[("a", one, 1)], &[]);
    eventually("one is left", || view.groups().len() == 1).await;
    assert!(Arc::ptr_eq(&view.groups()[0], &before[0]));
}

#[tokio::test]
async fn a_request_waits_for_a_group_and_takes_the_one_that_comes() {
    let cluster = FakeCluster::new(2, 1);
    let (one, two) = (&cluster.groups[0].address, &cluster.groups[1].address);
    let vision = &[&cluster.vision_workers[0].address];
    let (written, membership) = Written::new();
    written.write(&[("a", one, 1)], vision);
    let coordinator = following(&cluster, membership).await;
    written.write(&[], vision);
    tokio::time::sleep(Duration::from_millis(50)).await;
    let comes = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        written.write(&[("b", two, 1)], vision);
    };
    let (answer, ()) = tokio::join!(coordinator.chat(question("hi")), comes);
    let answer = Answer::read(answer.unwrap()).await;
    assert_eq!(answer.text(), "hello");
    assert_eq!(answer.started.routing.unwrap().group, "b");
}

#[tokio::test]
async fn a_running_answer_goes_on_in_the_next_life_of_its_group() {
    let cluster = FakeCluster::new(1, 1);
    let group = cluster.group();
    let (address, vision) = (&group.address, &[&cluster.vision_workers[0].address]);
    let (written, membership) = Written::new();
    written.write(&[("a", address, 1)], vision);
    let coordinator = following(&cluster, membership).await;
    group.tell(Tale::of(&["hello world"]));
    group.play([Step::Text("hello"), Step::Pause(PATIENCE)]);
    let mut answer = coordinator.chat(question("hi")).await.unwrap();
    for seq in 0..2 {
        next(&mut answer, seq).await.unwrap();
    }
    group.lose(WorkerError::NotServing("a rank is gone".into()));
    group.set_away(true);
    written.write(&[], vision);
    tokio::time::sleep(Duration::from_millis(200)).await;
    // The list says that it is there, and the leader is in its old life still.
    written.write(&[("a", address, 2)], vision);
    group.set_away(false);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(group.asked().len(), 1, "the old life is asked for nothing");
    group.restart();
    let Some(Event::Delta(delta)) = next(&mut answer, 2).await.unwrap() else {
        panic!("the answer goes on");
    };
    assert!(" world".starts_with(&delta.text), "{delta:?}");
    assert_eq!(group.asked()[1].epoch, Epoch(2));
}

#[tokio::test]
async fn an_answer_whose_group_leaves_the_list_is_left_to_finish() {
    let cluster = FakeCluster::new(2, 1);
    let (one, two) = (&cluster.groups[0].address, &cluster.groups[1].address);
    let vision = &[&cluster.vision_workers[0].address];
    let (written, membership) = Written::new();
    written.write(&[("a", one, 1)], vision);
    let coordinator = following(&cluster, membership).await;
    cluster.groups[0].play([
        Step::Text("hello"),
        Step::Pause(Duration::from_millis(500)),
        Step::Text(" world"),
        Step::End(crate::worker_client::EndReason::Stop),
    ]);
    let mut answer = coordinator.chat(question("hi")).await.unwrap();
    next(&mut answer, 0).await.unwrap();
    written.write(&[("b", two, 1)], vision);
    let mut text = String::new();
    let mut seq = 1;
    while let Some(Event::Delta(delta)) = next(&mut answer, seq).await.unwrap() {
        text += &delta.text;
        seq += 1;
    }
    assert_eq!(text, "hello world");
    assert!(cluster.groups[1].asked().is_empty());
}
