//! The queue as people and other parts of the gateway look at it: in pages, without its contents. Nothing here
//! holds the index for longer than one page, whatever the queue's length.

use std::collections::BinaryHeap;
use std::io;
use std::sync::Arc;

use jiff::Timestamp;
use tokio::task;

use super::entry::{Entry, Fate};
use super::handout::{Found, find};
use super::id::QueueId;
use super::items::State;
use super::shared::Shared;
use super::{Spool, Summary};

/// A message as it stands, without its content.
#[derive(Debug, Clone)]
pub struct Standing {
    pub id: QueueId,
    pub size: u64,
    pub entry: Arc<Entry>,
    /// As many as the entry has targets.
    pub fates: Arc<[Fate]>,
    /// Recipients of whom an attempt runs right now.
    pub in_flight: Vec<usize>,
}

impl Standing {
    /// Recipients without a final outcome.
    pub fn waiting(&self) -> impl Iterator<Item = usize> {
        let waits = |fate: &Fate| matches!(fate, Fate::Waiting(_));
        self.fates.iter().enumerate().filter(move |(_, fate)| waits(fate)).map(|(target, _)| target)
    }
}

impl Spool {
    /// Messages that wait for their delivery, behind this one, oldest first, at most `limit`. Looks at every
    /// message, a thousand at a time and the lock free in between (50 ms for a million): large pages go through a
    /// queue faster than small ones.
    pub async fn page(&self, after: Option<QueueId>, limit: usize) -> Vec<Summary> {
        let shared = Arc::clone(&self.inner.shared);
        task::spawn_blocking(move || page(&shared, after, limit)).await.unwrap_or_default()
    }

    /// How these messages stand; those that are finished or cannot be read are left out (and told in the log).
    /// Reads the disk, in one go.
    pub async fn standings(&self, ids: Vec<QueueId>) -> Vec<Standing> {
        let shared = Arc::clone(&self.inner.shared);
        let read = move || {
            let mut standings = Vec::with_capacity(ids.len());
            for id in ids {
                match standing(&shared, id) {
                    Ok(found) => standings.extend(found),
                    Err(error) => tracing::error!(queue_id = %id, %error, "a message cannot be read"),
                }
            }
            standings
        };
        task::spawn_blocking(read).await.unwrap_or_default()
    }

    /// Makes recipients due at this time; with `sooner` only those that would be due later. Those that are
    /// attempted right now, and those that wait no more, stay as they are. Returns how many changed. Holds for
    /// this process: nothing is written.
    pub fn retime(&self, id: QueueId, targets: &[usize], at: Timestamp, sooner: bool) -> usize {
        let changed = self.inner.shared.index().retime(id, targets, at, sooner);
        if changed > 0 {
            self.inner.shared.wake.notify_one();
        }
        changed
    }
}

fn page(shared: &Shared, after: Option<QueueId>, limit: usize) -> Vec<Summary> {
    let mut oldest = BinaryHeap::new();
    let mut step = 0;
    while limit > 0 && shared.index().gather(step, after, limit, State::is_waiting, &mut oldest) {
        step += 1;
    }
    let ids = oldest.into_sorted_vec();
    let mut page = Vec::with_capacity(ids.len());
    for some in ids.chunks(256) {
        let index = shared.index();
        page.extend(some.iter().filter_map(|id| index.summary(*id)));
    }
    page
}

fn standing(shared: &Shared, id: QueueId) -> io::Result<Option<Standing>> {
    if let Some(standing) = shared.index().standing(id, None) {
        return Ok(Some(standing));
    }
    let Some(Found { entry, .. }) = find(shared, id)? else { return Ok(None) };
    Ok(shared.index().standing(id, Some(&entry)))
}
