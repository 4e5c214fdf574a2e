//! A pod that is to go hands its mail over to the others (design decision 10): one that the manifest names as
//! leaving, because the gateway has fewer pods from now on, and one whose volume dies with it, whenever it is
//! deleted. Queued mail leaves with its schedule, held mail with its time; both keep their ids.
//!
//! While nobody takes it, mail is delivered from here as before. When all that is free has gone and only attempts
//! are left, delivery stops, and what it had goes too. Empty is said only when nothing is left and nothing can come:
//! no transaction is open, and the spool is sealed. That word stays true until the pod is to stay after all.

mod doubts;
mod parcel;
mod peers;
pub mod receive;
mod send;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::bundle::Leaving;
use crate::gateway::files;
use crate::gateway::intake::Intake;
use crate::gateway::live::{Departure, Live};
use crate::spool::{QueueId, Spool};

pub use peers::{Peers, Place};
pub use send::Sender;

/// Attempts have so long to end by themselves before delivery is stopped for their sake.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between two rounds, and when something is in the way.
const SOON: Duration = Duration::from_millis(200);
const LATER: Duration = Duration::from_secs(2);
/// Doubts are looked after this often.
const DOUBTS: Duration = Duration::from_secs(5);

/// The spool's own name, which stays over restarts: made at the first start.
pub fn identity(folder: &Path) -> std::io::Result<String> {
    let file = folder.join("identity");
    match std::fs::read_to_string(&file) {
        Ok(text) if text.len() == 32 && text.bytes().all(|b| b.is_ascii_hexdigit()) => return Ok(text),
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let identity = format!("{:032x}", rand::random::<u128>());
    files::replace(&file, identity.as_bytes())?;
    Ok(identity)
}

fn digest(ids: &[QueueId]) -> String {
    let mut hasher = blake3::Hasher::new();
    for id in ids {
        hasher.update(id.to_string().as_bytes());
    }
    hasher.finalize().to_hex()[..32].to_owned()
}

/// Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    messages: Family<[(&'static str, &'static str); 1], Counter>,
    failures: Counter,
    doubts: Gauge,
    given_up: Counter,
}

impl Metrics {
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "postern_handover_messages",
            "Messages that went to another pod or came from one, by direction: out, in",
            self.messages.clone(),
        );
        registry.register("postern_handover_failures", "Batches that no peer took", self.failures.clone());
        registry.register(
            "postern_handover_doubts",
            "Messages of which a peer has not said yet whether it has them",
            self.doubts.clone(),
        );
        registry.register(
            "postern_handover_doubts_given_up",
            "Messages that may be delivered twice, because a peer that may have them never said so",
            self.given_up.clone(),
        );
    }

    fn count(&self, direction: &'static str, messages: usize) {
        self.messages.get_or_create(&[("direction", direction)]).inc_by(messages as u64);
    }

    fn failed(&self) {
        self.failures.inc();
    }

    fn in_doubt(&self, messages: usize) {
        self.doubts.set(i64::try_from(messages).unwrap_or(i64::MAX));
    }

    fn gave_up(&self, messages: usize) {
        self.given_up.inc_by(messages as u64);
    }
}

/// Turns delivery off and on. Whoever delivers holds the other half.
pub struct Switch {
    wanted: watch::Sender<bool>,
    runs: watch::Receiver<bool>,
}

/// The half of whoever delivers.
pub struct Lamp {
    wanted: watch::Receiver<bool>,
    runs: watch::Sender<bool>,
}

pub fn switch() -> (Switch, Lamp) {
    let (wanted, wish) = watch::channel(true);
    let (running, runs) = watch::channel(false);
    (Switch { wanted, runs }, Lamp { wanted: wish, runs: running })
}

impl Switch {
    fn is_on(&self) -> bool {
        *self.wanted.borrow()
    }

    fn on(&self) {
        self.wanted.send_replace(true);
    }

    /// Nobody delivers when it returns.
    async fn off(&mut self) {
        self.wanted.send_replace(false);
        // An error: who delivered is gone.
        let _ = self.runs.wait_for(|runs| !runs).await;
    }
}

impl Lamp {
    /// Waits until delivery is wanted, or wanted no more.
    pub async fn until(&mut self, wanted: bool) {
        if self.wanted.wait_for(|wish| *wish == wanted).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    pub fn runs(&self, runs: bool) {
        self.runs.send_replace(runs);
    }
}

/// The end of a pod whose volume dies with it, as those see it who end it.
#[derive(Clone)]
pub struct Exit {
    /// The process is to end.
    begun: watch::Sender<bool>,
    /// No client is left.
    closed: Arc<AtomicBool>,
    empty: watch::Sender<bool>,
}

impl Default for Exit {
    fn default() -> Self {
        Self { begun: watch::Sender::new(false), closed: Arc::default(), empty: watch::Sender::new(false) }
    }
}

impl Exit {
    pub fn begin(&self) {
        self.begun.send_replace(true);
    }

    /// Nothing can come any more.
    pub fn closed(&self) {
        self.closed.store(true, Ordering::Relaxed);
    }

    /// Whether everything was handed over or delivered within the time.
    pub async fn emptied(&self, limit: Duration) -> bool {
        let mut empty = self.empty.subscribe();
        tokio::time::timeout(limit, empty.wait_for(|empty| *empty)).await.is_ok()
    }
}

pub struct Handover {
    pub sender: Sender,
    pub spool: Spool,
    pub live: Arc<Live>,
    pub intake: Intake,
    pub switch: Switch,
    pub exit: Exit,
    /// What was told last, and when.
    pub told: Option<(Instant, Leaving)>,
}

/// Why the mail is to go.
#[derive(Clone, Copy)]
enum Cause {
    Leaving(Departure),
    Exit,
}

impl Handover {
    /// Looks after it until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut departures = self.live.departures();
        let mut exits = self.exit.begun.subscribe();
        loop {
            if let Some(cause) = self.cause() {
                self.go(cause, &stop).await;
            }
            if stop.is_cancelled() {
                return;
            }
            self.sender.resolve().await;
            let doubts = self.sender.has_doubts();
            tokio::select! {
                () = stop.cancelled() => return,
                _ = departures.changed() => {}
                _ = exits.changed() => {}
                () = sleep(DOUBTS), if doubts => {}
            }
        }
    }

    fn cause(&self) -> Option<Cause> {
        if *self.exit.begun.borrow() {
            return Some(Cause::Exit);
        }
        self.live.departure().map(Cause::Leaving)
    }

    /// Whether it is still for this reason that mail goes.
    fn holds(&self, cause: Cause) -> bool {
        match (cause, self.cause()) {
            (Cause::Exit, _) => true,
            (Cause::Leaving(before), Some(Cause::Leaving(now))) => before.epoch == now.epoch,
            (Cause::Leaving(_), Some(Cause::Exit) | None) => false,
        }
    }

    async fn go(&mut self, cause: Cause, stop: &CancellationToken) {
        tracing::info!(messages = self.spool.len(), "handing the mail over to other pods");
        let mut idle = Instant::now();
        // What was told of an earlier time is no news of this one.
        self.told = None;
        let given = self.sender.given;
        while !stop.is_cancelled() && self.holds(cause) {
            let round = {
                let (live, exit) = (Arc::clone(&self.live), self.exit.clone());
                let enough = move || match cause {
                    Cause::Exit => stop.is_cancelled(),
                    Cause::Leaving(before) => {
                        stop.is_cancelled()
                            || *exit.begun.borrow()
                            || live.departure().is_none_or(|now| now.epoch != before.epoch)
                    }
                };
                self.sender.round(enough).await
            };
            if round.moved > 0 {
                idle = Instant::now();
            }
            let left = self.spool.len() as u64;
            let mut report = Leaving {
                left,
                handed_over: self.sender.given - given,
                empty: false,
                problem: round.problem.clone(),
            };
            if left == 0 && !self.sender.has_doubts() && self.may_close(cause) {
                self.spool.seal(true);
                if self.spool.is_sealed_and_empty() {
                    report.empty = true;
                    report.problem = None;
                    tracing::info!(handed_over = report.handed_over, "nothing is left here");
                    self.told(cause, report);
                    self.sender.take_leave().await;
                    return self.rest(cause, stop).await;
                }
                self.spool.seal(false);
            }
            self.told(cause, report);
            let pause = match &round.problem {
                Some(problem) => {
                    tracing::warn!(
                        problem,
                        left,
                        "the mail cannot be handed over; it is delivered from here meanwhile"
                    );
                    self.switch.on();
                    LATER
                }
                None => {
                    // Nothing is free, and what is left is being attempted.
                    if left > 0 && round.moved == 0 && self.switch.is_on() && idle.elapsed() >= PATIENCE {
                        self.switch.off().await;
                    }
                    SOON
                }
            };
            stop.run_until_cancelled(sleep(pause)).await;
        }
        self.switch.on();
    }

    /// No transaction is open, and none can begin.
    fn may_close(&self, cause: Cause) -> bool {
        let turned_away = match cause {
            Cause::Exit => self.exit.closed.load(Ordering::Relaxed),
            Cause::Leaving(_) => self.live.turns_away(),
        };
        turned_away && self.intake.open_transactions() == 0
    }

    /// Numbers once a second; what is worth more than a number at once.
    fn told(&mut self, cause: Cause, report: Leaving) {
        let is_news = self.told.as_ref().is_none_or(|(at, last)| {
            at.elapsed() >= Duration::from_secs(1)
                || (last.empty, &last.problem) != (report.empty, &report.problem)
        });
        match cause {
            Cause::Leaving(departure) if is_news => {
                self.told = Some((Instant::now(), report.clone()));
                self.live.report(departure.epoch, report);
            }
            Cause::Leaving(_) => {}
            Cause::Exit => _ = self.exit.empty.send_replace(report.empty),
        }
    }

    /// Empty, until it is to stay after all.
    async fn rest(&mut self, cause: Cause, stop: &CancellationToken) {
        let mut departures = self.live.departures();
        let mut exits = self.exit.begun.subscribe();
        while self.holds(cause) && !stop.is_cancelled() {
            tokio::select! {
                () = stop.cancelled() => {}
                _ = departures.changed() => {}
                _ = exits.changed() => {}
            }
        }
        if !stop.is_cancelled() && !*self.exit.begun.borrow() {
            self.spool.seal(false);
        }
        self.switch.on();
    }
}
