//! How many of something may happen within a time, as arithmetic: no clock, the time is given.
//!
//! A [`Bucket`] is the generic cell rate algorithm (ITU-T I.371): one timestamp says everything. Delivery
//! spreads what a route may send evenly ([`Rate::even`]); whoever answers clients lets bursts through
//! ([`Rate::burst`]). Both stay below their number in every window. [`Rate::whole`] lets all come at once.

use std::fmt;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

/// So many within such a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Rate {
    count: u32,
    period: Duration,
    /// How many may come at once.
    burst: u32,
    /// What comes at once is not saved up from the rest.
    beside: bool,
}

impl Rate {
    /// `count` within `period`, evenly spread: at most `count` in any window of that length. One in 600 may come
    /// early, so that small delays of a fast one are made up for.
    pub fn even(count: u32, period: Duration) -> Self {
        let count = count.max(1);
        Self { count, period, burst: 1 + (count - 1) / 600, beside: false }
    }

    /// `count` within `period`, a tenth of them at once: at most `count` in any window of that length, nine
    /// tenths of it on and on.
    pub fn burst(count: u32, period: Duration) -> Self {
        let count = count.max(1);
        Self { count, period, burst: count.div_ceil(10), beside: false }
    }

    /// `count` at once, and `count` within each `period` on and on: for people, who do things in one go. At most
    /// twice `count` in any window of that length.
    pub fn whole(count: u32, period: Duration) -> Self {
        let count = count.max(1);
        Self { count, period, burst: count, beside: true }
    }

    pub fn per_minute(count: u32) -> Self {
        Self::even(count, Duration::from_secs(60))
    }

    /// The time from one to the next when they come on and on: `burst` at once and one per interval never
    /// exceed `count` in a window that does not include its end.
    pub fn interval(&self) -> Duration {
        let steps = if self.beside { self.count } else { self.count - self.burst + 1 };
        // Rounded up: a little less is within the limit, a little more is not.
        let nanos = self.period.as_nanos().div_ceil(u128::from(steps));
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// The share of one of `shares` that count each for itself.
    pub fn divided(self, shares: u32) -> Self {
        let period = self.period.saturating_mul(shares.max(1));
        // A longer period, not a smaller count: 1 per minute over 3 is 1 per 3 minutes.
        Self { period, burst: (self.burst / shares.max(1)).max(1), ..self }
    }

    /// How far one may run ahead of the even pace.
    pub fn spare(&self) -> Duration {
        self.interval().saturating_mul(self.burst - 1)
    }

    pub fn count(&self) -> u32 {
        self.count
    }
}

/// `600 per minute`, for replies and reports.
impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} per ", self.count)?;
        match self.period.as_secs() {
            1 => f.write_str("second"),
            60 => f.write_str("minute"),
            3600 => f.write_str("hour"),
            86_400 => f.write_str("day"),
            seconds => write!(f, "{seconds} seconds"),
        }
    }
}

/// What has been used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bucket {
    /// When the bucket would be full again.
    full_at: Timestamp,
}

impl Bucket {
    pub fn full(now: Timestamp) -> Self {
        Self { full_at: now }
    }

    /// For a process that does not know what the one before it used up: it waits for its first as if that one
    /// had just taken the last.
    pub fn empty(rate: &Rate, now: Timestamp) -> Self {
        Self { full_at: later(now, rate.interval().saturating_mul(rate.burst)) }
    }

    /// When the next may happen; `now` or later.
    pub fn next(&self, rate: &Rate, now: Timestamp) -> Timestamp {
        let interval = rate.interval();
        // A clock that was set back must not stop everything until it is there again.
        let longest = later(now, interval.saturating_mul(rate.burst));
        let full_at = self.full_at.min(longest);
        earlier(full_at, rate.spare()).max(now)
    }

    /// Takes one if it may happen now; else says when it may.
    pub fn take(&mut self, rate: &Rate, now: Timestamp) -> Result<(), Timestamp> {
        let next = self.next(rate, now);
        if next > now {
            return Err(next);
        }
        let longest = later(now, rate.interval().saturating_mul(rate.burst));
        self.full_at = later(self.full_at.min(longest).max(now), rate.interval());
        Ok(())
    }

    /// When it will be full again.
    pub fn full_at(&self) -> Timestamp {
        self.full_at
    }

    /// Whether it holds nothing that a new one would not.
    pub fn is_full(&self, now: Timestamp) -> bool {
        self.full_at <= now
    }
}

pub fn later(at: Timestamp, by: Duration) -> Timestamp {
    SignedDuration::try_from(by).ok().and_then(|by| at.checked_add(by).ok()).unwrap_or(Timestamp::MAX)
}

pub fn earlier(at: Timestamp, by: Duration) -> Timestamp {
    SignedDuration::try_from(by).ok().and_then(|by| at.checked_sub(by).ok()).unwrap_or(Timestamp::MIN)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(ms: i64) -> Timestamp {
        Timestamp::from_millisecond(ms).unwrap()
    }

    /// The most in any window of `period` that does not include its end.
    fn most(times: &[Timestamp], period: Duration) -> usize {
        let within = |from: usize| {
            times[from..].iter().take_while(|t| t.duration_since(times[from]).unsigned_abs() < period).count()
        };
        (0..times.len()).map(within).max().unwrap_or(0)
    }

    #[test]
    fn an_even_rate_lets_one_through_at_a_time() {
        let rate = Rate::per_minute(60);
        let mut bucket = Bucket::full(at(0));
        assert_eq!(bucket.take(&rate, at(0)), Ok(()));
        assert_eq!(bucket.take(&rate, at(400)), Err(at(1000)));
        assert_eq!(bucket.take(&rate, at(1000)), Ok(()));
        assert_eq!(Bucket::empty(&rate, at(0)).next(&rate, at(0)), at(1000));
    }

    #[test]
    fn a_rate_with_bursts_lets_a_tenth_through_at_once() {
        let rate = Rate::burst(100, Duration::from_secs(60));
        let mut bucket = Bucket::full(at(0));
        let taken = (0..100).filter(|_| bucket.take(&rate, at(0)).is_ok()).count();
        assert_eq!(taken, 10);
        assert!(bucket.next(&rate, at(0)) <= at(700));
        assert_eq!(rate.to_string(), "100 per minute");
    }

    #[test]
    fn a_clock_that_was_set_back_stops_nothing_for_long() {
        let rate = Rate::per_minute(60);
        let mut bucket = Bucket::full(at(0));
        assert_eq!(bucket.take(&rate, at(3_600_000)), Ok(()));
        assert_eq!(bucket.take(&rate, at(0)), Err(at(1000)));
        assert_eq!(bucket.take(&rate, at(1000)), Err(at(2000)), "the clamp moves with the clock");
    }

    proptest! {
        #[test]
        fn r160_no_window_ever_holds_more_than_its_number_and_nobody_starves(
            count in 1u32..200,
            seconds in 1u64..120,
            with_burst in any::<bool>(),
            restart in 0usize..400,
            steps in prop::collection::vec(0i64..3000, 1..400),
        ) {
            let period = Duration::from_secs(seconds);
            let rate = if with_burst { Rate::burst(count, period) } else { Rate::even(count, period) };
            let (mut now, mut taken) = (0, Vec::new());
            let mut bucket = Bucket::empty(&rate, at(0));
            for (n, step) in steps.into_iter().enumerate() {
                now += step;
                if n == restart {
                    bucket = Bucket::empty(&rate, at(now));
                }
                match bucket.take(&rate, at(now)) {
                    Ok(()) => taken.push(at(now)),
                    // Whoever comes when it was told to is served.
                    Err(then) => {
                        prop_assert!(then > at(now));
                        let wait = rate.interval().saturating_mul(rate.burst);
                        prop_assert!(then <= later(at(now), wait));
                        let mut copy = bucket;
                        prop_assert_eq!(copy.take(&rate, then), Ok(()));
                    }
                }
            }
            prop_assert!(most(&taken, period) <= count as usize);
        }

        #[test]
        fn shares_together_stay_near_the_whole(count in 1u32..500, shares in 1u32..20) {
            let rate = Rate::per_minute(count);
            let share = rate.divided(shares);
            let whole = share.interval().as_nanos() / u128::from(shares);
            prop_assert!(whole + 1 >= rate.interval().as_nanos());
        }
    }
}
