//! How fast healthy destinations get their mail while many others are dead: a real `postern standalone` that finds
//! the mail hosts of thousands of domains by DNS: with mail for the healthy ones alone; with mail for the others, too,
//! who are healthy as well; and with them dead. The second says what part of the difference is the mail itself, which
//! has to be taken from its senders in any case.
//!
//! ```text
//! cargo build --release && cargo build --release --example destinations
//! unshare -n sh -c 'ip link set lo up; exec target/release/examples/destinations target/release/postern'
//! ```
//! Further arguments: number of domains (10000), percent of them that are dead (30), messages for each (5).
//!
//! Everything runs on loopback: each domain has a mail host at an address of its own in 127.0.0.0/8, port 25, which
//! the network namespace above has free. A dead host is a tarpit: it takes the connection and never says a word,
//! which costs a sender more than a refusal.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a measurement talks to people")]

#[path = "../tests/it/support/authority.rs"]
mod authority;

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use authority::Authority;

const SMTP: &str = "127.0.0.1:2525";
const ADMIN: &str = "127.0.0.1:8025";
const SESSIONS: usize = 20;
/// A run that takes longer has failed.
const LONGEST: Duration = Duration::from_secs(900);

#[derive(Clone, Copy)]
struct Scene {
    domains: usize,
    dead: usize,
    each: usize,
}

/// What the others are, those that are dead at last.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Others {
    /// No mail is for them.
    Absent,
    Alive,
    Dead,
}

impl Scene {
    /// Spread evenly, so that no line of dead ones comes first or last by chance.
    fn is_dead(self, domain: usize) -> bool {
        domain % 100 < self.dead
    }

    fn healthy(self) -> usize {
        (0..self.domains).filter(|domain| !self.is_dead(*domain)).count()
    }
}

/// The mail host of a domain.
fn address(domain: usize) -> Ipv4Addr {
    let n = u32::try_from(domain).expect("fewer domains than addresses") + (1 << 16);
    Ipv4Addr::from(u32::from(Ipv4Addr::new(127, 0, 0, 0)) + n)
}

fn domain(address: Ipv4Addr) -> usize {
    (u32::from(address) - u32::from(Ipv4Addr::new(127, 0, 0, 0)) - (1 << 16)) as usize
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number =
        |at: usize, default: usize| arguments.get(at).map_or(Some(default), |text| text.parse().ok());
    let (Some(postern), Some(domains), Some(dead), Some(each)) =
        (arguments.first(), number(1, 10_000), number(2, 30), number(3, 5))
    else {
        eprintln!("usage: destinations POSTERN [DOMAINS [PERCENT_DEAD [MESSAGES_EACH]]]");
        return ExitCode::from(2);
    };
    // Inherited by the gateway.
    let limit = getrlimit(Resource::Nofile);
    if setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).is_err() {
        eprintln!("the limit of open files stays at {:?}", limit.current);
    }
    let runtime = tokio::runtime::Runtime::new().expect("threads can be started");
    let scene = Scene { domains, dead, each };
    match runtime.block_on(compare(Path::new(postern), scene)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

async fn compare(postern: &Path, scene: Scene) -> Result<(), String> {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 25)).await;
    let listener =
        listener.map_err(|error| format!("cannot listen on port 25 ({error}): see the top of this file"))?;
    let arrived = Arc::new(AtomicUsize::new(0));
    let (others, now) = watch::channel(Others::Absent);
    tokio::spawn(sink(listener, scene, now, Arc::clone(&arrived)));
    let mut records = Vec::new();
    for n in 0..scene.domains {
        records.push(format!("d{n}.example. MX 10 mx.d{n}.example."));
        records.push(format!("mx.d{n}.example. A {}", address(n)));
    }
    let records: Vec<&str> = records.iter().map(String::as_str).collect();
    let authority = Authority::start(&records).await;
    let Scene { domains, dead, each } = scene;
    println!("{domains} domains, {dead} % of them tarpits, {each} messages of 4 KiB for each");
    let mut rates = Vec::new();
    for (which, name) in [
        (Others::Absent, "healthy alone:           "),
        (Others::Alive, "with the others, alive:  "),
        (Others::Dead, "with the others, dead:   "),
    ] {
        others.send_replace(which);
        let rate = run(postern, scene, authority.address, which, &arrived).await?;
        let of: Vec<String> =
            rates.iter().map(|before| format!(", {:.0} %", 100.0 * rate / before)).collect();
        println!("{name}{rate:.0} messages/s to the healthy{}", of.concat());
        rates.push(rate);
    }
    Ok(())
}

/// Healthy messages per second, from the first one handed over to the last one delivered.
async fn run(
    postern: &Path,
    scene: Scene,
    dns: SocketAddr,
    others: Others,
    arrived: &AtomicUsize,
) -> Result<f64, String> {
    let folder = Folder::new(dns)?;
    let _gateway = Gateway::start(postern, &folder.0).await?;
    arrived.store(0, Ordering::SeqCst);
    let start = Instant::now();
    let mut sessions = tokio::task::JoinSet::new();
    for session in 0..SESSIONS {
        sessions.spawn(load(scene, session, others));
    }
    while let Some(done) = sessions.join_next().await {
        done.map_err(|error| error.to_string())??;
    }
    let wanted = scene.healthy() * scene.each;
    while arrived.load(Ordering::SeqCst) < wanted {
        if start.elapsed() > LONGEST {
            return Err(format!(
                "{} of {wanted} messages came in {LONGEST:?}",
                arrived.load(Ordering::SeqCst)
            ));
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(wanted as f64 / start.elapsed().as_secs_f64())
}

/// One session's share of the messages.
async fn load(scene: Scene, session: usize, others: Others) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("session {session}: {error}");
    let mut wire = Wire::new(TcpStream::connect(SMTP).await.map_err(failed)?);
    wire.reply().await.map_err(failed)?;
    wire.say("EHLO load.example\r\n").await.map_err(failed)?;
    let body = "x".repeat(76) + "\r\n";
    let content = format!("Subject: load\r\n\r\n{}.\r\n", body.repeat(52));
    for turn in 0..scene.each {
        for n in (session..scene.domains).step_by(SESSIONS) {
            if scene.is_dead(n) && others == Others::Absent {
                continue;
            }
            let envelope =
                format!("MAIL FROM:<app@solarmora.com>\r\nRCPT TO:<u{turn}@d{n}.example>\r\nDATA\r\n");
            wire.write(&envelope).await.map_err(failed)?;
            for _ in 0..3 {
                wire.reply().await.map_err(failed)?;
            }
            let reply = wire.say(&content).await.map_err(failed)?;
            if !reply.starts_with("250") {
                return Err(format!("not taken: {reply}"));
            }
        }
    }
    Ok(())
}

/// All mail hosts at once: who was meant is told by the address that was called.
async fn sink(
    listener: TcpListener,
    scene: Scene,
    others: watch::Receiver<Others>,
    arrived: Arc<AtomicUsize>,
) {
    // Counted are the healthy.
    let aside = Arc::new(AtomicUsize::new(0));
    while let Ok((stream, _)) = listener.accept().await {
        let Ok(SocketAddr::V4(called)) = stream.local_addr() else { continue };
        let other = scene.is_dead(domain(*called.ip()));
        let arrived = Arc::clone(if other { &aside } else { &arrived });
        let dead = other && *others.borrow() == Others::Dead;
        tokio::spawn(async move {
            if dead {
                // Never a word, until the caller hangs up.
                let mut wire = Wire::new(stream);
                let _ = wire.reply().await;
                return;
            }
            let _ = take(Wire::new(stream), &arrived).await;
        });
    }
}

async fn take(mut wire: Wire, arrived: &AtomicUsize) -> std::io::Result<()> {
    wire.write("220 mx.example ESMTP\r\n").await?;
    loop {
        let line = wire.line().await?;
        let answer = match line.get(..4).unwrap_or_default().to_ascii_uppercase().as_str() {
            "" => return Ok(()),
            "EHLO" => "250-mx.example\r\n250-PIPELINING\r\n250-8BITMIME\r\n250 SIZE 0\r\n",
            "DATA" => {
                wire.write("354 go on\r\n").await?;
                while wire.line().await? != ".\r\n" {}
                arrived.fetch_add(1, Ordering::SeqCst);
                "250 2.0.0 taken\r\n"
            }
            "QUIT" => {
                wire.write("221 bye\r\n").await?;
                return Ok(());
            }
            _ => "250 2.0.0 ok\r\n",
        };
        wire.write(answer).await?;
    }
}

struct Wire {
    stream: BufReader<TcpStream>,
}

impl Wire {
    fn new(stream: TcpStream) -> Self {
        stream.set_nodelay(true).ok();
        Self { stream: BufReader::new(stream) }
    }

    async fn write(&mut self, text: &str) -> std::io::Result<()> {
        self.stream.write_all(text.as_bytes()).await?;
        self.stream.flush().await
    }

    async fn line(&mut self) -> std::io::Result<String> {
        let mut line = String::new();
        self.stream.read_line(&mut line).await?;
        Ok(line)
    }

    /// The last line of a reply.
    async fn reply(&mut self) -> std::io::Result<String> {
        loop {
            let line = self.line().await?;
            match line.as_bytes().get(3) {
                Some(b'-') => {}
                Some(_) => return Ok(line),
                None => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            }
        }
    }

    async fn say(&mut self, text: &str) -> std::io::Result<String> {
        self.write(text).await?;
        self.reply().await
    }
}

struct Folder(PathBuf);

impl Folder {
    fn new(dns: SocketAddr) -> Result<Self, String> {
        let path = std::env::temp_dir().join(format!("postern-destinations-{}", std::process::id()));
        let yaml = format!(
            "apiVersion: postern.dev/v1alpha1
kind: OutboundGateway
metadata: {{name: default}}
spec:
  hostname: gw.solarmora.com
  domains: [solarmora.com]
  clients: {{cidrs: [127.0.0.0/8]}}
  dns: {{servers: [\"{dns}\"]}}
"
        );
        let write = || {
            fs::create_dir_all(path.join("config"))?;
            fs::write(path.join("config/gateway.yaml"), yaml)
        };
        write().map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Killed when dropped: the dead ones' mail would keep it busy.
struct Gateway(Child);

impl Gateway {
    async fn start(postern: &Path, folder: &Path) -> Result<Self, String> {
        let mut command = Command::new(postern);
        command.arg("standalone").arg(folder.join("config")).args(["--smtp", SMTP, "--admin", ADMIN]);
        command.arg("--state").arg(folder.join("state")).env("POSTERN_LOG", "error");
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let child = command.spawn().map_err(|error| format!("{}: {error}", postern.display()))?;
        let gateway = Self(child);
        let admin: SocketAddr = ADMIN.parse().expect("a literal address");
        let limit = Instant::now() + Duration::from_secs(30);
        while !is_ready(admin).await {
            if Instant::now() > limit {
                return Err("the gateway does not become ready".to_owned());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(gateway)
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

async fn is_ready(admin: SocketAddr) -> bool {
    debug_assert!(matches!(admin.ip(), IpAddr::V4(_)));
    let Ok(stream) = TcpStream::connect(admin).await else { return false };
    let mut wire = Wire::new(stream);
    let asked = wire.write("GET /readyz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
    asked.is_ok() && wire.line().await.is_ok_and(|line| line.contains(" 200 "))
}
