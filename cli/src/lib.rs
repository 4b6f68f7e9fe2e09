//! The `inkstone` binary as a library, so that tests can build the very same program: reads flags and the environment, starts what they ask for, turns errors into an exit code.

mod arguments;
mod commands;
mod telemetry;

use std::process::ExitCode;

use clap::Parser;

use crate::arguments::{Arguments, Command};

/// Runs what the process was called with.
pub fn run() -> ExitCode {
    let arguments = Arguments::parse();
    let level = match arguments.command {
        // What they say shares the terminal with log lines.
        Command::Chat(_)
        | Command::Compose(_)
        | Command::Library(_)
        | Command::Eval(_)
        | Command::Bench(_)
        | Command::Status(_)
        | Command::Scale(_)
        | Command::Drain(_) => "warn",
        Command::Serve(_) | Command::Coordinator(_) | Command::Worker(_) | Command::Model(_) => {
            "info"
        }
    };
    let console = telemetry::start(arguments.log_format, level);
    let result = match arguments.command {
        Command::Serve(serve) => commands::serve::run(serve, &console),
        Command::Coordinator(coordinator) => commands::coordinator::run(coordinator),
        Command::Worker(worker) => commands::worker::run(worker, &console),
        Command::Status(status) => commands::status::run(&status),
        Command::Scale(scale) => commands::scale::run(&scale),
        Command::Drain(drain) => commands::drain::run(&drain),
        Command::Chat(chat) => commands::chat::run(chat, &console),
        Command::Compose(compose) => commands::compose::run(compose, &console),
        Command::Library(library) => commands::library::run(library.command, &console),
        Command::Eval(eval) => commands::eval::run(eval, &console),
        Command::Model(model) => commands::model::run(model, &console),
        Command::Bench(bench) => commands::bench::run(bench.command, &console),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            console.error(&error);
            ExitCode::FAILURE
        }
    }
}
