//! The status of each object of the folder, made by the same functions as in a cluster: one pod, this one.

use std::collections::{BTreeMap, HashMap, HashSet};

use jiff::Timestamp;

use crate::bundle::document::{Action, ObjectId, ObjectKind};
use crate::bundle::probe::RouteProbe;
use crate::bundle::{Ack, Bundle, Manifest};
use crate::controller::rollout::{Arrival, Journeys, Pod, Wish, progress};
use crate::controller::status::{Live, Situation, Status, of_gateway, of_object, tested};
use crate::manifest::Located;
use crate::translate::{ObjectKey, Outcome};

const POD: &str = "standalone";

#[derive(Default)]
pub struct Statuses {
    gateway: Option<ObjectKey>,
    outcomes: Vec<Outcome>,
    journeys: Journeys,
    current: BTreeMap<ObjectId, Status>,
    manifest: Option<Manifest>,
    /// When the change behind the manifest was seen, and when it was obeyed.
    started: Option<Timestamp>,
    arrived: Option<Arrival>,
    /// Problems of files, told once.
    told: HashSet<String>,
    /// The folder could not be read whole: the outcomes are those of an earlier look.
    partial: bool,
}

impl Statuses {
    /// Logs a problem of a file the first time it is seen.
    pub fn tell(&mut self, problem: &Located) {
        let text = format!("{}:{}: {}", problem.file.display(), problem.line, problem.message);
        if self.told.insert(text.clone()) {
            tracing::warn!("{text}");
        }
    }

    pub fn incomplete(&mut self) {
        self.partial = true;
    }

    pub fn translated(&mut self, gateway: &ObjectKey, outcomes: Vec<Outcome>, seen: Timestamp) {
        self.partial = false;
        self.gateway = Some(gateway.clone());
        for outcome in &outcomes {
            let origin = &outcome.origin;
            if outcome.is_current() {
                let wish = Wish { uid: origin.uid.clone(), generation: origin.generation, started: seen };
                self.journeys.begin(&origin.object, wish);
            } else {
                self.journeys.end(&origin.object);
            }
        }
        let known: HashSet<&ObjectId> = outcomes.iter().map(|outcome| &outcome.origin.object).collect();
        self.journeys.retain(|object| known.contains(object));
        self.current.retain(|object, _| known.contains(object));
        self.outcomes = outcomes;
    }

    pub fn published(&mut self, manifest: &Manifest) {
        self.journeys.published(manifest);
        if self.manifest.as_ref().is_none_or(|known| known.sequence != manifest.sequence) {
            self.started = Some(manifest.published_at);
            self.arrived = None;
            self.manifest = Some(manifest.clone());
        }
    }

    /// Everything as one page. Statuses that did not change keep their times. `tests` is what tests of the routes
    /// found.
    pub fn page(
        &mut self,
        ack: &Ack,
        bundle: Option<&Bundle>,
        tests: &[RouteProbe],
        now: Timestamp,
    ) -> serde_json::Value {
        let pods = [this_pod()];
        let acks = HashMap::from([(POD.to_owned(), ack.clone())]);
        self.journeys.advance(&pods, &acks, now);
        let at = |sequence| progress(sequence, &pods, &acks);
        let situation = Situation { failure: None, progress: &at, now };
        if let Some(manifest) = &self.manifest
            && self.arrived.is_none()
            && at(manifest.sequence).complete()
        {
            self.arrived = Some(Arrival { at: now, pods: 1, not_counting: Vec::new() });
        }
        for outcome in &self.outcomes {
            let object = &outcome.origin.object;
            let current = self.current.get(object).cloned().unwrap_or_default();
            let own = self.gateway.as_ref().is_some_and(|key| is_gateway(object, key));
            let status = if own {
                let live = Live {
                    manifest: self.manifest.as_ref(),
                    started: self.started.unwrap_or(now),
                    arrived: self.arrived.as_ref(),
                    bundle,
                    replicas: 1,
                    selector: String::new(),
                    trouble: None,
                    scaling: None,
                };
                of_gateway(outcome, &live, &current, &situation)
            } else {
                let action = bundle.and_then(|bundle| action(bundle, object));
                of_object(outcome, self.journeys.get(object), action, &current, &situation)
            };
            let status = match object.kind {
                ObjectKind::OutboundRoute => {
                    let routes = bundle.iter().flat_map(|bundle| &bundle.routes);
                    let record = routes.into_iter().find(|route| route.origin.object == *object);
                    let found = tests.iter().find(|probe| probe.origin.object == *object);
                    let pod = tested::Pod { name: POD, counts: true, found };
                    tested::show(status, outcome, record, &[pod], &current, now)
                }
                _ => status,
            };
            self.current.insert(object.clone(), status);
        }
        let objects: Vec<_> = self
            .current
            .iter()
            .map(|(object, status)| serde_json::json!({"object": object.to_string(), "status": status}))
            .collect();
        serde_json::json!({
            "sequence": self.manifest.as_ref().map(|manifest| manifest.sequence),
            "revision": self.manifest.as_ref().map(|manifest| manifest.revision.as_str()),
            "partial": self.partial,
            "objects": objects,
        })
    }
}

fn is_gateway(object: &ObjectId, key: &ObjectKey) -> bool {
    object.kind == ObjectKind::OutboundGateway && object.namespace == key.namespace && object.name == key.name
}

fn action(bundle: &Bundle, object: &ObjectId) -> Option<String> {
    let rule = bundle.rules.iter().find(|rule| rule.origin.object == *object)?;
    let word = match &rule.action {
        Action::Reject(_) => "Reject",
        Action::Quarantine(_) => "Quarantine",
        Action::Modify(_) => "Modify",
    };
    Some(word.to_owned())
}

fn this_pod() -> Pod {
    Pod {
        name: POD.to_owned(),
        uid: POD.to_owned(),
        address: None,
        ready: Some(true),
        terminating: false,
        scheduled: true,
        touched: None,
    }
}
