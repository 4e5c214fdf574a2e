use proptest::prelude::*;

use super::*;
use crate::bundle::document::{Action, Gateway, ObjectId, ObjectKind, Origin, Reject};
use crate::bundle::segment::cut;

fn origin(kind: ObjectKind, name: String) -> Origin {
    Origin { object: ObjectId { kind, namespace: "mail".into(), name }, uid: "u".into(), generation: 1 }
}

fn rule(number: usize, priority: u16) -> Arc<Rule> {
    let origin = origin(ObjectKind::ComplianceRule, format!("r{number}"));
    Arc::new(Rule { priority, ..Rule::new(origin, Action::Reject(Reject::default())) })
}

fn bundle(rules: Vec<Arc<Rule>>) -> Bundle {
    let gateway = Gateway::new(origin(ObjectKind::OutboundGateway, "default".into()));
    let mut bundle = Bundle { rules, ..Bundle::new(gateway) };
    bundle.sort();
    bundle
}

fn same(a: &[Segment], b: &[Segment]) -> bool {
    a == b && a.iter().zip(b).all(|(a, b)| a.pieces() == b.pieces())
}

#[test]
fn r155_one_changed_rule_of_ten_thousand_writes_one_segment_anew() {
    let mut cutter = Cutter::default();
    let mut rules: Vec<_> = (0..10_000).map(|number| rule(number, 500)).collect();
    cutter.cut(&bundle(rules.clone()));
    let all = cutter.encoded();
    rules[4711] = rule(4711, 400);
    let segments = cutter.cut(&bundle(rules.clone()));
    assert_eq!(cutter.encoded() - all, 1);
    assert!(same(&segments, &cut(&bundle(rules))));
}

proptest! {
    /// Whatever is changed, added or taken away: the segments are those of one who remembers nothing.
    #[test]
    fn what_is_remembered_changes_nothing(
        edits in prop::collection::vec((0..80usize, 0..3u16, any::<bool>()), 1..40),
    ) {
        let mut cutter = Cutter::default();
        let mut rules: BTreeMap<usize, Arc<Rule>> = BTreeMap::new();
        for (number, priority, stays) in edits {
            match stays {
                true => drop(rules.insert(number, rule(number, priority + 1))),
                false => drop(rules.remove(&number)),
            }
            let bundle = bundle(rules.values().cloned().collect());
            prop_assert!(same(&cutter.cut(&bundle), &cut(&bundle)));
        }
    }
}
