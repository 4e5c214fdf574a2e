//! One byte budget for what mail occupies in memory (design decision 12): half of what this process may use,
//! divided once between all that hold mail, so that no stage can starve another. Over its part a stage waits
//! (reception stops reading), and after a while answers 452 instead of growing.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Permits are KiB, so that a `u32` counts terabytes.
const UNIT: u64 = 1024;
/// How long a transaction waits for others to finish.
const PATIENCE: Duration = Duration::from_secs(30);

/// The parts of the one budget. The other half of the memory is for everything that does not grow with the mail
/// on its way, and for pages of content files, which the kernel drops when it needs them.
#[derive(Clone, Debug)]
pub struct Budgets {
    /// Sessions that receive content, and judging messages that are not large.
    pub reception: Budget,
    /// Judging large messages: their decoded text. Apart, so that small mail never stands in line behind them.
    pub large: Budget,
    /// Content of mail that waits for its first attempt, so that it need not be read from the disk.
    pub warm: u64,
    /// Messages in line for a destination; and the same again for messages that are changed on their way out.
    pub delivery: u64,
}

/// More than this for mail that waits gains nothing.
const ENOUGH: u64 = 64 << 20;

impl Budgets {
    /// Half of the memory this process may use: its cgroup's limit, else the machine's memory.
    pub fn of_this_machine() -> Self {
        Self::divide(memory_limit().unwrap_or(1 << 30) / 2)
    }

    fn divide(total: u64) -> Self {
        let part = (total / 8).min(ENOUGH);
        let rest = total - 3 * part;
        let large = rest * 3 / 5;
        Self { reception: Budget::new(rest - large), large: Budget::new(large), warm: part, delivery: part }
    }
}

/// One part. Cheap to clone.
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

    /// Takes `bytes`, waiting up to 30 s for others to finish. Who needs more than the whole has the whole, alone.
    /// `None`: there was no room in that time.
    pub async fn take(&self, bytes: u64) -> Option<Share> {
        let units = u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX).clamp(1, self.total.max(1));
        let wait = Arc::clone(&self.free).acquire_many_owned(units);
        match tokio::time::timeout(PATIENCE, wait).await {
            Ok(Ok(permit)) => Some(Share { _permit: permit }),
            Ok(Err(_)) | Err(_) => None,
        }
    }

    /// Takes `bytes` at once, if half of the whole stays free: for what only makes things faster.
    pub fn take_spare(&self, bytes: u64) -> Option<Share> {
        let units = u32::try_from(bytes.div_ceil(UNIT)).ok()?;
        let needed = units.checked_add(self.total / 2)? as usize;
        if self.free.available_permits() < needed {
            return None;
        }
        Arc::clone(&self.free).try_acquire_many_owned(units).ok().map(|permit| Share { _permit: permit })
    }
}

/// The least of what the cgroups of this process and the machine allow, in bytes.
fn memory_limit() -> Option<u64> {
    let number = |path: &str| std::fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    let machine = std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| {
        let line = text.lines().find(|line| line.starts_with("MemTotal:"))?;
        line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kib| kib * 1024)
    });
    let own = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    limit_files(&own).iter().filter_map(|path| number(path)).chain(machine).min()
}

/// Where limits of this process may stand (cgroup v2, then v1), from `/proc/self/cgroup`: its own group's and
/// those of all groups around it. In a container the own group is usually shown as `/`.
fn limit_files(own: &str) -> Vec<String> {
    let mut files = Vec::new();
    for line in own.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
        let (root, name) = match controllers {
            "" => ("/sys/fs/cgroup", "memory.max"),
            _ if controllers.split(',').any(|name| name == "memory") => {
                ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")
            }
            _ => continue,
        };
        let mut group = path.trim_end_matches('/');
        loop {
            files.push(format!("{root}{group}/{name}"));
            let Some((around, _)) = group.rsplit_once('/') else { break };
            group = around;
        }
    }
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_spare_is_at_most_half() {
        let budget = Budget::new(4 * UNIT);
        let one = budget.take_spare(UNIT).expect("three are left");
        let two = budget.take_spare(UNIT).expect("two are left");
        assert!(budget.take_spare(UNIT).is_none() && budget.take_spare(u64::MAX).is_none());
        drop((one, two));
        assert!(budget.take_spare(3 * UNIT).is_none() && budget.take_spare(2 * UNIT).is_some());
    }

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

    #[tokio::test(start_paused = true)]
    async fn what_is_larger_than_the_whole_is_alone() {
        let budget = Budget::new(4 * UNIT);
        let all = budget.take(100 * UNIT).await.expect("nobody else is there");
        assert!(budget.take(1).await.is_none());
        drop(all);
        assert!(budget.take(1).await.is_some());
    }

    #[test]
    fn the_parts_are_the_whole_and_no_more() {
        for total in [16 << 20, 256 << 20, 8 << 30] {
            let Budgets { reception, large, warm, delivery } = Budgets::divide(total);
            let of = |budget: &Budget| u64::from(budget.total) * UNIT;
            let sum = of(&reception) + of(&large) + warm + 2 * delivery;
            assert!(sum <= total + 2 * UNIT && sum > total - 2 * UNIT, "{sum} of {total}");
        }
        // 200 sessions of any size at once, in a pod of 512 MiB.
        let Budgets { reception, .. } = Budgets::divide(256 << 20);
        assert!(u64::from(reception.total) * UNIT >= 200 * (256 << 10));
    }

    #[test]
    fn limits_are_looked_for_in_the_own_group_and_all_around_it() {
        let v2 = limit_files("0::/pods/mail\n");
        let names = ["/pods/mail/memory.max", "/pods/memory.max", "/memory.max"];
        assert_eq!(v2, names.map(|name| format!("/sys/fs/cgroup{name}")));
        let v1 = limit_files("4:cpu,memory:/a\n3:cpuset:/b\n");
        let names = ["/a/memory.limit_in_bytes", "/memory.limit_in_bytes"];
        assert_eq!(v1, names.map(|name| format!("/sys/fs/cgroup/memory{name}")));
        assert_eq!(limit_files("0::/\n"), ["/sys/fs/cgroup/memory.max"]);
    }
}
