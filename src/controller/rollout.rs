//! How far a publication has come: manifest, pods and what they say of themselves in, progress out. Pure:
//! the caller brings `now`. Standalone mode uses it with one pod.
//!
//! Two questions are answered. For the gateway: which pods obey the newest revision at this moment. For any
//! other object: when did every counting pod obey the generation its author wrote; that answer is given
//! once and does not change any more.

pub mod course;
pub mod format;
pub mod standing;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use jiff::Timestamp;

use crate::bundle::document::ObjectId;
use crate::bundle::{Ack, Manifest, Nack, Revision, Sequence};

use standing::{Standings, Why};

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
    count(pods, acks, |ack| runs(ack, sequence), |nack| nack.sequence >= sequence)
}

/// Looks at `pods` for the second revision of a staged rollout.
pub fn progress_of_stage(revision: &Revision, pods: &[Pod], acks: &HashMap<String, Ack>) -> Progress {
    let has = |ack: Option<&Ack>| {
        ack.and_then(|ack| ack.running.as_ref()).is_some_and(|running| running.revision == *revision)
    };
    count(pods, acks, has, |nack| nack.revision == *revision)
}

fn count(
    pods: &[Pod],
    acks: &HashMap<String, Ack>,
    has: impl Fn(Option<&Ack>) -> bool,
    refuses: impl Fn(&Nack) -> bool,
) -> Progress {
    let mut progress = Progress::default();
    let mut idle = Vec::new();
    let mut names: BTreeMap<&str, &Pod> = BTreeMap::new();
    names.extend(pods.iter().map(|pod| (pod.name.as_str(), pod)));
    for (name, pod) in names {
        let ack = acks.get(&pod.uid);
        if let Some(nack) = ack.and_then(|ack| ack.refused.as_ref()).filter(|nack| refuses(nack)) {
            progress.refused.push((name.to_owned(), nack.clone()));
        }
        if !pod.counts() {
            progress.not_counting += 1;
            idle.push(name.to_owned());
            continue;
        }
        progress.total += 1;
        if has(ack) {
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

/// No publication gets this far: one a millisecond would take 285,000 years. An annotation that somebody wrote by
/// hand, or a pod in other hands, must not use the numbers up.
const LAST: Sequence = Sequence(1 << 53);

/// The highest sequence any pod has been told of, runs, or ran once.
pub fn floor(pods: &[Pod], acks: &HashMap<String, Ack>) -> Sequence {
    let told = pods.iter().filter_map(|pod| pod.touched);
    let running = acks.values().filter_map(|ack| ack.running.as_ref()).map(|running| running.sequence);
    let ran = acks.values().map(|ack| ack.highest);
    told.chain(running).chain(ran).filter(|sequence| *sequence < LAST).max().unwrap_or_default()
}

/// Whether a pod runs something else under the number of this manifest. Where the manifest was deleted, a controller
/// that has not heard the pods yet can give a number twice; a pod stays with what it ran first.
pub fn contested(manifest: &Manifest, acks: &HashMap<String, Ack>) -> bool {
    acks.values().any(|ack| {
        let same = ack.running.as_ref().filter(|running| running.sequence == manifest.sequence);
        same.is_some_and(|running| running.revision != *manifest.share(&ack.pod).revision)
    })
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
    /// Only some pods are to run it so far: it cannot arrive.
    pub staged: bool,
}

impl From<&Manifest> for Publication {
    fn from(manifest: &Manifest) -> Self {
        let Manifest { sequence, revision, published_at, .. } = manifest;
        let revision = revision.as_str().to_owned();
        Self { sequence: *sequence, revision, at: *published_at, staged: false }
    }
}

impl Publication {
    /// The second revision of a staged rollout.
    fn of_stage(manifest: &Manifest) -> Option<Self> {
        let staged = manifest.staged()?;
        let revision = staged.revision.as_str().to_owned();
        Some(Self { sequence: manifest.sequence, revision, at: staged.started, staged: true })
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

    /// Its way is over, wherever it led.
    pub fn end(&mut self, object: &ObjectId) {
        if self.all.remove(object).is_some() {
            self.open.remove(object);
            self.touched.insert(object.clone());
        }
    }

    /// All objects that were translated are in this publication (a new one, or the one that already said
    /// the same).
    pub fn published(&mut self, manifest: &Manifest) {
        self.published_but(manifest, &Standings::default());
    }

    /// The same, except for those that wait for something else than their pods.
    pub fn published_but(&mut self, manifest: &Manifest, standings: &Standings) {
        standings.withheld().for_each(|object| self.end(object));
        let Self { all, open, touched } = self;
        for object in open.iter() {
            let Some(journey) = all.get_mut(object) else { continue };
            let publication = match standings.of(object) {
                None if journey.published.as_ref().is_none_or(|publication| publication.staged) => {
                    Some(manifest.into())
                }
                Some(Why::Staged) => Publication::of_stage(manifest),
                None | Some(Why::Pinned(_) | Why::Halted(_)) => continue,
            };
            if journey.published != publication {
                journey.published = publication;
                touched.insert(object.clone());
            }
        }
    }

    /// What was published turned out to be behind what a pod runs already: nobody will take it, and its sequence says
    /// nothing of what pods run. Who waited for it waits for the next one.
    pub fn overtaken(&mut self) {
        let Self { all, open, touched } = self;
        for object in open.iter() {
            let Some(journey) = all.get_mut(object) else { continue };
            if journey.published.take().is_some() {
                touched.insert(object.clone());
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
            // What only some pods are to run cannot arrive.
            let Some(publication) = journey.published.as_ref().filter(|publication| !publication.staged)
            else {
                return true;
            };
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
