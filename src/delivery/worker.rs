//! The owner of all attempts: takes what is due, gives each destination a lane of its own so that a
//! dead one holds up nobody else, and tells the spool what became of each recipient before anything
//! else happens.

mod job;
mod lanes;
mod upkeep;

use std::sync::Arc;
use std::time::Duration;

use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use self::job::{Job, Shared};
use self::lanes::Lanes;
use super::attempt::Outside;
use super::bounce::Allowance;
use super::client::Timeouts;
use super::metrics::Metrics;
use super::plan::MX_PORT;
use super::protect::Protection;
use super::routes::Routes;
use crate::spool::Spool;

#[derive(Debug, Clone, Copy)]
pub struct Config {
    pub timeouts: Timeouts,
    /// Attempts that run at the same time.
    pub concurrency: usize,
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
}

impl Default for Config {
    fn default() -> Self {
        Self {
            timeouts: Timeouts::default(),
            concurrency: 1000,
            per_destination: 20,
            waiting: 2000,
            memory: 64 << 20,
            drain: Duration::from_secs(20),
            mx_port: MX_PORT,
        }
    }
}

/// Delivers what the spool has until it is shut down.
pub struct Worker {
    stop: CancellationToken,
    task: JoinHandle<()>,
    upkeep: JoinHandle<()>,
}

impl Worker {
    /// Must be called inside a tokio runtime.
    /// `allowance` is shared with whoever else writes reports.
    pub fn start(
        spool: Spool,
        routes: Arc<dyn Routes>,
        metrics: Metrics,
        allowance: Allowance,
        config: Config,
    ) -> Self {
        let stop = CancellationToken::new();
        let protection = Protection::open(spool.dir());
        let outside = Outside { timeouts: config.timeouts, protection, ..Outside::default() };
        let shared = Shared::new(spool, routes, outside, metrics, allowance, config, stop.clone());
        let shared = Arc::new(shared);
        let upkeep = tokio::spawn(upkeep::keep(Arc::clone(&shared), stop.clone()));
        let task = tokio::spawn(run(shared, config, stop.clone()));
        Self { stop, task, upkeep }
    }

    /// Takes nothing new, lets attempts that run come to an end within the configured time. What is
    /// not done stays in the spool.
    pub async fn shutdown(self) {
        self.stop.cancel();
        for task in [self.task, self.upkeep] {
            if let Err(error) = task.await {
                warn!(%error, "delivery ended badly");
            }
        }
    }
}

async fn run(shared: Arc<Shared>, config: Config, stop: CancellationToken) {
    let mut lanes = Lanes::new(config);
    let mut running: JoinSet<job::Done> = JoinSet::new();
    let mut goodbyes: JoinSet<()> = JoinSet::new();
    let mut sweep = interval(Duration::from_secs(5));
    sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        while let Some((lane, job)) = lanes.next() {
            running.spawn(job::run(Arc::clone(&shared), lane, job));
        }
        shared.metrics.in_flight.set(i64::try_from(running.len()).unwrap_or(i64::MAX));
        tokio::select! {
            () = stop.cancelled() => break,
            due = shared.spool.next_due() => {
                for job in Job::group(&shared.routes.current(), due) {
                    if let Some((job, by)) = lanes.push(job) {
                        job.postpone(&shared.spool, by);
                    }
                }
            }
            Some(done) = running.join_next() => match done {
                // Those in line behind it would only wait for the same silence.
                Ok(done) => for (job, problem) in lanes.done(done) {
                    running.spawn(job::give_up_turn(Arc::clone(&shared), job, problem));
                },
                Err(error) => {
                    warn!(%error, "an attempt ended badly; its message is tried again after a restart");
                    lanes.lost();
                }
            },
            Some(_) = goodbyes.join_next() => {}
            _ = sweep.tick() => for session in shared.outside.pool.sweep(false) {
                goodbyes.spawn(session.quit());
            },
        }
    }
    let left = running.len();
    if timeout(config.drain, async { while running.join_next().await.is_some() {} }).await.is_err() {
        info!(left = running.len(), of = left, "attempts cut off at shutdown; their mail stays in the spool");
    }
    running.shutdown().await;
    for session in shared.outside.pool.sweep(true) {
        goodbyes.spawn(session.quit());
    }
    while goodbyes.join_next().await.is_some() {}
}
