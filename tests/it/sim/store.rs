//! What the API server keeps: objects with versions, who owns which field, and everything that ever happened to
//! them, for watches and for reads that see the past.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::clock;
use super::fields::{self, Fields, Manager};

/// Resource, namespace, name.
pub type Key = (&'static str, String, String);

/// Resources: plural, API version, kind, whether its spec has generations.
pub const RESOURCES: &[(&str, &str, &str, bool)] = &[
    ("outboundgateways", "postern.dev/v1alpha1", "OutboundGateway", true),
    ("outboundroutes", "postern.dev/v1alpha1", "OutboundRoute", true),
    ("routingrules", "postern.dev/v1alpha1", "RoutingRule", true),
    ("compliancerules", "postern.dev/v1alpha1", "ComplianceRule", true),
    ("addresslists", "postern.dev/v1alpha1", "AddressList", true),
    ("directories", "postern.dev/v1alpha1", "Directory", true),
    ("quarantines", "postern.dev/v1alpha1", "Quarantine", true),
    ("pods", "v1", "Pod", false),
    ("configmaps", "v1", "ConfigMap", false),
    ("secrets", "v1", "Secret", false),
    ("services", "v1", "Service", false),
    ("persistentvolumeclaims", "v1", "PersistentVolumeClaim", false),
    ("statefulsets", "apps/v1", "StatefulSet", true),
    ("networkpolicies", "networking.k8s.io/v1", "NetworkPolicy", true),
    ("poddisruptionbudgets", "policy/v1", "PodDisruptionBudget", true),
    ("storageclasses", "storage.k8s.io/v1", "StorageClass", false),
    ("leases", "coordination.k8s.io/v1", "Lease", false),
    ("events", "events.k8s.io/v1", "Event", false),
];

/// Fields of a StatefulSet's spec that can never change.
const FIXED: [&str; 4] = ["serviceName", "selector", "podManagementPolicy", "volumeClaimTemplates"];

#[derive(Debug, Clone)]
pub struct Refusal {
    pub code: u16,
    pub reason: &'static str,
    pub message: String,
}

pub type Answer = Result<Arc<Value>, Refusal>;

pub struct Event {
    pub version: u64,
    pub at: f64,
    pub key: Key,
    pub old: Option<Arc<Value>>,
    /// `None`: deleted; `gone` is what it was, with the version of its end.
    pub new: Option<Arc<Value>>,
    pub gone: Option<Arc<Value>>,
}

#[derive(Default)]
pub struct Store {
    objects: BTreeMap<Key, Held>,
    pub version: u64,
    pub log: Vec<Event>,
    uids: u64,
}

struct Held {
    value: Arc<Value>,
    fields: Fields,
}

pub fn refuse(code: u16, reason: &'static str, message: impl Into<String>) -> Refusal {
    Refusal { code, reason, message: message.into() }
}

pub fn resource(plural: &str) -> Option<&'static (&'static str, &'static str, &'static str, bool)> {
    RESOURCES.iter().find(|(name, ..)| *name == plural)
}

fn not_found(key: &Key) -> Refusal {
    refuse(404, "NotFound", format!("{} \"{}\" not found", key.0, key.2))
}

fn conflict(why: impl std::fmt::Display) -> Refusal {
    refuse(409, "Conflict", format!("Operation cannot be fulfilled: {why}"))
}

pub fn labels_match(value: &Value, selector: &str) -> bool {
    let labels = &value["metadata"]["labels"];
    selector.split(',').filter(|term| !term.is_empty()).all(|term| match term.split_once('=') {
        Some((key, wanted)) => labels[key] == wanted,
        None => labels.get(term).is_some(),
    })
}

impl Store {
    pub fn get(&self, key: &Key) -> Answer {
        self.objects.get(key).map(|held| held.value.clone()).ok_or_else(|| not_found(key))
    }

    pub fn find(&self, resource: &'static str, namespace: &str, name: &str) -> Option<Arc<Value>> {
        self.get(&(resource, namespace.to_owned(), name.to_owned())).ok()
    }

    /// As it was at an earlier version.
    pub fn get_at(&self, key: &Key, version: u64) -> Answer {
        let last = self.log.iter().rev().find(|event| event.version <= version && event.key == *key);
        last.and_then(|event| event.new.clone()).ok_or_else(|| not_found(key))
    }

    pub fn list(&self, resource: &str, namespace: Option<&str>) -> Vec<Arc<Value>> {
        let ours = self
            .objects
            .iter()
            .filter(|(key, _)| key.0 == resource && namespace.is_none_or(|namespace| key.1 == namespace));
        ours.map(|(_, held)| held.value.clone()).collect()
    }

    pub fn list_at(&self, resource: &str, namespace: Option<&str>, version: u64) -> Vec<Arc<Value>> {
        let mut found: BTreeMap<&Key, Arc<Value>> = BTreeMap::new();
        for event in self.log.iter().take_while(|event| event.version <= version) {
            let (of, place, _) = &event.key;
            if *of != resource || namespace.is_some_and(|namespace| place != namespace) {
                continue;
            }
            match &event.new {
                Some(value) => drop(found.insert(&event.key, value.clone())),
                None => drop(found.remove(&event.key)),
            }
        }
        found.into_values().collect()
    }

    /// The version that was the newest so long ago.
    pub fn version_before(&self, seconds: f64) -> u64 {
        let then = clock::seconds() - seconds;
        self.log.iter().rev().find(|event| event.at <= then).map_or(1, |event| event.version)
    }

    pub fn keys(&self) -> impl Iterator<Item = &Key> {
        self.objects.keys()
    }

    pub fn create(&mut self, key: &Key, mut value: Value, who: &Manager) -> Answer {
        if self.objects.contains_key(key) {
            return Err(refuse(409, "AlreadyExists", format!("{} \"{}\" already exists", key.0, key.2)));
        }
        value.as_object_mut().expect("an object").remove("status");
        let mut fields = Fields::new();
        fields::update(&json!({}), &fields::owned_part(&value, false), &mut fields, who);
        Ok(self.store(key, value, fields))
    }

    /// Server-side apply. Main part or status.
    pub fn apply(&mut self, key: &Key, wish: &Value, who: &Manager, force: bool) -> Answer {
        let Some(held) = self.objects.get(key) else {
            if who.status {
                return Err(not_found(key));
            }
            if wish["metadata"]["uid"].is_string() {
                return Err(conflict("it has another uid"));
            }
            let part = fields::owned_part(wish, false);
            let mut fields = Fields::new();
            let made =
                fields::apply(&json!({}), &mut fields, &part, who, force).expect("nobody has any of it");
            return Ok(self.store(key, made, fields));
        };
        preconditions(&held.value, wish)?;
        let mut fields = held.fields.clone();
        let before = fields::owned_part(&held.value, who.status);
        let part = fields::owned_part(wish, who.status);
        let after = fields::apply(&before, &mut fields, &part, who, force)
            .map_err(|path| conflict(format!("conflict with another manager: {}", path.join("."))))?;
        let value = put_together(&held.value, after, who.status);
        self.checked(key, value, fields)
    }

    pub fn patch(&mut self, key: &Key, patch: &Value, who: &Manager) -> Answer {
        let held = self.objects.get(key).ok_or_else(|| not_found(key))?;
        preconditions(&held.value, patch)?;
        let mut value = Value::clone(&held.value);
        let mut patch = patch.clone();
        if let Some(meta) = patch.get_mut("metadata").and_then(Value::as_object_mut) {
            let _ = ["uid", "resourceVersion", "name", "namespace"].map(|name| meta.remove(name));
        }
        fields::merge(&mut value, &patch);
        self.write(key, value, who)
    }

    pub fn replace(&mut self, key: &Key, value: &Value, who: &Manager) -> Answer {
        let held = self.objects.get(key).ok_or_else(|| not_found(key))?;
        preconditions(&held.value, value)?;
        let mut after = value.clone();
        after["metadata"] = held.value["metadata"].clone();
        for part in ["labels", "annotations", "ownerReferences"] {
            if let Some(found) = value["metadata"].get(part) {
                after["metadata"][part] = found.clone();
            }
        }
        self.write(key, after, who)
    }

    /// Changes it in place, whoever does so.
    pub fn change(&mut self, key: &Key, who: &Manager, how: impl FnOnce(&mut Value)) -> Answer {
        let held = self.objects.get(key).ok_or_else(|| not_found(key))?;
        let mut value = Value::clone(&held.value);
        how(&mut value);
        self.write(key, value, who)
    }

    fn write(&mut self, key: &Key, value: Value, who: &Manager) -> Answer {
        let held = self.objects.get(key).ok_or_else(|| not_found(key))?;
        let mut fields = held.fields.clone();
        for status in [false, true] {
            let who = Manager { status, ..who.clone() };
            let (before, after) =
                (fields::owned_part(&held.value, status), fields::owned_part(&value, status));
            let mut ours = fields.clone();
            ours.retain(|manager, _| manager.status == status);
            fields.retain(|manager, _| manager.status != status);
            fields::update(&before, &after, &mut ours, &who);
            fields.extend(ours);
        }
        self.checked(key, value, fields)
    }

    fn checked(&mut self, key: &Key, value: Value, fields: Fields) -> Answer {
        let held = &self.objects[key];
        if key.0 == "statefulsets"
            && FIXED.iter().any(|name| held.value["spec"][*name] != value["spec"][*name])
        {
            let text = "updates to statefulset spec for fields other than 'replicas' are forbidden";
            return Err(refuse(422, "Invalid", format!("StatefulSet is invalid: spec: Forbidden: {text}")));
        }
        let parts = |value: &Value| (fields::owned_part(value, false), fields::owned_part(value, true));
        let fixed = |value: &Value| value["metadata"]["deletionTimestamp"].clone();
        let same = parts(&held.value) == parts(&value) && fixed(&held.value) == fixed(&value);
        if same && held.fields == fields {
            return Ok(held.value.clone());
        }
        Ok(self.store(key, value, fields))
    }

    fn store(&mut self, key: &Key, mut value: Value, fields: Fields) -> Arc<Value> {
        let (plural, namespace, name) = key;
        let (_, api_version, kind, generations) = resource(plural).expect("a known resource");
        self.version += 1;
        let old = self.objects.get(key).map(|held| held.value.clone());
        value["apiVersion"] = json!(api_version);
        value["kind"] = json!(kind);
        let meta = &mut value["metadata"];
        if !meta.is_object() {
            *meta = json!({});
        }
        meta["name"] = json!(name);
        if !namespace.is_empty() {
            meta["namespace"] = json!(namespace);
        }
        match &old {
            None => {
                self.uids += 1;
                meta["uid"] = json!(format!("{:04}-{name}", self.uids));
            }
            Some(old) => meta["uid"] = old["metadata"]["uid"].clone(),
        }
        meta["resourceVersion"] = json!(self.version.to_string());
        let managed: Vec<Value> = fields.keys().map(shown).collect();
        meta["managedFields"] = Value::Array(managed);
        if *generations {
            let generation = match &old {
                None => 1,
                Some(old) => {
                    let last = old["metadata"]["generation"].as_i64().unwrap_or(1);
                    if old["spec"] == value["spec"] { last } else { last + 1 }
                }
            };
            value["metadata"]["generation"] = json!(generation);
        }
        let value = Arc::new(value);
        self.objects.insert(key.clone(), Held { value: value.clone(), fields });
        self.record(key, old, Some(value.clone()), None);
        value
    }

    pub fn delete(&mut self, key: &Key, preconditions: &Value) -> Answer {
        let held = self.objects.get(key).ok_or_else(|| not_found(key))?;
        self::preconditions(&held.value, &json!({ "metadata": preconditions }))?;
        if key.0 == "pods" && held.value["metadata"]["deletionTimestamp"].is_null() {
            // Its kubelet ends it.
            let who = Manager { name: "kubectl".to_owned(), apply: false, status: false };
            return self.change(key, &who, |pod| {
                pod["metadata"]["deletionTimestamp"] = json!("2026-11-22T08:00:00Z");
            });
        }
        self.remove(key).ok_or_else(|| not_found(key))
    }

    /// At once, whatever it is.
    pub fn remove(&mut self, key: &Key) -> Option<Arc<Value>> {
        let held = self.objects.remove(key)?;
        self.version += 1;
        let mut last = Value::clone(&held.value);
        last["metadata"]["resourceVersion"] = json!(self.version.to_string());
        let last = Arc::new(last);
        self.record(key, Some(held.value), None, Some(last.clone()));
        Some(last)
    }

    fn record(
        &mut self,
        key: &Key,
        old: Option<Arc<Value>>,
        new: Option<Arc<Value>>,
        gone: Option<Arc<Value>>,
    ) {
        let (version, at) = (self.version, clock::seconds());
        self.log.push(Event { version, at, key: key.clone(), old, new, gone });
    }
}

fn shown(manager: &Manager) -> Value {
    let operation = if manager.apply { "Apply" } else { "Update" };
    let mut entry = Map::new();
    entry.insert("manager".to_owned(), json!(manager.name));
    entry.insert("operation".to_owned(), json!(operation));
    if manager.status {
        entry.insert("subresource".to_owned(), json!("status"));
    }
    Value::Object(entry)
}

fn preconditions(found: &Value, wanted: &Value) -> Result<(), Refusal> {
    for name in ["uid", "resourceVersion"] {
        let wanted = &wanted["metadata"][name];
        if wanted.is_string() && *wanted != found["metadata"][name] {
            return Err(conflict(format!("the {name} is {}, not {wanted}", found["metadata"][name])));
        }
    }
    Ok(())
}

/// An object whose main part or status is a new one.
fn put_together(before: &Value, part: Value, status: bool) -> Value {
    let mut value = before.clone();
    let map = value.as_object_mut().expect("an object");
    if status {
        match part.get("status") {
            Some(status) => drop(map.insert("status".to_owned(), status.clone())),
            None => drop(map.remove("status")),
        }
        return value;
    }
    map.retain(|key, _| matches!(key.as_str(), "metadata" | "status"));
    let meta = value["metadata"].as_object_mut().expect("it has metadata");
    let _ = ["labels", "annotations", "ownerReferences", "finalizers"].map(|name| meta.remove(name));
    for (key, found) in part.as_object().into_iter().flatten() {
        if key == "metadata" {
            for (key, found) in found.as_object().into_iter().flatten() {
                value["metadata"][key] = found.clone();
            }
        } else {
            value[key] = found.clone();
        }
    }
    value
}
