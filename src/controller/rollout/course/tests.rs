use super::*;
use crate::api::gateway::{PodShare, RolloutStep};
use crate::api::units::GoDuration;
use crate::bundle::ack::Running;
use crate::bundle::{NackReason, Sequence};

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_795_000_000 + seconds).unwrap()
}

fn named(letter: char) -> Revision {
    Revision::named(&letter.to_string().repeat(16)).unwrap()
}

/// A gateway of four pods in the middle of a staged rollout from revision a to revision b.
struct Site {
    rollout: Option<StagedRollout>,
    manifest: Manifest,
    pods: Vec<Pod>,
    acks: HashMap<String, Ack>,
    others: Others,
    now: Timestamp,
}

fn steps(shares: &[PodShare]) -> StagedRollout {
    let step = |pods: &PodShare| RolloutStep { pods: pods.clone(), pause: GoDuration::new("60s") };
    StagedRollout { steps: shares.iter().map(step).collect(), halt_on: HaltOn::default() }
}

impl Site {
    fn new(pods: usize) -> Self {
        let manifest = Manifest {
            format: 1,
            sequence: Sequence(5),
            revision: named('a'),
            published_at: at(0),
            segments: Vec::new(),
            materials: Vec::new(),
            leaving: Vec::new(),
            course: Course::Whole,
        };
        let mut site = Self {
            rollout: Some(steps(&[PodShare::percent(25), PodShare::number(2), PodShare::percent(75)])),
            manifest,
            pods: (0..pods).map(|number| pod(&format!("gw-{number}"))).collect(),
            acks: HashMap::new(),
            others: Others::default(),
            now: at(0),
        };
        for number in 0..pods {
            site.runs(number, 'a', 0, Counts::default());
        }
        site
    }

    fn runs(&mut self, number: usize, revision: char, since: i64, counts: Counts) {
        let Pod { name, uid, .. } = &self.pods[number];
        let running =
            Running { sequence: self.manifest.sequence, revision: named(revision), loaded_at: at(since) };
        let ack = Ack {
            pod: name.clone(),
            instance: "i".to_owned(),
            running: Some(running),
            formats: vec![1],
            refused: None,
            tested: 0,
            queued: 0,
            leaving: None,
            highest: self.manifest.sequence,
            counts,
        };
        self.acks.insert(uid.clone(), ack);
    }

    fn refuses(&mut self, number: usize, reason: NackReason) {
        let (sequence, revision) = (self.manifest.sequence, named('b'));
        let nack = Nack { sequence, revision, reason, message: "no".to_owned(), object: None };
        self.acks.get_mut(&self.pods[number].uid).unwrap().refused = Some(nack);
    }

    fn scene(&self) -> Scene<'_> {
        Scene {
            rollout: self.rollout.as_ref(),
            manifest: Some(&self.manifest),
            replicas: u32::try_from(self.pods.len()).unwrap(),
            pods: &self.pods,
            acks: &self.acks,
            others: &self.others,
            now: self.now,
        }
    }

    fn turn(&self) -> Turn {
        self.scene().turn(&named('b'), "wish")
    }

    /// Publishes the stage that is wanted now.
    fn stage(&mut self) -> Next {
        let Turn::Stage(next) = self.turn() else { panic!("{:?}", self.turn()) };
        self.manifest.sequence = self.manifest.sequence.next();
        let Next { pods, step, since, started } = next.clone();
        self.manifest.course = Course::Staged(Box::new(Staged {
            format: 1,
            revision: named('b'),
            segments: Vec::new(),
            materials: Vec::new(),
            pods,
            step,
            since,
            started,
            wish: "wish".to_owned(),
        }));
        self.note();
        next
    }

    fn note(&mut self) {
        self.others.note(Some(&self.manifest), &self.pods, &self.acks);
    }
}

fn pod(name: &str) -> Pod {
    Pod {
        name: name.to_owned(),
        uid: format!("uid-{name}"),
        address: Some("10.0.0.1".to_owned()),
        ready: Some(true),
        terminating: false,
        scheduled: true,
        touched: None,
    }
}

fn mail(messages: u64, rejected: u64, deferred: u64) -> Counts {
    Counts { messages, rejected, deferred, ..Counts::default() }
}

#[test]
fn r156_steps_follow_each_other_when_their_pods_have_proved_the_revision() {
    let mut site = Site::new(4);
    assert_eq!(site.stage().pods, ["gw-0"], "25% of 4");
    assert_eq!(site.turn(), Turn::Stay, "gw-0 does not run it yet");
    site.runs(0, 'b', 10, Counts::default());
    site.now = at(69);
    assert_eq!(site.turn(), Turn::Stay, "the pause lasts");
    assert!(!site.scene().is_due());
    site.now = at(70);
    assert!(site.scene().is_due());
    let second = site.stage();
    assert_eq!(
        (second.pods.as_slice(), second.step, second.started),
        (["gw-0", "gw-1"].map(str::to_owned).as_slice(), 1, at(0))
    );
    site.runs(1, 'b', 71, Counts::default());
    site.now = at(200);
    assert_eq!(site.stage().pods, ["gw-0", "gw-1", "gw-2"]);
    site.runs(2, 'b', 201, Counts::default());
    site.now = at(262);
    assert_eq!(site.turn(), Turn::Whole);
}

#[test]
fn a_step_waits_for_each_of_its_pods_and_in_the_end_gives_up() {
    let mut site = Site::new(4);
    site.stage();
    site.runs(0, 'b', 1, Counts::default());
    site.pods[0].ready = Some(false);
    site.now = at(600);
    let Some((_, Verdict::Lasts { missing, .. })) = site.scene().standing() else { panic!("it lasts") };
    assert_eq!(missing, ["gw-0"], "it has the revision and does not serve by it");
    site.now = at(661);
    let Turn::Halt(halted) = site.turn() else { panic!("{:?}", site.turn()) };
    assert_eq!((halted.cause, halted.revision), (HaltCause::NoProgress, named('b')));
    assert!(halted.message.contains("gw-0"), "{}", halted.message);
}

#[test]
fn a_refusal_takes_the_revision_back_at_once_or_after_a_grace_where_it_may_be_cured() {
    let mut site = Site::new(4);
    site.stage();
    site.refuses(0, NackReason::CompileFailed);
    assert!(matches!(site.turn(), Turn::Halt(halted) if halted.cause == HaltCause::Refused));
    site.refuses(0, NackReason::SecretMissing);
    assert_eq!(site.turn(), Turn::Stay, "the Secret may be on its way");
    site.now = at(30);
    let Turn::Halt(halted) = site.turn() else { panic!("{:?}", site.turn()) };
    assert!(
        halted.message.contains("gw-0") && halted.message.contains("SecretMissing"),
        "{}",
        halted.message
    );
    // A refusal of another revision says nothing of this one.
    let mut site = Site::new(4);
    site.stage();
    site.refuses(1, NackReason::CompileFailed);
    assert_eq!(site.turn(), Turn::Stay);
}

#[test]
fn r156_a_jump_of_rejects_against_the_other_pods_takes_the_revision_back_with_figures() {
    let mut site = Site::new(4);
    // The others have rejected a third of a long past, and little since.
    for number in 1..4 {
        site.runs(number, 'a', 0, mail(900, 300, 0));
    }
    site.stage();
    for number in 1..4 {
        site.runs(number, 'a', 0, mail(920, 301, 0));
    }
    site.runs(0, 'b', 1, mail(19, 19, 0));
    assert_eq!(site.turn(), Turn::Stay, "19 messages say nothing");
    site.runs(0, 'b', 1, mail(40, 12, 0));
    let Turn::Halt(halted) = site.turn() else { panic!("{:?}", site.turn()) };
    assert_eq!(halted.cause, HaltCause::RejectsRose);
    assert_eq!(
        halted.message,
        "gw-0 rejected 12 of 40 messages (30 %) under revision bbbbbbbbbbbbbbbb, the others 3 of 60 (5 %): more than 20 points apart"
    );
}

#[test]
fn what_befalls_all_pods_alike_takes_nothing_back() {
    let mut site = Site::new(4);
    site.stage();
    for number in 1..4 {
        site.runs(number, 'a', 0, Counts { attempts: 50, tls_failures: 40, ..mail(50, 40, 0) });
    }
    site.runs(0, 'b', 1, Counts { attempts: 50, tls_failures: 45, ..mail(50, 45, 0) });
    assert_eq!(site.turn(), Turn::Stay);
    site.runs(0, 'b', 1, Counts { attempts: 50, tls_failures: 45, ..mail(50, 40, 30) });
    assert!(matches!(site.turn(), Turn::Halt(halted) if halted.cause == HaltCause::DeferralsRose));
}

#[test]
fn tls_failures_are_counted_against_deliveries_and_silent_others_against_their_past() {
    let mut site = Site::new(2);
    site.rollout = Some(steps(&[PodShare::number(1)]));
    site.runs(1, 'a', 0, Counts { attempts: 1000, tls_failures: 900, ..Counts::default() });
    site.stage();
    site.runs(0, 'b', 1, Counts { attempts: 100, tls_failures: 95, ..Counts::default() });
    assert_eq!(site.turn(), Turn::Stay, "it was always like that");
    let mut site = Site::new(2);
    site.rollout = Some(steps(&[PodShare::number(1)]));
    site.stage();
    site.runs(0, 'b', 1, Counts { attempts: 100, tls_failures: 95, ..Counts::default() });
    let Turn::Halt(halted) = site.turn() else { panic!("{:?}", site.turn()) };
    assert_eq!(halted.cause, HaltCause::TlsFailuresRose);
    assert!(halted.message.contains("95 of 100 deliveries (95 %)"), "{}", halted.message);
}

#[test]
fn after_a_halt_only_a_change_of_an_author_is_tried() {
    let mut site = Site::new(4);
    site.stage();
    site.refuses(0, NackReason::CompileFailed);
    let Turn::Halt(halted) = site.turn() else { panic!("it refuses") };
    site.manifest.course = Course::Halted(halted);
    site.acks.get_mut("uid-gw-0").unwrap().refused = None;
    site.now = at(10_000);
    assert_eq!(site.turn(), Turn::Stay);
    assert_eq!(site.scene().turn(&named('c'), "wish"), Turn::Stay, "a renewed certificate");
    assert!(matches!(site.scene().turn(&named('c'), "other"), Turn::Stage(next) if next.step == 0));
    assert_eq!(site.scene().turn(&named('a'), "former"), Turn::Whole, "its author took it back");
}

#[test]
fn a_change_in_the_middle_begins_anew_and_a_renewed_certificate_goes_on() {
    let mut site = Site::new(4);
    site.stage();
    site.runs(0, 'b', 1, Counts::default());
    site.now = at(61);
    site.stage();
    site.now = at(65);
    let same =
        Next { pods: vec!["gw-0".to_owned(), "gw-1".to_owned()], step: 1, since: at(61), started: at(0) };
    assert_eq!(site.scene().turn(&named('c'), "wish"), Turn::Stage(same));
    let Turn::Stage(next) = site.scene().turn(&named('c'), "other") else { panic!("a new rollout") };
    assert_eq!((next.pods.as_slice(), next.step, next.started), (["gw-0".to_owned()].as_slice(), 0, at(65)));
}

#[test]
fn without_pods_to_compare_with_all_get_it_at_once() {
    for pods in [0, 1] {
        assert_eq!(Site::new(pods).turn(), Turn::Whole, "{pods} pods");
    }
    let mut site = Site::new(4);
    site.rollout = None;
    assert_eq!(site.turn(), Turn::Whole);
    // Steps were taken out in the middle.
    let mut site = Site::new(4);
    site.stage();
    site.rollout = None;
    assert!(site.scene().is_due());
    assert_eq!(site.turn(), Turn::Whole);
    // Scaled to zero in the middle.
    let mut site = Site::new(4);
    site.stage();
    site.pods.clear();
    assert_eq!(site.turn(), Turn::Whole);
}

#[test]
fn pods_that_serve_prove_before_pods_that_do_not_and_numbers_count_as_numbers() {
    let mut site = Site::new(12);
    site.rollout = Some(steps(&[PodShare::number(3)]));
    site.pods[0].ready = Some(false);
    site.pods[1].terminating = true;
    let Turn::Stage(next) = site.turn() else { panic!("{:?}", site.turn()) };
    assert_eq!(next.pods, ["gw-2", "gw-3", "gw-4"]);
}

#[test]
fn another_controller_goes_on_where_the_manifest_stands() {
    let mut site = Site::new(4);
    site.stage();
    site.runs(0, 'b', 1, Counts::default());
    // It knows nothing but the manifest and what pods say.
    site.others = Others::default();
    site.note();
    site.now = at(61);
    assert!(matches!(site.turn(), Turn::Stage(next) if next.step == 1 && next.started == at(0)));
}
