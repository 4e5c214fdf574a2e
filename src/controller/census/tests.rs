use super::*;
use crate::api::conditions::{Verdict, merge};

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(seconds).unwrap()
}

/// A status that speaks of `generation` and turned so at `turned`.
fn status(generation: i64, verdicts: &[(ConditionType, State, Reason)], turned: i64) -> Status {
    let mut status = Status { observed_generation: Some(generation), ..Status::default() };
    let verdicts = verdicts.iter().map(|&(kind, state, reason)| Verdict::new(kind, state, reason, "m"));
    merge(&mut status.conditions, verdicts.collect(), generation, at(turned));
    status
}

fn count(objects: &[(i64, i64, Status)]) -> Counts {
    let mut counts = Counts::default();
    for (generation, seen, status) in objects {
        let kind = ObjectKind::RoutingRule;
        counts.add(&Counted { kind, generation: *generation, seen: at(*seen), status });
    }
    counts
}

#[test]
fn each_object_stands_in_one_place() {
    let ready = |state, reason| (ConditionType::Ready, state, reason);
    let stalled = (ConditionType::Stalled, State::True, Reason::NeedsAuthor);
    let counts = count(&[
        (1, 10, status(1, &[ready(State::True, Reason::Ready)], 20)),
        (2, 30, status(1, &[ready(State::True, Reason::Ready)], 20)),
        (1, 10, Status::default()),
        (1, 10, status(1, &[ready(State::False, Reason::ConfigRejected)], 20)),
        (1, 10, status(1, &[ready(State::False, Reason::LastGoodInForce), stalled], 5)),
        // An earlier form in force: still its author's turn.
        (1, 10, status(1, &[ready(State::True, Reason::Ready), stalled], 5)),
    ]);
    let of = |standing| counts.objects[&(ObjectKind::RoutingRule, standing)];
    assert_eq!(
        (of(Standing::Ready), of(Standing::Waiting), of(Standing::Refused), of(Standing::Stalled)),
        (1, 2, 1, 2)
    );
}

#[test]
fn the_longest_wait_is_that_of_the_generation_and_not_of_those_that_wait_for_their_author() {
    let rolling = [(ConditionType::Ready, State::False, Reason::RollingOut)];
    let ready = [(ConditionType::Ready, State::True, Reason::Ready)];
    let hopeless = [rolling[0], (ConditionType::Stalled, State::True, Reason::NeedsAuthor)];
    assert_eq!(count(&[(1, 10, status(1, &hopeless, 10))]).waits_since, None);
    assert_eq!(count(&[(1, 10, status(1, &rolling, 20))]).waits_since, Some(at(20)));
    // Ready of the generation before: this one waits since it was seen.
    assert_eq!(count(&[(2, 50, status(1, &ready, 20))]).waits_since, Some(at(50)));
    let several =
        [(2, 50, status(1, &ready, 20)), (1, 10, status(1, &rolling, 40)), (1, 1, status(1, &ready, 2))];
    assert_eq!(count(&several).waits_since, Some(at(40)));
}

#[test]
fn conditions_are_counted_in_the_state_that_is_bad_news() {
    let counts = count(&[
        (1, 1, status(1, &[(ConditionType::SPFAligned, State::False, Reason::SPFMissing)], 1)),
        (1, 1, status(1, &[(ConditionType::SPFAligned, State::Unknown, Reason::NotAnswered)], 1)),
        (1, 1, status(1, &[(ConditionType::SPFAligned, State::True, Reason::SPFAligned)], 1)),
        (1, 1, status(1, &[(ConditionType::Conflicted, State::True, Reason::Overridden)], 1)),
    ]);
    let expected = [(ConditionType::SPFAligned, 1), (ConditionType::Conflicted, 1)];
    assert_eq!(counts.warnings, BTreeMap::from(expected));
}

#[test]
fn every_condition_that_warns_is_counted() {
    for kind in ConditionType::WARNINGS.iter().chain(ConditionType::FINDINGS) {
        assert!(WARNINGS.iter().any(|(counted, _)| counted == kind), "{kind}");
    }
}
