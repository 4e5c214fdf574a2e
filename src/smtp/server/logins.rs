//! Failed logins by client address, so that guessing passwords takes years. What is counted is the address and
//! not the name: otherwise anybody could lock anybody out.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;

use crate::mail::rate::Rate;
use crate::smtp::rate::Buckets;

/// Addresses that are remembered at the same time; about 5 MiB.
const MOST: usize = 50_000;

/// Tries to log in, of all listeners together.
#[derive(Debug)]
pub struct Logins {
    failed: Mutex<Buckets<IpAddr>>,
    counts: [AtomicU64; 3],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Try {
    Succeeded,
    Failed,
    /// Not even looked at: too many had failed before.
    HeldOff,
}

impl Try {
    pub const ALL: [Self; 3] = [Self::Succeeded, Self::Failed, Self::HeldOff];

    /// For metrics.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Succeeded => "success",
            Self::Failed => "failure",
            Self::HeldOff => "held_off",
        }
    }
}

impl Default for Logins {
    fn default() -> Self {
        Self { failed: Mutex::new(Buckets::new(MOST)), counts: Default::default() }
    }
}

impl Logins {
    /// Whether a client may try.
    pub fn may_try(&self, client: IpAddr, rate: &Rate, now: Timestamp) -> bool {
        let may = self.buckets().has(&super::clients::client(client), rate, now);
        if !may {
            self.count(Try::HeldOff);
        }
        may
    }

    pub fn failed(&self, client: IpAddr, rate: &Rate, now: Timestamp) {
        self.count(Try::Failed);
        // Whether this was the last one is asked at the next try.
        let _ = self.buckets().take(super::clients::client(client), rate, now);
    }

    pub fn count(&self, what: Try) {
        self.counts[what as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// How often this happened.
    pub fn counted(&self, what: Try) -> u64 {
        self.counts[what as usize].load(Ordering::Relaxed)
    }

    fn buckets(&self) -> MutexGuard<'_, Buckets<IpAddr>> {
        // Counting cannot panic half way.
        self.failed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
