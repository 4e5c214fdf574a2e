//! The envelope of a message (RFC 5321 section 2.3.1) with its extension parameters.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::address::Mailbox;

/// The `BODY` parameter of MAIL (RFC 6152).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum BodyType {
    #[default]
    SevenBit,
    EightBitMime,
}

/// The `RET` parameter of MAIL (RFC 3461 section 4.3): how much of the message a report carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ret {
    Full,
    Headers,
}

/// The `NOTIFY` parameter of RCPT (RFC 3461 section 4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Notify {
    /// Not given: failures are reported, delays may be.
    #[default]
    Unset,
    Never,
    On {
        success: bool,
        failure: bool,
        delay: bool,
    },
}

impl Notify {
    pub fn on_failure(self) -> bool {
        matches!(self, Notify::Unset | Notify::On { failure: true, .. })
    }

    pub fn on_delay(self) -> bool {
        matches!(self, Notify::Unset | Notify::On { delay: true, .. })
    }

    pub fn on_success(self) -> bool {
        matches!(self, Notify::On { success: true, .. })
    }
}

/// One RCPT command that was accepted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recipient {
    pub mailbox: Mailbox,
    pub notify: Notify,
    /// The `ORCPT` parameter, as it came (`rfc822;` with xtext).
    pub original: Option<String>,
}

impl Recipient {
    pub fn new(mailbox: Mailbox) -> Self {
        Self { mailbox, notify: Notify::Unset, original: None }
    }
}

/// What MAIL said. `sender: None` is the null reverse-path `<>` of reports.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Sender {
    pub mailbox: Option<Mailbox>,
    pub body: BodyType,
    pub smtputf8: bool,
    pub ret: Option<Ret>,
    /// The `ENVID` parameter, as it came (xtext).
    pub envid: Option<String>,
    /// The `REQUIRETLS` parameter (RFC 8689): only over TLS with a verified host that promises the same.
    pub require_tls: bool,
}

/// A whole envelope: one sender, the recipients in the order of their RCPT commands.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Envelope {
    pub sender: Sender,
    pub recipients: Vec<Recipient>,
}

/// The name of an OutboundRoute, as decided mail carries it. What is behind the name (hosts, TLS,
/// credentials) is read afresh for each attempt (spec R141).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RouteName {
    pub namespace: String,
    pub name: String,
}

impl fmt::Display for RouteName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Which way a message leaves.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Via {
    /// Normal routing: the gateway's default route when it has one, else the recipient's MX hosts.
    /// Resolved afresh for each attempt.
    Normal,
    /// A named OutboundRoute.
    Route(RouteName),
}
