//! `inkstone bench coordinator`: the processor time that the coordinator takes for a token, beside that of a proxy which forwards
//! as many messages of the same size over as many connections in the same run.
//!
//! Coordinator, language group, vision worker and proxy are processes of their own; clients and the proxy's source are in this one. The
//! group is a simulated H100, so that tokens come as fast and in such bursts as from a real one.

use std::{
    fmt,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use serde::Serialize;
use tokio::{net::TcpListener, time::sleep};

use super::{
    load::{self, Arrivals, Load, Progress},
    message_source::{Forwarded, Messages, WARM_UP_ROUNDS},
    processes::{Process, check_open_files},
    questions::Questions,
    report::{GoodLimits, LoadReport},
    run_and_print,
    simulated_cluster::{Model, Settings, SimulatedCluster, flags},
};
use crate::{arguments::BenchCoordinatorArguments, telemetry::Console};

/// What the ratio should be at most.
const GOAL: f64 = 1.3;
/// Rows of a step beside one for each stream: for prompts.
const PREFILL_ROWS: u32 = 2048;
/// How often the streams are looked at for the moment when all run.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// Files that a process has open besides its connections.
const OTHER_FILES: u64 = 100;
const ANY_PORT: &str = "127.0.0.1:0";

pub(crate) fn run(arguments: BenchCoordinatorArguments, console: &Console) -> anyhow::Result<()> {
    let connections = arguments
        .connections
        .unwrap_or(arguments.streams)
        .clamp(1, arguments.streams);
    // The proxy has two for each client, and so has this process beside it.
    check_open_files(2 * u64::from(connections) + OTHER_FILES)?;
    let model = Model::of(arguments.model.model.as_deref(), console)?;
    run_and_print(
        arguments.json,
        measure(&arguments, &model, connections, console),
    )
}

async fn measure(
    arguments: &BenchCoordinatorArguments,
    model: &Model,
    connections: u32,
    console: &Console,
) -> anyhow::Result<Report> {
    let (coordinator, whole, load) =
        measure_coordinator(arguments, model, connections, console).await?;
    let proxy = measure_proxy(arguments.streams, connections, &coordinator).await?;
    Ok(Report {
        streams: arguments.streams,
        connections,
        tensor_parallel: arguments.tensor_parallel,
        ratio: coordinator.microseconds_a_message() / proxy.microseconds_a_message(),
        coordinator,
        proxy,
        whole_run_microseconds_a_token: whole.microseconds_a_token(),
        language_worker_microseconds_a_token: whole.worker_microseconds_a_token(),
        load,
    })
}

/// The coordinator's cost while all streams run, that of the whole run, and what the clients saw.
async fn measure_coordinator(
    arguments: &BenchCoordinatorArguments,
    model: &Model,
    connections: u32,
    console: &Console,
) -> anyhow::Result<(Cost, Cost, LoadReport)> {
    let cluster = Arc::new(SimulatedCluster::start(model, &arguments.settings()).await?);
    let streams = u64::from(arguments.streams);
    let load = Load {
        tenant: None,
        connections: connections as usize,
        arrivals: Arrivals::Closed {
            concurrency: streams,
        },
        requests: streams,
        questions: Questions {
            seed: 0,
            prompt_tokens: arguments.prompt_tokens,
            answer_tokens: arguments.answer_tokens,
            beginnings: None,
            picture: None,
        },
    };
    let progress = Arc::new(Progress::default());
    let begin = Snapshot::take(&cluster, &progress)?;
    let watch = watch(Arc::clone(&cluster), Arc::clone(&progress), streams);
    let watching = tokio::spawn(watch);
    let bar = console.counting_bar("streams", streams);
    let records = load::run(&cluster.address, &load, Arc::clone(&progress), &bar).await?;
    bar.finish_and_clear();
    let end = Snapshot::take(&cluster, &progress)?;
    let limits = GoodLimits {
        first_token_ms: arguments.ttft_limit,
        later_token_ms: arguments.token_limit,
    };
    let report = LoadReport::of(&records, limits);
    ensure!(
        report.failed == 0,
        "{} of {streams} streams failed: {}",
        report.failed,
        report.failure.unwrap_or_default()
    );
    let together = watching.await??.with_context(|| {
        format!(
            "answers of {} tokens end before all {streams} streams have begun: give more --answer-tokens",
            arguments.answer_tokens
        )
    })?;
    Ok((together, end.since(&begin), report))
}

/// The cost from the first token of the last stream to the end of the first one; `None` when that is no time at all.
async fn watch(
    cluster: Arc<SimulatedCluster>,
    progress: Arc<Progress>,
    streams: u64,
) -> anyhow::Result<Option<Cost>> {
    let mut begin = None;
    loop {
        let done = progress.done.load(Ordering::Relaxed) > 0;
        if begin.is_none() && progress.first_tokens.load(Ordering::Relaxed) >= streams {
            begin = Some(Snapshot::take(&cluster, &progress)?);
        } else if done {
            let Some(begin) = begin else { return Ok(None) };
            return Ok(Some(Snapshot::take(&cluster, &progress)?.since(&begin)));
        }
        sleep(LOOK_EVERY).await;
    }
}

async fn measure_proxy(streams: u32, connections: u32, coordinator: &Cost) -> anyhow::Result<Cost> {
    let messages = messages_like(coordinator, streams, connections);
    let source = TcpListener::bind(ANY_PORT).await?;
    let upstream = source.local_addr()?.to_string();
    let arguments = [
        "bench",
        "proxy",
        "--listen",
        ANY_PORT,
        "--upstream",
        &upstream,
    ];
    let mut proxy = Process::start("proxy", &arguments.map(str::to_owned))?;
    let address = proxy.address("listening").await?.parse()?;
    let mut forwarded = Forwarded::open(address, &source, messages.connections).await?;
    let warm_up = Messages {
        rounds: WARM_UP_ROUNDS,
        ..messages
    };
    forwarded.carry(warm_up).await?;
    let before = proxy.cpu_time()?;
    let wall = forwarded.carry(messages).await?;
    let cpu = proxy.cpu_time()?.saturating_sub(before);
    ensure!(
        !cpu.is_zero(),
        "{} messages took the proxy less than the kernel's clock can tell: give more --streams or --answer-tokens",
        messages.total()
    );
    Ok(Cost {
        tokens: messages.total(),
        messages: messages.total(),
        message_bytes: messages.total() * messages.message_bytes as u64,
        wall_seconds: wall.as_secs_f64(),
        cpu_seconds: cpu.as_secs_f64(),
        worker_cpu_seconds: 0.0,
    })
}

/// What the proxy has to carry to do what the coordinator did.
fn messages_like(coordinator: &Cost, streams: u32, connections: u32) -> Messages {
    let messages_a_round = u64::from(streams.div_ceil(connections));
    let round = u64::from(connections) * messages_a_round;
    let rounds = ((coordinator.messages as f64 / round as f64).round() as u64).max(1);
    let mean_bytes = coordinator.message_bytes as f64 / coordinator.messages.max(1) as f64;
    Messages {
        connections: connections as usize,
        messages_a_round,
        rounds,
        message_bytes: (mean_bytes.round() as usize).max(1),
        interval: Duration::from_secs_f64(coordinator.wall_seconds / rounds as f64),
    }
}

impl BenchCoordinatorArguments {
    /// A group that runs all streams side by side, and a coordinator that takes them on.
    fn settings(&self) -> Settings {
        let streams = self.streams.to_string();
        Settings {
            groups: 1,
            worker: flags([
                ("--tensor-parallel", self.tensor_parallel.to_string()),
                ("--max-running", streams.clone()),
                ("--max-waiting", streams.clone()),
                (
                    "--max-step-tokens",
                    (self.streams + PREFILL_ROWS).to_string(),
                ),
            ]),
            coordinator: flags([
                ("--max-requests", streams.clone()),
                ("--max-queued", streams.clone()),
                ("--max-queued-per-tenant", streams),
            ]),
        }
    }
}

/// What was counted at one moment.
struct Snapshot {
    at: Instant,
    tokens: u64,
    messages: u64,
    message_bytes: u64,
    cpu: Duration,
    worker_cpu: Duration,
}

/// What was counted between two moments.
#[derive(Clone, Copy, Debug, Serialize)]
struct Cost {
    tokens: u64,
    messages: u64,
    message_bytes: u64,
    wall_seconds: f64,
    cpu_seconds: f64,
    worker_cpu_seconds: f64,
}

impl Snapshot {
    fn take(cluster: &SimulatedCluster, progress: &Progress) -> anyhow::Result<Self> {
        Ok(Self {
            at: Instant::now(),
            tokens: progress.tokens.load(Ordering::Relaxed),
            messages: progress.messages.load(Ordering::Relaxed),
            message_bytes: progress.message_bytes.load(Ordering::Relaxed),
            cpu: cluster.coordinator.cpu_time()?,
            worker_cpu: cluster.leaders[0].cpu_time()?,
        })
    }

    fn since(&self, earlier: &Self) -> Cost {
        Cost {
            tokens: self.tokens - earlier.tokens,
            messages: self.messages - earlier.messages,
            message_bytes: self.message_bytes - earlier.message_bytes,
            wall_seconds: (self.at - earlier.at).as_secs_f64(),
            cpu_seconds: self.cpu.saturating_sub(earlier.cpu).as_secs_f64(),
            worker_cpu_seconds: self
                .worker_cpu
                .saturating_sub(earlier.worker_cpu)
                .as_secs_f64(),
        }
    }
}

impl Cost {
    fn microseconds_a_message(&self) -> f64 {
        1e6 * self.cpu_seconds / self.messages.max(1) as f64
    }

    fn microseconds_a_token(&self) -> f64 {
        1e6 * self.cpu_seconds / self.tokens.max(1) as f64
    }

    fn worker_microseconds_a_token(&self) -> f64 {
        1e6 * self.worker_cpu_seconds / self.tokens.max(1) as f64
    }
}

#[derive(Serialize)]
struct Report {
    streams: u32,
    connections: u32,
    tensor_parallel: usize,
    /// While all streams run.
    coordinator: Cost,
    proxy: Cost,
    /// Processor time of a message, coordinator over proxy.
    ratio: f64,
    /// The coordinator's, prompts and connections included.
    whole_run_microseconds_a_token: f64,
    language_worker_microseconds_a_token: f64,
    load: LoadReport,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} streams over {} connections, one group of {} simulated H100",
            self.streams, self.connections, self.tensor_parallel
        )?;
        write!(f, "{}", self.load)?;
        writeln!(
            f,
            "\n{:<24} {:>10} {:>10} {:>10} {:>10} {:>10} {:>12}",
            "while all streams run",
            "tokens",
            "messages",
            "bytes each",
            "wall s",
            "CPU s",
            "µs a message"
        )?;
        for (name, cost) in [("coordinator", &self.coordinator), ("proxy", &self.proxy)] {
            writeln!(
                f,
                "{name:<24} {:>10} {:>10} {:>10.1} {:>10.2} {:>10.2} {:>12.2}",
                cost.tokens,
                cost.messages,
                cost.message_bytes as f64 / cost.messages.max(1) as f64,
                cost.wall_seconds,
                cost.cpu_seconds,
                cost.microseconds_a_message()
            )?;
        }
        writeln!(
            f,
            "coordinator / proxy: {:.2} (goal: at most {GOAL})",
            self.ratio
        )?;
        writeln!(
            f,
            "coordinator: {:.2} µs a token while all streams run, {:.2} over the whole run; language worker: {:.2}",
            self.coordinator.microseconds_a_token(),
            self.whole_run_microseconds_a_token,
            self.language_worker_microseconds_a_token
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_proxy_carries_what_the_coordinator_carried() {
        let coordinator = Cost {
            tokens: 200_000,
            messages: 199_000,
            message_bytes: 199_000 * 47,
            wall_seconds: 10.0,
            cpu_seconds: 3.0,
            worker_cpu_seconds: 1.0,
        };
        for connections in [1, 3, 16, 2000] {
            let messages = messages_like(&coordinator, 2000, connections);
            assert_eq!(messages.message_bytes, 47);
            let share = messages.total() as f64 / coordinator.messages as f64;
            assert!((0.98..1.02).contains(&share), "{connections}: {share}");
            let wall = messages.interval.as_secs_f64() * messages.rounds as f64;
            assert!((9.9..10.1).contains(&wall), "{connections}: {wall}");
        }
        assert!((coordinator.microseconds_a_token() - 15.0).abs() < 1e-9);
    }
}
