//! The `postern` binary: parse, telemetry, run, exit code.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let _log = postern::telemetry::start();
    postern::cli::run()
}
