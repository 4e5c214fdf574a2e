//! What people do in a history: with their own objects, which decides the end, and by hand with ours, which must
//! change nothing of it.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::dice::Dice;
use super::fields::Manager;
use super::laws::FOREIGN;
use super::server::Sim;
use super::store::{Key, Store};

pub const HOME: &str = "mail";
/// Here nobody writes a gateway.
pub const ALONE: &str = "alone";

#[derive(Debug, Clone)]
pub enum Act {
    Put(&'static str, &'static str, String, Value),
    Delete(&'static str, &'static str, String),
}

/// Acts by second.
pub type Plan = Vec<(f64, Act)>;

fn rule(word: &str, enabled: bool) -> Value {
    json!({
        "gatewayRef": {"name": "gw"}, "enabled": enabled, "messages": ["Outbound"],
        "match": {"words": [word], "wordsFrom": [{"configMapRef": {"name": "words", "key": "list"}}]},
        "action": {"reject": {"notice": "Not this word"}},
    })
}

/// Reads well and means nothing: only the operator knows.
fn broken_rule() -> Value {
    json!({
        "gatewayRef": {"name": "gw"}, "messages": ["Outbound"],
        "match": {"expressions": [{"location": "Body", "type": "MatchesRegex", "value": "(oops"}]},
        "action": {"reject": {"notice": "Never"}},
    })
}

fn route(port: usize, login: bool) -> Value {
    let mut spec =
        json!({"gatewayRef": {"name": "gw"}, "hosts": [{"host": "relay.example.net", "port": port}]});
    if login {
        spec["auth"] = json!({"credentialsRef": {"name": "login"}, "mechanism": "Plain"});
    }
    spec
}

/// The gateway as it was written last.
#[derive(Clone)]
struct Wish {
    replicas: usize,
    ports: Vec<usize>,
    size: Option<usize>,
    clients: usize,
}

impl Wish {
    fn spec(&self) -> Value {
        let listeners: Vec<Value> =
            self.ports.iter().map(|port| json!({"name": format!("p{port}"), "port": port})).collect();
        let storage = match self.size {
            Some(size) => json!({"size": format!("{size}Mi")}),
            None => json!({"ephemeral": true}),
        };
        json!({
            "replicas": self.replicas, "hostname": "gw.solarmora.com", "listeners": listeners, "storage": storage,
            "clients": {"cidrs": [format!("10.{}.0.0/16", self.clients)]},
            "defaultRoute": {"host": "192.0.2.25", "port": 25},
        })
    }
}

/// What users do in the scenario of this number. In the end nothing of it is broken.
pub fn plan(scenario: u64) -> Plan {
    let dice = Dice::new(scenario, "users");
    let mut plan = Plan::new();
    let put = |kind, name: &str, spec: Value| Act::Put(kind, HOME, name.to_owned(), spec);
    let mut wish = Wish {
        replicas: 1 + dice.below(2),
        ports: vec![25],
        size: dice.permille(400).then_some(64),
        clients: 0,
    };
    plan.push((0.0, put("configmaps", "words", json!({"list": "umbrella"}))));
    plan.push((0.0, put("secrets", "login", json!({"username": "u", "password": "p0"}))));
    plan.push((0.5, put("outboundgateways", "gw", wish.spec())));
    plan.push((0.5, put("compliancerules", "r0", rule("zero", true))));
    plan.push((0.6, put("outboundroutes", "relay", route(25, true))));
    let mut broken: BTreeMap<String, f64> = BTreeMap::new();
    let mut exists = true;
    let mut at = 4.0;
    for step in 0..6 + dice.below(8) {
        // Bursts, and pauses.
        at += if dice.permille(350) { 0.02 } else { dice.millis(300, 7000).as_secs_f64() };
        let name = format!("r{}", dice.below(4));
        let act = match dice.below(20) {
            0..=4 => put("compliancerules", &name, rule(&format!("word{step}"), true)),
            5 => put("compliancerules", &name, rule("off", false)),
            6 => Act::Delete("compliancerules", HOME, name.clone()),
            7 | 8 => {
                broken.insert(name.clone(), at);
                put("compliancerules", &name, broken_rule())
            }
            9 => put("outboundroutes", "relay", route(2500 + step, dice.permille(500))),
            10 => put("outboundroutes", "other", route(587, false)),
            11 => Act::Delete("outboundroutes", HOME, "other".to_owned()),
            12 => {
                let to = *dice.pick(&["relay", "other"]);
                let action = json!({"modify": {"route": {"name": to}}});
                put(
                    "routingrules",
                    "via",
                    json!({"gatewayRef": {"name": "gw"}, "messages": ["Outbound"], "action": action}),
                )
            }
            13 => put("configmaps", "words", json!({"list": format!("umbrella, parasol{step}")})),
            14 => put("secrets", "login", json!({"username": "u", "password": format!("p{step}")})),
            15 => put("compliancerules", &name, rule("again", true)),
            16 => Act::Put("compliancerules", ALONE, "lonely".to_owned(), {
                let mut spec = rule(&format!("alone{step}"), true);
                spec.as_object_mut().expect("made so").remove("gatewayRef");
                spec["match"].as_object_mut().expect("made so").remove("wordsFrom");
                spec
            }),
            17 => Act::Delete("compliancerules", ALONE, "lonely".to_owned()),
            18 if dice.permille(250) => {
                exists = !exists;
                if exists {
                    put("outboundgateways", "gw", wish.spec())
                } else {
                    Act::Delete("outboundgateways", HOME, "gw".to_owned())
                }
            }
            _ => {
                match dice.below(4) {
                    0 => wish.ports = if wish.ports.len() == 1 { vec![25, 2525] } else { vec![25] },
                    1 => wish.size = wish.size.map(|size| size + 64),
                    2 => wish.clients += 1,
                    _ => wish.replicas = 1 + dice.below(3),
                }
                if !exists {
                    continue;
                }
                put("outboundgateways", "gw", wish.spec())
            }
        };
        if !matches!(&act, Act::Put(_, _, _, spec) if *spec == broken_rule())
            && matches!(&act, Act::Put("compliancerules", HOME, ..) | Act::Delete("compliancerules", HOME, _))
        {
            broken.remove(&name);
        }
        plan.push((at, act));
    }
    for name in broken.into_keys() {
        plan.push((at + 1.0, put("compliancerules", &name, rule("repaired", true))));
    }
    let via_other = plan.iter().rev().find_map(|(_, act)| match act {
        Act::Put("routingrules", _, _, spec) => Some(spec["action"]["modify"]["route"]["name"] == "other"),
        _ => None,
    });
    if via_other == Some(true) {
        // A rule whose route is not there does as it did before, if it did anything: that depends on the way.
        plan.push((at + 1.5, put("outboundroutes", "other", route(587, false))));
    }
    if !exists {
        plan.push((at + 2.0, put("outboundgateways", "gw", wish.spec())));
    }
    plan
}

fn kubectl() -> Manager {
    Manager { name: "kubectl".to_owned(), apply: false, status: false }
}

pub fn carry_out(store: &mut Store, act: &Act) {
    match act {
        Act::Put(resource, namespace, name, spec) => {
            let key: Key = (resource, (*namespace).to_owned(), name.clone());
            let content = content(resource, spec);
            if store.get(&key).is_ok() {
                let _ = store.change(&key, &kubectl(), |value| {
                    for (field, found) in content.as_object().into_iter().flatten() {
                        value[field] = found.clone();
                    }
                });
            } else {
                let _ = store.create(&key, content, &kubectl());
            }
        }
        Act::Delete(resource, namespace, name) => {
            let _ = store.delete(&(resource, (*namespace).to_owned(), name.clone()), &Value::Null);
        }
    }
}

fn content(resource: &str, spec: &Value) -> Value {
    match resource {
        "configmaps" => json!({ "data": spec }),
        "secrets" => {
            let data = spec.as_object().into_iter().flatten();
            let data = data
                .map(|(key, text)| (key.clone(), json!(STANDARD.encode(text.as_str().unwrap_or_default()))));
            json!({"type": "kubernetes.io/basic-auth", "data": data.collect::<serde_json::Map<_, _>>()})
        }
        _ => json!({ "spec": spec }),
    }
}

/// Objects beside ours that look alike.
pub fn neighbours(store: &mut Store) {
    for (resource, name) in [
        ("configmaps", "gw-bundle-extra"),
        ("services", "gw-smtp"),
        ("secrets", "gw-secret"),
        ("statefulsets", "gateway"),
        ("networkpolicies", "default-deny"),
    ] {
        for namespace in [HOME, ALONE] {
            let key = (resource, namespace.to_owned(), name.to_owned());
            let marked = json!({"metadata": {"annotations": {FOREIGN: "object"}}, "spec": {"replicas": 0}});
            let _ = store.create(&key, marked, &kubectl());
        }
    }
    let class = ("storageclasses", String::new(), "local".to_owned());
    let default =
        json!({"metadata": {"annotations": {"storageclass.kubernetes.io/is-default-class": "true"}}});
    let _ = store.create(&class, default, &kubectl());
}

/// A field of somebody else, put onto one of our objects: where, and what.
pub struct Mark {
    key: Key,
    uid: Value,
    at: &'static str,
    value: Value,
}

impl Mark {
    /// Whether it is still there, as long as the object is.
    pub fn holds(&self, store: &Store) -> Result<(), String> {
        match store.get(&self.key) {
            Ok(object) if object["metadata"]["uid"] == self.uid => match object.pointer(self.at) {
                Some(found) if *found == self.value => Ok(()),
                found => {
                    Err(format!("{:?} {}: somebody set {}, now {found:?}", self.key, self.at, self.value))
                }
            },
            _ => Ok(()),
        }
    }
}

/// Objects of ours.
fn ours(store: &Store) -> Vec<Key> {
    let kinds =
        ["statefulsets", "services", "networkpolicies", "poddisruptionbudgets", "configmaps", "secrets"];
    let ours = |key: &&Key| {
        let labelled =
            store.get(key).is_ok_and(|value| value["metadata"]["labels"]["postern.dev/gateway"].is_string());
        kinds.contains(&key.0) && labelled
    };
    store.keys().filter(ours).cloned().collect()
}

fn empty(entries: &mut Value) {
    if let Some(entries) = entries.as_object_mut() {
        entries.clear();
    }
}

pub fn delete_by_hand(sim: &Sim, dice: &Dice) {
    let keys = ours(&sim.store.lock().unwrap());
    if keys.is_empty() {
        return;
    }
    let key = dice.pick(&keys);
    if key.2.ends_with("-bundle-0") {
        sim.laws.forget_sequences();
    }
    sim.say(&format!("somebody deletes {key:?}"));
    sim.change(|store| drop(store.remove(key)));
}

/// Nothing says any more what was published last.
pub fn delete_manifests(sim: &Sim) {
    let mut keys = ours(&sim.store.lock().unwrap());
    keys.retain(|key| key.2.ends_with("-bundle-0"));
    sim.laws.forget_sequences();
    sim.say(&format!("somebody deletes {keys:?}"));
    sim.change(|store| keys.iter().for_each(|key| drop(store.remove(key))));
}

/// Something of ours becomes something else, or something of theirs is added.
pub fn edit_by_hand(sim: &Sim, dice: &Dice) -> Option<Mark> {
    let keys = ours(&sim.store.lock().unwrap());
    if keys.is_empty() {
        return None;
    }
    let key = dice.pick(&keys).clone();
    let who = Manager { name: "kubectl-edit".to_owned(), apply: false, status: false };
    let mark = |at, value: Value| {
        let uid = sim.store.lock().unwrap().get(&key).ok()?["metadata"]["uid"].clone();
        Some(Mark { key: key.clone(), uid, at, value })
    };
    type Edit = Box<dyn Fn(&mut Value)>;
    let (mark, edit): (Option<Mark>, Edit) = match (key.0, dice.below(4)) {
        ("statefulsets", 0) => (None, Box::new(|set| set["spec"]["replicas"] = json!(7))),
        ("statefulsets", 1) => (
            mark("/spec/minReadySeconds", json!(1)),
            Box::new(|set| set["spec"]["minReadySeconds"] = json!(1)),
        ),
        ("statefulsets", 2) => (
            None,
            Box::new(|set| set["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] = json!(1)),
        ),
        ("services", 0) => (None, Box::new(|service| service["spec"]["ports"] = json!([]))),
        ("services", 1) => (None, Box::new(|service| service["spec"]["selector"] = json!({"app": "other"}))),
        ("networkpolicies", 0) => (None, Box::new(|policy| policy["spec"]["ingress"] = json!([]))),
        ("poddisruptionbudgets", 0) => (None, Box::new(|budget| budget["spec"]["maxUnavailable"] = json!(0))),
        ("configmaps", 0) => (None, Box::new(|map| empty(&mut map["binaryData"]))),
        ("configmaps", 1) => (None, Box::new(|map| empty(&mut map["data"]))),
        ("secrets", 0) => (None, Box::new(|secret| empty(&mut secret["data"]))),
        (_, 2) => (
            None,
            Box::new(|object| {
                drop(object["metadata"].as_object_mut().map(|meta| meta.remove("ownerReferences")));
            }),
        ),
        (_, _) => {
            let at = "/metadata/annotations/someone.example~1mark";
            (
                mark(at, json!("field")),
                Box::new(|object| object["metadata"]["annotations"][FOREIGN] = json!("field")),
            )
        }
    };
    if key.2.ends_with("-bundle-0") {
        sim.laws.forget_sequences();
    }
    sim.say(&format!("somebody edits {key:?}"));
    sim.change(|store| store.change(&key, &who, edit)).ok()?;
    mark
}
