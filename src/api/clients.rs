//! Clients of an OutboundGateway that are known by more than their address, and the load balancers in front of
//! it that know the address.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::checks;
use super::refs::{KeyRef, SecretKeyRef};
use super::schema::{atomic, each, each_len, pattern};

/// A client that logs in (SMTP AUTH). Logins are offered under TLS only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClientUser {
    /// The name it logs in with. If it is an e-mail address, rules judge its mail as mail of that person.
    #[schemars(length(min = 1, max = 255), transform = pattern(checks::LOGIN_FORM))]
    pub name: String,
    /// The password. A line end at its end does not count. A change is used at once, without a restart.
    pub password_ref: SecretKeyRef,
    /// Envelope senders it may use: addresses, whole domains such as `@news.solarmora.com` (without their
    /// subdomains), and `<>` for reports. Everything else gets 550 5.7.1. Default: whatever the gateway lets
    /// other clients use. A user with a single address here is that person to rules.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 50), transform = atomic, transform = each_len(1, 320), transform = pattern(checks::SENDER_FORM))]
    pub senders: Vec<String>,
}

/// Clients that show a certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MutualTls {
    /// The authority their certificates must come from, in PEM. A change is used at once, without a restart.
    pub ca_ref: KeyRef,
    /// Names that count: subject alternative names (DNS names, e-mail and IP addresses, URIs) or common names
    /// of the certificate, one of which must be here. Default: every certificate of the authority.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 500), transform = atomic, transform = each_len(1, 320))]
    pub subjects: Vec<String>,
}

/// Load balancers that say who their client is (PROXY protocol, version 2 or 1).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ProxyProtocol {
    /// Networks of the load balancers. A connection from there must begin with a PROXY header, or it is closed;
    /// from anywhere else none is read.
    #[schemars(length(min = 1, max = 50), transform = atomic, transform = each_len(1, 49), transform = each(&[checks::CIDR]))]
    pub from: Vec<String>,
}
