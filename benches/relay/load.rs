//! One run of the load generator: it sends, it is the next hop, and it checks that every accepted message
//! arrived once and intact.

use std::process::{Child, Command, Stdio};

use serde_json::Value;

use super::Bench;
use super::peers::{RELAY, SINK, Server};

pub struct Load {
    pub sessions: u32,
    pub size: &'static str,
    pub messages: u32,
}

/// What one run measured.
pub struct Run {
    messages: f64,
    /// Accepted, and delivered, a second.
    accepted: f64,
    delivered: f64,
    /// p50 and p99 in milliseconds.
    pub accept: (f64, f64),
    pub end_to_end: (f64, f64),
    /// CPU of all the server's processes for each message, microseconds.
    pub cpu_us: f64,
    /// Their memory at the peak, MiB.
    pub pss: f64,
    flushes: f64,
}

impl Run {
    /// From the first message sent to the last one delivered.
    pub fn rate(&self) -> f64 {
        self.delivered.min(self.accepted)
    }

    pub fn syncs(&self) -> f64 {
        self.flushes / self.messages
    }
}

impl Load {
    /// As fast as it goes.
    pub fn run(&self, bench: &Bench, server: &Server) -> Result<Run, String> {
        self.run_at(bench, server, 0)
    }

    /// System calls for each message, counted in a run of its own, which they slow down; not a number where they
    /// cannot be counted.
    pub fn syscalls(&self, bench: &Bench, server: &Server) -> Result<f64, String> {
        let mut counter = count_syscalls(server.pid());
        self.run(bench, server)?;
        let calls = counter.as_mut().and_then(end_count);
        Ok(calls.map_or(f64::NAN, |calls| calls / f64::from(self.messages)))
    }

    /// So many messages a second; 0: as fast as it goes.
    pub fn run_at(&self, bench: &Bench, server: &Server, rate: u32) -> Result<Run, String> {
        let said = Command::new(&bench.loadgen)
            .args([
                "bench",
                "--target",
                &format!("127.0.0.1:{RELAY}"),
                "--listen",
                &format!("127.0.0.1:{SINK}"),
            ])
            .args(["--connections", &self.sessions.to_string(), "--size", self.size])
            .args(["--messages", &self.messages.to_string(), "--server-pid", &server.pid().to_string()])
            .args(["--rate", &rate.to_string(), "--timeout", "300", "--json", "-"])
            .output()
            .map_err(|error| format!("the load generator: {error}"))?;
        let text = String::from_utf8_lossy(&said.stdout);
        let line = text.lines().rfind(|line| line.starts_with('{')).unwrap_or_default();
        let found: Value = serde_json::from_str(line).map_err(|error| {
            format!("the load generator said no figures ({error}): {}", String::from_utf8_lossy(&said.stderr))
        })?;
        if found["ok"] != true {
            return Err(format!("{}: a run went wrong: {}", server.name(), found["why"]));
        }
        let number = |path: &str| found.pointer(path).and_then(Value::as_f64).unwrap_or(f64::NAN);
        let messages = f64::from(self.messages);
        Ok(Run {
            messages,
            accepted: number("/inject_per_s"),
            delivered: number("/deliver_per_s"),
            accept: (number("/accept_lat/p50_ms"), number("/accept_lat/p99_ms")),
            end_to_end: (number("/e2e_lat/p50_ms"), number("/e2e_lat/p99_ms")),
            cpu_us: number("/cpu_us_per_msg"),
            pss: number("/pss_max_mib"),
            flushes: number("/disk_flushes"),
        })
    }
}

/// Counts the system calls of a process and its threads, where the kernel lets perf do so.
fn count_syscalls(pid: u32) -> Option<Child> {
    Command::new("perf")
        .args(["stat", "-x,", "-e", "raw_syscalls:sys_enter", "-p", &pid.to_string()])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .ok()
}

fn end_count(counter: &mut Child) -> Option<f64> {
    let pid = counter.id().to_string();
    Command::new("kill").args(["-INT", &pid]).status().ok()?;
    let mut text = String::new();
    std::io::Read::read_to_string(counter.stderr.as_mut()?, &mut text).ok()?;
    counter.wait().ok()?;
    text.lines().find_map(|line| line.split(',').next()?.parse().ok())
}

pub fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or(f64::NAN)
}
