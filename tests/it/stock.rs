//! Clients that are not ours: swaks and Postfix's smtp-source.

use std::process::Command;
use std::time::{Duration, Instant};

use crate::support::gateway::Standalone;
use crate::support::inbox::Inbox;
use crate::support::site::{OWN, PARTNER, Site};

fn run(
    program: &str,
    gateway: &Standalone,
    server: impl Fn(&str) -> Vec<String>,
    more: &[&str],
) -> (bool, String) {
    let address = gateway.smtp.to_string();
    let output = Command::new(program)
        .args(server(&address))
        .args(more)
        .output()
        .unwrap_or_else(|error| panic!("{program} cannot be started ({error}): run `make deps`"));
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    (output.status.success(), text.into_owned())
}

fn swaks(gateway: &Standalone, more: &[&str]) -> (bool, String) {
    let server = |address: &str| {
        let (host, port) = address.split_once(':').unwrap();
        ["--server", host, "--port", port, "--ehlo", "client.solarmora.com", "--from", OWN, "--to", PARTNER]
            .map(str::to_owned)
            .to_vec()
    };
    run("swaks", gateway, server, more)
}

#[test]
fn swaks_sends_in_clear_under_tls_and_pipelined_and_sees_refusals() {
    let sink = Inbox::start();
    let site = Site::new("swaks", sink.address);
    site.add(
        "ComplianceRule",
        "word",
        "  messages: [Outbound]\n  match: {words: [rahasia]}\n  action: {reject: {notice: Not this word}}\n",
    );
    let gateway = site.start();
    for (n, more) in
        [["--pipeline"].as_slice(), &["--tls"], &["--tls", "--pipeline"], &["--protocol", "SMTP"]]
            .iter()
            .enumerate()
    {
        let (fine, transcript) = swaks(&gateway, more);
        assert!(fine && transcript.contains("250 2.0.0 Ok: queued as"), "{more:?}: {transcript}");
        assert_eq!(sink.wait(n + 1).len(), n + 1);
    }
    let (fine, transcript) = swaks(&gateway, &["--tls", "--body", "ini RAHASIA sekali"]);
    assert!(!fine && transcript.contains("550 5.7.1 Not this word"), "{transcript}");
    let (fine, transcript) = swaks(&gateway, &["--from", "x@elsewhere.example"]);
    assert!(!fine && transcript.contains("550 5.7.1 Relay access denied"), "{transcript}");
}

#[test]
fn smtp_source_hands_over_two_hundred_messages_in_five_sessions() {
    let sink = Inbox::start();
    let site = Site::new("smtp-source", sink.address);
    let gateway = site.start();
    let start = Instant::now();
    let server = |address: &str| vec![address.to_owned()];
    // Options come before the address: smtp-source reads them as POSIX says.
    let (fine, text) = {
        let more =
            ["-m", "200", "-s", "5", "-l", "4000", "-f", OWN, "-t", PARTNER, "-M", "client.solarmora.com"];
        let options = |address: &str| {
            let mut all: Vec<String> = more.map(str::to_owned).to_vec();
            all.extend(server(address));
            all
        };
        run("smtp-source", &gateway, options, &[])
    };
    assert!(fine && text.is_empty(), "{text}");
    gateway.wait_empty();
    let mail = sink.wait(200);
    assert_eq!(mail.len(), 200);
    assert!(mail.iter().all(|mail| mail.from == OWN && mail.to == [PARTNER] && mail.content.len() >= 4000));
    assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
}
