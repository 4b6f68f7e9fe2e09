//! Nodes on runtimes of their own, so that one can be killed, a registry in this process, and a test that places.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use inkstone_cluster::{
    Candidacy, Change, ClusterState, CoordinatorRecord, Epoch, GroupAssignment, GroupId,
    InProcessRegistry, LanguageStatus, NodeId, NodeStatus, Phase, Registry, Role, VisionStatus,
};
use inkstone_model::{
    synthesize::{Preset, SynthesizeOptions, synthesize},
    tensor::DType,
};
use inkstone_proto::worker::v1::{
    self as wire, ConnectRequest, GenerateRequest, Submit, connect_request::Message,
    language_service_client::LanguageServiceClient, request_event::Event,
};
use tempfile::TempDir;
use tokio::{net::TcpListener, runtime::Runtime, sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming, transport::Channel};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use super::super::run_node;
use crate::{
    config::{
        Deadlines, ExecutorSettings, GroupSettings, ModelSettings, NodeConfig, VisionSettings,
    },
    executor::SequenceSampling,
    group::plan_stream::sampling_to_wire,
    progress::LoadProgress,
};

/// How long a test waits for what must come; nothing takes a tenth of it on an idle machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// The one group of these tests.
pub(super) const GROUP: &str = "group-0";

pub(super) struct Cluster {
    registry: Arc<dyn Registry>,
    placer: Arc<dyn Candidacy>,
    nodes: BTreeMap<String, TestNode>,
}

struct TestNode {
    runtime: Option<Runtime>,
    address: String,
    shutdown: CancellationToken,
    end: Option<tokio::task::JoinHandle<anyhow::Result<()>>>,
    loads: Arc<AtomicUsize>,
}

impl Drop for TestNode {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

fn model_dir() -> PathBuf {
    static MODEL: OnceLock<(TempDir, PathBuf)> = OnceLock::new();
    let (_, path) = MODEL.get_or_init(|| {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("tiny");
        let options = SynthesizeOptions {
            dtype: DType::F32,
            ..SynthesizeOptions::default()
        };
        synthesize(Preset::Tiny, 5, &path, options, &|_| {}).unwrap();
        (parent, path)
    });
    path.clone()
}

fn config(name: &str, devices: u32, address: &str) -> NodeConfig {
    NodeConfig {
        id: NodeId::new(name),
        incarnation: "1".to_owned(),
        host: "here".to_owned(),
        address: address.parse().unwrap(),
        roles: [Role::Language, Role::Vision].into(),
        devices,
        model: ModelSettings {
            model_dir: model_dir(),
            dtype: None,
            threads: 1,
            device: crate::config::DeviceKind::Cpu,
        },
        group: GroupSettings {
            executor: ExecutorSettings::Device,
            kv_cache_tokens: Some(4096),
            max_step_tokens: 256,
            max_running: 8,
            max_waiting: 8,
            decode_graphs: true,
            deadlines: Deadlines {
                join: Duration::from_secs(20),
                step: Duration::from_secs(20),
                silence: Duration::from_secs(5),
            },
        },
        vision_threads: 1,
        vision: VisionSettings {
            executor: ExecutorSettings::Device,
            max_picture_bytes: 1 << 20,
            max_picture_pixels: 1 << 20,
            max_queue: 4,
            feature_cache_bytes: 1 << 24,
        },
        grace: Duration::from_secs(30),
    }
}

impl Cluster {
    /// These nodes, with so many devices each, and nothing to do for them yet.
    pub(super) async fn start(nodes: &[(&str, u32)]) -> Self {
        let registry = InProcessRegistry::new();
        let placer = registry.campaign(CoordinatorRecord {
            id: NodeId::new("placer"),
            incarnation: "1".to_owned(),
            address: "127.0.0.1:1".parse().unwrap(),
            version: String::new(),
        });
        let mut cluster = Self {
            registry,
            placer,
            nodes: BTreeMap::new(),
        };
        for (name, devices) in nodes {
            let node = cluster.start_node(name, *devices).await;
            cluster.nodes.insert((*name).to_owned(), node);
        }
        let here = nodes.len();
        cluster
            .wait(|state| (state.nodes.len() == here).then_some(()))
            .await;
        cluster
    }

    pub(super) fn registry(&self) -> Arc<dyn Registry> {
        Arc::clone(&self.registry)
    }

    async fn start_node(&self, name: &str, devices: u32) -> TestNode {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let bind = runtime.spawn(TcpListener::bind("127.0.0.1:0"));
        let listener = bind.await.unwrap().unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (shutdown, loads) = (CancellationToken::new(), Arc::new(AtomicUsize::new(0)));
        let counted = Arc::clone(&loads);
        let progress = Arc::new(move |at: LoadProgress| {
            counted.fetch_add(
                usize::from(at.bytes_done == at.bytes_total),
                Ordering::SeqCst,
            );
        });
        let config = config(name, devices, &address);
        let registry = Arc::clone(&self.registry);
        let node = run_node(config, registry, listener, shutdown.clone(), progress);
        let end = runtime.spawn(node);
        TestNode {
            runtime: Some(runtime),
            address,
            shutdown,
            end: Some(end),
            loads,
        }
    }

    /// Puts the group on these nodes, a rank each; returns its epoch.
    pub(super) async fn place(&self, ranks: &[&str]) -> Epoch {
        let change = Change::PutGroup {
            group: GroupId::new(GROUP),
            assignment: GroupAssignment {
                ranks: ranks.iter().map(|name| NodeId::new(*name)).collect(),
            },
            expected: self.epoch(),
        };
        Epoch(self.assign(change).await)
    }

    /// Takes the group away.
    pub(super) async fn remove(&self) {
        let change = Change::RemoveGroup {
            group: GroupId::new(GROUP),
            expected: self.epoch().unwrap(),
        };
        self.assign(change).await;
    }

    pub(super) async fn assign(&self, change: Change) -> u64 {
        let fence = self.placer.fence().borrow().unwrap();
        let revision = self.registry.assign(fence, vec![change]).await.unwrap();
        revision.0.unsigned_abs()
    }

    fn epoch(&self) -> Option<Epoch> {
        let state = self.registry.state();
        let groups = &state.borrow().groups;
        groups.get(&GroupId::new(GROUP)).map(|(_, epoch)| *epoch)
    }

    /// Waits until the state is as wanted.
    pub(super) async fn wait<T>(&self, wanted: impl Fn(&ClusterState) -> Option<T>) -> T {
        let mut state = self.registry.state();
        let found = async {
            loop {
                if let Some(found) = wanted(&state.borrow_and_update()) {
                    return found;
                }
                state.changed().await.unwrap();
            }
        };
        match timeout(PATIENCE, found).await {
            Ok(found) => found,
            Err(_) => panic!("it did not come; {:?}", self.registry.state().borrow()),
        }
    }

    /// Waits until the group is ready in its present epoch.
    pub(super) async fn wait_ready(&self) {
        let ready = |state: &ClusterState| state.is_group_ready(&GroupId::new(GROUP)).then_some(());
        self.wait(ready).await;
    }

    /// Waits until a node is in such a phase of an epoch.
    pub(super) async fn wait_phase<T>(
        &self,
        node: &str,
        wanted: Epoch,
        is: impl Fn(&Phase) -> Option<T>,
    ) -> T {
        self.wait(|state| match language(state, node) {
            Some(status) if status.epoch == wanted => is(&status.phase),
            _ => None,
        })
        .await
    }

    /// What a node says of itself.
    pub(super) fn status(&self, node: &str) -> NodeStatus {
        let state = self.registry.state();
        let statuses = &state.borrow().statuses;
        statuses
            .get(&NodeId::new(node))
            .cloned()
            .unwrap_or_default()
    }

    pub(super) fn vision_status(&self, node: &str) -> Option<VisionStatus> {
        self.status(node).vision
    }

    /// Where a node answers.
    pub(super) fn address(&self, node: &str) -> String {
        format!("http://{}", self.nodes[node].address)
    }

    /// Shards and encoders that a node has loaded.
    pub(super) fn loads(&self, node: &str) -> usize {
        self.nodes[node].loads.load(Ordering::SeqCst)
    }

    /// Its process is gone, sockets and all.
    pub(super) fn kill(&mut self, node: &str) {
        self.nodes.remove(node);
    }

    /// The first SIGTERM.
    pub(super) fn terminate(&self, node: &str) {
        self.nodes[node].shutdown.cancel();
    }

    /// Waits for a process to end by itself.
    pub(super) async fn wait_for_end(&mut self, node: &str) {
        let end = self.nodes.get_mut(node).unwrap().end.take().unwrap();
        timeout(PATIENCE, end).await.unwrap().unwrap().unwrap();
    }

    pub(super) async fn channel(&self, node: &str) -> Channel {
        Channel::from_shared(self.address(node))
            .unwrap()
            .connect()
            .await
            .unwrap()
    }

    /// What a node says of the health of its language service.
    pub(super) async fn is_serving(&self, node: &str) -> bool {
        let request = HealthCheckRequest {
            service: "inkstone.worker.v1.LanguageService".to_owned(),
        };
        let mut client = HealthClient::new(self.channel(node).await);
        let status = client.check(request).await.unwrap().into_inner().status();
        status == tonic_health::pb::health_check_response::ServingStatus::Serving
    }

    /// Opens a call to a leader, as a coordinator does.
    pub(super) async fn call(&self, node: &str) -> Result<Call, Status> {
        let mut client = LanguageServiceClient::new(self.channel(node).await);
        let (requests, receiver) = mpsc::channel(16);
        let events = client.connect(ReceiverStream::new(receiver)).await?;
        Ok(Call {
            requests,
            events: events.into_inner(),
        })
    }
}

fn language<'a>(state: &'a ClusterState, node: &str) -> Option<&'a LanguageStatus> {
    state.statuses.get(&NodeId::new(node))?.language.as_ref()
}

/// A coordinator's call.
pub(super) struct Call {
    requests: mpsc::Sender<ConnectRequest>,
    events: Streaming<wire::ConnectResponse>,
}

/// How a request ended.
#[derive(Debug, PartialEq)]
pub(super) enum Outcome {
    Answered(Vec<u32>),
    Refused(wire::RefusalReason),
    Cut,
}

impl Call {
    /// Asks for tokens after a fixed prompt; they come greedily.
    pub(super) async fn ask(&self, handle: u64, epoch: Epoch, max_new_tokens: u32) {
        let tokens = wire::TokenSpan {
            ids: (10..30).collect(),
        };
        let request = GenerateRequest {
            epoch: epoch.0,
            prompt: vec![wire::PromptPart {
                part: Some(wire::prompt_part::Part::Tokens(tokens)),
            }],
            sampling: Some(sampling_to_wire(&SequenceSampling::default())),
            max_new_tokens,
            ..GenerateRequest::default()
        };
        let submit = Submit {
            handle,
            request: Some(request),
        };
        let message = Some(Message::Submit(submit));
        self.requests
            .send(ConnectRequest { message })
            .await
            .unwrap();
    }

    /// Waits for a request's first token.
    pub(super) async fn first_token(&mut self, handle: u64) {
        let first = async {
            loop {
                let response = self.events.message().await.unwrap().unwrap();
                let mut events = response.events.into_iter();
                let is_token =
                    |event: wire::RequestEvent| matches!(event.event, Some(Event::Tokens(_)));
                if events.any(|event| event.handle == handle && is_token(event)) {
                    return;
                }
            }
        };
        timeout(PATIENCE, first).await.unwrap();
    }

    /// Waits for a request's end. Tokens that [`Self::first_token`] saw are not in it.
    pub(super) async fn outcome(&mut self, handle: u64) -> Outcome {
        let mut ids = Vec::new();
        let outcome = async {
            while let Ok(Some(response)) = self.events.message().await {
                for event in response.events {
                    match event.event {
                        _ if event.handle != handle => {}
                        Some(Event::Tokens(tokens)) => ids.extend(tokens.ids),
                        Some(Event::Ended(_)) => return Outcome::Answered(ids),
                        Some(Event::Refused(refused)) => return Outcome::Refused(refused.reason()),
                        _ => {}
                    }
                }
            }
            Outcome::Cut
        };
        timeout(PATIENCE, outcome).await.unwrap()
    }
}
