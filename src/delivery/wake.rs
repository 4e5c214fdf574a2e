//! Mail that waits is woken when its way out opens: a missing or broken route appears, a route gets other hosts,
//! TLS or credentials, a pause ends. Else it would wait for its schedule, hours at worst, for a cause that is gone.
//!
//! The queue is walked once per change, page by page from the index and the disk: no list of who waits for what
//! is kept in memory, and none can be wrong. What is woken is spread over time, so that a repaired route does not
//! meet everything at once.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::pauses::{Closures, Pauses, closed};
use super::routes::{RouteTable, Routes, domain_of};
use crate::spool::{QueueId, Spool, Standing, Target};

/// Messages that are woken each second.
pub const PER_SECOND: u32 = 500;
/// How often it is looked whether something changed.
const LOOK: Duration = Duration::from_millis(250);
/// Messages whose envelopes are read at a time.
const PAGE: usize = 256;
/// A page that has nothing to read may be longer.
const BREATH: Duration = Duration::from_millis(1);

/// What decides whether mail can leave, at one moment.
#[derive(Clone)]
pub struct Situation {
    pub table: Arc<RouteTable>,
    pub closures: Arc<Closures>,
}

impl Situation {
    pub fn now(routes: &dyn Routes, pauses: &Pauses) -> Self {
        Self { table: routes.current(), closures: pauses.current() }
    }

    /// The way of this recipient as it is now; `None`: there is none.
    fn way(&self, target: &Target) -> Option<blake3::Hash> {
        let open = || {
            let (label, domain) = (self.table.label(&target.via), domain_of(&target.recipient.mailbox));
            closed(&self.closures, &label.to_string(), &domain).is_none()
        };
        self.table.way(&target.via).filter(|_| self.closures.is_empty() || open())
    }

    /// Whether this recipient has a way now that it did not have then.
    pub fn opens(&self, then: &Situation, target: &Target) -> bool {
        let way = self.way(target);
        way.is_some() && way != then.way(target)
    }

    /// Whether this recipient has another way now than by an earlier table.
    pub fn has_other_way(&self, earlier: &RouteTable, target: &Target) -> bool {
        self.way(target).is_some_and(|way| earlier.way(&target.via) != Some(way))
    }

    /// Whether that can be so for anybody.
    fn opens_any(&self, then: &Situation) -> bool {
        let reopened = then.closures.keys().any(|closed| !self.closures.contains_key(closed));
        reopened || self.table.has_new_ways(&then.table)
    }
}

/// When the n-th woken message is due. `dice` is in `[0, 1)`.
pub fn turn(start: Timestamp, n: u32, per_second: u32, dice: f64) -> Timestamp {
    let seconds = (f64::from(n) + dice) / f64::from(per_second.max(1));
    start.checked_add(Duration::from_secs_f64(seconds)).unwrap_or(Timestamp::MAX)
}

/// Looks for changes until `stop`, and wakes who has a way now.
pub async fn watch(
    spool: Spool,
    routes: Arc<dyn Routes>,
    pauses: Pauses,
    mut then: Situation,
    stop: CancellationToken,
) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            () = stop.cancelled() => return,
        }
        // Before the look at what is closed now: what is opened in between comes with the next round.
        let opened = pauses.take_opened();
        let now = Situation::now(&*routes, &pauses);
        if opened.is_empty() && Arc::ptr_eq(&now.table, &then.table) {
            continue;
        }
        then.closures = Arc::new(opened);
        if now.opens_any(&then) {
            let woken = tokio::select! {
                woken = walk(&spool, PER_SECOND, |target| now.opens(&then, target)) => woken,
                () = stop.cancelled() => return,
            };
            if woken > 0 {
                info!(messages = woken, "mail that waited for its way out is tried again");
            }
        }
        then = now;
    }
}

/// Makes due, one after the other, what waits for longer and is `wanted`. Returns how many messages.
pub async fn walk(spool: &Spool, per_second: u32, wanted: impl Fn(&Target) -> bool) -> u32 {
    let start = Timestamp::now();
    let (mut after, mut woken) = (None::<QueueId>, 0);
    loop {
        let page = spool.page(after, PAGE);
        let Some(last) = page.last() else { return woken };
        after = Some(last.id);
        // What is due anyway needs no waking.
        let late = page.iter().filter(|one| one.next_attempt.is_some_and(|at| at > start));
        let late: Vec<QueueId> = late.map(|one| one.id).collect();
        if late.is_empty() {
            tokio::time::sleep(BREATH).await;
            continue;
        }
        for Standing { id, entry, .. } in spool.standings(late).await {
            let targets: Vec<usize> =
                (0..entry.targets.len()).filter(|&target| wanted(&entry.targets[target])).collect();
            let at = turn(start, woken, per_second, rand::random());
            woken += u32::from(!targets.is_empty() && spool.retime(id, &targets, at, true) > 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repaired_route_meets_its_mail_by_and_by() {
        let start = Timestamp::from_second(1000).unwrap();
        let turns: Vec<i64> = (0..5000).map(|n| turn(start, n, 500, 0.99).as_second() - 1000).collect();
        for second in 0..10 {
            assert_eq!(turns.iter().filter(|at| **at == second).count(), 500, "in second {second}");
        }
        assert!(turns.is_sorted());
    }
}
