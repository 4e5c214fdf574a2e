//! All chance of a history, from its seed. Each purpose has dice of its own, so that what users do does not depend
//! on how often something failed.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::clock;

pub struct Dice(AtomicU64);

impl Dice {
    pub fn new(seed: u64, purpose: &str) -> Self {
        let hash = blake3::hash(format!("{seed} {purpose}").as_bytes());
        Self(AtomicU64::new(u64::from_le_bytes(hash.as_bytes()[..8].try_into().expect("8 of 32 bytes"))))
    }

    fn next(&self) -> u64 {
        let (state, number) = clock::next(self.0.load(Ordering::Relaxed));
        self.0.store(state, Ordering::Relaxed);
        number
    }

    /// 0 to `end` - 1.
    pub fn below(&self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }

    /// True so often of a thousand times.
    pub fn permille(&self, share: u32) -> bool {
        self.next() % 1000 < u64::from(share)
    }

    pub fn millis(&self, least: u64, most: u64) -> Duration {
        Duration::from_millis(least + self.next() % (most - least + 1))
    }

    pub fn pick<'a, T>(&self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }
}
