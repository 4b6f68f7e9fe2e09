//! A cluster of real processes that find each other through a real etcd, and every way to hurt it.

use std::{
    collections::BTreeMap,
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::ExitStatus,
    sync::Arc,
    time::{Duration, Instant},
};

use inkstone_cluster::{
    ClusterState, Epoch, GroupId, NodeId, Registry,
    etcd::{EtcdSettings, connect},
};
use inkstone_proto::v1::{
    GetClusterRequest, GroupLoad, LanguageGroup, cluster_service_client::ClusterServiceClient,
};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

use crate::{
    etcd::{Etcd, free_port},
    network::Network,
    process::{Launch, Process},
    relay::Relay,
};

/// How long anything may take that is waited for without a goal of its own: debug builds on a busy machine are slow.
const PATIENCE: Duration = Duration::from_secs(120);

/// What a cluster is made of.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The binary under test.
    pub program: PathBuf,
    /// The model's folder.
    pub model: String,
    /// Coordinators: `c0`, `c1`, ...
    pub coordinators: usize,
    /// Nodes for language ranks: `l0`, `l1`, ...
    pub language_nodes: usize,
    /// Ranks that each of them can run.
    pub devices: usize,
    /// Nodes for pictures: `v0`, `v1`, ...
    pub vision_nodes: usize,
    /// Language groups that are wanted.
    pub language_replicas: usize,
    /// Ranks of each.
    pub tensor_parallel: usize,
    /// Seconds after which a process that does not renew its lease counts as gone.
    pub lease_seconds: u64,
    /// More arguments of the language nodes.
    pub language_arguments: Vec<String>,
    /// More arguments of the coordinators.
    pub coordinator_arguments: Vec<String>,
    /// Members that reach etcd over a wire that the test holds.
    pub relayed_to_etcd: Vec<String>,
    /// Workers that everybody reaches over a wire that the test holds.
    pub relayed: Vec<String>,
    /// Whether each process has a machine of its own in a network of its own.
    pub network: bool,
}

impl Settings {
    /// Two coordinators, two groups of two ranks and a spare, two vision workers.
    pub fn new(program: &Path, model: &str) -> Self {
        Self {
            program: program.to_owned(),
            model: model.to_owned(),
            coordinators: 2,
            language_nodes: 5,
            devices: 1,
            vision_nodes: 2,
            language_replicas: 2,
            tensor_parallel: 2,
            lease_seconds: 2,
            language_arguments: Vec::new(),
            coordinator_arguments: Vec::new(),
            relayed_to_etcd: Vec::new(),
            relayed: Vec::new(),
            network: false,
        }
    }

    fn names(&self, letter: char, count: usize) -> impl Iterator<Item = String> + use<> {
        (0..count).map(move |index| format!("{letter}{index}"))
    }

    fn all_names(&self) -> Vec<String> {
        let coordinators = self.names('c', self.coordinators);
        let language = self.names('l', self.language_nodes);
        let vision = self.names('v', self.vision_nodes);
        coordinators.chain(language).chain(vision).collect()
    }
}

/// A process of the cluster, whether it runs at present or not.
struct Member {
    launch: Launch,
    process: Option<Process>,
    past_logs: Vec<String>,
}

/// A running cluster. Everything ends when it is dropped; when that is because a test failed, or with
/// `INKSTONE_KEEP_LOGS`, the logs are kept.
pub struct Cluster {
    /// The registry.
    pub etcd: Etcd,
    /// The network, if it has one of its own.
    pub network: Option<Network>,
    settings: Settings,
    members: BTreeMap<String, Member>,
    relays: BTreeMap<String, Relay>,
    addresses: BTreeMap<String, SocketAddr>,
    state: watch::Receiver<Arc<ClusterState>>,
    registry: Arc<dyn Registry>,
}

/// A language group as it was at some moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// Its name.
    pub id: GroupId,
    /// Its life.
    pub epoch: Epoch,
    /// The nodes of its ranks; the first leads.
    pub nodes: Vec<String>,
}

impl Group {
    /// The node that leads it.
    pub fn leader(&self) -> &str {
        &self.nodes[0]
    }

    /// The node of its last rank.
    pub fn follower(&self) -> &str {
        self.nodes.last().expect("a group has ranks")
    }
}

impl Cluster {
    /// Starts everything and waits until all that is wanted serves.
    pub async fn start(settings: Settings) -> Self {
        let mut cluster = Self::launch(settings);
        for name in cluster.settings.all_names() {
            cluster.start_member(&name);
        }
        cluster.wait_until_right().await;
        cluster
    }

    /// Starts etcd, and the rest not yet.
    fn launch(settings: Settings) -> Self {
        let names = settings.all_names();
        let mut machines = names.clone();
        machines.push("etcd".into());
        let network = settings.network.then(|| Network::new(&machines));
        let etcd = match &network {
            None => Etcd::start(),
            Some(network) => {
                Etcd::start_in(Some(network.namespace("etcd")), network.address("etcd"))
            }
        };
        let registry =
            connect(EtcdSettings::new([etcd.url()], "inkstone")).expect("the settings are right");
        let mut cluster = Self {
            etcd,
            network,
            members: BTreeMap::new(),
            relays: BTreeMap::new(),
            addresses: BTreeMap::new(),
            state: registry.state(),
            registry,
            settings,
        };
        for name in names {
            let launch = cluster.describe(&name);
            let member = Member {
                launch,
                process: None,
                past_logs: Vec::new(),
            };
            cluster.members.insert(name, member);
        }
        cluster
    }

    /// How a member is started. Its address stays the same over restarts.
    fn describe(&mut self, name: &str) -> Launch {
        let ip = self.network.as_ref().map(|network| network.address(name));
        let ip = ip.unwrap_or(IpAddr::from(Ipv4Addr::LOCALHOST));
        let address = SocketAddr::new(ip, free_port(Ipv4Addr::LOCALHOST.into()));
        self.addresses.insert(name.to_owned(), address);
        let mut registry = self.etcd.address;
        if self.settings.relayed_to_etcd.iter().any(|one| one == name) {
            let relay = Relay::start(registry);
            registry = relay.address;
            self.relays.insert(format!("{name}-etcd"), relay);
        }
        let kind = match name.chars().next() {
            Some('c') => "coordinator",
            _ => "worker",
        };
        let settings = &self.settings;
        let mut words = vec![kind.to_owned()];
        let mut add = |flag: &str, value: &dyn ToString| {
            words.extend([flag.to_owned(), value.to_string()]);
        };
        add("--registry", &format!("http://{registry}"));
        add("--node-name", &name);
        add("--lease-seconds", &settings.lease_seconds);
        add("--grpc", &address);
        if settings.relayed.iter().any(|one| one == name) {
            let relay = Relay::start(address);
            add("--advertise", &relay.address);
            self.relays.insert(name.to_owned(), relay);
        }
        if kind == "coordinator" {
            add("--language-replicas", &settings.language_replicas);
            add("--tensor-parallel", &settings.tensor_parallel);
            add("--vision-replicas", &settings.vision_nodes);
            words.extend(settings.coordinator_arguments.clone());
        } else {
            let is_vision = name.starts_with('v');
            add("--role", &if is_vision { "vision" } else { "language" });
            add("--model", &settings.model);
            add("--threads", &1);
            if !is_vision {
                add("--devices", &settings.devices);
                // Room for all streams of a test in one group, so that none that moves has to wait.
                add("--max-running", &128);
                add("--kv-cache-tokens", &32768);
                words.extend(settings.language_arguments.clone());
            }
        }
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let mut launch = Launch::inkstone(name, &self.settings.program, &words);
        launch.namespace = self.network.as_ref().map(|network| network.namespace(name));
        launch
    }

    fn start_member(&mut self, name: &str) {
        let member = self.member_mut(name);
        assert!(member.process.is_none(), "{name} runs");
        member.process = Some(Process::launch(&member.launch));
    }

    fn member_mut(&mut self, name: &str) -> &mut Member {
        let member = self.members.get_mut(name);
        member.unwrap_or_else(|| panic!("there is no {name}"))
    }

    /// A member's process, which runs.
    pub fn process(&self, name: &str) -> &Process {
        let member = self.members.get(name);
        let process = member.and_then(|member| member.process.as_ref());
        process.unwrap_or_else(|| panic!("{name} does not run"))
    }

    /// Names of the members that run.
    pub fn running(&self) -> Vec<String> {
        let running = self.members.iter().filter(|(_, m)| m.process.is_some());
        running.map(|(name, _)| name.clone()).collect()
    }

    /// Where clients connect.
    pub fn coordinators(&self) -> Vec<String> {
        let names = self.settings.names('c', self.settings.coordinators);
        names.map(|name| self.address(&name)).collect()
    }

    /// Where a member listens.
    pub fn address(&self, name: &str) -> String {
        self.addresses[name].to_string()
    }

    /// A wire that the test holds: `NAME` to a worker, `NAME-etcd` from a member to etcd.
    pub fn relay(&self, name: &str) -> &Relay {
        self.relays.get(name).expect("it was asked for")
    }

    /// Kills a process.
    pub fn kill(&mut self, name: &str) {
        let member = self.member_mut(name);
        let mut process = member.process.take().expect("it runs");
        process.kill();
        member.past_logs.push(process.log_text());
    }

    /// Asks a process to end and waits until it did.
    pub fn stop(&mut self, name: &str, patience: Duration) -> ExitStatus {
        let member = self.member_mut(name);
        let mut process = member.process.take().expect("it runs");
        process.terminate();
        let status = process.wait_for_end(patience);
        member.past_logs.push(process.log_text());
        status
    }

    /// Starts a process again that was killed or stopped.
    pub fn restart(&mut self, name: &str) {
        self.start_member(name);
    }

    /// What etcd says at present.
    pub fn state(&self) -> Arc<ClusterState> {
        Arc::clone(&self.state.borrow())
    }

    /// The groups and who runs them.
    pub fn groups(&self) -> Vec<Group> {
        groups(&self.state())
    }

    /// A group by its name.
    pub fn group(&self, id: &str) -> Group {
        let mut groups = self.groups().into_iter();
        let group = groups.find(|group| group.id.as_str() == id);
        group.unwrap_or_else(|| panic!("there is no {id}: {:#?}", self.state()))
    }

    /// The coordinator that places.
    pub fn placer(&self) -> Option<String> {
        let placer = self.state().placer.clone();
        placer.map(|id| id.as_str().to_owned())
    }

    /// Waits until etcd says something, and tells how long it took.
    pub async fn wait_until(
        &self,
        wanted: &str,
        patience: Duration,
        holds: impl Fn(&ClusterState) -> bool,
    ) -> Duration {
        let started = Instant::now();
        let mut state = self.state.clone();
        let waited = timeout(patience, state.wait_for(|state| holds(state))).await;
        let holds = matches!(waited, Ok(Ok(_)));
        assert!(
            holds,
            "not after {patience:?}: {wanted}; etcd says {:#?}",
            self.state()
        );
        started.elapsed()
    }

    /// Waits until all running processes, and no others, are members, and everything that is wanted serves. Tells how long it took.
    pub async fn wait_until_right(&self) -> Duration {
        self.wait_until_right_within(PATIENCE).await
    }

    /// The same, with a goal.
    pub async fn wait_until_right_within(&self, patience: Duration) -> Duration {
        let started = Instant::now();
        let mut connected = self.registry.is_connected();
        let waited = timeout(patience, connected.wait_for(|connected| *connected)).await;
        assert!(waited.is_ok(), "etcd is not there again after {patience:?}");
        self.wait_until("all members are there and serve", patience, |state| {
            self.is_right(state)
        })
        .await;
        // A coordinator that was just started has yet to ask its groups what they serve.
        for name in self.running().iter().filter(|name| name.starts_with('c')) {
            self.process(name).wait_for("coordinator ready", "address");
        }
        started.elapsed()
    }

    fn is_right(&self, state: &ClusterState) -> bool {
        let running = |letters: &[char]| -> Vec<String> {
            let names = self.running().into_iter();
            names.filter(|name| name.starts_with(letters)).collect()
        };
        let names = |ids: Vec<&NodeId>| -> Vec<String> {
            ids.iter().map(|id| id.as_str().to_owned()).collect()
        };
        let workers = running(&['l', 'v']);
        let vision = running(&['v']);
        names(state.nodes.keys().collect()) == workers
            && names(state.coordinators.keys().collect()) == running(&['c'])
            && state
                .placer
                .as_ref()
                .is_some_and(|placer| state.coordinators.contains_key(placer))
            && state.groups.len() == self.settings.language_replicas
            && state.groups.keys().all(|group| state.is_group_ready(group))
            && vision
                .iter()
                .all(|name| state.is_vision_ready(&NodeId::new(name.clone())))
    }

    /// Waits until this group serves in a later epoch, and tells how long it took.
    pub async fn wait_for_new_life(&self, group: &Group, patience: Duration) -> Duration {
        let wanted = format!("{} serves again after epoch {}", group.id, group.epoch);
        self.wait_until(&wanted, patience, |state| {
            state
                .groups
                .get(&group.id)
                .is_some_and(|(_, epoch)| *epoch > group.epoch)
                && state.is_group_ready(&group.id)
        })
        .await
    }

    /// Waits until no group works for anybody any more, as every coordinator that runs hears it: what was moved or given up left nothing
    /// behind.
    pub async fn wait_until_idle(&self) {
        let started = Instant::now();
        loop {
            let busy = self.busy_groups().await;
            if busy.is_empty() {
                return;
            }
            assert!(
                started.elapsed() < PATIENCE / 4,
                "nobody asks, and still: {busy:#?}"
            );
            sleep(Duration::from_millis(100)).await;
        }
    }

    async fn busy_groups(&self) -> Vec<LanguageGroup> {
        let mut busy = Vec::new();
        for name in self.running().iter().filter(|name| name.starts_with('c')) {
            busy.extend(self.busy_groups_heard_by(name).await);
        }
        busy
    }

    /// The groups that work for somebody, as a coordinator hears it.
    pub async fn busy_groups_heard_by(&self, coordinator: &str) -> Vec<LanguageGroup> {
        let address = format!("http://{}", self.address(coordinator));
        let client = ClusterServiceClient::connect(address).await;
        let mut client = client.expect("it listens");
        let answer = client.get_cluster(GetClusterRequest {}).await;
        let cluster = answer.expect("it answers").into_inner().cluster;
        let groups = cluster.expect("it says how it is").groups;
        groups.into_iter().filter(is_busy).collect()
    }

    fn keep_logs(&self) {
        let folder = std::env::temp_dir().join(format!("inkstone-logs-{}", std::process::id()));
        let folder = (0..)
            .map(|number| folder.join(number.to_string()))
            .find(|folder| !folder.exists())
            .expect("a name");
        if fs::create_dir_all(&folder).is_err() {
            return;
        }
        for (name, member) in &self.members {
            let mut logs = member.past_logs.clone();
            logs.extend(member.process.as_ref().map(Process::log_text));
            let text = logs.join("\n--- started again ---\n");
            let _ = fs::write(folder.join(format!("{name}.jsonl")), text);
        }
        let _ = fs::write(folder.join("etcd.jsonl"), self.etcd.log_text());
        let _ = fs::write(folder.join("state.txt"), format!("{:#?}", self.state()));
        eprintln!("logs are in {}", folder.display());
    }
}

/// Whether it works, or has not said that it does not.
fn is_busy(group: &LanguageGroup) -> bool {
    let idle = |load: &GroupLoad| load.waiting + load.running + load.blocks_used == 0;
    !group.load.as_ref().is_some_and(idle)
}

fn groups(state: &ClusterState) -> Vec<Group> {
    let group = |(id, (assignment, epoch)): (&GroupId, &(_, Epoch))| {
        let assignment: &inkstone_cluster::GroupAssignment = assignment;
        let nodes = assignment.ranks.iter().map(|node| node.as_str().to_owned());
        let mut nodes: Vec<String> = nodes.collect();
        nodes.dedup();
        Group {
            id: id.clone(),
            epoch: *epoch,
            nodes,
        }
    };
    state.groups.iter().map(group).collect()
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() || std::env::var_os("INKSTONE_KEEP_LOGS").is_some() {
            self.keep_logs();
        }
        for member in self.members.values_mut() {
            member.process = None;
        }
    }
}
