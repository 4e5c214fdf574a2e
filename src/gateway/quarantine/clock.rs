//! What happens to held mail by itself: deletion when its retention is over, and the regular summaries for
//! reviewers (spec R74). When a summary was last written is kept beside the spool, so that a restart repeats
//! none.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use super::{Desk, Expiry, Row, hold, letters};
use crate::bundle::document::{Digest, Quarantine};
use crate::gateway::files;
use crate::gateway::live::Running;

/// New summaries and jumps of the wall clock are noticed within this time.
const LONGEST_SLEEP: Duration = Duration::from_secs(15);
/// Somebody may be deciding about what is due.
const SHORTEST_SLEEP: Duration = Duration::from_millis(50);
/// Messages that one summary lists; the rest is counted.
const LISTED: usize = 200;
const FILE: &str = "digests.json";

/// Runs until it is told to stop.
pub async fn keep(desk: Desk, stop: CancellationToken) {
    let mut digests = Digests::read(desk.spool().dir());
    loop {
        let now = Timestamp::now();
        let expiry = desk.expire(now).await;
        if let Some(running) = desk.running() {
            digests.write_due(&desk, &running, now).await;
        }
        let next = [desk.spool().next_expiry(), digests.next].into_iter().flatten().min();
        let sleep = match (expiry, next) {
            (Expiry::More, _) => Duration::ZERO,
            (Expiry::Failed, _) | (Expiry::Done, None) => LONGEST_SLEEP,
            (Expiry::Done, Some(next)) => Duration::try_from(next.duration_since(Timestamp::now()))
                .unwrap_or_default()
                .clamp(SHORTEST_SLEEP, LONGEST_SLEEP),
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(sleep) => {}
        }
    }
}

/// When each quarantine's summary was written.
struct Digests {
    file: PathBuf,
    written: BTreeMap<String, Timestamp>,
    next: Option<Timestamp>,
}

impl Digests {
    /// A file that cannot be read is a first start: the next summary is one interval away.
    fn read(folder: &Path) -> Self {
        let file = folder.join(FILE);
        let text = std::fs::read(&file).ok();
        let written = text.and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default();
        Self { file, written, next: None }
    }

    async fn write_due(&mut self, desk: &Desk, running: &Running, now: Timestamp) {
        let before = self.written.clone();
        let plan = plan(&running.bundle.quarantines, &self.written, now);
        self.next = plan.next;
        self.written = plan.written;
        if self.written != before {
            // Before anything is sent: a summary that is lost is made up for by the next, which lists all.
            let text = serde_json::to_vec(&self.written).expect("the keys are strings");
            if let Err(error) = files::replace(&self.file, &text) {
                tracing::warn!(%error, "summaries of held mail wait: the time of the last cannot be kept");
                self.written = before;
                return;
            }
        }
        for (label, digest) in plan.due {
            let (rows, more) = collect(desk, &label).await;
            if rows.is_empty() {
                continue;
            }
            let id = desk.spool().new_id();
            let letter = letters::digest(running, id, now, &digest.to, &label, &rows, more);
            match desk.spool().commit(vec![letter]).await {
                Ok(_) => tracing::info!(%id, quarantine = label, held = rows.len() + more, "summary written"),
                Err(error) => tracing::warn!(%error, quarantine = label, "a summary is left out"),
            }
        }
    }
}

struct Plan {
    written: BTreeMap<String, Timestamp>,
    due: Vec<(String, Digest)>,
    next: Option<Timestamp>,
}

/// Whose summary is due. Pure. A quarantine seen for the first time waits one interval.
fn plan(quarantines: &[Quarantine], written: &BTreeMap<String, Timestamp>, now: Timestamp) -> Plan {
    let mut plan = Plan { written: BTreeMap::new(), due: Vec::new(), next: None };
    for quarantine in quarantines {
        let Some(digest) = &quarantine.digest else { continue };
        let label = hold::label(Some(quarantine));
        let every = Duration::from_millis(digest.every_ms.max(1));
        let later = |at: Timestamp| at.checked_add(every).unwrap_or(Timestamp::MAX);
        let last = written.get(&label).copied().unwrap_or(now);
        let (last, next) = if later(last) <= now {
            plan.due.push((label.clone(), digest.clone()));
            (now, later(now))
        } else {
            (last, later(last))
        };
        plan.next = Some(plan.next.map_or(next, |known: Timestamp| known.min(next)));
        plan.written.insert(label, last);
    }
    plan
}

/// What a quarantine holds: the oldest, and how many more.
async fn collect(desk: &Desk, label: &str) -> (Vec<Row>, usize) {
    let (mut rows, mut more, mut after) = (Vec::new(), 0, None);
    loop {
        let page = desk.list(Some(label), after, super::PAGE).await;
        for row in page.messages {
            if rows.len() < LISTED { rows.push(row) } else { more += 1 }
        }
        after = page.next.and_then(|next| next.parse().ok());
        if after.is_none() {
            return (rows, more);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bundle::document::{ObjectKind, OnDeny};
    use crate::policy::testing;

    #[test]
    fn a_summary_is_due_once_in_each_interval_also_over_a_restart() {
        let at = |seconds| Timestamp::from_second(seconds).expect("a time");
        let quarantine = |name: &str, every_ms| Quarantine {
            origin: testing::origin(ObjectKind::Quarantine, name),
            retention_ms: 1000,
            on_deny: OnDeny::Drop,
            digest: Some(Digest { to: vec![], every_ms }),
        };
        let all = [quarantine("legal", 60_000), quarantine("default", 3_600_000)];
        let due = |plan: &Plan| plan.due.iter().map(|(label, _)| label.clone()).collect::<Vec<_>>();
        let first = plan(&all, &BTreeMap::new(), at(0));
        assert!(due(&first).is_empty(), "the first comes after one interval");
        assert_eq!(first.next, Some(at(60)));
        let early = plan(&all, &first.written, at(59));
        assert!(due(&early).is_empty());
        let second = plan(&all, &early.written, at(61));
        assert_eq!((due(&second), second.next), (vec!["mail/legal".to_owned()], Some(at(121))));
        assert!(due(&plan(&all, &second.written, at(62))).is_empty(), "a restart reads what was written");
        let gone = plan(&all[1..], &second.written, at(3600));
        assert_eq!((due(&gone), gone.written.len()), (vec!["default".to_owned()], 1));
    }
}
