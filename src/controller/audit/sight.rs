//! What the watches show, as far as it is worth a record. Called while the world is locked: it compares a hash,
//! copies what differs, and returns. Of the two locks the world's is always the first: nothing here asks the world.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::{Mutex, MutexGuard};

use jiff::Timestamp;
use kube::ResourceExt;
use kube::api::DynamicObject;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::Notify;

use super::managers::{self, Manager};
use super::telling;
use crate::bundle::document::{ObjectId, ObjectKind};

/// Beyond this only the newest form of each object waits: memory is bounded by the objects there are.
const WAITING: usize = 4096;

/// An object as it was shown.
#[derive(Debug, Clone)]
pub struct Sight {
    pub object: ObjectId,
    pub at: Timestamp,
    /// `None`: it is gone.
    pub form: Option<Form>,
    /// Forms in between that nobody recorded.
    pub skipped: usize,
}

#[derive(Debug, Clone)]
pub struct Form {
    pub uid: String,
    pub generation: i64,
    pub spec: Value,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
    pub managers: Vec<Manager>,
    pub said: Said,
}

/// What the operator has said of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Said {
    pub ready: Option<Moment>,
    /// Why pods refuse it.
    pub rejected: Option<String>,
}

/// When a generation was obeyed everywhere; of a gateway, a revision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moment {
    pub generation: i64,
    pub revision: String,
    pub at: String,
    pub pods: u64,
    pub millis: Option<u64>,
}

/// What a record would be made of, by its hash.
pub type Print = [u8; 16];

/// Takes in what the watches show.
#[derive(Default)]
pub struct Observer {
    state: Mutex<State>,
    news: Notify,
}

#[derive(Default)]
struct State {
    known: HashMap<ObjectId, Print>,
    waiting: VecDeque<Sight>,
    /// There is a log to write.
    on: bool,
}

impl Observer {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no code panics while it holds this lock")
    }

    /// Begins to take notice, before the watches do.
    pub fn begin(&self) {
        self.state().on = true;
    }

    /// What is recorded already: of what was shown meanwhile, only what differs waits on.
    pub fn known(&self, recorded: HashMap<ObjectId, Print>) {
        let mut state = self.state();
        let mut met = HashSet::new();
        state.waiting.retain(|sight| {
            let first = met.insert(sight.object.clone());
            let same = || sight.form.as_ref().map(Form::print) == recorded.get(&sight.object).copied();
            !(first && sight.form.is_some() && same())
        });
        for (object, print) in recorded {
            state.known.entry(object).or_insert(print);
        }
    }

    pub fn end(&self) {
        *self.state() = State::default();
    }

    pub fn shows(&self, kind: ObjectKind, object: &DynamicObject) {
        let mut state = self.state();
        if !state.on {
            return;
        }
        let object_id = id(kind, object);
        let said = said(kind, object);
        let print = print(object, &said);
        if state.known.get(&object_id) == Some(&print) {
            return;
        }
        state.known.insert(object_id.clone(), print);
        let form = Form {
            uid: object.uid().unwrap_or_default(),
            generation: object.metadata.generation.unwrap_or(0),
            spec: object.data.get("spec").cloned().unwrap_or_default(),
            labels: telling(object.labels().clone()),
            annotations: telling(object.annotations().clone()),
            managers: managers::of(object.managed_fields().to_vec()),
            said,
        };
        state.wait(Sight { object: object_id, at: Timestamp::now(), form: Some(form), skipped: 0 });
        drop(state);
        self.news.notify_one();
    }

    pub fn gone(&self, object: &ObjectId) {
        let mut state = self.state();
        if state.on && state.known.remove(object).is_some() {
            state.wait(Sight { object: object.clone(), at: Timestamp::now(), form: None, skipped: 0 });
            drop(state);
            self.news.notify_one();
        }
    }

    /// What is known and, by a complete list, not there any more went while nobody looked.
    pub fn lost(&self, is_gone: impl Fn(&ObjectId) -> bool) {
        let gone: Vec<ObjectId> =
            self.state().known.keys().filter(|object| is_gone(object)).cloned().collect();
        gone.iter().for_each(|object| self.gone(object));
    }

    pub async fn news(&self) {
        self.news.notified().await;
    }

    pub fn waiting(&self) -> usize {
        self.state().waiting.len()
    }

    pub fn take(&self, most: usize) -> Vec<Sight> {
        let mut state = self.state();
        let count = state.waiting.len().min(most);
        state.waiting.drain(..count).collect()
    }

    /// They could not be recorded: they come first next time.
    pub fn put_back(&self, sights: Vec<Sight>) {
        let mut state = self.state();
        if state.on {
            sights.into_iter().rev().for_each(|sight| state.waiting.push_front(sight));
        }
    }
}

impl State {
    fn wait(&mut self, sight: Sight) {
        if self.waiting.len() >= WAITING
            && let Some(at) = self.waiting.iter().rposition(|waiting| waiting.object == sight.object)
        {
            let skipped = self.waiting[at].skipped + 1;
            self.waiting[at] = Sight { skipped, ..sight };
            return;
        }
        self.waiting.push_back(sight);
    }
}

fn id(kind: ObjectKind, object: &DynamicObject) -> ObjectId {
    ObjectId { kind, namespace: object.namespace().unwrap_or_default(), name: object.name_any() }
}

/// Read from the status as the API server holds it, so that a restart between the two records loses neither.
fn said(kind: ObjectKind, object: &DynamicObject) -> Said {
    let status = &object.data["status"];
    let ready = status["conditions"].as_array().into_iter().flatten().find(|one| one["type"] == "Ready");
    let Some(ready) = ready else { return Said::default() };
    let generation = object.metadata.generation.unwrap_or(0);
    let rollout = &status["rollout"];
    let current = ready["observedGeneration"].as_i64() == Some(generation);
    let moment = (current && ready["status"] == "True").then(|| {
        let at = rollout["completedAt"].as_str()?.to_owned();
        let revision = rollout["revision"].as_str().unwrap_or_default().to_owned();
        let pods = rollout["podsTotal"].as_u64().unwrap_or(0);
        Some(Moment { generation, revision, at, pods, millis: rollout["propagationMillis"].as_u64() })
    });
    let rejected = (kind == ObjectKind::OutboundGateway && ready["reason"] == "ConfigRejected")
        .then(|| ready["message"].as_str().unwrap_or_default().to_owned());
    Said { ready: moment.flatten(), rejected }
}

fn print(object: &DynamicObject, said: &Said) -> Print {
    let text = |map: &BTreeMap<String, String>| telling(map.clone());
    of_parts(
        &object.uid().unwrap_or_default(),
        object.metadata.generation.unwrap_or(0),
        &text(object.labels()),
        &text(object.annotations()),
        said,
    )
}

pub fn of_parts(
    uid: &str,
    generation: i64,
    labels: &BTreeMap<String, String>,
    annotations: &BTreeMap<String, String>,
    said: &Said,
) -> Print {
    let text = serde_json::to_vec(&(uid, generation, labels, annotations, said))
        .expect("these have string keys only");
    let mut print = Print::default();
    print.copy_from_slice(&blake3::hash(&text).as_bytes()[..16]);
    print
}

impl Form {
    pub fn print(&self) -> Print {
        of_parts(&self.uid, self.generation, &self.labels, &self.annotations, &self.said)
    }
}
