//! A load of numbered messages at a steady rate, as a well-behaved mail server sends it: over sessions that last, and
//! tried again when told to come later. Every transaction is accounted for by how far it came.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

/// Sessions at the same time.
const SESSIONS: u32 = 20;
/// Messages of one session.
const EACH: u32 = 40;
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Debug, Clone, Default)]
pub struct Report {
    /// Subjects that got 250.
    pub accepted: BTreeSet<String>,
    /// 421 or another 4xx before a transaction began.
    pub told_later: u64,
    /// Nobody answered at the address, or the connection ended before a transaction began.
    pub not_begun: u64,
    /// Transactions that were let begin and came to no 250: at which command, and what was said.
    pub broken: Vec<String>,
    /// Longest time from the first try to the 250.
    pub slowest: Duration,
}

pub struct Load {
    runtime: Runtime,
    stop: Arc<AtomicBool>,
    report: Arc<Mutex<Report>>,
    sessions: Vec<tokio::task::JoinHandle<()>>,
}

struct Shared {
    to: SocketAddr,
    name: String,
    body: String,
    next: AtomicU64,
    stop: Arc<AtomicBool>,
    report: Arc<Mutex<Report>>,
}

/// Why a message was not taken this time.
enum Miss {
    Later,
    NotBegun,
    Broken(String),
}

impl Load {
    /// So many messages a second of about so many bytes, from now on.
    pub fn start(name: &str, to: SocketAddr, per_second: u32, bytes: usize) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("threads can be started");
        let (stop, report) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Report::default())));
        let shared = Arc::new(Shared {
            to,
            name: name.to_owned(),
            body: "0123456789 abcdefghij klmnopqrst uvwxyz ABCDEFGH\r\n".repeat(bytes / 50 + 1),
            next: AtomicU64::new(0),
            stop: Arc::clone(&stop),
            report: Arc::clone(&report),
        });
        let pause = Duration::from_secs(1) * SESSIONS / per_second;
        let sessions = (0..SESSIONS)
            .map(|number| {
                let shared = Arc::clone(&shared);
                runtime.spawn(async move {
                    sleep(pause * number / SESSIONS).await;
                    shared.send_all(pause).await;
                })
            })
            .collect();
        Self { runtime, stop, report, sessions }
    }

    pub fn accepted(&self) -> usize {
        self.report.lock().unwrap_or_else(PoisonError::into_inner).accepted.len()
    }

    /// Begins nothing new, ends what has begun.
    pub fn finish(self) -> Report {
        self.stop.store(true, Ordering::Relaxed);
        self.runtime.block_on(async {
            for session in self.sessions {
                session.await.expect("no session panicked");
            }
        });
        let report = self.report.lock().unwrap_or_else(PoisonError::into_inner).clone();
        self.runtime.shutdown_background();
        report
    }
}

impl Shared {
    fn note(&self, note: impl FnOnce(&mut Report)) {
        note(&mut self.report.lock().unwrap_or_else(PoisonError::into_inner));
    }

    async fn send_all(&self, pause: Duration) {
        let mut ticks = interval(pause);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let (mut session, mut count) = (None, 0);
        while !self.stop.load(Ordering::Relaxed) {
            ticks.tick().await;
            let subject = format!("{}-{}", self.name, self.next.fetch_add(1, Ordering::Relaxed));
            let began = Instant::now();
            // What was begun is brought to its end, or the count would say nothing.
            while let Err(miss) = self.one(&mut session, &subject).await {
                session = None;
                self.note(|report| match miss {
                    Miss::Later => report.told_later += 1,
                    Miss::NotBegun => report.not_begun += 1,
                    Miss::Broken(what) => report.broken.push(format!("{subject}: {what}")),
                });
                if began.elapsed() > Duration::from_secs(120) {
                    self.note(|report| report.broken.push(format!("{subject}: given up")));
                    return;
                }
                sleep(Duration::from_millis(100)).await;
            }
            self.note(|report| {
                report.slowest = report.slowest.max(began.elapsed());
                report.accepted.insert(subject);
            });
            count += 1;
            if count % EACH == 0
                && let Some(session) = session.take()
            {
                session.quit().await;
            }
        }
        if let Some(session) = session {
            session.quit().await;
        }
    }

    async fn one(&self, session: &mut Option<Session>, subject: &str) -> Result<(), Miss> {
        let open = match session {
            Some(open) => open,
            none => none.insert(Session::open(self.to).await?),
        };
        let reply = open.say("MAIL FROM:<ani@solarmora.com>").await.map_err(|_| Miss::NotBegun)?;
        match reply.as_bytes().first() {
            Some(b'2') => {}
            Some(b'4') => return Err(Miss::Later),
            _ => return Err(Miss::Broken(format!("MAIL: {reply}"))),
        }
        let broken = |at: &str, reply: &str| Miss::Broken(format!("{at}: {reply}"));
        for (command, wanted) in [("RCPT TO:<b@partner.example>", "250"), ("DATA", "354")] {
            let reply = open.say(command).await.map_err(|error| broken(command, &error))?;
            if !reply.starts_with(wanted) {
                return Err(broken(command, &reply));
            }
        }
        let letter = format!("From: ani@solarmora.com\r\nSubject: {subject}\r\n\r\n{}.", self.body);
        let reply = open.say(&letter).await.map_err(|error| broken("the end of data", &error))?;
        if reply.starts_with("250") { Ok(()) } else { Err(broken("the end of data", &reply)) }
    }
}

struct Session(BufReader<TcpStream>);

impl Session {
    async fn open(to: SocketAddr) -> Result<Self, Miss> {
        let connected = timeout(Duration::from_secs(3), TcpStream::connect(to)).await;
        let stream = connected.map_err(|_| Miss::NotBegun)?.map_err(|_| Miss::NotBegun)?;
        let _ = stream.set_nodelay(true);
        let mut session = Self(BufReader::new(stream));
        let greeting = session.reply().await.map_err(|_| Miss::NotBegun)?;
        if !greeting.starts_with("220") {
            return Err(Miss::Later);
        }
        let reply = session.say("EHLO load.solarmora.com").await.map_err(|_| Miss::NotBegun)?;
        if reply.starts_with("250") { Ok(session) } else { Err(Miss::Later) }
    }

    async fn say(&mut self, line: &str) -> Result<String, String> {
        let text = format!("{line}\r\n");
        let written = timeout(PATIENCE, self.0.get_mut().write_all(text.as_bytes())).await;
        written.map_err(|_| "not taken in time".to_owned())?.map_err(|error| error.to_string())?;
        self.reply().await
    }

    /// The last line of a reply.
    async fn reply(&mut self) -> Result<String, String> {
        loop {
            let mut line = String::new();
            let read = timeout(PATIENCE, self.0.read_line(&mut line)).await;
            let read = read.map_err(|_| "no reply in time".to_owned())?.map_err(|error| error.to_string())?;
            if read == 0 {
                return Err("the connection ended".to_owned());
            }
            if line.as_bytes().get(3) != Some(&b'-') {
                return Ok(line.trim_end().to_owned());
            }
        }
    }

    async fn quit(mut self) {
        let _ = self.say("QUIT").await;
    }
}
