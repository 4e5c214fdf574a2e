//! What a pin and a staged rollout add to statuses: where a rollout is, why it went back, which revision is pinned,
//! and what its author must do. Pure.

use jiff::Timestamp;

use super::text::{list, refused, time};
use super::{Situation, Status};
use crate::api::conditions::{self, ConditionType, Reason, State, Verdict};
use crate::api::status::Stage;
use crate::bundle::document::ObjectId;
use crate::bundle::manifest::{HaltCause, Staged};
use crate::controller::rollout::course::Verdict as Standing;
use crate::controller::rollout::standing::{Standings, Why};
use crate::controller::rollout::{Progress, STALE_NAMES};
use crate::translate::Outcome;

/// Where a staged rollout is, for the gateway and for every object that is part of it.
#[derive(Debug, Clone, PartialEq)]
pub struct StageView {
    pub stage: Stage,
    /// All pods and the second revision.
    pub progress: Progress,
    missing: Vec<String>,
}

impl StageView {
    /// `steps` is how many the rollout has; `updated` how many of the named pods obey the revision.
    pub fn new(staged: &Staged, standing: &Standing, steps: usize, progress: Progress, updated: u32) -> Self {
        let (until, missing) = match standing {
            Standing::Lasts { until, missing } => (missing.is_empty().then_some(*until), missing.clone()),
            Standing::Proved | Standing::Failed { .. } => (None, Vec::new()),
        };
        let mut pods = staged.pods.clone();
        pods.truncate(STALE_NAMES);
        let stage = Stage {
            revision: staged.revision.as_str().to_owned(),
            step: staged.step + 1,
            steps: u32::try_from(steps).unwrap_or(u32::MAX),
            pods,
            pods_updated: updated,
            since: Some(staged.since),
            until,
        };
        Self { stage, progress, missing }
    }

    /// What `Ready` says of an object that some pods have already.
    pub fn ready(&self) -> Verdict {
        let ready =
            |reason, message: String| Verdict::new(ConditionType::Ready, State::False, reason, message);
        if let Some(refusal) = refused(&self.progress) {
            return ready(Reason::ConfigRejected, format!("{refusal}; a staged rollout goes back by itself"));
        }
        let Stage { step, steps, pods, until, revision, .. } = &self.stage;
        let Progress { total, updated, .. } = self.progress;
        let names = list(pods.iter().map(String::as_str), 5);
        let next = match (until, self.missing.is_empty()) {
            (Some(at), _) => format!("the next step is at {}", time(*at)),
            (None, true) => "the next step follows".to_owned(),
            (None, false) => format!("waiting for {}", list(self.missing.iter().map(String::as_str), 5)),
        };
        let message = format!(
            "step {step} of {steps}: {updated} of {total} pods, {names} first, run revision {revision}; {next}"
        );
        ready(Reason::RollingOut, message)
    }
}

/// Programmed and Ready of an object that no pod is to obey as it is written.
pub fn withheld(outcome: &Outcome, standings: &Standings) -> Option<[Verdict; 2]> {
    let generation = outcome.origin.generation;
    let (reason, message) = match standings.of(&outcome.origin.object)? {
        Why::Staged => return None,
        Why::Pinned(revision) => (
            Reason::Pinned,
            format!(
                "generation {generation} is not obeyed: the OutboundGateway is pinned to revision {revision}; it takes effect when spec.pinnedRevision is removed (`postern rollback --undo`)"
            ),
        ),
        Why::Halted(halted) => (
            Reason::RolloutHalted,
            format!(
                "generation {generation} was taken back at {}: {}; what was in force before stays. Change what is wrong, and the rollout begins anew",
                time(halted.at),
                halted.message
            ),
        ),
    };
    let verdict = |kind| Verdict::new(kind, State::False, reason, message.clone());
    Some([verdict(ConditionType::Programmed), verdict(ConditionType::Ready)])
}

/// What only a gateway shows, while it is true.
pub fn of_gateway(current: &Status, situation: &Situation<'_>) -> Vec<Verdict> {
    let mut verdicts = Vec::new();
    if let Some(failure) = situation.failure
        && matches!(failure.reason, Reason::RevisionNotFound | Reason::RevisionUnusable)
    {
        let kind = ConditionType::ResolvedRefs;
        verdicts.push(Verdict::new(kind, State::False, failure.reason, failure.message.clone()));
    }
    match situation.standings.why() {
        Some(Why::Pinned(revision)) => {
            let since = since(current, situation.now);
            let waiting: Vec<String> =
                situation.standings.withheld().filter(not_gateway).map(ToString::to_string).collect();
            let waiting = match waiting.len() {
                0 => "no route or rule differs from it".to_owned(),
                1 => format!("{} waits", waiting[0]),
                many => {
                    let mut names = waiting;
                    names.sort();
                    format!("{many} objects wait: {}", list(names.iter().map(String::as_str), 5))
                }
            };
            let message = format!(
                "pinned to revision {revision} since {}: {waiting}. Settings of this object that pods obey are those of then, too. Repair what was wrong, then remove spec.pinnedRevision (`postern rollback --undo`)",
                time(since)
            );
            verdicts.push(Verdict::new(ConditionType::Pinned, State::True, Reason::Pinned, message));
        }
        Some(Why::Halted(halted)) => {
            let message = format!(
                "revision {} was taken back at {}: {}. All pods run what they ran before. Change what is wrong, and the rollout begins anew",
                halted.revision,
                time(halted.at),
                halted.message
            );
            let reason = match halted.cause {
                HaltCause::Refused => Reason::ConfigRejected,
                HaltCause::RejectsRose => Reason::RejectsRose,
                HaltCause::DeferralsRose => Reason::DeferralsRose,
                HaltCause::TlsFailuresRose => Reason::TLSFailuresRose,
                HaltCause::NoProgress => Reason::NoProgress,
            };
            verdicts.push(Verdict::new(ConditionType::RolloutHalted, State::True, reason, message));
        }
        Some(Why::Staged) | None => {}
    }
    verdicts
}

fn not_gateway(object: &&ObjectId) -> bool {
    object.kind != crate::bundle::document::ObjectKind::OutboundGateway
}

/// When the pin was seen first.
fn since(current: &Status, now: Timestamp) -> Timestamp {
    conditions::get(&current.conditions, ConditionType::Pinned)
        .filter(|condition| condition.status == State::True.as_str())
        .map_or(now, |condition| condition.last_transition_time.0)
}

/// `Ready` of a gateway whose pods are not all meant to run the newest revision.
pub fn ready_of_gateway(situation: &Situation<'_>) -> Option<Verdict> {
    if let Some(view) = situation.stage {
        return Some(view.ready());
    }
    let Some(Why::Halted(halted)) = situation.standings.why() else { return None };
    let message = format!("revision {} was taken back: {}", halted.revision, halted.message);
    Some(Verdict::new(ConditionType::Ready, State::False, Reason::RolloutHalted, message))
}

#[cfg(test)]
mod tests;
