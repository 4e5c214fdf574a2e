//! What the operator says of all objects in numbers, counted at the moment of a scrape: how many are in force,
//! how many wait and since when, how many wait for their author, and which conditions warn. For alerts; nothing
//! here decides and nothing here names an object, because names have no end.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use jiff::Timestamp;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;
use tokio::sync::watch;

use super::status::Status;
use super::world::{Entry, World, now};
use crate::api::conditions::{self, ConditionType, Reason, State};
use crate::bundle::document::ObjectKind;

const KINDS: [ObjectKind; 7] = [
    ObjectKind::OutboundGateway,
    ObjectKind::OutboundRoute,
    ObjectKind::RoutingRule,
    ObjectKind::ComplianceRule,
    ObjectKind::AddressList,
    ObjectKind::Directory,
    ObjectKind::Quarantine,
];

/// Conditions that somebody should hear of, and the state in which they are bad news.
const WARNINGS: [(ConditionType, State); 16] = [
    (ConditionType::RolloutHalted, State::True),
    (ConditionType::Pinned, State::True),
    (ConditionType::MailDeferred, State::True),
    (ConditionType::AcceptsMail, State::False),
    (ConditionType::TLSVerified, State::False),
    (ConditionType::SPFAligned, State::False),
    (ConditionType::DKIMPublished, State::False),
    (ConditionType::ClientRangesHeld, State::True),
    (ConditionType::ScalingDown, State::True),
    (ConditionType::Conflicted, State::True),
    (ConditionType::BreaksUpstreamDKIM, State::True),
    (ConditionType::UnauthenticatedBypass, State::True),
    (ConditionType::SMIMEDisabled, State::True),
    (ConditionType::ExternalTargetUnchecked, State::True),
    (ConditionType::DescriptionNotUnique, State::True),
    (ConditionType::WordsNotPlain, State::True),
];

/// Where an object stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Standing {
    /// Every serving pod obeys it.
    Ready,
    /// On its way, or it waits for something.
    Waiting,
    /// On its way, and a pod refuses it.
    Refused,
    /// Nothing but a change by its author helps.
    Stalled,
}

impl Standing {
    const ALL: [Self; 4] = [Self::Ready, Self::Waiting, Self::Refused, Self::Stalled];

    const fn word(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Waiting => "waiting",
            Self::Refused => "refused",
            Self::Stalled => "stalled",
        }
    }
}

/// An object as far as it is counted.
struct Counted<'a> {
    kind: ObjectKind,
    generation: i64,
    /// When this generation was seen first.
    seen: Timestamp,
    status: &'a Status,
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Counts {
    objects: BTreeMap<(ObjectKind, Standing), i64>,
    /// Since when the oldest has waited that its author cannot help.
    waits_since: Option<Timestamp>,
    warnings: BTreeMap<ConditionType, i64>,
}

impl Counts {
    fn add(&mut self, object: &Counted<'_>) {
        let Counted { kind, generation, seen, status } = *object;
        let standing = standing(status, generation);
        *self.objects.entry((kind, standing)).or_default() += 1;
        if matches!(standing, Standing::Waiting | Standing::Refused) {
            let since = since(status, seen);
            self.waits_since = Some(self.waits_since.map_or(since, |oldest| oldest.min(since)));
        }
        for (condition, bad) in WARNINGS {
            if is(status, condition, bad) {
                *self.warnings.entry(condition).or_default() += 1;
            }
        }
    }
}

fn is(status: &Status, condition: ConditionType, state: State) -> bool {
    conditions::get(&status.conditions, condition).is_some_and(|found| found.status == state.as_str())
}

fn standing(status: &Status, generation: i64) -> Standing {
    if is(status, ConditionType::Stalled, State::True) {
        return Standing::Stalled;
    }
    if status.is_ready(generation) {
        return Standing::Ready;
    }
    let ready = conditions::get(&status.conditions, ConditionType::Ready);
    match ready.is_some_and(|ready| ready.reason == Reason::ConfigRejected.as_str()) {
        true => Standing::Refused,
        false => Standing::Waiting,
    }
}

/// Since when it is not Ready: what the status says, or, while that speaks of a generation that was, since this
/// one was seen.
fn since(status: &Status, seen: Timestamp) -> Timestamp {
    let ready = conditions::get(&status.conditions, ConditionType::Ready);
    let not_ready = ready.filter(|ready| ready.status != State::True.as_str());
    not_ready.map_or(seen, |ready| ready.last_transition_time.0)
}

/// The count of the leader's world; a process that does not lead counts nothing.
pub struct Census(pub watch::Receiver<Option<Arc<World>>>);

impl fmt::Debug for Census {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Census")
    }
}

impl Collector for Census {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let Some(world) = self.0.borrow().clone() else { return Ok(()) };
        let mut counts = Counts::default();
        world.each(|id, entry| {
            // What is on its way out is nobody's trouble.
            if !entry.deleting {
                let Entry { generation, seen, status, .. } = entry;
                counts.add(&Counted { kind: id.kind, generation: *generation, seen: *seen, status });
            }
        });
        let help =
            "Objects by where they stand: ready, waiting, refused by a pod, stalled until their author acts";
        let name = "postern_controller_objects";
        let mut objects = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for kind in KINDS {
            for standing in Standing::ALL {
                let labels = [("kind", kind.as_str()), ("state", standing.word())];
                let count = counts.objects.get(&(kind, standing)).copied().unwrap_or_default();
                ConstGauge::new(count).encode(objects.encode_family(&labels)?)?;
            }
        }
        let help =
            "How long the object that is not Ready for longest has waited, except those that are stalled";
        let waits = counts.waits_since.map_or(0, |since| now().duration_since(since).as_secs().max(0));
        let gauge = ConstGauge::new(waits);
        let name = "postern_controller_waiting_seconds";
        gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)?;
        let help = "Objects by the condition that says something is wrong or worth a look";
        let name = "postern_controller_conditions";
        let mut warnings = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (condition, _) in WARNINGS {
            let count = counts.warnings.get(&condition).copied().unwrap_or_default();
            ConstGauge::new(count).encode(warnings.encode_family(&[("condition", condition.as_str())])?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
