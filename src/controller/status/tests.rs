use super::*;
use crate::bundle::document::{ObjectKind, Origin};
use crate::bundle::{Nack, NackReason, Revision};
use crate::controller::rollout::Wish;
use crate::translate::Problem;

fn at(millis: i64) -> Timestamp {
    let start: Timestamp = "2026-11-22T10:00:00.041Z".parse().unwrap();
    Timestamp::from_millisecond(start.as_millisecond() + millis).unwrap()
}

fn outcome(generation: i64) -> Outcome {
    let object =
        ObjectId { kind: ObjectKind::RoutingRule, namespace: "mail".to_owned(), name: "r".to_owned() };
    Outcome::new(Origin { object, uid: "u".to_owned(), generation })
}

fn journey(generation: i64) -> Journey {
    let wish = Wish { uid: "u".to_owned(), generation, started: at(0) };
    let published = Publication { sequence: Sequence(5), revision: "abc".to_owned(), at: at(20) };
    Journey { wish, published: Some(published), arrived: None }
}

fn nack() -> Nack {
    Nack {
        sequence: Sequence(5),
        revision: Revision::of(1, &[], &[]),
        reason: NackReason::ListenerFailed,
        message: "port 2525 is taken".to_owned(),
        object: None,
    }
}

/// One line per condition: `Type=Status Reason: message`.
fn show(status: &Status) -> String {
    let line = |c: &Condition| format!("{}={} {}: {}\n", c.type_, c.status, c.reason, c.message);
    status.conditions.iter().map(line).collect()
}

struct Given {
    outcome: Outcome,
    journey: Option<Journey>,
    progress: Progress,
    failure: Option<Failure>,
    before: Status,
}

impl Given {
    fn new(generation: i64) -> Self {
        Self {
            outcome: outcome(generation),
            journey: Some(journey(generation)),
            progress: Progress::default(),
            failure: None,
            before: Status::default(),
        }
    }

    fn status(&self) -> Status {
        let situation =
            Situation { failure: self.failure.as_ref(), progress: &|_| self.progress.clone(), now: at(500) };
        of_object(&self.outcome, self.journey.as_ref(), None, &self.before, &situation)
    }
}

#[test]
fn a_generation_on_its_way_names_the_pods_it_waits_for() {
    let mut given = Given::new(1);
    given.progress = Progress {
        total: 3,
        updated: 2,
        stale: vec!["default-1".to_owned(), "default-3".to_owned()],
        not_counting: 1,
        refused: Vec::new(),
    };
    let status = given.status();
    assert_eq!(
        show(&status),
        "Accepted=True Accepted: understood\n\
         ResolvedRefs=True ResolvedRefs: everything it names exists\n\
         Programmed=True Programmed: published in revision abc at 2026-11-22T10:00:00.061Z\n\
         Ready=False RollingOut: 2 of 3 pods; waiting for default-1; not serving: default-3\n"
    );
    let rollout = status.rollout.unwrap();
    assert_eq!((rollout.pods_total, rollout.pods_updated), (3, 2));
    assert_eq!(rollout.stale_pods, ["default-1", "default-3"]);
    assert_eq!((rollout.completed_at, rollout.propagation_millis), (None, None));
}

#[test]
fn ready_says_since_when_and_how_long_it_took() {
    let mut given = Given::new(1);
    let arrival = Arrival { at: at(143), pods: 3, not_counting: Vec::new() };
    given.journey.as_mut().unwrap().arrived = Some(arrival);
    let status = given.status();
    assert!(
        show(&status).ends_with(
            "Ready=True Ready: 3 of 3 pods since 2026-11-22T10:00:00.184Z, 143 ms after the change\n"
        ),
        "{}",
        show(&status)
    );
    assert!(status.is_ready(1) && !status.is_ready(2));
    assert!(status.conditions.iter().all(|condition| condition.observed_generation == Some(1)));
    assert_eq!(status.rollout.unwrap().propagation_millis, Some(143));
}

#[test]
fn what_is_ready_is_not_written_again_whatever_happens_to_pods() {
    let mut given = Given::new(1);
    given.journey.as_mut().unwrap().arrived =
        Some(Arrival { at: at(143), pods: 3, not_counting: Vec::new() });
    given.before = given.status();
    // After a restart of the controller nothing is known of the journey.
    given.journey = None;
    given.progress = Progress { total: 0, ..Progress::default() };
    assert_eq!(given.status(), given.before);
}

#[test]
fn without_a_serving_pod_a_new_generation_is_not_ready() {
    let mut given = Given::new(1);
    given.progress.stale = vec!["default-0".to_owned()];
    assert!(
        show(&given.status())
            .contains("Ready=False NoServingPods: no pod is serving; not ready: default-0\n")
    );
}

#[test]
fn a_refusal_names_pod_and_error() {
    let mut given = Given::new(1);
    given.progress = Progress {
        total: 2,
        updated: 1,
        stale: vec!["default-1".to_owned()],
        refused: vec![("default-1".to_owned(), nack())],
        ..Progress::default()
    };
    let status = given.status();
    let text = show(&status);
    assert!(text.contains("Ready=False ConfigRejected: pod default-1 refuses revision"), "{text}");
    assert!(text.contains("ListenerFailed: port 2525 is taken"), "{text}");
    assert!(status.rollout.unwrap().last_error.unwrap().contains("default-1"));
}

#[test]
fn an_invalid_generation_says_what_stays_in_force_and_that_only_its_author_helps() {
    let mut given = Given::new(4);
    given.outcome.problems = vec![Problem::invalid("spec.priority", "is not a number")];
    given.outcome.in_force = Some(3);
    given.journey = None;
    let text = show(&given.status());
    assert!(text.contains("Accepted=False Invalid: generation 4 is invalid: spec.priority: is not a number; generation 3 stays in force\n"), "{text}");
    assert!(text.contains("Ready=False LastGoodInForce: generation 3 stays in force\n"), "{text}");
    assert!(text.contains("Stalled=True NeedsAuthor:"), "{text}");
    // Repaired: the marks of trouble go.
    let mut repaired = Given::new(5);
    repaired.before = given.status();
    assert!(!show(&repaired.status()).contains("Stalled"));
}

#[test]
fn what_may_still_come_does_not_stall() {
    let mut given = Given::new(1);
    let problem = Problem::reference("spec.action.modify.route", Reason::RouteNotFound, "no route x");
    given.outcome.problems = vec![problem];
    given.outcome.broken = true;
    given.journey = None;
    let text = show(&given.status());
    assert!(text.contains("ResolvedRefs=False RouteNotFound"), "{text}");
    assert!(!text.contains("Stalled"), "{text}");
}

#[test]
fn what_could_not_be_published_says_why() {
    let mut given = Given::new(1);
    given.journey.as_mut().unwrap().published = None;
    given.failure = Some(Failure { reason: Reason::BundleTooLarge, message: "2 of 1 KiB".to_owned() });
    let text = show(&given.status());
    assert!(text.contains("Programmed=False BundleTooLarge: 2 of 1 KiB\n"), "{text}");
    assert!(text.contains("Ready=False Pending: not as written yet; see Programmed\n"), "{text}");
    given.failure = None;
    assert!(show(&given.status()).contains("Programmed=Unknown Pending: not published yet\n"));
}

#[test]
fn a_disabled_rule_is_ready_when_every_pod_has_forgotten_it() {
    let mut given = Given::new(2);
    given.outcome.disabled = true;
    given.journey.as_mut().unwrap().arrived = Some(Arrival { at: at(90), pods: 1, not_counting: Vec::new() });
    let text = show(&given.status());
    assert!(
        text.contains("Ready=True Disabled: disabled: nothing is done by it; 1 of 1 pods since"),
        "{text}"
    );
}

fn gateway(clients: bool, live: impl FnOnce(&mut Progress) -> Option<Arrival>) -> Status {
    let spec = if clients { r#"{"clients": {"cidrs": ["10.0.0.0/8"]}}"# } else { "{}" };
    let mut gateway = crate::api::OutboundGateway::new("default", serde_json::from_str(spec).unwrap());
    gateway.metadata.namespace = Some("mail".to_owned());
    let resources = crate::translate::Resources { gateways: vec![gateway.into()], ..Default::default() };
    let key = crate::translate::ObjectKey::new("mail", "default");
    let bundle = crate::translate::translate(&key, &resources, None).bundle.unwrap();
    let manifest = Manifest {
        format: 1,
        sequence: Sequence(5),
        revision: Revision::of(1, &[], &[]),
        published_at: at(20),
        segments: Vec::new(),
        materials: Vec::new(),
        leaving: Vec::new(),
    };
    let object = ObjectId { kind: ObjectKind::OutboundGateway, ..outcome(1).origin.object };
    let outcome = Outcome::new(Origin { object, ..outcome(1).origin });
    let mut progress = Progress::default();
    let arrived = live(&mut progress);
    let live = Live {
        manifest: Some(&manifest),
        started: at(0),
        arrived: arrived.as_ref(),
        bundle: Some(&bundle),
        replicas: 2,
        selector: "postern.dev/gateway=default".to_owned(),
        trouble: None,
        scaling: None,
    };
    let situation = Situation { failure: None, progress: &|_| progress.clone(), now: at(500) };
    of_gateway(&outcome, &live, &Status::default(), &situation)
}

#[test]
fn a_gateway_without_clients_says_what_to_add() {
    let status = gateway(false, |_| None);
    let text = show(&status);
    assert!(text.contains("AcceptsMail=False NoClients:"), "{text}");
    assert!(text.contains("spec:\n  clients:\n    cidrs: ["), "{text}");
    assert_eq!((status.replicas, status.selector.as_deref()), (Some(2), Some("postern.dev/gateway=default")));
}

#[test]
fn a_gateway_shows_the_live_picture() {
    let all = |progress: &mut Progress| {
        *progress = Progress { total: 2, updated: 2, ..Progress::default() };
        Some(Arrival { at: at(143), pods: 2, not_counting: Vec::new() })
    };
    let ready = gateway(true, all);
    assert!(show(&ready).contains("Ready=True Ready: 2 of 2 pods since"), "{}", show(&ready));
    assert!(show(&ready).contains("AcceptsMail=True AcceptsMail: 1 network may relay"), "{}", show(&ready));
    // All pods went away afterwards: unlike a rule, the gateway says so.
    let gone = |_: &mut Progress| Some(Arrival { at: at(143), pods: 2, not_counting: Vec::new() });
    assert!(show(&gateway(true, gone)).contains("Ready=False NoServingPods: there is no pod yet"));
}

#[test]
fn events_tell_of_what_finished_and_what_failed_and_of_nothing_else() {
    let mut given = Given::new(1);
    given.progress = Progress { total: 1, stale: vec!["p".to_owned()], ..Progress::default() };
    let rolling = given.status();
    assert_eq!(news(&Status::default(), &rolling), None);
    given.journey.as_mut().unwrap().arrived = Some(Arrival { at: at(9), pods: 1, not_counting: Vec::new() });
    let ready = given.status();
    let told = news(&rolling, &ready).unwrap();
    assert_eq!((told.tone, told.reason), (Tone::Good, "RolledOut"));
    assert_eq!(news(&ready, &ready), None);
    let mut invalid = Given::new(2);
    invalid.outcome.problems = vec![Problem::invalid("spec", "no")];
    invalid.outcome.in_force = Some(1);
    invalid.before = ready.clone();
    assert_eq!(news(&ready, &invalid.status()).unwrap().reason, "Invalid");
}
