//! What goes wrong between a controller and the API server. Decides only; `server` carries it out.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::time::Duration;

use super::dice::Dice;

/// What becomes of one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    Pass,
    /// Answered from the past, so many milliseconds ago.
    Stale(u64),
    /// An HTTP status; nothing is done.
    Refused(u16),
    /// Nothing is done and no answer comes.
    Lost,
    /// It is done, and no answer comes.
    AnswerLost,
    /// It is done, and the connection breaks before the answer.
    Reset,
    /// It takes long.
    Slow(Duration),
    /// It arrives long after whoever sent it has given up, and is done then.
    Late(Duration),
    /// The controller dies before it is done, or right after.
    KillBefore,
    KillAfter,
}

/// What happens to an event of a watch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventFate {
    Pass,
    Delayed(Duration),
    Twice,
    /// It never comes; later the watch ends and says that too much was missed.
    Dropped,
    /// The connection ends instead.
    Cut,
}

/// How the API server is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    Well,
    /// It restarts: nothing answers.
    Down,
    /// Its storage restarts: reads from its cache go on, nothing can be written.
    ReadOnly,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Death {
    Before,
    After,
}

pub struct Chaos {
    dice: Dice,
    on: AtomicBool,
    /// Of a thousand requests or events.
    rate: AtomicU32,
    pub health: Mutex<Health>,
    /// Controllers die at these writes, counted over all of them.
    deaths: Mutex<BTreeMap<usize, Death>>,
    writes: AtomicUsize,
    pub injected: AtomicUsize,
}

impl Chaos {
    pub fn new(seed: u64) -> Self {
        Self {
            dice: Dice::new(seed, "chaos"),
            on: AtomicBool::new(false),
            rate: AtomicU32::new(0),
            health: Mutex::new(Health::Well),
            deaths: Mutex::default(),
            writes: AtomicUsize::new(0),
            injected: AtomicUsize::new(0),
        }
    }

    pub fn begin(&self, rate: u32) {
        self.rate.store(rate, Ordering::Relaxed);
        self.on.store(true, Ordering::Relaxed);
    }

    pub fn end(&self) {
        self.on.store(false, Ordering::Relaxed);
        *self.health.lock().unwrap() = Health::Well;
    }

    pub fn is_on(&self) -> bool {
        self.on.load(Ordering::Relaxed)
    }

    pub fn die_at(&self, write: usize, how: Death) {
        self.deaths.lock().unwrap().insert(write, how);
    }

    /// Writes that were begun so far.
    pub fn writes(&self) -> usize {
        self.writes.load(Ordering::Relaxed)
    }

    fn strikes(&self) -> bool {
        let strikes = self.is_on() && self.dice.permille(self.rate.load(Ordering::Relaxed));
        if strikes {
            self.injected.fetch_add(1, Ordering::Relaxed);
        }
        strikes
    }

    pub fn of_read(&self) -> Fate {
        if !self.strikes() {
            return Fate::Pass;
        }
        match self.dice.below(8) {
            0..=2 => Fate::Stale(self.dice.below(4000) as u64),
            3 => Fate::Refused(500),
            4 => Fate::Refused(429),
            5 => Fate::Refused(503),
            6 => Fate::Lost,
            _ => Fate::Slow(self.dice.millis(100, 6000)),
        }
    }

    pub fn of_write(&self, counts: bool) -> Fate {
        if counts {
            let number = self.writes.fetch_add(1, Ordering::Relaxed);
            if let Some(death) = self.deaths.lock().unwrap().remove(&number) {
                self.injected.fetch_add(1, Ordering::Relaxed);
                return match death {
                    Death::Before => Fate::KillBefore,
                    Death::After => Fate::KillAfter,
                };
            }
        }
        if !self.strikes() {
            return Fate::Pass;
        }
        match self.dice.below(12) {
            0 | 1 => Fate::Refused(409),
            2 => Fate::Refused(500),
            3 => Fate::Refused(429),
            4 => Fate::Refused(503),
            5 => Fate::Lost,
            6 => Fate::AnswerLost,
            7 => Fate::Reset,
            8 => Fate::Slow(self.dice.millis(100, 8000)),
            9 => Fate::Late(self.dice.millis(1000, 40_000)),
            10 if counts => Fate::KillBefore,
            11 if counts => Fate::KillAfter,
            _ => Fate::Pass,
        }
    }

    pub fn of_event(&self) -> EventFate {
        if !self.strikes() {
            return EventFate::Pass;
        }
        match self.dice.below(6) {
            0 | 1 => EventFate::Delayed(self.dice.millis(50, 5000)),
            2 => EventFate::Twice,
            3 | 4 => EventFate::Dropped,
            _ => EventFate::Cut,
        }
    }

    /// Whether a watch that begins is told that it begins too far back.
    pub fn is_gone(&self) -> bool {
        self.strikes()
    }

    /// How long after a dropped event the watch ends.
    pub fn patience(&self) -> Duration {
        self.dice.millis(500, 8000)
    }

    /// How far behind a kubelet's cache is.
    pub fn lag(&self) -> Option<f64> {
        (self.is_on() && self.dice.permille(150)).then(|| self.dice.millis(0, 3000).as_secs_f64())
    }
}
