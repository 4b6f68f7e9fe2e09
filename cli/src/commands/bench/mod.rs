//! `inkstone bench`: a file per measurement; here is what they share. Every figure stands beside its peer or its limit, measured in
//! the same run.

mod compose;
mod coordinator;
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

use crate::{arguments::BenchCommand, telemetry::Console};

pub(crate) fn run(command: BenchCommand, console: &Console) -> anyhow::Result<()> {
    match command {
        BenchCommand::Serve(arguments) => serve::run(arguments, console),
        BenchCommand::Coordinator(arguments) => coordinator::run(arguments, console),
        BenchCommand::Engine(arguments) => engine::run(arguments, console),
        BenchCommand::Fairness(arguments) => fairness::run(arguments, console),
        BenchCommand::Routing(arguments) => routing::run(arguments, console),
        BenchCommand::Compose(arguments) => compose::run(arguments, console),
        BenchCommand::Proxy(arguments) => proxy::run(arguments),
    }
}
