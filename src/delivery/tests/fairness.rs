//! Thousands of destinations of which many are dead: the healthy ones never wait for them.

use std::collections::BTreeSet;
use std::time::Instant;

use super::workers::{fast, quick, start, target};
use super::*;
use crate::delivery::Config;
use crate::delivery::authority::Authority;
use crate::delivery::sink::{Action, Behaviour, Sink};
use crate::spool::{Content, Entry, Submission, Target};

const DOMAINS: usize = 2000;
/// Of ten.
const DEAD: usize = 3;
/// Messages for each of the dead: one finds out, and the others must not.
const EACH: usize = 5;

fn is_dead(n: usize) -> bool {
    n % 10 < DEAD
}

/// 2,000 domains by MX, 30 % of them a host that takes the connection and never says a word (far longer than the
/// test), all of their mail first in the queue: every healthy message arrives while all the tarpits still hang.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn healthy_destinations_are_served_while_hundreds_of_tarpits_hang() {
    let healthy = Sink::start(Behaviour::default()).await;
    // One port for all mail hosts, two addresses.
    let tarpit = std::net::SocketAddr::from(([127, 0, 0, 2], healthy.address.port()));
    let tarpit = Sink::start_at(tarpit, Behaviour::default().on("CONNECT", Action::Hang)).await;
    let mut records: Vec<String> = (0..DOMAINS)
        .map(|n| format!("d{n}.example. MX 10 {}.hosts.example.", if is_dead(n) { "dead" } else { "fine" }))
        .collect();
    records.push("fine.hosts.example. A 127.0.0.1".to_owned());
    records.push("dead.hosts.example. A 127.0.0.2".to_owned());
    let records: Vec<&str> = records.iter().map(String::as_str).collect();
    let authority = Authority::start(&records).await;
    let gateway = Gateway { dns_servers: vec![authority.address], ..gateway() };
    // Far fewer places than there are tarpits.
    let patience = Duration::from_millis(100);
    let port = healthy.address.port();
    let first_word = patience / 2;
    let mut config = Config { mx_port: port, concurrency: 100, slow: 1000, patience, first_word, ..quick() };
    config.timeouts.greeting = Duration::from_secs(600);
    config.timeouts.connect = Duration::from_secs(600);
    config.drain = Duration::from_millis(100);
    let running = start(
        table_of(gateway, vec![Route { retry: fast(), ..route(RouteTarget::RecipientMx) }], None),
        config,
    );

    // The dead ones first: whoever waits in line waits behind them.
    let mut order: Vec<usize> = (0..DOMAINS).collect();
    order.sort_by_key(|n| !is_dead(*n));
    let several = order.iter().flat_map(|n| std::iter::repeat_n(n, if is_dead(*n) { EACH } else { 1 }));
    let submissions = several.map(|n| {
        let to = Target { via: via(), ..target(&format!("u@d{n}.example")) };
        let entry = Entry {
            sender: crate::mail::envelope::Sender {
                mailbox: Some("app@solarmora.com".parse().unwrap()),
                ..Default::default()
            },
            received_at: jiff::Timestamp::now(),
            origin: "app".into(),
            revision: "r1".into(),
            own: false,
            held: None,
            targets: vec![to],
        };
        let content = Content::from(b"Subject: x\r\n\r\nbody\r\n".to_vec());
        Submission { id: running.spool.new_id(), entry, content }
    });
    let submissions: Vec<Submission> = submissions.collect();
    for chunk in submissions.chunks(500) {
        running.spool.commit(chunk.to_vec()).await.unwrap();
    }
    let (dead, fine) = (DOMAINS * DEAD / 10, DOMAINS - DOMAINS * DEAD / 10);
    let limit = Instant::now() + Duration::from_secs(120);
    while healthy.accepted().len() < fine {
        assert!(Instant::now() < limit, "{} of {fine} healthy messages came", healthy.accepted().len());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let rcpts: BTreeSet<String> = healthy.accepted().into_iter().flat_map(|mail| mail.rcpts).collect();
    assert_eq!(rcpts.len(), fine, "each of them, once");
    // Not one tarpit has let go, and no more than one connection is spent on each.
    assert_eq!(running.spool.stats().recipients, (dead * EACH) as u64);
    assert!(tarpit.most_open() <= dead, "{} connections to {dead} tarpits", tarpit.most_open());
    assert!(tarpit.connections() <= dead, "nobody tried twice");
    running.stop().await;
}
