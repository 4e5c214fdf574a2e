//! kill -9 under load (spec R158): what got 250 is delivered at least once, whatever moment the process died.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::support::client::Client;
use crate::support::gateway::{Folder, Standalone};
use crate::support::inbox::Inbox;
use crate::support::wait_for;

const CLIENTS: usize = 8;

/// How often, from the environment: `make soak` asks for more.
pub fn number_from(variable: &str, usual: usize) -> usize {
    std::env::var(variable).ok().map_or(usual, |text| text.parse().expect("a number"))
}

/// Subjects that got 250.
type Accepted = Arc<Mutex<BTreeSet<String>>>;

/// Sends mail as fast as it is taken, and notes what got 250.
pub fn client(
    number: usize,
    round: usize,
    gateway: SocketAddr,
    stop: &AtomicBool,
    accepted: &Mutex<BTreeSet<String>>,
) {
    let mut count = 0;
    while !stop.load(Ordering::Relaxed) {
        let Ok(mut session) = Client::connect(gateway) else { return };
        if session.say("EHLO load.example").is_err() {
            continue;
        }
        while !stop.load(Ordering::Relaxed) {
            count += 1;
            let subject = format!("m-{round}-{number}-{count}");
            // Sizes on both sides of what the spool keeps in memory.
            let size = if count % 17 == 0 { 300_000 } else { 200 * (count % 40) };
            let body = "0123456789 abcdefghij klmnopqrst uvwxyz ABCDEFGH\r\n".repeat(size / 50 + 1);
            let content = format!("From: a@solarmora.com\r\nSubject: {subject}\r\n\r\n{body}");
            match session.send("a@solarmora.com", &["b@partner.example"], &content) {
                Ok(reply) if reply.starts_with("250") => {
                    accepted.lock().expect("no client panicked").insert(subject);
                }
                Ok(_) => {}
                Err(_) => break,
            }
        }
    }
}

/// `POSTERN_KILLS`: that many instead of 20.
#[test]
fn r158_kills_under_load_lose_nothing() {
    let kills = number_from("POSTERN_KILLS", 20);
    let folder = Folder::new("kill");
    let sink = Inbox::start();
    folder.write(
        "config/gateway.yaml",
        &format!(
            "apiVersion: postern.dev/v1alpha1
kind: OutboundGateway
metadata: {{name: default}}
spec:
  domains: [solarmora.com]
  clients: {{cidrs: [127.0.0.0/8]}}
  defaultRoute: {{host: {}, port: {}}}
",
            sink.address.ip(),
            sink.address.port()
        ),
    );
    let (config, state) = (folder.0.join("config"), folder.0.join("state"));
    let accepted: Accepted = Arc::default();
    for round in 0..kills {
        let gateway = Standalone::start(&config, &state);
        let stop = Arc::new(AtomicBool::new(false));
        let clients: Vec<_> = (0..CLIENTS)
            .map(|number| {
                let (stop, accepted, smtp) = (Arc::clone(&stop), Arc::clone(&accepted), gateway.smtp);
                std::thread::spawn(move || client(number, round, smtp, &stop, &accepted))
            })
            .collect();
        // A moment that differs from round to round: not waiting for anything, but where the axe falls.
        std::thread::sleep(Duration::from_millis(60 + 37 * round as u64 % 400));
        gateway.kill();
        stop.store(true, Ordering::Relaxed);
        for client in clients {
            client.join().expect("no client panicked");
        }
    }
    let gateway = Standalone::start(&config, &state);
    wait_for("the spool is empty", Duration::from_secs(120), || {
        let (_, ack) = gateway.get("/ack")?;
        let ack: serde_json::Value = serde_json::from_str(&ack).ok()?;
        (ack["queued"] == 0).then_some(())
    });
    let mut copies: BTreeMap<String, usize> = BTreeMap::new();
    for mail in sink.mail() {
        *copies.entry(mail.header("Subject").unwrap_or_default()).or_default() += 1;
    }
    let accepted = accepted.lock().expect("no client panicked");
    let lost: Vec<_> = accepted.iter().filter(|subject| !copies.contains_key(*subject)).collect();
    let duplicates: usize = copies.values().map(|count| count - 1).sum();
    crate::support::tell(&format!(
        "{kills} kills: accepted {}, lost {}, duplicates {duplicates}",
        accepted.len(),
        lost.len()
    ));
    assert!(accepted.len() > kills * 10, "too little load to mean anything: {}", accepted.len());
    assert!(lost.is_empty(), "lost: {lost:?}");
}
