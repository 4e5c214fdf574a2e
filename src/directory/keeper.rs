//! Reads the servers of all Directories now and then, and keeps what each said last. One task owns all of it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{ReadError, Settings, read};
use crate::translate::ObjectKey;
use crate::translate::ldap::{LdapFacts, Snapshot};

/// After a reading that failed, at most; sooner when the Directory asks for it.
const RETRY: Duration = Duration::from_secs(30);

/// A Directory that wants to be read.
#[derive(Debug, Clone, PartialEq)]
pub struct Wanted {
    /// What it says; a change of it is read at once and may shrink.
    pub generation: i64,
    pub settings: Settings,
}

/// Shared by whoever translates and the task that reads.
#[derive(Debug, Default)]
pub struct Keeper {
    directories: Mutex<BTreeMap<ObjectKey, Kept>>,
    wake: Notify,
}

#[derive(Debug)]
struct Kept {
    /// The gateway that uses it.
    owner: ObjectKey,
    wanted: Wanted,
    next: Instant,
    reading: bool,
    /// The generation that `facts.snapshot` was read for.
    read_for: Option<i64>,
    facts: LdapFacts,
}

impl Keeper {
    /// Says which Directories gateway `owner` wants read from now on, and no others of those it wanted before.
    pub fn want(&self, owner: &ObjectKey, wanted: BTreeMap<ObjectKey, Wanted>) {
        let mut news = false;
        let mut directories = self.lock();
        directories.retain(|key, kept| kept.owner != *owner || wanted.contains_key(key));
        for (key, wanted) in wanted {
            match directories.get_mut(&key) {
                Some(kept) => {
                    kept.owner = owner.clone();
                    if kept.wanted != wanted {
                        (kept.wanted, kept.next) = (wanted, Instant::now());
                        news = true;
                    }
                }
                None => {
                    let kept = Kept {
                        owner: owner.clone(),
                        wanted,
                        next: Instant::now(),
                        reading: false,
                        read_for: None,
                        facts: LdapFacts::default(),
                    };
                    directories.insert(key, kept);
                    news = true;
                }
            }
        }
        if news {
            self.wake.notify_one();
        }
    }

    /// What is known of each now.
    pub fn facts(&self) -> BTreeMap<ObjectKey, LdapFacts> {
        self.lock().iter().map(|(key, kept)| (key.clone(), kept.facts.clone())).collect()
    }

    /// Reads until `stop`; `news` is called with the gateway of each Directory of which something else is known
    /// than before.
    pub async fn run(self: Arc<Self>, news: impl Fn(&ObjectKey), stop: CancellationToken) {
        let mut readings: JoinSet<(ObjectKey, Wanted, Result<Snapshot, ReadError>)> = JoinSet::new();
        loop {
            let next = self.begin(&mut readings);
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                () = self.wake.notified() => {}
                () = tokio::time::sleep_until(next) => {}
                Some(done) = readings.join_next() => {
                    let Ok((key, wanted, result)) = done else { continue };
                    if let Some(owner) = self.note(&key, &wanted, result, Timestamp::now()) {
                        news(&owner);
                    }
                }
            }
        }
        readings.shutdown().await;
    }

    /// Starts what is due; when there is something to do again.
    fn begin(&self, readings: &mut JoinSet<(ObjectKey, Wanted, Result<Snapshot, ReadError>)>) -> Instant {
        let now = Instant::now();
        let mut directories = self.lock();
        for (key, kept) in directories.iter_mut().filter(|(_, kept)| !kept.reading && kept.next <= now) {
            kept.reading = true;
            let (key, wanted) = (key.clone(), kept.wanted.clone());
            readings.spawn(async move {
                let result = read(&wanted.settings).await;
                (key, wanted, result)
            });
        }
        let waiting = directories.values().filter(|kept| !kept.reading).map(|kept| kept.next).min();
        waiting.unwrap_or(now + Duration::from_secs(3600))
    }

    /// Takes one result; whose it is, if anything is known now that was not.
    fn note(
        &self,
        key: &ObjectKey,
        read: &Wanted,
        result: Result<Snapshot, ReadError>,
        now: Timestamp,
    ) -> Option<ObjectKey> {
        let mut directories = self.lock();
        let kept = directories.get_mut(key)?;
        kept.reading = false;
        // Its settings changed meanwhile: `next` is now, and this answer is to an old question.
        if kept.wanted != *read {
            return None;
        }
        let refresh = read.settings.refresh;
        let before = kept.facts.clone();
        let same_question = kept.read_for == Some(read.generation);
        match accept(kept.facts.snapshot.as_deref().filter(|_| same_question), result) {
            Ok(snapshot) => {
                kept.facts.problem = None;
                kept.read_for = Some(read.generation);
                if kept.facts.snapshot.as_deref() != Some(&snapshot) {
                    kept.facts.snapshot = Some(Arc::new(snapshot));
                }
                kept.next = Instant::now() + refresh;
            }
            Err(why) => {
                tracing::warn!(directory = %key, why, "an LDAP server gave nothing to go by");
                let said = |problem: &String| problem.ends_with(&why);
                if !kept.facts.problem.as_ref().is_some_and(said) {
                    let since = now.strftime("%Y-%m-%d %H:%M:%S UTC");
                    kept.facts.problem = Some(format!("not read since {since}: {why}"));
                }
                kept.next = Instant::now() + refresh.min(RETRY);
            }
        }
        (kept.facts != before).then(|| kept.owner.clone())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<ObjectKey, Kept>> {
        self.directories.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a result may replace what was known: a directory that lost more than half of its people at once has
/// an accident, not a reform.
fn accept(last: Option<&Snapshot>, result: Result<Snapshot, ReadError>) -> Result<Snapshot, String> {
    let snapshot = result.map_err(|error| error.to_string())?;
    let Some(last) = last else { return Ok(snapshot) };
    for (what, before, now) in [
        ("users", last.users.len(), snapshot.users.len()),
        ("groups", last.groups.len(), snapshot.groups.len()),
        ("certificates", last.certificates.len(), snapshot.certificates.len()),
    ] {
        if now < before / 2 {
            return Err(format!(
                "it shows {now} {what} where there were {before}; more than half are gone, so the former stay in \
                 force until the Directory object is changed"
            ));
        }
    }
    Ok(snapshot)
}
