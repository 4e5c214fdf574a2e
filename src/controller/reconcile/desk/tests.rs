use jiff::Timestamp;

use super::*;
use crate::bundle::document::Origin;
use crate::bundle::{Manifest, Revision};
use crate::controller::rollout::Wish;

fn object(number: usize) -> ObjectId {
    ObjectId { kind: ObjectKind::ComplianceRule, namespace: "mail".into(), name: format!("r{number:05}") }
}

fn outcome(number: usize, generation: i64) -> Outcome {
    Outcome::new(Origin { object: object(number), uid: "u".into(), generation })
}

fn outcomes(count: usize) -> Vec<Outcome> {
    (0..count).map(|number| outcome(number, 1)).collect()
}

fn manifest(sequence: u64) -> Manifest {
    Manifest {
        format: 1,
        sequence: Sequence(sequence),
        revision: Revision::of(1, &[], &[]),
        published_at: Timestamp::UNIX_EPOCH,
        segments: Vec::new(),
        materials: Vec::new(),
        leaving: Vec::new(),
        course: Default::default(),
    }
}

/// A desk where everything was looked at.
fn settled(outcomes: &[Outcome]) -> Desk {
    let mut desk = Desk::new("mail/default".to_owned());
    desk.decided(&[], outcomes);
    assert_eq!(desk.take_undecided().len(), outcomes.len());
    assert_eq!(desk.take_unsaid(outcomes).len(), outcomes.len(), "a new driver looks at everything");
    assert!(desk.take_unsaid(outcomes).is_empty());
    desk
}

#[test]
fn r150_of_ten_thousand_objects_only_the_changed_one_is_looked_at() {
    let before = outcomes(10_000);
    let mut desk = settled(&before);
    let mut after = before.clone();
    after[4711] = outcome(4711, 2);
    desk.changed([object(4711)].into());
    desk.decided(&before, &after);
    assert_eq!(desk.take_undecided(), [object(4711)].into());
    assert_eq!(desk.take_unsaid(&after), [object(4711)].into());
}

#[test]
fn what_comes_and_goes_is_looked_at() {
    let before = outcomes(3);
    let mut desk = settled(&before);
    let after = vec![outcome(1, 1), outcome(2, 1), outcome(7, 1)];
    desk.decided(&before, &after);
    assert_eq!(desk.take_undecided(), [object(0), object(7)].into());
}

#[test]
fn who_is_on_the_way_hears_of_progress_and_of_failure_and_nobody_else_does() {
    let all = outcomes(10);
    let mut desk = settled(&all);
    let mut journeys = Journeys::default();
    let wish = Wish { uid: "u".into(), generation: 1, started: Timestamp::UNIX_EPOCH };
    journeys.begin(&object(3), wish);
    journeys.published(&manifest(5));
    let progress = |updated| move |_: Sequence| Progress { total: 3, updated, ..Progress::default() };
    desk.on_the_way(&mut journeys, progress(1), None);
    assert_eq!(desk.take_unsaid(&all), [object(3)].into());
    desk.on_the_way(&mut journeys, progress(1), None);
    assert!(desk.take_unsaid(&all).is_empty(), "nothing has moved");
    desk.on_the_way(&mut journeys, progress(2), None);
    assert_eq!(desk.take_unsaid(&all), [object(3)].into());
    let failure = Failure { reason: crate::api::conditions::Reason::PublishFailed, message: "m".into() };
    desk.on_the_way(&mut journeys, progress(2), Some(&failure));
    assert_eq!(desk.take_unsaid(&all), [object(3)].into());
}
