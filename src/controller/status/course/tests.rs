use std::collections::HashMap;

use super::*;
use crate::bundle::document::{AddressList, Bundle, Gateway, ListEntries, ObjectKind, Origin};
use crate::bundle::manifest::Halted;
use crate::bundle::{Revision, Sequence};
use crate::controller::rollout::{Journey, Publication, Wish};
use crate::controller::status::{Failure, of_object};

fn at(seconds: i64) -> Timestamp {
    let start: Timestamp = "2026-11-22T10:00:00Z".parse().unwrap();
    Timestamp::from_second(start.as_second() + seconds).unwrap()
}

fn object(kind: ObjectKind) -> ObjectId {
    ObjectId { kind, namespace: "mail".to_owned(), name: "x".to_owned() }
}

/// A gateway with one list of this generation.
fn bundle(generation: i64) -> Bundle {
    let origin = |kind| Origin { object: object(kind), uid: "u".to_owned(), generation };
    let entries = ListEntries::build(std::iter::empty());
    let list = AddressList { origin: origin(ObjectKind::AddressList), entries };
    Bundle { lists: vec![list], ..Bundle::new(Gateway::new(origin(ObjectKind::OutboundGateway))) }
}

fn revision() -> Revision {
    Revision::named("00000000000000aa").unwrap()
}

fn outcome() -> Outcome {
    Outcome::new(Origin { object: object(ObjectKind::AddressList), uid: "u".to_owned(), generation: 2 })
}

fn situation<'a>(
    standings: &'a Standings,
    stage: Option<&'a StageView>,
    failure: Option<&'a Failure>,
) -> Situation<'a> {
    Situation { failure, progress: &|_| Progress::default(), standings, stage, now: at(60) }
}

fn said(status: &Status, kind: ConditionType) -> String {
    let found = conditions::get(&status.conditions, kind);
    found.map_or("absent".to_owned(), |c| format!("{} {}: {}", c.status, c.reason, c.message))
}

fn halted() -> Halted {
    Halted {
        revision: revision(),
        wish: String::new(),
        at: at(5),
        cause: HaltCause::RejectsRose,
        message: "x-0 rejected 12 of 40 messages".to_owned(),
    }
}

#[test]
fn an_object_that_a_pin_leaves_out_says_so_and_its_author_is_not_asked_to_repair_anything() {
    let standings = Standings::between(Why::Pinned(revision()), &bundle(2), Some(&bundle(1)));
    let status = of_object(&outcome(), None, None, &Status::default(), &situation(&standings, None, None));
    let ready = said(&status, ConditionType::Ready);
    assert!(
        ready.starts_with("False Pinned: generation 2 is not obeyed") && ready.contains("00000000000000aa"),
        "{ready}"
    );
    assert!(said(&status, ConditionType::Programmed).starts_with("False Pinned"));
    assert_eq!(said(&status, ConditionType::Stalled), "absent");
    // What the pinned revision has is as it was.
    let same = Standings::between(Why::Pinned(revision()), &bundle(2), Some(&bundle(2)));
    let status = of_object(&outcome(), None, None, &Status::default(), &situation(&same, None, None));
    assert_eq!(said(&status, ConditionType::Ready), "absent");
}

#[test]
fn a_generation_that_was_taken_back_has_the_figures_and_is_its_author_s_to_change() {
    let standings = Standings::between(Why::Halted(halted()), &bundle(2), Some(&bundle(1)));
    let status = of_object(&outcome(), None, None, &Status::default(), &situation(&standings, None, None));
    assert!(said(&status, ConditionType::Ready).contains("12 of 40"), "{status:?}");
    assert!(said(&status, ConditionType::Stalled).starts_with("True NeedsAuthor"), "{status:?}");
    let verdicts = of_gateway(&Status::default(), &situation(&standings, None, None));
    assert_eq!(verdicts.len(), 1);
    assert_eq!((verdicts[0].kind, verdicts[0].reason), (ConditionType::RolloutHalted, Reason::RejectsRose));
    let ready = ready_of_gateway(&situation(&standings, None, None)).expect("it says something");
    assert_eq!((ready.state, ready.reason), (State::False, Reason::RolloutHalted));
}

#[test]
fn a_pinned_gateway_says_since_when_and_what_waits_and_an_unknown_revision_is_named() {
    let standings = Standings::between(Why::Pinned(revision()), &bundle(2), Some(&bundle(1)));
    let verdicts = of_gateway(&Status::default(), &situation(&standings, None, None));
    assert_eq!(verdicts.len(), 1);
    let message = &verdicts[0].message;
    for part in ["00000000000000aa", "since 2026-11-22T10:01:00.000Z", "AddressList/mail/x waits", "--undo"] {
        assert!(message.contains(part), "{part}: {message}");
    }
    assert!(ready_of_gateway(&situation(&standings, None, None)).is_none(), "its pods may all run it");
    let failure = Failure { reason: Reason::RevisionNotFound, message: "no revision b is kept".to_owned() };
    let none = Standings::default();
    let verdicts = of_gateway(&Status::default(), &situation(&none, None, Some(&failure)));
    assert_eq!(verdicts[0].kind, ConditionType::ResolvedRefs);
    assert_eq!(verdicts[0].reason, Reason::RevisionNotFound);
}

#[test]
fn an_object_in_a_staged_rollout_names_the_step_and_is_not_ready_whatever_runs_it() {
    let staged = Staged {
        format: 1,
        revision: revision(),
        segments: Vec::new(),
        materials: Vec::new(),
        pods: vec!["x-0".to_owned()],
        step: 0,
        since: at(0),
        started: at(0),
        wish: String::new(),
    };
    let progress = Progress { total: 1, updated: 1, ..Progress::default() };
    let lasts = Standing::Lasts { until: at(300), missing: Vec::new() };
    let view = StageView::new(&staged, &lasts, 2, progress, 1);
    let wish = Wish { uid: "u".to_owned(), generation: 2, started: at(0) };
    let published =
        Publication { sequence: Sequence(5), revision: revision().to_string(), at: at(0), staged: true };
    let journey = Journey { wish, published: Some(published), arrived: None };
    let standings = Standings::between(Why::Staged, &bundle(2), Some(&bundle(1)));
    let situation = situation(&standings, Some(&view), None);
    let status = of_object(&outcome(), Some(&journey), None, &Status::default(), &situation);
    assert_eq!(
        said(&status, ConditionType::Ready),
        "False RollingOut: step 1 of 2: 1 of 1 pods, x-0 first, run revision 00000000000000aa; the next step is at 2026-11-22T10:05:00.000Z"
    );
    assert!(said(&status, ConditionType::Programmed).starts_with("True Programmed"));
    assert_eq!(status.rollout.unwrap().revision, "00000000000000aa");
    let mut journeys = crate::controller::rollout::Journeys::default();
    journeys.begin(&outcome().origin.object, journey.wish.clone());
    journeys.advance(&[], &HashMap::new(), at(9));
    assert!(journeys.waiting());
}
