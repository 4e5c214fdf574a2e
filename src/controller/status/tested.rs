//! What tests found, as the status of a route says it: `TLSVerified`, the pods, the hosts (spec R22, R28). Pure.
//!
//! A status is written when something new was found, not when something was tested: texts hold no times of tests
//! and no counts of milliseconds. Days left change once a day.

use jiff::Timestamp;

use crate::api::conditions::{self, ConditionType, Reason as Word, State, Verdict};
use crate::api::status::{CertificateStatus, HostStatus, PodProbe, ProbeStatus};
use crate::bundle::document::{Route, RouteTarget};
use crate::bundle::probe::{HostProbe, Reason, RouteProbe};
use crate::controller::status::{Status, text};
use crate::translate::Outcome;

const MAX_PODS: usize = 20;
const MAX_HOSTS: usize = 64;
const MAX_LIST: usize = 16;
const MAX_KEYWORDS: usize = 32;

/// A pod of the gateway.
pub struct Pod<'a> {
    pub name: &'a str,
    /// It serves: without its result nothing is verified.
    pub counts: bool,
    pub found: Option<&'a RouteProbe>,
}

/// Adds what is known of the route's hosts. `record` is what the pods run; `current` what the object says now.
pub fn show(
    mut status: Status,
    outcome: &Outcome,
    record: Option<&Route>,
    pods: &[Pod<'_>],
    current: &Status,
    now: Timestamp,
) -> Status {
    let generation = outcome.origin.generation;
    let (verdict, probe) = match record {
        None => (unknown(Reason::NotTestedYet, "no gateway runs it yet"), None),
        Some(Route { broken: Some(_), .. }) => {
            (unknown(Reason::NotTestedYet, "it cannot be used, so there is nothing to test"), None)
        }
        Some(Route { probe_seconds: None, .. }) => (unknown(Reason::ProbeDisabled, DISABLED), None),
        Some(Route { target: RouteTarget::RecipientMx, .. }) => {
            (unknown(Reason::NotTestedYet, NO_HOST), None)
        }
        Some(record) => found(record, generation, pods, current, now),
    };
    status.probe = probe;
    if let Some(verdict) = verdict {
        conditions::merge(&mut status.conditions, vec![verdict], generation, now);
    }
    status
}

const DISABLED: &str =
    "probe.mode is Disabled, so nobody knows before mail does; `postern probe` tests it once";
const NO_HOST: &str = "it names no host to test: mail goes to the mail hosts of each recipient's domain, and their \
                       TLS is verified with each delivery";

fn unknown(reason: Reason, message: &str) -> Option<Verdict> {
    Some(Verdict::new(ConditionType::TLSVerified, State::Unknown, word(reason), message))
}

/// `None` for the verdict: what is said now stays.
fn found(
    record: &Route,
    generation: i64,
    pods: &[Pod<'_>],
    current: &Status,
    now: Timestamp,
) -> (Option<Verdict>, Option<ProbeStatus>) {
    let said = conditions::get(&current.conditions, ConditionType::TLSVerified)
        .filter(|condition| condition.observed_generation == Some(generation));
    let known = current.probe.as_ref().filter(|_| said.is_some());
    // Results of the record as it is; a pod that lags speaks of another one.
    let fresh = |pod: &Pod<'_>| pod.found.is_some_and(|found| found.origin == record.origin);
    let mut results: Vec<(&str, &RouteProbe)> =
        pods.iter().filter(|pod| fresh(pod)).filter_map(|pod| Some((pod.name, pod.found?))).collect();
    results.sort_by_key(|(name, found)| (found.passed(), *name));
    // A pod that was just started again has not tested yet: what it found before is as good for so long.
    let before: Vec<&PodProbe> = known
        .iter()
        .flat_map(|known| &known.pods)
        .filter(|entry| pods.iter().any(|pod| pod.name == entry.name && !fresh(pod)))
        .collect();
    let Some((first, representative)) = results.first().copied() else {
        let untested = [Word::ProbeDisabled.as_str(), Word::NotTestedYet.as_str()];
        let verdict = match said.is_some_and(|said| !untested.contains(&said.reason.as_str())) {
            true => None,
            false => unknown(Reason::NotTestedYet, "its hosts are being tested"),
        };
        return (verdict, known.cloned());
    };
    let probe = picture(&results, &before, representative, known, now);

    let failed: Vec<&str> =
        results.iter().filter(|(_, found)| !found.passed()).map(|(name, _)| *name).collect();
    let kind = ConditionType::TLSVerified;
    let verdict = if !failed.is_empty() {
        let where_from = match failed.len() < probe.pods_tested as usize {
            true => format!(
                "from {} of {} pods ({}): ",
                failed.len(),
                probe.pods_tested,
                text::list(failed.iter().copied(), 5)
            ),
            false => String::new(),
        };
        let message = format!("{where_from}{}", representative.message);
        Some(Verdict::new(kind, State::False, word(representative.reason), message))
    } else if before.iter().any(|entry| !passes(&entry.reason)) {
        // The pod that failed is being started again: wait for what it says then.
        None
    } else {
        let verified = said.is_some_and(|said| said.status == State::True.as_str());
        let missing = pods
            .iter()
            .any(|pod| pod.counts && !fresh(pod) && !before.iter().any(|entry| entry.name == pod.name));
        match missing && !verified {
            true => {
                let message = format!("its hosts pass from {first}; other pods are still testing");
                unknown(Reason::NotTestedYet, &message)
            }
            false => {
                let weakest = results.iter().find(|(_, found)| found.reason == Reason::Unauthenticated);
                let found = weakest.map_or(representative, |(_, found)| found);
                let message = format!("{}{}", found.message, expiring(&probe.hosts));
                Some(Verdict::new(kind, State::True, word(found.reason), message))
            }
        }
    };
    (verdict, Some(probe))
}

fn picture(
    results: &[(&str, &RouteProbe)],
    before: &[&PodProbe],
    representative: &RouteProbe,
    known: Option<&ProbeStatus>,
    now: Timestamp,
) -> ProbeStatus {
    let mut pods: Vec<PodProbe> = results.iter().map(|(name, found)| of_pod(name, found)).collect();
    pods.extend(before.iter().map(|entry| (*entry).clone()));
    pods.sort_by_key(|entry| (passes(&entry.reason), entry.name.clone()));
    let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    let mut picture = ProbeStatus {
        since: known.and_then(|known| known.since),
        pods_tested: count(pods.len()),
        pods_passed: count(pods.iter().filter(|entry| passes(&entry.reason)).count()),
        hosts: representative.hosts.iter().take(MAX_HOSTS).map(|host| of_host(host, now)).collect(),
        pods: Vec::new(),
    };
    pods.truncate(MAX_PODS);
    picture.pods = pods;
    if known != Some(&picture) {
        picture.since = Some(match known {
            // Only another day, or another pod: it has been so for longer.
            Some(known) if same_finding(known, &picture) => known.since.unwrap_or(representative.since),
            _ => representative.since,
        });
    }
    picture
}

/// Whether the hosts are as they were, but for the day.
fn same_finding(one: &ProbeStatus, two: &ProbeStatus) -> bool {
    let timeless = |probe: &ProbeStatus| {
        let mut hosts = probe.hosts.clone();
        hosts.iter_mut().flat_map(|host| &mut host.certificate).for_each(|facts| facts.days_left = 0);
        hosts
    };
    timeless(one) == timeless(two)
}

fn of_pod(name: &str, found: &RouteProbe) -> PodProbe {
    let failed = found.hosts.iter().filter(|host| !host.passed());
    PodProbe {
        name: name.to_owned(),
        reason: found.reason.to_string(),
        failed: failed.take(MAX_HOSTS).map(|host| format!("{}:{}", host.host, host.port)).collect(),
    }
}

fn of_host(host: &HostProbe, now: Timestamp) -> HostStatus {
    HostStatus {
        host: host.host.clone(),
        port: host.port,
        reason: host.reason.to_string(),
        addresses: host.addresses.iter().take(MAX_LIST).cloned().collect(),
        tls_version: host.tls.as_ref().map(|tls| cut(&tls.version, 64)),
        cipher: host.tls.as_ref().map(|tls| cut(&tls.cipher, 128)),
        certificate: host.certificate.as_ref().map(|facts| CertificateStatus {
            subject: cut(&facts.subject, 256),
            names: facts.names.iter().map(|name| cut(name, 256)).collect(),
            issuer: cut(&facts.issuer, 256),
            not_after: Some(facts.not_after),
            days_left: facts.days_left(now),
        }),
        extensions: host.extensions.iter().take(MAX_KEYWORDS).map(|word| cut(word, 256)).collect(),
    }
}

/// As long as the schema allows, counted as the API server counts.
fn cut(text: &str, most: usize) -> String {
    text.chars().take(most).collect()
}

fn passes(reason: &str) -> bool {
    let known = Reason::ALL.iter().find(|known| known.as_str() == reason);
    known.is_some_and(|known| known.passed() == Some(true))
}

/// The nearest of the days on which people are warned; `None`: there is time.
pub fn days_of_warning(days_left: i64) -> Option<i64> {
    [1, 7, 21].into_iter().find(|&days| days_left < days)
}

/// The certificate that expires first, if that is soon: how soon, whose, when.
pub fn soonest(hosts: &[HostStatus]) -> Option<(i64, String, Timestamp)> {
    let dated = hosts.iter().filter_map(|host| {
        let facts = host.certificate.as_ref()?;
        Some((facts.days_left, format!("{}:{}", host.host, host.port), facts.not_after?))
    });
    let (days, host, at) = dated.min_by_key(|(_, _, at)| *at)?;
    Some((days_of_warning(days)?, host, at))
}

/// The same in words that stay the same until the next of those days.
fn expiring(hosts: &[HostStatus]) -> String {
    match soonest(hosts) {
        None => String::new(),
        Some((days, host, at)) => format!(". {}", warning(days, &host, at)),
    }
}

pub fn warning(days: i64, host: &str, at: Timestamp) -> String {
    let days = if days == 1 { "1 day".to_owned() } else { format!("{days} days") };
    format!(
        "The certificate of {host} expires within {days}, at {at}: have it renewed, or mail over this route will be \
         returned"
    )
}

/// The word of a condition for how a test ended.
fn word(reason: Reason) -> Word {
    match reason {
        Reason::Verified => Word::Verified,
        Reason::Unauthenticated => Word::Unauthenticated,
        Reason::ResolveFailed => Word::ResolveFailed,
        Reason::ConnectFailed => Word::ConnectFailed,
        Reason::EhloFailed => Word::EhloFailed,
        Reason::StartTlsNotOffered => Word::StartTlsNotOffered,
        Reason::HandshakeFailed => Word::HandshakeFailed,
        Reason::CertUntrusted => Word::CertUntrusted,
        Reason::CertNameMismatch => Word::CertNameMismatch,
        Reason::CertExpired => Word::CertExpired,
        Reason::AuthFailed => Word::AuthFailed,
        Reason::ProbeDisabled => Word::ProbeDisabled,
        Reason::NotTestedYet => Word::NotTestedYet,
    }
}

#[cfg(test)]
mod tests;
