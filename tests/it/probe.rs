//! The TLS test of routes, from outside: the command against hosts and folders, the running gateway that tests by
//! itself and says what it found, and what its finding means for mail (spec R19, R23-R29, E9).

use std::process::{Command, Output};
use std::time::Duration;

use serde_json::Value;

use crate::support::client::send;
use crate::support::gateway::{POSTERN, Standalone, condition};
use crate::support::inbox::Inbox;
use crate::support::sink::{Action, Authority, Behaviour, Sink, say};
use crate::support::site::{OWN, PARTNER, Site, message};
use crate::support::{wait, wait_for};

const ROUTE: &str = "OutboundRoute/default/relay";
const CA: &str = "serverName: mx.example.org, caRef: {kind: ConfigMap, name: ca, key: ca.crt}";

fn probe(arguments: &[&str]) -> Output {
    Command::new(POSTERN).arg("probe").args(arguments).output().expect("postern starts")
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("no JSON: {}", text(output)))
}

fn reason(gateway: &Standalone) -> Option<String> {
    Some(condition(&gateway.status(ROUTE)?, "TLSVerified")?["reason"].as_str()?.to_owned())
}

fn wait_reason(gateway: &Standalone, wanted: &str) -> Value {
    wait_for(&format!("TLSVerified says {wanted}"), Duration::from_secs(30), || {
        let status = gateway.status(ROUTE)?;
        (condition(&status, "TLSVerified")?["reason"] == wanted).then_some(status)
    })
}

/// A folder with one route to this sink, whose certificate must be for mx.example.org.
fn site(name: &str, sink: &Sink, authority: &Authority) -> Site {
    let site = Site::new(name, sink.address);
    site.ca("ca", &authority.pem());
    site.route("relay", sink.address, CA);
    site
}

#[test]
fn r019_r027_e9_a_route_that_fails_its_test_is_saved_says_so_with_both_names_and_returns_its_mail() {
    let authority = Authority::new();
    let sink = wait(Sink::start(Behaviour::with_tls(authority.server(&["mx1.example.org"]))));
    let notices = Inbox::start();
    let site = site("probe-e9", &sink, &authority);
    site.notices(notices.address);
    let gateway = site.start();

    let status = wait_reason(&gateway, "CertNameMismatch");
    let verdict = condition(&status, "TLSVerified").unwrap();
    assert_eq!(verdict["status"], "False");
    // Saved all the same.
    for kind in ["Accepted", "Programmed", "Ready"] {
        assert_eq!(condition(&status, kind).unwrap()["status"], "True", "{kind}");
    }
    let said = verdict["message"].as_str().unwrap();
    for part in [
        "Could not validate certificate: name mismatch: wanted mx.example.org, certificate has mx1.example.org",
        "Effect: Mail over this route is returned to its senders (5.7.5), even though the route is saved.",
        "1. If the mail server has more than one host name",
        "2. If you have access to the mail server",
        "3. If it is the mail relay of a third party",
        "4. Or switch off one or more of tls.require",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    let host = &status["probe"]["hosts"][0];
    assert_eq!(host["certificate"]["names"], serde_json::json!(["mx1.example.org"]));
    assert_eq!(host["addresses"], serde_json::json!(["127.0.0.1"]));
    assert_eq!(status["probe"]["pods"][0]["failed"][0], sink.address.to_string());
    let failing = "route=\"default/relay\",reason=\"CertNameMismatch\"";
    let (_, metrics) = gateway.get("/metrics").unwrap();
    assert!(metrics.contains(&format!("postern_route_tls_verified{{{failing}}} 0")), "{metrics}");

    // What it says is what happens.
    assert!(send(gateway.smtp, OWN, &[PARTNER], &message("names")).starts_with("250"));
    let report = notices.wait(1).remove(0).text().replace("=\r\n", "").replace("\r\n", " ");
    for part in ["Status: 5.7.5", "Could not validate certificate", "mx.example.org", "mx1.example.org"] {
        assert!(report.contains(part), "{part}: {report}");
    }

    // With the check off it is delivered, and said to be nobody in particular.
    site.route("relay", sink.address, &format!("{CA}, validateHostname: false"));
    let status = wait_reason(&gateway, "Unauthenticated");
    assert_eq!(condition(&status, "TLSVerified").unwrap()["status"], "True");
    assert!(send(gateway.smtp, OWN, &[PARTNER], &message("any-name")).starts_with("250"));
    assert!(wait(sink.wait_for(1))[0].tls);

    // And with the right certificate it is verified.
    site.route("relay", sink.address, &CA.replace("mx.example.org", "mx1.example.org"));
    let status = wait_reason(&gateway, "Verified");
    let facts = &status["probe"]["hosts"][0];
    assert_eq!(facts["tlsVersion"], "TLSv1.3");
    assert!(facts["certificate"]["daysLeft"].as_i64().unwrap() > 0, "{facts}");
    assert!(gateway.metric("postern_route_certificate_expiry_seconds", "default/relay") > 1_700_000_000);
    assert_eq!(gateway.metric("postern_route_tls_verified", "reason=\"Verified\""), 1);
    // The page of a person who looks, and the file for scripts.
    let (_, page) = gateway.get("/status").unwrap();
    let page: Value = serde_json::from_str(&page).unwrap();
    let routes = page["routes"].as_array().unwrap();
    assert!(routes.iter().any(|route| route["reason"] == "Verified"), "{page}");
    let file = site.folder.0.join("state/status.json");
    wait_for("status.json has it too", Duration::from_secs(10), || {
        std::fs::read_to_string(&file).ok()?.contains("\"Verified\"").then_some(())
    });
}

#[test]
fn r028_a_failed_delivery_brings_a_test_and_a_repair_is_seen() {
    let authority = Authority::new();
    let good = Behaviour::with_tls(authority.server(&["mx.example.org"]));
    let sink = wait(Sink::start(good.clone()));
    let site = site("probe-doubt", &sink, &authority);
    let gateway = site.start();
    wait_reason(&gateway, "Verified");
    let tests = gateway.metric("postern_route_probes", "");
    assert_eq!(tests, 1, "one test for a new route");

    // Broken from now on; nobody tests before mail fails, and then a test comes within the minute of rest.
    sink.behave(good.clone().on("CONNECT", say("554 5.3.2 closed for repairs")));
    assert!(send(gateway.smtp, OWN, &[PARTNER], &message("unlucky")).starts_with("250"));
    wait_for("a test after a failed delivery", Duration::from_secs(90), || {
        (reason(&gateway)? == "EhloFailed").then_some(())
    });
    let status = gateway.status(ROUTE).unwrap();
    let verdict = condition(&status, "TLSVerified").unwrap();
    assert!(verdict["message"].as_str().unwrap().contains("554 5.3.2 closed for repairs"), "{verdict}");

    // A person who has repaired it asks at once.
    sink.behave(good);
    let state = site.folder.0.join("state");
    let done = probe(&["relay", "--state", state.to_str().unwrap()]);
    assert!(done.status.success(), "{}", text(&done));
    wait_reason(&gateway, "Verified");
}

#[test]
fn r028_a_route_whose_tests_are_disabled_is_left_in_peace() {
    let authority = Authority::new();
    let sink = wait(Sink::start(Behaviour::with_tls(authority.server(&["mx.example.org"]))));
    let site = site("probe-off", &sink, &authority);
    site.add(
        "OutboundRoute",
        "relay",
        &format!(
            "  hosts: [{{host: 127.0.0.1, port: {}}}]\n  tls: {{{CA}}}\n  probe: {{mode: Disabled}}\n",
            sink.address.port()
        ),
    );
    let gateway = site.start();
    let status = wait_reason(&gateway, "ProbeDisabled");
    assert_eq!(condition(&status, "TLSVerified").unwrap()["status"], "Unknown");
    gateway.wait_condition(ROUTE, "Ready", "True");
    assert_eq!(sink.connections(), 0);
    // Asked for, it is tested.
    let state = site.folder.0.join("state");
    let done = probe(&["default/relay", "--state", state.to_str().unwrap(), "-o", "json"]);
    assert_eq!(json(&done)["reason"], "Verified");
    assert_eq!(sink.connections(), 1);
}

#[test]
fn r023_r029_the_command_tests_a_host_without_any_configuration() {
    let authority = Authority::new();
    let sink = wait(Sink::start(Behaviour::with_tls(authority.server(&["127.0.0.1"]))));
    let site = Site::new("probe-host", sink.address);
    let ca = site.folder.write("ca.pem", &authority.pem());
    let (at, ca) = (sink.address.to_string(), ca.to_str().unwrap().to_owned());

    let done = probe(&[&at, "--ca", &ca]);
    assert_eq!(done.status.code(), Some(0), "{}", text(&done));
    let said = text(&done);
    for part in ["PASSED Verified", "7 HostnameMatches ok", "names    127.0.0.1", "TLSv1.3, TLS13_"] {
        assert!(said.contains(part), "{part}: {said}");
    }

    // The same host without the CA.
    let done = probe(&[&at]);
    assert_eq!(done.status.code(), Some(1));
    assert!(
        text(&done).contains("Could not validate certificate: unknown issuer (CN=Test Authority)"),
        "{}",
        text(&done)
    );
    let done = probe(&[&at, "--ca", &ca, "--server-name", "mx.example.org", "-o", "json"]);
    assert_eq!(done.status.code(), Some(1));
    let found = json(&done);
    assert_eq!((&found["passed"], &found["reason"]), (&false.into(), &"CertNameMismatch".into()));
    assert_eq!(found["hosts"][0]["steps"].as_array().unwrap().len(), 9);

    // A recipient is asked for and no mail is sent.
    let done = probe(&[&at, "--ca", &ca, "--recipient", PARTNER, "--sender", OWN]);
    assert!(done.status.success(), "{}", text(&done));
    let commands = sink.commands();
    assert!(commands.iter().any(|line| line.starts_with(&format!("MAIL FROM:<{OWN}>"))), "{commands:?}");
    assert!(sink.mails().is_empty());

    // Wrong use is said as such.
    for arguments in [&["a b"][..], &["mx.example.org:0"], &["x", "--recipient", "nobody"]] {
        assert_eq!(probe(arguments).status.code(), Some(2), "{arguments:?}");
    }
}

#[test]
fn r023_r029_the_command_tests_a_route_of_a_folder_before_it_is_saved() {
    let authority = Authority::new();
    let sink = wait(Sink::start(Behaviour::with_tls(authority.server(&["mx1.example.org"]))));
    let site = site("probe-route", &sink, &authority);
    let config = site.folder.0.join("config");
    let config = config.to_str().unwrap();
    let done = probe(&["relay", config]);
    assert_eq!(done.status.code(), Some(1));
    assert!(text(&done).contains("FAILED CertNameMismatch"), "{}", text(&done));
    site.route("relay", sink.address, &CA.replace("mx.example.org", "mx1.example.org"));
    let done = probe(&["default/relay", config, "-o", "json"]);
    assert_eq!(done.status.code(), Some(0), "{}", text(&done));
    assert_eq!(json(&done)["target"], "default/relay");
    let done = probe(&["nosuch", config]);
    assert_eq!(done.status.code(), Some(1));
    assert!(text(&done).contains("it has default/relay"), "{}", text(&done));
    assert_eq!(probe(&["relay", "/nonexistent"]).status.code(), Some(64));
}

#[test]
fn r029_a_running_gateway_is_asked_by_token_or_socket_and_by_nobody_else() {
    let authority = Authority::new();
    let sink = wait(Sink::start(Behaviour::with_tls(authority.server(&["mx.example.org"]))));
    let site = site("probe-ask", &sink, &authority);
    let gateway = site.start();
    wait_reason(&gateway, "Verified");
    let (address, token) = (format!("http://{}", gateway.admin), site.folder.0.join("state/token"));
    let by_token = ["relay", "--gateway", &address, "--token", token.to_str().unwrap(), "-o", "json"];
    assert_eq!(json(&probe(&by_token))["passed"], true);
    let done = probe(&[&["nosuch"], &by_token[1..]].concat());
    assert_eq!(done.status.code(), Some(1));
    assert!(text(&done).contains("has no OutboundRoute nosuch"), "{}", text(&done));

    let wrong = site.folder.write("wrong", "no such token\n");
    let done = probe(&["relay", "--gateway", &address, "--token", wrong.to_str().unwrap()]);
    assert!(text(&done).contains("a token is needed"), "{}", text(&done));
    // What was found may be read by who may read /status; it holds no mail.
    let (status, page) = gateway.get("/probes?after=0").unwrap();
    let page: Value = serde_json::from_str(&page).unwrap();
    assert_eq!((status, page["routes"].as_array().unwrap().len()), (200, 1));
    let newest = page["tested"].as_u64().unwrap();
    let (_, page) = gateway.get(&format!("/probes?after={newest}")).unwrap();
    assert!(serde_json::from_str::<Value>(&page).unwrap()["routes"].as_array().unwrap().is_empty());
}

#[test]
fn a_host_that_never_answers_is_said_to_be_silent_and_holds_nobody_up() {
    let silent = wait(Sink::start(Behaviour::default().on("EHLO", Action::Hang)));
    let authority = Authority::new();
    let site = Site::new("probe-silent", silent.address);
    site.ca("ca", &authority.pem());
    site.route("relay", silent.address, CA);
    let gateway = site.start();
    gateway.wait_condition(ROUTE, "Ready", "True");
    assert_eq!(reason(&gateway).as_deref(), Some("NotTestedYet"));
    // Twenty seconds for EHLO.
    let status = wait_for("it is given up", Duration::from_secs(60), || {
        let status = gateway.status(ROUTE)?;
        (condition(&status, "TLSVerified")?["reason"] == "EhloFailed").then_some(status)
    });
    let said = condition(&status, "TLSVerified").unwrap()["message"].as_str().unwrap().to_owned();
    assert!(said.contains("did not answer in time at EHLO"), "{said}");
}
