//! The records of a bundle. Field names are a wire format: see [`FORMAT`].

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use ipnet::IpNet;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::material::Material;
use crate::mail::address::{Domain, Mailbox};
use crate::mail::envelope::RouteName;

/// The format this code writes. Readers accept this one and the one before it.
pub const FORMAT: u32 = 1;

/// Everything one gateway must know to judge and deliver mail. `rules` stand in the order of rank
/// (spec R123), best first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Bundle {
    pub gateway: Gateway,
    pub routes: Vec<Route>,
    pub rules: Vec<Rule>,
}

impl Bundle {
    /// Puts routes and rules into their one order: routes by name, rules by rank.
    pub fn sort(&mut self) {
        self.routes.sort_by(|a, b| a.origin.object.cmp(&b.origin.object));
        self.rules.sort_by(|a, b| a.rank().cmp(&b.rank()));
    }
}

impl Rule {
    /// The order of rules (spec R123), a function of the record alone: compliance before routing,
    /// smaller priority, older, name. Smaller is better.
    pub fn rank(&self) -> impl Ord + '_ {
        let object = &self.origin.object;
        let routing = object.kind != ObjectKind::ComplianceRule;
        let created = self.created.unwrap_or(Timestamp::MAX);
        (routing, self.priority, created, &object.namespace, &object.name)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum ObjectKind {
    OutboundGateway,
    OutboundRoute,
    RoutingRule,
    ComplianceRule,
}

impl ObjectKind {
    pub const fn as_str(self) -> &'static str {
        match self {
            ObjectKind::OutboundGateway => "OutboundGateway",
            ObjectKind::OutboundRoute => "OutboundRoute",
            ObjectKind::RoutingRule => "RoutingRule",
            ObjectKind::ComplianceRule => "ComplianceRule",
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
    /// Let listed clients send from domains that are not the organisation's.
    pub allow_foreign_senders: bool,
    pub default_route: Option<DefaultRoute>,
    pub limits: Limits,
    pub notices: Notices,
    /// Resolvers for MX and host look-ups; empty: those of the system.
    #[serde(default)]
    pub dns_servers: Vec<SocketAddr>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Listener {
    pub name: String,
    /// The port the Service offers; see [`Listener::bind_port`].
    pub port: u16,
    pub tls: ListenerTls,
    /// `None`: a self-signed certificate made at start.
    pub certificate: Option<Certificate>,
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
}

impl Default for Limits {
    fn default() -> Self {
        Self { message_size: 50 << 20, recipients: 1000, connections: 2000, connections_per_client: 100 }
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

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Route {
    pub origin: Origin,
    pub target: RouteTarget,
    pub tls: RouteTls,
    pub on_tls_failure: OnTlsFailure,
    #[serde(with = "retry_form")]
    pub retry: Retry,
    /// The route could never be read and has no last good form: mail over it waits. Says why.
    pub broken: Option<String>,
}

impl Route {
    pub fn name(&self) -> RouteName {
        let ObjectId { namespace, name, .. } = &self.origin.object;
        RouteName { namespace: namespace.clone(), name: name.clone() }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum RouteTarget {
    /// Smart hosts. Primaries share the load by weight; secondaries are tried when every primary failed.
    Hosts { primary: Vec<WeightedHost>, secondary: Vec<WeightedHost> },
    /// The MX hosts of these named domains (`mxLookup: true`).
    MxOf(Vec<HostPort>),
    /// The MX hosts of each recipient's domain (no hosts at all).
    RecipientMx,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct HostPort {
    /// A host name in ASCII form, or an IP address without brackets.
    pub host: String,
    pub port: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WeightedHost {
    #[serde(flatten)]
    pub at: HostPort,
    /// Share of the load in percent; all of a set or none of it have one.
    pub weight: Option<u8>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RouteTls {
    pub mode: TlsMode,
    pub require: bool,
    pub require_ca_signed: bool,
    pub validate_hostname: bool,
    /// Name to verify instead of the host's own.
    pub server_name: Option<String>,
    /// Trusted beside the system's roots.
    pub ca: Option<Material>,
}

impl RouteTls {
    /// Google's default for delivery (spec R21): TLS when the peer has it, any certificate.
    pub fn opportunistic() -> Self {
        Self {
            mode: TlsMode::StartTls,
            require: false,
            require_ca_signed: false,
            validate_hostname: false,
            server_name: None,
            ca: None,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum TlsMode {
    StartTls,
    Implicit,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum OnTlsFailure {
    Bounce,
    Defer,
}

/// Retry schedule (spec R159): `initial * factor^n`, at most `max`, jittered, until `give_up_after`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Retry {
    pub initial: Duration,
    pub factor: f64,
    pub max: Duration,
    pub give_up_after: Duration,
    /// When a sender hears that the message is late; once.
    pub warn_after: Duration,
}

impl Default for Retry {
    fn default() -> Self {
        const HOUR: Duration = Duration::from_secs(3600);
        Self {
            initial: Duration::from_secs(300),
            factor: 2.0,
            max: HOUR * 4,
            give_up_after: HOUR * 120,
            warn_after: HOUR * 4,
        }
    }
}

mod retry_form {
    //! Durations as milliseconds, so that the document reads the same everywhere.
    use super::*;

    #[derive(Serialize, Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Form {
        initial_ms: u64,
        factor: f64,
        max_ms: u64,
        give_up_after_ms: u64,
        warn_after_ms: u64,
    }

    pub fn serialize<S: serde::Serializer>(retry: &Retry, to: S) -> Result<S::Ok, S::Error> {
        let ms = |d: Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
        Form {
            initial_ms: ms(retry.initial),
            factor: retry.factor,
            max_ms: ms(retry.max),
            give_up_after_ms: ms(retry.give_up_after),
            warn_after_ms: ms(retry.warn_after),
        }
        .serialize(to)
    }

    pub fn deserialize<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Retry, D::Error> {
        let form = Form::deserialize(from)?;
        Ok(Retry {
            initial: Duration::from_millis(form.initial_ms),
            factor: form.factor,
            max: Duration::from_millis(form.max_ms),
            give_up_after: Duration::from_millis(form.give_up_after_ms),
            warn_after: Duration::from_millis(form.warn_after_ms),
        })
    }
}

/// A RoutingRule or ComplianceRule (`origin.object.kind` says which). Disabled rules are not here.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Rule {
    pub origin: Origin,
    /// For people; `{rule}` in header values is the object's name.
    pub description: String,
    pub priority: u16,
    pub created: Option<Timestamp>,
    pub messages: Vec<Direction>,
    pub envelope: EnvelopeFilter,
    /// `None` on routing rules: no content condition.
    pub content: Option<Content>,
    pub on_scan_limit: OnScanLimit,
    pub action: Action,
    /// The rule is invalid and has no last good form: what its readable clauses could match is
    /// deferred (451), never let through. Says why.
    pub broken: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Direction {
    Outbound,
    Inbound,
    InternalSending,
    InternalReceiving,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct EnvelopeFilter {
    pub senders: Option<AddressFilter>,
    pub recipients: Option<AddressFilter>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum AddressFilter {
    Address(Mailbox),
    /// A regular expression over the whole address, as if anchored.
    Pattern(String),
}

/// Content conditions of a ComplianceRule. The word list counts as one condition.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Content {
    /// Inline and referenced words together, as written, without exact duplicates.
    pub words: Vec<String>,
    pub word_options: WordOptions,
    /// Search the source of HTML parts too, not just their visible text.
    pub search_html_source: bool,
    pub expressions: Vec<Expression>,
    pub combine: Combine,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct WordOptions {
    pub ignore_accents: bool,
    pub confusables: Confusables,
    pub turkish: bool,
    /// Entries of the list that match inside longer words too.
    pub substrings: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub enum Confusables {
    Disabled,
    #[default]
    MixedScript,
    All,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Expression {
    pub location: Location,
    pub kind: ExpressionKind,
    pub value: String,
    pub min_count: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Location {
    HeadersAndBody,
    FullHeaders,
    Body,
    Subject,
    FromHeader,
    RecipientsHeader,
    EnvelopeSender,
    AnyEnvelopeRecipient,
    RawMessage,
    Attachments,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ExpressionKind {
    StartsWith,
    EndsWith,
    Contains,
    NotContains,
    Equals,
    IsEmpty,
    MatchesRegex,
    NotMatchesRegex,
    AnyWord,
    AllWords,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Combine {
    #[default]
    Any,
    All,
}

/// What a rule does when the message could not be searched to its end (spec R60).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum OnScanLimit {
    #[default]
    TreatAsMatch,
    TreatAsNoMatch,
    Defer,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Action {
    Reject(Reject),
    Modify(Modify),
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Reject {
    /// At most 1000 characters; `None`: the default notice of spec R68.
    pub notice: Option<String>,
    /// Used when the notice is not ASCII and the session has no SMTPUTF8.
    pub ascii_notice: Option<String>,
    /// Leave the rule's name out of the default notice.
    pub hide_rule: bool,
    /// `5.7.1`, or `5.7.900` to `5.7.999`.
    pub enhanced_code: EnhancedCode,
}

/// The enhanced status code of a policy reject (RFC 3463; spec R68).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct EnhancedCode(pub [u16; 3]);

impl Default for EnhancedCode {
    fn default() -> Self {
        Self([5, 7, 1])
    }
}

impl fmt::Display for EnhancedCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [class, subject, detail] = self.0;
        write!(f, "{class}.{subject}.{detail}")
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Modify {
    pub route: Option<ChangeRoute>,
    pub headers: Vec<Header>,
    pub subject_prefix: Option<String>,
    pub require_tls: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ChangeRoute {
    To(RouteName),
    /// The route does not exist: where this rule would have decided the route, mail is deferred.
    Missing(RouteName),
}

/// `value` may hold the placeholders `{rule}`, `{revision}` and `{id}`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Header {
    pub name: String,
    pub value: String,
}
