use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use kube::api::DynamicObject;
use serde_json::{Value, json};

use super::forms::{Forms, Kept};
use super::recorder::entries_of;
use super::sight::{Observer, Sight};
use super::{managers, source};
use crate::audit::diff::Step;
use crate::audit::{Entry, Event};
use crate::bundle::document::{ObjectId, ObjectKind};
use crate::controller::world::World;

fn object(generation: i64, priority: u32, writers: &[(&str, &str, Value)]) -> DynamicObject {
    let managed: Vec<Value> = writers
        .iter()
        .map(|(manager, time, fields)| {
            json!({
                "manager": manager, "operation": "Apply", "time": time, "apiVersion": "postern.dev/v1alpha1",
                "fieldsType": "FieldsV1", "fieldsV1": fields,
            })
        })
        .collect();
    serde_json::from_value(json!({
        "apiVersion": "postern.dev/v1alpha1",
        "kind": "RoutingRule",
        "metadata": {
            "name": "all", "namespace": "mail", "uid": "u1", "generation": generation, "managedFields": managed,
            "annotations": {
                "postern.dev/reason": "CHG-17",
                "kubectl.kubernetes.io/last-applied-configuration": format!("{{\"priority\": {priority}}}"),
            },
        },
        "spec": {"priority": priority, "organizationalUnit": "/sales", "description": "x"},
    }))
    .unwrap()
}

fn both() -> Value {
    json!({"f:spec": {".": {}, "f:priority": {}, "f:organizationalUnit": {}}})
}

fn description() -> Value {
    json!({"f:spec": {"f:description": {}}})
}

fn seen(objects: impl IntoIterator<Item = DynamicObject>) -> Vec<Sight> {
    let observer = Observer::default();
    observer.begin();
    objects.into_iter().for_each(|object| observer.shows(ObjectKind::RoutingRule, &object));
    observer.take(100)
}

/// Each form compared with the one before.
fn entries(sights: &[Sight]) -> Vec<Entry> {
    let mut kept: Option<Kept> = None;
    let mut all = Vec::new();
    for sight in sights {
        all.extend(entries_of(sight, kept.as_ref(), true));
        kept = sight.form.as_ref().map(|form| Kept::of(&sight.object, form, kept.as_ref()));
    }
    all
}

#[test]
fn r145_a_change_by_two_managers_says_who_what_and_why_field_by_field() {
    let first = object(
        1,
        500,
        &[("alice", "2026-11-22T10:00:00Z", both()), ("bob", "2026-11-22T10:00:00Z", description())],
    );
    let mut second = object(
        2,
        7,
        &[("alice", "2026-11-22T10:00:05Z", both()), ("bob", "2026-11-22T10:00:00Z", description())],
    );
    second.data["spec"]["organizationalUnit"] = json!("/sales/west");
    let mut third = object(
        3,
        7,
        &[("alice", "2026-11-22T10:00:05Z", both()), ("bob", "2026-11-22T10:00:09Z", description())],
    );
    third.data["spec"]["organizationalUnit"] = json!("/sales/west");
    third.data["spec"]["description"] = json!("y");
    let all = entries(&seen([first, second, third]));
    let events: Vec<Event> = all.iter().map(|entry| entry.event).collect();
    assert_eq!(events, [Event::Create, Event::Update, Event::Update]);
    let update = &all[1];
    assert_eq!((update.object.as_deref(), update.generation), (Some("RoutingRule/mail/all"), Some(2)));
    assert_eq!((&update.managers, update.unit.as_deref()), (&vec!["alice".to_owned()], Some("/sales/west")));
    assert_eq!(update.reason.as_deref(), Some("CHG-17"));
    let fields: Vec<_> =
        update.fields.iter().map(|f| (f.path.as_str(), f.old.as_ref(), f.new.as_ref(), &f.by[..])).collect();
    let alice = ["alice".to_owned()];
    assert_eq!(
        fields,
        [
            ("spec.organizationalUnit", Some(&json!("/sales")), Some(&json!("/sales/west")), &alice[..]),
            ("spec.priority", Some(&json!(500)), Some(&json!(7)), &alice[..]),
        ],
        "the copy that kubectl keeps is no change"
    );
    assert_eq!(all[2].managers, ["bob"]);
    assert_eq!(all[2].fields[0].by, ["bob"]);
}

#[test]
fn r145_nothing_changed_is_no_event_and_a_status_alone_is_none_either() {
    let one = object(1, 5, &[("alice", "2026-11-22T10:00:00Z", both())]);
    let mut same = one.clone();
    same.metadata.resource_version = Some("17".into());
    let mut status = one.clone();
    status.data["status"] = json!({"conditions": [{"type": "Accepted", "status": "True"}]});
    assert_eq!(seen([one, same, status]).len(), 1);
}

#[test]
fn r145_the_moment_it_became_ready_everywhere_is_recorded_once() {
    let one = object(1, 5, &[("alice", "2026-11-22T10:00:00Z", both())]);
    let mut ready = one.clone();
    ready.data["status"] = json!({
        "conditions": [{"type": "Ready", "status": "True", "observedGeneration": 1, "reason": "Ready"}],
        "rollout": {"revision": "abc", "completedAt": "2026-11-22T10:00:00.184Z", "podsTotal": 3, "propagationMillis": 143},
    });
    let mut lost = ready.clone();
    lost.data["status"]["conditions"][0]["status"] = json!("False");
    let all = entries(&seen([one, ready.clone(), lost, ready]));
    assert_eq!(all.len(), 2, "{all:?}");
    assert_eq!((all[1].event, all[1].revision.as_deref()), (Event::Ready, Some("abc")));
    assert_eq!(all[1].detail["since"], "2026-11-22T10:00:00.184Z");
    assert_eq!((&all[1].detail["pods"], &all[1].detail["millis"]), (&json!(3), &json!(143)));
}

#[test]
fn r146_a_refusal_by_a_pod_is_recorded_with_what_it_says() {
    let mut gateway = object(1, 5, &[]);
    gateway.data["status"] = json!({"conditions": [
        {"type": "Ready", "status": "False", "observedGeneration": 1, "reason": "ConfigRejected", "message": "default-0: no port"},
    ]});
    let observer = Observer::default();
    observer.begin();
    observer.shows(ObjectKind::OutboundGateway, &gateway);
    let all = entries(&observer.take(9));
    assert_eq!(all[1].event, Event::Rejected);
    assert_eq!(all[1].detail["message"], "default-0: no port");
}

fn folder() -> std::path::PathBuf {
    std::env::temp_dir().join(format!(
        "postern-forms-{}-{:?}",
        std::process::id(),
        std::thread::current().id()
    ))
}

#[test]
fn r144_what_changed_came_or_went_while_nobody_looked_is_recorded_at_the_next_start() {
    let folder = folder();
    let forms = Forms::open(&folder).unwrap();
    let named = |name: &str, priority| {
        let mut object = object(1, priority, &[]);
        object.metadata.name = Some(name.to_owned());
        object
    };
    for sight in seen([named("same", 1), named("changed", 1), named("gone", 1)]) {
        forms.put(&Kept::of(&sight.object, sight.form.as_ref().unwrap(), None)).unwrap();
    }
    // Another process: its watches may be faster than its reading of the forms.
    let observer = Observer::default();
    observer.begin();
    let mut changed = named("changed", 2);
    changed.metadata.generation = Some(4);
    observer.shows(ObjectKind::RoutingRule, &named("same", 1));
    observer.shows(ObjectKind::RoutingRule, &changed);
    observer.known(forms.known().unwrap());
    observer.shows(ObjectKind::RoutingRule, &named("new", 1));
    observer.lost(|object| object.name == "gone");
    let sights = observer.take(9);
    let mut told = BTreeMap::new();
    for sight in &sights {
        for entry in entries_of(sight, forms.get(&sight.object).as_ref(), true) {
            told.insert(sight.object.name.clone(), entry);
        }
    }
    let events: Vec<(&str, Event)> = told.iter().map(|(name, entry)| (name.as_str(), entry.event)).collect();
    assert_eq!(events, [("changed", Event::Update), ("gone", Event::Delete), ("new", Event::Create)]);
    assert_eq!(told["changed"].detail["sinceGeneration"], 1);
    assert_eq!(told["gone"].fields.len(), 4, "what was deleted is told field by field");
    std::fs::remove_dir_all(folder).unwrap();
}

/// The leader's first list of a kind that comes while it looks for what went: each takes the locks of both.
#[tokio::test]
async fn watches_go_on_while_it_is_looked_for_what_went() {
    const TURNS: i64 = 3000;
    let config = kube::Config::new("http://127.0.0.1:1".parse().unwrap());
    let world = World::new(kube::Client::try_from(config).unwrap(), Vec::new());
    world.observer.begin();
    let (done, over) = std::sync::mpsc::channel();
    let aside = |work: fn(&World)| {
        let (world, done) = (Arc::clone(&world), done.clone());
        std::thread::spawn(move || {
            work(&world);
            done.send(()).unwrap();
        });
    };
    aside(|world| {
        (1..TURNS).for_each(|turn| world.show(ObjectKind::RoutingRule, object(turn, 5, &[])));
    });
    aside(|world| (1..TURNS).for_each(|_| world.observe_losses()));
    for _ in 0..2 {
        over.recv_timeout(Duration::from_secs(60)).expect("neither waits for the other");
    }
}

#[test]
fn r145_an_object_made_anew_under_its_name_is_a_deletion_and_a_creation() {
    let mut other = object(1, 6, &[]);
    other.metadata.uid = Some("u2".into());
    let all = entries(&seen([object(1, 5, &[]), other]));
    let events: Vec<Event> = all.iter().map(|entry| entry.event).collect();
    assert_eq!(events, [Event::Create, Event::Delete, Event::Create]);
}

#[test]
fn what_was_there_when_the_log_began_is_found_and_not_made() {
    let sights = seen([object(1, 5, &[])]);
    assert_eq!(entries_of(&sights[0], None, false)[0].event, Event::Found);
}

#[test]
fn memory_is_bounded_when_nothing_can_be_written() {
    let observer = Observer::default();
    observer.begin();
    for generation in 0..5000 {
        observer.shows(ObjectKind::RoutingRule, &object(generation, 5, &[]));
    }
    assert_eq!(observer.waiting(), 4096);
    let last = observer.take(5000).pop().unwrap();
    assert_eq!((last.form.unwrap().generation, last.skipped), (4999, 904));
}

#[test]
fn the_owner_of_a_field_is_the_one_who_has_just_it() {
    let writers = [
        ("alice", "2026-11-22T10:00:00Z", json!({"f:spec": {"f:match": {"f:words": {}}}})),
        ("bob", "2026-11-22T10:00:00Z", json!({"f:spec": {"f:match": {"f:expressions": {}}, "f:hosts": {}}})),
    ];
    let managers = managers::of(object(1, 5, &writers).managed_fields().to_vec());
    let field = |path: &[&'static str]| {
        managers::owners(&managers, &path.iter().map(|name| Step::Field(name)).collect::<Vec<_>>())
    };
    assert_eq!(field(&["spec", "match", "words"]), ["alice"]);
    assert_eq!(field(&["spec", "match", "expressions"]), ["bob"]);
    let port = [Step::Field("spec"), Step::Field("hosts"), Step::Item(0), Step::Field("port")];
    assert_eq!(managers::owners(&managers, &port), ["bob"]);
    assert!(field(&["spec", "priority"]).is_empty(), "nobody's");
}

#[test]
fn whoever_loses_a_field_to_somebody_else_has_not_written() {
    let of = |writers: &[(&str, &str, Value)]| managers::of(object(1, 5, writers).managed_fields().to_vec());
    let before = of(&[("alice", "2026-11-22T10:00:00Z", both())]);
    let known: Vec<_> = before.iter().map(|manager| manager.known.clone()).collect();
    let taken = of(&[
        ("alice", "2026-11-22T10:00:00Z", json!({"f:spec": {"f:organizationalUnit": {}}})),
        ("bob", "2026-11-22T10:00:07Z", json!({"f:spec": {"f:priority": {}}})),
    ]);
    assert_eq!(managers::acting(&known, &taken), ["bob"]);
    // The same second, and nothing shows but that somebody wrote.
    assert_eq!(managers::acting(&known, &before), ["alice"]);
}

#[test]
fn r145_the_source_is_told_by_the_name_of_the_manager() {
    let of = |name: &str| source(&[name.to_owned()]);
    assert_eq!(of("kubectl-client-side-apply").as_deref(), Some("kubectl"));
    assert_eq!(of("argocd-controller").as_deref(), Some("Argo CD"));
    assert_eq!(of("kustomize-controller").as_deref(), Some("Flux"));
    assert_eq!(of("terraform").as_deref(), Some("terraform"));
    assert_eq!(source(&[]), None);
}

use kube::ResourceExt;

#[test]
fn an_object_that_does_not_read_is_recorded_as_it_is() {
    let mut broken = object(1, 5, &[]);
    broken.data["spec"] = json!({"priority": "much"});
    let sight = &seen([broken])[0];
    let id = ObjectId { kind: ObjectKind::RoutingRule, namespace: "mail".into(), name: "all".into() };
    assert_eq!(sight.object, id);
    let entry = &entries_of(sight, None, true)[0];
    assert!(entry.fields.iter().any(|field| field.path == "spec.priority"), "{entry:?}");
    assert!(entry.at <= Timestamp::now());
}
