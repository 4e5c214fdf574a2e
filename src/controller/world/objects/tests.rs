use std::sync::Arc;

use super::super::Changed;
use super::*;

const SPEC: Changed = Changed { spec: true, cluster: false };
const NOTHING: Changed = Changed { spec: false, cluster: false };

struct Stage {
    state: State,
    outline: Bell,
    default: Arc<Bell>,
    other: Arc<Bell>,
}

impl Stage {
    fn new() -> Self {
        let mut state = State::default();
        let mut bell = |name: &str| state.bells.entry(ObjectKey::new("mail", name)).or_default().clone();
        let (default, other) = (bell("default"), bell("other"));
        Self { state, outline: Bell::default(), default, other }
    }

    /// The API server shows a routing rule.
    fn show(&mut self, generation: i64, version: u64, spec: Value, status: Value, at: i64) {
        let object = serde_json::from_value(json!({
            "apiVersion": "postern.dev/v1alpha1",
            "kind": "RoutingRule",
            "metadata": {"name": "r", "namespace": "mail", "uid": "u", "generation": generation, "resourceVersion": version.to_string()},
            "spec": spec,
            "status": status,
        }));
        let at = Timestamp::from_second(at).unwrap();
        apply(&mut self.state, &self.outline, ObjectKind::RoutingRule, object.unwrap(), at);
    }

    fn entry(&self) -> &Entry {
        self.state.objects.all().next().unwrap().1
    }
}

fn good() -> Value {
    json!({"messages": ["Outbound"], "action": {"reject": {}}})
}

#[test]
fn a_malformed_object_is_kept_with_the_path_of_the_mistake_and_stays_with_its_gateway() {
    let mut stage = Stage::new();
    stage.show(
        1,
        1,
        json!({"gatewayRef": {"name": "other"}, "priority": "high", "messages": []}),
        json!({}),
        5,
    );
    let Written::Malformed(malformed) = &stage.entry().written else { panic!("it does not read") };
    assert!(malformed.error.contains("priority"), "{}", malformed.error);
    assert_eq!(malformed.gateway(), ObjectKey::new("mail", "other"));
    assert!(malformed.spec.is_some());
    assert_eq!(stage.other.take(), SPEC);
    assert_eq!(stage.default.take(), NOTHING);
    // Repaired by its author.
    stage.show(2, 2, good(), json!({}), 6);
    assert!(matches!(stage.entry().written, Written::RoutingRule(_)));
}

#[test]
fn a_generation_counts_from_the_moment_it_was_seen_first() {
    let mut stage = Stage::new();
    stage.show(1, 1, good(), json!({}), 5);
    stage.show(1, 2, good(), json!({"observedGeneration": 1}), 9);
    assert_eq!(stage.entry().seen, Timestamp::from_second(5).unwrap());
    stage.show(2, 3, good(), json!({"observedGeneration": 1}), 12);
    assert_eq!(stage.entry().seen, Timestamp::from_second(12).unwrap());
}

#[test]
fn a_status_write_is_no_change_of_the_spec() {
    let mut stage = Stage::new();
    stage.show(1, 1, good(), json!({}), 5);
    assert_eq!((stage.default.take(), stage.outline.take()), (SPEC, SPEC), "its gateway is not there yet");
    stage.show(1, 2, good(), json!({"observedGeneration": 1}), 6);
    assert_eq!(stage.default.take(), Changed { spec: false, cluster: true });
    // The watch repeats what is known.
    stage.show(1, 2, good(), json!({"observedGeneration": 1}), 7);
    assert_eq!((stage.default.take(), stage.outline.take()), (NOTHING, NOTHING));
}

#[test]
fn an_echo_of_what_was_before_our_own_write_changes_nothing() {
    let mut stage = Stage::new();
    stage.show(1, 5, good(), json!({"observedGeneration": 1}), 5);
    stage.default.take();
    stage.show(1, 4, good(), json!({}), 6);
    assert_eq!(stage.entry().resource_version, "5");
    assert_eq!(stage.entry().status.observed_generation, Some(1));
    assert_eq!(stage.default.take(), NOTHING);
}

#[test]
fn a_rule_that_moves_wakes_the_gateway_it_leaves_and_the_one_it_joins() {
    let mut stage = Stage::new();
    stage.show(1, 1, good(), json!({}), 5);
    stage.default.take();
    let mut moved = good();
    moved["gatewayRef"] = json!({"name": "other"});
    stage.show(2, 2, moved, json!({}), 6);
    assert_eq!((stage.default.take(), stage.other.take()), (SPEC, SPEC));
}

#[test]
fn what_a_complete_list_lacks_is_gone_but_only_where_it_was_listed() {
    let mut stage = Stage::new();
    stage.show(1, 1, good(), json!({}), 5);
    stage.default.take();
    keep(&mut stage.state, &stage.outline, ObjectKind::RoutingRule, &Listed::of(Some("elsewhere"), []));
    assert_eq!(stage.state.objects.all().count(), 1);
    keep(&mut stage.state, &stage.outline, ObjectKind::OutboundRoute, &Listed::of(None, []));
    assert_eq!(stage.state.objects.all().count(), 1);
    keep(&mut stage.state, &stage.outline, ObjectKind::RoutingRule, &Listed::of(None, []));
    assert_eq!(stage.state.objects.all().count(), 0);
    assert_eq!(stage.default.take(), SPEC);
}

#[test]
fn a_status_of_ours_that_comes_back_wakes_nobody() {
    let mut stage = Stage::new();
    stage.show(1, 1, good(), json!({}), 5);
    stage.default.take();
    let gateway = ObjectKey::new("mail", "default");
    stage.state.objects.take_changed(&gateway);
    let id = stage.state.objects.all().next().unwrap().0.clone();
    let ours = Status { observed_generation: Some(1), ..Status::default() };
    stage.state.expected.insert(id.clone(), ours);
    // The watch is faster than the answer to the write.
    stage.show(1, 2, good(), json!({"observedGeneration": 1}), 6);
    assert_eq!(stage.default.take(), NOTHING);
    assert!(stage.state.objects.take_changed(&gateway).is_empty());
    // Somebody else's is looked at.
    stage.show(1, 3, good(), json!({"observedGeneration": 7}), 7);
    assert_eq!(stage.default.take(), Changed { spec: false, cluster: true });
    assert_eq!(stage.state.objects.take_changed(&gateway), [id].into());
}

#[test]
fn an_object_that_did_not_change_stays_the_same_in_memory() {
    let rule = |stage: &Stage| match &stage.entry().written {
        Written::RoutingRule(rule) => rule.clone(),
        other => panic!("{other:?}"),
    };
    let mut stage = Stage::new();
    stage.show(1, 1, good(), json!({}), 5);
    let first = rule(&stage);
    stage.show(1, 2, good(), json!({"observedGeneration": 1}), 6);
    assert!(Arc::ptr_eq(&first, &rule(&stage)));
    stage.show(2, 3, good(), json!({"observedGeneration": 1}), 7);
    assert!(!Arc::ptr_eq(&first, &rule(&stage)));
}
