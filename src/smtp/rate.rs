//! How often something may happen: token buckets, pure (the caller says what time it is) and small (a bucket is
//! one instant; one that nobody drew from for a while is forgotten).

use std::collections::HashMap;
use std::hash::Hash;
use std::time::{Duration, Instant};

/// So many times in each period: all at once, then evenly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    pub count: u32,
    pub period: Duration,
}

impl Rate {
    pub const fn per_minute(count: u32) -> Self {
        Self { count, period: Duration::from_secs(60) }
    }

    /// How long one token takes to come back.
    fn step(self) -> Duration {
        self.period / self.count.max(1)
    }
}

/// What was drawn, as the moment at which the bucket is full again; `None`: it is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Bucket(Option<Instant>);

impl Bucket {
    /// Draws a token, or says how long until there is one.
    pub fn take(&mut self, rate: Rate, now: Instant) -> Result<(), Duration> {
        self.peek(rate, now)?;
        self.0 = Some(self.full_at(now) + rate.step());
        Ok(())
    }

    /// Whether there is a token, without drawing it.
    pub fn peek(&self, rate: Rate, now: Instant) -> Result<(), Duration> {
        let owed = self.full_at(now) + rate.step() - now;
        match owed.checked_sub(rate.period) {
            _ if rate.count == 0 => Err(rate.period),
            None | Some(Duration::ZERO) => Ok(()),
            Some(wait) => Err(wait),
        }
    }

    pub fn is_full(&self, now: Instant) -> bool {
        self.0.is_none_or(|at| at <= now)
    }

    fn full_at(&self, now: Instant) -> Instant {
        self.0.map_or(now, |at| at.max(now))
    }
}

/// A bucket for each key, in bounded memory. With more keys than fit, those are forgotten that owe least, so
/// who uses his share is never let off by a crowd of others.
#[derive(Debug)]
pub struct Buckets<K> {
    of: HashMap<K, Bucket>,
    most: usize,
}

impl<K: Eq + Hash + Clone> Buckets<K> {
    pub fn new(most: usize) -> Self {
        Self { of: HashMap::new(), most: most.max(2) }
    }

    pub fn take(&mut self, key: K, rate: Rate, now: Instant) -> Result<(), Duration> {
        if self.of.len() >= self.most && !self.of.contains_key(&key) {
            self.make_room(now);
        }
        self.of.entry(key).or_default().take(rate, now)
    }

    pub fn peek(&self, key: &K, rate: Rate, now: Instant) -> Result<(), Duration> {
        self.of.get(key).copied().unwrap_or_default().peek(rate, now)
    }

    pub fn len(&self) -> usize {
        self.of.len()
    }

    pub fn is_empty(&self) -> bool {
        self.of.is_empty()
    }

    /// Keeps at most half, so that the next time is far off.
    fn make_room(&mut self, now: Instant) {
        self.of.retain(|_, bucket| !bucket.is_full(now));
        let half = self.most / 2;
        if self.of.len() <= half {
            return;
        }
        let mut ends: Vec<Instant> = self.of.values().map(|bucket| bucket.full_at(now)).collect();
        let at = ends.len() - half;
        let (_, least, _) = ends.select_nth_unstable(at);
        let least = *least;
        // Those above it all stay; of those that owe just as much, as many as fit.
        let above = ends.iter().filter(|end| **end > least).count();
        let mut left = half - above;
        self.of.retain(|_, bucket| {
            let owes = bucket.full_at(now);
            let fits = owes == least && left > 0;
            left -= usize::from(fits);
            fits || owes > least
        });
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn all_at_once_then_evenly() {
        let (rate, start) = (Rate::per_minute(3), Instant::now());
        let mut bucket = Bucket::default();
        for _ in 0..3 {
            assert_eq!(bucket.take(rate, start), Ok(()));
        }
        assert_eq!(bucket.take(rate, start), Err(20 * SECOND));
        assert_eq!(bucket.take(rate, start + 19 * SECOND), Err(SECOND));
        assert_eq!(bucket.take(rate, start + 20 * SECOND), Ok(()));
        assert_eq!(bucket.take(rate, start + 20 * SECOND), Err(20 * SECOND));
        assert!(!bucket.is_full(start + 79 * SECOND));
        assert!(bucket.is_full(start + 80 * SECOND));
    }

    #[test]
    fn a_crowd_does_not_let_off_who_used_his_share() {
        let (rate, start) = (Rate::per_minute(2), Instant::now());
        let mut buckets = Buckets::new(100);
        for _ in 0..2 {
            buckets.take(u32::MAX, rate, start).unwrap();
        }
        for n in 0..10_000 {
            assert_eq!(buckets.take(n, rate, start), Ok(()));
            assert!(buckets.len() <= 100);
        }
        assert!(buckets.take(u32::MAX, rate, start).is_err());
        assert_eq!(buckets.take(u32::MAX, rate, start + 60 * SECOND), Ok(()));
    }

    proptest! {
        /// However it is asked, no more than twice the count passes in any period, and waiting as told helps.
        #[test]
        fn never_more_than_a_full_bucket_and_what_came_back(
            count in 1u32..50, steps in prop::collection::vec(0u64..5_000, 1..300)
        ) {
            let rate = Rate::per_minute(count);
            let mut bucket = Bucket::default();
            let start = Instant::now();
            let mut now = start;
            let mut passed = 0u32;
            for step in steps {
                now += Duration::from_millis(step);
                match bucket.take(rate, now) {
                    Ok(()) => passed += 1,
                    Err(wait) => prop_assert_eq!(bucket.peek(rate, now + wait), Ok(())),
                }
            }
            let came_back = (now - start).as_secs_f64() / 60.0 * f64::from(count);
            prop_assert!(f64::from(passed) <= f64::from(count) + came_back + 0.001);
        }
    }
}
