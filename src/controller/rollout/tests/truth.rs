//! Ready never lies: every combination of pods against what it must say, and random histories of changes, stages,
//! pins, restarts and pods in every state.

use proptest::prelude::*;

use super::*;
use crate::api::conditions::{self, ConditionType};
use crate::bundle::Course;
use crate::bundle::document::{AddressList, Bundle, Gateway, ListEntries, Origin};
use crate::bundle::manifest::{HaltCause, Halted, Staged};
use crate::controller::status::{Situation, Status, of_object};
use crate::translate::Outcome;

/// What a pod's process says of itself. Sequence 5 is asked for.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Process {
    /// It cannot be reached, or has not been yet.
    Silent,
    /// It has no policy.
    Empty,
    Runs {
        sequence: u64,
        refuses: Option<u64>,
    },
}

const PROCESSES: [Process; 7] = [
    Process::Silent,
    Process::Empty,
    Process::Runs { sequence: 4, refuses: None },
    Process::Runs { sequence: 5, refuses: None },
    Process::Runs { sequence: 6, refuses: None },
    Process::Runs { sequence: 4, refuses: Some(5) },
    Process::Runs { sequence: 5, refuses: Some(6) },
];

#[derive(Debug, Clone, Copy)]
struct State {
    ready: Option<bool>,
    terminating: bool,
    process: Process,
}

fn states() -> Vec<State> {
    let mut states = Vec::new();
    for ready in [Some(true), Some(false), None] {
        for terminating in [false, true] {
            states.extend(PROCESSES.map(|process| State { ready, terminating, process }));
        }
    }
    states
}

/// The Ready condition that a generation published in sequence 5 gets, through all of the functions on the way.
fn said(states: &[State]) -> (String, String, Status) {
    let pods: Vec<Pod> = (0..)
        .zip(states)
        .map(|(number, state)| Pod {
            terminating: state.terminating,
            ..pod(&format!("gw-{number}"), state.ready)
        })
        .collect();
    let acks: HashMap<String, Ack> = pods
        .iter()
        .zip(states)
        .filter_map(|(pod, state)| match state.process {
            Process::Silent => None,
            Process::Empty => Some(ack(pod, None, None)),
            Process::Runs { sequence, refuses } => Some(ack(pod, Some(sequence), refuses)),
        })
        .collect();
    let mut journeys = Journeys::default();
    journeys.begin(&object(), wish(1, 0));
    journeys.published(&manifest(5));
    journeys.advance(&pods, &acks, at(10));
    let origin = Origin { object: object(), uid: "u".to_owned(), generation: 1 };
    let situation = Situation {
        failure: None,
        progress: &|sequence| progress(sequence, &pods, &acks),
        standings: &Standings::default(),
        stage: None,
        now: at(10),
    };
    let status =
        of_object(&Outcome::new(origin), journeys.get(&object()), None, &Status::default(), &situation);
    let ready = conditions::get(&status.conditions, ConditionType::Ready).expect("always there");
    (ready.status.clone(), ready.reason.clone(), status)
}

fn check(states: &[State]) {
    // First principles: who can be handed a mail decides; all of them must have it, and there must be one.
    let decides: Vec<&State> = states.iter().filter(|state| state.ready == Some(true)).collect();
    let obeys = |state: &&&State| matches!(state.process, Process::Runs { sequence, .. } if sequence >= 5);
    let refused = states
        .iter()
        .any(|state| matches!(state.process, Process::Runs { refuses: Some(refused), .. } if refused >= 5));
    let expected = if !decides.is_empty() && decides.iter().all(|state| obeys(&state)) {
        ("True", "Ready")
    } else if refused {
        ("False", "ConfigRejected")
    } else if decides.is_empty() {
        ("False", "NoServingPods")
    } else {
        ("False", "RollingOut")
    };
    let (status, reason, all) = said(states);
    assert_eq!((status.as_str(), reason.as_str()), expected, "{states:?}");
    let rollout = all.rollout.expect("it is published");
    assert_eq!(rollout.pods_total as usize, decides.len(), "{states:?}");
    assert_eq!(rollout.pods_updated as usize, decides.iter().filter(obeys).count(), "{states:?}");
    let named = states.len() - rollout.pods_updated as usize;
    assert_eq!(rollout.stale_pods.len(), named, "whoever does not count or lags is named: {states:?}");
    // What pods do is nobody's to repair but theirs.
    assert!(conditions::get(&all.conditions, ConditionType::Stalled).is_none(), "{states:?}");
}

/// No pod, one, two and three of them, in each of 42 states: 75,895 combinations.
#[test]
fn r151_ready_is_right_for_every_combination_of_up_to_three_pods() {
    check(&[]);
    let states = states();
    for a in &states {
        check(&[*a]);
        for b in &states {
            check(&[*a, *b]);
            for c in &states {
                check(&[*a, *b, *c]);
            }
        }
    }
}

// Histories.

const OBJECTS: usize = 3;
const PODS: usize = 3;

#[derive(Debug, Clone)]
enum Act {
    /// Its author writes an object.
    Write(usize),
    /// What is wished is published to all.
    Publish,
    /// What is wished is published to so many pods.
    Stage(usize),
    /// The stage is taken back.
    Halt,
    /// All pods are to run what was published that many times ago.
    Pin(usize),
    /// A pod takes what is published for it.
    Take(usize),
    /// A pod's readiness as kubelet has reported it.
    Ready(usize, bool),
    /// A pod is replaced by a fresh one.
    Replace(usize),
    /// Another controller takes over: it has the statuses and the manifest.
    TakeOver,
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        3 => (0..OBJECTS).prop_map(Act::Write),
        3 => Just(Act::Publish),
        2 => (1..PODS).prop_map(Act::Stage),
        1 => Just(Act::Halt),
        1 => (0..4usize).prop_map(Act::Pin),
        6 => (0..PODS).prop_map(Act::Take),
        2 => ((0..PODS), any::<bool>()).prop_map(|(pod, ready)| Act::Ready(pod, ready)),
        1 => (0..PODS).prop_map(Act::Replace),
        1 => Just(Act::TakeOver),
    ]
}

/// Generations of the objects.
type Content = [i64; OBJECTS];

struct Model {
    wished: Content,
    contents: HashMap<Revision, Content>,
    published: Vec<Content>,
    manifest: Option<Manifest>,
    standings: Standings,
    journeys: Journeys,
    statuses: Vec<Status>,
    pods: Vec<Pod>,
    runs: Vec<Option<(Sequence, Revision)>>,
    clock: i64,
}

fn list(number: usize) -> ObjectId {
    let (kind, namespace) = (ObjectKind::AddressList, "mail".to_owned());
    ObjectId { kind, namespace, name: format!("list-{number}") }
}

fn bundle(content: &Content) -> Bundle {
    let origin = |object, generation| Origin { object, uid: "u".to_owned(), generation };
    let gateway =
        ObjectId { kind: ObjectKind::OutboundGateway, namespace: "mail".to_owned(), name: "gw".to_owned() };
    let lists = content.iter().enumerate().map(|(number, generation)| AddressList {
        origin: origin(list(number), *generation),
        entries: ListEntries::build(std::iter::empty()),
    });
    Bundle { lists: lists.collect(), ..Bundle::new(Gateway::new(origin(gateway, 1))) }
}

fn revision_of(content: &Content) -> Revision {
    let number = content.iter().fold(0u64, |sum, generation| sum * 1000 + generation.unsigned_abs());
    Revision::named(&format!("{number:016x}")).unwrap()
}

impl Model {
    fn new() -> Self {
        Self {
            wished: [1; OBJECTS],
            contents: HashMap::new(),
            published: Vec::new(),
            manifest: None,
            standings: Standings::default(),
            journeys: Journeys::default(),
            statuses: vec![Status::default(); OBJECTS],
            pods: (0..PODS).map(|number| pod(&format!("gw-{number}"), Some(true))).collect(),
            runs: vec![None; PODS],
            clock: 0,
        }
    }

    fn acks(&self) -> HashMap<String, Ack> {
        let acks = self.pods.iter().zip(&self.runs).map(|(pod, runs)| {
            let (uid, mut ack) = ack(pod, runs.as_ref().map(|(sequence, _)| sequence.0), None);
            if let (Some(running), Some((_, revision))) = (&mut ack.running, runs) {
                running.revision = revision.clone();
            }
            (uid, ack)
        });
        acks.collect()
    }

    fn in_force(&self) -> Option<Content> {
        self.manifest.as_ref().map(|manifest| self.contents[&manifest.revision])
    }

    /// As the driver does it: what waits is decided, generations set out, then the manifest is written.
    fn publish(&mut self, content: Content, course: Course, standings: Standings) {
        let released: Vec<ObjectId> = self.standings.withheld().cloned().collect();
        for object in standings.withheld() {
            self.journeys.end(object);
        }
        self.standings = standings;
        self.set_out(&released);
        let sequence = self.manifest.as_ref().map_or(Sequence(1), |manifest| manifest.sequence.next());
        let revision = revision_of(&content);
        self.contents.insert(revision.clone(), content);
        self.contents.insert(revision_of(&self.wished), self.wished);
        let manifest =
            Manifest { sequence, revision, published_at: at(self.clock), course, ..super::manifest(0) };
        self.journeys.published_but(&manifest, &self.standings);
        self.manifest = Some(manifest);
        self.published.push(content);
    }

    fn set_out(&mut self, released: &[ObjectId]) {
        for number in 0..OBJECTS {
            let (object, generation) = (list(number), self.wished[number]);
            let withheld = self.standings.of(&object).is_some_and(|why| *why != Why::Staged);
            if withheld {
                self.journeys.end(&object);
            } else if released.contains(&object) || !self.statuses[number].is_ready(generation) {
                let wish = Wish { uid: "u".to_owned(), generation, started: at(self.clock) };
                self.journeys.begin(&object, wish);
            }
        }
    }

    fn apply(&mut self, act: Act) {
        self.clock += 1;
        match act {
            Act::Write(number) => self.wished[number] += 1,
            Act::Publish => self.publish(self.wished, Course::Whole, Standings::default()),
            Act::Stage(count) => {
                let Some(in_force) = self.in_force().filter(|content| *content != self.wished) else {
                    return;
                };
                let staged = Staged {
                    format: 1,
                    revision: revision_of(&self.wished),
                    segments: Vec::new(),
                    materials: Vec::new(),
                    pods: (0..count).map(|number| format!("gw-{number}")).collect(),
                    step: 0,
                    since: at(self.clock),
                    started: at(self.clock),
                    wish: bundle(&self.wished).wish(),
                };
                let standings =
                    Standings::between(Why::Staged, &bundle(&self.wished), Some(&bundle(&in_force)));
                self.publish(in_force, Course::Staged(Box::new(staged)), standings);
            }
            Act::Halt => {
                let Some(in_force) = self.in_force() else { return };
                if self.manifest.as_ref().and_then(Manifest::staged).is_none() {
                    return;
                }
                let halted = Halted {
                    revision: revision_of(&self.wished),
                    wish: bundle(&self.wished).wish(),
                    at: at(self.clock),
                    cause: HaltCause::Refused,
                    message: "why".to_owned(),
                };
                let why = Why::Halted(halted.clone());
                let standings = Standings::between(why, &bundle(&self.wished), Some(&bundle(&in_force)));
                self.publish(in_force, Course::Halted(halted), standings);
            }
            Act::Pin(back) => {
                let Some(content) = self.published.iter().rev().nth(back).copied() else { return };
                let why = Why::Pinned(revision_of(&content));
                let standings = Standings::between(why, &bundle(&self.wished), Some(&bundle(&content)));
                self.publish(content, Course::Whole, standings);
            }
            Act::Take(number) => {
                if let Some(manifest) = &self.manifest {
                    let share = manifest.share(&self.pods[number].name);
                    self.runs[number] = Some((manifest.sequence, share.revision.clone()));
                }
            }
            Act::Ready(number, ready) => self.pods[number].ready = Some(ready),
            Act::Replace(number) => {
                self.runs[number] = None;
                self.pods[number].ready = Some(false);
                self.pods[number].uid.push('+');
            }
            Act::TakeOver => {
                self.journeys = Journeys::default();
                let Some(manifest) = self.manifest.clone() else { return };
                // It translates again, so what waits is found out anew; what was wished since is published later.
                let in_force = self.contents[&manifest.revision];
                let wish = bundle(&self.wished).wish();
                let known = match (self.standings.why(), &manifest.course) {
                    (Some(Why::Pinned(_)), _) => true,
                    (_, Course::Staged(staged)) => staged.wish == wish,
                    (_, Course::Halted(halted)) => halted.wish == wish,
                    (_, Course::Whole) => in_force == self.wished,
                };
                if known {
                    if let Some(why) = self.standings.why().cloned() {
                        let newest = bundle(&self.wished);
                        self.standings = Standings::between(why, &newest, Some(&bundle(&in_force)));
                    }
                    self.set_out(&[]);
                    self.journeys.published_but(&manifest, &self.standings);
                }
            }
        }
    }

    /// Writes statuses, and checks each that turns to Ready.
    fn report(&mut self) -> Result<(), TestCaseError> {
        let acks = self.acks();
        self.journeys.advance(&self.pods, &acks, at(self.clock));
        for number in 0..OBJECTS {
            let (object, generation) = (list(number), self.wished[number]);
            let before = self.statuses[number].clone();
            // An object that was written and not looked at yet keeps its old status.
            let known =
                self.journeys.get(&object).is_none_or(|journey| journey.wish.generation == generation);
            if !known {
                continue;
            }
            let origin = Origin { object: object.clone(), uid: "u".to_owned(), generation };
            let situation = Situation {
                failure: None,
                progress: &|sequence| progress(sequence, &self.pods, &acks),
                standings: &self.standings,
                stage: None,
                now: at(self.clock),
            };
            if self.journeys.get(&object).is_none()
                && self.standings.of(&object).is_none()
                && !before.is_ready(generation)
            {
                continue;
            }
            let after =
                of_object(&Outcome::new(origin), self.journeys.get(&object), None, &before, &situation);
            if after.is_ready(generation) && !before.is_ready(generation) {
                let mut serving = 0;
                for (pod, runs) in self.pods.iter().zip(&self.runs).filter(|(pod, _)| pod.counts()) {
                    serving += 1;
                    let (_, revision) = runs.as_ref().expect("a counting pod without a policy");
                    let decides_by = self.contents[revision][number];
                    prop_assert_eq!(
                        decides_by,
                        generation,
                        "{} decides {} by another generation",
                        &pod.name,
                        &object
                    );
                }
                prop_assert!(serving > 0, "nobody serves");
            }
            if self.standings.withheld().any(|withheld| *withheld == object) {
                prop_assert!(!after.is_ready(generation), "{} is withheld", object);
            }
            self.statuses[number] = after;
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn r151_r156_whatever_happens_ready_turns_true_only_when_every_serving_pod_decides_by_it(
        acts in prop::collection::vec(act(), 1..40)
    ) {
        let mut model = Model::new();
        model.apply(Act::Publish);
        model.report()?;
        for act in acts {
            model.apply(act);
            model.report()?;
        }
    }
}
