//! `inkstone bench serve`: a load on a server, and what its clients saw.

use std::sync::Arc;

use anyhow::{Context, ensure};
use bytes::Bytes;

use super::{
    load::{self, Arrivals, Load, Progress},
    print,
    questions::Questions,
    report::{GoodLimits, LoadReport},
};
use crate::{arguments::BenchServeArguments, commands::client::with_address, telemetry::Console};

/// Requests side by side that share a connection unless told otherwise.
const REQUESTS_A_CONNECTION: u32 = 64;

pub(crate) fn run(arguments: BenchServeArguments, console: &Console) -> anyhow::Result<()> {
    let load = load(&arguments)?;
    with_address(&arguments.cluster, console, async |address| {
        let bar = console.counting_bar("bench", load.requests);
        let records = load::run(&address, &load, Arc::new(Progress::default()), &bar).await?;
        bar.finish_and_clear();
        let limits = GoodLimits {
            first_token_ms: arguments.ttft_limit,
            later_token_ms: arguments.token_limit,
        };
        let report = LoadReport::of(&records, limits);
        print(arguments.json, &report)?;
        ensure!(
            report.failed < report.requests,
            "all {} requests failed",
            report.requests
        );
        Ok(())
    })
}

fn load(arguments: &BenchServeArguments) -> anyhow::Result<Load> {
    let (arrivals, side_by_side) = match arguments.rate {
        Some(per_second) => {
            ensure!(
                per_second.is_finite() && per_second > 0.0,
                "--rate must be above 0, found {per_second}"
            );
            (Arrivals::Open { per_second }, arguments.requests)
        }
        None => {
            let concurrency = u64::from(arguments.concurrency);
            (Arrivals::Closed { concurrency }, arguments.concurrency)
        }
    };
    let picture = arguments
        .image
        .as_ref()
        .map(|file| std::fs::read(file).with_context(|| format!("cannot read {}", file.display())))
        .transpose()?;
    let connections = arguments
        .connections
        .unwrap_or_else(|| side_by_side.div_ceil(REQUESTS_A_CONNECTION))
        .max(1);
    Ok(Load {
        tenant: None,
        connections: connections as usize,
        arrivals,
        requests: u64::from(arguments.requests),
        questions: Questions {
            seed: arguments.seed,
            prompt_tokens: arguments.prompt_tokens,
            answer_tokens: arguments.answer_tokens,
            beginnings: None,
            picture: picture.map(Bytes::from),
        },
    })
}
