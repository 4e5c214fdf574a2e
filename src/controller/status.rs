//! What the operator says of each object: conditions and rollout out of outcomes and progress. Pure; the
//! caller brings `now` and writes. Standalone mode shows the same.

pub mod tested;
mod text;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use serde::{Deserialize, Serialize};

use crate::api::conditions::{self, ConditionType, Reason, State, Verdict};
use crate::api::status::{ProbeStatus, Rollout};
use crate::bundle::document::{Action, ChangeRoute, DefaultRoute, ObjectId};
use crate::bundle::{Bundle, Manifest, Sequence};
use crate::translate::Outcome;

use super::rollout::{Arrival, Journey, Progress, Publication};

/// The status of any of our kinds; each shows the fields its schema has.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout: Option<Rollout>,
    /// Rules only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub action: Option<String>,
    /// Lists and directories only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entries: Option<u64>,
    /// Routes only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probe: Option<ProbeStatus>,
    /// Gateways only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<i32>,
    /// Gateways only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,
}

impl Status {
    /// Whether it says that this generation is obeyed everywhere. That is said once and stays said.
    pub fn is_ready(&self, generation: i64) -> bool {
        self.observed_generation == Some(generation)
            && conditions::get(&self.conditions, ConditionType::Ready).is_some_and(|ready| {
                ready.status == State::True.as_str() && ready.observed_generation == Some(generation)
            })
    }
}

/// Why something that was decided could not be published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    pub reason: Reason,
    pub message: String,
}

/// What one status is made from, besides the object's own outcome.
pub struct Situation<'a> {
    /// Why the newest decisions are not published, if they are not.
    pub failure: Option<&'a Failure>,
    pub progress: &'a dyn Fn(Sequence) -> Progress,
    pub now: Timestamp,
}

/// The status of a route or rule.
pub fn of_object(
    outcome: &Outcome,
    journey: Option<&Journey>,
    action: Option<String>,
    current: &Status,
    situation: &Situation<'_>,
) -> Status {
    let generation = outcome.origin.generation;
    let mut status = Status { action, entries: outcome.entries, ..current.clone() };
    status.observed_generation = Some(generation);
    let mut verdicts = outcome.verdicts();
    if !outcome.is_current() {
        verdicts.extend(not_in_force(outcome));
        status.rollout = None;
    } else if let Some(journey) = journey {
        verdicts.push(programmed(journey.published.as_ref(), situation.failure));
        let idle = if outcome.disabled {
            Some(text::DISABLED)
        } else if outcome.unused {
            Some(text::UNUSED)
        } else {
            None
        };
        let (ready, rollout) = arrival(journey, idle, situation);
        verdicts.push(ready);
        status.rollout = rollout;
    }
    finish(status, verdicts, outcome, situation)
}

/// The live picture of a gateway.
pub struct Live<'a> {
    pub manifest: Option<&'a Manifest>,
    /// When the change behind the newest publication was seen.
    pub started: Timestamp,
    pub arrived: Option<&'a Arrival>,
    /// What is in force.
    pub bundle: Option<&'a Bundle>,
    pub replicas: usize,
    pub selector: String,
    /// What keeps the pods from running although the bundle is published.
    pub trouble: Option<&'a Failure>,
    /// Pods leave, and that takes its time.
    pub scaling: Option<&'a Verdict>,
}

/// The status of an OutboundGateway.
pub fn of_gateway(outcome: &Outcome, live: &Live<'_>, current: &Status, situation: &Situation<'_>) -> Status {
    let mut status = current.clone();
    status.observed_generation = Some(outcome.origin.generation);
    status.replicas = Some(i32::try_from(live.replicas).unwrap_or(i32::MAX));
    status.selector = Some(live.selector.clone());
    let publication = live.manifest.map(Publication::from);
    let mut verdicts = outcome.verdicts();
    let journey = publication.map(|publication| Journey {
        wish: super::rollout::Wish {
            uid: outcome.origin.uid.clone(),
            generation: outcome.origin.generation,
            started: live.started,
        },
        published: Some(publication),
        arrived: None,
    });
    status.rollout = journey.as_ref().map(|journey| live_rollout(journey, live.arrived, situation));
    if outcome.is_current() {
        let failure = live.trouble.or(situation.failure);
        let published = journey.as_ref().and_then(|journey| journey.published.as_ref());
        verdicts.push(match failure {
            Some(failure) => failed(failure),
            None => programmed(published, None),
        });
        verdicts.push(match &journey {
            // Some of it, such as the size of its volumes, is not as written.
            _ if live.trouble.is_some() => pending(ConditionType::Ready, live.trouble),
            Some(journey) => live_ready(journey, live.arrived, situation),
            None => pending(ConditionType::Ready, situation.failure),
        });
    } else {
        verdicts.extend(not_in_force(outcome));
    }
    verdicts.push(accepts_mail(live.bundle));
    verdicts.extend(live.scaling.cloned());
    let deferred = live.bundle.and_then(mail_deferred);
    match deferred {
        Some(verdict) => verdicts.push(verdict),
        None => conditions::remove(&mut status.conditions, ConditionType::MailDeferred),
    }
    finish(status, verdicts, outcome, situation)
}

/// The status of an object that no gateway looks after.
pub fn of_stray(outcome: &Outcome, action: Option<String>, current: &Status, now: Timestamp) -> Status {
    let mut status = Status { action, rollout: None, ..current.clone() };
    status.observed_generation = Some(outcome.origin.generation);
    let mut verdicts = outcome.verdicts();
    verdicts.extend(not_in_force(outcome));
    let situation = Situation { failure: None, progress: &|_| Progress::default(), now };
    finish(status, verdicts, outcome, &situation)
}

fn finish(
    mut status: Status,
    mut verdicts: Vec<Verdict>,
    outcome: &Outcome,
    situation: &Situation<'_>,
) -> Status {
    match stalled(&verdicts) {
        Some(verdict) => verdicts.push(verdict),
        None => conditions::remove(&mut status.conditions, ConditionType::Stalled),
    }
    for kind in ConditionType::WARNINGS.iter().chain(ConditionType::FINDINGS) {
        conditions::remove_unless(&mut status.conditions, *kind, &verdicts);
    }
    conditions::merge(&mut status.conditions, verdicts, outcome.origin.generation, situation.now);
    status
}

/// What only the author can repair. Things that may still come (a route of the same `kubectl apply`) are
/// not among it, or GitOps tools would give up too early.
fn stalled(verdicts: &[Verdict]) -> Option<Verdict> {
    let hopeless = verdicts.iter().find(|verdict| {
        verdict.state == State::False
            && match verdict.kind {
                ConditionType::Accepted => true,
                ConditionType::ResolvedRefs => verdict.reason == Reason::GatewayNotAllowed,
                ConditionType::Programmed => {
                    matches!(verdict.reason, Reason::BundleTooLarge | Reason::CompileFailed)
                }
                _ => false,
            }
    })?;
    let message = hopeless.message.clone();
    Some(Verdict::new(ConditionType::Stalled, State::True, Reason::NeedsAuthor, message))
}

fn not_in_force(outcome: &Outcome) -> [Verdict; 2] {
    let generation = outcome.origin.generation;
    let (reason, message) = match outcome.in_force {
        Some(last) if last == generation => {
            (Reason::LastGoodInForce, "what was accepted before stays in force".to_owned())
        }
        Some(last) => (Reason::LastGoodInForce, format!("generation {last} stays in force")),
        None => (Reason::NotAccepted, format!("generation {generation} cannot be used as it is")),
    };
    [
        Verdict::new(ConditionType::Programmed, State::False, Reason::NotAccepted, message.clone()),
        Verdict::new(ConditionType::Ready, State::False, reason, message),
    ]
}

fn failed(failure: &Failure) -> Verdict {
    Verdict::new(ConditionType::Programmed, State::False, failure.reason, failure.message.clone())
}

fn programmed(publication: Option<&Publication>, failure: Option<&Failure>) -> Verdict {
    match (publication, failure) {
        (Some(publication), _) => {
            let message =
                format!("published in revision {} at {}", publication.revision, text::time(publication.at));
            Verdict::new(ConditionType::Programmed, State::True, Reason::Programmed, message)
        }
        (None, Some(failure)) => failed(failure),
        (None, None) => pending(ConditionType::Programmed, None),
    }
}

fn pending(kind: ConditionType, failure: Option<&Failure>) -> Verdict {
    match failure {
        Some(_) => Verdict::new(kind, State::False, Reason::Pending, "not as written yet; see Programmed"),
        None => Verdict::new(kind, State::Unknown, Reason::Pending, "not published yet"),
    }
}

/// Ready and rollout of a generation on its way.
fn arrival(
    journey: &Journey,
    idle: Option<&'static str>,
    situation: &Situation<'_>,
) -> (Verdict, Option<Rollout>) {
    let Some(publication) = &journey.published else {
        return (pending(ConditionType::Ready, situation.failure), None);
    };
    let mut rollout = Rollout {
        revision: publication.revision.clone(),
        started_at: Some(journey.wish.started),
        ..Rollout::default()
    };
    if let Some(arrival) = &journey.arrived {
        (rollout.pods_total, rollout.pods_updated) = (arrival.pods, arrival.pods);
        rollout.stale_pods = arrival.not_counting.clone();
        rollout.completed_at = Some(arrival.at);
        rollout.propagation_millis = Some(arrival.after(journey.wish.started));
        let reason = match idle {
            Some(text::DISABLED) => Reason::Disabled,
            Some(_) => Reason::NotUsed,
            None => Reason::Ready,
        };
        let message = text::arrived(arrival, journey.wish.started, idle);
        return (Verdict::new(ConditionType::Ready, State::True, reason, message), Some(rollout));
    }
    let progress = (situation.progress)(publication.sequence);
    fill(&mut rollout, &progress);
    (waiting(&progress, publication), Some(rollout))
}

fn fill(rollout: &mut Rollout, progress: &Progress) {
    (rollout.pods_total, rollout.pods_updated) = (progress.total, progress.updated);
    rollout.stale_pods = progress.stale.clone();
    rollout.last_error = text::refused(progress);
}

fn waiting(progress: &Progress, publication: &Publication) -> Verdict {
    let (reason, message) = match text::refused(progress) {
        Some(refusal) => (
            Reason::ConfigRejected,
            format!("{}; it goes on with what it ran before revision {}", refusal, publication.revision),
        ),
        None if progress.total == 0 => (Reason::NoServingPods, text::nobody(progress)),
        None => (Reason::RollingOut, text::underway(progress)),
    };
    Verdict::new(ConditionType::Ready, State::False, reason, message)
}

fn live_rollout(journey: &Journey, arrived: Option<&Arrival>, situation: &Situation<'_>) -> Rollout {
    let mut rollout = Rollout { started_at: Some(journey.wish.started), ..Rollout::default() };
    if let Some(publication) = &journey.published {
        rollout.revision = publication.revision.clone();
        fill(&mut rollout, &(situation.progress)(publication.sequence));
    }
    if let Some(arrival) = arrived {
        rollout.completed_at = Some(arrival.at);
        rollout.propagation_millis = Some(arrival.after(journey.wish.started));
    }
    rollout
}

fn live_ready(journey: &Journey, arrived: Option<&Arrival>, situation: &Situation<'_>) -> Verdict {
    let Some(publication) = &journey.published else {
        return pending(ConditionType::Ready, situation.failure);
    };
    let progress = (situation.progress)(publication.sequence);
    match arrived {
        Some(arrival) if progress.complete() => {
            let now =
                Arrival { pods: progress.total, not_counting: progress.stale.clone(), ..arrival.clone() };
            let message = text::arrived(&now, journey.wish.started, None);
            Verdict::new(ConditionType::Ready, State::True, Reason::Ready, message)
        }
        _ => waiting(&progress, publication),
    }
}

fn accepts_mail(bundle: Option<&Bundle>) -> Verdict {
    let kind = ConditionType::AcceptsMail;
    match bundle {
        None => Verdict::new(kind, State::Unknown, Reason::Pending, "nothing is published yet"),
        Some(bundle) if !bundle.gateway.has_clients() && !bundle.gateway.spf_clients.is_empty() => {
            Verdict::new(kind, State::False, Reason::NoClients, text::NO_RANGES)
        }
        Some(bundle) if !bundle.gateway.has_clients() => {
            Verdict::new(kind, State::False, Reason::NoClients, text::NO_CLIENTS)
        }
        Some(bundle) => {
            let message = format!("{} may relay", text::clients(&bundle.gateway));
            Verdict::new(kind, State::True, Reason::AcceptsMail, message)
        }
    }
}

/// Names what makes mail wait, and what its author must do.
fn mail_deferred(bundle: &Bundle) -> Option<Verdict> {
    let mut causes: Vec<(Reason, String)> = Vec::new();
    if let Some(DefaultRoute::Missing(route)) = &bundle.gateway.default_route {
        let object = &bundle.gateway.origin.object;
        causes.push((Reason::RouteMissing, text::missing_route(object, &route.name)));
    }
    for rule in &bundle.rules {
        let object: &ObjectId = &rule.origin.object;
        if let Some(why) = &rule.broken {
            causes
                .push((Reason::RuleBroken, format!("{object} cannot be read ({why}): repair or delete it")));
        } else if let Action::Modify(modify) = &rule.action
            && let Some(ChangeRoute::Missing(route)) = &modify.route
        {
            causes.push((Reason::RouteMissing, text::missing_route(object, &route.name)));
        }
    }
    if let Some(directory) = &bundle.directory
        && let Some(why) = &directory.broken
    {
        let object = &directory.origin.object;
        causes.push((Reason::DirectoryNotFound, format!("{object} cannot be used ({why}): repair it")));
    }
    for route in &bundle.routes {
        if let Some(why) = &route.broken {
            let object = &route.origin.object;
            causes.push((Reason::RuleBroken, format!("{object} cannot be read ({why}): repair it")));
        }
    }
    let (reason, _) = causes.first()?;
    let message = format!("mail waits: {}", text::list(causes.iter().map(|(_, cause)| cause.as_str()), 5));
    Some(Verdict::new(ConditionType::MailDeferred, State::True, *reason, message))
}

/// What of a change is worth an Event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct News {
    pub tone: Tone,
    pub reason: &'static str,
    pub note: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tone {
    Good,
    Bad,
}

/// Longest note the API server takes.
pub const MAX_NOTE: usize = 1024;

/// Compares two statuses of an object: a rollout that finished, something refused, something invalid.
pub fn news(before: &Status, after: &Status) -> Option<News> {
    let get = |status: &'_ Status, kind| {
        conditions::get(&status.conditions, kind)
            .map(|c| (c.status.clone(), c.reason.clone(), c.observed_generation))
    };
    let is_new = |kind| get(before, kind) != get(after, kind);
    let condition = |kind: ConditionType| conditions::get(&after.conditions, kind).filter(|_| is_new(kind));
    let fails = |kind: ConditionType, reasons: &[Reason]| {
        let found = condition(kind).filter(|condition| condition.status == State::False.as_str())?;
        let reason = reasons.iter().find(|reason| reason.as_str() == found.reason)?;
        Some(told(Tone::Bad, reason.as_str(), &found.message))
    };
    const INVALID: &[Reason] = &[Reason::Invalid, Reason::PatternInvalid, Reason::Malformed];
    const UNPUBLISHED: &[Reason] =
        &[Reason::BundleTooLarge, Reason::CompileFailed, Reason::PublishFailed, Reason::NoStorageClass];
    let warns = |kind: ConditionType| {
        let found = condition(kind).filter(|condition| condition.status == State::True.as_str())?;
        Some(told(Tone::Bad, kind.as_str(), &found.message))
    };
    const DNS: &[Reason] = &[
        Reason::SPFMissing,
        Reason::SPFInvalid,
        Reason::AddressMissing,
        Reason::UpstreamMissing,
        Reason::KeyNotPublished,
        Reason::KeyMismatch,
        Reason::KeyInvalid,
    ];
    fails(ConditionType::Accepted, INVALID)
        .or_else(|| fails(ConditionType::Programmed, UNPUBLISHED))
        .or_else(|| fails(ConditionType::Ready, &[Reason::ConfigRejected]))
        // Whatever makes it False is a finding.
        .or_else(|| fails(ConditionType::TLSVerified, Reason::ALL))
        .or_else(|| expires_soon(before, after))
        .or_else(|| warns(ConditionType::ClientRangesHeld))
        .or_else(|| fails(ConditionType::SPFAligned, DNS))
        .or_else(|| fails(ConditionType::DKIMPublished, DNS))
        .or_else(|| {
            let ready =
                condition(ConditionType::Ready).filter(|ready| ready.status == State::True.as_str())?;
            Some(told(Tone::Good, "RolledOut", &ready.message))
        })
        .or_else(|| {
            let is_so = |status: &Status, state: State| {
                conditions::get(&status.conditions, ConditionType::TLSVerified)
                    .is_some_and(|condition| condition.status == state.as_str())
            };
            let repaired = is_so(before, State::False) && is_so(after, State::True);
            let verified = conditions::get(&after.conditions, ConditionType::TLSVerified)?;
            repaired.then(|| told(Tone::Good, "TLSVerified", &verified.message))
        })
}

/// A certificate has come nearer to its end than one of the days of warning (spec R28).
fn expires_soon(before: &Status, after: &Status) -> Option<News> {
    let soonest = |status: &Status| tested::soonest(&status.probe.as_ref()?.hosts);
    let (days, host, at) = soonest(after)?;
    let expired = after.probe.iter().flat_map(|probe| &probe.hosts).any(|host| host.reason == "CertExpired");
    let told_before = soonest(before).is_some_and(|(last, _, then)| last <= days && then == at);
    if expired || told_before {
        return None;
    }
    Some(told(Tone::Bad, "CertificateExpiresSoon", &tested::warning(days, &host, at)))
}

fn told(tone: Tone, reason: &'static str, message: &str) -> News {
    let note = message[..message.floor_char_boundary(MAX_NOTE)].to_owned();
    News { tone, reason, note }
}

#[cfg(test)]
mod tests;
