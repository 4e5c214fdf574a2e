use super::*;
use crate::bundle::probe::{CertificateFacts, Mark, Stage, Step, TlsFacts};

#[test]
fn hosts_are_read_as_people_write_them() {
    let read = |text: &str| address(text).map(|at| (at.host, at.port));
    let at = |host: &str, port: u16| Some((host.to_owned(), port));
    assert_eq!(read("mail.example.net"), at("mail.example.net", 25));
    assert_eq!(read("Mail.example.net:587"), at("mail.example.net", 587));
    assert_eq!(read("bücher.example:25"), at("xn--bcher-kva.example", 25));
    assert_eq!(read("192.0.2.1"), at("192.0.2.1", 25));
    assert_eq!(read("192.0.2.1:465"), at("192.0.2.1", 465));
    assert_eq!(read("2001:db8::1"), at("2001:db8::1", 25));
    assert_eq!(read("[2001:db8::1]:465"), at("2001:db8::1", 465));
    assert_eq!(read("[2001:db8::1]"), at("2001:db8::1", 25));
    for wrong in ["mail.example.net:0", "mail.example.net:x", "mail.example.net:70000", "", "a b"] {
        assert_eq!(read(wrong), None, "{wrong}");
    }
}

fn moment(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn step(stage: Stage, result: Mark, demanded: bool, millis: u64, text: &str) -> Step {
    Step { stage, result, demanded, millis, text: text.to_owned(), advice: Vec::new() }
}

fn mismatch() -> HostProbe {
    let names = ["mx1.example.org".to_owned(), "mx2.example.org".to_owned()];
    HostProbe {
        host: "mx.example.org".into(),
        port: 25,
        addresses: vec!["192.0.2.10".into(), "2001:db8::10".into()],
        address: Some("192.0.2.10".into()),
        reason: Reason::CertNameMismatch,
        text: "Could not validate certificate: name mismatch: wanted mx.example.org, certificate has \
               mx1.example.org, mx2.example.org"
            .into(),
        advice: probe::advice::certificate("mx.example.org", &names),
        effect: "Mail over this route is returned to its senders (5.7.5), even though the route is saved."
            .into(),
        steps: vec![
            step(Stage::Resolve, Mark::Passed, true, 4, "192.0.2.10, 2001:db8::10"),
            step(Stage::Connect, Mark::Passed, true, 12, "192.0.2.10:25"),
            step(
                Stage::Ehlo,
                Mark::Passed,
                true,
                31,
                "mx1.example.org ESMTP Postfix; offers PIPELINING, SIZE 52428800, ETRN, AUTH PLAIN LOGIN, \
                 ENHANCEDSTATUSCODES, 8BITMIME, DSN, SMTPUTF8, CHUNKING",
            ),
            step(Stage::StartTls, Mark::Passed, true, 0, "offered"),
            step(Stage::Handshake, Mark::Passed, true, 22, "TLSv1.3, TLS13_AES_256_GCM_SHA384"),
            step(
                Stage::ChainTrusted,
                Mark::Passed,
                true,
                0,
                "signed by C=US, O=Let's Encrypt, CN=R12, valid until 2027-01-20T10:00:00Z",
            ),
            step(
                Stage::HostnameMatches,
                Mark::Failed,
                true,
                0,
                "name mismatch: wanted mx.example.org, certificate has mx1.example.org, mx2.example.org",
            ),
            step(Stage::Auth, Mark::Skipped, false, 0, "the route has no credentials"),
            step(Stage::Recipient, Mark::Skipped, false, 0, "not reached"),
        ],
        tls: Some(TlsFacts { version: "TLSv1.3".into(), cipher: "TLS13_AES_256_GCM_SHA384".into() }),
        certificate: Some(CertificateFacts {
            subject: "CN=mx1.example.org".into(),
            names: names.to_vec(),
            issuer: "C=US, O=Let's Encrypt, CN=R12".into(),
            not_before: moment("2026-10-22T10:00:00Z"),
            not_after: moment("2027-01-20T10:00:00Z"),
        }),
        extensions: vec!["PIPELINING".into()],
        code: None,
    }
}

fn answer(target: &str, hosts: Vec<HostProbe>) -> Answer {
    let object = ObjectId { kind: ObjectKind::OutboundRoute, namespace: "mail".into(), name: "relay".into() };
    let origin = Origin { object, uid: "u".into(), generation: 1 };
    let found = probe::advice::sum_up(&origin, hosts, moment("2026-11-22T10:00:00Z")).unwrap();
    Answer::new(target.to_owned(), found)
}

fn compare(name: &str, answer: &Answer) {
    let file = format!("{}/tests/golden/probe/{name}.txt", env!("CARGO_MANIFEST_DIR"));
    let text = words::text(answer, moment("2026-11-22T10:00:00Z"));
    if std::env::var_os("UPDATE").is_some() {
        std::fs::create_dir_all(Path::new(&file).parent().unwrap()).unwrap();
        std::fs::write(&file, &text).unwrap();
    }
    let known = std::fs::read_to_string(&file).unwrap_or_default();
    assert_eq!(text, known, "{name}: UPDATE=1 rewrites it");
    assert!(text.lines().all(|line| line.chars().count() <= 100 || !line.trim().contains(' ')), "{text}");
}

#[test]
fn r029_what_is_printed_reads_well() {
    compare("name-mismatch", &answer("mx.example.org", vec![mismatch()]));
    let fine = HostProbe {
        host: "relay.example.net".into(),
        reason: Reason::Verified,
        text: "TLSv1.3, certificate valid until 2027-01-20T10:00:00Z".into(),
        advice: Vec::new(),
        effect: "Mail over this route leaves over verified TLS.".into(),
        steps: mismatch()
            .steps
            .into_iter()
            .map(|step| match step.stage {
                Stage::HostnameMatches => Step {
                    result: Mark::Passed,
                    text: "relay.example.net is on the certificate".into(),
                    ..step
                },
                Stage::Recipient => Step { text: "no recipient was given".into(), ..step },
                _ => step,
            })
            .collect(),
        ..mismatch()
    };
    compare("verified", &answer("mail/relay", vec![fine.clone()]));
    compare("one-of-two", &answer("mail/relay", vec![fine.clone(), mismatch()]));
    let dead = HostProbe {
        address: Some("2001:db8::10".into()),
        host: "2001:db8::10".into(),
        reason: Reason::ConnectFailed,
        text: "The mail server 2001:db8::10 could not be reached: [2001:db8::10]:25: no answer in time".into(),
        advice: vec![
            "Allow connections from the gateway's pods to port 25: a firewall or a NetworkPolicy drops them, or the \
             host is down."
                .into(),
        ],
        effect: "Mail over this route waits and is tried again; what is still there after 120h is returned to its \
                 senders, even though the route is saved."
            .into(),
        steps: [
            (Stage::Resolve, Mark::Passed, 0, "an address already"),
            (Stage::Connect, Mark::Failed, 8003, "[2001:db8::10]:25: no answer in time"),
            (Stage::Ehlo, Mark::Skipped, 0, "not reached"),
            (Stage::StartTls, Mark::Skipped, 0, "not reached"),
            (Stage::Handshake, Mark::Skipped, 0, "not reached"),
            (Stage::ChainTrusted, Mark::Skipped, 0, "not reached"),
            (Stage::HostnameMatches, Mark::Skipped, 0, "not reached"),
            (Stage::Auth, Mark::Skipped, 0, "the route has no credentials"),
            (Stage::Recipient, Mark::Skipped, 0, "not reached"),
        ]
        .into_iter()
        .map(|(stage, mark, millis, text)| step(stage, mark, true, millis, text))
        .collect(),
        tls: None,
        certificate: None,
        extensions: Vec::new(),
        ..mismatch()
    };
    compare("unreachable", &answer("2001:db8::10", vec![dead]));
}

#[test]
fn r029_the_json_is_stable_and_reads_back() {
    let given = answer("mx.example.org", vec![mismatch()]);
    let text = words::json(&given);
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&value["version"], &value["passed"]), (&1.into(), &false.into()));
    assert_eq!(value["reason"], "CertNameMismatch");
    let host = &value["hosts"][0];
    assert_eq!(
        (&host["steps"][6]["stage"], &host["steps"][6]["result"]),
        (&"HostnameMatches".into(), &"failed".into())
    );
    assert_eq!(host["certificate"]["notAfter"], "2027-01-20T10:00:00Z");
    assert_eq!(host["tls"]["version"], "TLSv1.3");
    let back: Answer = serde_json::from_str(&text).unwrap();
    assert_eq!(words::json(&back), text);
}
