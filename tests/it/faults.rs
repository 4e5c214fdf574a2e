//! What goes wrong on the way out or in the life of the process, and is made good (family E).

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::support::client::{Client, send};
use crate::support::gateway::Standalone;
use crate::support::inbox::Inbox;
use crate::support::sink::{Action, Behaviour, Sink, nobody, say};
use crate::support::site::{OWN, PARTNER, Site, message};
use crate::support::{wait, wait_for};

fn subject_of(content: &[u8]) -> String {
    let text = String::from_utf8_lossy(content);
    text.lines().find_map(|line| line.strip_prefix("Subject: ")).unwrap_or_default().to_owned()
}

/// E10, E11: each fault happens twice, then the next hop behaves.
#[test]
fn e10_e11_whatever_the_next_hop_breaks_at_is_tried_again_and_delivered_exactly() {
    let faults: Vec<(&str, Behaviour)> = vec![
        ("before the greeting", Behaviour::default().on_times("CONNECT", 2, Action::Close)),
        ("421 greeting", {
            let busy = Action::SayAndClose("421 4.3.2 busy".to_owned());
            Behaviour::default().on_times("CONNECT", 2, busy)
        }),
        ("hang-up at MAIL", Behaviour::default().on_times("MAIL", 2, Action::Close)),
        ("451 at MAIL", Behaviour::default().on_times("MAIL", 2, say("451 4.3.0 later"))),
        ("450 at RCPT", Behaviour::default().on_times("RCPT", 2, say("450 4.2.1 grey"))),
        ("451 at DATA", Behaviour::default().on_times("DATA", 2, say("451 4.3.0 later"))),
        ("421 at DATA", {
            let down = Action::SayAndClose("421 4.3.2 going down".to_owned());
            Behaviour::default().on_times("DATA", 2, down)
        }),
        ("hang-up instead of 354", Behaviour::default().on_times("DATA", 2, Action::Close)),
        ("hang-up in the content", Behaviour::default().on_times("CONTENT", 2, Action::Close)),
        ("hang-up after the dot", Behaviour::default().on_times("END", 2, Action::Close)),
        ("451 after the dot", Behaviour::default().on_times("END", 2, say("451 4.3.0 disk"))),
        ("421 after the dot", {
            let down = Action::SayAndClose("421 4.3.2 going down".to_owned());
            Behaviour::default().on_times("END", 2, down)
        }),
    ];
    let site = Site::new("next-hop-faults", wait(nobody()));
    let mut sinks = Vec::new();
    for (n, (_, behaviour)) in faults.iter().enumerate() {
        let sink = wait(Sink::start(behaviour.clone()));
        site.route(&format!("r{n}"), sink.address, "require: false");
        site.add(
            "RoutingRule",
            &format!("r{n}"),
            &format!(
                "  messages: [Outbound]
  envelope: {{recipients: {{address: r{n}@partner.example}}}}
  action: {{modify: {{route: {{name: r{n}}}}}}}
"
            ),
        );
        sinks.push(sink);
    }
    let gateway = site.start();
    // More than one segment of TCP, so that a hang-up in the content meets content on its way.
    let content =
        message("fault") + &"..a line that begins with dots\r\nand one that does not\r\n".repeat(4000);
    let mut client = Client::hello(gateway.smtp);
    for n in 0..faults.len() {
        let reply = client.send(OWN, &[&format!("r{n}@partner.example")], &content).unwrap();
        assert!(reply.starts_with("250"), "{reply}");
    }
    for (sink, (name, _)) in sinks.iter().zip(&faults) {
        let got = wait(sink.wait_for(1));
        assert_eq!(got.len(), 1, "{name}: one acknowledged delivery");
        assert!(got[0].content.ends_with(content.as_bytes()), "{name}: {} octets", got[0].content.len());
    }
    gateway.wait_empty();
    for (sink, (name, _)) in sinks.iter().zip(&faults) {
        assert_eq!(sink.accepted().len(), 1, "{name}: exactly once");
    }
    assert_eq!(gateway.metric("postern_deliveries", "result=\"delivered\""), faults.len() as u64);
    assert_eq!(gateway.metric("postern_deliveries", "result=\"failed\""), 0);
}

/// E13, E14.
#[test]
fn e13_e14_a_permanent_refusal_is_reported_once_and_a_report_never_bounces() {
    let refusing = Behaviour::default().on("END", say("554 5.6.0 no such thing here"));
    let (sink, notices) = (wait(Sink::start(refusing)), Inbox::start());
    let site = Site::new("permanent", sink.address);
    site.notices(notices.address);
    let gateway = site.start();
    assert!(send(gateway.smtp, OWN, &[PARTNER], &message("refused")).starts_with("250"));
    let report = notices.wait(1).remove(0);
    assert_eq!(report.from, "");
    for part in ["Status: 5.6.0", "no such thing here", "Action: failed", "Final-Recipient: rfc822"] {
        assert!(report.text().contains(part), "{part}: {}", report.text());
    }
    assert!(send(gateway.smtp, "", &[PARTNER], &message("report")).starts_with("250"));
    gateway.wait_empty();
    assert_eq!(notices.mail().len(), 1);
    assert_eq!(sink.mails().len(), 2, "each was tried once");
}

#[test]
fn e18_a_next_hop_that_is_dead_or_never_answers_holds_up_no_other_mail() {
    let silent = wait(Sink::start(Behaviour::default().on("CONNECT", Action::Hang)));
    let sink = wait(Sink::start(Behaviour::default()));
    let site = Site::new("dead-hop", sink.address);
    site.route("dead", wait(nobody()), "require: false");
    site.route("silent", silent.address, "require: false");
    for name in ["dead", "silent"] {
        site.add(
            "RoutingRule",
            name,
            &format!(
                "  messages: [Outbound]
  envelope: {{recipients: {{pattern: '.*@{name}\\.example'}}}}
  action: {{modify: {{route: {{name: {name}}}}}}}
"
            ),
        );
    }
    let gateway = site.start();
    let mut client = Client::hello(gateway.smtp);
    for n in 0..50 {
        for domain in ["dead.example", "silent.example"] {
            let reply = client.send(OWN, &[&format!("r{n}@{domain}")], &message("stuck")).unwrap();
            assert!(reply.starts_with("250"), "{reply}");
        }
    }
    let start = Instant::now();
    for n in 0..50 {
        let reply = client.send(OWN, &[PARTNER], &message(&format!("flows {n}"))).unwrap();
        assert!(reply.starts_with("250"), "{reply}");
    }
    assert_eq!(wait(sink.wait_for(50)).len(), 50);
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    wait_for("the rest waits", Duration::from_secs(10), || (gateway.queued() == 100).then_some(()));
}

/// E29: nothing comes from nowhere and nothing goes there.
#[test]
fn e29_what_was_accepted_is_delivered_returned_or_waiting_by_the_gateways_own_counters() {
    let behaviour = Behaviour::default()
        .on_times("RCPT TO:<later", 5, say("450 4.2.1 grey"))
        .on("RCPT TO:<gone", say("550 5.1.1 no such mailbox"))
        .on("RCPT TO:<waits", say("450 4.2.1 grey"));
    let (sink, notices) = (wait(Sink::start(behaviour)), Inbox::start());
    let site = Site::new("conservation", sink.address);
    site.notices(notices.address);
    site.add(
        "RoutingRule",
        "closed",
        "  messages: [Outbound]
  envelope: {recipients: {pattern: 'closed.*'}}
  action: {reject: {}}
",
    );
    let gateway = site.start();
    let mut client = Client::hello(gateway.smtp);
    let mut accepted = 0;
    for n in 0..60 {
        let to = match n % 6 {
            0 => vec!["fine@partner.example"],
            1 => vec!["fine@partner.example", "gone@partner.example"],
            2 => vec!["later@partner.example"],
            3 => vec!["closed@partner.example"],
            4 => vec!["fine@partner.example", "closed@partner.example", "closed2@partner.example"],
            _ => vec!["waits@partner.example"],
        };
        let reply = client.send(OWN, &to, &message(&format!("n{n}"))).unwrap();
        assert_eq!(reply.starts_with("250"), n % 6 != 3, "{reply}");
        accepted += u64::from(n % 6 != 3);
    }
    const WAITING: u64 = 10;
    wait_for("only what must wait waits", Duration::from_secs(20), || {
        (gateway.queued() == WAITING).then_some(())
    });
    let metric = |name: &str, result: &str| gateway.metric(name, &format!("result=\"{result}\""));
    assert_eq!(metric("postern_messages", "accepted"), accepted);
    assert_eq!(metric("postern_messages", "rejected"), 10);
    let taken = metric("postern_recipients", "accepted") + gateway.metric("postern_reports", "");
    let done = metric("postern_deliveries", "delivered") + metric("postern_deliveries", "failed");
    assert_eq!(taken, done + WAITING, "taken over = delivered + returned + waiting");
    assert_eq!(metric("postern_recipients", "accepted"), 60);
    assert_eq!(metric("postern_recipients", "rejected"), 20);
    // And the counters tell the truth.
    assert_eq!(metric("postern_deliveries", "failed"), 10);
    assert_eq!(gateway.metric("postern_reports", ""), 20);
    assert_eq!(notices.wait(20).len(), 20);
    let delivered: usize = sink.accepted().iter().map(|mail| mail.rcpts.len()).sum();
    assert_eq!(delivered as u64 + 20, metric("postern_deliveries", "delivered"));
}

fn load(number: usize, to: SocketAddr, stop: &AtomicBool, accepted: &Mutex<BTreeSet<String>>) {
    let mut count = 0;
    'connections: while !stop.load(Ordering::Relaxed) {
        let Ok(mut client) = Client::connect(to) else { return };
        if client.greeting.starts_with("421") || client.say("EHLO load.example").is_err() {
            return;
        }
        while !stop.load(Ordering::Relaxed) {
            count += 1;
            let subject = format!("s-{number}-{count}");
            // 1 to 200 kB.
            let content =
                message(&subject) + &"0123456789 0123456789 0123\r\n".repeat(40 + count * 997 % 7000);
            match client.send(OWN, &[PARTNER], &content) {
                Ok(reply) if reply.starts_with("250") => {
                    accepted.lock().unwrap().insert(subject);
                }
                Ok(reply) => {
                    assert!(reply.starts_with("421"), "{reply}");
                    continue 'connections;
                }
                Err(_) => continue 'connections,
            }
        }
    }
}

/// E3, R162.
#[test]
fn r162_e3_sigterm_under_load_ends_in_time_and_loses_nothing() {
    let sink = Inbox::start();
    let site = Site::new("sigterm", sink.address);
    let accepted = Mutex::new(BTreeSet::new());
    for round in 0..3 {
        let gateway = site.start();
        let stop = AtomicBool::new(false);
        let (smtp, had) = (gateway.smtp, accepted.lock().unwrap().len());
        std::thread::scope(|threads| {
            for number in 0..8 {
                let (stop, accepted) = (&stop, &accepted);
                threads.spawn(move || load(number + 10 * round, smtp, stop, accepted));
            }
            wait_for("there is load", Duration::from_secs(20), || {
                (accepted.lock().unwrap().len() >= had + 30 + 11 * round).then_some(())
            });
            let start = Instant::now();
            gateway.stop();
            let took = start.elapsed();
            stop.store(true, Ordering::Relaxed);
            assert!(took < Duration::from_secs(25), "{took:?}");
        });
    }
    let gateway = site.start();
    gateway.wait_empty();
    let mut copies: BTreeMap<String, usize> = BTreeMap::new();
    for mail in sink.mail() {
        *copies.entry(subject_of(&mail.content)).or_default() += 1;
    }
    let accepted = accepted.lock().unwrap();
    let lost: Vec<_> = accepted.iter().filter(|subject| !copies.contains_key(*subject)).collect();
    let twice = copies.values().filter(|count| **count > 1).count();
    crate::support::tell(&format!(
        "accepted {}, lost {}, delivered more than once {twice}",
        accepted.len(),
        lost.len()
    ));
    assert!(lost.is_empty(), "{lost:?}");
    assert_eq!(twice, 0, "an orderly end repeats nothing");
}

/// R162: whoever is in the middle of a message when SIGTERM comes may end it.
#[test]
fn r162_e3_a_transaction_that_is_open_when_sigterm_comes_gets_its_reply() {
    let sink = Inbox::start();
    let site = Site::new("sigterm-open", sink.address);
    let gateway = site.start();
    let mut client = Client::hello(gateway.smtp);
    let mut idle = Client::hello(gateway.smtp);
    client.say(&format!("MAIL FROM:<{OWN}>")).unwrap();
    client.say(&format!("RCPT TO:<{PARTNER}>")).unwrap();
    client.say("DATA").unwrap();
    let stopping = std::thread::spawn(move || gateway.stop());
    assert!(idle.reply().unwrap().starts_with("421 4.3.2"), "an idle session is told");
    assert!(client.data(message("last").as_bytes()).unwrap().starts_with("250"));
    drop((client, idle));
    stopping.join().unwrap();
    let gateway: Standalone = site.start();
    gateway.wait_empty();
    assert_eq!(sink.wait(1).len(), 1);
}
