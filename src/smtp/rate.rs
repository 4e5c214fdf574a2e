//! Rates of many clients at once, in bounded memory: a bucket for each key, and none for who drew nothing lately.

use std::collections::HashMap;
use std::hash::Hash;

use jiff::Timestamp;

use crate::mail::rate::{Bucket, Rate};

/// With more keys than fit, those are forgotten that owe least, so who uses his share is never let off by a crowd
/// of others.
#[derive(Debug)]
pub struct Buckets<K> {
    of: HashMap<K, Bucket>,
    most: usize,
}

impl<K: Eq + Hash> Buckets<K> {
    pub fn new(most: usize) -> Self {
        Self { of: HashMap::new(), most: most.max(2) }
    }

    /// Takes one, or says when there is one again.
    pub fn take(&mut self, key: K, rate: &Rate, now: Timestamp) -> Result<(), Timestamp> {
        if self.of.len() >= self.most && !self.of.contains_key(&key) {
            self.make_room(now);
        }
        self.of.entry(key).or_insert_with(|| Bucket::full(now)).take(rate, now)
    }

    /// Whether one could be taken.
    pub fn has(&self, key: &K, rate: &Rate, now: Timestamp) -> bool {
        self.of.get(key).is_none_or(|bucket| bucket.next(rate, now) <= now)
    }

    pub fn len(&self) -> usize {
        self.of.len()
    }

    pub fn is_empty(&self) -> bool {
        self.of.is_empty()
    }

    /// Keeps at most half, so that the next time is far off.
    fn make_room(&mut self, now: Timestamp) {
        self.of.retain(|_, bucket| !bucket.is_full(now));
        let half = self.most / 2;
        if self.of.len() <= half {
            return;
        }
        let owes = |bucket: &Bucket| bucket.full_at();
        let mut debts: Vec<_> = self.of.values().map(owes).collect();
        let at = debts.len() - half;
        let (_, least, _) = debts.select_nth_unstable(at);
        let least = *least;
        // Those above it all stay; of those that owe just as much, as many as fit.
        let mut left = half - debts.iter().filter(|debt| **debt > least).count();
        self.of.retain(|_, bucket| {
            let debt = owes(bucket);
            let fits = debt == least && left > 0;
            left -= usize::from(fits);
            fits || debt > least
        });
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::mail::rate::later;

    #[test]
    fn all_at_once_then_evenly() {
        let (rate, start) = (Rate::whole(3, Duration::from_secs(60)), Timestamp::UNIX_EPOCH);
        let at = |seconds| later(start, Duration::from_secs(seconds));
        let mut buckets = Buckets::new(10);
        for _ in 0..3 {
            assert!(buckets.has(&'a', &rate, start));
            assert_eq!(buckets.take('a', &rate, start), Ok(()));
        }
        assert!(!buckets.has(&'a', &rate, start) && buckets.has(&'b', &rate, start));
        assert_eq!(buckets.take('a', &rate, start), Err(at(20)));
        assert_eq!(buckets.take('b', &rate, start), Ok(()));
        assert_eq!(buckets.take('a', &rate, at(20)), Ok(()));
        assert_eq!(buckets.take('a', &rate, at(20)), Err(at(40)));
        for _ in 0..3 {
            assert_eq!(buckets.take('a', &rate, at(200)), Ok(()));
        }
        assert!(buckets.take('a', &rate, at(200)).is_err());
    }

    #[test]
    fn a_crowd_does_not_let_off_who_used_his_share() {
        let (rate, start) = (Rate::whole(2, Duration::from_secs(60)), Timestamp::UNIX_EPOCH);
        let mut buckets = Buckets::new(100);
        for _ in 0..2 {
            buckets.take(u32::MAX, &rate, start).unwrap();
        }
        for n in 0..10_000 {
            assert_eq!(buckets.take(n, &rate, start), Ok(()));
            assert!(buckets.len() <= 100);
        }
        assert!(buckets.take(u32::MAX, &rate, start).is_err());
        assert_eq!(buckets.take(u32::MAX, &rate, later(start, Duration::from_secs(60))), Ok(()));
    }
}
