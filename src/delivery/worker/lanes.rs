//! Who may go next: a line per destination, a limit for each and one for all. No IO.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use jiff::Timestamp;

use super::Config;
use super::job::{Destination, Done, Job};
use super::places::Places;
use crate::delivery::outcome::Problem;

/// Jobs that a destination may have in line even when memory is short, so that a long line for
/// another cannot keep it out.
const ALWAYS: usize = 4;
/// The longest time a message goes back to the spool.
const LONGEST: Duration = Duration::from_secs(60);

pub struct Lanes {
    lanes: HashMap<Destination, Lane>,
    /// Destinations that have somebody waiting and a free place, in the order of their turn.
    ready: VecDeque<Destination>,
    places: Places,
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
    is_ready: bool,
    /// Jobs sent back since there was room.
    sent_back: usize,
}

impl Lanes {
    pub fn new(config: Config) -> Self {
        let places = Places::new(config.concurrency, config.slow, config.patience);
        Self { lanes: HashMap::new(), ready: VecDeque::new(), places, memory: 0, closed: false, config }
    }

    /// An attempt that started then has ended, however.
    pub fn leave(&mut self, started: Timestamp) {
        self.places.give(started);
    }

    /// When somebody in line may start without anybody's end.
    pub fn next_rouse(&self) -> Option<Timestamp> {
        self.places.next_room().filter(|_| !self.ready.is_empty())
    }

    /// Puts a job in line; gives it back when the line is too long, with the time after which to try
    /// again: the more were sent back, the later, so that a large backlog is not handed out in circles.
    pub fn push(&mut self, job: Job) -> Option<(Job, Duration)> {
        let destination = job.destination.clone();
        let lane = self.lanes.entry(destination.clone()).or_default();
        let short = self.memory >= self.config.memory && lane.waiting.len() >= ALWAYS;
        if short || lane.waiting.len() >= self.config.waiting {
            let rounds = lane.sent_back / self.config.waiting.max(1);
            lane.sent_back += 1;
            let by = Duration::from_millis(250).saturating_mul(u32::try_from(rounds + 1).unwrap_or(u32::MAX));
            return Some((job, by.min(LONGEST)));
        }
        self.memory += job.memory();
        lane.waiting.push_back(job);
        self.wake(destination);
        None
    }

    /// The next job that may run, destinations by turns.
    pub fn next(&mut self, now: Timestamp) -> Option<(Destination, Job)> {
        if self.closed || !self.places.has_room(now) {
            return None;
        }
        let destination = self.ready.pop_front()?;
        let lane = self.lanes.get_mut(&destination)?;
        lane.is_ready = false;
        let mut job = lane.waiting.pop_front()?;
        if lane.waiting.len() < self.config.waiting / 2 {
            lane.sent_back = 0;
        }
        lane.running += 1;
        job.started = now;
        self.places.take(now);
        self.wake(destination.clone());
        Some((destination, job))
    }

    /// Nothing starts from now on; what runs comes to its end.
    pub fn close(&mut self) {
        self.closed = true;
    }

    /// A job ended. When its destination did not say a word, those in line have had their turn too.
    pub fn done(&mut self, done: Done) -> Vec<(Job, Problem)> {
        let Done { lane: destination, memory, silence } = done;
        self.memory -= memory;
        let Some(lane) = self.lanes.get_mut(&destination) else { return Vec::new() };
        lane.running -= 1;
        let passed_over: Vec<_> = match silence {
            Some(problem) => lane.waiting.drain(..).map(|job| (job, problem.clone())).collect(),
            None => Vec::new(),
        };
        self.memory -= passed_over.iter().map(|(job, _)| job.memory()).sum::<u64>();
        if lane.running == 0 && lane.waiting.is_empty() && !lane.is_ready {
            self.lanes.remove(&destination);
        } else {
            self.wake(destination);
        }
        passed_over
    }

    fn wake(&mut self, destination: Destination) {
        if let Some(lane) = self.lanes.get_mut(&destination)
            && !lane.is_ready
            && !lane.waiting.is_empty()
            && lane.running < self.config.per_destination
        {
            lane.is_ready = true;
            self.ready.push_back(destination);
        }
    }
}
