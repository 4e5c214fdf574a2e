//! Logs: fields, not prose. JSON where a machine reads them, readable on a terminal. Addresses and subjects
//! are personal data and appear at debug only.

mod lines;

use std::io::{IsTerminal, stderr};

use tracing_subscriber::EnvFilter;

/// The client of the API server warns of each watch that ends with the server; ours say that once, and what they do
/// about it. `POSTERN_LOG=kube_client::client=warn` brings it back.
const QUIET: &str = "kube_client::client=error";

/// Starts logging to standard error. `POSTERN_LOG` takes a filter such as `debug` or `postern::delivery=trace`;
/// `POSTERN_LOG_FORMAT` is `json` or `text`, by default text on a terminal and JSON elsewhere. What the answer
/// holds back is written when it goes, so keep it to the end of the process.
#[must_use]
pub fn start() -> lines::Flush {
    let wanted = std::env::var("POSTERN_LOG").ok().filter(|wanted| !wanted.is_empty());
    let wanted = wanted.as_deref().unwrap_or("info");
    let filter = EnvFilter::try_new(format!("{QUIET},{wanted}"))
        .unwrap_or_else(|_| EnvFilter::new(format!("{QUIET},info")));
    // It reports every answer that is no success as an error, also those we ask for (is it there?) and handle.
    let filter = filter.add_directive("kube_client::client::builder=off".parse().expect("a directive"));
    let json = match std::env::var("POSTERN_LOG_FORMAT").as_deref() {
        Ok("json") => true,
        Ok("text") => false,
        _ => !stderr().is_terminal(),
    };
    let (lines, flush) = lines::Lines::to(Box::new(stderr()));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(lines);
    // Tests start several parts in one process: the first one wins.
    let _ = if json { log.json().flatten_event(true).try_init() } else { log.try_init() };
    flush
}
