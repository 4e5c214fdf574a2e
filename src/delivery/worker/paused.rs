//! Recipients whose way out somebody has paused. No attempt is made, so none fails and nothing is given up; the
//! clock goes on all the same: a sender hears that the message is late when it is, and after the pause each
//! recipient has at least one attempt before its time can be over.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::job::{self, Job, Shared};
use crate::delivery::bounce::About;
use crate::delivery::outcome::{Outcome, Problem, Trouble};
use crate::delivery::pauses::closed;
use crate::delivery::routes::{RouteTable, domain_of};
use crate::delivery::settle::{self, Attempted};
use crate::spool::{Content, Fate};

/// When paused mail is looked at again if nobody ends the pause, a quarter more or less by chance; sooner if it is
/// late sooner, so that its sender hears in time.
const LOOK_AGAIN: Duration = Duration::from_secs(3600);

/// The same when the pauses changed a moment ago.
const SOON: Duration = Duration::from_secs(1);

/// Sends those recipients of a job back whose way is paused; gives the job back with the others.
pub async fn set_aside(shared: &Shared, table: &RouteTable, content: &Content, mut job: Job) -> Option<Job> {
    let closures = shared.pauses.current();
    if closures.is_empty() {
        return Some(job);
    }
    let entry = Arc::clone(job.queued.entry());
    let closing = |target: usize| {
        let target = &entry.targets[target];
        closed(&closures, &table.label(&target.via).to_string(), &domain_of(&target.recipient.mailbox))
    };
    let (mut open, mut paused) = (Vec::new(), Vec::new());
    for target in std::mem::take(&mut job.targets) {
        match closing(target) {
            None => open.push(target),
            Some(closed) => paused.push((target, closed)),
        }
    }
    if !paused.is_empty() {
        let now = Timestamp::now();
        let again = job::later(now, LOOK_AGAIN.mul_f64(0.75 + 0.5 * rand::random::<f64>()));
        let outcomes: Vec<Outcome> = paused
            .iter()
            .map(|(_, closed)| Outcome::Later(Problem::new(Trouble::Paused(closed.to_string()))))
            .collect();
        let before: Vec<_> =
            paused.iter().map(|(target, _)| job::waiting(&job.queued, *target, now)).collect();
        let attempted: Vec<Attempted<'_>> = paused
            .iter()
            .zip(&before)
            .zip(&outcomes)
            .map(|(((target, _), before), outcome)| Attempted { target: *target, before, outcome })
            .collect();
        let schedule = table.retry(&entry.targets[paused[0].0].via);
        let settled = settle::paused(&entry, &schedule, now, again, &attempted);
        // Only who is warned has news; the others are due later and nothing is written.
        let (news, same): (Vec<_>, Vec<_>) = settled.fates.into_iter().zip(&before).partition(
            |((_, fate), before)| matches!(fate, Fate::Waiting(now) if now.warned != before.warned),
        );
        let at = |fate: &Fate| if let Fate::Waiting(now) = fate { now.next_attempt } else { again };
        let times: Vec<_> = same.iter().map(|((target, fate), _)| (*target, at(fate))).collect();
        shared.spool.release(job.queued.id(), &times);
        // Opened while we looked: whoever wakes its mail may have been here already.
        let current = shared.pauses.current();
        if !Arc::ptr_eq(&current, &closures) {
            let targets: Vec<usize> = times.iter().map(|(target, _)| *target).collect();
            shared.spool.retime(job.queued.id(), &targets, job::later(now, SOON), true);
        }
        if !news.is_empty() {
            let (fates, before): (Vec<_>, Vec<_>) =
                news.into_iter().map(|(fate, before)| (fate, before.clone())).unzip();
            let about = About { entry: &entry, content: content.bytes() };
            let reports = job::report(shared, table, now, about, &settled.delayed).into_iter().collect();
            job.targets = fates.iter().map(|(target, _)| *target).collect();
            job::store(shared, &job, &before, fates, reports).await;
        }
    }
    job.targets = open;
    (!job.targets.is_empty()).then_some(job)
}
