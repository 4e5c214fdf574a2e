//! What passes remember of one another, so that a change costs what changed. It never shows in what a pass decides.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::conflicts;
use super::rules;

/// Of one gateway. Clones share it.
#[derive(Clone, Default)]
pub struct Memory(Arc<Mutex<Remembered>>);

#[derive(Default)]
pub(super) struct Remembered {
    pub rules: rules::Kept,
    pub conflicts: conflicts::Found,
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Memory")
    }
}

impl Memory {
    /// For the time of a pass.
    pub(super) fn lock(&self) -> MutexGuard<'_, Remembered> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many rules were translated so far, and how many were held against the others, for tests and benches.
    pub fn work(&self) -> (u64, u64) {
        let remembered = self.lock();
        (remembered.rules.translated(), remembered.conflicts.compared())
    }
}

#[cfg(test)]
mod tests;
