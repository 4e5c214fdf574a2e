//! Half an hour at a steady rate while the next hop comes and goes: memory stays flat, no message is stuck, and
//! all are accounted for by the gateway's own counters.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::Bench;
use super::peers::{SINK, Server, Sink};

/// The next hop is there for so long, then away for so long.
const THERE: Duration = Duration::from_secs(120);
const AWAY: Duration = Duration::from_secs(10);
/// How long what was set back may take at the end.
const PATIENCE: Duration = Duration::from_secs(180);

const GATEWAY: &str = "\
apiVersion: postern.dev/v1alpha1
kind: OutboundGateway
metadata: {name: default}
spec:
  hostname: gw.bench.example
  domains: [source.example]
  clients: {cidrs: [127.0.0.0/8], allowForeignSenders: true}
  defaultRoute: {name: relay}
  limits: {connectionsPerClient: 20000, connections: 20000}
---
apiVersion: postern.dev/v1alpha1
kind: OutboundRoute
metadata: {name: relay}
spec:
  hosts: [{host: 127.0.0.1, port: 2502}]
  tls: {require: false, requireCaSigned: false, validateHostname: false}
  retry: {initial: 2s, factor: 2, max: 20s}
";

pub fn measure(bench: &Bench, minutes: u64, rate: u32) -> Result<(), String> {
    let server = Server::postern(bench, &PathBuf::from(env!("CARGO_BIN_EXE_postern")), GATEWAY, &[], None)?;
    server.wait()?;
    let messages = u64::from(rate) * 60 * minutes;
    println!("\nSoak: {rate} messages/s for {minutes} minutes, the next hop away for 10 s every 2 minutes");
    println!(
        "{:>7} {:>10} {:>10} {:>10} {:>8} {:>8} {:>8}",
        "s", "accepted", "delivered", "queued", "failed", "RSS MiB", "fds"
    );
    let start = Instant::now();
    let mut sink = Some(Sink::start(bench, SINK)?);
    let mut source = Command::new(&bench.loadgen)
        .args(["source", "--target", "127.0.0.1:2501", "--connections", "50", "--size", "4k", "--retry"])
        .args(["--rate", &rate.to_string(), "--messages", &messages.to_string()])
        .args(["--timeout", &(minutes * 60 + 300).to_string()])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| error.to_string())?;
    let mut turn = Instant::now();
    let mut shown = Instant::now();
    loop {
        sleep(Duration::from_millis(200));
        match &sink {
            Some(_) if turn.elapsed() >= THERE => {
                sink = None;
                turn = Instant::now();
            }
            None if turn.elapsed() >= AWAY => {
                sink = Some(Sink::start(bench, SINK)?);
                turn = Instant::now();
            }
            _ => {}
        }
        if shown.elapsed() >= Duration::from_secs(30) {
            shown = Instant::now();
            show(start, &server)?;
        }
        if source.try_wait().is_ok_and(|ended| ended.is_some()) {
            break;
        }
    }
    let mut said = String::new();
    if let Some(mut out) = source.stdout.take() {
        let _ = out.read_to_string(&mut said);
    }
    println!("{}", said.trim_end());
    if sink.is_none() {
        sink = Some(Sink::start(bench, SINK)?);
    }
    let end_of_load = Instant::now();
    let left = loop {
        let left = metrics()?.get("postern_queue_recipients").copied().unwrap_or(f64::NAN);
        if left == 0.0 || end_of_load.elapsed() > PATIENCE {
            break left;
        }
        sleep(Duration::from_secs(1));
    };
    show(start, &server)?;
    let found = metrics()?;
    let count = |name: &str| found.get(name).copied().unwrap_or(0.0);
    let entered = count("postern_queue_entered");
    let accounted = ["delivered", "failed", "released", "lost", "recipients"]
        .iter()
        .map(|name| count(&format!("postern_queue_{name}")))
        .sum::<f64>()
        + count("postern_held_recipients");
    println!(
        "entered {entered}, delivered {}, failed {}, still queued {left} {} s after the load's end; accounted for {accounted}: {}",
        count("postern_queue_delivered"),
        count("postern_queue_failed"),
        end_of_load.elapsed().as_secs(),
        if entered == accounted { "all" } else { "NOT ALL" }
    );
    drop(sink);
    if entered == accounted && left == 0.0 { Ok(()) } else { Err("not all is accounted for".to_owned()) }
}

fn show(start: Instant, server: &Server) -> Result<(), String> {
    let found = metrics()?;
    let count = |name: &str| found.get(name).copied().unwrap_or(f64::NAN);
    let status = fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap_or_default();
    let rss = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:")?.split_whitespace().next()?.parse::<f64>().ok());
    let fds = fs::read_dir(format!("/proc/{}/fd", server.pid())).map_or(0, Iterator::count);
    println!(
        "{:>7} {:>10} {:>10} {:>10} {:>8} {:>8.1} {:>8}",
        start.elapsed().as_secs(),
        count("postern_queue_entered"),
        count("postern_queue_delivered"),
        count("postern_queue_recipients"),
        count("postern_queue_failed"),
        rss.unwrap_or(f64::NAN) / 1024.0,
        fds
    );
    Ok(())
}

/// The gateway's counters without labels; a counter's name without its `_total`.
fn metrics() -> Result<BTreeMap<String, f64>, String> {
    let mut text = String::new();
    TcpStream::connect(("127.0.0.1", 2503))
        .and_then(|mut stream| {
            stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n")?;
            stream.read_to_string(&mut text)
        })
        .map_err(|error| format!("the gateway's metrics: {error}"))?;
    let value = |line: &str| {
        let (name, value) = line.split_once(' ')?;
        Some((name.trim_end_matches("_total").to_owned(), value.parse().ok()?))
    };
    Ok(text.lines().filter_map(value).collect())
}
