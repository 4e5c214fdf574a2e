//! What a destination's replies say about the pace it bears, and how we keep to it (spec R2): less at once,
//! then slower, then nothing for a while, then one message as a question, then step by step more again.
//!
//! Pure: words in, state out, the time is given. One [`Standing`] is about one of our addresses at one
//! destination.

use std::net::IpAddr;
use std::time::Duration;

use jiff::Timestamp;

use crate::delivery::outcome::{Stage, Trouble, too_many_recipients};
use crate::mail::rate::later;
use crate::smtp::reply::Reply;

/// What a trouble says about our pace or our name, beside what it means for the message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Sign {
    /// Too fast, too many, not now.
    Slow,
    /// Our address is not wanted.
    Blocked,
    /// Nobody there, or nobody who answers in time.
    Down,
}

impl Sign {
    /// One word of a closed list, for metrics and `/status`.
    pub fn word(self) -> &'static str {
        match self {
            Sign::Slow => "SlowDown",
            Sign::Blocked => "Blocked",
            Sign::Down => "Down",
        }
    }
}

/// Greylisting asks one message to come again, not all mail to be slower.
const GREYLISTING: &[&str] = &["greylist", "graylist", "grey-list", "gray-list", "greylisted"];
/// Words about pace that hosts use with 4xx codes of every kind.
const PACE: &[&str] = &[
    "rate limit",
    "ratelimit",
    "rate-limit",
    "rate exceeded",
    "too many connections",
    "too many messages",
    "too many concurrent",
    "too many mails",
    "too much mail",
    "too fast",
    "throttl",
    "slow down",
    "slowdown",
    "unusual rate",
    "unusual volume",
    "unusual traffic",
    "temporarily deferred",
    "connection limit",
    "message limit",
    "sending limit",
    "maximum number of connections",
    "exceeded the maximum number of messages",
    "server busy",
    "reputation",
];
/// Words that speak of the sending host, not of the message or the recipient.
const BLOCK: &[&str] = &[
    "blocklist",
    "block list",
    "blacklist",
    "black list",
    "denylist",
    "deny list",
    "dnsbl",
    " rbl",
    "spamhaus",
    "spamcop",
    "barracudacentral",
    "reputation",
    "your ip",
    "sending ip",
    "ip address",
    "client host",
    "your host",
    "your network",
    "banned",
];

/// Reads a trouble that a next hop caused, at one of our addresses if we chose one.
pub fn sign(trouble: &Trouble, source: Option<IpAddr>) -> Option<Sign> {
    match trouble {
        Trouble::Refused(stage, reply) => refused(*stage, reply, source),
        // Hanging up before mail is how busy and offended hosts say no.
        Trouble::Closed(Stage::Greeting | Stage::Ehlo | Stage::Mail) => Some(Sign::Slow),
        Trouble::Unreachable(_) | Trouble::TimedOut(_) => Some(Sign::Down),
        _ => None,
    }
}

fn refused(stage: Stage, reply: &Reply, source: Option<IpAddr>) -> Option<Sign> {
    let text = reply.text.to_lowercase();
    let says = |words: &[&str]| words.iter().any(|word| text.contains(word));
    let about_us = says(BLOCK) || source.is_some_and(|source| names(&text, source));
    let at_the_door = matches!(stage, Stage::Greeting | Stage::Ehlo);
    if too_many_recipients(stage, reply) || says(GREYLISTING) {
        return None;
    }
    if reply.is_permanent() {
        // RFC 7504: this host takes no mail from anybody.
        let never = reply.code == 521;
        let policy = matches!(reply.enhanced, Some([5, 7, _]) | None);
        return ((at_the_door && !never) || (policy && about_us)).then_some(Sign::Blocked);
    }
    if !reply.is_transient() {
        return None;
    }
    match reply.enhanced {
        // Full mailboxes speak of quotas and limits too.
        Some([4, 2, _]) if reply.code != 421 => None,
        Some([4, 7, _]) if about_us => Some(Sign::Blocked),
        Some([4, 7, _]) => Some(Sign::Slow),
        _ if reply.code == 421 || at_the_door || says(PACE) => Some(Sign::Slow),
        _ => None,
    }
}

/// Whether a text names this address and not merely a longer one that begins with it.
fn names(text: &str, source: IpAddr) -> bool {
    let source = source.to_string();
    text.match_indices(&source).any(|(at, _)| {
        let part = |c: Option<char>| c.is_some_and(|c| c.is_ascii_hexdigit() || c == ':');
        let after = text[at + source.len()..].chars().next();
        !part(text[..at].chars().next_back()) && !part(after)
    })
}

/// How long the first pause is, and the longest; each doubles the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pauses {
    pub first: Duration,
    pub longest: Duration,
}

/// The pace of all this. Other than the default for tests only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Schedule {
    /// Signs within this time are one: twenty connections hear the same answer at once.
    pub round: Duration,
    /// Rounds of signs without a success until nothing is sent for a while.
    pub patience: u32,
    /// Between two messages when one connection is still too many.
    pub pace: Pauses,
    pub slow: Pauses,
    pub blocked: Pauses,
    pub down: Pauses,
    /// A limit that no sign renewed for so long is gone.
    pub memory: Duration,
}

impl Default for Schedule {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self {
            round: seconds(10),
            patience: 3,
            pace: Pauses { first: Duration::from_millis(500), longest: seconds(30) },
            slow: Pauses { first: seconds(60), longest: seconds(3600) },
            blocked: Pauses { first: seconds(900), longest: seconds(4 * 3600) },
            // A host that is back shall not wait long for its mail.
            down: Pauses { first: seconds(30), longest: seconds(300) },
            memory: seconds(6 * 3600),
        }
    }
}

impl Schedule {
    fn pause(&self, sign: Sign, before: u32) -> Duration {
        let Pauses { first, longest } = match sign {
            Sign::Slow => self.slow,
            Sign::Blocked => self.blocked,
            Sign::Down => self.down,
        };
        first.saturating_mul(1u32.checked_shl(before).unwrap_or(u32::MAX)).min(longest)
    }
}

/// How one of our addresses stands with one destination.
#[derive(Debug, Clone, PartialEq)]
pub struct Standing {
    pub stage: Step,
    /// Since when it is in this stage.
    pub since: Timestamp,
    /// What the last sign was, and the words it came with.
    pub cause: Option<(Sign, String)>,
    pub running: u32,
    /// Pauses so far; forgotten with full recovery.
    pauses: u32,
    strikes: u32,
    last_sign: Option<Timestamp>,
    last_start: Option<Timestamp>,
    served_since_sign: bool,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Step {
    Free,
    /// So many at a time, so long from one to the next.
    Limited {
        connections: f64,
        pace: Duration,
    },
    Suspended {
        until: Timestamp,
    },
    /// The pause is over: one message at a time until one is taken.
    Probing,
}

impl Standing {
    pub fn new(now: Timestamp) -> Self {
        Self {
            stage: Step::Free,
            since: now,
            cause: None,
            running: 0,
            pauses: 0,
            strikes: 0,
            last_sign: None,
            last_start: None,
            served_since_sign: true,
        }
    }

    /// Nothing that was said before counts any more; what runs still runs.
    pub fn anew(&self, now: Timestamp) -> Self {
        Self { running: self.running, ..Self::new(now) }
    }

    /// Whether a message may start; else when to ask again, and whether that is a time or just a guess (somebody
    /// must end first).
    pub fn may_start(&self, now: Timestamp) -> Result<(), Timestamp> {
        let soon = later(now, Duration::from_secs(1));
        match self.stage {
            Step::Free => Ok(()),
            Step::Limited { connections, pace } => {
                let next = self.last_start.map_or(now, |last| later(last.min(now), pace));
                match f64::from(self.running) + 1.0 <= connections.max(1.0) {
                    _ if next > now => Err(next),
                    true => Ok(()),
                    false => Err(soon),
                }
            }
            // A clock that was set back ends no pause, but makes none longer than it was.
            Step::Suspended { until } if now < until && now >= self.since => Err(until),
            Step::Suspended { .. } | Step::Probing if self.running == 0 => Ok(()),
            Step::Suspended { .. } | Step::Probing => Err(soon),
        }
    }

    pub fn started(&mut self, now: Timestamp) {
        if matches!(self.stage, Step::Suspended { .. }) {
            self.enter(Step::Probing, now);
        }
        self.running += 1;
        self.last_start = Some(now);
    }

    pub fn ended(&mut self) {
        self.running = self.running.saturating_sub(1);
    }

    /// The destination answered like one that bears our pace.
    pub fn served(&mut self, most: u32, schedule: &Schedule, now: Timestamp) {
        self.served_since_sign = true;
        match self.stage {
            // One that started before the pause says nothing about its end.
            Step::Free | Step::Suspended { .. } => {}
            Step::Probing => {
                self.strikes = 0;
                self.enter(Step::Limited { connections: 1.0, pace: Duration::ZERO }, now);
            }
            Step::Limited { connections, pace } if pace > Duration::ZERO => {
                let slower = pace.mul_f64(0.8);
                let pace = if slower < schedule.pace.first { Duration::ZERO } else { slower };
                self.stage = Step::Limited { connections, pace };
            }
            Step::Limited { connections, pace } => {
                let connections = connections + 1.0 / connections.max(1.0);
                if connections >= f64::from(most) {
                    *self = self.anew(now);
                } else {
                    self.stage = Step::Limited { connections, pace };
                }
            }
        }
    }

    /// Whether this made it a pause.
    pub fn signed(&mut self, sign: Sign, words: &str, schedule: &Schedule, now: Timestamp) -> bool {
        if matches!(self.stage, Step::Suspended { .. }) {
            return false;
        }
        let probe = self.stage == Step::Probing;
        let same_round = self.last_sign.is_some_and(|last| now >= last && now < later(last, schedule.round));
        if same_round && !probe && sign != Sign::Blocked {
            self.served_since_sign = false;
            return false;
        }
        self.last_sign = Some(now);
        self.cause = Some((sign, words.chars().take(200).collect()));
        self.strikes = if self.served_since_sign { 1 } else { self.strikes + 1 };
        self.served_since_sign = false;
        if probe || sign == Sign::Blocked || self.strikes >= schedule.patience {
            let until = later(now, schedule.pause(sign, self.pauses));
            self.pauses += 1;
            self.strikes = 0;
            self.enter(Step::Suspended { until }, now);
            return true;
        }
        // Silence says nothing about how much would be too much.
        if sign == Sign::Slow {
            let step = match self.stage {
                Step::Limited { connections, pace } if connections < 2.0 => {
                    let pace = (pace * 2).clamp(schedule.pace.first, schedule.pace.longest);
                    Step::Limited { connections: 1.0, pace }
                }
                Step::Limited { connections, pace } => Step::Limited { connections: connections / 2.0, pace },
                _ => {
                    let connections = (f64::from(self.running) / 2.0).max(1.0);
                    Step::Limited { connections, pace: Duration::ZERO }
                }
            };
            match self.stage {
                Step::Limited { .. } => self.stage = step,
                _ => self.enter(step, now),
            }
        }
        false
    }

    /// Whether nothing needs to be remembered of it.
    pub fn is_forgotten(&self, schedule: &Schedule, now: Timestamp) -> bool {
        let old = self.last_sign.is_none_or(|last| now < last || now >= later(last, schedule.memory));
        let paused = matches!(self.stage, Step::Suspended { until } if now < until);
        self.running == 0 && !paused && (old || (self.stage == Step::Free && self.strikes == 0))
    }

    fn enter(&mut self, stage: Step, now: Timestamp) {
        self.stage = stage;
        self.since = now;
    }
}

#[cfg(test)]
mod tests;
