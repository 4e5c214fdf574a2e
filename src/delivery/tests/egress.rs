//! Source addresses, limits and back-off with real sockets, real proxies and a real Redis.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::process::{Child, Command, Stdio};

use jiff::Timestamp;

use super::workers::{Running, fast, quick, relay, start, target};
use super::*;
use crate::bundle::document::{
    DomainLimits, Egress, EgressSource, Rotation, RouteLimits, SharedLimits, WarmUp,
};
use crate::delivery::Config;
use crate::delivery::limits::backoff::{Pauses, Schedule};
use crate::delivery::limits::{Options, Throttle};
use crate::delivery::sink::{Action, Behaviour, Mail, Sink, nobody, say};

fn source(address: &str) -> EgressSource {
    EgressSource { address: address.parse().unwrap(), weight: None, ehlo: None, proxy: None, warm_up: None }
}

fn from(sources: Vec<EgressSource>, rotation: Rotation) -> Option<Egress> {
    Some(Egress { sources, rotation })
}

/// A route to these hosts with the fast schedule, changed.
fn routed(at: &[SocketAddr], change: impl FnOnce(&mut Route)) -> RouteTable {
    let mut route = Route { retry: fast(), ..route(hosts(at)) };
    change(&mut route);
    table(vec![route], None)
}

/// A schedule for tests that have seconds, not hours.
fn hasty() -> Schedule {
    let ms = Duration::from_millis;
    let pauses = Pauses { first: ms(300), longest: ms(2000) };
    Schedule {
        round: ms(20),
        patience: 2,
        pace: Pauses { first: ms(5), longest: ms(50) },
        slow: pauses,
        blocked: pauses,
        down: pauses,
        memory: Duration::from_secs(60),
    }
}

fn throttled(schedule: Schedule) -> Config {
    let throttle = Throttle::new(Options { schedule, ..Options::default() });
    Config { throttle, ..quick() }
}

/// How many messages came from each address.
fn origins(sink: &Sink) -> BTreeMap<IpAddr, usize> {
    let peers = sink.peers();
    let mut origins = BTreeMap::new();
    for Mail { connection, .. } in sink.accepted() {
        *origins.entry(peers[connection]).or_default() += 1;
    }
    origins
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

async fn send_many(running: &Running, count: usize, domain: &str) {
    for n in 0..count {
        running.send(&format!("u{n}@{domain}")).await;
    }
}

#[tokio::test]
async fn r001_r002_mail_leaves_from_the_addresses_of_the_route_by_weight_and_the_missing_one_is_set_aside() {
    let sink = Sink::start(Behaviour::default()).await;
    let sources = vec![
        EgressSource { ehlo: Some("out2.solarmora.com".into()), ..source("127.0.0.2") },
        EgressSource { weight: Some(2), ehlo: Some("out3.solarmora.com".into()), ..source("127.0.0.3") },
        source("192.0.2.77"),
        source("127.0.0.4"),
    ];
    let table = routed(&[sink.address], |route| route.egress = from(sources, Rotation::Weighted));
    let config = throttled(Schedule::default());
    let throttle = config.throttle.clone();
    let running = start(table, config);
    send_many(&running, 120, "x.example").await;
    running.empty().await;
    let expected = [("127.0.0.2", 30), ("127.0.0.3", 60), ("127.0.0.4", 30)];
    let origins = origins(&sink);
    for (address, expected) in expected {
        let count = origins[&ip(address)];
        assert!(count.abs_diff(expected) <= 3, "{address}: {count} of {origins:?}");
    }
    assert_eq!(origins.len(), 3);
    let hellos = sink.commands();
    for hello in ["EHLO out2.solarmora.com", "EHLO out3.solarmora.com", "EHLO gw.solarmora.com"] {
        assert!(hellos.iter().any(|command| command == hello), "{hello}");
    }
    let view = serde_json::to_value(throttle.view(Timestamp::now())).unwrap();
    let aside: Vec<_> =
        view["sources"].as_array().unwrap().iter().filter(|s| s["state"] == "SetAside").collect();
    assert_eq!(aside.len(), 1);
    assert_eq!(aside[0]["address"], "192.0.2.77");
    assert_eq!(aside[0]["reason"], "this machine does not have the address");
    running.stop().await;
}

#[tokio::test]
async fn r001_with_no_source_left_mail_waits_and_never_leaves_by_another_address() {
    let sink = Sink::start(Behaviour::default()).await;
    let only = |address: &str| from(vec![source(address)], Rotation::RoundRobin);
    for address in ["192.0.2.77", "::1"] {
        // One address that nobody has, one of the other family.
        let running = start(routed(&[sink.address], |route| route.egress = only(address)), quick());
        running.send("a@x.example").await;
        running
            .until("waiting for a source", |spool| {
                let tried = |error: &String| error.contains("source addresses");
                spool.list().iter().any(|summary| summary.last_error.as_ref().is_some_and(tried))
            })
            .await;
        assert!(sink.peers().is_empty());
        running.stop().await;
    }
}

#[tokio::test]
async fn r001_r179_each_family_has_its_own_source() {
    let six = Sink::start_at("[::1]:0".parse().unwrap(), Behaviour::default()).await;
    let four = Sink::start(Behaviour::default()).await;
    let sources = || vec![source("127.0.0.2"), source("::1")];
    for (sink, address) in [(&six, "::1"), (&four, "127.0.0.2")] {
        let table = routed(&[sink.address], |route| route.egress = from(sources(), Rotation::RoundRobin));
        let running = start(table, quick());
        send_many(&running, 4, "x.example").await;
        running.empty().await;
        assert_eq!(origins(sink), BTreeMap::from([(ip(address), 4)]));
        running.stop().await;
    }
}

#[tokio::test]
async fn r001_a_domain_leaves_from_one_address() {
    let sink = Sink::start(Behaviour::default()).await;
    let sources = ["127.0.0.2", "127.0.0.3", "127.0.0.4"].map(source).to_vec();
    let table = routed(&[sink.address], |route| route.egress = from(sources, Rotation::PerDomain));
    let running = start(table, quick());
    for n in 0..60 {
        running.send(&format!("u@d{}.example", n % 12)).await;
    }
    running.empty().await;
    let peers = sink.peers();
    let mut homes: BTreeMap<String, Vec<IpAddr>> = BTreeMap::new();
    for mail in sink.accepted() {
        let homes = homes.entry(mail.rcpts[0].clone()).or_default();
        homes.push(peers[mail.connection]);
        homes.dedup();
    }
    assert_eq!(homes.len(), 12);
    assert!(homes.values().all(|homes| homes.len() == 1), "{homes:?}");
    assert!(origins(&sink).len() > 1);
    running.stop().await;
}

/// A process of a test, ended with it.
struct Process(Child);

impl Process {
    async fn start(mut command: Command, at: SocketAddr) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let name = command.get_program().to_owned();
        let child = command.spawn();
        let process = Self(child.unwrap_or_else(|error| panic!("{name:?}: {error}; run `make deps`")));
        for _ in 0..500 {
            if tokio::net::TcpStream::connect(at).await.is_ok() {
                return process;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{name:?} does not listen on {at}");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

async fn proxy(sends_from: &str) -> (Process, HostPort) {
    let at = nobody().await;
    let mut command = Command::new("microsocks");
    command.args(["-i", "127.0.0.1", "-p", &at.port().to_string(), "-b", sends_from]);
    (Process::start(command, at).await, HostPort { host: at.ip().to_string(), port: at.port() })
}

#[tokio::test]
async fn r001_a_source_that_a_proxy_has_is_used_through_it_and_a_broken_proxy_is_passed_over() {
    let sink = Sink::start(Behaviour::default()).await;
    let (_process, at) = proxy("127.0.0.9").await;
    let nowhere = nobody().await;
    let broken = HostPort { host: nowhere.ip().to_string(), port: nowhere.port() };
    let sources = vec![
        EgressSource { proxy: Some(at), ehlo: Some("out9.solarmora.com".into()), ..source("192.0.2.9") },
        EgressSource { proxy: Some(broken), ..source("192.0.2.10") },
    ];
    let table = routed(&[sink.address], |route| route.egress = from(sources, Rotation::RoundRobin));
    let config = throttled(Schedule::default());
    let throttle = config.throttle.clone();
    let running = start(table, config);
    send_many(&running, 10, "x.example").await;
    running.empty().await;
    assert_eq!(origins(&sink), BTreeMap::from([(ip("127.0.0.9"), 10)]));
    assert!(sink.commands().contains(&"EHLO out9.solarmora.com".to_owned()));
    let view = throttle.view(Timestamp::now());
    let broken = view.sources.iter().find(|source| source.address == "192.0.2.10").unwrap();
    assert_eq!((broken.state, broken.reason), ("SetAside", "its proxy does not work"));
    running.stop().await;

    // A host that the proxy cannot reach is the host's failure, not the proxy's.
    let (_process, at) = proxy("127.0.0.9").await;
    let sources = vec![EgressSource { proxy: Some(at), ..source("192.0.2.9") }];
    let table = routed(&[nobody().await], |route| route.egress = from(sources, Rotation::RoundRobin));
    let config = throttled(Schedule::default());
    let throttle = config.throttle.clone();
    let running = start(table, config);
    running.send("a@x.example").await;
    running.until("tried", |spool| spool.list().iter().any(|summary| summary.attempts > 0)).await;
    assert_eq!(throttle.view(Timestamp::now()).sources[0].state, "Usable");
    running.stop().await;
}

#[tokio::test]
async fn r160_connections_and_rate_of_a_route_are_never_exceeded() {
    let sink = Sink::start(Behaviour::default().on("END", Action::Wait(Duration::from_millis(20)))).await;
    let second = Sink::start(Behaviour::default().on("END", Action::Wait(Duration::from_millis(20)))).await;
    let limits = RouteLimits {
        connections: Some(3),
        messages_per_minute: Some(1200),
        messages_per_connection: Some(5),
        ..RouteLimits::default()
    };
    // Two hosts: idle sessions with one count when the other one is asked.
    let table = routed(&[sink.address, second.address], |route| route.limits = limits);
    let running = start(table, quick());
    let begin = std::time::Instant::now();
    send_many(&running, 40, "x.example").await;
    running.empty().await;
    // 40 messages at 20 a second, the first after one interval.
    assert!(begin.elapsed() >= Duration::from_millis(36 * 50), "{:?}", begin.elapsed());
    assert_eq!(sink.accepted().len() + second.accepted().len(), 40);
    assert!(sink.most_open() <= 3 && second.most_open() <= 3);
    for sink in [&sink, &second] {
        for connection in 0..sink.connections() {
            let used = sink.accepted().iter().filter(|mail| mail.connection == connection).count();
            assert!(used <= 5, "{used} messages on one connection");
        }
    }
    let metrics = running.metrics();
    assert!(metrics.contains(r#"postern_delivery_waits_total{reason="route_rate"}"#), "{metrics}");
    running.stop().await;
}

#[tokio::test]
async fn r160_a_domains_limits_hold_nobody_else_up() {
    let sink = Sink::start(Behaviour::default().on("END", Action::Wait(Duration::from_millis(10)))).await;
    let per_domain = DomainLimits { connections: Some(1), messages_per_minute: Some(600) };
    let limits = RouteLimits { per_domain, ..RouteLimits::default() };
    let running = start(routed(&[sink.address], |route| route.limits = limits), quick());
    let begin = std::time::Instant::now();
    for n in 0..10 {
        running.send(&format!("u{n}@slow.example")).await;
        running.send(&format!("u@d{n}.example")).await;
    }
    running.empty().await;
    assert!(begin.elapsed() >= Duration::from_millis(8 * 100));
    let to: Vec<String> = sink.accepted().into_iter().map(|mail| mail.rcpts[0].clone()).collect();
    let last_other = to.iter().rposition(|rcpt| !rcpt.contains("slow")).unwrap();
    assert!(last_other < 14, "others went at once: {to:?}");
    running.stop().await;
}

#[tokio::test]
async fn r160_recipients_are_split_and_each_transaction_counts() {
    let sink = Sink::start(Behaviour::default()).await;
    let limits = RouteLimits {
        recipients_per_message: Some(3),
        messages_per_minute: Some(1200),
        ..RouteLimits::default()
    };
    let running = start(routed(&[sink.address], |route| route.limits = limits), quick());
    let begin = std::time::Instant::now();
    let targets = (0..20).map(|n| target(&format!("u{n}@x.example"))).collect();
    running.submit(Some("app@solarmora.com"), targets).await;
    running.empty().await;
    let sizes: Vec<usize> = sink.accepted().iter().map(|mail| mail.rcpts.len()).collect();
    assert_eq!(sizes.iter().sum::<usize>(), 20);
    assert!(sizes.len() == 7 && sizes.iter().all(|size| *size <= 3), "{sizes:?}");
    assert!(begin.elapsed() >= Duration::from_millis(4 * 50));
    running.stop().await;
}

#[tokio::test]
async fn r002_a_destination_that_says_slow_down_gets_less_then_nothing_then_all_of_it() {
    let busy = Behaviour::default().on("MAIL", say("450 4.7.1 Error: too much mail from 127.0.0.1"));
    let sink = Sink::start(busy).await;
    let config = throttled(hasty());
    let throttle = config.throttle.clone();
    let running = start(relay(&[sink.address], None, fast()), config);
    send_many(&running, 60, "x.example").await;
    let suspended = || throttle.view(Timestamp::now()).suspended == 1;
    running.until("suspended", |_| suspended()).await;
    let view = serde_json::to_value(throttle.view(Timestamp::now())).unwrap();
    let standing = &view["destinations"][0];
    assert_eq!((&standing["route"], &standing["reason"]), (&"mail/relay".into(), &"SlowDown".into()));
    assert!(standing["said"].as_str().unwrap().contains("too much mail"), "{view}");
    assert!(standing["until"].is_string() && standing["since"].is_string());
    let mails = |sink: &Sink| sink.commands().iter().filter(|command| command.starts_with("MAIL")).count();
    // Those that were on their way still come.
    let rests = || running.metrics().contains("postern_delivery_in_flight 0\n");
    running.until("nobody is on the way", |_| rests()).await;
    let (asked, since) = (mails(&sink), std::time::Instant::now());
    tokio::time::sleep(Duration::from_millis(1500)).await;
    // Without the pause 60 messages would have come five times each.
    let (asked, most) = (mails(&sink) - asked, 8.0 * since.elapsed().as_secs_f64() / 1.5);
    assert!(asked as f64 <= most, "one message asks now and then, not {asked} of {most:.0} times");
    let metrics = running.metrics();
    assert!(metrics.contains(r#"postern_suspensions_total{cause="slow_down"}"#), "{metrics}");
    assert!(metrics.contains(r#"postern_destinations{state="suspended"} 1"#), "{metrics}");
    sink.behave(Behaviour::default());
    running.empty().await;
    assert_eq!(sink.accepted().len(), 60, "nothing is lost, nothing comes twice");
    assert_eq!(throttle.view(Timestamp::now()).suspended, 0);
    running.stop().await;
}

#[tokio::test]
async fn r002_a_block_of_one_address_returns_its_message_and_the_rest_leaves_from_others() {
    let sink = Sink::start(Behaviour::default()).await;
    let blocking = Behaviour::default().on_times(
        "RCPT",
        1,
        say("550 5.7.1 Service unavailable; client host [127.0.0.2] blocked using DNSBL"),
    );
    sink.behave(blocking);
    let sources = vec![source("127.0.0.2"), source("127.0.0.3")];
    let table = routed(&[sink.address], |route| route.egress = from(sources, Rotation::RoundRobin));
    let config = throttled(Schedule::default());
    let throttle = config.throttle.clone();
    let running = start(table, config);
    running.send("first@x.example").await;
    running.until("blocked", |_| throttle.view(Timestamp::now()).suspended == 1).await;
    send_many(&running, 10, "x.example").await;
    sink.wait_for(10).await;
    assert_eq!(origins(&sink), BTreeMap::from([(ip("127.0.0.3"), 10)]), "the blocked one rests");
    assert!(!sink.accepted().iter().any(|mail| mail.rcpts[0].contains("first")), "a 550 is an answer");
    let view = throttle.view(Timestamp::now());
    assert_eq!(
        (view.destinations[0].reason, view.destinations[0].source.as_deref()),
        ("Blocked", Some("127.0.0.2"))
    );
    running.stop().await;
}

#[tokio::test]
async fn mail_that_is_held_back_too_long_goes_back_to_its_sender() {
    let sink = Sink::start(Behaviour::default().on("MAIL", say("421 4.7.0 not from you"))).await;
    let home = Sink::start(Behaviour::default()).await;
    let retry = crate::bundle::document::Retry {
        give_up_after: Duration::from_millis(1500),
        warn_after: Duration::from_secs(60),
        ..fast()
    };
    let schedule = Schedule {
        slow: Pauses { first: Duration::from_millis(700), longest: Duration::from_secs(1) },
        ..hasty()
    };
    let running = start(relay(&[sink.address], Some(&home), retry), throttled(schedule));
    send_many(&running, 3, "x.example").await;
    let reports = home.wait_for(3).await;
    running.empty().await;
    for report in reports {
        let report = String::from_utf8(report.content).unwrap();
        assert!(report.contains("Status: 5.4.7\r\n"), "{report}");
    }
    running.stop().await;
}

#[tokio::test]
async fn r002_a_new_address_sends_its_allowance_and_a_restart_does_not_begin_the_day_anew() {
    let sink = Sink::start(Behaviour::default()).await;
    let from_now = Timestamp::now() - Duration::from_secs(60);
    let warm = WarmUp { from: from_now, first_day: 5, factor_percent: 200, days: 14 };
    let sources =
        || vec![EgressSource { warm_up: Some(warm.clone()), ..source("127.0.0.2") }, source("127.0.0.3")];
    let memory = std::env::temp_dir().join(format!("postern-warm-{}", std::process::id()));
    let mut total = 0;
    for _ in 0..2 {
        let throttle = Throttle::new(Options { memory: Some(memory.clone()), ..Options::default() });
        let table = routed(&[sink.address], |route| route.egress = from(sources(), Rotation::RoundRobin));
        let running = start(table, Config { throttle, ..quick() });
        send_many(&running, 20, "x.example").await;
        running.empty().await;
        running.stop().await;
        total += 20;
        let expected = BTreeMap::from([(ip("127.0.0.2"), 5), (ip("127.0.0.3"), total - 5)]);
        assert_eq!(origins(&sink), expected);
    }
    std::fs::remove_file(&memory).ok();
}

fn shared(at: SocketAddr, limits: RouteLimits, sink: &Sink) -> RouteTable {
    let server = SharedLimits {
        at: HostPort { host: at.ip().to_string(), port: at.port() },
        username: None,
        password: Some(ca_material()),
    };
    let gateway = Gateway { shared_limits: Some(server), ..gateway() };
    table_of(
        gateway,
        vec![Route { retry: fast(), limits, ..route(hosts(&[sink.address])) }],
        Some("geheim\n"),
    )
}

async fn redis(at: SocketAddr) -> Process {
    let mut command = Command::new("redis-server");
    command.args(["--bind", "127.0.0.1", "--port", &at.port().to_string(), "--requirepass", "geheim"]);
    command.args(["--save", "", "--appendonly", "no", "--daemonize", "no"]);
    command.current_dir(std::env::temp_dir());
    Process::start(command, at).await
}

#[tokio::test]
async fn r160_two_gateways_share_one_limit_exactly_and_each_keeps_to_its_share_without_the_server() {
    let at = nobody().await;
    let server = redis(at).await;
    let sink = Sink::start(Behaviour::default()).await;
    let limits = RouteLimits { messages_per_minute: Some(1200), ..RouteLimits::default() };
    let gateways: Vec<(Running, Throttle)> = (0..2)
        .map(|_| {
            let config = throttled(Schedule::default());
            let throttle = config.throttle.clone();
            throttle.set_pods(2);
            (start(shared(at, limits.clone(), &sink), config), throttle)
        })
        .collect();
    // The first answer of the server shows that it counts; until then there are shares.
    send_many(&gateways[0].0, 1, "x.example").await;
    gateways[0].0.empty().await;
    // All the work is with one of them: with shares it would need 5 s.
    let begin = std::time::Instant::now();
    send_many(&gateways[0].0, 50, "x.example").await;
    gateways[0].0.empty().await;
    let alone = begin.elapsed();
    assert!(alone >= Duration::from_millis(46 * 50) && alone < Duration::from_millis(4500), "{alone:?}");
    // Both have work: together they do not exceed it.
    let begin = std::time::Instant::now();
    for n in 0..25 {
        gateways[0].0.send(&format!("a{n}@x.example")).await;
        gateways[1].0.send(&format!("b{n}@x.example")).await;
    }
    gateways[0].0.empty().await;
    gateways[1].0.empty().await;
    let together = begin.elapsed();
    assert!(together >= Duration::from_millis(46 * 50), "{together:?}");
    assert_eq!(sink.accepted().len(), 101);
    assert!(gateways[0].1.view(Timestamp::now()).shared);
    // The server is gone: half of the limit for each, never all of it.
    drop(server);
    let begin = std::time::Instant::now();
    send_many(&gateways[0].0, 10, "x.example").await;
    gateways[0].0.empty().await;
    assert!(begin.elapsed() >= Duration::from_millis(7 * 100), "{:?}", begin.elapsed());
    assert!(!gateways[0].1.view(Timestamp::now()).shared);
    let metrics = gateways[0].0.metrics();
    assert!(metrics.contains(r#"postern_shared_limit_calls_total{result="failed"}"#), "{metrics}");
    for (running, _) in gateways {
        running.stop().await;
    }
}
