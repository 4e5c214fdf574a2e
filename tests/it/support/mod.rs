//! What the end-to-end tests share: a folder of YAML with a gateway process on it, a client, a next hop.

pub mod client;
pub mod cluster;
pub mod gateway;
pub mod inbox;
pub mod postfix;

use std::time::{Duration, Instant};

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
