//! What sessions with other domains' mail hosts were like, for the reports that those domains ask for (RFC
//! 8460). Counts only: no message, no address of a person. Bounded, and kept over restarts.

mod report;
mod send;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};
use tracing::warn;

use super::client::connect::Session;
use super::client::tls::Tls;
use super::dane::Dane;
use super::outcome::{Guard, Stage, Trouble};
use super::plan::Hop;
use super::routes::RouteTable;
use super::sts::{FetchError, Mode, Policy};
use super::web::WebError;

pub use self::send::send_due;

/// Domains of one day; sessions with further ones are not counted.
const MAX_DOMAINS: usize = 10_000;
/// Policies of one domain on one day.
const MAX_POLICIES: usize = 8;
/// Kinds of failure of one policy, by host, address and reason; further ones are counted without detail.
const MAX_DETAILS: usize = 50;
/// Octets of what a host or a library said.
const MAX_REASON: usize = 200;
/// Days that are kept while their reports cannot be sent.
const MAX_DAYS: usize = 3;

/// The policy that a session stood under.
#[derive(Debug, Clone, Default, PartialEq)]
pub enum Applied {
    #[default]
    Nothing,
    Sts(Arc<Policy>),
    /// A policy is announced and could not be had.
    Unfetched,
    Dane(Arc<Dane>),
    /// There may be TLSA records, and what DNS said about them is forged.
    Unknown,
}

/// RFC 8460 section 4.3. A closed list: the words are the RFC's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FailureKind {
    StarttlsNotSupported,
    CertificateHostMismatch,
    CertificateExpired,
    CertificateNotTrusted,
    ValidationFailure,
    TlsaInvalid,
    DnssecInvalid,
    StsPolicyFetchError,
    StsPolicyInvalid,
    StsWebpkiInvalid,
}

/// A session that did not come about as it should have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    kind: FailureKind,
    ip: Option<IpAddr>,
    why: Option<String>,
}

impl Failure {
    pub fn new(kind: FailureKind) -> Self {
        Self { kind, ip: None, why: None }
    }

    /// The policy does not name the host.
    pub fn unnamed() -> Self {
        Self::new(FailureKind::ValidationFailure).saying("the MX host is not in the policy")
    }

    pub fn saying(self, why: &str) -> Self {
        Self { why: Some(why.chars().take(MAX_REASON).collect()), ..self }
    }

    pub fn at(self, ip: IpAddr) -> Self {
        Self { ip: Some(ip), ..self }
    }

    pub fn of_fetch(error: &FetchError) -> Self {
        let kind = match error {
            FetchError::Web(WebError::Certificate(_)) => FailureKind::StsWebpkiInvalid,
            FetchError::Name(_) | FetchError::Web(_) | FetchError::Status(_) => {
                FailureKind::StsPolicyFetchError
            }
            FetchError::Type(_) | FetchError::Policy(_) => FailureKind::StsPolicyInvalid,
        };
        Self::new(kind).saying(&error.to_string())
    }

    /// A trouble that says something about TLS; most do not.
    pub fn of_session(trouble: &Trouble) -> Option<Self> {
        let (kind, why) = match trouble {
            Trouble::StartTlsMissing => return Some(Self::new(FailureKind::StarttlsNotSupported)),
            Trouble::Refused(Stage::StartTls, reply) => {
                (FailureKind::StarttlsNotSupported, reply.to_string())
            }
            Trouble::Certificate(why) => (of_certificate(why), why.clone()),
            Trouble::Handshake(why) => (FailureKind::ValidationFailure, why.clone()),
            Trouble::Unprotected(Guard::Dane, why) => (FailureKind::ValidationFailure, why.clone()),
            Trouble::Unprotected(Guard::Sts, why) => (FailureKind::CertificateHostMismatch, why.clone()),
            _ => return None,
        };
        Some(Self::new(kind).saying(&why))
    }
}

/// The words of [`super::client::tls`] for why a certificate was refused.
fn of_certificate(why: &str) -> FailureKind {
    let why = why.strip_prefix("Could not validate certificate: ").unwrap_or(why);
    match why {
        _ if why.starts_with("name mismatch") => FailureKind::CertificateHostMismatch,
        _ if why.starts_with("expired") || why.contains("has expired") => FailureKind::CertificateExpired,
        _ if why.starts_with("self-signed") || why.starts_with("unknown issuer") => {
            FailureKind::CertificateNotTrusted
        }
        _ => FailureKind::ValidationFailure,
    }
}

/// The counts of the days whose reports were not sent yet.
#[derive(Debug, Default)]
pub struct Reports {
    days: Mutex<Days>,
    changed: AtomicBool,
}

type Days = BTreeMap<Date, BTreeMap<String, Domain>>;

/// One domain on one day (UTC).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct Domain {
    policies: Vec<Sessions>,
    /// Where its report went already.
    #[serde(default)]
    sent: Vec<String>,
}

/// The sessions under one policy.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct Sessions {
    kind: PolicyKind,
    /// The policy in its own words.
    text: Vec<String>,
    mx_hosts: Vec<String>,
    succeeded: u64,
    failed: u64,
    details: Vec<Detail>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum PolicyKind {
    Tlsa,
    Sts,
    #[default]
    NoPolicyFound,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Detail {
    kind: FailureKind,
    host: String,
    ip: Option<IpAddr>,
    why: Option<String>,
    count: u64,
}

impl Reports {
    /// The counts that a file beside the spool holds. One that cannot be read is a first start.
    pub fn read(folder: &Path) -> Self {
        let days = match std::fs::read(file(folder)) {
            Ok(bytes) => serde_json::from_slice(&bytes).unwrap_or_else(|error| {
                warn!(%error, "the counts for TLS reports cannot be read; they begin anew");
                Days::new()
            }),
            Err(_) => Days::new(),
        };
        Self { days: Mutex::new(days), ..Self::default() }
    }

    /// A session that came about.
    pub fn session(
        &self,
        table: &RouteTable,
        hop: &Hop,
        applied: &Applied,
        (session, tls): (&Session, &Tls),
        ip: IpAddr,
        now: Timestamp,
    ) {
        let failure = match applied {
            _ if session.tls.is_none() => Failure::new(FailureKind::StarttlsNotSupported),
            Applied::Dane(dane) if !dane.authenticates() => Failure::new(FailureKind::TlsaInvalid),
            // In testing the session is there, and is reported as it would be under the same in force.
            Applied::Sts(policy) if policy.mode == Mode::Testing && !policy.names(&hop.host) => {
                Failure::unnamed()
            }
            Applied::Sts(policy) if policy.mode == Mode::Testing => {
                let chain = session.certificates();
                match tls.judge(&chain, &hop.host) {
                    Some(why) => Failure::new(of_certificate(&why)).saying(&why),
                    None => return self.success(table, hop, applied, now),
                }
            }
            Applied::Nothing | Applied::Unfetched | Applied::Sts(_) | Applied::Dane(_) | Applied::Unknown => {
                return self.success(table, hop, applied, now);
            }
        };
        self.failure(table, hop, applied, failure.at(ip), now);
    }

    fn success(&self, table: &RouteTable, hop: &Hop, applied: &Applied, now: Timestamp) {
        self.note(table, hop, applied, now, |sessions| sessions.succeeded += 1);
    }

    /// A session that did not come about; what has nothing to do with TLS is not counted.
    pub fn trouble(
        &self,
        table: &RouteTable,
        hop: &Hop,
        applied: &Applied,
        trouble: &Trouble,
        ip: IpAddr,
        now: Timestamp,
    ) {
        if let Some(failure) = Failure::of_session(trouble) {
            self.failure(table, hop, applied, failure.at(ip), now);
        }
    }

    pub fn failure(
        &self,
        table: &RouteTable,
        hop: &Hop,
        applied: &Applied,
        failure: Failure,
        now: Timestamp,
    ) {
        self.note(table, hop, applied, now, |sessions| sessions.fail(&hop.host, failure));
    }

    fn note(
        &self,
        table: &RouteTable,
        hop: &Hop,
        applied: &Applied,
        now: Timestamp,
        count: impl FnOnce(&mut Sessions),
    ) {
        let (Some(_), Some(domain)) = (&table.tls_reports, &hop.domain) else { return };
        let mut days = self.days();
        let day = days.entry(date(now)).or_default();
        if day.len() >= MAX_DOMAINS && !day.contains_key(&**domain) {
            return;
        }
        let fresh = Sessions::under(applied);
        let policies = &mut day.entry((**domain).to_owned()).or_default().policies;
        let alike = policies.iter().position(|known| {
            (known.kind, &known.text, &known.mx_hosts) == (fresh.kind, &fresh.text, &fresh.mx_hosts)
        });
        let at = match alike {
            Some(at) => at,
            None if policies.len() < MAX_POLICIES => {
                policies.push(fresh);
                policies.len() - 1
            }
            // A policy that changes all day long: the last one stands for the rest.
            None => policies.len() - 1,
        };
        count(&mut policies[at]);
        while days.len() > MAX_DAYS {
            days.pop_first();
        }
        self.changed.store(true, Ordering::Relaxed);
    }

    /// What a file must hold, if it holds something else now.
    pub fn unsaved(&self) -> Option<Vec<u8>> {
        let changed = self.changed.swap(false, Ordering::Relaxed);
        changed.then(|| serde_json::to_vec(&*self.days()).expect("the keys are strings"))
    }

    /// Nobody wrote what [`unsaved`](Self::unsaved) gave.
    pub fn still_unsaved(&self) {
        self.changed.store(true, Ordering::Relaxed);
    }

    /// Of which days there are counts for which domains.
    #[cfg(test)]
    pub fn days_and_domains(&self) -> Vec<(String, String)> {
        let days = self.days();
        let all =
            days.iter().flat_map(|(day, domains)| domains.keys().map(|name| (day.to_string(), name.clone())));
        all.collect()
    }

    fn days(&self) -> MutexGuard<'_, Days> {
        self.days.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sessions {
    fn under(applied: &Applied) -> Self {
        let (kind, text, mx_hosts) = match applied {
            Applied::Nothing => (PolicyKind::NoPolicyFound, Vec::new(), Vec::new()),
            Applied::Unfetched => (PolicyKind::Sts, Vec::new(), Vec::new()),
            Applied::Unknown => (PolicyKind::Tlsa, Vec::new(), Vec::new()),
            Applied::Sts(policy) => (PolicyKind::Sts, policy.lines(), policy.mx.clone()),
            Applied::Dane(dane) => (PolicyKind::Tlsa, dane.records().to_vec(), Vec::new()),
        };
        Self { kind, text, mx_hosts, ..Self::default() }
    }

    fn fail(&mut self, host: &str, failure: Failure) {
        self.failed += 1;
        let Failure { kind, ip, why } = failure;
        let alike = |known: &Detail| {
            (known.kind, known.host.as_str(), known.ip, &known.why) == (kind, host, ip, &why)
        };
        match self.details.iter().position(alike) {
            Some(at) => self.details[at].count += 1,
            None if self.details.len() < MAX_DETAILS => {
                self.details.push(Detail { kind, host: host.to_owned(), ip, why, count: 1 });
            }
            None => {}
        }
    }
}

/// Where the counts of a spool are kept.
pub fn file(folder: &Path) -> PathBuf {
    folder.join("tls-reports.json")
}

/// The day of a moment, in UTC.
fn date(now: Timestamp) -> Date {
    now.to_zoned(TimeZone::UTC).date()
}
