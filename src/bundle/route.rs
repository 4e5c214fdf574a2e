//! Records of routes: where mail goes next, on what terms, how much of it and how long it is tried.

use std::net::IpAddr;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::document::{Certificate, ObjectId, Origin};
use super::material::Material;
use crate::mail::envelope::RouteName;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Route {
    pub origin: Origin,
    pub target: RouteTarget,
    pub tls: RouteTls,
    pub on_tls_failure: OnTlsFailure,
    #[serde(with = "retry_form")]
    pub retry: Retry,
    /// How the gateway proves to the next hop who it is (spec R16).
    #[serde(default)]
    pub auth: Option<RouteAuth>,
    /// The addresses mail leaves from; `None`: whatever the machine picks.
    #[serde(default)]
    pub egress: Option<Egress>,
    #[serde(default)]
    pub limits: RouteLimits,
    /// How often each host is tested without mail (spec R28); `None`: never.
    #[serde(default)]
    pub probe_seconds: Option<u32>,
    /// The route could never be read and has no last good form: mail over it waits. Says why.
    pub broken: Option<String>,
}

impl Route {
    /// A route with every default, and no way to fail yet.
    pub fn new(origin: Origin, target: RouteTarget, tls: RouteTls) -> Self {
        Self {
            origin,
            target,
            tls,
            on_tls_failure: OnTlsFailure::Bounce,
            retry: Retry::default(),
            auth: None,
            egress: None,
            limits: RouteLimits::default(),
            probe_seconds: None,
            broken: None,
        }
    }

    /// Every Secret and ConfigMap it needs.
    pub fn materials(&self) -> impl Iterator<Item = &Material> {
        let login = self.auth.iter().flat_map(|auth| [&auth.username, &auth.password]);
        let certificate = self.tls.client_certificate.iter().flat_map(|pair| [&pair.chain, &pair.key]);
        self.tls.ca.iter().chain(certificate).chain(login)
    }

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
    /// Shown to a host that asks for one (spec R17).
    #[serde(default)]
    pub client_certificate: Option<Certificate>,
    #[serde(default)]
    pub min_version: TlsVersion,
}

impl RouteTls {
    /// Whether the peer must prove who it is, whatever message is sent.
    pub fn verifies_peer(&self) -> bool {
        self.require && self.require_ca_signed && self.validate_hostname
    }

    /// Google's default for delivery (spec R21): TLS when the peer has it, any certificate.
    pub fn opportunistic() -> Self {
        Self {
            mode: TlsMode::StartTls,
            require: false,
            require_ca_signed: false,
            validate_hostname: false,
            server_name: None,
            ca: None,
            client_certificate: None,
            min_version: TlsVersion::default(),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub enum TlsVersion {
    #[default]
    #[serde(rename = "TLSv1.2")]
    Tls12,
    #[serde(rename = "TLSv1.3")]
    Tls13,
}

/// A login at the next hop. Sent over TLS only, to a peer whose certificate was verified; never left out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteAuth {
    pub mechanism: AuthMechanism,
    pub username: Material,
    /// The password; with XOAUTH2 the access token (key `token` of the Secret).
    pub password: Material,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum AuthMechanism {
    Plain,
    Login,
    CramMd5,
    ScramSha256,
    XOAuth2,
}

impl AuthMechanism {
    pub const ALL: [AuthMechanism; 5] =
        [Self::Plain, Self::Login, Self::CramMd5, Self::ScramSha256, Self::XOAuth2];

    /// Its name on the wire.
    pub const fn keyword(self) -> &'static str {
        match self {
            AuthMechanism::Plain => "PLAIN",
            AuthMechanism::Login => "LOGIN",
            AuthMechanism::CramMd5 => "CRAM-MD5",
            AuthMechanism::ScramSha256 => "SCRAM-SHA-256",
            AuthMechanism::XOAuth2 => "XOAUTH2",
        }
    }
}

/// Where mail of a route leaves from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Egress {
    pub sources: Vec<EgressSource>,
    pub rotation: Rotation,
}

/// One address that mail leaves from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EgressSource {
    pub address: IpAddr,
    /// Share of the mail under [`Rotation::Weighted`]; default 1.
    pub weight: Option<u32>,
    /// What EHLO says from here; default: the gateway's host name.
    pub ehlo: Option<String>,
    /// A SOCKS5 proxy (RFC 1928) that has the address; `None`: the machine has it.
    pub proxy: Option<HostPort>,
    #[serde(default)]
    pub warm_up: Option<WarmUp>,
}

/// A new address sends little at first: `first_day * factor^n` messages on day n, each domain alone, until
/// that is more than there is to send.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WarmUp {
    #[serde(with = "jiff::fmt::serde::timestamp::second::required")]
    pub from: Timestamp,
    pub first_day: u32,
    pub factor_percent: u32,
    /// From this day on there is no limit.
    pub days: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Rotation {
    RoundRobin,
    /// One domain always leaves from one address, as long as it can be used.
    PerDomain,
    Weighted,
}

/// What a route may do at most; absent: unlimited. Per minute means over all pods, connections too.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteLimits {
    pub connections: Option<u32>,
    /// Default 100.
    pub messages_per_connection: Option<u32>,
    pub messages_per_minute: Option<u32>,
    /// Recipients of one transaction; default 100.
    pub recipients_per_message: Option<u32>,
    #[serde(default)]
    pub per_domain: DomainLimits,
}

/// The same for each recipient domain of a route.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DomainLimits {
    pub connections: Option<u32>,
    pub messages_per_minute: Option<u32>,
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
