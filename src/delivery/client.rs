//! Our own SMTP client (design section 6 says why not lettre's). Only this room and
//! [`super::attempt`] know the wire.

pub mod auth;
pub mod connect;
pub mod content;
pub mod dial;
pub mod extensions;
pub mod pool;
pub mod tls;
pub mod transaction;
pub mod wire;

use std::time::Duration;

/// How long to wait for a next hop (RFC 5321 section 4.5.3.2).
#[derive(Debug, Clone, Copy)]
pub struct Timeouts {
    pub connect: Duration,
    pub greeting: Duration,
    /// EHLO, STARTTLS and the handshake, each.
    pub hello: Duration,
    pub mail: Duration,
    pub rcpt: Duration,
    /// For the 354 after DATA.
    pub data: Duration,
    /// For each block of content to be taken.
    pub block: Duration,
    /// For the reply after the final dot.
    pub end: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        let minutes = |n: u64| Duration::from_secs(60 * n);
        Self {
            connect: Duration::from_secs(30),
            greeting: minutes(5),
            hello: minutes(2),
            mail: minutes(5),
            rcpt: minutes(5),
            data: minutes(2),
            block: minutes(3),
            end: minutes(10),
        }
    }
}
