//! One job: the recipients of one message that go the same way. Attempt, settle, done.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use super::paused;
use crate::delivery::attempt::{Outside, attempt};
use crate::delivery::bounce::{self, About, Allowance};
use crate::delivery::client::transaction::Letter;
use crate::delivery::edits::{self, Room};
use crate::delivery::limits::{Hold, Pass, Throttle};
use crate::delivery::metrics::{
    ByKind, ByNote, ByProtection, ByReason, ByResult, ByRoute, Metrics, ReportKind, Verdict,
};
use crate::delivery::outcome::{Outcome, Problem, Tally, Trouble};
use crate::delivery::pauses::Pauses;
use crate::delivery::plan;
use crate::delivery::retry;
use crate::delivery::routes::{Destination, Label, Route, RouteTable, Routes, domain_of};
use crate::delivery::settle::{self, Attempted};
use crate::delivery::wake::Situation;
use crate::mail::dsn;
use crate::mail::envelope::{Recipient, Via};
use crate::spool::{CommitError, Content, Due, Entry, Fate, Queued, Spool, Submission, Waiting};

/// How long a message goes back to the spool whose content cannot be read now.
const UNREADABLE: Duration = Duration::from_secs(60);
/// How long a message waits whose report found no room.
const NO_ROOM: Duration = Duration::from_secs(120);

/// What all jobs share.
pub struct Shared {
    pub spool: Spool,
    pub routes: Arc<dyn Routes>,
    pub outside: Outside,
    pub metrics: Metrics,
    pub pauses: Pauses,
    pub throttle: Throttle,
    pub room: Room,
    pub mx_port: u16,
    pub stop: CancellationToken,
    pub allowance: Allowance,
}

pub struct Job {
    pub destination: Destination,
    /// Jobs of its destination that may run at the same time, if its route says so.
    pub abreast: Option<usize>,
    pub(super) queued: Queued,
    pub(super) targets: Vec<usize>,
    /// Until when its attempt has a place of its own.
    pub(super) place: Timestamp,
    /// Nobody has met the destination yet: those in line wait for what comes of this one.
    pub(super) meets: bool,
}

/// A job came to its end.
pub struct Done {
    pub lane: Destination,
    /// What [`Job::memory`] said.
    pub memory: u64,
    /// The destination did not say a word.
    pub silence: Option<Problem>,
}

impl Job {
    /// Splits what is due by destination, terms and edits: each job can be one transaction.
    pub fn group(table: &RouteTable, due: Due) -> Vec<Job> {
        let Due { queued, targets } = due;
        let entry = Arc::clone(queued.entry());
        let mut jobs: Vec<Job> = Vec::new();
        for target in targets {
            let this = &entry.targets[target];
            let (destination, most, abreast) = match table.resolve(&this.via) {
                Ok(route) => {
                    let (label, limits) = (route.label.clone(), &route.limits);
                    let (destination, abreast) = match route.is_by_domain() {
                        true => {
                            let domain = domain_of(&this.recipient.mailbox);
                            (Destination::Domain(label, domain), limits.per_domain.connections)
                        }
                        false => (Destination::Route(label), limits.connections),
                    };
                    (destination, route.max_together(), abreast.map(|most| most as usize))
                }
                Err(_) => (Destination::Nowhere(this.via.clone()), usize::MAX, None),
            };
            let alike = |job: &&mut Job| {
                let other = &entry.targets[job.targets[0]];
                job.destination == destination
                    && job.targets.len() < most
                    && other.via == this.via
                    && other.require_tls == this.require_tls
                    && other.suppress_bounces == this.suppress_bounces
                    && other.edits == this.edits
            };
            match jobs.iter_mut().find(alike) {
                Some(job) => job.targets.push(target),
                None => jobs.push(Job {
                    destination,
                    abreast,
                    queued: queued.clone(),
                    targets: vec![target],
                    place: Timestamp::UNIX_EPOCH,
                    meets: false,
                }),
            }
        }
        jobs
    }

    /// Back to the spool for a while, without an attempt.
    pub fn postpone(&self, spool: &Spool, by: Duration) {
        let at = later(Timestamp::now(), by);
        let times: Vec<_> = self.targets.iter().map(|target| (*target, at)).collect();
        spool.release(self.queued.id(), &times);
    }

    /// Bytes of memory it holds; content that is mapped from disk is the kernel's to keep or drop.
    pub fn memory(&self) -> u64 {
        const OVERHEAD: u64 = 1024;
        let content = self.queued.size();
        OVERHEAD + if content <= 256 << 10 { content } else { 0 }
    }

    /// Whether it has waited so long that its sender must hear of it: it is too old, or late and nobody said so.
    pub fn is_overdue(&self, table: &RouteTable, now: Timestamp) -> bool {
        let (schedule, received_at) = (table.retry(self.via()), self.entry().received_at);
        now >= retry::give_up_at(&schedule, received_at)
            || (retry::is_late(&schedule, received_at, now)
                && self.targets.iter().any(|&target| !waiting(&self.queued, target, now).warned))
    }

    pub(super) fn via(&self) -> &Via {
        &self.entry().targets[self.targets[0]].via
    }

    fn entry(&self) -> &Entry {
        self.queued.entry()
    }

    fn recipients<'a>(&'a self, targets: &[usize]) -> Vec<&'a Recipient> {
        targets.iter().map(|&target| &self.entry().targets[target].recipient).collect()
    }
}

/// Makes the attempt and settles it.
pub async fn run(shared: &Shared, lane: Destination, job: Job, pass: Option<&Pass>) -> Done {
    shared.metrics.in_flight.inc();
    let done = attempt_and_settle(shared, lane, job, pass).await;
    shared.metrics.in_flight.dec();
    done
}

async fn attempt_and_settle(shared: &Shared, lane: Destination, job: Job, pass: Option<&Pass>) -> Done {
    let table = shared.routes.current();
    let route = table.resolve(job.via());
    if !is_admitted(pass, route.as_ref().ok(), &job) {
        // The routes have changed since it was asked: it comes again at once.
        job.postpone(&shared.spool, Duration::ZERO);
        return Done { lane, memory: job.memory(), silence: None };
    }
    if let Some(pass) = pass
        && let Err(wait) = pass.confirm(table.shared_limits.as_ref()).await
    {
        job.postpone(&shared.spool, until(wait.until));
        return Done { lane, memory: job.memory(), silence: None };
    }
    let content = match job.queued.content() {
        Ok(content) => content,
        Err(error) => {
            error!(queue_id = %job.queued.id(), %error, "the content of a message cannot be read");
            job.postpone(&shared.spool, UNREADABLE);
            return Done { lane, memory: job.memory(), silence: None };
        }
    };
    let memory = job.memory();
    let Some(job) = paused::set_aside(shared, &table, &content, job).await else {
        return Done { lane, memory, silence: None };
    };
    let (label, outcomes) = outcomes(shared, &table, route, &job, pass, &content).await;
    // Who does not answer, or does not let us in, does so for whoever stands in line too.
    let alike = |trouble: &Trouble| trouble.is_silence() || trouble.is_unwelcome();
    let silent = |outcome: &Outcome| matches!(outcome, Outcome::Later(p) if alike(&p.trouble));
    let silence = match outcomes.first() {
        Some(Outcome::Later(problem)) if outcomes.iter().all(silent) => Some(problem.clone()),
        _ => None,
    };
    if let Some(problem) = silence.as_ref().filter(|problem| problem.trouble.is_unwelcome()) {
        let (route, host) = (label.as_ref().map(Label::to_string), problem.host.as_deref());
        let (reason, code) = (problem.trouble.reason(), problem.reply().map(|reply| reply.code));
        warn!(
            route,
            host, reason, code, "the next hop does not let this gateway in; mail waits for its repair"
        );
    }
    conclude(shared, &table, &job, &content, label.as_ref(), &outcomes).await;
    Done { lane, memory, silence }
}

/// Whether the pass is for the route as it is now.
fn is_admitted(pass: Option<&Pass>, route: Option<&Arc<Route>>, job: &Job) -> bool {
    match (pass, route) {
        (None, None) => true,
        (Some(pass), Some(route)) => {
            pass.is_for(route) && route.is_by_domain() == job.destination.domain().is_some()
        }
        (None, Some(_)) | (Some(_), None) => false,
    }
}

/// Settles a job that limits or its destination's words have kept back until its sender must hear of it.
pub async fn held_back(shared: &Shared, job: Job, why: Hold) {
    give_up_turn(shared, job, Problem::new(Trouble::HeldBack(why.words().to_owned()))).await;
}

/// Settles a job whose destination was found silent by another: no need to wait for that again.
pub async fn give_up_turn(shared: &Shared, job: Job, problem: Problem) {
    let table = shared.routes.current();
    let label = table.resolve(job.via()).ok().map(|route| route.label.clone());
    match job.queued.content() {
        Ok(content) => {
            let outcomes = vec![Outcome::Later(problem); job.targets.len()];
            conclude(shared, &table, &job, &content, label.as_ref(), &outcomes).await;
        }
        Err(_) => job.postpone(&shared.spool, UNREADABLE),
    }
}

async fn outcomes(
    shared: &Shared,
    table: &Arc<RouteTable>,
    route: Result<Arc<Route>, Problem>,
    job: &Job,
    pass: Option<&Pass>,
    content: &Content,
) -> (Option<Label>, Vec<Outcome>) {
    let entry = job.entry();
    let first = &entry.targets[job.targets[0]];
    let all = |outcome: Outcome| vec![outcome; job.targets.len()];
    let route = match route {
        Ok(route) => route,
        Err(problem) => return (None, all(Outcome::Later(problem))),
    };
    let pass = pass.expect("a job of a route that is there was admitted");
    let label = route.label.clone();
    shared.metrics.attempts.get_or_create(&ByRoute { route: shared.metrics.route(Some(&label)) }).inc();

    let prepared = match edits::prepare(&shared.room, job.queued.id(), content, &first.edits, table).await {
        Ok(prepared) => prepared,
        Err(problem) => return (Some(label), all(outcome_of(problem, &route))),
    };
    for note in &prepared.message.notes {
        shared.metrics.edits.get_or_create(&ByNote { note: note.word() }).inc();
    }
    let prepared = match entry.own || !first.edits.is_empty() {
        true => prepared.signed(table, content).await,
        false => prepared,
    };
    let mut letter = Letter::new(&entry.sender, prepared.message.head(), prepared.message.rest());
    letter.suppress_bounces = first.suppress_bounces;
    // The route may have become one by MX since the recipients were grouped.
    let mut outcomes: Vec<Option<Outcome>> = vec![None; job.targets.len()];
    while let Some(start) = outcomes.iter().position(Option::is_none) {
        let mailbox = |at: usize| &entry.targets[job.targets[at]].recipient.mailbox;
        let host = mailbox(start).host();
        let alike: Vec<usize> = (start..job.targets.len())
            .filter(|&at| !route.is_by_domain() || mailbox(at).host() == host)
            .collect();
        let targets: Vec<usize> = alike.iter().map(|&at| job.targets[at]).collect();
        let dns = &shared.outside.dns;
        let plan = plan::plan(table, dns, Arc::clone(&route), host, first.require_tls, shared.mx_port).await;
        let results = match plan {
            Ok(plan) => {
                attempt(&shared.outside, table, &plan, pass, &letter, &job.recipients(&targets)).await
            }
            Err(problem) => vec![outcome_of(problem, &route); targets.len()],
        };
        for (at, outcome) in alike.into_iter().zip(results) {
            outcomes[at] = Some(outcome);
        }
    }
    (Some(label), outcomes.into_iter().flatten().collect())
}

/// What a problem means that came before any host was asked.
fn outcome_of(problem: Problem, route: &Route) -> Outcome {
    let mut tally = Tally::default();
    let outcome = tally.add(problem, route.on_tls_failure).or_else(|| tally.sum());
    outcome.expect("a problem was added")
}

/// Counts, logs and settles. Returns when the spool has taken it, or when the process must end.
async fn conclude(
    shared: &Shared,
    table: &RouteTable,
    job: &Job,
    content: &Content,
    label: Option<&Label>,
    outcomes: &[Outcome],
) {
    let now = Timestamp::now();
    let entry = job.entry();
    let via = &entry.targets[job.targets[0]].via;
    count(shared, job, label, outcomes, now);
    let before: Vec<Waiting> = job.targets.iter().map(|&target| waiting(&job.queued, target, now)).collect();
    let attempted: Vec<Attempted<'_>> = job
        .targets
        .iter()
        .zip(&before)
        .zip(outcomes)
        .map(|((&target, before), outcome)| Attempted { target, before, outcome })
        .collect();
    let mut settled = settle::settle(entry, &table.retry(via), now, rand::random::<f64>, &attempted);
    let failed = || settled.fates.iter().filter(|(_, fate)| *fate == Fate::Failed);
    if entry.sender.mailbox.is_none() {
        shared.metrics.double_bounces.inc_by(failed().count() as u64);
    }
    // R85: nobody is told, so it is counted.
    let silent = failed().filter(|(target, _)| entry.targets[*target].suppress_bounces).count();
    shared.metrics.bounces_suppressed.inc_by(silent as u64);
    open_meanwhile(shared, table, entry, &mut settled.fates, now);
    let about = About { entry, content: content.bytes() };
    let mut reports = Vec::new();
    for fates in [&settled.failed, &settled.delayed, &settled.relayed] {
        reports.extend(report(shared, table, now, about, fates));
    }
    store(shared, job, &before, settled.fates, reports).await;
}

/// An attempt that failed on a way that is another one by now says nothing about that one.
fn open_meanwhile(
    shared: &Shared,
    table: &RouteTable,
    entry: &Entry,
    fates: &mut [(usize, Fate)],
    now: Timestamp,
) {
    let current = Situation::now(&*shared.routes, &shared.pauses);
    if std::ptr::eq(&*current.table, table) {
        return;
    }
    for (target, fate) in fates {
        if let Fate::Waiting(waiting) = fate
            && current.has_other_way(table, &entry.targets[*target])
        {
            let soon = later(now, Duration::from_secs_f64(1.0 + rand::random::<f64>()));
            waiting.next_attempt = waiting.next_attempt.min(soon);
        }
    }
}

/// Tells the spool. Nothing else happens with this message before it knows.
pub(super) async fn store(
    shared: &Shared,
    job: &Job,
    before: &[Waiting],
    fates: Vec<(usize, Fate)>,
    reports: Vec<Submission>,
) {
    let id = job.queued.id();
    if reports.is_empty() && shared.spool.settle_soon(id, &fates) {
        return;
    }
    let mut pause = Duration::from_millis(200);
    loop {
        match shared.spool.settle(id, fates.clone(), reports.clone()).await {
            Ok(_) => return,
            // The fates hold in this process and are written as soon as the disk takes them.
            Err(error) if reports.is_empty() => {
                warn!(queue_id = %id, %error, "fates are not on disk yet");
                return;
            }
            Err(CommitError::Full) => {
                warn!(queue_id = %id, "no room for a report; the message waits for it");
                let fates = without_reports(&fates, before, &job.targets);
                if let Err(error) = shared.spool.settle(id, fates, Vec::new()).await {
                    warn!(queue_id = %id, %error, "fates are not on disk yet");
                }
                return;
            }
            Err(CommitError::Io(error)) => {
                warn!(queue_id = %id, %error, "the spool did not take a report; trying again");
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    // Still in flight in the spool's eyes: recovered and tried again at the next start.
                    () = shared.stop.cancelled() => return,
                }
                pause = (pause * 2).min(Duration::from_secs(10));
            }
        }
    }
}

/// Fates when the report about them cannot be stored: who failed or would be warned comes again soon.
fn without_reports(fates: &[(usize, Fate)], before: &[Waiting], targets: &[usize]) -> Vec<(usize, Fate)> {
    let again = later(Timestamp::now(), NO_ROOM);
    let was = |target: usize| targets.iter().position(|&t| t == target).map(|at| before[at].clone());
    fates
        .iter()
        .map(|(target, fate)| {
            let fate = match (fate, was(*target)) {
                (Fate::Delivered | Fate::Held(_) | Fate::Released | Fate::HandedOver | Fate::Noted, _)
                | (_, None) => fate.clone(),
                (Fate::Failed, Some(before)) => Fate::Waiting(Waiting { next_attempt: again, ..before }),
                (Fate::Waiting(now), Some(before)) => {
                    Fate::Waiting(Waiting { warned: before.warned, ..now.clone() })
                }
            };
            (*target, fate)
        })
        .collect()
}

pub(super) fn report(
    shared: &Shared,
    table: &RouteTable,
    now: Timestamp,
    about: About<'_>,
    fates: &[dsn::Fate],
) -> Option<Submission> {
    let action = fates.first()?.action;
    let sender = about.entry.sender.mailbox.as_ref()?.folded();
    if !shared.allowance.take(&sender, now) {
        shared.metrics.reports_suppressed.inc();
        warn!("a report is not written: its sender got too many");
        return None;
    }
    let kind = match action {
        dsn::Action::Failed => ReportKind::failed,
        dsn::Action::Delayed => ReportKind::delayed,
        dsn::Action::Relayed => ReportKind::relayed,
    };
    let submission = bounce::report(table, shared.spool.new_id(), now, about, fates)?;
    shared.metrics.reports.get_or_create(&ByKind { kind }).inc();
    Some(submission)
}

fn count(shared: &Shared, job: &Job, label: Option<&Label>, outcomes: &[Outcome], now: Timestamp) {
    let route = shared.metrics.route(label);
    let queue_id = job.queued.id();
    for (&target, outcome) in job.targets.iter().zip(outcomes) {
        if let (Outcome::Later(problem) | Outcome::Failed { problem, .. }, Some(label)) = (outcome, label) {
            shared.routes.troubled(label, &problem.trouble);
            if problem.trouble.is_tls() {
                shared.metrics.tried.tls_failures.fetch_add(1, Ordering::Relaxed);
            }
        }
        shared.metrics.tried.attempts.fetch_add(1, Ordering::Relaxed);
        let recipient = &job.entry().targets[target].recipient.mailbox;
        // What a next hop says may hold addresses: its words are logged at debug only.
        let result = match outcome {
            Outcome::Delivered(receipt) => {
                let protection = receipt.protected.into();
                shared.metrics.protection.get_or_create(&ByProtection { protection }).inc();
                if receipt.tls.is_none() {
                    shared.metrics.plaintext.get_or_create(&ByRoute { route: route.clone() }).inc();
                }
                let waited = now.duration_since(job.entry().received_at).as_secs_f64();
                shared.metrics.queue_seconds.observe(waited.max(0.0));
                let tls = receipt.tls.as_deref().unwrap_or("none");
                info!(%queue_id, target, %route, host = %receipt.host, tls, code = receipt.reply.code, "delivered");
                debug!(%queue_id, target, %recipient, reply = %receipt.reply, "delivered");
                Verdict::delivered
            }
            Outcome::Later(problem) => {
                let (reason, code) = (problem.trouble.reason(), problem.reply().map(|reply| reply.code));
                info!(%queue_id, target, %route, host = problem.host, reason, code, "deferred");
                debug!(%queue_id, target, %recipient, why = %problem, "deferred");
                if problem.trouble.is_unwelcome() {
                    let labels = ByReason { route: route.clone(), reason };
                    shared.metrics.unwelcome.get_or_create(&labels).inc();
                }
                Verdict::deferred
            }
            Outcome::Failed { status: [class, subject, detail], problem } => {
                let status = format_args!("{class}.{subject}.{detail}");
                let (reason, code) = (problem.trouble.reason(), problem.reply().map(|reply| reply.code));
                info!(%queue_id, target, %route, host = problem.host, reason, code, %status, "failed");
                debug!(%queue_id, target, %recipient, why = %problem, "failed");
                Verdict::failed
            }
        };
        shared.metrics.deliveries.get_or_create(&ByResult { route: route.clone(), result }).inc();
    }
}

pub(super) fn waiting(queued: &Queued, target: usize, now: Timestamp) -> Waiting {
    match queued.state(target) {
        Fate::Waiting(waiting) => waiting,
        // The spool hands out waiting recipients only; anything else counts as new.
        Fate::Held(_) | Fate::Delivered | Fate::Failed | Fate::Released | Fate::HandedOver | Fate::Noted => {
            Waiting { attempts: 0, next_attempt: now, last_error: None, warned: false }
        }
    }
}

fn until(then: Timestamp) -> Duration {
    Duration::try_from(then.duration_since(Timestamp::now())).unwrap_or_default()
}

pub(super) fn later(at: Timestamp, by: Duration) -> Timestamp {
    at.checked_add(by).unwrap_or(Timestamp::MAX)
}
