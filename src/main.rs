//! The `postern` binary: parse, telemetry, run, exit code.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // The allocator asks for huge pages, which are taken whole: 14 MiB of an idle gateway were empty, and nothing was
    // faster for it. Where the kernel cannot do without, it stays as it is.
    let _ = rustix::thread::disable_transparent_huge_pages(true);
    let _log = postern::telemetry::start();
    postern::cli::run()
}
