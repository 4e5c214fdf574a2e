mod truth;

use super::*;
use crate::bundle::ack::Running;
use crate::bundle::document::ObjectKind;
use crate::bundle::{Course, NackReason, Revision, Staged};

fn at(millis: i64) -> Timestamp {
    Timestamp::from_millisecond(1_795_000_000_000 + millis).unwrap()
}

fn revision() -> Revision {
    Revision::of(1, &[], &[])
}

fn pod(name: &str, ready: Option<bool>) -> Pod {
    Pod {
        name: name.to_owned(),
        uid: format!("uid-{name}"),
        address: Some("10.0.0.1".to_owned()),
        ready,
        terminating: false,
        scheduled: true,
        touched: None,
    }
}

fn ack(pod: &Pod, running: Option<u64>, refused: Option<u64>) -> (String, Ack) {
    let nack = |sequence| Nack {
        sequence: Sequence(sequence),
        revision: revision(),
        reason: NackReason::SecretMissing,
        message: "Secret mail/tls has not arrived in the mount".to_owned(),
        object: None,
    };
    let running = running.map(|sequence| Running {
        sequence: Sequence(sequence),
        revision: revision(),
        loaded_at: at(0),
    });
    let highest = running.as_ref().map(|running| running.sequence).unwrap_or_default();
    let ack = Ack {
        pod: pod.name.clone(),
        instance: "i".to_owned(),
        running,
        formats: vec![1],
        refused: refused.map(nack),
        tested: 0,
        queued: 0,
        highest,
        counts: Default::default(),
        leaving: None,
    };
    (pod.uid.clone(), ack)
}

fn manifest(sequence: u64) -> Manifest {
    Manifest {
        format: 1,
        sequence: Sequence(sequence),
        revision: revision(),
        published_at: at(0),
        segments: Vec::new(),
        materials: Vec::new(),
        leaving: Vec::new(),
        course: Default::default(),
    }
}

/// Every way a pod can be: what kubelet says, and what it says itself. Sequence 5 is asked for.
#[test]
fn a_pod_counts_until_it_is_deleted_or_not_ready_and_is_updated_when_it_says_so() {
    struct Case {
        ready: Option<bool>,
        running: Option<u64>,
        refused: Option<u64>,
        counts: u32,
        updated: u32,
        refusals: usize,
    }
    let case = |ready, running, refused, counts, updated, refusals| Case {
        ready,
        running,
        refused,
        counts,
        updated,
        refusals,
    };
    for (number, case) in [
        case(Some(true), Some(5), None, 1, 1, 0),
        case(Some(true), Some(6), None, 1, 1, 0),
        case(Some(true), Some(4), None, 1, 0, 0),
        case(Some(true), Some(4), Some(5), 1, 0, 1),
        case(Some(true), Some(5), Some(4), 1, 1, 0),
        case(Some(true), Some(5), Some(6), 1, 1, 1),
        case(Some(true), None, None, 1, 0, 0),
        case(Some(false), Some(5), None, 0, 0, 0),
        case(Some(false), Some(4), Some(5), 0, 0, 1),
        case(Some(false), None, None, 0, 0, 0),
        case(None, None, None, 0, 0, 0),
        case(None, Some(5), None, 0, 0, 0),
    ]
    .into_iter()
    .enumerate()
    {
        let pod = pod("a", case.ready);
        let acks = HashMap::from([ack(&pod, case.running, case.refused)]);
        let progress = progress(Sequence(5), std::slice::from_ref(&pod), &acks);
        assert_eq!(progress.total, case.counts, "case {number}");
        assert_eq!(progress.updated, case.updated, "case {number}");
        assert_eq!(progress.refused.len(), case.refusals, "case {number}");
        assert_eq!(progress.complete(), case.counts == 1 && case.updated == 1, "case {number}");
        assert_eq!(progress.stale.is_empty(), progress.complete(), "case {number}: what is missing is named");
    }
}

/// All combinations of three pods: complete exactly when someone counts and all who count have it.
#[test]
fn a_rollout_is_complete_when_every_counting_pod_has_it() {
    let states = [
        (Some(true), Some(5)),
        (Some(true), Some(4)),
        (Some(true), None),
        (Some(false), Some(4)),
        (None, None),
    ];
    for a in states {
        for b in states {
            for c in states {
                let trio = [a, b, c];
                let pods: Vec<Pod> =
                    ["a", "b", "c"].iter().zip(trio).map(|(name, (ready, _))| pod(name, ready)).collect();
                let acks = pods.iter().zip(trio).map(|(pod, (_, running))| ack(pod, running, None)).collect();
                let progress = progress(Sequence(5), &pods, &acks);
                let counting: Vec<_> = trio.iter().filter(|(ready, _)| *ready == Some(true)).collect();
                let expected =
                    !counting.is_empty() && counting.iter().all(|(_, running)| *running == Some(5));
                assert_eq!(progress.complete(), expected, "{trio:?}");
                assert_eq!(progress.total as usize, counting.len());
                assert_eq!(progress.not_counting as usize, 3 - counting.len());
            }
        }
    }
}

#[test]
fn no_more_than_twenty_stale_pods_are_named() {
    let pods: Vec<Pod> = (0..50).map(|n| pod(&format!("p-{n:02}"), Some(true))).collect();
    let progress = progress(Sequence(5), &pods, &HashMap::new());
    assert_eq!((progress.total, progress.stale.len()), (50, 20));
}

fn object() -> ObjectId {
    ObjectId { kind: ObjectKind::RoutingRule, namespace: "mail".to_owned(), name: "r".to_owned() }
}

fn wish(generation: i64, started: i64) -> Wish {
    Wish { uid: "u".to_owned(), generation, started: at(started) }
}

#[test]
fn the_arrival_of_a_generation_is_said_once_and_for_all() {
    let mut journeys = Journeys::default();
    let here = pod("a", Some(true));
    journeys.begin(&object(), wish(1, 0));
    journeys.published(&manifest(5));
    journeys.advance(std::slice::from_ref(&here), &HashMap::from([ack(&here, Some(4), None)]), at(100));
    assert_eq!(journeys.get(&object()).unwrap().arrived, None);
    journeys.advance(std::slice::from_ref(&here), &HashMap::from([ack(&here, Some(5), None)]), at(143));
    let arrived = journeys.get(&object()).unwrap().arrived.clone().unwrap();
    assert_eq!(arrived.after(at(0)), 143);
    // A later publication and a pod that lags do not reopen it.
    journeys.begin(&object(), wish(1, 0));
    journeys.published(&manifest(6));
    let late = pod("b", Some(true));
    journeys.advance(&[here.clone(), late], &HashMap::from([ack(&here, Some(5), None)]), at(900));
    assert_eq!(journeys.get(&object()).unwrap().arrived, Some(arrived));
    // A new generation is a new journey.
    journeys.begin(&object(), wish(2, 1000));
    assert_eq!(journeys.get(&object()).unwrap().published, None);
    assert_eq!(journeys.unpublished_since(), Some(at(1000)));
}

#[test]
fn a_later_publication_carries_earlier_generations_along() {
    let mut journeys = Journeys::default();
    let here = pod("a", Some(true));
    journeys.begin(&object(), wish(1, 0));
    journeys.published(&manifest(5));
    // The pod skipped 5 and runs 7.
    journeys.advance(std::slice::from_ref(&here), &HashMap::from([ack(&here, Some(7), None)]), at(50));
    assert!(journeys.get(&object()).unwrap().arrived.is_some());
    assert!(!journeys.waiting());
}

#[test]
fn old_sets_stay_until_every_pod_whatever_its_state_has_the_new_one() {
    let (ready, starting) = (pod("a", Some(true)), pod("b", None));
    let pods = [ready.clone(), starting.clone()];
    let mut acks = HashMap::from([ack(&ready, Some(5), None)]);
    assert!(!settled(&manifest(5), &pods, &acks));
    acks.extend([ack(&starting, Some(5), None)]);
    assert!(settled(&manifest(5), &pods, &acks));
}

#[test]
fn the_floor_is_the_highest_sequence_any_pod_was_told_or_runs() {
    let mut told = pod("a", Some(true));
    told.touched = Some(Sequence(8));
    let runs = pod("b", Some(true));
    let acks = HashMap::from([ack(&runs, Some(9), None)]);
    assert_eq!(floor(&[told.clone()], &HashMap::new()), Sequence(8));
    assert_eq!(floor(&[told, runs], &acks), Sequence(9));
    assert_eq!(floor(&[], &HashMap::new()), Sequence(0));
}

#[test]
fn a_number_that_no_controller_ever_gave_does_not_use_the_numbers_up() {
    let mut told = pod("a", Some(true));
    told.touched = Some(Sequence(u64::MAX));
    let runs = pod("b", Some(true));
    let acks = HashMap::from([ack(&runs, Some(9), None)]);
    assert_eq!(floor(&[told, runs], &acks), Sequence(9));
}

#[test]
fn r154_a_pod_that_ran_further_once_is_heard_although_nothing_runs_there() {
    let here = pod("a", Some(false));
    let (uid, mut said) = ack(&here, None, None);
    said.highest = Sequence(41);
    assert_eq!(floor(&[here], &HashMap::from([(uid, said)])), Sequence(41));
}

#[test]
fn a_number_that_was_given_twice_says_nothing_of_what_a_pod_runs() {
    let here = pod("a", Some(true));
    let (uid, mut said) = ack(&here, Some(5), None);
    let other = Revision::of(2, &[], &[]);
    let acks = |ack: &Ack| HashMap::from([(uid.clone(), ack.clone())]);
    assert!(!contested(&manifest(5), &acks(&said)));
    said.running.as_mut().unwrap().revision = other.clone();
    assert!(contested(&manifest(5), &acks(&said)), "another publication had this number before");
    assert!(!contested(&manifest(6), &acks(&said)), "it has not taken this one yet");
    // Unless it is what this pod is to try.
    let trial = Staged {
        format: 2,
        revision: other,
        segments: Vec::new(),
        materials: Vec::new(),
        pods: vec!["a".to_owned()],
        step: 0,
        since: at(0),
        started: at(0),
        wish: String::new(),
    };
    let staged = Manifest { course: Course::Staged(Box::new(trial)), ..manifest(5) };
    assert!(!contested(&staged, &acks(&said)));
}
