//! `inkstone bench`: a file per measurement; here is what they share. Every figure stands beside its peer or its limit, measured in
//! the same run.

mod compose;
mod coordinator;
mod device;
mod engine;
mod fairness;
mod load;
mod message_source;
mod process_cluster;
mod processes;
mod proxy;
mod questions;
mod report;
mod routing;
mod samples;
mod serve;
mod simulated_cluster;

use std::fmt::Display;

use serde::Serialize;

use super::{client::write_out, run_until_stopped};
use crate::{arguments::BenchCommand, telemetry::Console};

pub(crate) fn run(command: BenchCommand, console: &Console) -> anyhow::Result<()> {
    match command {
        BenchCommand::Serve(arguments) => serve::run(arguments, console),
        BenchCommand::Coordinator(arguments) => coordinator::run(arguments, console),
        BenchCommand::Device(arguments) => device::run(arguments, console),
        BenchCommand::Engine(arguments) => engine::run(arguments, console),
        BenchCommand::Fairness(arguments) => fairness::run(arguments, console),
        BenchCommand::Routing(arguments) => routing::run(arguments, console),
        BenchCommand::Compose(arguments) => compose::run(arguments, console),
        BenchCommand::Proxy(arguments) => proxy::run(arguments),
    }
}

/// Measures until it is done, or the process is told to stop, and prints what came of it.
fn run_and_print<R: Serialize + Display>(
    json: bool,
    measured: impl Future<Output = anyhow::Result<R>>,
) -> anyhow::Result<()> {
    run_until_stopped(async |shutdown| {
        let report = tokio::select! {
            report = measured => report?,
            () = shutdown.cancelled() => return Ok(()),
        };
        print(json, &report)
    })
}

fn print(json: bool, report: &(impl Serialize + Display)) -> anyhow::Result<()> {
    let text = if json {
        serde_json::to_string(report)? + "\n"
    } else {
        report.to_string()
    };
    Ok(write_out(&text)?)
}
