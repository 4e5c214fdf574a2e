//! Where mail of a route leaves from, how much of it may, and where the pods of a gateway count together.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::checks;
use super::refs::SecretKeyRef;
use super::schema::{atomic, cel};

/// The addresses that mail of a route leaves from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = cel(&[checks::EGRESS_ADDRESSES]))]
pub struct Egress {
    /// The addresses. An IPv4 address reaches IPv4 hosts only, an IPv6 address IPv6 hosts only. One that a pod
    /// neither has nor reaches through its `proxy` is set aside there, with a log line and a metric; when none
    /// is left, mail waits: it never leaves by another address.
    #[schemars(length(min = 1, max = 64), transform = atomic)]
    pub sources: Vec<EgressSource>,
    /// How messages are shared out: RoundRobin takes the addresses in turn, Weighted too but by `weight`,
    /// PerDomain sends mail for one domain always from one address, as long as that can be used.
    #[serde(default)]
    pub rotation: Rotation,
}

/// One address that mail leaves from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EgressSource {
    /// An IP address that the pods have (host network, a secondary interface) or that `proxy` sends from.
    #[schemars(length(min = 2, max = 45), transform = cel(&[checks::SOURCE_ADDRESS]))]
    pub address: String,
    /// Share of the mail with `rotation: Weighted`; default 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub weight: Option<u16>,
    /// What EHLO says from here: the name in DNS of this address; default: the gateway's `hostname`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), transform = cel(&[checks::HOSTNAME]))]
    pub ehlo: Option<String>,
    /// A proxy that sends from the address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy: Option<EgressProxy>,
    /// Begin slowly, because hosts distrust an address they do not know. More than the day allows leaves from
    /// the route's other addresses, or waits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warm_up: Option<WarmUp>,
}

/// A proxy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct EgressProxy {
    /// A SOCKS5 proxy (RFC 1928) without a login, as `host:port`; IPv6 addresses in brackets.
    #[schemars(length(min = 3, max = 260), transform = cel(&[checks::HOST_PORT]))]
    pub socks5: String,
}

/// On day n after `from` at most `firstDay * factor^(n-1)` messages go from the address to each domain.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WarmUp {
    /// When the first day begins, such as `2026-11-22T00:00:00Z`; before it the address is not used.
    #[schemars(length(min = 20, max = 40), transform = cel(&[checks::MOMENT]))]
    pub from: String,
    /// Messages to each domain on the first day.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub first_day: u32,
    /// Growth from one day to the next; default 2.
    #[serde(default = "doubled")]
    #[schemars(range(min = 1.0, max = 10.0))]
    pub factor: f64,
    /// Days of the schedule; afterwards there is no limit. Default 14.
    #[serde(default = "two_weeks")]
    #[schemars(range(min = 1, max = 365))]
    pub days: u16,
}

fn doubled() -> f64 {
    2.0
}

fn two_weeks() -> u16 {
    14
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub enum Rotation {
    #[default]
    RoundRobin,
    PerDomain,
    Weighted,
}

/// How much mail goes over a route at most, over all pods together; what is absent has no limit. Mail over a
/// limit waits, which is no failed attempt.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RouteLimits {
    /// Connections at the same time; each pod has one at least.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100_000))]
    pub connections: Option<u32>,
    /// Messages over one connection, then a new one is opened; default 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100_000))]
    pub messages_per_connection: Option<u32>,
    /// Messages within a minute, evenly spread. A message to several recipients counts once for each
    /// transaction it takes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10_000_000))]
    pub messages_per_minute: Option<u32>,
    /// Recipients of one transaction; more are split up. Default 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10_000))]
    pub recipients_per_message: Option<u32>,
    /// The same for each recipient domain alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per_domain: Option<DomainLimits>,
}

/// How much mail goes to one domain at most.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DomainLimits {
    /// Connections at the same time; each pod has one at least.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100_000))]
    pub connections: Option<u32>,
    /// Messages within a minute, evenly spread.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10_000_000))]
    pub messages_per_minute: Option<u32>,
}

/// Where the pods of a gateway count together what the limits of routes allow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SharedLimits {
    /// A Redis-compatible server (Redis 5 or newer, Valkey, KeyDB).
    pub redis: Redis,
}

/// A Redis-compatible server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(transform = cel(&[checks::USERNAME_NEEDS_PASSWORD]))]
pub struct Redis {
    /// As `host:port`; IPv6 addresses in brackets. The connection is not encrypted: keep it inside the cluster.
    #[schemars(length(min = 3, max = 260), transform = cel(&[checks::HOST_PORT]))]
    pub address: String,
    /// The password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password_ref: Option<SecretKeyRef>,
    /// The user name, for servers with ACLs; default: the server's default user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username_ref: Option<SecretKeyRef>,
}
