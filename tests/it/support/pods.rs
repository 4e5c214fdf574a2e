//! Pods of one gateway without a cluster: processes that share a mounted bundle, each with a spool and a control port
//! of its own, and this test as their controller.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use postern::bundle::{Ack, Bundle, names};
use postern::controller::authority::{Authority, Pair};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};

use super::gateway::{Folder, POSTERN, free_address, http_get};
use super::mount::{self, Edition};
use super::wait_for;

pub struct Pods {
    pub folder: Folder,
    bundle: Bundle,
    sequence: u64,
    controller: Arc<ClientConfig>,
    pub authority: Authority,
    pub all: Vec<Pod>,
}

pub struct Pod {
    pub name: String,
    pub smtp: SocketAddr,
    pub admin: SocketAddr,
    pub control: SocketAddr,
    child: Option<Child>,
}

impl Pods {
    /// So many pods `gw-0`…, each knowing all of them, and what they are all told.
    pub fn start(name: &str, count: usize, bundle: Bundle) -> Self {
        let folder = Folder::new(name);
        let today = Timestamp::now().to_zoned(TimeZone::UTC).date();
        let authority = Authority::load(&Authority::create(today).unwrap()).unwrap();
        let pair = authority.for_gateway("ns", "default", today).unwrap();
        papers(&folder, "control", &pair, &authority);
        for path in ["secrets", "bundle"] {
            fs::create_dir_all(folder.0.join(path)).unwrap();
        }
        let pod = |number| Pod {
            name: format!("gw-{number}"),
            smtp: free_address(),
            admin: free_address(),
            control: free_address(),
            child: None,
        };
        let all = (0..count).map(pod).collect();
        let controller = authority.client(today).unwrap();
        let mut pods = Self { folder, bundle, sequence: 0, controller, authority, all };
        pods.publish(&[]);
        (0..count).for_each(|number| pods.run(number, &[]));
        (0..count).for_each(|number| pods.wait_running(number));
        pods
    }

    /// Starts a pod (again).
    pub fn run(&mut self, number: usize, more: &[&str]) {
        let peers: Vec<String> = self.all.iter().map(|pod| pod.control.to_string()).collect();
        let pod = &mut self.all[number];
        let root = &self.folder.0;
        let log = fs::File::options().create(true).append(true).open(root.join("log")).unwrap();
        let mut command = Command::new(POSTERN);
        command
            .args(["gateway", "--pod", &pod.name, "--drain-lag", "0", "--bundle"])
            .arg(root.join("bundle"))
            .arg("--secrets")
            .arg(root.join("secrets"))
            .arg("--spool")
            .arg(root.join(format!("spool-{}", pod.name)))
            .args(["--smtp", &pod.smtp.to_string(), "--admin", &pod.admin.to_string()])
            .args(["--control", &pod.control.to_string(), "--control-tls"])
            .arg(root.join("control"))
            .args(more);
        for peer in &peers {
            command.args(["--peers", peer]);
        }
        pod.child = Some(command.stdin(Stdio::null()).stderr(log).spawn().unwrap());
    }

    /// Names the pods that are to leave, as a manifest of the same revision.
    pub fn publish(&mut self, leaving: &[&str]) {
        self.sequence += 1;
        let edition = Edition {
            sequence: self.sequence,
            bundle: &self.bundle,
            materials: Vec::new(),
            leaving: leaving.iter().map(|&name| name.to_owned()).collect(),
        };
        mount::publish(&self.folder.0.join("bundle"), self.sequence, edition);
    }

    /// Asks a pod as the controller does; `None`: it does not answer.
    pub fn ask(&self, number: usize, request: &str) -> Option<(u16, String)> {
        https(self.all[number].control, &self.controller, request)
    }

    pub fn ack(&self, number: usize) -> Option<Ack> {
        let (_, body) = self.ask(number, &format!("GET /ack?published={}&pods=1", self.sequence))?;
        serde_json::from_str(&body).ok()
    }

    pub fn wait_running(&self, number: usize) {
        wait_for(&format!("pod {number} runs {}", self.sequence), Duration::from_secs(60), || {
            let running = self.ack(number)?.running?;
            (running.sequence.0 == self.sequence).then_some(())
        });
    }

    /// Until a leaving pod says that nothing is left.
    pub fn wait_empty(&self, number: usize) -> u64 {
        wait_for(&format!("pod {number} is empty"), Duration::from_secs(120), || {
            let ack = self.ack(number)?;
            let leaving = ack.leaving?;
            (leaving.empty && ack.queued == 0).then_some(leaving.handed_over)
        })
    }

    pub fn queued(&self, number: usize) -> u64 {
        wait_for("the ack is served", Duration::from_secs(30), || Some(self.ack(number)?.queued))
    }

    /// SIGKILL.
    pub fn kill(&mut self, number: usize) {
        let mut child = self.all[number].child.take().expect("it runs");
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// SIGTERM; returns at once.
    pub fn terminate(&self, number: usize) {
        let child = self.all[number].child.as_ref().expect("it runs");
        let pid = rustix::process::Pid::from_child(child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    }

    pub fn wait_ended(&mut self, number: usize) {
        let mut child = self.all[number].child.take().expect("it runs");
        wait_for("it ends", Duration::from_secs(90), || child.try_wait().unwrap());
    }

    /// A postern command on a pod's spool folder.
    pub fn command(&self, number: usize, arguments: &[&str]) -> String {
        let spool = self.folder.0.join(format!("spool-{}", self.all[number].name));
        let output = Command::new(POSTERN).args(arguments).arg("--state").arg(spool).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
    }

    pub fn metric(&self, number: usize, name: &str, label: &str) -> u64 {
        let (_, text) = http_get(self.all[number].admin, "/metrics").unwrap_or_default();
        let lines = text.lines().filter(|line| line.starts_with(name) && line.contains(label));
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum::<f64>() as u64
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.0.join("log")).unwrap_or_default()
    }
}

/// Writes what a pod mounts for its control port.
pub fn papers(folder: &Folder, name: &str, pair: &Pair, authority: &Authority) {
    folder.write(&format!("{name}/tls.crt"), &pair.certificate);
    folder.write(&format!("{name}/tls.key"), &pair.key);
    folder.write(&format!("{name}/ca.crt"), authority.certificate());
}

/// One request (`GET /path`, without a body), the connection closed after it.
pub fn https(at: SocketAddr, config: &Arc<ClientConfig>, request: &str) -> Option<(u16, String)> {
    let stream = TcpStream::connect_timeout(&at, Duration::from_secs(2)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(40))).ok()?;
    let name = ServerName::try_from(names::gateway("ns", "default")).unwrap();
    let mut tls = StreamOwned::new(ClientConnection::new(Arc::clone(config), name).ok()?, stream);
    write!(tls, "{request} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 0\r\n\r\n").ok()?;
    let mut text = Vec::new();
    // Whoever closes without a word of TLS has still said what he said.
    let _ = tls.read_to_end(&mut text);
    let text = String::from_utf8_lossy(&text).into_owned();
    let (head, body) = text.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
}

impl Drop for Pods {
    fn drop(&mut self) {
        for pod in &mut self.all {
            if let Some(child) = &mut pod.child {
                let _ = child.kill();
                let _ = child.wait();
            }
        }
        if std::thread::panicking() {
            let log = self.log();
            let tail: Vec<_> = log.lines().rev().take(60).collect();
            super::tell("--- log of the pods");
            tail.iter().rev().for_each(|line| super::tell(line));
        }
    }
}
