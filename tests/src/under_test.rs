//! The `inkstone` program, built with the tests so that they start what they were built with.

use std::process::ExitCode;

fn main() -> ExitCode {
    inkstone::run()
}
