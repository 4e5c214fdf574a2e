//! One byte budget for what mail occupies in memory (design decision 12): over it we stop reading, and
//! after a while answer 452 instead of growing.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Permits are KiB, so that a `u32` counts terabytes.
const UNIT: u64 = 1024;
/// How long a transaction waits for others to finish.
const PATIENCE: Duration = Duration::from_secs(30);

/// Shared by reception, decision and delivery. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Budget {
    free: Arc<Semaphore>,
    total: u32,
}

/// Bytes that one transaction holds; given back when dropped.
#[derive(Debug)]
pub struct Share {
    _permit: OwnedSemaphorePermit,
}

impl Budget {
    pub fn new(bytes: u64) -> Self {
        let total = u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX >> 4).min(u32::MAX >> 4);
        Self { free: Arc::new(Semaphore::new(total as usize)), total }
    }

    /// Half of the memory this process may use: its cgroup's limit, else the machine's memory.
    pub fn of_this_machine() -> Self {
        Self::new(memory_limit().unwrap_or(1 << 30) / 2)
    }

    /// Takes `bytes` (at most a quarter of the whole), waiting up to 30 s for others to finish. `None`: there
    /// was no room in that time.
    pub async fn take(&self, bytes: u64) -> Option<Share> {
        let units = u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX).min(self.total / 4).max(1);
        let wait = Arc::clone(&self.free).acquire_many_owned(units);
        match tokio::time::timeout(PATIENCE, wait).await {
            Ok(Ok(permit)) => Some(Share { _permit: permit }),
            Ok(Err(_)) | Err(_) => None,
        }
    }
}

/// The cgroup's memory limit (v2, then v1), or the machine's memory, in bytes.
fn memory_limit() -> Option<u64> {
    let number = |path: &str| std::fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    let total = std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| {
        let line = text.lines().find(|line| line.starts_with("MemTotal:"))?;
        line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kib| kib * 1024)
    });
    let limit = number("/sys/fs/cgroup/memory.max")
        .or_else(|| number("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
        .unwrap_or(u64::MAX);
    total.map(|total| total.min(limit)).or((limit < u64::MAX).then_some(limit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn over_the_budget_a_transaction_waits_and_then_gives_up() {
        let budget = Budget::new(4 * UNIT);
        let held: Vec<Share> = futures::future::join_all((0..4).map(|_| budget.take(UNIT)))
            .await
            .into_iter()
            .map(|share| share.expect("there is room"))
            .collect();
        assert!(budget.take(UNIT).await.is_none());
        drop(held);
        assert!(budget.take(UNIT).await.is_some());
    }
}
