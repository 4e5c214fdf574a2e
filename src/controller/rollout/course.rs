//! Which pods get a new revision next, and when it is taken back (spec R156). Pure: manifest, pods and what they
//! say of themselves in, one decision out. Where a rollout stands is in the published manifest, so another
//! controller goes on with it; only the comparison of rates begins anew with it.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use jiff::Timestamp;

use super::Pod;
use crate::api::gateway::{HaltOn, StagedRollout};
use crate::bundle::manifest::{HaltCause, Halted, Staged};
use crate::bundle::{Ack, Counts, Course, Manifest, Nack, Revision};

/// A refusal that the world around the pod may cure is waited for.
const CURE: Duration = Duration::from_secs(30);
/// A pod that does not run the revision this long after it should have proved it takes the revision back.
const PATIENCE: Duration = Duration::from_secs(600);

/// What to do with a wanted revision.
#[derive(Debug, Clone, PartialEq)]
pub enum Turn {
    /// Give it to all pods.
    Whole,
    /// Give it to these pods, beside what is published.
    Stage(Next),
    /// Leave things as they are: a step lasts, or the revision was taken back.
    Stay,
    /// Take it back.
    Halt(Halted),
}

/// A step of a staged rollout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Next {
    pub pods: Vec<String>,
    pub step: u32,
    pub since: Timestamp,
    pub started: Timestamp,
}

/// How the step that is published goes.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// Its pods have proved the revision.
    Proved,
    /// Until then; `missing` are pods that do not run it yet.
    Lasts {
        until: Timestamp,
        missing: Vec<String>,
    },
    Failed {
        cause: HaltCause,
        message: String,
    },
}

/// What decides.
pub struct Scene<'a> {
    pub rollout: Option<&'a StagedRollout>,
    pub manifest: Option<&'a Manifest>,
    /// Pods that there should be.
    pub replicas: u32,
    pub pods: &'a [Pod],
    pub acks: &'a HashMap<String, Ack>,
    pub others: &'a Others,
    pub now: Timestamp,
}

impl Scene<'_> {
    /// What to do with `wanted`; `wish` is what its authors wrote, as a hash.
    pub fn turn(&self, wanted: &Revision, wish: &str) -> Turn {
        let (Some(rollout), Some(manifest)) = (self.rollout, self.manifest) else { return Turn::Whole };
        if manifest.revision == *wanted {
            return Turn::Whole;
        }
        match &manifest.course {
            // Certificates and directories change by themselves; that is no reason to try it again.
            Course::Halted(halted) if halted.wish == wish => Turn::Stay,
            Course::Staged(staged) if staged.wish == wish => match self.verdict(staged, rollout) {
                Verdict::Failed { cause, message } => Turn::Halt(Halted {
                    revision: wanted.clone(),
                    wish: wish.to_owned(),
                    at: self.now,
                    cause,
                    message,
                }),
                Verdict::Proved if staged.revision == *wanted => self.step(rollout, staged.step + 1, staged),
                _ if staged.revision == *wanted => Turn::Stay,
                // The same wish with other certificates or lists: the step goes on with it.
                _ => Turn::Stage(Next {
                    pods: staged.pods.clone(),
                    step: staged.step,
                    since: staged.since,
                    started: staged.started,
                }),
            },
            Course::Whole | Course::Staged(_) | Course::Halted(_) => self.begin(rollout),
        }
    }

    /// Whether the published step asks for a turn at this moment.
    pub fn is_due(&self) -> bool {
        let Some(staged) = self.manifest.and_then(Manifest::staged) else { return false };
        match self.rollout {
            None => true,
            Some(rollout) => !matches!(self.verdict(staged, rollout), Verdict::Lasts { .. }),
        }
    }

    /// How the published step goes.
    pub fn standing(&self) -> Option<(&Staged, Verdict)> {
        let staged = self.manifest?.staged()?;
        Some((staged, self.verdict(staged, self.rollout?)))
    }

    fn begin(&self, rollout: &StagedRollout) -> Turn {
        self.take(rollout, 0, &[], self.now)
    }

    fn step(&self, rollout: &StagedRollout, step: u32, staged: &Staged) -> Turn {
        self.take(rollout, step, &staged.pods, staged.started)
    }

    /// The first step from `first` on that reaches more pods; all of them if there is none.
    fn take(&self, rollout: &StagedRollout, first: u32, named: &[String], started: Timestamp) -> Turn {
        let there: BTreeMap<(usize, &str), &Pod> = self
            .pods
            .iter()
            .filter(|pod| !pod.terminating)
            // default-2 comes before default-10.
            .map(|pod| ((pod.name.len(), pod.name.as_str()), pod))
            .collect();
        let total = self.replicas.max(u32::try_from(there.len()).unwrap_or(u32::MAX));
        let mut pods: Vec<String> =
            there.values().map(|pod| &pod.name).filter(|name| named.contains(name)).cloned().collect();
        for (number, step) in (0..).zip(&rollout.steps).skip(first as usize) {
            let wanted = step.pods.of(total).unwrap_or(total);
            if wanted >= total {
                return Turn::Whole;
            }
            let mut more: Vec<&Pod> =
                there.values().filter(|pod| !pods.contains(&pod.name)).copied().collect();
            // Those that serve can prove something.
            more.sort_by_key(|pod| !pod.counts());
            let missing = (wanted as usize).saturating_sub(pods.len());
            let added: Vec<String> = more.iter().take(missing).map(|pod| pod.name.clone()).collect();
            if added.is_empty() {
                continue;
            }
            // Nobody is left to compare with.
            if pods.len() + added.len() >= there.len() {
                return Turn::Whole;
            }
            pods.extend(added);
            pods.sort();
            return Turn::Stage(Next { pods, step: number, since: self.now, started });
        }
        Turn::Whole
    }

    fn verdict(&self, staged: &Staged, rollout: &StagedRollout) -> Verdict {
        let pods = || self.pods.iter().filter(|pod| !pod.terminating);
        if pods().next().is_none() {
            return Verdict::Proved;
        }
        let mine: Vec<&Pod> = pods().filter(|pod| staged.pods.contains(&pod.name)).collect();
        let age = age(staged.since, self.now);
        for pod in &mine {
            let refused = self.acks.get(&pod.uid).and_then(|ack| ack.refused.as_ref());
            let refused = refused.filter(|nack| nack.revision == staged.revision);
            if let Some(nack) = refused.filter(|nack| !nack.reason.may_pass() || age >= CURE) {
                return Verdict::Failed { cause: HaltCause::Refused, message: refusal(&pod.name, nack) };
            }
        }
        if let Some((cause, message)) = self.worse(staged, &mine, &rollout.halt_on) {
            return Verdict::Failed { cause, message };
        }
        let Some(step) = rollout.steps.get(staged.step as usize) else { return Verdict::Proved };
        let loaded = |pod: &Pod| {
            let running = self.acks.get(&pod.uid)?.running.as_ref()?;
            (pod.counts() && running.revision == staged.revision).then_some(running.loaded_at)
        };
        let missing: Vec<String> =
            mine.iter().filter(|pod| loaded(pod).is_none()).map(|pod| pod.name.clone()).collect();
        if missing.is_empty() && !mine.is_empty() {
            // The clock of a pod may be wrong; the step began no earlier than it was published.
            let last = mine.iter().filter_map(|pod| loaded(pod)).max().unwrap_or(staged.since);
            let until = add(last.clamp(staged.since, self.now.max(staged.since)), step.pause());
            return if self.now >= until { Verdict::Proved } else { Verdict::Lasts { until, missing } };
        }
        let until = add(staged.since, step.pause().saturating_add(PATIENCE));
        if self.now < until {
            return Verdict::Lasts { until, missing };
        }
        let who = if missing.is_empty() { staged.pods.join(", ") } else { missing.join(", ") };
        let message = format!("{who} did not run and serve revision {} in time", staged.revision);
        Verdict::Failed { cause: HaltCause::NoProgress, message }
    }

    /// Whether mail fares worse on the pods that have the revision.
    fn worse(&self, staged: &Staged, mine: &[&Pod], halt_on: &HaltOn) -> Option<(HaltCause, String)> {
        let counts = |pod: &&Pod| {
            let ack = self.acks.get(&pod.uid)?;
            let runs = ack.running.as_ref().is_some_and(|running| running.revision == staged.revision);
            runs.then_some(ack.counts)
        };
        let here = mine.iter().filter_map(counts).fold(Counts::default(), Counts::plus);
        let (lately, ever) = self.others.counts(staged, self.pods, self.acks);
        let HaltOn { rejected_percent, deferred_percent, tls_failures_percent, min_messages } = *halt_on;
        let messages = |counts: Counts| counts.messages;
        let attempts = |counts: Counts| counts.attempts;
        type Number = fn(Counts) -> u64;
        let kinds: [(HaltCause, &str, u8, Number, Number); 3] = [
            (HaltCause::RejectsRose, "rejected", rejected_percent, |counts| counts.rejected, messages),
            (HaltCause::DeferralsRose, "deferred", deferred_percent, |counts| counts.deferred, messages),
            (
                HaltCause::TlsFailuresRose,
                "failed TLS for",
                tls_failures_percent,
                |counts| counts.tls_failures,
                attempts,
            ),
        ];
        kinds.into_iter().find_map(|(cause, verb, points, part, whole)| {
            let enough = |counts: &Counts| whole(*counts) >= u64::from(min_messages);
            let before = [lately, ever].into_iter().find(enough).unwrap_or_default();
            let rate = |counts: Counts| part(counts) as f64 * 100.0 / whole(counts).max(1) as f64;
            let apart = rate(here) - rate(before);
            if points >= 100 || !enough(&here) || apart <= f64::from(points) {
                return None;
            }
            let what = if verb == "failed TLS for" { "deliveries" } else { "messages" };
            let message = format!(
                "{} {verb} {} of {} {what} ({:.0} %) under revision {}, the others {} of {} ({:.0} %): more than {points} points apart",
                staged.pods.join(", "),
                part(here),
                whole(here),
                rate(here),
                staged.revision,
                part(before),
                whole(before),
                rate(before),
            );
            Some((cause, message))
        })
    }
}

fn refusal(pod: &str, nack: &Nack) -> String {
    format!("pod {pod} refuses revision {}: {}: {}", nack.revision, nack.reason.as_str(), nack.message)
}

fn age(since: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(now.duration_since(since)).unwrap_or_default()
}

fn add(at: Timestamp, by: Duration) -> Timestamp {
    at.checked_add(by).unwrap_or(Timestamp::MAX)
}

/// What the pods without the revision had counted when the rollout began, so that both sides are compared over the
/// same time.
#[derive(Debug, Default)]
pub struct Others {
    rollout: Option<(Timestamp, String)>,
    before: HashMap<String, (String, Revision, Counts)>,
}

impl Others {
    /// Takes note of pods that are new to it.
    pub fn note(&mut self, manifest: Option<&Manifest>, pods: &[Pod], acks: &HashMap<String, Ack>) {
        let staged = manifest.and_then(Manifest::staged);
        let rollout = staged.map(|staged| (staged.started, staged.wish.clone()));
        if self.rollout != rollout {
            *self = Self { rollout, before: HashMap::new() };
        }
        let Some(staged) = staged else { return };
        self.before.retain(|uid, _| acks.contains_key(uid));
        for (pod, ack) in outside(staged, pods, acks) {
            let Some(running) = &ack.running else { continue };
            let known = self.before.get(&pod.uid);
            let same = |(instance, revision, _): &(String, Revision, Counts)| {
                (instance, revision) == (&ack.instance, &running.revision)
            };
            if !known.is_some_and(same) {
                let before = (ack.instance.clone(), running.revision.clone(), ack.counts);
                self.before.insert(pod.uid.clone(), before);
            }
        }
    }

    /// Since the rollout began, and since those pods loaded what they run.
    fn counts(&self, staged: &Staged, pods: &[Pod], acks: &HashMap<String, Ack>) -> (Counts, Counts) {
        let mut sums = (Counts::default(), Counts::default());
        for (pod, ack) in outside(staged, pods, acks) {
            if let Some((.., before)) = self.before.get(&pod.uid) {
                sums = (sums.0.plus(ack.counts.since(*before)), sums.1.plus(ack.counts));
            }
        }
        sums
    }
}

fn outside<'a>(
    staged: &'a Staged,
    pods: &'a [Pod],
    acks: &'a HashMap<String, Ack>,
) -> impl Iterator<Item = (&'a Pod, &'a Ack)> {
    let outside = pods.iter().filter(|pod| !pod.terminating && !staged.pods.contains(&pod.name));
    outside.filter_map(|pod| Some((pod, acks.get(&pod.uid)?)))
}

#[cfg(test)]
mod tests;
