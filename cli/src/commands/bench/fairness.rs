//! `inkstone bench fairness`: how long a tenant that asks one question at a time waits for its first token while another keeps a hundred times as many
//! open, beside what it waits when nobody else asks, and beside a coordinator that serves first who comes first.
//!
//! Coordinator, language group and vision worker are processes of their own. The group is a simulated H100.

use std::{fmt, sync::Arc, time::Duration};

use anyhow::ensure;
use indicatif::ProgressBar;
use serde::Serialize;
use tokio::time::sleep;

use super::{
    load::{self, Arrivals, Load, Progress, Record},
    questions::Questions,
    run_and_print,
    samples::Summary,
    simulated_cluster::{Model, Settings, SimulatedCluster, flags},
};
use crate::{arguments::BenchFairnessArguments, telemetry::Console};

/// How many times its quiet value the quiet tenant's time to the first token may be at most.
const GOAL: f64 = 2.0;
/// Questions of the quiet tenant that go first and are not measured.
const WARM_UP: u64 = 3;
/// Rows of a step beside one for each sequence: for prompts. As many as an H100 computes while it reads its weights for the answers anyway: so
/// a prompt makes no step longer for those who wait for it to end.
const PREFILL_ROWS: u32 = 128;
/// The harder row: steps that are made for throughput alone, and take seven times as long when prompts fill them.
const LONG_STEP_ROWS: u32 = 1024;
/// How long the loud tenant fills the cluster before the quiet one asks: some lives of its requests.
const FILLING: Duration = Duration::from_secs(3);

pub(crate) fn run(arguments: BenchFairnessArguments, console: &Console) -> anyhow::Result<()> {
    let model = Model::of(arguments.model.model.as_deref(), console)?;
    run_and_print(arguments.json, measure(&arguments, &model, console))
}

async fn measure(
    arguments: &BenchFairnessArguments,
    model: &Model,
    console: &Console,
) -> anyhow::Result<Report> {
    let fair = measure_policy(arguments, model, PREFILL_ROWS, &[], console).await?;
    let long_steps = measure_policy(arguments, model, LONG_STEP_ROWS, &[], console).await?;
    let flag = ["--first-come-first-served".to_owned()];
    let first_come = measure_policy(arguments, model, PREFILL_ROWS, &flag, console).await?;
    let quiet = fair.quiet;
    let ratio = |loaded: &Loaded| loaded.time_to_first_token_ms.p50 / quiet.p50;
    Ok(Report {
        load_factor: arguments.load_factor,
        running: arguments.running,
        prompt_tokens: arguments.prompt_tokens,
        answer_tokens: arguments.answer_tokens,
        fair_ratio: ratio(&fair.loaded),
        fair_p90_ratio: fair.loaded.time_to_first_token_ms.p90 / quiet.p90,
        long_steps_ratio: ratio(&long_steps.loaded),
        first_come_ratio: ratio(&first_come.loaded),
        quiet,
        fair: fair.loaded,
        long_steps: long_steps.loaded,
        first_come: first_come.loaded,
    })
}

/// What one way to serve came to.
struct Measured {
    quiet: Summary,
    loaded: Loaded,
}

async fn measure_policy(
    arguments: &BenchFairnessArguments,
    model: &Model,
    prefill_rows: u32,
    coordinator: &[String],
    console: &Console,
) -> anyhow::Result<Measured> {
    let running = arguments.running.to_string();
    let settings = Settings {
        groups: 1,
        worker: flags([
            ("--max-running", running.clone()),
            (
                "--max-step-tokens",
                (arguments.running + prefill_rows).to_string(),
            ),
            ("--max-waiting", arguments.load_factor.max(64).to_string()),
        ]),
        coordinator: [
            flags([("--max-requests", running)]),
            flags([("--max-queued", (4 * arguments.load_factor).to_string())]),
            flags([(
                "--max-queued-per-tenant",
                (4 * arguments.load_factor).to_string(),
            )]),
            coordinator.to_vec(),
        ]
        .concat(),
    };
    let cluster = SimulatedCluster::start(model, &settings).await?;
    let bar = console.counting_bar("questions", WARM_UP + 2 * u64::from(arguments.questions));
    let asked = u64::from(arguments.questions);
    // The loud one is known before, as tenants of a service are.
    ask(&cluster, &load_of(arguments, "loud", 1, 1, 1), &bar).await?;
    ask(&cluster, &load_of(arguments, "quiet", 2, WARM_UP, 1), &bar).await?;
    let quiet = ask(&cluster, &load_of(arguments, "quiet", 3, asked, 1), &bar).await?;

    let factor = u64::from(arguments.load_factor);
    let loud = load_of(arguments, "loud", 4, u64::MAX, factor);
    let progress = Arc::new(Progress::default());
    let hidden = ProgressBar::hidden();
    let filling = load::run(&cluster.address, &loud, progress.clone(), &hidden);
    let measured = async {
        sleep(FILLING).await;
        let before = tokens(&progress);
        let began = tokio::time::Instant::now();
        let loaded = ask(&cluster, &load_of(arguments, "quiet", 5, asked, 1), &bar).await?;
        let rate = (tokens(&progress) - before) as f64 / began.elapsed().as_secs_f64();
        anyhow::Ok((loaded, rate))
    };
    let (loaded, rate) = tokio::select! {
        ended = filling => anyhow::bail!("the loud tenant's load ended by itself: {:?}", ended.err()),
        measured = measured => measured?,
    };
    bar.finish_and_clear();
    Ok(Measured {
        quiet: to_first_token(&quiet),
        loaded: Loaded {
            time_to_first_token_ms: to_first_token(&loaded),
            loud_tokens_per_second: rate,
        },
    })
}

fn tokens(progress: &Progress) -> u64 {
    progress.tokens.load(std::sync::atomic::Ordering::Relaxed)
}

fn load_of(
    arguments: &BenchFairnessArguments,
    tenant: &'static str,
    seed: u64,
    requests: u64,
    concurrency: u64,
) -> Load {
    Load {
        tenant: Some(tenant),
        connections: 1,
        arrivals: Arrivals::Closed { concurrency },
        requests,
        questions: Questions {
            seed,
            prompt_tokens: arguments.prompt_tokens,
            answer_tokens: arguments.answer_tokens,
            picture: None,
            beginnings: None,
        },
    }
}

async fn ask(
    cluster: &SimulatedCluster,
    load: &Load,
    bar: &ProgressBar,
) -> anyhow::Result<Vec<Record>> {
    let progress = Arc::new(Progress::default());
    let records = load::run(&cluster.address, load, progress, bar).await?;
    let failed = records.iter().find_map(|record| record.failure.as_deref());
    ensure!(
        failed.is_none(),
        "a question failed: {}",
        failed.unwrap_or_default()
    );
    Ok(records)
}

fn to_first_token(records: &[Record]) -> Summary {
    Summary::of(records.iter().filter_map(Record::time_to_first_token))
}

/// What the quiet tenant saw while the loud one filled the cluster, and what that one got.
#[derive(Debug, Serialize)]
struct Loaded {
    time_to_first_token_ms: Summary,
    loud_tokens_per_second: f64,
}

#[derive(Debug, Serialize)]
struct Report {
    load_factor: u32,
    running: u32,
    prompt_tokens: u32,
    answer_tokens: u32,
    /// When nobody else asks.
    quiet: Summary,
    fair: Loaded,
    /// With steps of many rows for prompts.
    long_steps: Loaded,
    first_come: Loaded,
    /// Medians over the quiet one.
    fair_ratio: f64,
    long_steps_ratio: f64,
    first_come_ratio: f64,
    fair_p90_ratio: f64,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "one tenant asks one question at a time, another keeps {} open; {} run at once on a simulated H100; {} prompt and {} \
             answer tokens; steps have {PREFILL_ROWS} rows for prompts, long ones {LONG_STEP_ROWS}",
            self.load_factor, self.running, self.prompt_tokens, self.answer_tokens
        )?;
        writeln!(
            f,
            "{:<26} {:>9} {:>9} {:>9} {:>9} {:>10} {:>14}",
            "ms to the first token", "p50", "p90", "p99", "max", "/ quiet", "loud tokens/s"
        )?;
        let rows = [
            ("quiet", &self.quiet, None),
            (
                "tenants take turns",
                &self.fair.time_to_first_token_ms,
                Some(&self.fair),
            ),
            (
                "turns, long steps",
                &self.long_steps.time_to_first_token_ms,
                Some(&self.long_steps),
            ),
            (
                "first come, first served",
                &self.first_come.time_to_first_token_ms,
                Some(&self.first_come),
            ),
        ];
        for (name, summary, loaded) in rows {
            let Summary {
                p50, p90, p99, max, ..
            } = summary;
            let ratio = p50 / self.quiet.p50;
            write!(
                f,
                "{name:<26} {p50:>9.1} {p90:>9.1} {p99:>9.1} {max:>9.1} {ratio:>10.2}"
            )?;
            match loaded {
                Some(loaded) => writeln!(f, " {:>14.0}", loaded.loud_tokens_per_second)?,
                None => writeln!(f)?,
            }
        }
        writeln!(
            f,
            "turns / quiet: {:.2} at the median (goal: at most {GOAL}), {:.2} at p90",
            self.fair_ratio, self.fair_p90_ratio
        )
    }
}
