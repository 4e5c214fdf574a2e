//! What each gateway pod says of itself: a long poll on its control port, one task per pod, mutual TLS both
//! ways. Only the newest answer of a pod is kept.

pub mod line;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hyper::body::Bytes;
use tokio::sync::{Semaphore, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::sleep;
use tracing::debug;

use self::line::{Caller, Line, LineError};
pub use self::line::{Dial, Dialler, Stream};
use super::probes::Collected;
use super::rollout::Pod;
use super::spread::spread;
use super::world::Bell;
use crate::bundle::probe::Probes;
use crate::bundle::{Ack, Push, Sequence};
use crate::translate::ObjectKey;

/// A pod answers within 25 s; later it is taken for lost.
const ANSWER: Duration = Duration::from_secs(35);
/// A pod that has not taken a publication by then gets it through its mount.
const HAND_OVER: Duration = Duration::from_secs(10);
/// Seconds between two looks at what pods count in a staged rollout.
const COMPARE: u64 = 2;
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// The polls of one gateway's pods. Dropping it ends them.
pub struct Acks {
    gateway: ObjectKey,
    dial: Dialler,
    bell: Arc<Bell>,
    /// How many connections all gateways together make at once.
    dials: Arc<Semaphore>,
    /// The sequence that is published: pods hear with each poll that a controller has confirmed it.
    published: watch::Sender<Sequence>,
    /// Pods that are ready: each hears how many share the limits of routes.
    ready: watch::Sender<u32>,
    /// Within how many seconds pods are to answer though they have no news; 0: in their own time.
    within: watch::Sender<u64>,
    /// The newest publication, for pods that can take it at once.
    pushes: watch::Sender<Bytes>,
    heard: Arc<Mutex<HashMap<String, Ack>>>,
    /// What tests of routes found there.
    tests: Arc<Mutex<Collected>>,
    polls: HashMap<String, (String, AbortHandle)>,
    tasks: JoinSet<()>,
}

impl Acks {
    pub fn new(gateway: ObjectKey, dial: Dialler, bell: Arc<Bell>, dials: Arc<Semaphore>) -> Self {
        Self {
            gateway,
            dial,
            bell,
            dials,
            published: watch::Sender::new(Sequence::default()),
            ready: watch::Sender::new(1),
            within: watch::Sender::new(0),
            pushes: watch::Sender::new(Bytes::new()),
            heard: Arc::default(),
            tests: Arc::default(),
            polls: HashMap::new(),
            tasks: JoinSet::new(),
        }
    }

    /// Polls just these pods.
    pub fn follow(&mut self, pods: &[Pod]) {
        let ready = pods.iter().filter(|pod| pod.ready == Some(true) && !pod.terminating).count();
        let ready = u32::try_from(ready).unwrap_or(u32::MAX).max(1);
        self.ready.send_if_modified(|before| std::mem::replace(before, ready) != ready);
        let wanted: HashMap<&str, &str> =
            pods.iter().filter_map(|pod| Some((pod.uid.as_str(), pod.address.as_deref()?))).collect();
        self.polls.retain(|uid, (address, task)| {
            let stays = wanted.get(uid.as_str()).is_some_and(|wanted| wanted == address);
            if !stays {
                task.abort();
            }
            stays
        });
        self.lock().retain(|uid, _| pods.iter().any(|pod| pod.uid == *uid));
        self.tests().retain(|uid| pods.iter().any(|pod| pod.uid == uid));
        for (uid, address) in wanted {
            if !self.polls.contains_key(uid) {
                let line = Line {
                    gateway: self.gateway.clone(),
                    address: address.to_owned(),
                    dial: self.dial.clone(),
                    dials: self.dials.clone(),
                };
                let poll = Poll {
                    line: line.clone(),
                    uid: uid.to_owned(),
                    published: self.published.subscribe(),
                    ready: self.ready.subscribe(),
                    within: self.within.subscribe(),
                    heard: self.heard.clone(),
                    tests: self.tests.clone(),
                    bell: self.bell.clone(),
                };
                let (pushes, ready) = (self.pushes.subscribe(), self.ready.subscribe());
                let task = self.tasks.spawn(async move {
                    tokio::join!(poll.run(), hand_over(line.clone(), pushes), tell_shares(line, ready));
                });
                self.polls.insert(uid.to_owned(), (address.to_owned(), task));
            }
        }
        // Reap what has ended.
        while self.tasks.try_join_next().is_some() {}
    }

    pub fn publish(&self, sequence: Sequence) {
        self.published.send_replace(sequence);
    }

    /// While rates are compared, pods say every few seconds how mail fares.
    pub fn compare(&self, comparing: bool) {
        let within = if comparing { COMPARE } else { 0 };
        self.within.send_if_modified(|before| std::mem::replace(before, within) != within);
    }

    /// Hands a publication to every pod directly. It is written already: who does not get it this way gets it
    /// through its mount.
    pub fn push(&self, push: &Push) {
        self.pushes.send_replace(push.encode().into());
    }

    /// The newest answer of each pod, by its uid.
    pub fn heard(&self) -> HashMap<String, Ack> {
        self.lock().clone()
    }

    /// What tests of routes found, by the uid of the pod. Not to be held for long.
    pub fn tests(&self) -> std::sync::MutexGuard<'_, Collected> {
        self.tests.lock().expect("no code panics while it holds this lock")
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Ack>> {
        self.heard.lock().expect("no code panics while it holds this lock")
    }
}

/// Hands over each new publication, over a connection of its own: the other one waits for an answer.
async fn hand_over(line: Line, mut pushes: watch::Receiver<Bytes>) {
    while pushes.changed().await.is_ok() {
        let push = pushes.borrow_and_update().clone();
        let talk = async |mut caller: Caller| caller.post("/bundle", push, HAND_OVER).await;
        if let Err(error) = line.open(talk).await {
            debug!(gateway = %line.gateway, address = line.address, %error, "not handed over; the mount will do");
        }
    }
}

/// Tells a pod at once when another number of pods shares the limits: the poll may wait for its answer for long.
async fn tell_shares(line: Line, mut ready: watch::Receiver<u32>) {
    while ready.changed().await.is_ok() {
        let path = format!("/ack?pods={}", *ready.borrow_and_update());
        let talk = async |mut caller: Caller| caller.get(&path, ANSWER).await.map(drop);
        if let Err(error) = line.open(talk).await {
            debug!(gateway = %line.gateway, address = line.address, %error, "not told; the next poll will do");
        }
    }
}

/// The poll of one pod.
struct Poll {
    line: Line,
    uid: String,
    published: watch::Receiver<Sequence>,
    ready: watch::Receiver<u32>,
    within: watch::Receiver<u64>,
    heard: Arc<Mutex<HashMap<String, Ack>>>,
    tests: Arc<Mutex<Collected>>,
    bell: Arc<Bell>,
}

impl Poll {
    async fn run(self) {
        let mut pause = FIRST_PAUSE;
        for turn in 0.. {
            pause = match self.converse().await {
                0 => (pause * 2).min(LONGEST_PAUSE),
                _ => FIRST_PAUSE,
            };
            sleep(spread(pause, 0.3, &self.uid, turn)).await;
        }
    }

    /// One connection, as long as it lasts; says how many answers it gave.
    async fn converse(&self) -> u64 {
        let mut answers = 0;
        let talk = async |caller: Caller| self.ask(caller, &mut answers).await;
        if let Err(error) = self.line.open(talk).await {
            debug!(gateway = %self.line.gateway, pod = self.uid, %error, answers, "the control connection ended");
        }
        answers
    }

    /// The first question is answered at once; each further one when there is news.
    async fn ask(&self, mut caller: Caller, answers: &mut u64) -> Result<(), LineError> {
        let mut known = String::new();
        loop {
            let (published, pods) = (self.published.borrow().0, *self.ready.borrow());
            let within = match *self.within.borrow() {
                0 => String::new(),
                seconds => format!("&within={seconds}"),
            };
            let path = format!("/ack?published={published}&pods={pods}{known}{within}");
            let ack = caller.get(&path, ANSWER).await?;
            let ack: Ack = serde_json::from_slice(&ack).map_err(|e| LineError::Unreadable(e.to_string()))?;
            *answers += 1;
            let after = ack.running.as_ref().map_or(0, |running| running.sequence.0);
            let refused = ack.refused.as_ref().map_or(0, |nack| nack.sequence.0);
            let highest = ack.highest;
            known = format!("&after={after}&refused={refused}&highest={highest}&tested={}", ack.tested);
            if let Some(leaving) = &ack.leaving {
                known = format!("{known}&left={}", leaving.key());
            }
            let last = self
                .heard
                .lock()
                .expect("no code panics while it holds this lock")
                .insert(self.uid.clone(), ack.clone());
            let facts =
                |ack: &Ack| (ack.running.clone(), ack.refused.clone(), ack.highest, ack.leaving.clone());
            let counts = |ack: &Ack| (!within.is_empty()).then_some(ack.counts);
            if last.is_none_or(|last| facts(&last) != facts(&ack) || counts(&last) != counts(&ack)) {
                self.bell.cluster();
            }
            if self.collect(&mut caller, &ack).await? {
                self.bell.cluster();
            }
        }
    }

    /// Asks for results of tests that are new since the last time. Whether there were any.
    async fn collect(&self, caller: &mut Caller, ack: &Ack) -> Result<bool, LineError> {
        let tests = || self.tests.lock().expect("no code panics while it holds this lock");
        let mut after = tests().known(&self.uid, &ack.instance);
        if after == ack.tested {
            return Ok(false);
        }
        loop {
            let answer = match caller.get(&format!("/probes?after={after}"), ANSWER).await {
                Ok(answer) => serde_json::from_slice::<Probes>(&answer).map_err(|error| error.to_string()),
                // The connection is as good as before; acknowledgements must not suffer.
                Err(error @ (LineError::Status(_) | LineError::Unreadable(_))) => Err(error.to_string()),
                Err(error) => return Err(error),
            };
            match answer {
                Ok(probes) => {
                    after = probes.tested;
                    if !tests().absorb(&self.uid, probes, ack.tested) {
                        return Ok(true);
                    }
                }
                Err(error) => {
                    debug!(gateway = %self.line.gateway, pod = self.uid, error, "its tests cannot be read");
                    tests().give_up(&self.uid, &ack.instance, ack.tested);
                    return Ok(false);
                }
            }
        }
    }
}
