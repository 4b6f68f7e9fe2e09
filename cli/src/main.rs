//! The `inkstone` binary; all of it is in the library beside it.

use std::process::ExitCode;

/// Thousands of connections allocate and free small pieces from many threads: the system's allocator gives pages back and asks for
/// them again all the time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    inkstone::run()
}
