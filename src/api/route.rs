//! OutboundRoute: where mail goes, how its transport is protected, and how long delivery is tried.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::checks;
use super::egress::{Egress, RouteLimits};
use super::login::{RouteAuth, TlsVersion};
use super::refs::{GatewayRef, KeyRef, SecretRef};
use super::schema::{atomic, cel};
use super::status::RouteStatus;
use super::units::GoDuration;

/// A way out: the hosts that take mail next.
#[derive(CustomResource, Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "postern.dev",
    version = "v1alpha1",
    kind = "OutboundRoute",
    namespaced,
    shortname = "obr",
    category = "postern",
    status = "RouteStatus",
    derive = "PartialEq",
    doc = "An OutboundRoute is a way out: the hosts that take mail next, how the connection to them is protected, and how long delivery is tried. Rules and gateways refer to it by name."
)]
#[serde(rename_all = "camelCase")]
#[schemars(transform = cel(&[
    checks::MX_NEEDS_HOSTS,
    checks::MX_IP,
    checks::MX_WEIGHT,
    checks::MX_SECONDARY,
    checks::SECONDARY_ALONE,
    checks::WEIGHTS_HOSTS,
    checks::WEIGHTS_SECONDARY,
    checks::WEIGHT_SUM_HOSTS,
    checks::WEIGHT_SUM_SECONDARY,
    checks::AUTH_NEEDS_VERIFIED,
    checks::AUTH_NEEDS_HOSTS,
]))]
pub struct OutboundRouteSpec {
    /// For people: what is behind this route.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1000))]
    pub description: Option<String>,
    /// The OutboundGateway that may use this route.
    #[serde(default)]
    pub gateway_ref: GatewayRef,
    /// The next hosts; they share the load, by weight if they have weights. Without hosts, mail goes to the
    /// MX hosts of each recipient's domain, with the TLS demands of this route.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), transform = atomic)]
    pub hosts: Vec<Host>,
    /// Hosts that are used only when every one of `hosts` fails.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), transform = atomic)]
    pub secondary_hosts: Vec<Host>,
    /// Deliver to the MX hosts of the domains named in `hosts` instead of those hosts themselves.
    #[serde(default)]
    pub mx_lookup: bool,
    /// Protection of the connection; default: TLS with a certificate that is trusted and bears the host's
    /// name.
    #[serde(default)]
    pub tls: Tls,
    /// How the gateway logs in at the hosts (SMTP AUTH); default: it does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth: Option<RouteAuth>,
    /// The addresses that mail leaves from; default: whatever the machine picks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress: Option<Egress>,
    /// How much mail goes over this route at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<RouteLimits>,
    /// How long and how often delivery is tried.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<Retry>,
    /// What becomes of mail when a host has no TLS or shows a bad certificate although this route demands
    /// better: Bounce returns it to its sender, Defer keeps trying.
    #[serde(default)]
    pub on_tls_failure: OnTlsFailure,
    /// Tests of the hosts without mail, from every pod: after a change, after a failed delivery, and now and then.
    /// The condition TLSVerified says what they found.
    #[serde(default)]
    pub probe: Probe,
}

/// A next host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Host {
    /// A host name (better, because certificates bear names) or an IP address; IPv6 without brackets.
    #[schemars(length(min = 1, max = 253), transform = cel(&[checks::HOST]))]
    pub host: String,
    /// Port; use 465 with `tls.mode: Implicit`.
    #[serde(default = "smtp_port")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: u16,
    /// Share of the load in percent. All hosts of a list have one, and they sum to 100, or none has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub weight: Option<u8>,
}

fn smtp_port() -> u16 {
    25
}

/// Protection of the connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(transform = cel(&[checks::CERTIFICATE_NEEDS_TLS, checks::TLS_TERMS_NEED_TLS]))]
pub struct Tls {
    /// StartTls upgrades a plain connection; Implicit is TLS from the first byte (port 465).
    #[serde(default)]
    pub mode: TlsMode,
    /// Send only over TLS. If false, TLS is used when the host offers it, whatever its certificate, and
    /// clear text when it does not.
    #[serde(default = "yes")]
    pub require: bool,
    /// Demand a certificate signed by a trusted authority (the system's, and that of `caRef`). Default: the
    /// value of `require`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub require_ca_signed: Option<bool>,
    /// Demand that the certificate bears the host's name. Default: the value of `require`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validate_hostname: Option<bool>,
    /// The name that the certificate must bear instead of the host's own; also sent as SNI.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), transform = cel(&[checks::HOST]))]
    pub server_name: Option<String>,
    /// Certificates of further authorities to trust, in PEM form.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_ref: Option<KeyRef>,
    /// A Secret of type kubernetes.io/tls: the certificate that the gateway shows to a host that asks for one
    /// (mutual TLS). Renewals are used at once, without a restart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_certificate_ref: Option<SecretRef>,
    /// The oldest version of TLS that is taken; default TLSv1.2. Nothing older is ever used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_version: Option<TlsVersion>,
}

fn yes() -> bool {
    true
}

impl Default for Tls {
    fn default() -> Self {
        Self {
            mode: TlsMode::StartTls,
            require: true,
            require_ca_signed: None,
            validate_hostname: None,
            server_name: None,
            ca_ref: None,
            client_certificate_ref: None,
            min_version: None,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub enum TlsMode {
    #[default]
    StartTls,
    Implicit,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub enum OnTlsFailure {
    #[default]
    Bounce,
    Defer,
}

/// How long and how often delivery is tried: after `initial`, then `factor` times as long each time, at
/// most `max`, until `giveUpAfter`. Times vary a little, so that retries do not come in waves.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(transform = cel(&[checks::RETRY_ORDER]))]
pub struct Retry {
    /// Time to the first retry; default 5m.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initial: Option<GoDuration>,
    /// Growth from one retry to the next; default 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1.0, max = 10.0))]
    pub factor: Option<f64>,
    /// Longest time between retries; default 4h.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<GoDuration>,
    /// When mail goes back to its sender; default 120h.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub give_up_after: Option<GoDuration>,
    /// When the sender hears, once, that mail is late; default 4h.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warn_after: Option<GoDuration>,
}

/// Tests of the hosts without mail.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = cel(&[checks::PROBE_INTERVAL]))]
pub struct Probe {
    /// Scheduled tests the hosts; Disabled never connects to them but for mail, and TLSVerified is Unknown.
    #[serde(default)]
    pub mode: ProbeMode,
    /// Time between two tests from one pod, a little more or less; default 15m.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<GoDuration>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub enum ProbeMode {
    #[default]
    Scheduled,
    Disabled,
}
