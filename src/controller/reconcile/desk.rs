//! What a driver has to look at: objects of which something changed, not all of them. Whatever is overlooked here
//! is found by the look at everything that each driver takes once in a while.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::ROUND;
use crate::bundle::Sequence;
use crate::bundle::document::{ObjectId, ObjectKind};
use crate::controller::probes::Collected;
use crate::controller::rollout::{Journeys, Pod, Progress};
use crate::controller::spread::spread;
use crate::controller::status::Failure;
use crate::translate::{LastGood, Outcome};

pub struct Desk {
    /// Objects that changed since the last decision.
    undecided: BTreeSet<ObjectId>,
    /// Objects of which there may be something to say.
    unsaid: BTreeSet<ObjectId>,
    /// When everything is looked at again; each driver at a time of its own.
    round: Instant,
    turn: u64,
    /// Whose desk it is, so that each has times of its own.
    who: String,
    /// What objects on their way were told of.
    told: HashMap<Sequence, Progress>,
    failure: Option<Failure>,
    /// Pods as routes were told of them: uid, name, whether it counts.
    pods: Vec<(String, String, bool)>,
    good: Option<Arc<LastGood>>,
}

impl Desk {
    pub fn new(who: String) -> Self {
        Self {
            undecided: BTreeSet::new(),
            unsaid: BTreeSet::new(),
            round: Instant::now(),
            turn: 0,
            who,
            told: HashMap::new(),
            failure: None,
            pods: Vec::new(),
            good: None,
        }
    }

    /// The API server showed something new of these.
    pub fn changed(&mut self, objects: BTreeSet<ObjectId>) {
        self.undecided.extend(objects.iter().cloned());
        self.unsaid.extend(objects);
    }

    /// Something else was decided of these.
    pub fn decided(&mut self, before: &[Outcome], after: &[Outcome]) {
        for object in differences(before, after) {
            self.undecided.insert(object.clone());
            self.unsaid.insert(object.clone());
        }
    }

    /// What to look at for a decision; that counts as seen.
    pub fn take_undecided(&mut self) -> BTreeSet<ObjectId> {
        std::mem::take(&mut self.undecided)
    }

    /// Objects on their way hear how far it has come, and why it does not go on.
    pub fn on_the_way(
        &mut self,
        journeys: &mut Journeys,
        progress: impl Fn(Sequence) -> Progress,
        failure: Option<&Failure>,
    ) {
        self.unsaid.extend(journeys.take_touched());
        let failed = self.failure.as_ref() != failure;
        let mut now: HashMap<Sequence, Progress> = HashMap::new();
        for (object, journey) in journeys.open() {
            let news = journey.published.as_ref().is_some_and(|publication| {
                let sequence = publication.sequence;
                let now = now.entry(sequence).or_insert_with(|| progress(sequence));
                self.told.get(&sequence) != Some(now)
            });
            if news || failed {
                self.unsaid.insert(object.clone());
            }
        }
        (self.told, self.failure) = (now, failure.cloned());
    }

    /// Routes hear what tests found, of which pods.
    pub fn tested(&mut self, tests: &mut Collected, pods: &[Pod], good: Option<&Arc<LastGood>>) {
        self.unsaid.extend(tests.take_changed());
        let testing = pods.iter().filter(|pod| !pod.terminating);
        let testing: Vec<_> = testing.map(|pod| (pod.uid.clone(), pod.name.clone(), pod.counts())).collect();
        let all = testing != self.pods;
        let same = match (&self.good, good) {
            (Some(before), Some(now)) => Arc::ptr_eq(before, now),
            (None, None) => true,
            _ => false,
        };
        if all || !same {
            let before = self.good.iter().flat_map(|good| &good.bundle.routes);
            let before: HashMap<_, _> = before.map(|route| (&route.origin.object, route)).collect();
            let now = good.iter().flat_map(|good| &good.bundle.routes);
            let news = now.filter(|route| all || before.get(&route.origin.object) != Some(route));
            let news: Vec<ObjectId> = news.map(|route| route.origin.object.clone()).collect();
            self.unsaid.extend(news);
            (self.pods, self.good) = (testing, good.cloned());
        }
    }

    /// What to look at for a report; that counts as said unless it is kept.
    pub fn take_unsaid(&mut self, outcomes: &[Outcome]) -> BTreeSet<ObjectId> {
        let now = Instant::now();
        let mut unsaid = std::mem::take(&mut self.unsaid);
        if self.round <= now {
            self.turn += 1;
            self.round = now + spread(ROUND, 0.2, &self.who, self.turn);
            unsaid.extend(outcomes.iter().map(|outcome| outcome.origin.object.clone()));
        }
        // The picture of the gateway itself is a live one.
        let own = outcomes.iter().map(|outcome| &outcome.origin.object);
        unsaid.extend(own.take_while(|object| object.kind == ObjectKind::OutboundGateway).cloned());
        unsaid
    }

    /// It was not said yet.
    pub fn keep(&mut self, object: ObjectId) {
        self.unsaid.insert(object);
    }

    /// When everything is to be looked at again.
    pub fn round(&self) -> Instant {
        self.round.max(Instant::now() + Duration::from_secs(1))
    }
}

/// Objects of which two lists, both in the order of objects, say different things.
fn differences<'o>(before: &'o [Outcome], after: &'o [Outcome]) -> Vec<&'o ObjectId> {
    let mut different = Vec::new();
    let (mut before, mut after) = (before.iter().peekable(), after.iter().peekable());
    loop {
        let order = match (before.peek(), after.peek()) {
            (None, None) => return different,
            (Some(_), None) => std::cmp::Ordering::Less,
            (None, Some(_)) => std::cmp::Ordering::Greater,
            (Some(a), Some(b)) => a.origin.object.cmp(&b.origin.object),
        };
        let (old, new) = match order {
            std::cmp::Ordering::Less => (before.next(), None),
            std::cmp::Ordering::Greater => (None, after.next()),
            std::cmp::Ordering::Equal => (before.next(), after.next()),
        };
        if old != new {
            different.extend(old.or(new).map(|outcome| &outcome.origin.object));
        }
    }
}

#[cfg(test)]
mod tests;
