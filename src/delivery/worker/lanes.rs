//! Who may go next: a line per destination, a limit for each and one for all. No IO, no clock: the gate and the
//! time are given.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Duration;

use jiff::Timestamp;

use super::Config;
use super::job::{Done, Job};
use super::places::Places;
use crate::delivery::limits::{Hold, Pass, Wait};
use crate::delivery::outcome::Problem;
use crate::delivery::routes::{Destination, Label};

/// Jobs that a destination may have in line even when memory is short, so that a long line for
/// another cannot keep it out.
const ALWAYS: usize = 4;
/// The longest time a message goes back to the spool because the line is long.
const LONGEST: Duration = Duration::from_secs(60);
/// A line that cannot move for longer than this keeps few jobs in memory.
const SHORT: Duration = Duration::from_secs(2);
/// The longest time a message goes back to the spool because its line cannot move: it must hear of changes.
const LONGEST_NAP: Duration = Duration::from_secs(600);

/// Whether a job may start ([`crate::delivery::limits`]).
pub trait Gate {
    fn admit(&self, job: &Job) -> Result<Option<Pass>, Wait>;
}

pub struct Lanes {
    lanes: HashMap<Destination, Lane>,
    /// Destinations that have somebody waiting and a free place, in the order of their turn.
    ready: VecDeque<Destination>,
    places: Places,
    /// Lanes that wait for their time, the first one first.
    naps: BTreeMap<(Timestamp, u64), Destination>,
    /// Lanes that wait for a connection of their route, the longest first.
    hungry: HashMap<Label, VecDeque<Destination>>,
    counter: u64,
    /// Jobs that lie down in the spool again because their lane cannot move for a while.
    back: Vec<Back>,
    /// Bytes held by jobs in line and running.
    memory: u64,
    /// Nothing starts any more.
    closed: bool,
    config: Config,
}

#[derive(Default)]
struct Lane {
    waiting: VecDeque<Job>,
    running: usize,
    /// A mail host has let us in and none was silent since, or the hosts are those of a route.
    is_met: bool,
    is_ready: bool,
    /// Jobs sent back since there was room.
    sent_back: usize,
    nap: Option<Nap>,
    /// It stands among the hungry.
    is_hungry: bool,
}

#[derive(Clone, Copy)]
struct Nap {
    key: (Timestamp, u64),
    wait: Wait,
}

/// A job that goes back to the spool for so long.
pub struct Back {
    pub job: Job,
    pub by: Duration,
    /// What it waits for; `None`: the line was too long.
    pub why: Option<Hold>,
}

impl Lanes {
    pub fn new(config: Config) -> Self {
        Self {
            lanes: HashMap::new(),
            ready: VecDeque::new(),
            places: Places::new(config.concurrency, config.slow),
            naps: BTreeMap::new(),
            hungry: HashMap::new(),
            counter: 0,
            back: Vec::new(),
            memory: 0,
            closed: false,
            config,
        }
    }

    /// An attempt whose place was its own until then has ended, however.
    pub fn leave(&mut self, until: Timestamp) {
        self.places.give(until);
    }

    /// A host of this destination has let us in: others may follow.
    pub fn met(&mut self, destination: &Destination) {
        if let Some(lane) = self.lanes.get_mut(destination)
            && !std::mem::replace(&mut lane.is_met, true)
        {
            self.wake(destination.clone());
        }
    }

    /// Puts a job in line; gives it back when the line is too long, with the time after which to try
    /// again: the more were sent back, the later, so that a large backlog is not handed out in circles.
    pub fn push(&mut self, job: Job, now: Timestamp) -> Option<Back> {
        let destination = job.destination.clone();
        let new = || Lane { is_met: is_known(&destination), ..Lane::default() };
        let lane = self.lanes.entry(destination.clone()).or_insert_with(new);
        if let Some(Nap { wait, .. }) = lane.nap
            && lane.waiting.len() >= kept(&wait, now)
        {
            lane.sent_back += 1;
            let by = turn(&wait, lane.waiting.len() + lane.sent_back, now);
            return Some(Back { job, by, why: Some(wait.why) });
        }
        let short = self.memory >= self.config.memory && lane.waiting.len() >= ALWAYS;
        if short || lane.waiting.len() >= self.config.waiting {
            let rounds = lane.sent_back / self.config.waiting.max(1);
            lane.sent_back += 1;
            let by = Duration::from_millis(250).saturating_mul(u32::try_from(rounds + 1).unwrap_or(u32::MAX));
            return Some(Back { job, by: by.min(LONGEST), why: None });
        }
        self.memory += job.memory();
        lane.waiting.push_back(job);
        self.wake(destination);
        None
    }

    /// The next job that may run, destinations by turns, and its pass.
    pub fn next(&mut self, gate: &impl Gate, now: Timestamp) -> Option<(Destination, Job, Option<Pass>)> {
        self.rouse(now);
        while !self.closed && self.places.has_room(now) {
            let destination = self.ready.pop_front()?;
            let Some(lane) = self.lanes.get_mut(&destination) else { continue };
            lane.is_ready = false;
            let Some(mut job) = lane.waiting.pop_front() else { continue };
            let pass = match gate.admit(&job) {
                Ok(pass) => pass,
                Err(wait) => {
                    lane.waiting.push_front(job);
                    self.lie_down(destination, wait, now);
                    continue;
                }
            };
            if lane.waiting.len() < self.config.waiting / 2 {
                lane.sent_back = 0;
            }
            lane.running += 1;
            job.meets = !lane.is_met;
            let patience = if lane.is_met { self.config.patience } else { self.config.first_word };
            job.place = self.places.take(now, patience);
            self.wake(destination.clone());
            return Some((destination, job, pass));
        }
        None
    }

    /// When somebody in line may start without anybody's end: a lane wakes, or a slow attempt gives up its place.
    pub fn next_rouse(&self) -> Option<Timestamp> {
        let nap = self.naps.first_key_value().map(|((until, _), _)| *until);
        let room = self.places.next_room().filter(|_| !self.ready.is_empty());
        nap.into_iter().chain(room).min()
    }

    /// Jobs for the spool, since the last call.
    pub fn take_back(&mut self) -> Vec<Back> {
        std::mem::take(&mut self.back)
    }

    /// Nothing starts from now on; what runs comes to its end.
    pub fn close(&mut self) {
        self.closed = true;
    }

    /// A job ended. When its destination did not say a word, those in line have had their turn too.
    pub fn done(&mut self, done: Done) -> Vec<(Job, Problem)> {
        let Done { lane: destination, memory, silence } = done;
        self.memory -= memory;
        // Its connection is free: for the lane of its route that has waited longest.
        if let Some(label) = destination.label()
            && let Some(mut hungry) = self.hungry.remove(label)
        {
            let label = label.clone();
            // Some have woken by themselves meanwhile.
            while let Some(next) = hungry.pop_front() {
                let Some(lane) = self.lanes.get_mut(&next) else { continue };
                lane.is_hungry = false;
                if lane.nap.is_some_and(|nap| nap.wait.why == Hold::route_connections) {
                    self.get_up(next);
                    break;
                }
            }
            if !hungry.is_empty() {
                self.hungry.insert(label, hungry);
            }
        }
        let Some(lane) = self.lanes.get_mut(&destination) else { return Vec::new() };
        lane.running -= 1;
        lane.is_met &= silence.is_none() || is_known(&destination);
        let passed_over: Vec<_> = match silence {
            Some(problem) => lane.waiting.drain(..).map(|job| (job, problem.clone())).collect(),
            None => Vec::new(),
        };
        self.memory -= passed_over.iter().map(|(job, _)| job.memory()).sum::<u64>();
        let waits_for_an_end = lane.nap.is_some_and(|nap| match nap.wait.why {
            Hold::domain_connections | Hold::limited | Hold::suspended => true,
            Hold::route_connections
            | Hold::route_rate
            | Hold::domain_rate
            | Hold::warm_up
            | Hold::shared_rate => false,
        });
        if waits_for_an_end {
            self.get_up(destination);
        } else if lane.running == 0 && lane.waiting.is_empty() && !lane.is_ready && lane.nap.is_none() {
            self.lanes.remove(&destination);
        } else {
            self.wake(destination);
        }
        passed_over
    }

    fn wake(&mut self, destination: Destination) {
        if let Some(lane) = self.lanes.get_mut(&destination)
            && !lane.is_ready
            && lane.nap.is_none()
            && let Some(first) = lane.waiting.front()
            && lane.running < abreast(lane, first, &self.config)
        {
            lane.is_ready = true;
            self.ready.push_back(destination);
        }
    }

    /// The gate said no: the lane waits, and keeps in memory what can move soon.
    fn lie_down(&mut self, destination: Destination, wait: Wait, now: Timestamp) {
        let Some(lane) = self.lanes.get_mut(&destination) else { return };
        self.counter += 1;
        let key = (wait.until, self.counter);
        lane.nap = Some(Nap { key, wait });
        let keep = kept(&wait, now);
        if lane.waiting.len() > keep {
            for (n, job) in lane.waiting.split_off(keep).into_iter().enumerate() {
                self.memory -= job.memory();
                let by = turn(&wait, keep + n + 1, now);
                self.back.push(Back { job, by, why: Some(wait.why) });
            }
        }
        if wait.why == Hold::route_connections
            && !std::mem::replace(&mut lane.is_hungry, true)
            && let Some(label) = destination.label()
        {
            self.hungry.entry(label.clone()).or_default().push_back(destination.clone());
        }
        self.naps.insert(key, destination);
    }

    /// Wakes the lanes whose time has come.
    fn rouse(&mut self, now: Timestamp) {
        while let Some(entry) = self.naps.first_entry()
            && entry.key().0 <= now
        {
            let destination = entry.remove();
            self.get_up(destination);
        }
    }

    fn get_up(&mut self, destination: Destination) {
        let Some(lane) = self.lanes.get_mut(&destination) else { return };
        let Some(Nap { key, .. }) = lane.nap.take() else { return };
        self.naps.remove(&key);
        lane.sent_back = 0;
        if lane.running == 0 && lane.waiting.is_empty() && !lane.is_ready {
            self.lanes.remove(&destination);
        } else {
            self.wake(destination);
        }
    }
}

/// The hosts of a route are our own affair; of a domain that mail is for nobody knows anything beforehand.
fn is_known(destination: &Destination) -> bool {
    destination.domain().is_none()
}

/// How many attempts may run in this lane. A host that nobody has met yet may be a tarpit: one attempt finds out.
fn abreast(lane: &Lane, first: &Job, config: &Config) -> usize {
    match lane.is_met {
        true => first.abreast.unwrap_or(config.per_destination),
        false => 1,
    }
}

fn until(wait: &Wait, now: Timestamp) -> Duration {
    Duration::try_from(wait.until.duration_since(now)).unwrap_or_default()
}

/// How many jobs a lane that waits keeps in memory: those that can go soon after it wakes.
fn kept(wait: &Wait, now: Timestamp) -> usize {
    let soon = until(wait, now) <= SHORT;
    match (soon, wait.pace.as_nanos()) {
        (true, 0) => usize::MAX,
        (_, 0) => ALWAYS,
        (_, pace) => usize::try_from(SHORT.as_nanos() / pace).unwrap_or(usize::MAX).max(ALWAYS),
    }
}

/// When the n-th in line has its turn.
fn turn(wait: &Wait, n: usize, now: Timestamp) -> Duration {
    let n = u32::try_from(n).unwrap_or(u32::MAX);
    // Without a pace they come back one by one all the same, not in a wave.
    let pace = wait.pace.max(Duration::from_millis(1));
    until(wait, now).saturating_add(pace.saturating_mul(n)).min(LONGEST_NAP)
}
