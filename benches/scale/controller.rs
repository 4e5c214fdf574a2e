//! The controller as a process of its own: what it costs is read from /proc, from its metrics and from the audit
//! log of the API server.

use std::fs;
use std::net::TcpListener;
use std::ops::Sub;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::plane::{MEASURED, Plane};

/// Ticks of CPU time in a second, as /proc counts them on Linux.
const TICKS: u64 = 100;

pub struct Controller {
    child: Child,
    admin: u16,
}

/// What the process itself has used.
#[derive(Debug, Clone, Copy)]
pub struct Usage {
    pub cpu: Duration,
    /// Bytes.
    pub resident: u64,
}

#[derive(Debug, Clone)]
pub struct Cost {
    pub cpu: Duration,
    /// At the end.
    pub resident: u64,
    pub requests: u64,
    pub statuses: u64,
    pub touches: u64,
    pub publications: u64,
    pub passes: u64,
    /// Objects of which it was worked out what to say.
    pub looks: u64,
}

impl Sub for Cost {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self {
            cpu: self.cpu.saturating_sub(before.cpu),
            resident: self.resident,
            requests: self.requests - before.requests,
            statuses: self.statuses - before.statuses,
            touches: self.touches - before.touches,
            publications: self.publications - before.publications,
            passes: self.passes - before.passes,
            looks: self.looks - before.looks,
        }
    }
}

impl Drop for Controller {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Controller {
    pub async fn start(plane: &Plane, pod: &str) -> anyhow::Result<Self> {
        let admin = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(plane.folder().join(format!("controller-{pod}.log")))?;
        let child = Command::new(env!("CARGO_BIN_EXE_postern"))
            .args(["controller", "--image", "postern:scale", "--own-namespace", "default", "--pod", pod])
            .arg("--admin")
            .arg(format!("127.0.0.1:{admin}"))
            // Two of them run beside each other.
            .args(["--api", "127.0.0.1:0"])
            .env("KUBECONFIG", plane.kubeconfig(MEASURED)?)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        let controller = Self { child, admin };
        let until = Instant::now() + Duration::from_secs(30);
        while controller.metrics().await.is_err() {
            if Instant::now() > until {
                bail!("the controller does not come up");
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(controller)
    }

    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Asks it to end, so that it gives the lease back.
    pub fn end(&mut self) {
        let pid = i32::try_from(self.child.id()).ok().and_then(rustix::process::Pid::from_raw);
        if let Some(pid) = pid {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        let _ = self.child.wait();
    }

    pub async fn wait_leading(&self) -> anyhow::Result<()> {
        let until = Instant::now() + Duration::from_secs(60);
        while self.metric("postern_controller_leading").await? == 0 {
            if Instant::now() > until {
                bail!("it does not lead");
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    pub fn usage(&self) -> anyhow::Result<Usage> {
        let folder = format!("/proc/{}", self.child.id());
        let stat = fs::read_to_string(format!("{folder}/stat"))?;
        let (_, fields) = stat.rsplit_once(')').context("a stat line")?;
        let fields: Vec<u64> = fields.split_whitespace().map(|field| field.parse().unwrap_or(0)).collect();
        // Fields 14 and 15 of the line: the first two went with the name.
        let cpu = Duration::from_millis((fields[11] + fields[12]) * 1000 / TICKS);
        let status = fs::read_to_string(format!("{folder}/status"))?;
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let resident = resident.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
        Ok(Usage { cpu, resident: resident.unwrap_or(0) << 10 })
    }

    pub async fn cost(&self, plane: &Plane) -> anyhow::Result<Cost> {
        let requests = plane.requests()?;
        let Usage { cpu, resident } = self.usage()?;
        Ok(Cost {
            cpu,
            resident,
            requests: requests.total,
            statuses: requests.statuses,
            touches: requests.touches,
            publications: self.metric("postern_controller_publications_total").await?,
            passes: self.metric("postern_controller_passes_total").await?,
            looks: self.metric("postern_controller_status_looks_total").await?,
        })
    }

    /// The sum over all labels.
    async fn metric(&self, name: &str) -> anyhow::Result<u64> {
        let page = self.metrics().await?;
        let lines = page.lines().filter(|line| {
            line.strip_prefix(name).is_some_and(|rest| rest.starts_with(' ') || rest.starts_with('{'))
        });
        Ok(lines.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum())
    }

    async fn metrics(&self) -> anyhow::Result<String> {
        let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", self.admin)).await?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: scale\r\nConnection: close\r\n\r\n").await?;
        let mut page = Vec::new();
        stream.read_to_end(&mut page).await?;
        Ok(String::from_utf8_lossy(&page).into_owned())
    }
}
