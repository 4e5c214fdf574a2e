//! What sessions, the committer and the sweeper share. Locks here are held for moments, never
//! during I/O and never across an await.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::Notify;

use super::CommitError;
use super::commit::Queue;
use super::due::Index;
use super::handout::Readers;
use super::segment::Spares;
use super::store::{Space, Store};
use super::sweep::Chore;

pub(super) struct Shared {
    pub store: Arc<dyn Store>,
    pub sizes: Sizes,
    pub index: Mutex<Index>,
    pub queue: Queue,
    /// Contents that are being collected.
    pub writers: AtomicUsize,
    /// Told when something may have become due.
    pub wake: Notify,
    pub chores: Sender<Chore>,
    /// The next segments, made ready in the background.
    pub spares: Spares,
    /// Segments open for reading.
    pub readers: Readers,
    pub next_segment: AtomicU64,
    pub counters: Counters,
    /// The disk failed, and nothing has been written to it since.
    pub failing: AtomicBool,
    pub room: Room,
    /// No new mail: what is here was handed over.
    pub sealed: AtomicBool,
    /// Commits of new mail that have begun.
    pub entering: AtomicUsize,
}

/// The options with their defaults filled in.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sizes {
    pub segment: u64,
    pub reserve: u64,
    pub warm: u64,
}

impl Sizes {
    /// Bytes of a segment's file, unless it is made for one large record or on a full disk.
    pub fn usual(self) -> u64 {
        self.segment.next_multiple_of(4096)
    }
}

#[derive(Debug, Default)]
pub(super) struct Counters {
    pub commits: AtomicU64,
    pub syncs: AtomicU64,
    pub failures: AtomicU64,
    pub damaged: AtomicU64,
    pub rewritten: AtomicU64,
}

/// Whether the process, not the disk, lacks something.
pub(super) fn is_exhausted(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let errno = Errno::from_io_error(error);
    errno.is_some_and(|errno| [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::AGAIN].contains(&errno))
}

/// A mutex whose holder panicked still protects values we can use: the panic itself is reported
/// where it happened.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    pub fn index(&self) -> MutexGuard<'_, Index> {
        lock(&self.index)
    }

    /// Counts a failure of the disk and says what it means to a caller.
    pub fn failed(&self, error: io::Error) -> CommitError {
        self.counters.failures.fetch_add(1, Ordering::Relaxed);
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => CommitError::Full,
            _ => {
                // That this process has no descriptors left says nothing of the disk.
                if !is_exhausted(&error) && !self.failing.swap(true, Ordering::Relaxed) {
                    tracing::error!(%error, "the spool's disk fails: no mail is taken until it can be written again");
                    self.queue.nudge();
                }
                CommitError::Io(Arc::new(error))
            }
        }
    }

    /// Something was written and synced.
    pub fn works(&self) {
        if self.failing.load(Ordering::Relaxed) && self.failing.swap(false, Ordering::Relaxed) {
            tracing::info!("the spool's disk works again");
        }
    }

    /// Bytes of new mail there is room for.
    pub fn free(&self) -> u64 {
        self.room.free(&*self.store, self.sizes.reserve)
    }

    /// Takes room for new mail, unless there is not enough.
    pub fn take_room(&self, bytes: u64) -> bool {
        self.free() >= bytes && self.room.take(bytes)
    }
}

/// The free space of the disk, asked for now and then and counted down in between.
pub(super) struct Room {
    started: Instant,
    /// Milliseconds after `started` when the disk was last asked.
    asked: AtomicU64,
    free: AtomicU64,
}

/// How long an answer of the disk is good for.
const FRESH_MILLIS: u64 = 100;

impl Room {
    pub fn new(space: Space, reserve: u64) -> Room {
        let free = space.free.saturating_sub(reserve);
        Room { started: Instant::now(), asked: AtomicU64::new(0), free: AtomicU64::new(free) }
    }

    fn free(&self, store: &dyn Store, reserve: u64) -> u64 {
        let now = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        let asked = self.asked.load(Ordering::Relaxed);
        if now.saturating_sub(asked) >= FRESH_MILLIS
            && self.asked.compare_exchange(asked, now, Ordering::Relaxed, Ordering::Relaxed).is_ok()
            && let Ok(space) = store.space()
        {
            self.free.store(space.free.saturating_sub(reserve), Ordering::Relaxed);
        }
        self.free.load(Ordering::Relaxed)
    }

    fn take(&self, bytes: u64) -> bool {
        self.free.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |free| free.checked_sub(bytes)).is_ok()
    }
}
