//! What can be typed after `inkstone bench`.

use std::{net::SocketAddr, path::PathBuf};

use clap::{Args, Subcommand};
use inkstone_model::synthesize::Preset;

use super::{ClusterArguments, EngineArguments, HollowModelArguments};

#[derive(Args, Debug)]
pub(crate) struct BenchArguments {
    #[command(subcommand)]
    pub(crate) command: BenchCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum BenchCommand {
    /// Load a server and print throughput and latencies.
    Serve(BenchServeArguments),
    /// What a token costs the coordinator, beside a proxy that only forwards bytes.
    Coordinator(BenchCoordinatorArguments),
    /// What the network does on one device, each figure beside what the device can do at best.
    Device(BenchDeviceArguments),
    /// What batching, chunked prefill and the prefix cache bring, on real weights.
    Engine(BenchEngineArguments),
    /// How long a tenant waits for its first token while another keeps a hundred times as many questions open.
    Fairness(BenchFairnessArguments),
    /// How much of prompts that begin alike is found in the caches of several groups.
    Routing(BenchRoutingArguments),
    /// How long an article with pictures takes, beside the same one in the order of work of the demo.
    Compose(BenchComposeArguments),
    /// The proxy that `coordinator` is measured beside: forwards bytes on one thread.
    #[command(hide = true)]
    Proxy(BenchProxyArguments),
}

#[derive(Args, Debug)]
pub(crate) struct BenchServeArguments {
    #[command(flatten)]
    pub(crate) cluster: ClusterArguments,
    /// Requests that are answered side by side: the next one is sent when one is done.
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) concurrency: u32,
    /// Send requests at this rate, at random moments, whether those before are done or not; then --concurrency has no effect.
    #[arg(long, value_name = "PER_SECOND")]
    pub(crate) rate: Option<f64>,
    /// Requests in all.
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) requests: u32,
    /// Connections that share the requests; default: one for each 64 requests side by side.
    #[arg(long, value_name = "N")]
    pub(crate) connections: Option<u32>,
    /// Tokens of a question, about; the template and a picture come on top.
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) prompt_tokens: u32,
    /// Tokens of an answer, exactly.
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) answer_tokens: u32,
    /// A picture that every question is about.
    #[arg(long, value_name = "FILE")]
    pub(crate) image: Option<PathBuf>,
    /// A request is good when its first token comes within so many milliseconds ...
    #[arg(long, value_name = "MS", default_value_t = 1000.0)]
    pub(crate) ttft_limit: f64,
    /// ... and each later one takes at most so many on average.
    #[arg(long, value_name = "MS", default_value_t = 100.0)]
    pub(crate) token_limit: f64,
    /// The same seed asks the same questions at the same moments.
    #[arg(long, value_name = "S", default_value_t = 0)]
    pub(crate) seed: u64,
    /// Print the figures as JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
pub(crate) struct BenchCoordinatorArguments {
    #[command(flatten)]
    pub(crate) model: HollowModelArguments,
    /// Streams side by side.
    #[arg(long, value_name = "N", default_value_t = 2000, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) streams: u32,
    /// Connections of the clients, to the coordinator and to the proxy alike; default: one for each stream.
    #[arg(long, value_name = "N")]
    pub(crate) connections: Option<u32>,
    /// Tokens of a question, about.
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) prompt_tokens: u32,
    /// Tokens of an answer, exactly.
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = clap::value_parser!(u32).range(2..))]
    pub(crate) answer_tokens: u32,
    /// Simulated H100s of the language group.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) tensor_parallel: usize,
    /// A request is good when its first token comes within so many milliseconds ...
    #[arg(long, value_name = "MS", default_value_t = 5000.0)]
    pub(crate) ttft_limit: f64,
    /// ... and each later one takes at most so many on average.
    #[arg(long, value_name = "MS", default_value_t = 200.0)]
    pub(crate) token_limit: f64,
    /// Print the figures as JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
pub(crate) struct BenchDeviceArguments {
    /// Shape of the model, whose weights are random; not with --model [default: vl-7b on a GPU, quarter on a CPU].
    #[arg(long)]
    pub(crate) preset: Option<Preset>,
    #[command(flatten)]
    pub(crate) engine: EngineArguments,
    /// Folder that random weights are written to, and found in by later runs.
    #[arg(long, value_name = "DIR", default_value = "/tmp/inkstone-bench")]
    pub(crate) work: PathBuf,
    /// Few rows and short prompts: to see that all of it runs.
    #[arg(long)]
    pub(crate) small: bool,
    /// Print the figures as JSON, one object a line.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
pub(crate) struct BenchEngineArguments {
    /// Shape of the model, whose weights are random; not with --model.
    #[arg(long, default_value_t = Preset::Quarter)]
    pub(crate) preset: Preset,
    #[command(flatten)]
    pub(crate) engine: EngineArguments,
    /// Requests of each row.
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) requests: u32,
    /// Tokens of an answer, exactly.
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u32).range(2..))]
    pub(crate) answer_tokens: u32,
    /// Tokens of the long prompts that come between short ones.
    #[arg(long, value_name = "N", default_value_t = 2048, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) long_prompt_tokens: u32,
    /// Rows of a step with chunked prefill.
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) chunk: u32,
    /// Pictures that are asked about twice.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) pictures: u32,
    /// Print the figures as JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
pub(crate) struct BenchFairnessArguments {
    #[command(flatten)]
    pub(crate) model: HollowModelArguments,
    /// Questions that the loud tenant keeps open for each one of the quiet tenant's.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) load_factor: u32,
    /// Requests that run at once.
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u32).range(2..))]
    pub(crate) running: u32,
    /// Questions of the quiet tenant in each row, one after the other.
    #[arg(long, value_name = "N", default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) questions: u32,
    /// Tokens of a question, about.
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) prompt_tokens: u32,
    /// Tokens of an answer, exactly.
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(2..))]
    pub(crate) answer_tokens: u32,
    /// Print the figures as JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
pub(crate) struct BenchRoutingArguments {
    #[command(flatten)]
    pub(crate) model: HollowModelArguments,
    /// Language groups.
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) groups: u32,
    /// Positions that the cache of each holds: less than all beginnings take, and more than its share of them.
    #[arg(long, value_name = "N", default_value_t = 40_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) kv_cache_tokens: u32,
    /// Questions in all.
    #[arg(long, value_name = "N", default_value_t = 600, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) requests: u32,
    /// Questions that are answered side by side.
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) concurrency: u32,
    /// Beginnings that questions share.
    #[arg(long, value_name = "N", default_value_t = 40, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) beginnings: u32,
    /// Tokens of a beginning, about.
    #[arg(long, value_name = "N", default_value_t = 1500, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) beginning_tokens: u32,
    /// Tokens of what differs, about.
    #[arg(long, value_name = "N", default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) question_tokens: u32,
    /// Tokens of an answer, exactly.
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u32).range(2..))]
    pub(crate) answer_tokens: u32,
    /// The same seed asks the same questions.
    #[arg(long, value_name = "S", default_value_t = 0)]
    pub(crate) seed: u64,
    /// Print the figures as JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
pub(crate) struct BenchComposeArguments {
    /// The coordinator; not given: a cluster of processes is started for the time of the measurement.
    #[arg(long, env = "INKSTONE_SERVER", value_name = "HOST:PORT")]
    pub(crate) server: Option<String>,
    /// Folder of the checkpoint; not given: the small one that is built in.
    #[arg(long, env = "INKSTONE_MODEL", value_name = "DIR")]
    pub(crate) model: Option<PathBuf>,
    /// What to write. Not given: what the small model, with the default seed, makes six paragraphs of, the most it writes; with
    /// --uploads an article about them.
    #[arg(long, value_name = "TEXT")]
    pub(crate) instruction: Option<String>,
    /// Pictures of the article, as far as it has paragraphs for them. Not given: 6; with --uploads 4, the most that the small model
    /// writes about.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=15))]
    pub(crate) pictures: Option<u32>,
    /// Pictures that each is chosen from.
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(2..=4))]
    pub(crate) candidates: u32,
    /// The pictures are the user's own: the model sees them all when it writes, and when it chooses those that are left.
    #[arg(long, conflicts_with = "candidates")]
    pub(crate) uploads: bool,
    /// Most tokens of the article.
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = clap::value_parser!(u32).range(16..=8192))]
    pub(crate) max_tokens: u32,
    /// Articles in each way; the medians are told.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) runs: u32,
    /// The same seed writes the same article.
    #[arg(long, value_name = "S", default_value_t = 3)]
    pub(crate) seed: u64,
    /// Say when what happened in the last article of each of the cluster's own ways.
    #[arg(long, conflicts_with = "json")]
    pub(crate) timeline: bool,
    /// Print the figures as JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
pub(crate) struct BenchProxyArguments {
    /// Where it listens.
    #[arg(long, value_name = "ADDR")]
    pub(crate) listen: SocketAddr,
    /// Where it forwards to.
    #[arg(long, value_name = "ADDR")]
    pub(crate) upstream: SocketAddr,
}
