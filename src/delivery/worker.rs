//! The owner of all attempts: takes what is due and gives each destination a lane of its own, so that a dead
//! one holds up nobody else. Runners take jobs out of the lanes, one after the other; each tells the spool
//! what became of its recipients before it takes the next.

mod job;
mod lanes;
mod paused;
mod places;
mod upkeep;

use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::Notify;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use self::job::{Done, Job, Shared};
use self::lanes::{Back, Gate, Lanes};
use super::attempt::Outside;
use super::bounce::Allowance;
use super::client::Timeouts;
use super::edits::Room;
use super::limits::{Pass, Throttle, Wait};
use super::metrics::Metrics;
use super::pauses::Pauses;
use super::plan::MX_PORT;
use super::protect::Protection;
use super::routes::{Destination, Routes};
use super::wake::{self, Situation};
use crate::loops::Dealer;
use crate::spool::Spool;

#[derive(Debug, Clone)]
pub struct Config {
    pub timeouts: Timeouts,
    /// Attempts that run at the same time.
    pub concurrency: usize,
    /// Attempts beyond that which have taken longer than `patience`: a host that is down takes a while.
    pub slow: usize,
    pub patience: Duration,
    /// The patience with a domain's mail host that has not let us in yet: one that hangs costs little, and there may
    /// be thousands.
    pub first_word: Duration,
    /// Attempts that run at the same time to one destination (a route, or a domain's mail hosts).
    pub per_destination: usize,
    /// Messages that stand in line in memory for one destination; more go back to the spool a while.
    pub waiting: usize,
    /// Bytes that messages in line and on the way may hold in memory.
    pub memory: u64,
    /// How long shutdown waits for attempts that run.
    pub drain: Duration,
    /// The port of mail hosts found by MX. Anything but 25 is for tests.
    pub mx_port: u16,
    /// Where attempts run.
    pub loops: Dealer,
    /// How much may go where; whoever shows it holds a clone.
    pub throttle: Throttle,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            timeouts: Timeouts::default(),
            concurrency: 1000,
            slow: 4000,
            patience: Duration::from_secs(3),
            first_word: Duration::from_millis(500),
            per_destination: 20,
            waiting: 2000,
            memory: 64 << 20,
            drain: Duration::from_secs(20),
            mx_port: MX_PORT,
            loops: Dealer::default(),
            throttle: Throttle::default(),
        }
    }
}

/// Delivers what the spool has until it is shut down.
pub struct Worker {
    stop: CancellationToken,
    task: JoinHandle<()>,
    upkeep: JoinHandle<()>,
    /// Wakes mail whose way out opens.
    waker: JoinHandle<()>,
}

impl Worker {
    /// Must be called inside a tokio runtime.
    /// `allowance` is shared with whoever else writes reports, `pauses` with whoever sets them.
    pub fn start(
        spool: Spool,
        routes: Arc<dyn Routes>,
        metrics: Metrics,
        allowance: Allowance,
        pauses: Pauses,
        config: Config,
    ) -> Self {
        let stop = CancellationToken::new();
        let protection = Protection::open(spool.dir());
        let outside = Outside { timeouts: config.timeouts, protection, ..Outside::default() };
        let situation = Situation::now(&*routes, &pauses);
        let waker = wake::watch(spool.clone(), Arc::clone(&routes), pauses.clone(), situation, stop.clone());
        let waker = tokio::spawn(waker);
        let (drain, loops) = (config.drain, config.loops.clone());
        let lanes = Mutex::new(Lanes::new(config.clone()));
        let shared = Arc::new(Shared {
            spool,
            routes,
            outside,
            metrics,
            pauses,
            throttle: config.throttle,
            room: Room::new(config.memory),
            mx_port: config.mx_port,
            stop: stop.clone(),
            allowance,
        });
        let upkeep = tokio::spawn(upkeep::keep(Arc::clone(&shared), stop.clone()));
        let crew = Crew {
            shared,
            lanes,
            loops,
            earlier: Notify::new(),
            runners: TaskTracker::new(),
            cut: CancellationToken::new(),
        };
        // Beside the first runners: to send one out wakes no other thread.
        let turn = crew.loops.deal();
        let task = turn.handle().spawn(run(Arc::new(crew), drain, stop.clone()));
        drop(turn);
        Self { stop, task, waker, upkeep }
    }

    /// Takes nothing new, lets attempts that run come to an end within the configured time. What is
    /// not done stays in the spool.
    pub async fn shutdown(self) {
        self.stop.cancel();
        for task in [self.waker, self.task, self.upkeep] {
            if let Err(error) = task.await {
                warn!(%error, "delivery ended badly");
            }
        }
    }
}

/// What the feeder and the runners share.
struct Crew {
    shared: Arc<Shared>,
    lanes: Mutex<Lanes>,
    loops: Dealer,
    /// A lane wakes earlier than the feeder knows.
    earlier: Notify,
    runners: TaskTracker,
    /// Ends the runners where they are.
    cut: CancellationToken,
}

/// Messages taken from the spool at once: enough to read a backlog in long strides, few enough that other
/// destinations do not wait for them.
const BATCH: usize = 64;
const BATCH_BYTES: u64 = 4 << 20;

/// The feeder: brings what is due to the lanes and sends out runners.
async fn run(crew: Arc<Crew>, drain: Duration, stop: CancellationToken) {
    let shared = &crew.shared;
    let mut goodbyes: JoinSet<()> = JoinSet::new();
    let mut sweep = interval(Duration::from_secs(5));
    sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        crew.set_out();
        let rouse = crew.lanes().next_rouse();
        tokio::select! {
            () = stop.cancelled() => break,
            due = shared.spool.take_due(BATCH, BATCH_BYTES) => {
                let table = shared.routes.current();
                for job in due.into_iter().flat_map(|due| Job::group(&table, due)) {
                    let back = crew.lanes().push(job, Timestamp::now());
                    crew.lay_down(back);
                }
            }
            () = sleep_until(rouse) => {}
            () = crew.earlier.notified() => {}
            Some(_) = goodbyes.join_next() => {}
            _ = sweep.tick() => for session in shared.outside.pool.sweep(false) {
                goodbyes.spawn(session.quit());
            },
        }
    }
    crew.lanes().close();
    crew.runners.close();
    let of = crew.runners.len();
    if timeout(drain, crew.runners.wait()).await.is_err() {
        let left = crew.runners.len();
        info!(left, of, "attempts cut off at shutdown; their mail stays in the spool");
        crew.cut.cancel();
        crew.runners.wait().await;
    }
    upkeep::tidy(shared).await;
    for session in shared.outside.pool.sweep(true) {
        goodbyes.spawn(session.quit());
    }
    while goodbyes.join_next().await.is_some() {}
}

impl Crew {
    fn lanes(&self) -> MutexGuard<'_, Lanes> {
        // Whoever panicked did so outside of its few lines.
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next job that may start.
    fn next(self: &Arc<Self>) -> Option<(Destination, Job, Option<Pass>)> {
        let (next, back, earlier) = {
            let mut lanes = self.lanes();
            let before = lanes.next_rouse();
            let next = lanes.next(&*self.shared, Timestamp::now());
            let earlier = lanes.next_rouse().is_some_and(|then| before.is_none_or(|before| then < before));
            (next, lanes.take_back(), earlier)
        };
        if earlier {
            self.earlier.notify_one();
        }
        self.lay_down(back);
        next
    }

    /// Jobs go back to the spool for a while; those whose senders must hear of it do not.
    fn lay_down(self: &Arc<Self>, back: impl IntoIterator<Item = Back>) {
        let mut back = back.into_iter().peekable();
        if back.peek().is_none() {
            return;
        }
        let (table, now) = (self.shared.routes.current(), Timestamp::now());
        for Back { job, by, why } in back {
            match why.filter(|_| job.is_overdue(&table, now)) {
                Some(why) => {
                    let shared = Arc::clone(&self.shared);
                    self.runners.spawn(async move { job::held_back(&shared, job, why).await });
                }
                None => job.postpone(&self.shared.spool, by),
            }
        }
    }

    /// A runner for each job that may start now.
    fn set_out(self: &Arc<Self>) {
        loop {
            let Some((lane, job, pass)) = self.next() else { return };
            let turn = self.loops.deal();
            let handle = turn.handle();
            let (crew, cut) = (Arc::clone(self), self.cut.clone());
            let running = async move {
                let _turn = turn;
                cut.run_until_cancelled(crew.run(lane, job, pass)).await;
            };
            self.runners.spawn_on(running, &handle);
        }
    }

    /// One job after the other, as long as there is one that may run.
    async fn run(self: &Arc<Self>, mut lane: Destination, mut job: Job, mut pass: Option<Pass>) {
        loop {
            let until = job.place;
            let place = Place { crew: self, until };
            let done = self.attempt(lane, job, pass).await;
            std::mem::forget(place);
            let passed_over = {
                let mut lanes = self.lanes();
                lanes.leave(until);
                lanes.done(done)
            };
            let next = self.next();
            // Those in line behind it would only wait for the same silence.
            for (job, problem) in passed_over {
                let shared = Arc::clone(&self.shared);
                self.runners.spawn(async move { job::give_up_turn(&shared, job, problem).await });
            }
            match next {
                Some(next) => (lane, job, pass) = next,
                None => return,
            }
        }
    }

    /// One job. Those in line follow as soon as it meets a host that nobody has met yet.
    async fn attempt(self: &Arc<Self>, lane: Destination, job: Job, pass: Option<Pass>) -> Done {
        let stranger = job.meets.then(|| lane.clone());
        let mut work = pin!(job::run(&self.shared, lane, job, pass.as_ref()));
        if let (Some(stranger), Some(pass)) = (stranger, &pass) {
            tokio::select! {
                biased;
                done = &mut work => return done,
                () = pass.meeting() => {}
            }
            self.lanes().met(&stranger);
            self.set_out();
        }
        work.await
    }
}

impl Gate for Shared {
    fn admit(&self, job: &Job) -> Result<Option<Pass>, Wait> {
        let Ok(route) = self.routes.current().resolve(job.via()) else { return Ok(None) };
        self.throttle.admit(&route, &job.destination, Timestamp::now()).map(Some)
    }
}

async fn sleep_until(then: Option<Timestamp>) {
    match then {
        Some(then) => {
            let by = Duration::try_from(then.duration_since(Timestamp::now())).unwrap_or_default();
            // The timer's grain is a millisecond: a little late rather than again and again too early.
            tokio::time::sleep(by + Duration::from_millis(1)).await;
        }
        None => std::future::pending().await,
    }
}

/// A place among the runners, while its job runs.
struct Place<'a> {
    crew: &'a Crew,
    until: Timestamp,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            warn!("an attempt ended badly; its message is tried again after a restart");
        }
        // In its own line it stays taken: whatever broke there shall not break at full speed.
        self.crew.lanes().leave(self.until);
    }
}
