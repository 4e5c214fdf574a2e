//! How far a publication has come: manifest, pods and what they say of themselves in, progress out. Pure:
//! the caller brings `now`. Standalone mode uses it with one pod.
//!
//! Two questions are answered. For the gateway: which pods obey the newest revision at this moment. For any
//! other object: when did every counting pod obey the generation its author wrote; that answer is given
//! once and does not change any more.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use jiff::Timestamp;

use crate::bundle::document::ObjectId;
use crate::bundle::{Ack, Manifest, Nack, Sequence};

/// A gateway pod as the API server shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pod {
    pub name: String,
    pub uid: String,
    pub address: Option<String>,
    /// The pod's Ready condition; `None` before the kubelet has said anything.
    pub ready: Option<bool>,
    pub terminating: bool,
    pub scheduled: bool,
    /// The sequence in the pod's annotation: the controller published it once.
    pub touched: Option<Sequence>,
}

impl Pod {
    /// A pod counts until it is deleted or its Ready condition is false (design section 4).
    pub fn counts(&self) -> bool {
        self.ready == Some(true)
    }
}

/// Names in `stalePods`, at most.
pub const STALE_NAMES: usize = 20;

/// The pods and one sequence.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Progress {
    /// Pods that count.
    pub total: u32,
    /// Counting pods that run this sequence or a later one.
    pub updated: u32,
    /// Counting pods without it, then pods that do not count; by name.
    pub stale: Vec<String>,
    /// How many of all pods do not count.
    pub not_counting: u32,
    /// Pods that refused this sequence or a later one, by name.
    pub refused: Vec<(String, Nack)>,
}

impl Progress {
    pub fn complete(&self) -> bool {
        self.total > 0 && self.updated == self.total
    }
}

/// Looks at `pods` for `sequence`.
pub fn progress(sequence: Sequence, pods: &[Pod], acks: &HashMap<String, Ack>) -> Progress {
    let mut progress = Progress::default();
    let mut idle = Vec::new();
    let mut names: BTreeMap<&str, &Pod> = BTreeMap::new();
    names.extend(pods.iter().map(|pod| (pod.name.as_str(), pod)));
    for (name, pod) in names {
        let ack = acks.get(&pod.uid);
        let refusal = ack.and_then(|ack| ack.refused.as_ref()).filter(|nack| nack.sequence >= sequence);
        if let Some(nack) = refusal {
            progress.refused.push((name.to_owned(), nack.clone()));
        }
        if !pod.counts() {
            progress.not_counting += 1;
            idle.push(name.to_owned());
            continue;
        }
        progress.total += 1;
        if runs(ack, sequence) {
            progress.updated += 1;
        } else {
            progress.stale.push(name.to_owned());
        }
    }
    progress.stale.extend(idle);
    progress.stale.truncate(STALE_NAMES);
    progress
}

fn runs(ack: Option<&Ack>, sequence: Sequence) -> bool {
    ack.and_then(|ack| ack.running.as_ref()).is_some_and(|running| running.sequence >= sequence)
}

/// Whether no pod at all still needs an older set: then that may be taken away.
pub fn settled(manifest: &Manifest, pods: &[Pod], acks: &HashMap<String, Ack>) -> bool {
    pods.iter().all(|pod| runs(acks.get(&pod.uid), manifest.sequence))
}

/// The highest sequence any pod has been told of or runs.
pub fn floor(pods: &[Pod], acks: &HashMap<String, Ack>) -> Sequence {
    let told = pods.iter().filter_map(|pod| pod.touched);
    let running = acks.values().filter_map(|ack| ack.running.as_ref()).map(|running| running.sequence);
    told.chain(running).max().unwrap_or_default()
}

/// What the author of an object waits for: that this generation, as it stands, is obeyed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wish {
    pub uid: String,
    pub generation: i64,
    /// When the controller saw that generation, or that it can be used again.
    pub started: Timestamp,
}

/// How far one generation of one object has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Journey {
    pub wish: Wish,
    /// The publication that took it into account.
    pub published: Option<Publication>,
    pub arrived: Option<Arrival>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publication {
    pub sequence: Sequence,
    pub revision: String,
    pub at: Timestamp,
}

impl From<&Manifest> for Publication {
    fn from(manifest: &Manifest) -> Self {
        let Manifest { sequence, revision, published_at, .. } = manifest;
        Self { sequence: *sequence, revision: revision.as_str().to_owned(), at: *published_at }
    }
}

/// The moment from which every counting pod obeyed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arrival {
    pub at: Timestamp,
    pub pods: u32,
    pub not_counting: Vec<String>,
}

impl Arrival {
    /// Milliseconds since the change was seen.
    pub fn after(&self, started: Timestamp) -> u64 {
        u64::try_from(self.at.duration_since(started).as_millis()).unwrap_or(0)
    }
}

/// The journeys of all objects of one gateway that have not arrived, and of those that have since this
/// controller leads.
#[derive(Debug, Default)]
pub struct Journeys {
    all: HashMap<ObjectId, Journey>,
    /// Those that have not arrived.
    open: BTreeSet<ObjectId>,
    /// Of which something changed that nobody has asked for yet.
    touched: BTreeSet<ObjectId>,
}

impl Journeys {
    /// Begins a journey, unless just this generation is on its way or there already.
    pub fn begin(&mut self, object: &ObjectId, wish: Wish) {
        let known = self.all.get(object).map(|journey| &journey.wish);
        if known.is_some_and(|known| (&known.uid, known.generation) == (&wish.uid, wish.generation)) {
            return;
        }
        self.all.insert(object.clone(), Journey { wish, published: None, arrived: None });
        self.open.insert(object.clone());
        self.touched.insert(object.clone());
    }

    /// The earliest change that no publication has taken into account.
    pub fn unpublished_since(&self) -> Option<Timestamp> {
        let unpublished = self.open().filter(|(_, journey)| journey.published.is_none());
        unpublished.map(|(_, journey)| journey.wish.started).min()
    }

    /// Forgets objects that are gone.
    pub fn retain(&mut self, keep: impl Fn(&ObjectId) -> bool) {
        let gone: Vec<ObjectId> = self.all.keys().filter(|object| !keep(object)).cloned().collect();
        gone.iter().for_each(|object| self.end(object));
    }

    pub fn end(&mut self, object: &ObjectId) {
        if self.all.remove(object).is_some() {
            self.open.remove(object);
            self.touched.insert(object.clone());
        }
    }

    /// All objects that were translated are in this publication (a new one, or the one that already said
    /// the same).
    pub fn published(&mut self, manifest: &Manifest) {
        for object in &self.open {
            let Some(journey) = self.all.get_mut(object) else { continue };
            if journey.published.is_none() {
                journey.published = Some(manifest.into());
                self.touched.insert(object.clone());
            }
        }
    }

    /// Pods or their acknowledgements changed.
    pub fn advance(&mut self, pods: &[Pod], acks: &HashMap<String, Ack>, now: Timestamp) {
        // Nearly all journeys wait for the same few sequences.
        let mut known: HashMap<Sequence, Progress> = HashMap::new();
        let Self { all, open, touched } = self;
        open.retain(|object| {
            let Some(journey) = all.get_mut(object) else { return false };
            let Some(publication) = &journey.published else { return true };
            let progress = known
                .entry(publication.sequence)
                .or_insert_with(|| progress(publication.sequence, pods, acks));
            if progress.complete() {
                let not_counting = progress.stale.clone();
                journey.arrived = Some(Arrival { at: now, pods: progress.total, not_counting });
                touched.insert(object.clone());
            }
            journey.arrived.is_none()
        });
    }

    pub fn get(&self, object: &ObjectId) -> Option<&Journey> {
        self.all.get(object)
    }

    /// Those that have not arrived.
    pub fn open(&self) -> impl Iterator<Item = (&ObjectId, &Journey)> {
        self.open.iter().filter_map(|object| Some((object, self.all.get(object)?)))
    }

    /// Objects whose journey changed since this was asked last.
    pub fn take_touched(&mut self) -> BTreeSet<ObjectId> {
        std::mem::take(&mut self.touched)
    }

    /// Whether any object has not arrived.
    pub fn waiting(&self) -> bool {
        !self.open.is_empty()
    }
}

#[cfg(test)]
mod tests;
