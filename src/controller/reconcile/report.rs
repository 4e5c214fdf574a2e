//! The last step of a pass: what there is to say of each object, handed to those who write it.

use std::collections::HashMap;

use tokio::time::Instant;

use super::{Driver, FIRST_WORD, HOLD};
use crate::bundle::Sequence;
use crate::bundle::document::{ObjectId, ObjectKind, Route};
use crate::controller::build;
use crate::controller::rollout::{self, Progress};
use crate::controller::status::{self, Live, Situation, tested};
use crate::controller::statuses::Change;
use crate::controller::world::now;
use crate::translate::Outcome;

impl Driver {
    /// Has statuses written that say something new. Returns when those that were held back are due.
    pub(super) fn report(&mut self) -> Instant {
        let (pods, heard) = (self.pods(), self.heard.clone());
        let now = now();
        let progress = |sequence: Sequence| rollout::progress(sequence, &pods, &heard);
        let progress = remember(&progress);
        self.desk.on_the_way(&mut self.journeys, &progress, self.failure.as_ref());
        self.desk.tested(&mut self.acks.tests(), &pods, self.press.last_good.as_ref());
        let unsaid = self.desk.take_unsaid(&self.outcomes);
        self.ctx.metrics.looked(unsaid.len());
        let situation = Situation {
            failure: self.failure.as_ref(),
            progress: &progress,
            standings: &self.steering.standings,
            stage: self.steering.view.as_ref(),
            now,
        };
        let entries = self.ctx.world.entries(&unsaid);
        let manifest = self.press.published.manifest.as_ref();
        let hold = self.published_at.map_or(self.born + FIRST_WORD, |at| at + HOLD);
        let hold = Some(hold).filter(|until| *until > Instant::now());
        let in_time =
            |progress: &Progress| progress.total > 0 && !progress.complete() && progress.refused.is_empty();
        let some_route = unsaid.iter().any(|object| object.kind == ObjectKind::OutboundRoute);
        let routes = self.press.last_good.iter().filter(|_| some_route).flat_map(|good| &good.bundle.routes);
        let routes: HashMap<&ObjectId, &Route> = routes.map(|route| (&route.origin.object, route)).collect();
        let tests = self.acks.tests();
        let mut held_back = Vec::new();
        let mut changes = Vec::new();
        for object in &unsaid {
            let Some(outcome) = outcome_of(&self.outcomes, object) else { continue };
            let Some(entry) = entries.get(object).filter(|entry| entry.uid == outcome.origin.uid) else {
                continue;
            };
            let journey = self.journeys.get(object);
            let gateway = object.kind == ObjectKind::OutboundGateway;
            let waits_for = match journey {
                _ if gateway => manifest.map(|manifest| manifest.sequence),
                Some(journey) if journey.arrived.is_none() => {
                    journey.published.as_ref().filter(|p| !p.staged).map(|p| p.sequence)
                }
                _ => None,
            };
            if hold.is_some() && waits_for.is_some_and(|sequence| in_time(&progress(sequence))) {
                held_back.push(object.clone());
                continue;
            }
            let after = if gateway {
                let live = Live {
                    manifest,
                    started: self.started,
                    arrived: self.arrived.as_ref(),
                    bundle: self.press.last_good.as_ref().map(|good| &good.bundle),
                    replicas: pods.len(),
                    selector: build::selector_text(&self.key.name),
                    trouble: self.trouble.as_ref(),
                    scaling: self.life.next.verdict.as_ref(),
                };
                status::of_gateway(outcome, &live, &entry.status, &situation)
            } else {
                status::of_object(outcome, journey, entry.action(), &entry.status, &situation)
            };
            let after = match object.kind {
                ObjectKind::OutboundRoute => {
                    let testing = pods.iter().filter(|pod| !pod.terminating);
                    let tested: Vec<tested::Pod<'_>> = testing
                        .map(|pod| tested::Pod {
                            name: &pod.name,
                            counts: pod.counts(),
                            found: tests.of(&pod.uid, object),
                        })
                        .collect();
                    let record = routes.get(object).copied();
                    tested::show(after, outcome, record, &tested, &entry.status, now)
                }
                _ => after,
            };
            changes.extend(Change::new(&outcome.origin, &entry.status, after));
        }
        drop(tests);
        self.ctx.statuses.submit(changes);
        let wake = hold.filter(|_| !held_back.is_empty()).unwrap_or_else(|| self.desk.round());
        held_back.into_iter().for_each(|object| self.desk.keep(object));
        wake
    }
}

/// `outcomes` stand in the order of their objects.
pub(super) fn outcome_of<'o>(outcomes: &'o [Outcome], object: &ObjectId) -> Option<&'o Outcome> {
    let at = outcomes.binary_search_by(|outcome| outcome.origin.object.cmp(object)).ok()?;
    Some(&outcomes[at])
}

/// Thousands of objects wait for the same few sequences.
fn remember(progress: &dyn Fn(Sequence) -> Progress) -> impl Fn(Sequence) -> Progress + '_ {
    let known = std::cell::RefCell::new(std::collections::HashMap::new());
    move |sequence| known.borrow_mut().entry(sequence).or_insert_with(|| progress(sequence)).clone()
}
