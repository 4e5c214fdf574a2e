//! How many pods a gateway has, and which of them are to leave. Pure: what was written, what the API server has and
//! what pods say in; the next step out.
//!
//! Fewer pods are wished for: those with the highest numbers are named as leaving and hand their mail over; only when
//! a pod has said that it is empty does the StatefulSet shrink past it, and only then may its claim go. A pod that
//! said so stays named as long as it is there: else it would take mail again on its way out.

use std::collections::{BTreeSet, HashMap};

use crate::api::conditions::{ConditionType, Reason, State, Verdict};
use crate::bundle::{Ack, Leaving, Manifest};

use super::rollout::Pod;

/// The StatefulSet as the API server has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Set {
    pub replicas: i32,
    /// Claims go with the pods that are too many.
    pub deletes_claims: bool,
}

/// What the author wrote.
#[derive(Debug, Clone, Copy)]
pub struct Wish<'a> {
    pub gateway: &'a str,
    pub replicas: i32,
    pub ephemeral: bool,
}

/// What is there.
#[derive(Clone, Copy)]
pub struct Scene<'a> {
    /// `None`: there is none yet.
    pub set: Option<Set>,
    pub pods: &'a [Pod],
    /// By the uid of the pod.
    pub acks: &'a HashMap<String, Ack>,
    pub manifest: Option<&'a Manifest>,
    /// Pods that never had a volume, by name.
    pub blank: &'a BTreeSet<String>,
}

/// The next step.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Life {
    /// For the StatefulSet.
    pub set: Option<Set>,
    /// For the manifest, sorted.
    pub leaving: Vec<String>,
    /// For the status of the gateway, while it is so.
    pub verdict: Option<Verdict>,
}

/// How far one leaving pod has come.
enum Stage<'a> {
    /// Everything of it is elsewhere.
    Empty,
    /// There never was anything.
    Blank,
    Going(&'a Leaving),
    /// It does not say anything (yet).
    Silent(&'static str),
}

pub fn plan(wish: Wish<'_>, scene: Scene<'_>) -> Life {
    // Without a set there may still be pods: it is replaced around them, or somebody took it away.
    let there = scene.pods.iter().filter_map(|pod| ordinal(wish.gateway, &pod.name)).max();
    let orphaned = || there.map(|highest| Set { replicas: highest + 1, deletes_claims: false });
    let Some(set) = scene.set.or_else(orphaned) else {
        let set = Set { replicas: wish.replicas, deletes_claims: false };
        return Life { set: Some(set), ..Life::default() };
    };
    // Named before and on its way out: named until it is gone, whatever is wished for by now.
    let mut leaving: BTreeSet<String> = named(scene.manifest)
        .filter(|name| scene.pods.iter().any(|pod| pod.name == **name && pod.terminating))
        .cloned()
        .collect();
    let is_ending = scene.pods.iter().any(|pod| ordinal(wish.gateway, &pod.name) >= Some(set.replicas));
    let goes_on = set.deletes_claims && is_ending;
    if wish.replicas >= set.replicas {
        let deletes_claims = goes_on && wish.replicas == set.replicas;
        let next = Set { replicas: wish.replicas, deletes_claims };
        return Life { set: Some(next), leaving: leaving.into_iter().collect(), verdict: None };
    }
    if wish.replicas == 0 && !wish.ephemeral {
        // Nobody is left to take the mail. It is safe where it is.
        let next = Set { replicas: 0, deletes_claims: false };
        return Life { set: Some(next), leaving: Vec::new(), verdict: Some(to_zero(wish, scene, set)) };
    }
    let mut replicas = wish.replicas;
    let mut handed_over = true;
    let mut waiting = Vec::new();
    for number in (wish.replicas..set.replicas).rev() {
        let name = format!("{}-{number}", wish.gateway);
        match stage(wish, scene, &name) {
            // Those above it have gone already, those below can wait.
            _ if replicas > wish.replicas => waiting.push((number, name.clone())),
            Stage::Empty => {}
            Stage::Blank => handed_over = false,
            Stage::Going(_) | Stage::Silent(_) => {
                replicas = number + 1;
                waiting.push((number, name.clone()));
            }
        }
        leaving.insert(name);
    }
    let shrinks = replicas < set.replicas;
    let deletes_claims = !wish.ephemeral && if shrinks { handed_over } else { goes_on };
    let verdict = (!waiting.is_empty()).then(|| going(wish, scene, &waiting));
    Life { set: Some(Set { replicas, deletes_claims }), leaving: leaving.into_iter().collect(), verdict }
}

fn named(manifest: Option<&Manifest>) -> impl Iterator<Item = &String> {
    manifest.into_iter().flat_map(|manifest| &manifest.leaving)
}

/// The number in a pod's name.
fn ordinal(gateway: &str, pod: &str) -> Option<i32> {
    pod.strip_prefix(gateway)?.strip_prefix('-')?.parse().ok()
}

fn stage<'a>(wish: Wish<'_>, scene: Scene<'a>, name: &str) -> Stage<'a> {
    let Some(pod) = scene.pods.iter().find(|pod| pod.name == name) else {
        return match wish.ephemeral || scene.blank.contains(name) {
            true => Stage::Blank,
            false => Stage::Silent("its pod is not there"),
        };
    };
    if !pod.scheduled && (wish.ephemeral || scene.blank.contains(name)) {
        return Stage::Blank;
    }
    let Some(manifest) = scene.manifest.filter(|manifest| manifest.leaving.iter().any(|one| one == name))
    else {
        return Stage::Silent("it is about to be told");
    };
    let Some(ack) = scene.acks.get(&pod.uid) else {
        return Stage::Silent(if pod.scheduled { "it cannot be asked" } else { "it waits for a node" });
    };
    // What it said by an older manifest may be of an earlier time that it was to leave.
    let knows = ack.running.as_ref().is_some_and(|running| running.sequence >= manifest.sequence);
    match &ack.leaving {
        Some(leaving) if knows && leaving.empty && ack.queued == 0 => Stage::Empty,
        Some(leaving) if knows => Stage::Going(leaving),
        _ => Stage::Silent("it has not heard of it yet"),
    }
}

fn going(wish: Wish<'_>, scene: Scene<'_>, waiting: &[(i32, String)]) -> Verdict {
    let mut total = 0;
    let mut said = Vec::new();
    for (_, name) in waiting.iter().rev() {
        said.push(match stage(wish, scene, name) {
            Stage::Going(Leaving { left, problem, empty: false, .. }) => {
                total += left;
                match problem {
                    Some(problem) => format!("{name}: {} left, not handed over: {problem}", messages(*left)),
                    None => format!("{name}: {} left", messages(*left)),
                }
            }
            Stage::Going(_) | Stage::Empty => format!("{name}: empty"),
            Stage::Blank => format!("{name}: never ran"),
            Stage::Silent(why) => format!("{name}: {why}"),
        });
    }
    let more = said.len().saturating_sub(10);
    said.truncate(10);
    let mut list = said.join("; ");
    if more > 0 {
        list = format!("{list}; and {more} more");
    }
    let (reason, what) = match wish.replicas {
        0 => (
            Reason::NoPeer,
            "no pod would be left to take their mail, and it would be lost with them (storage.ephemeral): they take nothing new and stay until it is delivered",
        ),
        _ => (Reason::HandingOver, "pods that leave hand their mail over, and go when they are empty"),
    };
    let message = format!("{total} messages left on the way to {} pods; {what}: {list}", wish.replicas);
    Verdict::new(ConditionType::ScalingDown, State::True, reason, message)
}

fn to_zero(wish: Wish<'_>, scene: Scene<'_>, set: Set) -> Verdict {
    let with_mail = scene.pods.iter().filter_map(|pod| {
        let queued = scene.acks.get(&pod.uid)?.queued;
        (queued > 0).then(|| format!("{} in spool-{}", messages(queued), pod.name))
    });
    let list: Vec<String> = with_mail.take(10).collect();
    let list = match list.is_empty() {
        true => format!("no pod said that it had any, of {}", set.replicas),
        false => list.join(", "),
    };
    let message = format!(
        "scaled to zero: nobody is left to take mail over, so it waits in the volume claims and is delivered when \
         {} has pods again ({list}). The claims are kept",
        wish.gateway
    );
    Verdict::new(ConditionType::ScalingDown, State::True, Reason::NoPeer, message)
}

fn messages(count: u64) -> String {
    if count == 1 { "1 message".to_owned() } else { format!("{count} messages") }
}

#[cfg(test)]
mod tests;
