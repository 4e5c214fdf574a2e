//! Who may go next: a line per destination, a limit for each and one for all. No IO.

use std::collections::{HashMap, VecDeque};

use super::Config;
use super::job::{Destination, Done, Job};
use crate::delivery::outcome::Problem;

pub struct Lanes {
    lanes: HashMap<Destination, Lane>,
    /// Destinations that have somebody waiting and a free place, in the order of their turn.
    ready: VecDeque<Destination>,
    running: usize,
    config: Config,
}

#[derive(Default)]
struct Lane {
    waiting: VecDeque<Job>,
    running: usize,
    is_ready: bool,
}

impl Lanes {
    pub fn new(config: Config) -> Self {
        Self { lanes: HashMap::new(), ready: VecDeque::new(), running: 0, config }
    }

    /// Puts a job in line; gives it back when the line is too long.
    pub fn push(&mut self, job: Job) -> Result<(), Job> {
        let destination = job.destination.clone();
        let lane = self.lanes.entry(destination.clone()).or_default();
        if lane.waiting.len() >= self.config.waiting {
            return Err(job);
        }
        lane.waiting.push_back(job);
        self.wake(destination);
        Ok(())
    }

    /// The next job that may run, destinations by turns.
    pub fn next(&mut self) -> Option<(Destination, Job)> {
        if self.running >= self.config.concurrency {
            return None;
        }
        let destination = self.ready.pop_front()?;
        let lane = self.lanes.get_mut(&destination)?;
        lane.is_ready = false;
        let job = lane.waiting.pop_front()?;
        lane.running += 1;
        self.running += 1;
        self.wake(destination.clone());
        Some((destination, job))
    }

    /// A job ended. When its destination did not say a word, those in line have had their turn too.
    pub fn done(&mut self, done: Done) -> Vec<(Job, Problem)> {
        let Done { lane: Some(destination), silence } = done else { return Vec::new() };
        self.running -= 1;
        let Some(lane) = self.lanes.get_mut(&destination) else { return Vec::new() };
        lane.running -= 1;
        let passed_over = match silence {
            Some(problem) => lane.waiting.drain(..).map(|job| (job, problem.clone())).collect(),
            None => Vec::new(),
        };
        if lane.running == 0 && lane.waiting.is_empty() && !lane.is_ready {
            self.lanes.remove(&destination);
        } else {
            self.wake(destination);
        }
        passed_over
    }

    /// A job ended without saying whose it was.
    pub fn lost(&mut self) {
        self.running = self.running.saturating_sub(1);
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
