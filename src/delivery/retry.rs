//! When to try again, when to tell the sender, when to give up (spec R159): arithmetic only. The
//! time and the dice are passed in.

use std::time::Duration;

use jiff::Timestamp;

use crate::bundle::document::Retry;

/// What follows a failed attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    At(Timestamp),
    /// The message is too old: 5.4.7.
    GiveUp,
}

/// The share of a delay that chance adds or takes away.
const JITTER: f64 = 0.1;

/// When to try again after `attempts` failed attempts, the one just made included. `dice` is in
/// `[0, 1)`. The last attempt is made exactly when the message becomes too old.
pub fn next(schedule: &Retry, received_at: Timestamp, attempts: u32, now: Timestamp, dice: f64) -> Next {
    let end = give_up_at(schedule, received_at);
    if now >= end {
        return Next::GiveUp;
    }
    let jitter = 1.0 + JITTER * (2.0 * dice - 1.0);
    let delay = delay(schedule, attempts).mul_f64(jitter.max(0.0));
    Next::At(later(now, delay).min(end))
}

/// The wait after the n-th failed attempt (from 1), before chance: `initial * factor^(n-1)`, at most
/// `max`. Never shrinks with n.
pub fn delay(schedule: &Retry, attempts: u32) -> Duration {
    let exponent = i32::try_from(attempts.saturating_sub(1)).unwrap_or(i32::MAX);
    let seconds = schedule.initial.as_secs_f64() * schedule.factor.max(1.0).powi(exponent);
    let longest = schedule.max.as_secs_f64().max(schedule.initial.as_secs_f64());
    // A product beyond f64 is infinite, and `min` makes it finite again.
    Duration::from_secs_f64(seconds.min(longest))
}

pub fn give_up_at(schedule: &Retry, received_at: Timestamp) -> Timestamp {
    later(received_at, schedule.give_up_after)
}

/// From when on the sender should hear that the message is late.
pub fn late_at(schedule: &Retry, received_at: Timestamp) -> Timestamp {
    later(received_at, schedule.warn_after)
}

/// Whether the sender should hear now that the message is late.
pub fn is_late(schedule: &Retry, received_at: Timestamp, now: Timestamp) -> bool {
    now >= late_at(schedule, received_at)
}

fn later(at: Timestamp, by: Duration) -> Timestamp {
    at.checked_add(by).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    /// Minutes at which a message that always fails is tried, without chance.
    fn attempts(schedule: &Retry) -> Vec<i64> {
        let (mut now, mut minutes) = (at(0), vec![0]);
        for attempts in 1.. {
            match next(schedule, at(0), attempts, now, 0.5) {
                Next::At(then) => now = then,
                Next::GiveUp => break,
            }
            minutes.push(now.as_second() / 60);
        }
        minutes
    }

    #[test]
    fn the_default_schedule_doubles_from_five_minutes_to_four_hours_for_five_days() {
        let times = attempts(&Retry::default());
        assert_eq!(times[..9], [0, 5, 15, 35, 75, 155, 315, 555, 795]);
        assert_eq!(*times.last().unwrap(), 5 * 24 * 60, "one last attempt when the time is up");
        assert!(times.windows(2).skip(6).all(|pair| pair[1] - pair[0] <= 240));
    }

    #[test]
    fn a_route_can_have_a_schedule_of_its_own() {
        let minutes = |n: u64| Duration::from_secs(60 * n);
        let schedule = Retry {
            initial: minutes(1),
            factor: 1.0,
            max: minutes(10),
            give_up_after: minutes(5),
            warn_after: minutes(2),
        };
        assert_eq!(attempts(&schedule), [0, 1, 2, 3, 4, 5]);
        assert!(!is_late(&schedule, at(0), at(119)));
        assert!(is_late(&schedule, at(0), at(120)));
    }

    proptest! {
        #[test]
        fn delays_never_shrink_and_chance_stays_within_a_tenth(
            initial in 0u64..100_000, factor in 0.0f64..10.0, max in 0u64..1_000_000, dice in 0.0f64..1.0,
        ) {
            let schedule = Retry {
                initial: Duration::from_secs(initial),
                factor,
                max: Duration::from_secs(max),
                give_up_after: Duration::from_secs(u64::from(u32::MAX)),
                warn_after: Duration::ZERO,
            };
            for n in 1..70 {
                let wait = delay(&schedule, n);
                prop_assert!(wait <= delay(&schedule, n + 1));
                let Next::At(then) = next(&schedule, at(0), n, at(10), dice) else { panic!("not yet") };
                let waited = (then.as_second() - 10) as f64;
                prop_assert!((waited - wait.as_secs_f64()).abs() <= wait.as_secs_f64() * 0.1 + 1.0);
            }
        }

        #[test]
        fn no_schedule_ends_in_a_panic(
            initial in any::<u32>(), factor in any::<f64>(), attempts in any::<u32>(), dice in 0.0f64..1.0,
        ) {
            let initial = Duration::from_secs(initial.into());
            let schedule = Retry { initial, factor, max: initial, give_up_after: Duration::MAX, warn_after: Duration::MAX };
            next(&schedule, at(0), attempts, at(1), dice);
            is_late(&schedule, at(0), at(1));
        }
    }
}
