//! What an administrator may set about a listener's sessions, as plain values. They are read afresh
//! as sessions go on, so a changed limit needs no reconnect.

use std::time::Duration;

/// How a listener uses TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TlsMode {
    /// STARTTLS is offered.
    Optional,
    /// STARTTLS is offered and mail is refused without it.
    Required,
    /// The connection begins with a TLS handshake.
    Implicit,
}

/// Everything of a session that configuration decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The name in the greeting and the EHLO response, and the domain of `<postmaster>`.
    pub hostname: String,
    pub limits: Limits,
    pub timeouts: Timeouts,
}

impl Settings {
    pub fn new(hostname: impl Into<String>) -> Self {
        Self { hostname: hostname.into(), limits: Limits::default(), timeouts: Timeouts::default() }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Octets of one message, announced by SIZE.
    pub message_size: u64,
    /// Accepted recipients of one message.
    pub recipients: usize,
    /// Connections at once, over all listeners that share a [`Connections`](super::server::Connections).
    pub connections: usize,
    /// The same, of one IPv4 address or one IPv6 /64.
    pub connections_per_client: usize,
    /// Protocol mistakes before a session is closed. An accepted message resets the count.
    pub errors: u32,
    /// Commands that bring no message nearer (NOOP, RSET, EHLO, ...) before each counts as a mistake.
    pub chatter: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            message_size: 50 << 20,
            recipients: 1000,
            connections: 2000,
            connections_per_client: 100,
            errors: 20,
            chatter: 100,
        }
    }
}

/// How long a session waits for its client (RFC 5321 section 4.5.3.2). The time our own side needs
/// never counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// From a reply to the end of the next command line, however slowly it trickles in.
    pub command: Duration,
    /// For the next piece of content.
    pub data_block: Duration,
    /// From MAIL to the final dot.
    pub transaction: Duration,
    /// For a TLS handshake.
    pub handshake: Duration,
    /// For a client to take the replies it was sent.
    pub reply: Duration,
    /// Content slower than [`min_rate`](Self::min_rate) is tolerated this long.
    pub rate_grace: Duration,
    /// Octets of content per second, on average over the time spent waiting for them.
    pub min_rate: u64,
    /// How long new connections are still served after shutdown was asked for: the rest of the
    /// cluster needs a moment to see that this pod is not ready.
    pub drain_grace: Duration,
    /// How long transactions may then take to end before they are cut.
    pub drain_limit: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            command: Duration::from_secs(300),
            data_block: Duration::from_secs(180),
            transaction: Duration::from_secs(3600),
            handshake: Duration::from_secs(30),
            reply: Duration::from_secs(60),
            rate_grace: Duration::from_secs(60),
            min_rate: 256,
            drain_grace: Duration::from_secs(5),
            drain_limit: Duration::from_secs(30),
        }
    }
}
