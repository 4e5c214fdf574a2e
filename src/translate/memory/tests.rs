//! Pass after pass with a memory, each held against a pass that knows nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::api::{ComplianceRule, OutboundGateway, OutboundRoute, RoutingRule};
use crate::bundle::segment::{Cutter, cut};
use crate::translate::{ConfigMapFacts, LastGood, ObjectKey, Resources, Translation, translate};

/// What the API server holds.
#[derive(Default)]
struct Stage {
    gateway: Value,
    generations: i64,
    rules: BTreeMap<String, Arc<ComplianceRule>>,
    routing: BTreeMap<String, Arc<RoutingRule>>,
    routes: BTreeMap<String, Arc<OutboundRoute>>,
    words: Option<u64>,
    memory: Memory,
    cutter: Cutter,
    last: Option<LastGood>,
}

fn object<K: serde::de::DeserializeOwned>(kind: &str, name: &str, generation: i64, spec: &Value) -> K {
    serde_json::from_value(json!({
        "apiVersion": "postern.dev/v1alpha1",
        "kind": kind,
        "metadata": {"name": name, "namespace": "mail", "uid": format!("uid-{name}"), "generation": generation},
        "spec": spec,
    }))
    .expect("it has the form of its kind")
}

fn key() -> ObjectKey {
    ObjectKey::new("mail", "default")
}

impl Stage {
    fn new() -> Self {
        Self { gateway: json!({"domains": ["solarmora.com"]}), ..Self::default() }
    }

    fn rule(&mut self, name: &str, spec: &Value) {
        self.generations += 1;
        let rule: ComplianceRule = object("ComplianceRule", name, self.generations, spec);
        self.rules.insert(name.to_owned(), rule.into());
    }

    fn route_rule(&mut self, name: &str, route: &str, sender: Option<&str>) {
        self.generations += 1;
        let envelope = sender.map(|sender| json!({"senders": {"address": sender}}));
        let mut spec = json!({"messages": ["Outbound"], "action": {"modify": {"route": {"name": route}}}});
        if let Some(envelope) = envelope {
            spec["envelope"] = envelope;
        }
        let rule: RoutingRule = object("RoutingRule", name, self.generations, &spec);
        self.routing.insert(name.to_owned(), rule.into());
    }

    fn route(&mut self, name: &str, host: &str) {
        self.generations += 1;
        let spec = json!({"hosts": [{"host": host}]});
        let route: OutboundRoute = object("OutboundRoute", name, self.generations, &spec);
        self.routes.insert(name.to_owned(), route.into());
    }

    fn resources(&self) -> Resources {
        let gateway: OutboundGateway = object("OutboundGateway", "default", 1, &self.gateway);
        let words = self.words.map(|version| {
            let data = BTreeMap::from([("list".to_owned(), format!("word{version} other"))]);
            let version = version.to_string();
            (
                ObjectKey::new("mail", "words"),
                ConfigMapFacts { uid: "w".into(), resource_version: version, data: data.into() },
            )
        });
        Resources {
            gateways: vec![gateway.into()],
            compliance_rules: self.rules.values().cloned().collect(),
            routing_rules: self.routing.values().cloned().collect(),
            routes: self.routes.values().cloned().collect(),
            config_maps: words.into_iter().collect(),
            ..Resources::default()
        }
    }

    /// A pass that remembers; it is what one that does not would be, and so are its segments.
    fn pass(&mut self) -> Translation {
        let resources = self.resources();
        let plain = translate(&key(), &resources, self.last.as_ref());
        let resources = Resources { memory: self.memory.clone(), ..resources };
        let translation = translate(&key(), &resources, self.last.as_ref());
        assert_eq!(translation, plain);
        if let Some(bundle) = &translation.bundle {
            assert_eq!(self.cutter.cut(bundle), cut(bundle));
            let materials = translation.materials.clone();
            self.last = Some(LastGood { bundle: bundle.clone(), materials });
        }
        translation
    }
}

fn words(word: &str) -> Value {
    json!({
        "messages": ["Outbound"],
        "description": "the same for all",
        "match": {"words": [word]},
        "action": {"reject": {}},
    })
}

#[test]
fn r155_one_changed_rule_of_a_thousand_is_translated_alone() {
    let mut stage = Stage::new();
    for number in 0..1000 {
        let mut spec = words(&format!("word{number}"));
        spec["description"] = json!(format!("rule {number}"));
        stage.rule(&format!("r{number:04}"), &spec);
    }
    stage.pass();
    let (translated, compared) = stage.memory.work();
    assert_eq!((translated, compared), (1000, 1000));
    let encoded = stage.cutter.encoded();
    stage.rule("r0500", &words("another"));
    let translation = stage.pass();
    assert_eq!(stage.memory.work(), (translated + 1, compared + 1));
    assert_eq!(stage.cutter.encoded(), encoded + 1);
    assert_eq!(translation.bundle.unwrap().rules.len(), 1000);
    // Nothing at all changed.
    stage.pass();
    assert_eq!(stage.memory.work(), (translated + 1, compared + 1));
}

#[test]
fn a_rule_hears_of_what_it_names() {
    let mut stage = Stage::new();
    stage.route("relay", "relay.example.net");
    stage.route_rule("by-relay", "relay", None);
    stage.rule(
        "listed",
        &json!({
            "messages": ["Outbound"],
            "match": {"wordsFrom": [{"configMapRef": {"name": "words", "key": "list"}}]},
            "action": {"reject": {}},
        }),
    );
    stage.words = Some(1);
    stage.pass();
    let before = stage.memory.work().0;
    // Another version of the ConfigMap concerns the rule that names it, and no other.
    stage.words = Some(2);
    let translation = stage.pass();
    let content = translation.bundle.unwrap().rules.iter().find_map(|rule| rule.content.clone()).unwrap();
    assert_eq!(content.words, ["word2", "other"]);
    assert_eq!(stage.memory.work().0, before + 1);
    // The route goes: the rule says so, and again when it is back.
    let relay = stage.routes.remove("relay").unwrap();
    let problems =
        |translation: &Translation| translation.outcomes.iter().filter(|o| !o.problems.is_empty()).count();
    assert_eq!(problems(&stage.pass()), 1);
    stage.routes.insert("relay".to_owned(), relay);
    assert_eq!(problems(&stage.pass()), 0);
}

/// One change of the world.
#[derive(Debug, Clone)]
enum Edit {
    Words(usize, usize),
    Broken(usize),
    RouteRule(usize, usize, Option<usize>),
    Remove(usize),
    Route(usize, usize),
    RemoveRoute(usize),
    List(u64),
    Listed(usize),
    Domains(usize),
}

fn edit() -> impl Strategy<Value = Edit> {
    prop_oneof![
        (0..6usize, 0..3usize).prop_map(|(rule, word)| Edit::Words(rule, word)),
        (0..6usize).prop_map(Edit::Broken),
        (0..6usize, 0..3usize, prop::option::of(0..2usize)).prop_map(|(a, b, c)| Edit::RouteRule(a, b, c)),
        (0..6usize).prop_map(Edit::Remove),
        (0..3usize, 0..3usize).prop_map(|(route, host)| Edit::Route(route, host)),
        (0..3usize).prop_map(Edit::RemoveRoute),
        (0..3u64).prop_map(Edit::List),
        (0..6usize).prop_map(Edit::Listed),
        (0..2usize).prop_map(Edit::Domains),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Any sequence of edits gives the bundles, outcomes and segments that come without a memory: [`Stage::pass`]
    /// compares them.
    #[test]
    fn what_is_remembered_never_shows(edits in prop::collection::vec(edit(), 1..25)) {
        let mut stage = Stage::new();
        for edit in edits {
            match edit {
                Edit::Words(rule, word) => stage.rule(&format!("r{rule}"), &words(&format!("word{word}"))),
                Edit::Broken(rule) => stage.rule(&format!("r{rule}"), &json!({
                    "messages": ["Outbound"],
                    "match": {"expressions": [{"location": "Body", "type": "MatchesRegex", "value": "("}]},
                    "action": {"reject": {}},
                })),
                Edit::RouteRule(rule, route, sender) => {
                    let sender = sender.map(|at| format!("person{at}@solarmora.com"));
                    stage.route_rule(&format!("w{rule}"), &format!("route{route}"), sender.as_deref());
                }
                Edit::Remove(rule) => {
                    stage.rules.remove(&format!("r{rule}"));
                    stage.routing.remove(&format!("w{rule}"));
                }
                Edit::Route(route, host) => stage.route(&format!("route{route}"), &format!("h{host}.example.net")),
                Edit::RemoveRoute(route) => drop(stage.routes.remove(&format!("route{route}"))),
                Edit::List(version) => stage.words = Some(version).filter(|version| *version > 0),
                Edit::Listed(rule) => stage.rule(&format!("r{rule}"), &json!({
                    "messages": ["Outbound"],
                    "match": {"wordsFrom": [{"configMapRef": {"name": "words", "key": "list"}}]},
                    "action": {"reject": {}},
                })),
                Edit::Domains(which) => {
                    let domains = ["solarmora.com", "other.example"];
                    stage.gateway = json!({"domains": [domains[which]], "allowedExternalTargets": []});
                }
            }
            stage.pass();
        }
    }
}
