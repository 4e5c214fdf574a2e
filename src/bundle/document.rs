//! The records of a bundle. Field names are a wire format: see [`FORMAT`].

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

pub use super::clients::*;
use super::material::Material;
pub use super::route::*;
pub use super::rule::*;
pub use super::shared::*;
pub use super::smime::*;
use crate::mail::address::{Domain, Mailbox};
use crate::mail::envelope::RouteName;

/// The format this code writes. Readers accept this one and the one before it.
pub const FORMAT: u32 = 1;

/// Everything one gateway must know to judge and deliver mail. `rules` stand in the order of rank
/// (spec R123), best first. Rules are shared, not copied: whoever makes the next bundle hands on those that did
/// not change, and whoever cuts, compiles or stores it sees at once which ones those are.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Bundle {
    pub gateway: Gateway,
    pub routes: Vec<Route>,
    pub rules: Vec<Arc<Rule>>,
    /// Those that some rule names.
    #[serde(default)]
    pub lists: Vec<AddressList>,
    #[serde(default)]
    pub directory: Option<Directory>,
    /// Those that objects declare; `default` is there without one.
    #[serde(default)]
    pub quarantines: Vec<Quarantine>,
}

impl Bundle {
    pub fn new(gateway: Gateway) -> Self {
        Self {
            gateway,
            routes: Vec::new(),
            rules: Vec::new(),
            lists: Vec::new(),
            directory: None,
            quarantines: Vec::new(),
        }
    }

    /// Puts routes and rules into their one order: routes by name, rules by rank.
    pub fn sort(&mut self) {
        self.routes.sort_by(|a, b| a.origin.object.cmp(&b.origin.object));
        self.rules.sort_by(|a, b| a.rank().cmp(&b.rank()));
        self.lists.sort_by(|a, b| a.origin.object.cmp(&b.origin.object));
        self.quarantines.sort_by(|a, b| a.origin.object.cmp(&b.origin.object));
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum ObjectKind {
    OutboundGateway,
    OutboundRoute,
    RoutingRule,
    ComplianceRule,
    AddressList,
    Directory,
    Quarantine,
}

impl ObjectKind {
    pub const fn as_str(self) -> &'static str {
        match self {
            ObjectKind::OutboundGateway => "OutboundGateway",
            ObjectKind::OutboundRoute => "OutboundRoute",
            ObjectKind::RoutingRule => "RoutingRule",
            ObjectKind::ComplianceRule => "ComplianceRule",
            ObjectKind::AddressList => "AddressList",
            ObjectKind::Directory => "Directory",
            ObjectKind::Quarantine => "Quarantine",
        }
    }
}

/// An object by kind, namespace and name; prints as `ComplianceRule/ns/name`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ObjectId {
    pub kind: ObjectKind,
    pub namespace: String,
    pub name: String,
}

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.kind.as_str(), self.namespace, self.name)
    }
}

/// Which object, and which generation of it, a record was decided from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    #[serde(flatten)]
    pub object: ObjectId,
    pub uid: String,
    pub generation: i64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Gateway {
    pub origin: Origin,
    /// Banner, EHLO and the gateway's own Received field; `None`: the machine's own name.
    pub hostname: Option<String>,
    /// The organisation's own domains; their subdomains count as own.
    pub domains: Vec<Domain>,
    pub listeners: Vec<Listener>,
    /// Clients that may relay. Empty: nobody (spec R35).
    pub clients: Vec<IpNet>,
    /// Those of `clients` that DNS names.
    #[serde(default)]
    pub spf_clients: Vec<SpfClients>,
    /// Clients that log in (RFC 4954).
    #[serde(default)]
    pub users: Vec<ClientUser>,
    /// Clients that show a certificate.
    #[serde(default)]
    pub mutual_tls: Option<ClientAuthority>,
    /// Let listed clients send from domains that are not the organisation's.
    pub allow_foreign_senders: bool,
    pub default_route: Option<DefaultRoute>,
    pub limits: Limits,
    pub notices: Notices,
    /// Resolvers for MX and host look-ups; empty: those of the system.
    #[serde(default)]
    pub dns_servers: Vec<SocketAddr>,
    /// Names and TLSA records count only as far as DNSSEC proves them, and DANE is used (RFC 7672).
    #[serde(default)]
    pub dnssec: bool,
    /// DNSKEY records trusted beside those of the root.
    #[serde(default)]
    pub dns_anchors: Vec<String>,
    /// Domains that ask for reports about TLS get them, signed where a key fits; `None`: nothing is counted.
    #[serde(default)]
    pub tls_reports: Option<TlsReports>,
    /// The addresses that the world sees this gateway's mail come from.
    #[serde(default)]
    pub public_addresses: Vec<IpAddr>,
    /// Where pods count together what limits allow; `None`: each pod has its share.
    #[serde(default)]
    pub shared_limits: Option<SharedLimits>,
    /// Keys to sign changed mail and mail of the gateway's own with (spec R33).
    #[serde(default)]
    pub dkim: Vec<DkimKey>,
    /// Where every message is copied to, with its envelope (spec R46).
    #[serde(default)]
    pub archive: Option<Archive>,
    /// Blatant outgoing spam vanishes after a 250 (Google's behaviour); false: 550 (spec R83).
    #[serde(default)]
    pub drop_blatant_spam: bool,
    /// Mail of the default route carries the spam headers too (spec R79).
    #[serde(default)]
    pub default_route_spam_headers: bool,
    /// Base address of an rspamd worker that classifies messages; `None`: nothing is spam.
    #[serde(default)]
    pub rspamd: Option<String>,
    /// Certificates of recipients for S/MIME.
    #[serde(default)]
    pub smime: Vec<SmimeCertificate>,
    /// Who signs with S/MIME: of two for one address, the first.
    #[serde(default)]
    pub smime_signers: Vec<SmimeSigner>,
    #[serde(default)]
    pub smime_cipher: SmimeCipher,
}

impl Gateway {
    /// A gateway that takes mail from nobody and delivers by MX.
    pub fn new(origin: Origin) -> Self {
        Self {
            origin,
            hostname: None,
            domains: Vec::new(),
            listeners: Vec::new(),
            clients: Vec::new(),
            spf_clients: Vec::new(),
            users: Vec::new(),
            mutual_tls: None,
            allow_foreign_senders: false,
            default_route: None,
            limits: Limits::default(),
            notices: Notices::default(),
            dns_servers: Vec::new(),
            dnssec: false,
            dns_anchors: Vec::new(),
            tls_reports: None,
            public_addresses: Vec::new(),
            shared_limits: None,
            dkim: Vec::new(),
            archive: None,
            drop_blatant_spam: false,
            default_route_spam_headers: false,
            rspamd: None,
            smime: Vec::new(),
            smime_signers: Vec::new(),
            smime_cipher: SmimeCipher::default(),
        }
    }
}

impl Gateway {
    /// Whether anybody may hand over mail.
    pub fn has_clients(&self) -> bool {
        !self.clients.is_empty() || !self.users.is_empty() || self.mutual_tls.is_some()
    }
}

/// A DKIM signing key (RFC 6376, RFC 8463): RSA or Ed25519, PEM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DkimKey {
    /// Signs for this domain and its subdomains.
    pub domain: Domain,
    pub selector: String,
    pub key: Material,
}

/// The archive's journal (spec R46): one copy of each message with its envelope.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Archive {
    pub recipient: Mailbox,
    pub route: ChangeRoute,
    /// Messages that policy rejects are recorded too (spec R127).
    pub include_rejected: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Listener {
    pub name: String,
    /// The port the Service offers; see [`Listener::bind_port`].
    pub port: u16,
    pub tls: ListenerTls,
    /// `None`: a self-signed certificate made at start.
    pub certificate: Option<Certificate>,
    /// Load balancers whose PROXY header says who the client is; from nobody else is one read.
    #[serde(default)]
    pub proxy_from: Vec<IpNet>,
}

impl Listener {
    /// The port the process binds: unprivileged, so that no capability is needed (design section 5).
    pub fn bind_port(&self) -> u16 {
        if self.port < 1024 { self.port + 10_000 } else { self.port }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ListenerTls {
    Optional,
    Required,
    Implicit,
}

/// A certificate chain and its key, both from one Secret of type kubernetes.io/tls.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certificate {
    pub chain: Material,
    pub key: Material,
}

/// Way (a): the lowest layer, replaced by any rule that changes the route (spec R121).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum DefaultRoute {
    /// One host typed inline, opportunistic TLS.
    Host(HostPort),
    Named(RouteName),
    /// It names a route that does not exist: mail that would take it is deferred.
    Missing(RouteName),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Octets of a message (RFC 1870); default 50 MiB.
    pub message_size: u64,
    /// Recipients of a message; default 1000.
    pub recipients: u32,
    /// Open connections of one pod; default 2000.
    pub connections: u32,
    /// Open connections of one client address to one pod; default 100.
    pub connections_per_client: u32,
    /// Messages that one client (a login, else an address) may hand in within a minute; absent: unlimited.
    #[serde(default)]
    pub messages_per_minute_per_client: Option<u32>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            message_size: 50 << 20,
            recipients: 1000,
            connections: 2000,
            connections_per_client: 100,
            messages_per_minute_per_client: None,
        }
    }
}

/// How mail the gateway writes itself is signed and sent.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Notices {
    /// From of reports; default `postmaster@` the first own domain, else the host name.
    pub from: Option<Mailbox>,
    /// Default: normal routing.
    pub route: Option<RouteName>,
}
