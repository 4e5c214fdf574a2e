//! What must hold at every write, and the state that must be reached in the end whatever went wrong before.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hyper::Method;
use postern::bundle::Manifest;
use postern::bundle::document::{Bundle, ObjectId, ObjectKind, Origin};
use postern::bundle::material::MaterialVersion;
use postern::bundle::segment::read_manifest;
use postern::controller::build::REVISION_LABEL;
use serde_json::{Map, Value, json};

use super::fleet;
use super::server::{Call, Instance, Sim};
use super::store::{Key, Store};

/// Marks what is none of the controllers' business: whole objects, and fields of theirs.
pub const FOREIGN: &str = "someone.example/mark";

/// A pod that was shown as ready just now may be missing in a status that is on its way.
const GRACE: Duration = Duration::from_millis(1500);
/// A request is given up after 15 s, and what waits behind it is that old.
const LONG_GRACE: Duration = Duration::from_secs(20);

#[derive(Default)]
pub struct Laws {
    broken: Mutex<Vec<String>>,
    /// Whether the published set was complete before the write that is being made, by gateway.
    complete: Mutex<HashMap<(String, String), bool>>,
    /// The highest sequence that was ever published for the gateway with this uid.
    highest: Mutex<HashMap<String, u64>>,
    /// Up to which generation an object was said to be ready.
    told: Mutex<HashMap<String, i64>>,
    /// Checks that were made.
    pub checked: AtomicUsize,
}

impl Laws {
    pub fn broken(&self) -> Vec<String> {
        self.broken.lock().unwrap().clone()
    }

    fn breaks(&self, sim: &Sim, what: String) {
        sim.say(&format!("BROKEN: {what}"));
        self.broken.lock().unwrap().push(what);
    }

    /// Somebody took away what says how far sequences are.
    pub fn forget_sequences(&self) {
        self.highest.lock().unwrap().clear();
    }

    pub fn before(&self, sim: &Sim, who: &Instance, store: &Store, key: &Key, call: &Call) {
        let Call { method, body, status, .. } = call;
        let foreign = store.get(key).is_ok_and(|found| found["metadata"]["annotations"][FOREIGN] == "object");
        if foreign {
            self.breaks(sim, format!("{} writes {key:?}, which belongs to somebody else", who.name));
        }
        let (resource, namespace, name) = key;
        let theirs =
            matches!(*resource, "outboundgateways" | "outboundroutes" | "routingrules" | "compliancerules")
                || matches!(*resource, "addresslists" | "directories" | "quarantines");
        if theirs && !status && (*resource != "outboundgateways" || name != "default") {
            self.breaks(sim, format!("{} writes the spec of {key:?}", who.name));
        }
        if *resource == "pods" {
            let only = |value: &Value, key: &str| {
                value.as_object().is_some_and(|map| map.keys().all(|k| k == key || k == "uid"))
            };
            if *method != Method::PATCH
                || !body["metadata"]["annotations"].is_object()
                || !only(&body["metadata"], "annotations")
            {
                self.breaks(sim, format!("{} does more than touch the pod {name}", who.name));
            }
        }
        if let Some(gateway) = bundle_of(key) {
            let complete = complete(sim, store, namespace, gateway);
            self.complete.lock().unwrap().insert((namespace.clone(), gateway.to_owned()), complete);
        }
    }

    pub fn after(&self, sim: &Sim, who: &Instance, store: &Store, key: &Key) {
        self.checked.fetch_add(1, Ordering::Relaxed);
        let (_, namespace, _) = key;
        if let Some(gateway) = bundle_of(key) {
            let before = self.complete.lock().unwrap().get(&(namespace.clone(), gateway.to_owned())).copied();
            if before == Some(true) && !complete(sim, store, namespace, gateway) {
                self.breaks(sim, format!("{} left the published set of {gateway} incomplete", who.name));
            }
            self.rises(sim, who, store, namespace, gateway);
        }
        let Ok(object) = store.get(key) else { return };
        if let Some(kind) = kind_of(key.0) {
            self.tells_the_truth(sim, who, kind, &object);
        }
    }

    /// Sequences only rise, as long as the gateway is the same object.
    fn rises(&self, sim: &Sim, who: &Instance, store: &Store, namespace: &str, gateway: &str) {
        let files = fleet::published(store, namespace, gateway);
        let Ok(manifest) = read_manifest(&|name: &str| Ok(files.get(name).cloned())) else { return };
        let map = store.find("configmaps", namespace, &format!("{gateway}-bundle-0"));
        let uid = map.map(|map| map["metadata"]["ownerReferences"][0]["uid"].to_string()).unwrap_or_default();
        let mut highest = self.highest.lock().unwrap();
        let last = highest.entry(uid).or_default();
        let sequence = manifest.sequence.0;
        if sequence < *last {
            let last = *last;
            drop(highest);
            self.breaks(sim, format!("{} published sequence {sequence} of {gateway} after {last}", who.name));
        } else {
            *last = sequence;
        }
    }

    /// Ready=True: each pod that counts runs a bundle with just this generation, or a later one.
    fn tells_the_truth(&self, sim: &Sim, who: &Instance, kind: ObjectKind, object: &Value) {
        let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let Some(ready) = conditions.iter().find(|condition| condition["type"] == "Ready") else { return };
        if ready["status"] != "True" || ready["reason"] != "Ready" {
            return;
        }
        let generation = ready["observedGeneration"].as_i64().unwrap_or(0);
        let current = object["metadata"]["generation"].as_i64().unwrap_or(0);
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        let uid = &object["metadata"]["uid"];
        if kind != ObjectKind::OutboundGateway {
            // What was said once stays said: pods may go and come since.
            if self.told(uid.as_str().unwrap_or_default(), generation) {
                return;
            }
        }
        let id = ObjectId {
            kind,
            namespace: object["metadata"]["namespace"].as_str().unwrap_or_default().to_owned(),
            name: name.to_owned(),
        };
        let gateway = match kind {
            ObjectKind::OutboundGateway => name,
            _ => object["spec"]["gatewayRef"]["name"].as_str().unwrap_or("default"),
        };
        let stumbled = who.trouble.lock().unwrap().is_some_and(|at| at.elapsed() < LONG_GRACE);
        let grace = if stumbled { LONG_GRACE } else { GRACE };
        let view = who.view.lock().unwrap().clone();
        for (pod, since) in view {
            let Some(pod) = sim.fleet.by_uid(&pod).filter(|_| since.elapsed() >= grace) else { continue };
            if (pod.namespace.as_str(), pod.gateway.as_str()) != (id.namespace.as_str(), gateway) {
                continue;
            }
            // A process that has not loaded anything decides nothing.
            let Some(running) = pod.running() else { continue };
            let held = origin(&running.bundle, &id).filter(|origin| origin.uid == *uid);
            let obeys = match held {
                Some(origin) => origin.generation >= generation,
                None => current > generation,
            };
            if !obeys {
                let (sequence, held) = (running.sequence, held.map(|origin| origin.generation));
                let what = format!(
                    "{} says that {id} generation {generation} is Ready while {} runs sequence {sequence} with {held:?}",
                    who.name, pod.name
                );
                self.breaks(sim, what);
            }
        }
    }

    fn told(&self, uid: &str, generation: i64) -> bool {
        let mut told = self.told.lock().unwrap();
        let last = told.insert(uid.to_owned(), generation);
        last.is_some_and(|last| last >= generation)
    }
}

fn kind_of(resource: &str) -> Option<ObjectKind> {
    Some(match resource {
        "outboundgateways" => ObjectKind::OutboundGateway,
        "outboundroutes" => ObjectKind::OutboundRoute,
        "routingrules" => ObjectKind::RoutingRule,
        "compliancerules" => ObjectKind::ComplianceRule,
        "addresslists" => ObjectKind::AddressList,
        "directories" => ObjectKind::Directory,
        "quarantines" => ObjectKind::Quarantine,
        _ => return None,
    })
}

fn origin<'a>(bundle: &'a Bundle, id: &ObjectId) -> Option<&'a Origin> {
    let routes = bundle.routes.iter().map(|record| &record.origin);
    let rules = bundle.rules.iter().map(|record| &record.origin);
    let lists = bundle.lists.iter().map(|record| &record.origin);
    let directory = bundle.directory.iter().map(|record| &record.origin);
    let quarantines = bundle.quarantines.iter().map(|record| &record.origin);
    let mut all = routes.chain(rules).chain(lists).chain(directory).chain(quarantines);
    if id.kind == ObjectKind::OutboundGateway {
        Some(&bundle.gateway.origin)
    } else {
        all.find(|o| o.object == *id)
    }
}

/// The gateway whose bundle this ConfigMap holds.
fn bundle_of(key: &Key) -> Option<&str> {
    let (gateway, _) = key.2.split_once("-bundle-")?;
    (key.0 == "configmaps").then_some(gateway)
}

fn complete(sim: &Sim, store: &Store, namespace: &str, gateway: &str) -> bool {
    read_bundle(sim, store, namespace, gateway).is_some()
}

fn read_bundle(sim: &Sim, store: &Store, namespace: &str, gateway: &str) -> Option<(Manifest, Arc<Bundle>)> {
    let files = fleet::published(store, namespace, gateway);
    let read = |name: &str| Ok(files.get(name).cloned());
    let manifest = read_manifest(&read).ok()?;
    let bundle = sim.fleet.shelf.assemble(&manifest, &read).ok()?;
    Some((manifest, bundle))
}

/// Where everything has come to, without what may differ from run to run: times, sequences, uids, versions.
pub fn end(sim: &Sim) -> BTreeMap<String, Value> {
    let store = sim.store.lock().unwrap();
    let mut found = BTreeMap::new();
    for key in store.keys() {
        let (resource, namespace, name) = key;
        let Ok(object) = store.get(key) else { continue };
        let what = match *resource {
            "leases" | "events" | "storageclasses" => continue,
            _ if object["metadata"]["annotations"][FOREIGN] == "object" => continue,
            "pods" => {
                let pod = sim.fleet.by_uid(object["metadata"]["uid"].as_str().unwrap_or_default());
                let gateway =
                    object["metadata"]["labels"]["postern.dev/gateway"].as_str().unwrap_or_default();
                let published = read_bundle(sim, &store, namespace, gateway)
                    .map(|(manifest, _)| (manifest.sequence.0, manifest.share(name).revision.clone()));
                let running = pod.and_then(|pod| pod.running());
                let running = running.map(|running| (running.sequence, running.revision().clone()));
                let obeys = running.is_some() && running == published;
                json!({"ready": fleet::is_ready(&object), "obeys what is published": obeys})
            }
            // Which of those on the way were kept depends on the way.
            "configmaps" if object["metadata"]["labels"][REVISION_LABEL].is_string() => continue,
            "configmaps" if bundle_of(key).is_some() => {
                let gateway = bundle_of(key).unwrap_or_default();
                if name != &format!("{gateway}-bundle-0") {
                    continue;
                }
                let read = read_bundle(sim, &store, namespace, gateway);
                let secrets = fleet::published(&store, namespace, gateway);
                let copies = read.as_ref().map(|(manifest, _)| {
                    let copied = |version: &MaterialVersion| secrets.contains_key(&version.file_name());
                    let names =
                        manifest.materials.iter().map(|version| (&version.material.name, copied(version)));
                    json!(names.collect::<Vec<_>>())
                });
                let bundle = read.map(|(_, bundle)| {
                    let mut bundle = serde_json::to_value(&*bundle).expect("a bundle has string keys only");
                    forget(&mut bundle, "uid");
                    bundle
                });
                json!({"meta": meta(&object), "bundle": bundle, "copies": copies})
            }
            // Empty ones may have been made on the way; see `copies` for those that are needed.
            "secrets" if name.contains("-secrets-") => continue,
            "secrets" => {
                let keys: Vec<&String> = object["data"].as_object().into_iter().flat_map(Map::keys).collect();
                json!({"meta": meta(&object), "keys": keys})
            }
            _ => match kind_of(resource) {
                Some(kind) => said(&object, kind),
                None => json!({"meta": meta(&object), "spec": spec(&object)}),
            },
        };
        found.insert(format!("{resource}/{namespace}/{name}"), what);
    }
    found
}

/// Labels, annotations and owners, without marks of others.
fn meta(object: &Value) -> Value {
    let mut meta = json!({});
    for part in ["labels", "annotations"] {
        let entries = object["metadata"][part].as_object().cloned().unwrap_or_default();
        let ours = entries.into_iter().filter(|(key, _)| key != FOREIGN);
        meta[part] = Value::Object(ours.collect());
    }
    let owners = object["metadata"]["ownerReferences"].as_array().cloned().unwrap_or_default();
    meta["owners"] = owners.iter().map(|owner| owner["name"].clone()).collect();
    meta
}

fn spec(object: &Value) -> Value {
    let mut spec = object["spec"].clone();
    if let Some(map) = spec.as_object_mut() {
        // Set by others, see `users`.
        map.remove("minReadySeconds");
    }
    spec
}

/// What the status of an object says, and that it fits together.
fn said(object: &Value, kind: ObjectKind) -> Value {
    let status = &object["status"];
    let conditions = status["conditions"].as_array().cloned().unwrap_or_default();
    let conditions: BTreeMap<String, Value> = conditions
        .iter()
        .map(|condition| {
            let kind = condition["type"].as_str().unwrap_or_default().to_owned();
            let mut shown =
                json!([condition["status"], condition["reason"], condition["observedGeneration"]]);
            // These speak of times and revisions.
            if kind != "Ready" && kind != "Programmed" {
                shown.as_array_mut().expect("made so").push(condition["message"].clone());
            }
            (kind, shown)
        })
        .collect();
    let mut said = json!({
        "generation": object["metadata"]["generation"],
        "observedGeneration": status["observedGeneration"],
        "conditions": conditions,
        "action": status["action"],
        "entries": status["entries"],
    });
    let rollout = &status["rollout"];
    if kind == ObjectKind::OutboundGateway {
        said["pods"] =
            json!([status["replicas"], rollout["podsTotal"], rollout["podsUpdated"], rollout["stalePods"]]);
        said["selector"] = status["selector"].clone();
    }
    said
}

fn forget(value: &mut Value, name: &str) {
    match value {
        Value::Object(map) => {
            map.remove(name);
            map.values_mut().for_each(|value| forget(value, name));
        }
        Value::Array(list) => list.iter_mut().for_each(|value| forget(value, name)),
        _ => {}
    }
}

/// Where two ends differ, for people.
pub fn differences(wanted: &BTreeMap<String, Value>, found: &BTreeMap<String, Value>) -> Vec<String> {
    fn walk(path: &str, wanted: &Value, found: &Value, differences: &mut Vec<String>) {
        match (wanted, found) {
            (Value::Object(a), Value::Object(b)) => {
                let keys: BTreeSet<&String> = a.keys().chain(b.keys()).collect();
                for key in keys {
                    let get = |map: &Map<String, Value>| map.get(key).cloned().unwrap_or(Value::Null);
                    walk(&format!("{path} {key}"), &get(a), &get(b), differences);
                }
            }
            (a, b) if a == b => {}
            (a, b) => differences.push(format!("{path}: wanted {a}, found {b}")),
        }
    }
    let mut differences = Vec::new();
    let names: BTreeSet<&String> = wanted.keys().chain(found.keys()).collect();
    for name in names {
        match (wanted.get(name), found.get(name)) {
            (Some(wanted), Some(found)) => walk(name, wanted, found, &mut differences),
            (Some(_), None) => differences.push(format!("{name} is missing")),
            (None, _) => differences.push(format!("{name} should not be there")),
        }
    }
    differences
}
