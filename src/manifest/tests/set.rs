//! Properties of a pass over the whole set.

use proptest::prelude::*;

use super::{Generations, read};
use crate::bundle::document::ObjectId;
use crate::translate::{ObjectKey, Resources, Translation, translate};

const GATEWAY: &str = "apiVersion: postern.dev/v1alpha1\nkind: OutboundGateway\nmetadata: {name: default}\nspec:\n  \
                       clients: {cidrs: [10.0.0.0/8]}\n";

/// One object of the set; `state` 0 is good, everything else is a mistake of its own kind.
fn object(number: usize, kind: u8, state: u8) -> String {
    let head = |kind: &str| {
        format!("---\napiVersion: postern.dev/v1alpha1\nkind: {kind}\nmetadata: {{name: o{number}}}\nspec:\n")
    };
    match (kind, state) {
        (0, 0) => head("OutboundRoute") + "  hosts: [{host: mail.example.net}]\n",
        (0, _) => head("OutboundRoute") + "  hosts: [{host: mail.example.net, weight: 7}]\n",
        (1, 0) => head("RoutingRule") + "  messages: [Outbound]\n  action: {modify: {subjectPrefix: X}}\n",
        (1, 1) => head("RoutingRule") + "  messages: [Outbound]\n  action: {modify: {route: {name: none}}}\n",
        (1, _) => head("RoutingRule") + "  messages: [Outbound]\n  action: {}\n",
        (_, 0) => {
            head("ComplianceRule") + "  messages: [Inbound]\n  match: {words: [a]}\n  action: {reject: {}}\n"
        }
        (_, 1) => head("ComplianceRule") + "  messages: [Inbound]\n  match: {}\n  action: {reject: {}}\n",
        (_, _) => {
            head("ComplianceRule") + "  messages: [Inbound]\n  match: {wrds: [a]}\n  action: {reject: {}}\n"
        }
    }
}

fn resources(objects: &[(u8, u8)]) -> Resources {
    let documents = objects.iter().enumerate().map(|(number, (kind, state))| object(number, *kind, *state));
    read(&(GATEWAY.to_owned() + &documents.collect::<String>()), &mut Generations::default()).resources
}

fn pass(resources: &Resources) -> Translation {
    translate(&ObjectKey::new("default", "default"), resources, None)
}

/// Everything the pass says of one object.
fn of(translation: &Translation, object: &ObjectId) -> String {
    let bundle = translation.bundle.as_ref().unwrap();
    let route = bundle.routes.iter().find(|route| route.origin.object == *object);
    let rule = bundle.rules.iter().find(|rule| rule.origin.object == *object);
    let outcome = translation.outcomes.iter().find(|outcome| outcome.origin.object == *object);
    format!("{route:?} {rule:?} {outcome:?}")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn the_order_of_objects_means_nothing(
        objects in prop::collection::vec((0u8..3, 0u8..3), 1..12),
        seed in any::<u64>(),
    ) {
        let resources = resources(&objects);
        let mut shuffled = resources.clone();
        let turn = |length: usize| if length == 0 { 0 } else { (seed % length as u64) as usize };
        shuffled.routes.rotate_left(turn(resources.routes.len()));
        shuffled.routing_rules.reverse();
        shuffled.compliance_rules.rotate_left(turn(resources.compliance_rules.len()));
        shuffled.malformed.reverse();
        prop_assert_eq!(pass(&resources), pass(&shuffled));
    }

    #[test]
    fn one_bad_object_never_changes_another_one(
        objects in prop::collection::vec((0u8..3, 0u8..3), 2..10),
        which in any::<prop::sample::Index>(),
        state in 1u8..3,
    ) {
        let bad = which.index(objects.len());
        let mut spoiled = objects.clone();
        let mut fine = objects;
        fine[bad].1 = 0;
        spoiled[bad].1 = state;
        let (fine, spoiled) = (pass(&resources(&fine)), pass(&resources(&spoiled)));
        for outcome in &fine.outcomes {
            let object = &outcome.origin.object;
            if object.name != format!("o{bad}") {
                prop_assert_eq!(of(&fine, object), of(&spoiled, object));
            }
        }
    }
}
