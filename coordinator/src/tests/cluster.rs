//! `ClusterService`, and a coordinator whose members come from a registry.

use std::collections::BTreeSet;

use inkstone_cluster::{
    Announcement, Deployment, GroupId, InProcessRegistry, LanguageStatus, NodeId, NodeRecord,
    NodeStatus, Phase, Registry, Role,
};
use inkstone_proto::v1::cluster_service_client::ClusterServiceClient;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use super::*;
use crate::config::{PlacementSettings, Wanted};

type Client = ClusterServiceClient<Channel>;

async fn client(coordinator: &Coordinator) -> Client {
    ClusterServiceClient::new(coordinator.channel().await)
}

async fn cluster(client: &mut Client) -> wire::Cluster {
    let answer = client.get_cluster(wire::GetClusterRequest {}).await;
    answer.unwrap().into_inner().cluster.unwrap()
}

/// The cluster, once this is true of it.
async fn cluster_when(
    client: &mut Client,
    what: &str,
    holds: impl Fn(&wire::Cluster) -> bool,
) -> wire::Cluster {
    let look = async {
        loop {
            let cluster = cluster(client).await;
            if holds(&cluster) {
                return cluster;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, look).await.expect(what)
}

/// A coordinator that follows a registry, and has not found anybody yet.
async fn following(registry: &Arc<dyn Registry>, cluster: &FakeCluster) -> Coordinator {
    let mut placement = PlacementSettings::new(NodeId::new("c"));
    placement.policy.gather_for = Duration::ZERO;
    placement.wanted = Wanted::AtFirst(Deployment {
        model: None,
        language_replicas: 1,
        tensor_parallel: 1,
        vision_replicas: 0,
    });
    let config = Config::for_registry(registry.clone(), placement);
    Coordinator::starting(config, Arc::new(cluster.clone())).await
}

/// The fake group's leader as a node; it does nothing by itself.
fn announce(
    registry: &Arc<dyn Registry>,
    name: &str,
    cluster: &FakeCluster,
) -> Arc<dyn Announcement> {
    registry.announce(NodeRecord {
        id: NodeId::new(name),
        incarnation: "1".into(),
        host: "h".into(),
        address: cluster.group().address.clone(),
        roles: BTreeSet::from([Role::Language]),
        devices: 1,
        device_kind: "cpu".into(),
        memory_bytes: 1 << 30,
        model: "fake-vl".into(),
        version: "0".into(),
    })
}

/// Says of the only group what a node would.
async fn say(registry: &Arc<dyn Registry>, node: &dyn Announcement, phase: Phase) {
    let id = GroupId::new("group-0");
    let mut state = registry.state();
    let told = state.wait_for(|state| state.groups.contains_key(&id));
    let epoch = timeout(PATIENCE, told)
        .await
        .expect("it is placed")
        .unwrap()
        .groups[&id]
        .1;
    node.set_status(NodeStatus {
        language: Some(LanguageStatus {
            group: id,
            epoch,
            phase,
        }),
        ..NodeStatus::default()
    });
}

async fn health(coordinator: &Coordinator, service: &str) -> ServingStatus {
    let mut client = HealthClient::new(coordinator.channel().await);
    let service = service.to_owned();
    let answer = client.check(HealthCheckRequest { service }).await;
    answer.unwrap().into_inner().status()
}

async fn health_becomes(coordinator: &Coordinator, wanted: ServingStatus) {
    let look = async {
        while health(coordinator, "").await != wanted {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let what = format!("health becomes {wanted:?}");
    timeout(PATIENCE, look).await.expect(&what);
}

#[tokio::test]
async fn a_fixed_list_is_told_and_cannot_be_changed() {
    let coordinator = Coordinator::over(&FakeCluster::new(2, 1)).await;
    let mut client = client(&coordinator).await;
    let cluster = cluster(&mut client).await;
    assert_eq!(cluster.registry(), wire::RegistryStatus::None);
    assert_eq!(cluster.groups.len(), 2);
    assert_eq!(cluster.vision_workers.len(), 1);

    let call = client.set_deployment(wire::SetDeploymentRequest::default());
    let status = call.await.unwrap_err();
    check_error(&status, Code::FailedPrecondition, "NO_REGISTRY");
    assert!(status.message().contains("--registry"), "{status:?}");
    let status = client
        .drain(wire::DrainRequest::default())
        .await
        .unwrap_err();
    check_error(&status, Code::FailedPrecondition, "NO_REGISTRY");
}

#[tokio::test]
async fn a_coordinator_is_ready_once_a_group_is_and_as_long_as_one_is() {
    let fake = FakeCluster::new(1, 0);
    let registry = InProcessRegistry::new();
    let mut coordinator = following(&registry, &fake).await;
    let mut client = client(&coordinator).await;
    assert_eq!(health(&coordinator, "").await, ServingStatus::NotServing);
    let own = "inkstone.v1.ClusterService";
    assert_eq!(health(&coordinator, own).await, ServingStatus::Serving);
    let status = coordinator.refusal(question("hi")).await;
    check_error(&status, Code::Unavailable, "STARTING");
    let short = cluster_when(&mut client, "it cannot be had", |cluster| {
        !cluster.shortfalls.is_empty()
    });
    assert!(short.await.shortfalls[0].starts_with("0 of 1"));

    let node = announce(&registry, "n", &fake);
    let phase = Phase::Loading {
        done_bytes: 3,
        total_bytes: 4,
    };
    say(&registry, node.as_ref(), phase).await;
    let loading = cluster_when(&mut client, "it loads", |cluster| {
        cluster
            .groups
            .iter()
            .any(|group| group.phase() == wire::Phase::Loading)
    });
    let loading = loading.await;
    let group = &loading.groups[0];
    assert_eq!((group.loaded_bytes, group.total_bytes), (3, 4));
    assert_eq!(group.ranks, ["n"]);
    assert_eq!(loading.placer, "c");
    assert_eq!(loading.coordinators.len(), 1);
    assert_eq!(loading.nodes[0].language.as_ref().unwrap().group, "group-0");
    assert!(loading.shortfalls.is_empty(), "{:?}", loading.shortfalls);

    say(&registry, node.as_ref(), Phase::Ready).await;
    coordinator.ready().await;
    assert_eq!(health(&coordinator, "").await, ServingStatus::Serving);
    drop(node);
    health_becomes(&coordinator, ServingStatus::NotServing).await;
    let cluster = cluster(&mut client).await;
    assert_eq!(cluster.groups[0].phase(), wire::Phase::Lost);
    coordinator.stop().await.unwrap();
    assert!(registry.state().borrow().coordinators.is_empty());
}

#[tokio::test]
async fn what_is_wanted_is_changed_in_part_and_never_unseen() {
    let registry = InProcessRegistry::new();
    let coordinator = following(&registry, &FakeCluster::new(1, 0)).await;
    let mut client = client(&coordinator).await;
    let before = cluster_when(&mut client, "it is written", |cluster| {
        cluster.deployment.is_some()
    });
    let before = before.await;
    let call = wire::SetDeploymentRequest {
        language_replicas: Some(3),
        expected_revision: Some(before.deployment_revision),
        ..Default::default()
    };
    let answer = client
        .set_deployment(call.clone())
        .await
        .unwrap()
        .into_inner();
    let deployment = answer.deployment.unwrap();
    let found = (
        deployment.language_replicas,
        deployment.tensor_parallel,
        deployment.vision_replicas,
    );
    assert_eq!(found, (3, 1, 0));
    let after = cluster(&mut client).await;
    assert_eq!(after.deployment, Some(deployment));
    assert_eq!(after.deployment_revision, answer.revision);

    let status = client.set_deployment(call).await.unwrap_err();
    check_error(&status, Code::Aborted, "DEPLOYMENT_CHANGED");
    let call = wire::SetDeploymentRequest {
        tensor_parallel: Some(0),
        vision_replicas: Some(100_000),
        ..Default::default()
    };
    let status = client.set_deployment(call).await.unwrap_err();
    check_fields(&status, &["tensor_parallel", "vision_replicas"]);
}

#[tokio::test]
async fn nodes_are_relieved_by_name_and_given_work_again() {
    let fake = FakeCluster::new(1, 0);
    let registry = InProcessRegistry::new();
    let coordinator = following(&registry, &fake).await;
    let _node = announce(&registry, "n", &fake);
    let mut client = client(&coordinator).await;
    let drain = |undo| wire::DrainRequest {
        node: "n".into(),
        undo,
    };
    assert!(
        client
            .drain(drain(false))
            .await
            .unwrap()
            .into_inner()
            .draining
    );
    assert!(cluster(&mut client).await.nodes[0].draining);
    assert!(
        !client
            .drain(drain(true))
            .await
            .unwrap()
            .into_inner()
            .draining
    );
    assert!(!cluster(&mut client).await.nodes[0].draining);

    let unknown = wire::DrainRequest {
        node: "m".into(),
        undo: false,
    };
    let status = client.drain(unknown).await.unwrap_err();
    check_error(&status, Code::NotFound, "NODE_NOT_FOUND");
    assert!(status.message().ends_with("there are: n"), "{status:?}");
}

#[tokio::test]
async fn a_watch_tells_the_latest_once_for_each_interval_and_ends_with_the_server() {
    let registry = InProcessRegistry::new();
    let fake = FakeCluster::new(1, 0);
    let coordinator = following(&registry, &fake).await;
    let mut client = client(&coordinator).await;
    let watch = |interval_millis| wire::WatchClusterRequest { interval_millis };
    let status = client.watch_cluster(watch(5)).await.unwrap_err();
    check_fields(&status, &["interval_millis"]);

    let mut answers = client.watch_cluster(watch(200)).await.unwrap().into_inner();
    let first = timeout(PATIENCE, answers.message()).await.unwrap().unwrap();
    assert!(first.unwrap().cluster.unwrap().nodes.is_empty());
    let _nodes: Vec<_> = (0..20)
        .map(|index| announce(&registry, &format!("n{index}"), &fake))
        .collect();
    let mut num_answers = 0;
    loop {
        let answer = timeout(PATIENCE, answers.message()).await.unwrap().unwrap();
        num_answers += 1;
        if answer.unwrap().cluster.unwrap().nodes.len() == 20 {
            break;
        }
    }
    assert!(num_answers <= 4, "{num_answers} answers for one burst");
    let closing = coordinator.stop();
    let end = async {
        loop {
            match answers.message().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("the watch ends with a reason"),
                Err(status) => return status,
            }
        }
    };
    let (stopped, status) = tokio::join!(closing, timeout(PATIENCE, end));
    stopped.unwrap();
    check_error(&status.unwrap(), Code::Unavailable, "SHUTTING_DOWN");
}

#[tokio::test]
async fn watches_are_bounded() {
    let coordinator = Coordinator::over(&FakeCluster::new(1, 1)).await;
    let mut client = client(&coordinator).await;
    let mut open = vec![];
    let status = loop {
        let call = client.watch_cluster(wire::WatchClusterRequest::default());
        match call.await {
            Ok(answers) => open.push(answers),
            Err(status) => break status,
        }
        assert!(open.len() < 1000);
    };
    check_error(&status, Code::ResourceExhausted, "TOO_MANY_WATCHES");
    open.clear();
    let freed = async {
        while client
            .watch_cluster(wire::WatchClusterRequest::default())
            .await
            .is_err()
        {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, freed)
        .await
        .expect("a place is free again");
}
