//! What was decided, to be read afterwards: each decision that was more than plain acceptance goes to a log of
//! its own, found again by the reference in the reply, and each match of a rule is counted. Nothing here changes
//! a decision, and nothing here may hold mail up for longer than a moment.

mod account;
mod find;
pub mod http;
mod log;
mod matches;
mod record;
mod steps;
#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::Arc;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

use crate::policy::Decision;
use crate::policy::verdict::Disposition;

pub use account::{
    Circumstances, Considered, CopyLeftOut, DeliveryFate, Explained, Fate, Judged, Listing, MessageFate,
    Occasion, Replies, RuleFate, SenderFate, Why, account,
};
pub use find::{FOLDER, Found, find};
pub use log::Limits;
pub use matches::Matches;
pub use steps::Step;

/// Where decisions are told to. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Decisions {
    log: Arc<log::Log>,
    matches: Matches,
    dropped: Counter,
    written: Counter,
    unreadable: Family<[(&'static str, &'static str); 1], Counter>,
}

impl Decisions {
    /// Keeps the log in [`FOLDER`] inside the folder of the spool. Without a writable folder decisions are
    /// counted as dropped; mail goes on.
    pub fn open(spool: &Path, limits: Limits, matches: Matches, registry: &mut Registry) -> Self {
        let (dropped, written) = (Counter::default(), Counter::default());
        registry.register(
            "postern_decisions_logged",
            "Decisions handed to the decision log: a rule matched, or the message was not plainly accepted",
            written.clone(),
        );
        registry.register(
            "postern_decisions_dropped",
            "Decisions that the decision log could not take: its disk was too slow or failed",
            dropped.clone(),
        );
        let unreadable = Family::<[(&'static str, &'static str); 1], Counter>::default();
        registry.register(
            "postern_unreadable_files",
            "Attached files that could not be opened where a rule looked, by why",
            unreadable.clone(),
        );
        matches.register(registry);
        let log = Arc::new(log::Log::start(spool.join(FOLDER), limits, dropped.clone()));
        Self { log, matches, dropped, written, unreadable }
    }

    /// Counts the rules that matched, and logs the decision unless it is plain acceptance. Returns at once,
    /// or after [`log::PATIENCE`] when the log cannot keep up: then the decision is counted as dropped.
    pub fn note(&self, judged: &Judged<'_>) {
        self.matches.count(judged);
        for file in &judged.decision.unreadable {
            self.unreadable.get_or_create(&[("why", file.why)]).inc();
        }
        if !is_worth_telling(judged.decision) {
            return;
        }
        let line = record::line(judged);
        let taken = self.log.push(line);
        if taken { &self.written } else { &self.dropped }.inc();
    }

    /// What was counted since the start, by rule.
    pub fn matches(&self) -> &Matches {
        &self.matches
    }

    /// Writes what waits and ends the writer.
    pub fn close(&self) {
        self.log.close();
    }
}

/// Whether a decision is more than "accepted, and no rule had anything to say".
fn is_worth_telling(decision: &Decision) -> bool {
    let mut seen: Option<&Arc<[_]>> = None;
    decision.verdicts.iter().any(|verdict| {
        // Recipients alike share a trace, and stand together more often than not.
        let known = seen.is_some_and(|trace| Arc::ptr_eq(trace, &verdict.trace));
        seen = Some(&verdict.trace);
        !matches!(verdict.disposition, Disposition::Deliver(_))
            || (!known && verdict.trace.iter().any(account::concerned))
    })
}
