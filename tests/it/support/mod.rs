//! What the end-to-end tests share: a folder of YAML with a gateway process on it, a client, a next hop.

pub mod authority;
pub mod chart;
pub mod client;
pub mod cluster;
pub mod dovecot;
pub mod external;
pub mod gateway;
pub mod inbox;
pub mod judge;
pub mod load;
pub mod mount;
pub mod named;
pub mod netpol;
pub mod network;
pub mod pods;
pub mod postfix;
pub mod sink;
pub mod site;
pub mod slapd;
pub mod web;

use std::future::Future;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;

/// Waits until `what` holds, looking often; fails with `name` after `limit`.
pub fn wait_for<T>(name: &str, limit: Duration, mut what: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = what() {
            return value;
        }
        assert!(start.elapsed() < limit, "{name}: not within {limit:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Runs what is asynchronous in a test that is not: the [`sink::Sink`]s live on a runtime of their own.
pub fn wait<T>(what: impl Future<Output = T>) -> T {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| Runtime::new().expect("threads can be started")).block_on(what)
}

/// Says something to whoever reads the run, a figure above all. Not captured, so it shows in a run that passes.
pub fn tell(text: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "{text}");
}
