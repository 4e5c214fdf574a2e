use jiff::Timestamp;

use super::*;
use crate::bundle::ack::Running;
use crate::bundle::{Revision, Sequence};

fn pod(number: i32) -> Pod {
    Pod {
        name: format!("gw-{number}"),
        uid: format!("uid-{number}"),
        address: Some("10.0.0.1".to_owned()),
        ready: Some(true),
        terminating: false,
        scheduled: true,
        touched: None,
    }
}

fn ack(number: i32, sequence: u64, leaving: Option<(u64, bool)>) -> (String, Ack) {
    let leaving = leaving.map(|(left, empty)| Leaving { left, empty, ..Leaving::default() });
    let ack = Ack {
        pod: format!("gw-{number}"),
        instance: "i".to_owned(),
        running: Some(Running {
            sequence: Sequence(sequence),
            revision: Revision::of(1, &[], &[]),
            loaded_at: Timestamp::UNIX_EPOCH,
        }),
        formats: vec![1],
        refused: None,
        tested: 0,
        queued: leaving.as_ref().map_or(7, |leaving| leaving.left),
        leaving,
        highest: Sequence(sequence),
        counts: Default::default(),
    };
    (format!("uid-{number}"), ack)
}

fn manifest(sequence: u64, leaving: &[&str]) -> Manifest {
    Manifest {
        leaving: leaving.iter().map(|&name| name.to_owned()).collect(),
        ..serde_json::from_value(serde_json::json!({
            "format": 1, "sequence": sequence, "revision": "r", "publishedAt": "2026-11-22T10:00:00Z",
            "segments": [], "materials": [],
        }))
        .unwrap()
    }
}

struct Given {
    wished: i32,
    ephemeral: bool,
    set: Set,
    pods: Vec<Pod>,
    acks: HashMap<String, Ack>,
    manifest: Manifest,
    blank: BTreeSet<String>,
}

/// A pod's number, the sequence it runs, and if it leaves, what is left and whether it is empty.
type Told = (i32, u64, Option<(u64, bool)>);

impl Given {
    /// Three pods, so many wished for, nobody told anything yet.
    fn wished(wished: i32) -> Self {
        Self {
            wished,
            ephemeral: false,
            set: Set { replicas: 3, deletes_claims: false },
            pods: (0..3).map(pod).collect(),
            acks: (0..3).map(|number| ack(number, 4, None)).collect(),
            manifest: manifest(4, &[]),
            blank: BTreeSet::new(),
        }
    }

    fn told(mut self, acks: &[Told]) -> Self {
        self.manifest = manifest(5, &["gw-1", "gw-2"]);
        self.acks.extend(acks.iter().map(|&(number, sequence, leaving)| ack(number, sequence, leaving)));
        self
    }

    fn plan(&self) -> Life {
        let wish = Wish { gateway: "gw", replicas: self.wished, ephemeral: self.ephemeral };
        plan(
            wish,
            Scene {
                set: Some(self.set),
                pods: &self.pods,
                acks: &self.acks,
                manifest: Some(&self.manifest),
                blank: &self.blank,
            },
        )
    }

    /// Size, whether claims go, who leaves.
    fn short(&self) -> (i32, bool, String) {
        let life = self.plan();
        let Set { replicas, deletes_claims } = life.set.unwrap();
        (replicas, deletes_claims, life.leaving.join(" "))
    }

    fn says(&self) -> String {
        self.plan()
            .verdict
            .map(|verdict| format!("{} {}", verdict.reason, verdict.message))
            .unwrap_or_default()
    }
}

fn is(size: i32, deletes: bool, leaving: &str) -> (i32, bool, String) {
    (size, deletes, leaving.to_owned())
}

#[test]
fn a_gateway_that_grows_or_stays_has_no_steps_between() {
    assert_eq!(Given::wished(3).short(), is(3, false, ""));
    assert_eq!(Given::wished(5).short(), is(5, false, ""));
    assert_eq!(Given::wished(5).says(), "");
}

#[test]
fn the_highest_leave_and_the_set_keeps_its_size_until_they_say_they_are_empty() {
    assert_eq!(Given::wished(1).short(), is(3, false, "gw-1 gw-2"));
    let going = Given::wished(1).told(&[(1, 5, Some((12, false))), (2, 5, Some((1, false)))]);
    assert_eq!(going.short(), is(3, false, "gw-1 gw-2"));
    assert_eq!(
        going.says(),
        "HandingOver 13 messages left on the way to 1 pods; pods that leave hand their mail over, and go when they \
         are empty: gw-1: 12 messages left; gw-2: 1 message left"
    );
    let one = Given::wished(1).told(&[(1, 5, Some((12, false))), (2, 5, Some((0, true)))]);
    assert_eq!(one.short(), is(2, true, "gw-1 gw-2"), "the set shrinks from its end");
    let both = Given::wished(1).told(&[(1, 5, Some((0, true))), (2, 5, Some((0, true)))]);
    assert_eq!(both.short(), is(1, true, "gw-1 gw-2"), "they stay named as long as they are there");
    assert_eq!(both.says(), "");
}

#[test]
fn an_empty_pod_below_one_that_is_not_waits_for_it() {
    let given = Given::wished(1).told(&[(1, 5, Some((0, true))), (2, 5, Some((3, false)))]);
    assert_eq!(given.short(), is(3, false, "gw-1 gw-2"));
}

#[test]
fn only_the_word_of_this_departure_counts() {
    let stale = Given::wished(1).told(&[(1, 4, Some((0, true))), (2, 4, Some((0, true)))]);
    assert_eq!(stale.short(), is(3, false, "gw-1 gw-2"));
    assert!(stale.says().contains("gw-2: it has not heard of it yet"), "{}", stale.says());
    let mut queued = Given::wished(1).told(&[(1, 5, Some((0, true))), (2, 5, Some((0, true)))]);
    queued.acks.get_mut("uid-2").unwrap().queued = 1;
    assert_eq!(queued.short().0, 3);
}

#[test]
fn a_pod_that_is_not_there_is_waited_for_because_its_volume_may_hold_mail() {
    let mut given = Given::wished(1).told(&[(1, 5, Some((0, true))), (2, 5, None)]);
    given.pods.pop();
    assert_eq!(given.short(), is(3, false, "gw-1 gw-2"));
    assert!(given.says().contains("gw-2: its pod is not there"), "{}", given.says());
    given.blank.insert("gw-2".to_owned());
    assert_eq!(
        given.short(),
        is(1, false, "gw-1 gw-2"),
        "it never had one: it goes, and no claim is deleted"
    );
}

#[test]
fn claims_go_until_the_last_pod_that_was_too_many_is_gone_and_then_no_more() {
    let mut given = Given::wished(1).told(&[]);
    given.set = Set { replicas: 1, deletes_claims: true };
    given.pods.iter_mut().skip(1).for_each(|pod| pod.terminating = true);
    assert_eq!(given.short(), is(1, true, "gw-1 gw-2"), "a pod on its way out must not take mail again");
    given.pods.truncate(1);
    assert_eq!(given.short(), is(1, false, ""));
}

#[test]
fn scaled_up_again_in_the_middle_nobody_leaves_but_who_is_on_his_way_out() {
    let mut given = Given::wished(3).told(&[(1, 5, Some((12, false))), (2, 5, Some((1, false)))]);
    assert_eq!(given.short(), is(3, false, ""));
    given.set = Set { replicas: 2, deletes_claims: true };
    given.pods[2].terminating = true;
    assert_eq!(given.short(), is(3, false, "gw-2"));
}

#[test]
fn to_zero_mail_stays_in_the_claims_and_that_is_said() {
    let given = Given::wished(0);
    assert_eq!(given.short(), is(0, false, ""));
    assert!(given.says().starts_with("NoPeer scaled to zero"), "{}", given.says());
    assert!(given.says().contains("7 messages in spool-gw-0"), "{}", given.says());
}

#[test]
fn to_zero_without_volumes_pods_stay_until_their_mail_is_delivered() {
    let mut given = Given::wished(0);
    given.ephemeral = true;
    assert_eq!(given.short(), is(3, false, "gw-0 gw-1 gw-2"));
    given.manifest = manifest(5, &["gw-0", "gw-1", "gw-2"]);
    given.acks = [ack(0, 5, Some((2, false))), ack(1, 5, Some((0, true))), ack(2, 5, Some((0, true)))].into();
    assert_eq!(given.short(), is(1, false, "gw-0 gw-1 gw-2"));
    assert!(given.says().starts_with("NoPeer 2 messages left"), "{}", given.says());
}

/// Whatever pods say in whatever order, a set never shrinks past one that did not say it was empty.
#[test]
fn no_order_of_events_lets_a_pod_go_with_mail() {
    let words = [None, Some((5, false)), Some((0, false)), Some((0, true))];
    for one in words {
        for two in words {
            for sequence in [4, 5] {
                for wished in 1..=3 {
                    let mut given = Given::wished(wished).told(&[(1, sequence, one), (2, sequence, two)]);
                    given
                        .acks
                        .values_mut()
                        .for_each(|ack| ack.queued = ack.leaving.as_ref().map_or(9, |l| l.left));
                    let (size, ..) = given.short();
                    for (number, word) in [(1, one), (2, two)] {
                        let empty = word == Some((0, true)) && sequence == 5;
                        assert!(number < size || empty, "{wished} {sequence} {one:?} {two:?}: {size}");
                    }
                }
            }
        }
    }
}
