//! What a test of the way to a next hop found (spec R22-R28). Made by gateway pods and by `postern probe`,
//! collected by the controller, shown in statuses. Values only: who tests and what it means is elsewhere.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::document::Origin;

/// How a test ended, or why there is none: the reasons of the condition `TLSVerified`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Reason {
    /// TLS to a host whose certificate is trusted and bears its name, as the route demands.
    Verified,
    /// TLS as the route demands it, but the route does not ask who the host is.
    Unauthenticated,
    ResolveFailed,
    ConnectFailed,
    EhloFailed,
    StartTlsNotOffered,
    HandshakeFailed,
    CertUntrusted,
    CertNameMismatch,
    CertExpired,
    AuthFailed,
    ProbeDisabled,
    NotTestedYet,
}

impl Reason {
    pub const ALL: &'static [Reason] = &[
        Reason::Verified,
        Reason::Unauthenticated,
        Reason::ResolveFailed,
        Reason::ConnectFailed,
        Reason::EhloFailed,
        Reason::StartTlsNotOffered,
        Reason::HandshakeFailed,
        Reason::CertUntrusted,
        Reason::CertNameMismatch,
        Reason::CertExpired,
        Reason::AuthFailed,
        Reason::ProbeDisabled,
        Reason::NotTestedYet,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Reason::Verified => "Verified",
            Reason::Unauthenticated => "Unauthenticated",
            Reason::ResolveFailed => "ResolveFailed",
            Reason::ConnectFailed => "ConnectFailed",
            Reason::EhloFailed => "EhloFailed",
            Reason::StartTlsNotOffered => "StartTlsNotOffered",
            Reason::HandshakeFailed => "HandshakeFailed",
            Reason::CertUntrusted => "CertUntrusted",
            Reason::CertNameMismatch => "CertNameMismatch",
            Reason::CertExpired => "CertExpired",
            Reason::AuthFailed => "AuthFailed",
            Reason::ProbeDisabled => "ProbeDisabled",
            Reason::NotTestedYet => "NotTestedYet",
        }
    }

    /// Whether the host passed; `None`: it was not tested.
    pub const fn passed(self) -> Option<bool> {
        match self {
            Reason::Verified | Reason::Unauthenticated => Some(true),
            Reason::ProbeDisabled | Reason::NotTestedYet => None,
            _ => Some(false),
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// The stages of a test (spec R24).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Stage {
    Resolve,
    Connect,
    /// Greeting and EHLO.
    Ehlo,
    StartTls,
    Handshake,
    ChainTrusted,
    HostnameMatches,
    Auth,
    /// MAIL and RCPT, without DATA.
    Recipient,
}

impl Stage {
    pub const fn as_str(self) -> &'static str {
        match self {
            Stage::Resolve => "Resolve",
            Stage::Connect => "Connect",
            Stage::Ehlo => "Ehlo",
            Stage::StartTls => "StartTls",
            Stage::Handshake => "Handshake",
            Stage::ChainTrusted => "ChainTrusted",
            Stage::HostnameMatches => "HostnameMatches",
            Stage::Auth => "Auth",
            Stage::Recipient => "Recipient",
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mark {
    Passed,
    Failed,
    Skipped,
}

/// One stage of one test.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    pub stage: Stage,
    pub result: Mark,
    /// Whether the route asks for it: a stage that fails and is not demanded does not keep mail from leaving.
    pub demanded: bool,
    pub millis: u64,
    pub text: String,
    /// What helps; empty unless it failed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub advice: Vec<String>,
}

/// What the connection was protected by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TlsFacts {
    /// `TLSv1.3`
    pub version: String,
    pub cipher: String,
}

/// What a host's certificate says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CertificateFacts {
    pub subject: String,
    /// Host names and addresses it is good for.
    pub names: Vec<String>,
    pub issuer: String,
    pub not_before: Timestamp,
    pub not_after: Timestamp,
}

impl CertificateFacts {
    /// Whole days until it expires; negative: since it has.
    pub fn days_left(&self, now: Timestamp) -> i64 {
        self.not_after.duration_since(now).as_secs().div_euclid(24 * 3600)
    }
}

/// What the test of one host found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HostProbe {
    pub host: String,
    pub port: u16,
    /// Sorted.
    pub addresses: Vec<String>,
    /// The address whose session is told below.
    pub address: Option<String>,
    pub reason: Reason,
    /// What is so, in one sentence.
    pub text: String,
    /// What helps; empty when it passed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub advice: Vec<String>,
    /// What it means for mail over the route.
    pub effect: String,
    /// In the order in which they happen.
    pub steps: Vec<Step>,
    pub tls: Option<TlsFacts>,
    pub certificate: Option<CertificateFacts>,
    /// Keywords of the last EHLO response.
    pub extensions: Vec<String>,
    /// The code of the reply that ended the test.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<u16>,
}

impl HostProbe {
    /// Whether everything that was asked succeeded, a recipient included.
    pub fn passed(&self) -> bool {
        self.reason.passed() == Some(true)
            && !self.steps.iter().any(|step| step.demanded && step.result == Mark::Failed)
    }

    /// Whether two tests found the same, whatever time they took and in whatever words the host put it:
    /// replies carry numbers of sessions and times.
    pub fn agrees_with(&self, other: &HostProbe) -> bool {
        let marks =
            |probe: &HostProbe| probe.steps.iter().map(|step| (step.stage, step.result)).collect::<Vec<_>>();
        (&self.host, self.port, self.reason, self.code) == (&other.host, other.port, other.reason, other.code)
            && (&self.addresses, &self.address) == (&other.addresses, &other.address)
            && (&self.tls, &self.certificate) == (&other.tls, &other.certificate)
            && self.extensions == other.extensions
            && marks(self) == marks(other)
    }
}

/// What the test of all hosts of a route found, from one place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RouteProbe {
    /// The route as it was tested.
    pub origin: Origin,
    /// When a test found this first; later ones that found the same do not change it.
    pub since: Timestamp,
    pub tested_at: Timestamp,
    /// Of the first host that failed; else the weakest.
    pub reason: Reason,
    /// The whole finding in words: cause, what helps, effect.
    pub message: String,
    pub hosts: Vec<HostProbe>,
}

impl RouteProbe {
    /// Whether every host passed.
    pub fn passed(&self) -> bool {
        self.reason.passed() == Some(true) && self.hosts.iter().all(HostProbe::passed)
    }

    pub fn agrees_with(&self, other: &RouteProbe) -> bool {
        (&self.origin, self.reason) == (&other.origin, other.reason)
            && self.hosts.len() == other.hosts.len()
            && self.hosts.iter().zip(&other.hosts).all(|(one, two)| one.agrees_with(two))
    }

    /// When the first certificate of its hosts expires.
    pub fn expires(&self) -> Option<Timestamp> {
        self.hosts.iter().filter_map(|host| Some(host.certificate.as_ref()?.not_after)).min()
    }
}

/// What a pod answers on `GET /probes?after=N`: results that changed since its count was N, oldest first.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Probes {
    /// Changes with each start of the process; counts of another one mean nothing.
    pub instance: String,
    /// The count of the newest result given here. Less than that of the Ack: there is more.
    pub tested: u64,
    pub routes: Vec<RouteProbe>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_left_are_whole_days_and_negative_once_it_is_over() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let facts = CertificateFacts {
            subject: String::new(),
            names: Vec::new(),
            issuer: String::new(),
            not_before: at("2026-01-01T00:00:00Z"),
            not_after: at("2026-12-01T12:00:00Z"),
        };
        for (now, days) in [
            ("2026-11-30T12:00:00Z", 1),
            ("2026-11-30T12:00:01Z", 0),
            ("2026-12-01T12:00:00Z", 0),
            ("2026-12-01T12:00:01Z", -1),
        ] {
            assert_eq!(facts.days_left(at(now)), days, "{now}");
        }
    }

    #[test]
    fn every_reason_has_its_own_word() {
        let words: std::collections::BTreeSet<_> = Reason::ALL.iter().map(|reason| reason.as_str()).collect();
        assert_eq!(words.len(), Reason::ALL.len());
        for reason in Reason::ALL {
            assert_eq!(serde_json::to_value(reason).unwrap(), reason.as_str());
        }
    }
}
