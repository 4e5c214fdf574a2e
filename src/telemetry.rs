//! Logs: fields, not prose. JSON where a machine reads them, readable on a terminal. Addresses and subjects
//! are personal data and appear at debug only.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// Starts logging to standard error. `POSTERN_LOG` takes a filter such as `debug` or `postern::delivery=trace`;
/// `POSTERN_LOG_FORMAT` is `json` or `text`, by default text on a terminal and JSON elsewhere.
pub fn start() {
    let filter = EnvFilter::try_from_env("POSTERN_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    // It reports every answer that is no success as an error, also those we ask for (is it there?) and handle.
    let filter = filter.add_directive("kube_client::client::builder=off".parse().expect("a directive"));
    let json = match std::env::var("POSTERN_LOG_FORMAT").as_deref() {
        Ok("json") => true,
        Ok("text") => false,
        _ => !std::io::stderr().is_terminal(),
    };
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // Tests start several parts in one process: the first one wins.
    let _ = if json { log.json().flatten_event(true).try_init() } else { log.try_init() };
}
