//! A pod that is to go hands its mail over (spec R158, R162; design decision 10): to the letter, whatever dies in the
//! middle. Processes instead of pods, this test as their controller.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use postern::bundle::Bundle;

use crate::kill::{client, number_from};
use crate::support::client::{Client, send};
use crate::support::inbox::Inbox;
use crate::support::pods::{Pods, https, papers};
use crate::support::{tell, wait_for};

/// Everything to one sink; mail with the word `held` in it is held.
fn bundle(sink: &Inbox) -> Bundle {
    let origin = |kind: &str, name: &str| serde_json::json!({"kind": kind, "namespace": "ns", "name": name, "uid": "u-1", "generation": 1});
    serde_json::from_value(serde_json::json!({
        "gateway": {
            "origin": origin("OutboundGateway", "default"),
            "hostname": "gw.solarmora.com",
            "domains": ["solarmora.com"],
            "listeners": [{"name": "smtp", "port": 2525, "tls": "Optional", "certificate": null}],
            "clients": ["127.0.0.0/8"],
            "allow_foreign_senders": false,
            "default_route": {"Host": {"host": "127.0.0.1", "port": sink.address.port()}},
            "limits": {"message_size": 4194304, "recipients": 100, "connections": 100, "connections_per_client": 100},
            "notices": {"from": null, "route": null},
        },
        "routes": [],
        "rules": [{
            "origin": origin("ComplianceRule", "word"),
            "description": "a word",
            "priority": 500,
            "created": null,
            "messages": ["Outbound"],
            "envelope": {"senders": null, "recipients": null},
            "content": {
                "words": ["held"],
                "word_options": {"ignore_accents": false, "confusables": "MixedScript", "turkish": false, "substrings": []},
                "search_html_source": false,
                "expressions": [],
                "combine": "Any",
            },
            "on_scan_limit": "TreatAsMatch",
            "action": {"Quarantine": {"quarantine": null, "notify_sender": false}},
            "broken": null,
        }],
    }))
    .expect("the bundle's wire format is as written here")
}

fn letter(subject: &str, body: &str) -> String {
    format!("From: a@solarmora.com\r\nSubject: {subject}\r\n\r\n{body}\r\n")
}

fn subjects(sink: &Inbox) -> BTreeMap<String, usize> {
    let mut copies: BTreeMap<String, usize> = BTreeMap::new();
    for mail in sink.mail() {
        *copies.entry(mail.header("Subject").unwrap_or_default()).or_default() += 1;
    }
    copies
}

/// Mail that waits is due again at once.
fn deliver(pods: &Pods, number: usize) {
    pods.command(number, &["queue", "retry", "--all"]);
}

#[test]
fn r158_a_leaving_pod_hands_over_what_it_has_and_then_says_that_it_is_empty() {
    let sink = Inbox::start();
    let mut pods = Pods::start("handover", 3, bundle(&sink));
    sink.set_busy(true);
    let gone = pods.all[2].smtp;
    let mut session = Client::hello(gone);
    for n in 0..300 {
        // Sizes on both sides of what the spool keeps in its log.
        let body = "0123456789 abcdefghij klmnopqrst\r\n".repeat(if n % 50 == 7 { 20_000 } else { n % 60 });
        let to: &[&str] =
            if n % 3 == 0 { &["b@partner.example", "c@partner.example"] } else { &["b@partner.example"] };
        let reply =
            session.send("a@solarmora.com", to, &letter(&format!("m-{n}"), &body)).expect("it is taken");
        assert!(reply.starts_with("250"), "{reply}");
    }
    for n in 0..5 {
        let reply =
            send(gone, "a@solarmora.com", &["b@partner.example"], &letter(&format!("h-{n}"), "it is held"));
        assert!(reply.starts_with("250"), "{reply}");
    }
    wait_for("some were attempted", Duration::from_secs(30), || {
        (pods.metric(2, "postern_deliveries_total", "deferred") > 100).then_some(())
    });
    let held_before = pods.command(2, &["quarantine", "list", "-o", "json"]);
    pods.command(2, &["queue", "pause", "--domain", "elsewhere.example"]);

    pods.publish(&["gw-1", "gw-2"]);
    let handed_over = pods.wait_empty(2);
    pods.wait_empty(1);
    assert_eq!(handed_over, 305);
    assert_eq!(pods.metric(2, "postern_handover_messages_total", "out"), 305);
    assert_eq!(pods.metric(0, "postern_handover_messages_total", "in"), 305);
    assert_eq!(pods.queued(0), 305, "one that leaves itself takes nothing");
    let greeting = Client::connect(gone).expect("it answers").greeting;
    assert!(greeting.starts_with("421 4.3.2"), "{greeting}");

    // Held mail keeps its names, what was paused stays paused.
    let held = |text: &str| {
        let page: serde_json::Value =
            serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"));
        let rows = page["messages"].as_array().or(page.as_array()).expect("a list").clone();
        rows.iter().map(|row| row["id"].as_str().expect("an id").to_owned()).collect::<BTreeSet<_>>()
    };
    let held_after = pods.command(0, &["quarantine", "list", "-o", "json"]);
    assert_eq!(held(&held_before).len(), 5);
    assert_eq!(held(&held_before), held(&held_after));
    assert!(pods.command(0, &["queue", "list"]).contains("elsewhere.example"));

    // It goes for good, with its volume; nothing is missing and nothing is there twice.
    pods.terminate(2);
    pods.wait_ended(2);
    std::fs::remove_dir_all(pods.folder.0.join("spool-gw-2")).expect("the claim is deleted");
    sink.set_busy(false);
    deliver(&pods, 0);
    wait_for("what waited is delivered", Duration::from_secs(60), || (pods.queued(0) == 5).then_some(()));
    let copies = subjects(&sink);
    assert_eq!(copies.len(), 300);
    // Both recipients in one transaction or in two, but each once.
    let recipients: usize = sink.mail().iter().map(|mail| mail.to.len()).sum();
    assert_eq!(recipients, 400);
}

#[test]
fn r158_scaled_up_again_in_the_middle_a_pod_stays_and_takes_mail() {
    let sink = Inbox::start();
    let mut pods = Pods::start("stays", 2, bundle(&sink));
    pods.publish(&["gw-1"]);
    pods.wait_empty(1);
    pods.publish(&[]);
    pods.wait_running(1);
    assert!(pods.ack(1).expect("it answers").leaving.is_none());
    let to = pods.all[1].smtp;
    wait_for("it takes mail again", Duration::from_secs(10), || {
        let reply = Client::connect(to).ok()?.greeting;
        reply.starts_with("220").then_some(())
    });
    let reply = send(to, "a@solarmora.com", &["b@partner.example"], &letter("again", "x"));
    assert!(reply.starts_with("250"), "{reply}");
    sink.wait(1);
    // And once more: the word of the first time does not count.
    sink.set_busy(true);
    assert!(send(to, "a@solarmora.com", &["b@partner.example"], &letter("more", "x")).starts_with("250"));
    pods.publish(&["gw-1"]);
    assert_eq!(pods.wait_empty(1), 1);
    assert_eq!(pods.queued(0), 1);
}

#[test]
fn r158_without_a_peer_a_leaving_pod_delivers_and_says_why_it_stays() {
    let sink = Inbox::start();
    let mut pods = Pods::start("alone", 2, bundle(&sink));
    sink.set_busy(true);
    let to = pods.all[1].smtp;
    assert!(send(to, "a@solarmora.com", &["b@partner.example"], &letter("one", "x")).starts_with("250"));
    pods.publish(&["gw-0", "gw-1"]);
    let problem = wait_for("it says why", Duration::from_secs(30), || pods.ack(1)?.leaving?.problem);
    assert!(problem.contains("gw-0: this pod is to leave itself"), "{problem}");
    sink.set_busy(false);
    deliver(&pods, 1);
    sink.wait(1);
    assert_eq!(pods.wait_empty(1), 0);
}

#[test]
fn r162_a_pod_whose_volume_dies_with_it_hands_over_before_it_ends() {
    let sink = Inbox::start();
    let mut pods = Pods::start("exit", 2, bundle(&sink));
    pods.kill(1);
    pods.run(1, &["--hand-over-on-exit", "60"]);
    pods.wait_running(1);
    sink.set_busy(true);
    let mut session = Client::hello(pods.all[1].smtp);
    for n in 0..100 {
        let reply = session.send("a@solarmora.com", &["b@partner.example"], &letter(&format!("m-{n}"), "x"));
        assert!(reply.expect("it is taken").starts_with("250"));
    }
    drop(session);
    pods.terminate(1);
    pods.wait_ended(1);
    assert_eq!(pods.queued(0), 100);
    assert!(!pods.log().contains("lost with the volume"));
    sink.set_busy(false);
    deliver(&pods, 0);
    assert_eq!(sink.wait(100).len(), 100);
}

#[test]
fn the_control_port_shows_a_peer_no_more_than_the_hand_over_and_a_stranger_nothing() {
    let sink = Inbox::start();
    let pods = Pods::start("door", 1, bundle(&sink));
    let today = Timestamp::now().to_zoned(TimeZone::UTC).date();
    let client = |namespace: &str, gateway: &str| {
        let pair = pods.authority.for_gateway(namespace, gateway, today).expect("made");
        let name = format!("papers-{namespace}-{gateway}");
        papers(&pods.folder, &name, &pair, &pods.authority);
        postern::gateway::papers::Papers::read(&pods.folder.0.join(name))
            .expect("readable")
            .client()
            .expect("usable")
    };
    let at = pods.all[0].control;
    let peer = client("ns", "default");
    assert_eq!(https(at, &peer, "GET /handover").map(|(status, _)| status), Some(200));
    for path in ["GET /ack", "GET /queue", "GET /quarantine", "POST /bundle", "GET /status"] {
        assert_eq!(https(at, &peer, path).map(|(status, _)| status), Some(404), "{path}");
    }
    for (namespace, gateway) in [("ns", "other"), ("other", "default")] {
        assert_eq!(https(at, &client(namespace, gateway), "GET /handover"), None, "{namespace}/{gateway}");
    }
    assert_eq!(pods.ask(0, "GET /handover").map(|(status, _)| status), Some(200));
}

/// `POSTERN_KILLS`: that many instead of 24. The next hop takes nothing until the end, so that whatever comes twice
/// comes from a hand-over.
#[test]
fn r158_kills_of_either_side_of_a_hand_over_lose_nothing_and_double_nothing() {
    let kills = number_from("POSTERN_KILLS", 24);
    let sink = Inbox::start();
    let mut pods = Pods::start("torn", 2, bundle(&sink));
    sink.set_busy(true);
    let accepted = Arc::new(Mutex::new(BTreeSet::new()));
    let (mut handed_over, mut interrupted) = (0, 0);
    for round in 0..kills {
        // Who leaves takes mail first; the other one in the next round.
        let (leaver, stayer) = (round % 2, 1 - round % 2);
        let stop = Arc::new(AtomicBool::new(false));
        let clients: Vec<_> = (0..4)
            .map(|number| {
                let (stop, accepted, smtp) =
                    (Arc::clone(&stop), Arc::clone(&accepted), pods.all[leaver].smtp);
                std::thread::spawn(move || client(number, round, smtp, &stop, &accepted))
            })
            .collect();
        std::thread::sleep(Duration::from_millis(250));
        let name = pods.all[leaver].name.clone();
        pods.publish(&[&name]);
        // A moment that differs from round to round: not waiting for anything, but where the axe falls.
        let moment = Duration::from_millis(20 + (97 * round as u64) % 700);
        std::thread::sleep(moment);
        let victim = if round % 3 == 0 { stayer } else { leaver };
        pods.kill(victim);
        if round % 5 == 4 {
            // Both: neither remembers anything but what its disk does.
            pods.kill(1 - victim);
            pods.run(1 - victim, &[]);
        }
        interrupted += usize::from(
            std::fs::read(pods.folder.0.join(format!("spool-{name}/handover.json")))
                .is_ok_and(|text| text.len() > 2),
        );
        stop.store(true, Ordering::Relaxed);
        clients.into_iter().for_each(|client| client.join().expect("no client panicked"));
        pods.run(victim, &[]);
        handed_over += pods.wait_empty(leaver);
        pods.publish(&[]);
        (0..2).for_each(|number| pods.wait_running(number));
        assert_eq!(pods.metric(leaver, "postern_handover_doubts", ""), 0);
    }
    sink.set_busy(false);
    let waiting = pods.queued(0) + pods.queued(1);
    for number in 0..2 {
        deliver(&pods, number);
        wait_for("the spool is empty", Duration::from_secs(180), || (pods.queued(number) == 0).then_some(()));
    }
    let copies = subjects(&sink);
    let accepted = accepted.lock().expect("no client panicked");
    let lost: Vec<_> = accepted.iter().filter(|subject| !copies.contains_key(*subject)).collect();
    let doubled: usize = copies.values().map(|count| count - 1).sum();
    tell(&format!(
        "{kills} kills around a hand-over ({interrupted} within a batch): accepted {}, handed over {handed_over}, \
         waiting at the end {waiting}, lost {}, duplicates {doubled}",
        accepted.len(),
        lost.len()
    ));
    assert!(accepted.len() > kills * 5, "too little mail to mean anything: {}", accepted.len());
    assert!(lost.is_empty(), "lost: {lost:?}");
    assert_eq!(doubled, 0);
}
