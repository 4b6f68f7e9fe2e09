//! Settings of worker processes, typed. Only the command line crate fills them.

use std::{collections::BTreeSet, net::SocketAddr, path::PathBuf, time::Duration};

use anyhow::Context;
use inkstone_cluster::{NodeAddress, NodeId, Role};
use inkstone_model::{device::Device, tensor::DType};

/// How a process loads and runs its part of the model.
#[derive(Clone, Debug)]
pub struct ModelSettings {
    /// The checkpoint's folder.
    pub model_dir: PathBuf,
    /// Type of the weights in memory; not set: as they are on disk.
    pub dtype: Option<DType>,
    /// Threads of each rank, or of the picture encoder; at least 1.
    pub threads: usize,
    /// What computes.
    pub device: DeviceKind,
}

/// What computes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeviceKind {
    #[default]
    Cpu,
    /// GPUs of this machine: each rank of the process has one, from `first` on.
    Cuda { first: usize },
}

impl ModelSettings {
    /// The device of the process's rank of that number, counted from 0 among its own.
    ///
    /// # Errors
    /// Says what is missing for it.
    pub fn open_device(&self, index: usize) -> anyhow::Result<Device> {
        match self.device {
            DeviceKind::Cpu => Ok(Device::cpu(self.threads)),
            DeviceKind::Cuda { first } => {
                Device::cuda(first + index).context("cannot compute on a GPU (--device cuda)")
            }
        }
    }
}

/// Settings of a language group's leader process.
#[derive(Clone, Debug)]
pub struct LanguageConfig {
    /// How the model is loaded.
    pub model: ModelSettings,
    /// Ranks of the group.
    pub world_size: usize,
    /// Which ranks this process runs.
    pub ranks: RankPlacement,
    /// How the group runs.
    pub group: GroupSettings,
    /// After a shutdown, running requests get this long to finish.
    pub grace: Duration,
}

/// How a language group runs, wherever its ranks are.
#[derive(Clone, Debug)]
pub struct GroupSettings {
    /// What runs the model.
    pub executor: ExecutorSettings,
    /// Positions the KV cache holds; not set: what fits the memory.
    pub kv_cache_tokens: Option<usize>,
    /// Most rows in one step.
    pub max_step_tokens: usize,
    /// Most sequences that run side by side.
    pub max_running: usize,
    /// Most requests that wait.
    pub max_waiting: usize,
    /// Whether decode steps are recorded where the device gains by it.
    pub decode_graphs: bool,
    /// How long its ranks wait for one another.
    pub deadlines: Deadlines,
}

/// How long the ranks of a group wait for one another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadlines {
    /// For the group to be complete, once the weights are there.
    pub join: Duration,
    /// For a step, and for the others in one call of the collective: a hang is a failure.
    pub step: Duration,
    /// For a sign of life of a rank in another process, whether or not a step runs.
    pub silence: Duration,
}

/// What runs the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExecutorSettings {
    /// The ranks, with the checkpoint's weights.
    Device,
    /// A simulated accelerator for each rank, without weights.
    Simulated {
        /// Tokens of every answer; not set: as many as were asked for.
        answer_tokens: Option<usize>,
    },
}

/// Where the ranks of a group run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RankPlacement {
    /// All in the leader's process, a thread each.
    InProcess,
    /// Rank 0 here; every other rank in a process of its own that joins, and meets the others at `rendezvous`.
    Joining {
        /// Where rank 0 listens for the collective; its port may be 0.
        rendezvous: SocketAddr,
    },
}

/// Settings of a process that runs one rank other than 0.
#[derive(Clone, Debug)]
pub struct RankConfig {
    /// How the model is loaded.
    pub model: ModelSettings,
    /// This rank.
    pub rank: usize,
    /// Ranks of the group.
    pub world_size: usize,
    /// The leader's gRPC address, `http://host:port`.
    pub leader: String,
    /// How long the ranks wait for one another.
    pub deadlines: Deadlines,
    /// After a shutdown, the leader gets this long to end the group.
    pub grace: Duration,
}

/// Settings of a vision worker process.
#[derive(Clone, Debug)]
pub struct VisionConfig {
    /// How the model is loaded.
    pub model: ModelSettings,
    /// How pictures are encoded.
    pub vision: VisionSettings,
    /// After a shutdown, open calls get this long to finish.
    pub grace: Duration,
}

/// How pictures are taken and encoded.
#[derive(Clone, Debug)]
pub struct VisionSettings {
    /// What encodes; a simulated one takes pictures and has no features of them.
    pub executor: ExecutorSettings,
    /// Most bytes of an encoded picture.
    pub max_picture_bytes: usize,
    /// Most pixels of a picture.
    pub max_picture_pixels: u64,
    /// Pictures that may wait for the encoder, and pictures that PutPicture may look at; past that it refuses.
    pub max_queue: usize,
    /// Bytes of files and features that are kept for pictures that come again.
    pub feature_cache_bytes: usize,
}

/// Settings of a worker that takes its work from the registry.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// Its name: another process of the same name takes its place.
    pub id: NodeId,
    /// Tells the processes of one name apart.
    pub incarnation: String,
    /// The machine it runs on.
    pub host: String,
    /// Where others reach its listener.
    pub address: NodeAddress,
    /// What it may be told to run.
    pub roles: BTreeSet<Role>,
    /// Language ranks that it can run, at least 1.
    pub devices: u32,
    /// How the model is loaded for a rank.
    pub model: ModelSettings,
    /// How a group runs that it has a part in.
    pub group: GroupSettings,
    /// Threads of the picture encoder.
    pub vision_threads: usize,
    /// How it encodes pictures.
    pub vision: VisionSettings,
    /// What is taken away from it, or ended by a shutdown, gets this long to finish.
    pub grace: Duration,
}

/// Rows of a step unless told otherwise: long enough to keep the GEMMs busy, short enough that decodes are not stalled.
pub const DEFAULT_MAX_STEP_TOKENS: usize = 1024;
/// Sequences side by side unless told otherwise.
pub const DEFAULT_MAX_RUNNING: usize = 64;
/// Waiting sequences unless told otherwise.
pub const DEFAULT_MAX_WAITING: usize = 256;
/// Steps after which a waiting batch request counts as interactive: on a CPU, some minutes.
pub const MAX_WAIT_STEPS: usize = 2000;
/// Step deadline unless told otherwise: the slowest step on a CPU (a 7B prefill chunk) takes tens of seconds.
pub const DEFAULT_STEP_DEADLINE: Duration = Duration::from_secs(120);
/// Join deadline unless told otherwise: 7B weights from a slow disk take minutes.
pub const DEFAULT_JOIN_DEADLINE: Duration = Duration::from_secs(600);
/// The same where the registry says who is there: ranks that do not meet are given other company instead.
pub const DEFAULT_NODE_JOIN_DEADLINE: Duration = Duration::from_secs(60);
/// Silence of a rank in another process unless told otherwise: six signs of life in a row, and less than a client notices.
pub const DEFAULT_SILENCE: Duration = Duration::from_millis(1500);
/// Time to finish unless told otherwise: as long as Kubernetes gives by default.
pub const DEFAULT_GRACE: Duration = Duration::from_secs(30);
/// Encoded bytes of a picture unless told otherwise.
pub const DEFAULT_MAX_PICTURE_BYTES: usize = 20 << 20;
/// Pixels of a picture unless told otherwise.
pub const DEFAULT_MAX_PICTURE_PIXELS: u64 = 40_000_000;
/// Pictures waiting for the encoder unless told otherwise.
pub const DEFAULT_VISION_QUEUE: usize = 32;
/// Features kept unless told otherwise: about 100 pictures of vl-7b.
pub const DEFAULT_FEATURE_CACHE_BYTES: usize = 512 << 20;
