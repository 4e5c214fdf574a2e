use super::*;
use crate::bundle::document::{HostPort, ObjectId, ObjectKind, Origin, RouteTls, WeightedHost};
use crate::bundle::probe::{CertificateFacts, Mark, Stage, Step, TlsFacts};
use crate::controller::status::{Tone, news};

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

const NOW: &str = "2026-11-22T10:00:00Z";

fn origin() -> Origin {
    let object = ObjectId { kind: ObjectKind::OutboundRoute, namespace: "mail".into(), name: "relay".into() };
    Origin { object, uid: "u".into(), generation: 3 }
}

fn record() -> Route {
    let host = HostPort { host: "mx.example.org".into(), port: 25 };
    let primary = vec![WeightedHost { at: host, weight: None }];
    let target = RouteTarget::Hosts { primary, secondary: Vec::new() };
    Route { probe_seconds: Some(900), ..Route::new(origin(), target, RouteTls::opportunistic()) }
}

fn host(reason: Reason) -> HostProbe {
    let result = if reason.passed() == Some(true) { Mark::Passed } else { Mark::Failed };
    let step = |millis| Step {
        stage: Stage::Connect,
        result,
        demanded: true,
        millis,
        text: String::new(),
        advice: Vec::new(),
    };
    HostProbe {
        host: "mx.example.org".into(),
        port: 25,
        addresses: vec!["192.0.2.10".into()],
        address: Some("192.0.2.10".into()),
        reason,
        text: String::new(),
        advice: Vec::new(),
        effect: String::new(),
        steps: vec![step(7)],
        tls: Some(TlsFacts { version: "TLSv1.3".into(), cipher: "TLS13_AES_256_GCM_SHA384".into() }),
        certificate: Some(CertificateFacts {
            subject: "CN=mx.example.org".into(),
            names: vec!["mx.example.org".into()],
            issuer: "CN=R12".into(),
            not_before: at("2026-10-01T00:00:00Z"),
            not_after: at("2027-01-20T10:00:00Z"),
        }),
        extensions: vec!["PIPELINING".into()],
        code: None,
    }
}

fn result(reason: Reason) -> RouteProbe {
    RouteProbe {
        origin: origin(),
        since: at("2026-11-22T09:00:00Z"),
        tested_at: at("2026-11-22T09:59:59Z"),
        reason,
        message: match reason.passed() {
            Some(true) => "mx.example.org:25: fine".into(),
            _ => "mx.example.org:25: Could not validate certificate: x\nEffect: y\nWhat helps:\n 1. z".into(),
        },
        hosts: vec![host(reason)],
    }
}

struct Given {
    record: Option<Route>,
    pods: Vec<(&'static str, bool, Option<RouteProbe>)>,
    before: Status,
    now: Timestamp,
}

impl Given {
    fn new(pods: Vec<(&'static str, Option<RouteProbe>)>) -> Self {
        let pods = pods.into_iter().map(|(name, found)| (name, true, found)).collect();
        Self { record: Some(record()), pods, before: Status::default(), now: at(NOW) }
    }

    fn status(&self) -> Status {
        let pods: Vec<Pod<'_>> = self
            .pods
            .iter()
            .map(|(name, counts, found)| Pod { name, counts: *counts, found: found.as_ref() })
            .collect();
        let outcome = Outcome::new(origin());
        show(self.before.clone(), &outcome, self.record.as_ref(), &pods, &self.before, self.now)
    }

    /// `True Verified: message`
    fn says(&self) -> String {
        let status = self.status();
        let condition = conditions::get(&status.conditions, ConditionType::TLSVerified).unwrap().clone();
        assert_eq!(condition.observed_generation, Some(3));
        format!("{} {}: {}", condition.status, condition.reason, condition.message)
    }
}

#[test]
fn r028_verified_is_said_when_every_serving_pod_has_tested_it() {
    let fine = || Some(result(Reason::Verified));
    let mut given = Given::new(vec![("p-0", fine()), ("p-1", None)]);
    assert_eq!(given.says(), "Unknown NotTestedYet: its hosts pass from p-0; other pods are still testing");
    // A pod that does not serve is not waited for.
    given.pods[1].1 = false;
    assert_eq!(given.says(), "True Verified: mx.example.org:25: fine");
    let given = Given::new(vec![("p-0", fine()), ("p-1", fine())]);
    assert_eq!(given.says(), "True Verified: mx.example.org:25: fine");
    let probe = given.status().probe.unwrap();
    assert_eq!((probe.pods_tested, probe.pods_passed, probe.pods.len()), (2, 2, 2));
    assert_eq!(Given::new(vec![("p-0", None)]).says(), "Unknown NotTestedYet: its hosts are being tested");
}

#[test]
fn r022_r028_one_pod_that_cannot_is_enough_and_is_named() {
    let mut given = Given::new(vec![
        ("p-0", Some(result(Reason::Verified))),
        ("p-1", Some(result(Reason::ConnectFailed))),
        ("p-2", None),
    ]);
    assert!(given.says().starts_with("False ConnectFailed: from 1 of 2 pods (p-1): mx.example.org:25: "));
    let probe = given.status().probe.unwrap();
    assert_eq!((probe.pods_tested, probe.pods_passed), (2, 1));
    assert_eq!((probe.pods[0].name.as_str(), probe.pods[0].reason.as_str()), ("p-1", "ConnectFailed"));
    assert_eq!(probe.pods[0].failed, ["mx.example.org:25"]);
    assert_eq!(probe.hosts[0].reason, "ConnectFailed");
    // From everywhere: no list of pods in the way of the cause.
    given.pods.truncate(1);
    given.pods[0].2 = Some(result(Reason::CertNameMismatch));
    assert!(given.says().starts_with("False CertNameMismatch: mx.example.org:25: Could not validate"));
}

#[test]
fn r022_facts_of_the_hosts_are_in_the_status() {
    let given = Given::new(vec![("p-0", Some(result(Reason::Verified)))]);
    let probe = given.status().probe.unwrap();
    let host = &probe.hosts[0];
    assert_eq!(host.addresses, ["192.0.2.10"]);
    assert_eq!(host.tls_version.as_deref(), Some("TLSv1.3"));
    let facts = host.certificate.as_ref().unwrap();
    assert_eq!((facts.days_left, facts.names.as_slice()), (59, ["mx.example.org".to_owned()].as_slice()));
    assert_eq!(host.extensions, ["PIPELINING"]);
    assert_eq!(probe.since, Some(at("2026-11-22T09:00:00Z")));
}

#[test]
fn nothing_is_written_for_a_test_that_found_the_same() {
    let mut given = Given::new(vec![("p-0", Some(result(Reason::Verified)))]);
    given.before = given.status();
    // Another test, another moment of the day, a pod that was started again.
    let mut again = result(Reason::Verified);
    again.tested_at = at("2026-11-22T20:00:00Z");
    again.since = at("2026-11-22T19:00:00Z");
    again.hosts[0].steps[0].millis = 99;
    given.pods[0].2 = Some(again);
    given.now = at("2026-11-22T20:00:00Z");
    let later = given.status();
    // Ten hours are half a day of the certificate: only that may differ.
    assert_eq!(later.conditions, given.before.conditions);
    given.now = at(NOW);
    assert_eq!(given.status(), given.before);
    given.pods[0].2 = None;
    assert_eq!(given.status(), given.before);
    // Nor after a restart of the controller, which knows nothing yet.
    given.pods.clear();
    assert_eq!(given.status().conditions, given.before.conditions);
}

#[test]
fn a_pod_that_failed_and_is_started_again_is_not_forgiven_before_it_has_tested() {
    let mut given = Given::new(vec![
        ("p-0", Some(result(Reason::Verified))),
        ("p-1", Some(result(Reason::ConnectFailed))),
    ]);
    given.before = given.status();
    given.pods[1].2 = None;
    assert!(given.says().starts_with("False ConnectFailed"), "{}", given.says());
    given.pods[1].2 = Some(result(Reason::Verified));
    assert_eq!(given.says(), "True Verified: mx.example.org:25: fine");
}

#[test]
fn a_new_generation_is_unknown_until_its_own_result_is_there() {
    let mut given = Given::new(vec![("p-0", Some(result(Reason::Verified)))]);
    let mut old = result(Reason::Verified);
    old.origin.generation = 2;
    given.pods[0].2 = Some(old);
    assert_eq!(given.says(), "Unknown NotTestedYet: its hosts are being tested");
}

#[test]
fn r028_what_is_not_tested_says_why() {
    let mut given = Given::new(vec![("p-0", None)]);
    given.record.as_mut().unwrap().probe_seconds = None;
    assert!(given.says().starts_with("Unknown ProbeDisabled: probe.mode is Disabled"));
    given.record = Some(Route { target: RouteTarget::RecipientMx, ..record() });
    assert!(given.says().starts_with("Unknown NotTestedYet: it names no host"));
    given.record = None;
    assert!(given.says().starts_with("Unknown NotTestedYet: no gateway runs it yet"));
}

#[test]
fn r015_a_peer_that_nobody_checks_is_said_to_be_unauthenticated() {
    let given = Given::new(vec![("p-0", Some(result(Reason::Unauthenticated)))]);
    assert!(given.says().starts_with("True Unauthenticated: "), "{}", given.says());
}

#[test]
fn r028_people_are_warned_21_7_and_1_days_before_and_told_once_each_time() {
    let mut given = Given::new(vec![("p-0", Some(result(Reason::Verified)))]);
    given.before = given.status();
    let mut told = Vec::new();
    // Every six hours from 25 days before the end.
    for step in 0..104 {
        let now = at("2026-12-26T10:00:00Z").checked_add(jiff::SignedDuration::from_hours(6 * step)).unwrap();
        if now >= at("2027-01-20T10:00:00Z") {
            break;
        }
        given.now = now;
        let after = given.status();
        if let Some(news) = news(&given.before, &after) {
            assert_eq!((news.tone, news.reason), (Tone::Bad, "CertificateExpiresSoon"));
            told.push(news.note);
        }
        given.before = after;
    }
    let days: Vec<_> =
        told.iter().map(|note| note.split(" within ").nth(1).unwrap().split(',').next().unwrap()).collect();
    assert_eq!(days, ["21 days", "7 days", "1 day"]);
    let says = given.says();
    assert!(
        says.contains("The certificate of mx.example.org:25 expires within 1 day, at 2027-01-20T10:00:00Z"),
        "{says}"
    );
}

#[test]
fn a_failed_test_and_its_repair_are_events() {
    let mut given = Given::new(vec![("p-0", Some(result(Reason::Verified)))]);
    let fine = given.status();
    given.pods[0].2 = Some(result(Reason::CertUntrusted));
    let bad = given.status();
    let told = news(&fine, &bad).unwrap();
    assert_eq!((told.tone, told.reason), (Tone::Bad, "CertUntrusted"));
    assert!(told.note.contains("Could not validate certificate"));
    assert_eq!(news(&bad, &bad), None);
    let told = news(&bad, &fine).unwrap();
    assert_eq!((told.tone, told.reason), (Tone::Good, "TLSVerified"));
}
