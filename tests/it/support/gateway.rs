//! `postern standalone` as a process on a folder of its own.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use super::wait_for;

pub const POSTERN: &str = env!("CARGO_BIN_EXE_postern");

/// A temporary folder, removed at the end.
pub struct Folder(pub PathBuf);

impl Folder {
    pub fn new(name: &str) -> Self {
        let unique = format!("postern-it-{name}-{}-{:?}", std::process::id(), std::thread::current().id());
        let path = std::env::temp_dir().join(unique.replace(['(', ')'], ""));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).expect("the temporary folder is writable");
        Self(path)
    }

    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        fs::create_dir_all(path.parent().expect("inside the folder")).expect("writable");
        fs::write(&path, text).expect("writable");
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A running standalone gateway; killed when dropped.
pub struct Standalone {
    pub smtp: SocketAddr,
    pub admin: SocketAddr,
    child: Child,
    log: PathBuf,
}

impl Standalone {
    /// Starts on `config`, with state and log beside it, and waits until it is ready for mail.
    pub fn start(config: &Path, state: &Path) -> Self {
        let started = Self::launch(config, state);
        started.wait_ready();
        started
    }

    pub fn launch(config: &Path, state: &Path) -> Self {
        Self::launch_by(&[], config, state)
    }

    /// Started by another program, which must become the gateway by `exec` (its pid is ours to end).
    pub fn launch_by(launcher: &[&str], config: &Path, state: &Path) -> Self {
        let (smtp, admin) = (free_address(), free_address());
        let log = state.with_extension("log");
        let file = fs::File::options().create(true).append(true).open(&log).expect("the log is writable");
        let mut line = launcher.iter().copied().chain([POSTERN]);
        let child = Command::new(line.next().expect("POSTERN is there"))
            .args(line)
            .arg("standalone")
            .arg(config)
            .args(["--smtp", &smtp.to_string(), "--admin", &admin.to_string(), "--state"])
            .arg(state)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(file)
            .spawn()
            .expect("postern starts");
        Self { smtp, admin, child, log }
    }

    pub fn wait_ready(&self) {
        let start = Instant::now();
        let ready = || self.get("/readyz").is_some_and(|(status, _)| status == 200);
        while !ready() {
            assert!(
                start.elapsed() < Duration::from_secs(30),
                "not ready within 30 s; its log:\n{}",
                self.log()
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// A counter or gauge of /metrics: the sum of all its series that have this text in their labels.
    pub fn metric(&self, name: &str, label: &str) -> u64 {
        let (_, text) = self.get("/metrics").expect("metrics are served");
        let of_name = |line: &&str| {
            let rest = line.strip_prefix(name).map(|rest| rest.strip_prefix("_total").unwrap_or(rest));
            rest.is_some_and(|rest| rest.starts_with([' ', '{']))
        };
        let value = |line: &str| line.rsplit(' ').next().and_then(|value| value.parse::<f64>().ok());
        text.lines().filter(of_name).filter(|line| line.contains(label)).filter_map(value).sum::<f64>() as u64
    }

    /// Messages in the spool.
    pub fn queued(&self) -> u64 {
        let (_, ack) = self.get("/ack").expect("the ack is served");
        let ack: serde_json::Value = serde_json::from_str(&ack).expect("it is JSON");
        ack["queued"].as_u64().expect("it says how much mail waits")
    }

    pub fn wait_empty(&self) {
        wait_for("the spool is empty", Duration::from_secs(60), || (self.queued() == 0).then_some(()));
    }

    /// SIGKILL, as a power switch for the process.
    pub fn kill(mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("it ran");
    }

    /// SIGTERM, and waits until it is gone.
    pub fn stop(mut self) {
        rustix::process::kill_process(
            rustix::process::Pid::from_child(&self.child),
            rustix::process::Signal::TERM,
        )
        .expect("it runs");
        assert!(self.child.wait().expect("it ran").success(), "{}", self.log());
    }

    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Until the log has this: its lines are gathered for a moment before they are written.
    pub fn wait_log(&self, part: &str) {
        wait_for(&format!("the log has {part:?}"), Duration::from_secs(5), || {
            self.log().contains(part).then_some(())
        });
    }

    pub fn get(&self, path: &str) -> Option<(u16, String)> {
        http_get(self.admin, path)
    }

    /// The status of an object, as the API server would show it.
    pub fn status(&self, object: &str) -> Option<serde_json::Value> {
        let (_, text) = self.get("/status")?;
        let all: serde_json::Value = serde_json::from_str(&text).ok()?;
        all["objects"].as_array()?.iter().find(|o| o["object"] == object).map(|o| o["status"].clone())
    }

    /// Waits until a condition of an object has this status, and gives its message.
    pub fn wait_condition(&self, object: &str, kind: &str, status: &str) -> String {
        wait_for(&format!("{object} {kind}={status}"), Duration::from_secs(20), || {
            let condition = condition(&self.status(object)?, kind)?;
            (condition["status"] == status)
                .then(|| condition["message"].as_str().unwrap_or_default().to_owned())
        })
    }
}

pub fn condition(status: &serde_json::Value, kind: &str) -> Option<serde_json::Value> {
    status["conditions"].as_array()?.iter().find(|c| c["type"] == kind).cloned()
}

impl Drop for Standalone {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = self.log();
            let tail = log.lines().rev().take(40).collect::<Vec<_>>();
            crate::support::tell("--- log of the gateway");
            tail.iter().rev().for_each(|line| crate::support::tell(line));
        }
    }
}

/// An address nobody listens on, for a process that must be told its port. Below the ports that the system
/// gives to outgoing connections: one of those could be given away before the process binds it.
pub fn free_address() -> SocketAddr {
    const FIRST: u32 = 15_000;
    const COUNT: u32 = 15_000;
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let start = std::process::id().wrapping_mul(37);
    let mut candidates = (0..COUNT).map(|_| {
        let number = start.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        SocketAddr::from(([127, 0, 0, 1], (FIRST + number % COUNT) as u16))
    });
    candidates.find(|address| TcpListener::bind(address).is_ok()).expect("loopback has ports")
}

pub fn http_get(address: SocketAddr, path: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
}
