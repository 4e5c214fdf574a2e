//! Mail on its way out of the spool: what is due, with its content, for whoever delivers it. Mail that
//! was never attempted is mostly still in memory; the rest is read from the log, many messages at a
//! time on a thread that may wait for the disk.
//!
//! What must not happen here: a message handed out twice, or taken out of the queues and forgotten.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::join_all;
use jiff::Timestamp;
use tokio::task;

use super::content::{Body, Content, damaged};
use super::due::{Batch, Place, Taken, Warm};
use super::entry::Entry;
use super::id::QueueId;
use super::record::{self, Head, Header, MESSAGE};
use super::segment;
use super::shared::{Shared, is_exhausted, lock};
use super::store::{File, Store};
use super::{Due, Queued, Spool};

/// A message that cannot be read is tried again this much later.
const UNREADABLE_RETRY: Duration = Duration::from_secs(300);
/// The same when nothing is wrong with the message: the process had no descriptor or memory left.
const EXHAUSTED_RETRY: Duration = Duration::from_secs(1);
/// Wall clocks jump: what is due is looked at again at least this often.
const LONGEST_SLEEP: Duration = Duration::from_secs(15);

impl Spool {
    /// The next message whose time has come; see [`Spool::take_due`].
    pub async fn next_due(&self) -> Due {
        self.take_due(1, u64::MAX).await.pop().expect("there is at least one")
    }

    /// Messages whose time has come, oldest first, new mail and retries by turns; waits until there is
    /// one. Newly committed mail is due at once. No more than `max` (and at least one), and no more
    /// than have `bytes` of content in memory together (content that is mapped from a file counts
    /// 64 KiB). What is not in memory is read in one go, in the order it lies on disk: a backlog is
    /// best taken in batches of a hundred. May be dropped while it waits.
    pub async fn take_due(&self, max: usize, bytes: u64) -> Vec<Due> {
        let shared = &self.inner.shared;
        loop {
            let now = Timestamp::now();
            // In its own statement: the lock must be gone before anything is awaited.
            let Batch { taken, until } = shared.index().take_due(now, max, bytes);
            if taken.is_empty() {
                let left = until.map_or(LONGEST_SLEEP, |until| {
                    Duration::try_from(until.duration_since(now)).unwrap_or_default().min(LONGEST_SLEEP)
                });
                // Time over or told: both mean to look again.
                let _ = tokio::time::timeout(left, shared.wake.notified()).await;
                continue;
            }
            // Others may be due too, and others may be waiting for them.
            shared.wake.notify_one();
            let due = self.fill(taken).await;
            if !due.is_empty() {
                return due;
            }
        }
    }

    /// Gets what the messages handed out consist of. Without those that the disk has no more: they come
    /// again at a later time.
    async fn fill(&self, taken: Vec<Taken>) -> Vec<Due> {
        let shared = &self.inner.shared;
        let parts: Vec<(GiveBack<'_>, Taken)> = taken
            .into_iter()
            .map(|mut taken| {
                let targets = Some(std::mem::take(&mut taken.targets));
                (GiveBack { shared, id: taken.id, targets, delay: Duration::ZERO }, taken)
            })
            .collect();
        let cold: Vec<QueueId> =
            parts.iter().filter(|(_, taken)| taken.warm.is_none()).map(|(_, taken)| taken.id).collect();
        let mut read = if cold.is_empty() { Vec::new() } else { self.load(cold).await }.into_iter();
        let mut due = Vec::with_capacity(parts.len());
        for (mut back, taken) in parts {
            let Taken { id, fates, warm, .. } = taken;
            let warm = match warm {
                Some(warm) => warm,
                None => match read.next().expect("each that was asked for is answered") {
                    Ok(Some(warm)) => warm,
                    Ok(None) => continue,
                    Err(error) => {
                        tracing::error!(queue_id = %id, %error, "a message cannot be read; it is tried again later");
                        back.delay = if is_exhausted(&error) { EXHAUSTED_RETRY } else { UNREADABLE_RETRY };
                        continue;
                    }
                },
            };
            let targets = back.keep();
            due.push(Due { queued: Queued { id, entry: warm.entry, fates, content: warm.content }, targets });
        }
        due
    }

    /// Reads messages from disk: all that lies in the log on one thread, each large content on one of
    /// its own. One answer for each, in their order; None: it is not there any more.
    async fn load(&self, ids: Vec<QueueId>) -> Vec<io::Result<Option<Warm>>> {
        let count = ids.len();
        let shared = self.inner.shared.clone();
        let all = |error: io::Error| {
            (0..count).map(|_| Err(io::Error::new(error.kind(), error.to_string()))).collect()
        };
        let read: Vec<io::Result<Option<Found>>> =
            match task::spawn_blocking(move || ids.into_iter().map(|id| find(&shared, id)).collect()).await {
                Ok(read) => read,
                Err(error) => all(io::Error::other(error)),
            };
        join_all(read.into_iter().map(async |found| {
            let Some(found) = found? else { return Ok(None) };
            let Found { entry, content } = found;
            let content = match content {
                Ok(content) => content,
                Err(at) => {
                    let shared = self.inner.shared.clone();
                    let body = task::spawn_blocking(move || Body::load(&shared, at));
                    Content::from_body(body.await.unwrap_or_else(|error| Err(io::Error::other(error)))?)
                }
            };
            Ok(Some(Warm { entry, content }))
        }))
        .await
    }

    /// One message with its content, whatever its state; None when it is finished or unknown.
    pub async fn get(&self, id: QueueId) -> io::Result<Option<Queued>> {
        let Some(fates) = self.inner.shared.index().fates(id) else { return Ok(None) };
        let loaded = self.load(vec![id]).await.pop().expect("one was asked for");
        Ok(loaded?.map(|Warm { entry, content }| Queued { id, entry, fates, content }))
    }
}

/// Puts recipients back if the message does not get out of the door.
struct GiveBack<'a> {
    shared: &'a Shared,
    id: QueueId,
    targets: Option<Vec<usize>>,
    delay: Duration,
}

impl GiveBack<'_> {
    fn keep(mut self) -> Vec<usize> {
        self.targets.take().expect("they are taken only here and when dropped")
    }
}

impl Drop for GiveBack<'_> {
    fn drop(&mut self) {
        if let Some(targets) = self.targets.take() {
            let later = Timestamp::now() + self.delay;
            let times: Vec<_> = targets.into_iter().map(|target| (target, later)).collect();
            self.shared.index().release(self.id, &times);
            self.shared.wake.notify_one();
        }
    }
}

/// A message's record, read; its content is in it or in the file named.
pub(super) struct Found {
    pub entry: Arc<Entry>,
    content: Result<Content, record::BodyRef>,
}

/// Reads a message's record. Blocks.
pub(super) fn find(shared: &Shared, id: QueueId) -> io::Result<Option<Found>> {
    loop {
        let place = shared.index().place(id);
        let Some(place) = place else { return Ok(None) };
        match find_at(shared, id, place) {
            // It may have moved while we read.
            Err(_) if shared.index().place(id) != Some(place) => {}
            other => return other.map(Some),
        }
    }
}

fn find_at(shared: &Shared, id: QueueId, place: Place) -> io::Result<Found> {
    let file = shared.readers.open(&*shared.store, place.segment)?;
    let mut record = vec![0; usize::try_from(place.len).map_err(io::Error::other)?];
    let read = file.read_at(&mut record, place.offset)?;
    let header = Header::read(&record[..read], (place.segment, place.offset));
    let header = header.filter(|header| header.kind == MESSAGE && header.len() == place.len);
    let header = header.filter(|header| read == record.len() && header.verify(&record));
    let header = header.ok_or_else(|| damaged("the message's record is not as it was written"))?;
    let (head, rest) = record::decode::<Head>(header.meta(&record))
        .filter(|(head, _)| head.id == id)
        .ok_or_else(|| damaged("the message's record is about another message"))?;
    let (entry, _) =
        record::decode::<Entry>(rest).ok_or_else(|| damaged("the message's envelope cannot be read"))?;
    let content = match head.body {
        Some(body) => Err(body),
        None => Ok(Content::part(record, header.body())),
    };
    Ok(Found { entry: Arc::new(entry), content })
}

/// Segments that were read lately, kept open.
#[derive(Default)]
pub(super) struct Readers(Mutex<VecDeque<(u64, Arc<dyn File>)>>);

impl Readers {
    const MOST: usize = 8;

    fn open(&self, store: &dyn Store, segment: u64) -> io::Result<Arc<dyn File>> {
        if let Some((_, file)) = lock(&self.0).iter().find(|(number, _)| *number == segment) {
            return Ok(file.clone());
        }
        let file = store.open(&segment::name(segment))?;
        let mut open = lock(&self.0);
        if open.len() >= Readers::MOST {
            open.pop_front();
        }
        open.push_back((segment, file.clone()));
        Ok(file)
    }

    /// A segment is gone: an open file would keep its room on the disk.
    pub fn close(&self, segment: u64) {
        lock(&self.0).retain(|(number, _)| *number != segment);
    }
}
