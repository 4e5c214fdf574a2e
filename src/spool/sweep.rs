//! The sweeper: a thread that keeps the disk's use near what is alive. It removes content files and
//! dead segments, makes the next segment ready, and carries the living out of the oldest segment
//! when too much of the log is dead. Nothing here is urgent, and no commit waits for it.
//!
//! Oldest first: news of a message always lies behind it, so when the oldest segment is gone no
//! later one is kept for its sake, and the log's length is bounded by what lives in it.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use tokio::sync::oneshot;

use super::commit::{Carries, Carry};
use super::content::Content;
use super::due::{Dead, Place};
use super::id::QueueId;
use super::record::{Head, MESSAGE, body_name, decode};
use super::scan::{Found, Scan};
use super::segment::{self, Spare};
use super::shared::Shared;
use super::store::Store;

/// What the sweeper is asked to do.
pub(super) enum Chore {
    /// Remove a content file that no durable record needs.
    Remove(QueueId),
    /// Remove a segment that was made ready and not used.
    RemoveSegment(u64),
    /// Make the next segment ready.
    Prepare,
    /// Look for segments that may go.
    Sweep,
    Stop,
}

/// Bytes carried over in one commit, so that commits of new mail are not held up.
const LOAD: u64 = 1 << 20;
/// After trouble with the disk it is tried again this often.
const RETRY: Duration = Duration::from_secs(1);

pub(super) struct Sweeper {
    shared: Arc<Shared>,
    /// What could not be removed yet.
    left: Vec<String>,
    again: bool,
}

impl Sweeper {
    pub fn new(shared: Arc<Shared>) -> Sweeper {
        Sweeper { shared, left: Vec::new(), again: false }
    }

    /// The thread's whole life.
    pub fn run(mut self, chores: &Receiver<Chore>) {
        loop {
            let chore = match self.again || !self.left.is_empty() {
                true => chores.recv_timeout(RETRY),
                false => chores.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            match chore {
                Ok(Chore::Remove(file)) => self.remove(body_name(file)),
                Ok(Chore::RemoveSegment(number)) => self.remove(segment::name(number)),
                Ok(Chore::Prepare) => self.prepare(),
                Ok(Chore::Sweep) => self.sweep(),
                Err(RecvTimeoutError::Timeout) => {
                    for name in std::mem::take(&mut self.left) {
                        self.remove(name);
                    }
                    self.sweep();
                }
                Ok(Chore::Stop) | Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn remove(&mut self, name: String) {
        match self.shared.store.remove(&name) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(_) => self.left.push(name),
        }
    }

    /// Makes the next segment ready. A disk that does not allow it will tell who needs it.
    pub fn prepare(&self) {
        if self.shared.spares.is_empty()
            && let Ok(spare) = Spare::make(&self.shared, 0)
        {
            // Not filled it is a slower segment, and a segment.
            let _ = spare.fill();
            self.shared.spares.add([spare]);
        }
    }

    fn sweep(&mut self) {
        self.again = self.try_sweep().is_err();
    }

    fn try_sweep(&self) -> io::Result<()> {
        let mut last = 0;
        loop {
            self.drop_dead()?;
            match self.worth_rewriting() {
                Some(oldest) if oldest > last => {
                    self.rewrite(oldest)?;
                    last = oldest;
                }
                _ => return Ok(()),
            }
        }
    }

    /// Removes segments that nothing needs, in rounds: what one round took away must be gone
    /// durably before what told of its end may go.
    fn drop_dead(&self) -> io::Result<()> {
        loop {
            let dead = self.shared.index().droppable();
            if dead.is_empty() {
                return Ok(());
            }
            let revived = self.revive(&dead);
            if let Err(error) = self.bury(&dead) {
                for spare in revived {
                    let _ = self.shared.chores.send(Chore::RemoveSegment(spare.number));
                }
                return Err(error);
            }
            self.shared.spares.add(revived);
        }
    }

    /// Some of the dead as the next segments, as many as are wanted. They count when the names are durable.
    fn revive(&self, dead: &[Dead]) -> Vec<Spare> {
        let wanted = if self.shared.free() > 0 { self.shared.spares.wanted() } else { 0 };
        let chosen = dead.iter().filter(|dead| dead.again).take(wanted);
        // One that cannot is removed like the others.
        chosen.filter_map(|dead| Spare::revive(&self.shared, dead.number).ok()).collect()
    }

    fn bury(&self, dead: &[Dead]) -> io::Result<()> {
        for dead in dead {
            match self.shared.store.remove(&segment::name(dead.number)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        self.shared.store.sync_names()?;
        dead.iter().for_each(|dead| self.shared.readers.close(dead.number));
        let mut index = self.shared.index();
        for dead in dead {
            index.segments.remove(&dead.number);
        }
        Ok(())
    }

    /// The oldest segment, if the log is much longer than what lives in it.
    fn worth_rewriting(&self) -> Option<u64> {
        let (sizes, full) = (self.shared.sizes, self.shared.free() == 0);
        let index = self.shared.index();
        let live = index.log_live_bytes();
        let slack = if full { 2 * sizes.segment } else { live / 2 + 4 * sizes.segment };
        let short = (index.segments.len() as u64) < 16 + 2 * live.div_ceil(sizes.segment);
        if index.log_bytes() <= live + slack && short {
            return None;
        }
        index.segments.iter().find(|(_, usage)| usage.sealed).map(|(number, _)| *number)
    }

    /// Carries what lives in a segment to the end of the log.
    fn rewrite(&self, number: u64) -> io::Result<()> {
        let file = self.shared.store.open(&segment::name(number))?;
        let mut scan = Scan::new(file, number, u64::MAX)?;
        let mut load = Vec::new();
        let mut bytes = 0;
        while let Some((found, record)) = scan.next()? {
            let Found::Record { at, header } = found else { continue };
            if header.kind != MESSAGE {
                continue;
            }
            let Some((Head { id, .. }, entry)) = decode::<Head>(header.meta(record)) else { continue };
            let from = Place { segment: number, offset: at, len: header.len() };
            if self.shared.index().place(id) != Some(from) {
                continue;
            }
            let content = &record[header.body()];
            let content = (!content.is_empty()).then(|| Content::from(content.to_vec()));
            load.push(Carry { id, from, entry: entry.to_vec(), content });
            bytes += header.len();
            if bytes >= LOAD {
                self.carry(std::mem::take(&mut load))?;
                bytes = 0;
            }
        }
        // An empty load too: it makes durable the ends of what was alive a moment ago.
        self.carry(load)?;
        self.give_up_on_the_rest(number);
        self.shared.counters.rewritten.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn carry(&self, messages: Vec<Carry>) -> io::Result<()> {
        let (reply, answer) = oneshot::channel();
        self.shared.queue.push_carries(Carries { messages, reply });
        match answer.blocking_recv() {
            Ok(result) => result.map_err(io::Error::other),
            Err(_) => Err(io::Error::other("the spool is closed")),
        }
    }

    /// Messages whose records are still in this segment: none, as a rule, and then nobody is looked at.
    fn left_in(&self, number: u64) -> Vec<(QueueId, Place)> {
        let mut left = Vec::new();
        for step in 0.. {
            let within = self.shared.index().within(step, number);
            match within {
                Some(within) => left.extend(within),
                None => break,
            }
        }
        left
    }

    /// What the index has in a segment and a whole reading of it did not find is damaged beyond use.
    fn give_up_on_the_rest(&self, number: u64) {
        for (id, place) in self.left_in(number) {
            tracing::error!(queue_id = %id, "a message on disk is damaged and was set aside");
            set_aside(&*self.shared.store, number, place.offset, place.len);
            self.shared.counters.damaged.fetch_add(1, Ordering::Relaxed);
            self.shared.index().lose(id);
        }
    }
}

/// Copies bytes of a segment to `damaged/`. As good as the disk allows: it is for people to look at.
pub(super) fn set_aside(store: &dyn Store, number: u64, offset: u64, len: u64) {
    let segment = segment::name(number);
    let copy = || -> io::Result<()> {
        let mut bytes = vec![0; usize::try_from(len).map_err(io::Error::other)?];
        let read = store.open(&segment)?.read_at(&mut bytes, offset)?;
        store.set_aside(&format!("{segment}-{offset}"), &bytes[..read])
    };
    if let Err(error) = copy() {
        tracing::warn!(%error, segment, offset, "no copy could be made of a damaged part of the spool");
    }
}
