//! The servers that are compared: each takes mail at one port of loopback and sends all of it to another.

use std::fs;
use std::net::TcpStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::Bench;

pub const RELAY: u16 = 2501;
pub const SINK: u16 = 2502;

#[derive(Debug, Clone)]
pub enum Peer {
    Postern(PathBuf),
    /// Each of its syncs takes a millisecond longer; the file must not be a static one.
    Slow(PathBuf),
    /// A variant of the kit's `server.sh`, such as `+slow1000`.
    Postfix(&'static str),
}

/// A server that runs; it ends with the value.
pub struct Server {
    name: &'static str,
    pid: u32,
    kind: Kind,
}

enum Kind {
    Postern(Child),
    Postfix { script: PathBuf, root: PathBuf },
}

const GATEWAY: &str = "\
apiVersion: postern.dev/v1alpha1
kind: OutboundGateway
metadata: {name: default}
spec:
  hostname: gw.bench.example
  domains: [source.example]
  clients: {cidrs: [127.0.0.0/8], allowForeignSenders: true}
  defaultRoute: {host: 127.0.0.1, port: 2502}
  limits: {connectionsPerClient: 20000, connections: 20000}
";

impl Server {
    pub fn start(bench: &Bench, peer: &Peer) -> Result<Self, String> {
        let server = match peer {
            Peer::Postern(binary) => Self::postern(bench, binary, GATEWAY, &[], None),
            Peer::Slow(binary) => {
                let shim = bench.root.join("slowsync.so");
                let slow = [("LD_PRELOAD", shim.as_os_str()), ("SLOWSYNC_US", "1000".as_ref())];
                Self::postern(bench, binary, GATEWAY, &slow, None)
            }
            Peer::Postfix(variant) => Self::postfix(bench, variant),
        }?;
        server.wait()?;
        Ok(server)
    }

    /// A gateway of this configuration, its spool on the disk that is measured; in a control group if one is
    /// named.
    pub fn postern(
        bench: &Bench,
        binary: &Path,
        yaml: &str,
        environment: &[(&str, &std::ffi::OsStr)],
        group: Option<&Path>,
    ) -> Result<Self, String> {
        let root = bench.root.join("postern");
        let failed = |error: std::io::Error| format!("cannot start {}: {error}", binary.display());
        let _ = fs::remove_dir_all(&root);
        fs::create_dir_all(root.join("config")).map_err(failed)?;
        fs::write(root.join("config/gateway.yaml"), yaml).map_err(failed)?;
        let log = fs::File::create(root.join("log")).map_err(failed)?;
        let mut command = match group {
            None => Command::new(binary),
            Some(group) => {
                let mut shell = Command::new("sh");
                shell.args(["-c", "echo $$ > \"$0/cgroup.procs\" && exec \"$@\""]).arg(group).arg(binary);
                shell
            }
        };
        let child = command
            .arg("standalone")
            .arg(root.join("config"))
            .args(["--smtp", &format!("127.0.0.1:{RELAY}"), "--admin", "127.0.0.1:2503", "--state"])
            .arg(root.join("state"))
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .process_group(0)
            .spawn()
            .map_err(failed)?;
        Ok(Self { name: "postern", pid: child.id(), kind: Kind::Postern(child) })
    }

    fn postfix(bench: &Bench, variant: &str) -> Result<Self, String> {
        let (script, root) = (bench.kit.join("scripts/server.sh"), bench.root.clone());
        let started = Command::new(&script)
            .args(["start", "postfix", variant])
            .env("PERF_ROOT", &root)
            .env("RELAY_PORT", RELAY.to_string())
            .env("SINK_PORT", SINK.to_string())
            .stderr(Stdio::inherit())
            .output()
            .map_err(|error| format!("{}: {error}", script.display()))?;
        let pid = String::from_utf8_lossy(&started.stdout).trim().parse();
        let pid =
            pid.map_err(|_| "Postfix did not start; this needs root and Debian's postfix".to_owned())?;
        Ok(Self { name: "postfix", pid, kind: Kind::Postfix { script, root } })
    }

    /// Until it takes mail.
    pub fn wait(&self) -> Result<(), String> {
        use std::io::Read;
        let end = Instant::now() + Duration::from_secs(20);
        while Instant::now() < end {
            let greeting = TcpStream::connect(("127.0.0.1", RELAY)).and_then(|mut stream| {
                stream.set_read_timeout(Some(Duration::from_secs(2)))?;
                let mut code = [0; 3];
                stream.read_exact(&mut code)?;
                Ok(code)
            });
            if greeting.is_ok_and(|code| &code == b"220") {
                return Ok(());
            }
            sleep(Duration::from_millis(50));
        }
        Err(format!("{} does not take mail", self.name))
    }

    /// Its first process; the others are children of it.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    pub fn name(&self) -> &'static str {
        self.name
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        match &mut self.kind {
            Kind::Postern(child) => {
                let _ = child.kill();
                let _ = child.wait();
            }
            Kind::Postfix { script, root } => {
                let _ = Command::new(script).args(["stop", "postfix", ""]).env("PERF_ROOT", root).status();
            }
        }
        sleep(Duration::from_millis(300));
    }
}

/// A next hop that takes everything and checks nothing; it ends with the value.
pub struct Sink(Child);

impl Sink {
    pub fn start(bench: &Bench, port: u16) -> Result<Self, String> {
        let sink = Command::new(&bench.loadgen)
            .args([
                "sink",
                "--listen",
                &format!("127.0.0.1:{port}"),
                "--no-verify",
                "--messages",
                "1000000000",
            ])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        sink.map(Sink).map_err(|error| format!("the next hop: {error}"))
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
