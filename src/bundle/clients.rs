//! Records of who may hand over mail besides the networks, and how pods share limits.

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::material::Material;
use super::route::HostPort;
use crate::mail::address::Domain;

/// Networks that may relay because the SPF record of a domain lets them send (spec R36). They are among
/// [`Gateway::clients`](super::document::Gateway::clients) too; here it says where they come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpfClients {
    pub domain: Domain,
    /// Sorted; none: DNS has not said any yet.
    pub networks: Vec<IpNet>,
}

/// A client that logs in (SMTP AUTH, RFC 4954), over TLS only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientUser {
    pub name: String,
    pub password: Material,
    /// Envelope senders it may use, whole addresses or domains (`@solarmora.com`); empty: any that the gateway
    /// allows.
    pub senders: Vec<String>,
}

/// Clients with a certificate of this authority may relay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientAuthority {
    pub ca: Material,
    /// Subject alternative names (DNS names or addresses) or common names that count; empty: every certificate
    /// of the authority.
    pub subjects: Vec<String>,
}

/// Reports about TLS to the domains that ask for them (RFC 8460).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TlsReports {
    /// What the organisation is called.
    pub organization: String,
    /// How its administrators are reached: an address or a web page.
    pub contact: String,
}

/// A Redis-compatible server where the pods of a gateway count together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SharedLimits {
    pub at: HostPort,
    pub username: Option<Material>,
    pub password: Option<Material>,
}
