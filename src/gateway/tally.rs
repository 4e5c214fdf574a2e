//! What became of mail under one revision, for the controller that tries a revision on some pods first
//! (spec R156). Numbers only: nothing here decides.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::bundle::Counts;
use crate::delivery::Tried;

/// Counts from the moment its revision was loaded.
#[derive(Debug, Default)]
pub struct Tally {
    messages: AtomicU64,
    rejected: AtomicU64,
    deferred: AtomicU64,
    deliveries: Arc<Tried>,
    /// What deliveries had counted before.
    before: (u64, u64),
}

impl Tally {
    pub fn begin(deliveries: Arc<Tried>) -> Self {
        let before = read(&deliveries);
        Self { deliveries, before, ..Self::default() }
    }

    /// A message was answered after its data; `result` as in `postern_messages`.
    pub fn answered(&self, result: &str) {
        let own = match result {
            "accepted" => None,
            "rejected" => Some(&self.rejected),
            "deferred" => Some(&self.deferred),
            // A full disk says nothing of a revision.
            _ => return,
        };
        self.messages.fetch_add(1, Ordering::Relaxed);
        if let Some(own) = own {
            own.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub fn counts(&self) -> Counts {
        let (attempts, tls_failures) = read(&self.deliveries);
        Counts {
            messages: self.messages.load(Ordering::Relaxed),
            rejected: self.rejected.load(Ordering::Relaxed),
            deferred: self.deferred.load(Ordering::Relaxed),
            attempts: attempts.saturating_sub(self.before.0),
            tls_failures: tls_failures.saturating_sub(self.before.1),
        }
    }
}

fn read(deliveries: &Tried) -> (u64, u64) {
    (deliveries.attempts.load(Ordering::Relaxed), deliveries.tls_failures.load(Ordering::Relaxed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_revision_is_blamed_only_for_what_came_after_it() {
        let deliveries = Arc::new(Tried::default());
        deliveries.attempts.store(10, Ordering::Relaxed);
        let tally = Tally::begin(Arc::clone(&deliveries));
        ["accepted", "rejected", "deferred", "refused"].into_iter().for_each(|word| tally.answered(word));
        deliveries.attempts.fetch_add(3, Ordering::Relaxed);
        deliveries.tls_failures.fetch_add(1, Ordering::Relaxed);
        let counts = Counts { messages: 3, rejected: 1, deferred: 1, attempts: 3, tls_failures: 1 };
        assert_eq!(tally.counts(), counts);
    }
}
