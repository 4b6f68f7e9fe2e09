//! What can be typed. Each command's flags are a struct that its file turns into settings; a flag that is not given is read
//! from the environment variable that the help text names.

mod admission;
mod bench;
mod chat;
mod cluster;
mod compose;
mod composition;
mod library;
mod registry;
mod sampling;
mod server;
#[cfg(test)]
mod tests;

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::{
    Args, Parser, Subcommand, ValueEnum,
    builder::{PossibleValuesParser, TypedValueParser},
};
use inkstone_model::{synthesize::Preset, tensor::DType};
use inkstone_world::Skill;

pub(crate) use admission::AdmissionArguments;
pub(crate) use bench::{
    BenchArguments, BenchCommand, BenchComposeArguments, BenchCoordinatorArguments,
    BenchDeviceArguments, BenchEngineArguments, BenchFairnessArguments, BenchProxyArguments,
    BenchRoutingArguments, BenchServeArguments,
};
pub(crate) use chat::{ChatArguments, PriorityChoice};
pub(crate) use cluster::{
    CoordinatorArguments, DeploymentArguments, DrainArguments, ScaleArguments, StatusArguments,
};
pub(crate) use compose::{ComposeArguments, ExportFile, PictureSourceChoice};
pub(crate) use composition::{CompositionArguments, PictureSourceArguments};
pub(crate) use library::{
    LibraryArguments, LibraryCommand, LibraryImportArguments, LibrarySearchArguments,
};
pub(crate) use registry::RegistryArguments;
pub(crate) use sampling::SamplingArguments;
pub(crate) use server::{ClusterArguments, FrontArguments, HollowModelArguments, ServerArguments};

/// Serves InternLM-XComposer2: chat about pictures and articles with pictures, on one machine or a cluster.
#[derive(Debug, Parser)]
#[command(name = "inkstone", version, propagate_version = true)]
pub(crate) struct Arguments {
    /// How log lines look. INKSTONE_LOG chooses which are written (default `info`, for commands that talk to people `warn`).
    #[arg(
        long,
        global = true,
        env = "INKSTONE_LOG_FORMAT",
        value_enum,
        default_value = "text"
    )]
    pub(crate) log_format: LogFormat,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a whole cluster in this process: coordinator, language ranks and vision workers.
    Serve(ServeArguments),
    /// Run a coordinator: the gRPC endpoint that clients see.
    Coordinator(CoordinatorArguments),
    /// Run a worker: a language group's leader or rank, or a picture encoder.
    Worker(WorkerArguments),
    /// Show a cluster: nodes, groups, how busy they are, and what is wanted.
    Status(StatusArguments),
    /// Say how many groups and workers are wanted of a cluster that runs.
    Scale(ScaleArguments),
    /// Relieve a node of its work: streams finish, others take over.
    Drain(DrainArguments),
    /// Ask about pictures and read the answer as it comes.
    Chat(ChatArguments),
    /// Write an article with pictures, and read it as it comes.
    Compose(ComposeArguments),
    /// Keep pictures that articles are illustrated with.
    Library(LibraryArguments),
    /// Measure a small model: fresh cases of the drawn world it was trained on, and how many it gets right.
    Eval(EvalArguments),
    /// Look at checkpoints, or make one.
    Model(ModelArguments),
    /// Measure a cluster, each figure beside what it is to be compared with.
    Bench(BenchArguments),
}

/// Which model, and how it is run.
#[derive(Args, Clone, Debug)]
pub(crate) struct EngineArguments {
    /// Folder of the checkpoint (config.json, tokenizer.model, safetensors or pytorch_model.bin).
    #[arg(long, env = "INKSTONE_MODEL", value_name = "DIR")]
    pub(crate) model: Option<PathBuf>,
    /// Where to compute.
    #[arg(long, env = "INKSTONE_DEVICE", value_enum, default_value = "cpu")]
    pub(crate) device: DeviceChoice,
    /// Type of the weights in memory; not given: as they are on disk.
    #[arg(long, env = "INKSTONE_DTYPE", value_enum)]
    pub(crate) dtype: Option<DTypeChoice>,
    /// Threads of this process; default: all cores, shared by the ranks.
    #[arg(long, env = "INKSTONE_THREADS", value_name = "N")]
    pub(crate) threads: Option<usize>,
    /// Positions that the KV cache holds; default: from the free memory.
    #[arg(long, env = "INKSTONE_KV_CACHE_TOKENS", value_name = "N")]
    pub(crate) kv_cache_tokens: Option<usize>,
    /// Most rows in one engine step.
    #[arg(long, env = "INKSTONE_MAX_STEP_TOKENS", value_name = "N", default_value_t = inkstone_worker::config::DEFAULT_MAX_STEP_TOKENS)]
    pub(crate) max_step_tokens: usize,
    /// Most requests that run side by side.
    #[arg(long, env = "INKSTONE_MAX_RUNNING", value_name = "N", default_value_t = inkstone_worker::config::DEFAULT_MAX_RUNNING)]
    pub(crate) max_running: usize,
    /// Most requests that wait for a place among those; past it they are refused.
    #[arg(long, env = "INKSTONE_MAX_WAITING", value_name = "N", default_value_t = inkstone_worker::config::DEFAULT_MAX_WAITING)]
    pub(crate) max_waiting: usize,
    /// Launch decode steps op by op on GPUs, instead of recording each size once as a CUDA graph.
    #[arg(long)]
    pub(crate) no_decode_graphs: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum DeviceChoice {
    /// The processor.
    Cpu,
    /// NVIDIA GPUs, one for each rank.
    Cuda,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum DTypeChoice {
    F32,
    Bf16,
    F16,
}

/// How a process stops.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct StopArguments {
    /// After the first SIGTERM, what runs gets so many seconds to finish; a second one ends the process at once.
    #[arg(long, env = "INKSTONE_GRACE", value_name = "SECONDS", default_value_t = inkstone_worker::config::DEFAULT_GRACE.as_secs())]
    pub(crate) grace: u64,
}

impl StopArguments {
    /// The grace time.
    pub(crate) fn grace(self) -> Duration {
        Duration::from_secs(self.grace)
    }
}

#[derive(Args, Debug)]
pub(crate) struct ServeArguments {
    #[command(flatten)]
    pub(crate) front: FrontArguments,
    #[command(flatten)]
    pub(crate) engine: EngineArguments,
    /// Language groups, each with a whole copy of the model.
    #[arg(long, env = "INKSTONE_LANGUAGE_REPLICAS", value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) language_replicas: u32,
    /// Language ranks that share the model; must divide its key-value heads.
    #[arg(
        long,
        env = "INKSTONE_TENSOR_PARALLEL",
        value_name = "N",
        default_value_t = 1
    )]
    pub(crate) tensor_parallel: usize,
    /// Vision workers.
    #[arg(
        long,
        env = "INKSTONE_VISION_WORKERS",
        value_name = "N",
        default_value_t = 1
    )]
    pub(crate) vision_workers: usize,
}

#[derive(Args, Debug)]
pub(crate) struct WorkerArguments {
    /// What the worker does; with --registry, what it may be told to do.
    #[arg(
        long,
        env = "INKSTONE_ROLE",
        value_enum,
        value_delimiter = ',',
        required = true
    )]
    pub(crate) role: Vec<RoleChoice>,
    #[command(flatten)]
    pub(crate) registry: RegistryArguments,
    /// With --registry: language ranks that this process can run.
    #[arg(long, env = "INKSTONE_DEVICES", value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) devices: u32,
    #[command(flatten)]
    pub(crate) stop: StopArguments,
    /// What runs the model.
    #[arg(long, env = "INKSTONE_EXECUTOR", value_enum, default_value = "device")]
    pub(crate) executor: ExecutorChoice,
    /// With the simulated executor: answers end after so many tokens; not given: at the length that was asked for.
    #[arg(long, env = "INKSTONE_SIMULATED_ANSWER_TOKENS", value_name = "N")]
    pub(crate) simulated_answer_tokens: Option<usize>,
    #[command(flatten)]
    pub(crate) engine: EngineArguments,
    /// Where the coordinator connects (and, for rank 0, the other ranks).
    #[arg(
        long,
        env = "INKSTONE_GRPC",
        value_name = "ADDR",
        default_value = "127.0.0.1:0"
    )]
    pub(crate) grpc: SocketAddr,
    /// Language ranks that share the model; with --registry, the coordinator says.
    #[arg(
        long,
        env = "INKSTONE_TENSOR_PARALLEL",
        value_name = "N",
        default_value_t = 1
    )]
    pub(crate) tensor_parallel: usize,
    /// The one rank that this process runs; not given: all of them.
    #[arg(long, env = "INKSTONE_RANK", value_name = "R")]
    pub(crate) rank: Option<usize>,
    /// For ranks above 0: the gRPC address of rank 0.
    #[arg(long, env = "INKSTONE_LEADER", value_name = "HOST:PORT")]
    pub(crate) leader: Option<String>,
    /// For rank 0 of several processes: where it meets the other ranks for the collective.
    #[arg(
        long,
        env = "INKSTONE_RENDEZVOUS",
        value_name = "ADDR",
        default_value = "127.0.0.1:0"
    )]
    pub(crate) rendezvous: SocketAddr,
    /// A step, and every wait of a rank for another, fails after this many seconds.
    #[arg(long, env = "INKSTONE_STEP_DEADLINE", value_name = "SECONDS", default_value_t = inkstone_worker::config::DEFAULT_STEP_DEADLINE.as_secs())]
    pub(crate) step_deadline: u64,
    /// How long ranks wait for one another at the start, in seconds; default: 600, with --registry 60 once the weights are there.
    #[arg(long, env = "INKSTONE_JOIN_DEADLINE", value_name = "SECONDS")]
    pub(crate) join_deadline: Option<u64>,
    /// With --registry: a rank in another process that gives no sign of life for so many milliseconds is lost.
    #[arg(long, env = "INKSTONE_RANK_SILENCE", value_name = "MILLISECONDS", default_value_t = inkstone_worker::config::DEFAULT_SILENCE.as_millis() as u64)]
    pub(crate) rank_silence: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ExecutorChoice {
    /// Computes, with the checkpoint's weights.
    Device,
    /// Computes nothing: takes the time of an H100 for each rank and draws tokens that mean nothing. Reads no weights, so a
    /// hollow checkpoint (`model synthesize --hollow`) is enough.
    Simulated,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum RoleChoice {
    /// Runs the language model.
    Language,
    /// Encodes pictures.
    Vision,
}

#[derive(Args, Debug)]
pub(crate) struct EvalArguments {
    #[command(flatten)]
    pub(crate) cluster: ClusterArguments,
    /// Which cases: the same seed draws the same ones.
    #[arg(long, value_name = "S", default_value_t = 1)]
    pub(crate) seed: u64,
    /// Cases of each skill. A case of `turns` has several questions, each of which counts.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) count: u64,
    /// Only these skills.
    #[arg(long, value_name = "NAMES", value_delimiter = ',', value_parser = skill_parser())]
    skills: Vec<Skill>,
    /// Print the figures as JSON.
    #[arg(long)]
    pub(crate) json: bool,
    /// Send other pictures than the questions are about: what is then right is right by chance.
    #[arg(long)]
    pub(crate) swap_pictures: bool,
    /// Show this many wrong answers of each skill.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) show: usize,
    /// Write every answer beside what it should be to this file, one JSON object a line.
    #[arg(long, value_name = "FILE")]
    pub(crate) answers: Option<PathBuf>,
}

impl EvalArguments {
    /// The skills to measure: all where none is named.
    pub(crate) fn skills(&self) -> Vec<Skill> {
        let mut skills = self.skills.clone();
        skills.sort_unstable();
        skills.dedup();
        if skills.is_empty() {
            skills.extend(Skill::ALL);
        }
        skills
    }
}

fn skill_parser() -> impl TypedValueParser<Value = Skill> {
    PossibleValuesParser::new(Skill::ALL.map(Skill::name)).try_map(|name| name.parse())
}

#[derive(Args, Debug)]
pub(crate) struct ModelArguments {
    #[command(subcommand)]
    pub(crate) command: ModelCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ModelCommand {
    /// Print a checkpoint's variant, sizes, and what each rank holds.
    Inspect {
        /// The checkpoint's folder.
        dir: PathBuf,
        /// Show the shards for this many ranks.
        #[arg(long, value_name = "N", default_value_t = 1)]
        tensor_parallel: usize,
    },
    /// Write a checkpoint with random weights, in the public format.
    Synthesize {
        /// Its shape.
        #[arg(long)]
        preset: Preset,
        /// The same seed gives the same weights.
        #[arg(long, default_value_t = 0)]
        seed: u64,
        /// Type of the weights on disk.
        #[arg(long, value_enum, default_value = "bf16")]
        dtype: DTypeChoice,
        /// Leave holes where the weights would be: enough for `worker --executor simulated`, and small on the disk.
        #[arg(long)]
        hollow: bool,
        /// The folder to make.
        out: PathBuf,
    },
}

impl From<DTypeChoice> for DType {
    fn from(choice: DTypeChoice) -> Self {
        match choice {
            DTypeChoice::F32 => Self::F32,
            DTypeChoice::Bf16 => Self::BF16,
            DTypeChoice::F16 => Self::F16,
        }
    }
}
