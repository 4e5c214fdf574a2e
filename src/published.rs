//! What DNS publishes about the organisation: SPF records, DKIM keys, and the ranges that mail providers name in
//! their own SPF records. Asked now and then, and kept while DNS is away. Translation sees only the answers, and
//! decides what they mean; nothing here judges.
//!
//! ```text
//! Bundle ─ wanted ─▶ Questions ─▶ keeper ─ names (DNS) ─▶ walk, ranges ─▶ PublishedFacts ─▶ translate
//! ```

mod audit;
mod keeper;
mod names;
mod ranges;
pub mod spf;
#[cfg(test)]
mod tests;
mod walk;

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use crate::bundle::Bundle;
use crate::mail::address::Domain;
use crate::translate::published::dkim_name;

pub use audit::{RangeNews, range_news};
pub use keeper::Keeper;

/// What one gateway wants to know, and whom it asks.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Questions {
    /// Empty: the resolvers of the system.
    pub servers: Vec<SocketAddr>,
    /// Whether the SPF records of these domains ...
    pub domains: BTreeSet<String>,
    /// ... let mail come from these addresses ...
    pub addresses: BTreeSet<IpAddr>,
    /// ... of a host that calls itself so (for the macro `h`).
    pub helo: String,
    /// Names of DKIM keys.
    pub keys: BTreeSet<String>,
    /// Domains whose SPF records name networks of clients.
    pub ranges: BTreeSet<String>,
}

/// What is to be asked for a gateway that obeys this.
pub fn wanted(bundle: &Bundle) -> Questions {
    let gateway = &bundle.gateway;
    let domains: BTreeSet<String> = gateway.domains.iter().map(ascii).collect();
    Questions {
        servers: gateway.dns_servers.clone(),
        addresses: crate::translate::published::egress(gateway, &bundle.routes),
        helo: gateway.hostname.clone().unwrap_or_default(),
        keys: gateway.dkim.iter().map(dkim_name).collect(),
        ranges: gateway.spf_clients.iter().map(|from| ascii(&from.domain)).collect(),
        domains,
    }
}

fn ascii(domain: &Domain) -> String {
    domain.ascii().to_owned()
}
