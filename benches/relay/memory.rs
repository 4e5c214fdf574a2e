//! Much mail in little memory: large messages over many sessions within a limit, office files beside small mail,
//! idle sessions. The kernel's own limit is the judge: who needs more is killed.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use base64::Engine as _;

use super::Bench;
use super::load::Load;
use super::peers::{Peer, RELAY, Server, Sink};

/// Where mail with office files goes on to.
const LARGE_SINK: u16 = 2504;
const LIMIT: u64 = 512 << 20;

/// Words to look for, and a way for the large mail: loadgen checks that its next hop gets nothing else.
const RULES: &str = "\
apiVersion: postern.dev/v1alpha1
kind: OutboundGateway
metadata: {name: default}
spec:
  hostname: gw.bench.example
  domains: [source.example]
  clients: {cidrs: [127.0.0.0/8], allowForeignSenders: true}
  defaultRoute: {host: 127.0.0.1, port: 2502}
  limits: {connectionsPerClient: 20000, connections: 20000, messageSize: 100Mi}
---
apiVersion: postern.dev/v1alpha1
kind: OutboundRoute
metadata: {name: large}
spec:
  hosts: [{host: 127.0.0.1, port: 2504}]
  tls: {require: false, requireCaSigned: false, validateHostname: false}
---
apiVersion: postern.dev/v1alpha1
kind: RoutingRule
metadata: {name: large}
spec:
  messages: [Outbound]
  accountTypes: [Users]
  envelope: {recipients: {pattern: '.*@large\\.example'}}
  action: {modify: {route: {name: large}}}
---
apiVersion: postern.dev/v1alpha1
kind: ComplianceRule
metadata: {name: words}
spec:
  messages: [Outbound]
  accountTypes: [Users]
  match: {words: [confidential, rahasia, hemlig, vertraulich, kimitsu]}
  # What is too large to be searched in full is let through: this measures memory.
  onScanLimit: TreatAsNoMatch
  action: {reject: {}}
";

pub fn measure(bench: &Bench) -> Result<(), String> {
    large(bench)?;
    office(bench)?;
    idle(bench)
}

fn binary() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_postern"))
}

/// A control group with a limit; removed with the value.
struct Group(PathBuf);

impl Group {
    fn new() -> Result<Self, String> {
        let v2 = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
        let parent = if v2 { "/sys/fs/cgroup" } else { "/sys/fs/cgroup/memory" };
        let (path, file) = (
            Path::new(parent).join(format!("postern-bench-{}", std::process::id())),
            if v2 { "memory.max" } else { "memory.limit_in_bytes" },
        );
        let limited = fs::create_dir_all(&path).and_then(|()| fs::write(path.join(file), LIMIT.to_string()));
        limited.map_err(|error| format!("cannot limit memory by {}: {error}", path.display()))?;
        Ok(Self(path))
    }

    fn peak(&self) -> f64 {
        let read = |file: &str| fs::read_to_string(self.0.join(file)).ok()?.trim().parse::<f64>().ok();
        read("memory.peak").or_else(|| read("memory.max_usage_in_bytes")).unwrap_or(f64::NAN)
            / f64::from(1 << 20)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Empty only when the processes in it are gone.
        for _ in 0..50 {
            if fs::remove_dir(&self.0).is_ok() {
                return;
            }
            thread::sleep(Duration::from_millis(100));
        }
    }
}

fn large(bench: &Bench) -> Result<(), String> {
    let group = Group::new()?;
    let server = Server::postern(bench, &binary(), RULES, &[], Some(&group.0))?;
    server.wait()?;
    let said = Command::new(&bench.loadgen)
        .args(["bench", "--target", "127.0.0.1:2501", "--listen", "127.0.0.1:2502", "--connections", "200"])
        .args([
            "--size",
            "50m",
            "--messages",
            "200",
            "--retry",
            "--retry-delay-ms",
            "2000",
            "--timeout",
            "500",
        ])
        .args(["--drain", "60", "--server-pid", &server.pid().to_string()])
        .output()
        .map_err(|error| error.to_string())?;
    println!(
        "\n50 MiB over 200 sessions with a limit of 512 MiB (peak of the group, page cache included: {:.0} MiB)",
        group.peak()
    );
    print!("{}", String::from_utf8_lossy(&said.stdout));
    println!("452 or other refusals by the gateway's own count:\n{}", counted());
    Ok(())
}

fn office(bench: &Bench) -> Result<(), String> {
    let group = Group::new()?;
    let server = Server::postern(bench, &binary(), RULES, &[], Some(&group.0))?;
    server.wait()?;
    let alone = Load { sessions: 10, size: "4k", messages: 3000 }.run_at(bench, &server, 200)?;
    let sink = Sink::start(bench, LARGE_SINK)?;
    let message = office_mail();
    let (stop, sent, refused) = (AtomicBool::new(false), AtomicU32::new(0), AtomicU32::new(0));
    let beside = thread::scope(|scope| {
        let start = Instant::now();
        for worker in 0..10u32 {
            let (message, stop, sent, refused) = (&message, &stop, &sent, &refused);
            scope.spawn(move || {
                let mut n = 0u32;
                while !stop.load(Ordering::Relaxed) {
                    // Twenty a second, over ten workers.
                    let due = Duration::from_millis(u64::from(n) * 500 + u64::from(worker) * 50);
                    thread::sleep(due.saturating_sub(start.elapsed()));
                    match send(message) {
                        Ok(true) => sent.fetch_add(1, Ordering::Relaxed),
                        Ok(false) | Err(_) => refused.fetch_add(1, Ordering::Relaxed),
                    };
                    n += 1;
                }
            });
        }
        let beside = Load { sessions: 10, size: "4k", messages: 6000 }.run_at(bench, &server, 200);
        stop.store(true, Ordering::Relaxed);
        beside
    })?;
    drop(sink);
    println!(
        "\n5 MiB office files at 20/s beside small mail at 200/s, limit 512 MiB, peak {:.0} MiB",
        group.peak()
    );
    println!("  office files taken {}, refused {}", sent.into_inner(), refused.into_inner());
    println!(
        "  accept of small mail p50 {:.2} ms p99 {:.1} ms; without the files p50 {:.2} ms p99 {:.1} ms",
        beside.accept.0, beside.accept.1, alone.accept.0, alone.accept.1
    );
    Ok(())
}

fn idle(bench: &Bench) -> Result<(), String> {
    println!("\n10,000 idle sessions");
    {
        let peer = Peer::Postern(binary());
        let server = Server::start(bench, &peer)?;
        let said = Command::new("sh")
            .args(["-c", "ulimit -n 20000; exec \"$@\"", "sh"])
            .arg(&bench.loadgen)
            .args(["hold", "--target", "127.0.0.1:2501", "--connections", "10000"])
            .args(["--server-pid", &server.pid().to_string()])
            .output()
            .map_err(|error| error.to_string())?;
        print!("{}", String::from_utf8_lossy(&said.stdout));
        print!("{}", String::from_utf8_lossy(&said.stderr));
    }
    Ok(())
}

/// A message with a document of five mebibytes that holds no forbidden word.
fn office_mail() -> Vec<u8> {
    use zip::write::SimpleFileOptions;
    let mut text = String::from(
        "<?xml version=\"1.0\"?><w:document xmlns:w=\"http://schemas.openxmlformats.org/wordprocessingml/2006/main\"><w:body>",
    );
    let mut n = 0u64;
    while text.len() < 5 << 20 {
        n = n.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        text += &format!(
            "<w:p><w:r><w:t>Item {} of the report about harbour {}.</w:t></w:r></w:p>",
            n >> 40,
            n >> 52
        );
    }
    text += "</w:body></w:document>";
    let mut archive = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let stored = SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    let types = "<?xml version=\"1.0\"?><Types xmlns=\"http://schemas.openxmlformats.org/package/2006/content-types\"/>";
    for (name, content) in [("[Content_Types].xml", types), ("word/document.xml", &text)] {
        archive.start_file(name, stored).expect("a name that is free");
        archive.write_all(content.as_bytes()).expect("memory takes it");
    }
    let file = archive.finish().expect("memory takes it").into_inner();
    let mut mail = Vec::from(
        "From: a@source.example\r\nTo: b@large.example\r\nSubject: report\r\nMIME-Version: 1.0\r\n\
         Content-Type: application/vnd.openxmlformats-officedocument.wordprocessingml.document; name=report.docx\r\n\
         Content-Transfer-Encoding: base64\r\n\r\n",
    );
    let encoded = base64::engine::general_purpose::STANDARD.encode(file);
    for line in encoded.as_bytes().chunks(76) {
        mail.extend_from_slice(line);
        mail.extend_from_slice(b"\r\n");
    }
    mail.extend_from_slice(b".\r\n");
    mail
}

/// Whether it was taken.
fn send(message: &[u8]) -> std::io::Result<bool> {
    let mut stream = TcpStream::connect(("127.0.0.1", RELAY))?;
    stream.set_read_timeout(Some(Duration::from_secs(120)))?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut reply = move || -> std::io::Result<u8> {
        let mut line = String::new();
        loop {
            line.clear();
            reader.read_line(&mut line)?;
            if line.as_bytes().get(3) != Some(&b'-') {
                return Ok(line.bytes().next().unwrap_or(b'5'));
            }
        }
    };
    reply()?;
    for command in ["EHLO x.example", "MAIL FROM:<a@source.example>", "RCPT TO:<b@large.example>", "DATA"] {
        stream.write_all(format!("{command}\r\n").as_bytes())?;
        if !matches!(reply()?, b'2' | b'3') {
            return Ok(false);
        }
    }
    stream.write_all(message)?;
    Ok(reply()? == b'2')
}

/// What the gateway says it answered.
fn counted() -> String {
    use std::io::Read;
    let mut text = String::new();
    let asked = TcpStream::connect(("127.0.0.1", 2503)).and_then(|mut stream| {
        stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n")?;
        stream.read_to_string(&mut text)
    });
    if asked.is_err() {
        return "  nothing: it does not answer".to_owned();
    }
    let lines = text.lines().filter(|line| line.starts_with("postern_messages_total"));
    lines.map(|line| format!("  {line}\n")).collect()
}
