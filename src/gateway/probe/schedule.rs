//! When each route is tested. Pure: the caller brings `now` and the dice.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::mail::envelope::RouteName;

/// Equal fingerprints: a test would ask the same.
pub type Fingerprint = blake3::Hash;

/// After a failed delivery a route is tested at most this often: a dead relay fails a thousand times a minute.
const REST: Duration = Duration::from_secs(60);
/// A change comes at once unless it flaps.
const FLAPPING: Duration = Duration::from_secs(1);
/// A login that was refused is not tried again sooner: many failures lock accounts.
const CAREFUL: Duration = Duration::from_secs(3600);

/// A route that is to be tested.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    pub name: RouteName,
    pub fingerprint: Fingerprint,
    pub interval: Duration,
}

#[derive(Debug, Default)]
pub struct Schedule(BTreeMap<RouteName, Turn>);

#[derive(Debug)]
struct Turn {
    fingerprint: Fingerprint,
    interval: Duration,
    due: Instant,
    /// Since when a test runs.
    running: bool,
    /// It changed, or was doubted, while its test ran.
    again: bool,
    last: Option<Instant>,
}

impl Schedule {
    /// Takes over the routes of a new policy: what is new or changed is due now.
    pub fn follow(&mut self, wanted: &[Wanted], now: Instant) {
        self.0.retain(|name, _| wanted.iter().any(|wanted| wanted.name == *name));
        for Wanted { name, fingerprint, interval } in wanted {
            let (fingerprint, interval) = (*fingerprint, *interval);
            match self.0.get_mut(name) {
                None => {
                    let turn =
                        Turn { fingerprint, interval, due: now, running: false, again: false, last: None };
                    self.0.insert(name.clone(), turn);
                }
                Some(turn) if turn.fingerprint != fingerprint => {
                    let earliest = turn.last.map_or(now, |last| last + FLAPPING);
                    turn.due = now.max(earliest);
                    turn.again = turn.running;
                    (turn.fingerprint, turn.interval) = (fingerprint, interval);
                }
                Some(turn) => {
                    turn.due = turn.due.min(now + interval);
                    turn.interval = interval;
                }
            }
        }
    }

    /// A delivery over the route failed.
    pub fn doubt(&mut self, name: &RouteName, now: Instant) {
        if let Some(turn) = self.0.get_mut(name).filter(|turn| !turn.running) {
            let earliest = turn.last.map_or(now, |last| last + REST);
            turn.due = turn.due.min(now.max(earliest));
        }
    }

    /// At most `room` routes whose time has come; each must be given to [`Schedule::done`].
    pub fn take(&mut self, room: usize, now: Instant) -> Vec<(RouteName, Fingerprint)> {
        let due = self.0.iter_mut().filter(|(_, turn)| !turn.running && turn.due <= now).take(room);
        due.map(|(name, turn)| {
            turn.running = true;
            (name.clone(), turn.fingerprint)
        })
        .collect()
    }

    /// A test ended. The next one comes after the interval, a tenth more or less: `dice` is in 0..1. Not so soon
    /// if one must be `careful`.
    pub fn done(&mut self, name: &RouteName, now: Instant, dice: f64, careful: bool) {
        let Some(turn) = self.0.get_mut(name) else { return };
        (turn.running, turn.last) = (false, Some(now));
        turn.due = match std::mem::take(&mut turn.again) {
            true => now,
            false => {
                let interval = if careful { turn.interval.max(CAREFUL) } else { turn.interval };
                now + interval.mul_f64(0.9 + 0.2 * dice.clamp(0.0, 1.0))
            }
        };
    }

    /// Whether the route still is what was tested.
    pub fn is(&self, name: &RouteName, fingerprint: Fingerprint) -> bool {
        self.0.get(name).is_some_and(|turn| turn.fingerprint == fingerprint)
    }

    pub fn next(&self) -> Option<Instant> {
        self.0.values().filter(|turn| !turn.running).map(|turn| turn.due).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_secs(900);

    fn name(name: &str) -> RouteName {
        RouteName { namespace: "mail".into(), name: name.into() }
    }

    fn wanted(route: &str, content: &str) -> Wanted {
        Wanted { name: name(route), fingerprint: blake3::hash(content.as_bytes()), interval: INTERVAL }
    }

    fn names(taken: &[(RouteName, Fingerprint)]) -> Vec<&str> {
        taken.iter().map(|(name, _)| name.name.as_str()).collect()
    }

    #[test]
    fn a_new_or_changed_route_is_tested_at_once_and_the_others_are_left_alone() {
        let (mut schedule, start) = (Schedule::default(), Instant::now());
        schedule.follow(&[wanted("a", "1"), wanted("b", "1")], start);
        assert_eq!(names(&schedule.take(9, start)), ["a", "b"]);
        schedule.done(&name("a"), start, 0.5, false);
        schedule.done(&name("b"), start, 0.5, false);
        let later = start + Duration::from_secs(5);
        schedule.follow(&[wanted("a", "1"), wanted("b", "2")], later);
        assert_eq!(names(&schedule.take(9, later)), ["b"]);
        // Gone means gone.
        schedule.follow(&[wanted("a", "1")], later);
        assert_eq!(schedule.next(), Some(start + INTERVAL));
    }

    #[test]
    fn r028_the_next_test_comes_after_the_interval_a_tenth_more_or_less() {
        for (dice, seconds) in [(0.0, 810), (0.5, 900), (1.0, 990)] {
            let (mut schedule, start) = (Schedule::default(), Instant::now());
            schedule.follow(&[wanted("a", "1")], start);
            schedule.take(1, start);
            assert_eq!(schedule.next(), None, "a test runs");
            schedule.done(&name("a"), start, dice, false);
            assert_eq!(schedule.next(), Some(start + Duration::from_secs(seconds)));
        }
    }

    #[test]
    fn r028_a_failed_delivery_brings_a_test_but_not_a_thousand() {
        let (mut schedule, start) = (Schedule::default(), Instant::now());
        schedule.follow(&[wanted("a", "1")], start);
        schedule.take(1, start);
        schedule.done(&name("a"), start, 0.5, false);
        let soon = start + Duration::from_secs(1);
        for _ in 0..1000 {
            schedule.doubt(&name("a"), soon);
        }
        assert_eq!(schedule.next(), Some(start + REST));
        let late = start + Duration::from_secs(300);
        schedule.follow(&[wanted("a", "1")], late);
        schedule.take(1, late);
        schedule.done(&name("a"), late, 0.5, false);
        let after = late + REST * 2;
        schedule.doubt(&name("a"), after);
        assert_eq!(schedule.next(), Some(after));
    }

    #[test]
    fn a_refused_login_is_not_tried_every_few_minutes() {
        let (mut schedule, start) = (Schedule::default(), Instant::now());
        schedule.follow(&[wanted("a", "1")], start);
        schedule.take(1, start);
        schedule.done(&name("a"), start, 0.5, true);
        assert_eq!(schedule.next(), Some(start + CAREFUL));
        // A new password is tried at once.
        schedule.follow(&[wanted("a", "2")], start + REST);
        assert_eq!(schedule.next(), Some(start + REST));
    }

    #[test]
    fn a_change_during_a_test_makes_another_one_and_the_old_result_is_void() {
        let (mut schedule, start) = (Schedule::default(), Instant::now());
        schedule.follow(&[wanted("a", "1")], start);
        let taken = schedule.take(1, start);
        schedule.follow(&[wanted("a", "2")], start);
        assert!(schedule.take(1, start).is_empty(), "one at a time");
        assert!(!schedule.is(&name("a"), taken[0].1));
        schedule.done(&name("a"), start, 0.5, false);
        assert_eq!(names(&schedule.take(1, start)), ["a"]);
    }

    #[test]
    fn a_shorter_interval_counts_from_now_on() {
        let (mut schedule, start) = (Schedule::default(), Instant::now());
        schedule.follow(&[wanted("a", "1")], start);
        schedule.take(1, start);
        schedule.done(&name("a"), start, 0.5, false);
        let short = Duration::from_secs(30);
        schedule.follow(&[Wanted { interval: short, ..wanted("a", "1") }], start);
        assert_eq!(schedule.next(), Some(start + short));
    }
}
