//! `inkstone bench routing`: questions that share long beginnings, over several groups: how much of their prompts is found in a
//! cache, beside other ways to choose a group and beside the best that any way could reach.
//!
//! Coordinator, language groups and vision worker are processes of their own; every way starts with empty caches and is asked the same questions.

use std::{collections::HashMap, fmt, sync::Arc};

use anyhow::ensure;
use serde::Serialize;

use super::{
    load::{self, Arrivals, Load, Progress, Record},
    questions::{Beginnings, Questions},
    run_and_print,
    samples::Summary,
    simulated_cluster::{Model, Settings, SimulatedCluster, flags},
};
use crate::{arguments::BenchRoutingArguments, telemetry::Console};

/// By how many points the hit rate may be below the best possible.
const GOAL_POINTS: f64 = 5.0;
/// What is measured: a name, and the coordinator's flag for it.
const WAYS: [(&str, &str); 3] = [
    ("predicted cost", "cost"),
    ("round robin", "round-robin"),
    ("least loaded", "least-loaded"),
];

pub(crate) fn run(arguments: BenchRoutingArguments, console: &Console) -> anyhow::Result<()> {
    let model = Model::of(arguments.model.model.as_deref(), console)?;
    run_and_print(arguments.json, measure(&arguments, &model, console))
}

async fn measure(
    arguments: &BenchRoutingArguments,
    model: &Model,
    console: &Console,
) -> anyhow::Result<Report> {
    let questions = Questions {
        seed: arguments.seed,
        prompt_tokens: arguments.question_tokens,
        answer_tokens: arguments.answer_tokens,
        picture: None,
        beginnings: Some(Beginnings {
            count: arguments.beginnings.into(),
            tokens: arguments.beginning_tokens,
        }),
    };
    let load = Load {
        tenant: None,
        connections: 1,
        arrivals: Arrivals::Closed {
            concurrency: arguments.concurrency.into(),
        },
        requests: arguments.requests.into(),
        questions,
    };
    let mut measured = vec![];
    for (name, flag) in WAYS {
        let settings = Settings {
            groups: arguments.groups as usize,
            worker: flags([("--kv-cache-tokens", arguments.kv_cache_tokens.to_string())]),
            coordinator: flags([("--routing", flag.to_owned())]),
        };
        let cluster = SimulatedCluster::start(model, &settings).await?;
        let bar = console.counting_bar(name, load.requests);
        let progress = Arc::new(Progress::default());
        let records = load::run(&cluster.address, &load, progress, &bar).await?;
        bar.finish_and_clear();
        let failed = records.iter().find_map(|record| record.failure.as_deref());
        ensure!(
            failed.is_none(),
            "a question failed: {}",
            failed.unwrap_or_default()
        );
        measured.push((name, records));
    }
    let best_hit_rate = best_hit_rate(&load.questions, measured.iter().map(|(_, all)| &all[..]));
    let ways: Vec<_> = measured
        .iter()
        .map(|(name, all)| Way::of(name, all))
        .collect();
    Ok(Report {
        groups: arguments.groups,
        requests: arguments.requests,
        beginnings: arguments.beginnings,
        beginning_tokens: arguments.beginning_tokens,
        kv_cache_tokens: arguments.kv_cache_tokens,
        best_hit_rate,
        points_below_best: 100.0 * (best_hit_rate - ways[0].hit_rate),
        ways,
    })
}

/// The share of prompt positions that is found when each beginning is computed once in the whole cluster, and found by every question after
/// the first that has it. What a beginning is worth in whole blocks is the most that any question found of it.
fn best_hit_rate<'a>(questions: &Questions, runs: impl Iterator<Item = &'a [Record]>) -> f64 {
    let mut worth: HashMap<Option<u64>, u64> = HashMap::new();
    let mut one_run: &[Record] = &[];
    for records in runs {
        for record in records {
            let worth = worth.entry(questions.beginning(record.index)).or_default();
            *worth = record.cached_tokens.max(*worth);
        }
        one_run = records;
    }
    let mut seen = std::collections::HashSet::new();
    let (mut found, mut all) = (0, 0);
    for record in one_run {
        let beginning = questions.beginning(record.index);
        if !seen.insert(beginning) {
            found += worth[&beginning];
        }
        all += record.prompt_tokens;
    }
    found as f64 / all.max(1) as f64
}

/// What a way to choose a group came to.
#[derive(Debug, Serialize)]
struct Way {
    name: &'static str,
    /// The share of prompt positions that was found in a cache.
    hit_rate: f64,
    time_to_first_token_ms: Summary,
    requests_per_second: f64,
}

impl Way {
    fn of(name: &'static str, records: &[Record]) -> Self {
        let sum = |of: fn(&Record) -> u64| records.iter().map(of).sum::<u64>() as f64;
        let last = records.iter().map(|record| record.last_token).max();
        let seconds = last.unwrap_or_default().as_secs_f64();
        Self {
            name,
            hit_rate: sum(|record| record.cached_tokens)
                / sum(|record| record.prompt_tokens).max(1.0),
            time_to_first_token_ms: Summary::of(
                records.iter().filter_map(Record::time_to_first_token),
            ),
            requests_per_second: records.len() as f64 / seconds.max(1e-9),
        }
    }
}

#[derive(Debug, Serialize)]
struct Report {
    groups: u32,
    requests: u32,
    beginnings: u32,
    beginning_tokens: u32,
    kv_cache_tokens: u32,
    /// The share that is found when each beginning is computed once.
    best_hit_rate: f64,
    /// Of the first way.
    points_below_best: f64,
    ways: Vec<Way>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} questions with {} beginnings of about {} tokens, over {} simulated H100 with caches of {} positions",
            self.requests,
            self.beginnings,
            self.beginning_tokens,
            self.groups,
            self.kv_cache_tokens
        )?;
        writeln!(
            f,
            "{:<16} {:>10} {:>14} {:>14} {:>12}",
            "groups chosen by", "hit rate", "first tok. p50", "p99 ms", "requests/s"
        )?;
        for way in &self.ways {
            let first = &way.time_to_first_token_ms;
            writeln!(
                f,
                "{:<16} {:>8.1} % {:>14.1} {:>14.1} {:>12.1}",
                way.name,
                100.0 * way.hit_rate,
                first.p50,
                first.p99,
                way.requests_per_second
            )?;
        }
        writeln!(
            f,
            "{:<16} {:>8.1} %",
            "best possible",
            100.0 * self.best_hit_rate
        )?;
        writeln!(
            f,
            "predicted cost is {:.1} points below the best (goal: at most {GOAL_POINTS})",
            self.points_below_best
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_finds_every_beginning_but_the_first_time() {
        let questions = Questions {
            seed: 1,
            prompt_tokens: 10,
            answer_tokens: 2,
            picture: None,
            beginnings: Some(Beginnings {
                count: 2,
                tokens: 90,
            }),
        };
        let record = |index, cached_tokens| Record {
            index,
            prompt_tokens: 100,
            cached_tokens,
            ..Record::default()
        };
        // Found only now and then, and never by all.
        let run: Vec<_> = (0..20)
            .map(|index| record(index, 80 * (index % 2)))
            .collect();
        let nothing: Vec<_> = (0..20).map(|index| record(index, 0)).collect();
        let best = best_hit_rate(&questions, [&run[..], &nothing[..]].into_iter());
        assert!((best - 18.0 * 80.0 / 2000.0).abs() < 1e-9, "{best}");
    }
}
