//! What an administrator may set about a listener's sessions, as plain values. They are read afresh
//! as sessions go on, so a changed limit needs no reconnect.

use std::sync::Arc;
use std::time::Duration;

use super::auth::Users;
use super::tls::ClientAuthority;
use crate::mail::rate::Rate;

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
#[derive(Debug, Clone)]
pub struct Settings {
    /// The name in the greeting and the EHLO response, and the domain of `<postmaster>`.
    pub hostname: String,
    pub limits: Limits,
    pub timeouts: Timeouts,
    /// Who may log in. With nobody in it, AUTH is not offered.
    pub users: Arc<Users>,
    /// Who vouches for clients that show a certificate. The listeners' certificates must be made with it.
    pub authority: Option<Arc<ClientAuthority>>,
}

impl Settings {
    pub fn new(hostname: impl Into<String>) -> Self {
        Self {
            hostname: hostname.into(),
            limits: Limits::default(),
            timeouts: Timeouts::default(),
            users: Arc::default(),
            authority: None,
        }
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
    /// Failed logins of one client address before it has to wait.
    pub failed_logins: Rate,
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
            failed_logins: Rate::whole(10, Duration::from_secs(600)),
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
    /// Before a failed login is answered, so that guessing takes time.
    pub failed_login: Duration,
    /// For the header of a load balancer (PROXY protocol).
    pub proxy_header: Duration,
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
            failed_login: Duration::from_secs(1),
            proxy_header: Duration::from_secs(5),
            rate_grace: Duration::from_secs(60),
            min_rate: 256,
            drain_grace: Duration::from_secs(5),
            drain_limit: Duration::from_secs(30),
        }
    }
}
