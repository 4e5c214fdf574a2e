//! The promise behind 250 (spec R158): accepted mail survives kill -9 and power cuts until each
//! recipient has had a final outcome. Append-only checksummed segments, one committer, group commit.
//!
//! Each recipient has its own fate. Delivery is at least once: a crash may repeat a delivery whose
//! completion was not yet synced, and never loses one.

mod commit;
mod content;
mod due;
mod entry;
mod handout;
mod handover;
mod hold;
mod id;
mod items;
mod queue;
mod record;
mod recover;
mod scan;
mod segment;
mod shared;
mod store;
mod sweep;
#[cfg(test)]
mod tests;
mod texts;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread::{self, JoinHandle};

use jiff::Timestamp;
use tokio::sync::Notify;
use tokio::task;

use commit::{Batch, Committer, Fates, Queue, Reply};
use content::Body;
use due::{Arrival, Place, Warm};
use handout::Readers;
use record::{Head, Record};
use recover::{RecoverError, Recovered};
use segment::Spares;
use shared::{Counters, Room, Shared, Sizes};
use store::{Disk, Store};
use sweep::{Chore, Sweeper};

pub use content::{Content, ContentWriter, INLINE, LOGGED};
pub use entry::{Entry, Fate, Holding, Submission, Target, Waiting};
pub use handover::{FORMAT, Parcel};
pub use hold::{Claim, ClaimError, Facts, Found, Held, HeldFor, HeldSummary, QuarantineName, RuleName};
pub use id::QueueId;
pub use queue::Standing;

/// How a spool uses its disk and memory. The defaults suit a volume of its own of any size.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Size of a segment. By default a 32nd of the file system, between 1 and 16 MiB.
    pub segment_bytes: Option<u64>,
    /// Kept free of new mail, so that fates can always be written. By default four segments.
    pub reserve_bytes: Option<u64>,
    /// Content and entries of mail that was never attempted are kept in memory up to this budget, so
    /// that normal relaying never reads the disk. By default 64 MiB.
    pub warm_bytes: Option<u64>,
}

/// What start-up found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recovery {
    /// Messages with a recipient that waits or is held.
    pub messages: usize,
    /// Damaged places: copied to `damaged/` and left out.
    pub damaged: usize,
}

#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("another process uses the spool {}", .0.display())]
    Locked(PathBuf),
    #[error("{file} at offset {offset}: version {version} of the spool format is not known to this program")]
    UnknownVersion { file: String, offset: u64, version: u32 },
    #[error("{file} at offset {offset}: a record of kind {kind} is not known to this program")]
    UnknownRecord { file: String, offset: u64, kind: u8 },
    #[error("spool {}: {error}", .dir.display())]
    Io { dir: PathBuf, error: io::Error },
}

#[derive(Debug, Clone, thiserror::Error)]
pub enum CommitError {
    /// No room for new mail (452 4.3.1).
    #[error("the spool is full")]
    Full,
    /// The disk refused or failed (451 4.3.0). The next commit tries again.
    #[error("the spool's disk failed: {0}")]
    Io(Arc<io::Error>),
}

/// A message of the spool: what it is and how its recipients stood when this value was made.
#[derive(Debug, Clone)]
pub struct Queued {
    id: QueueId,
    entry: Arc<Entry>,
    fates: Arc<[Fate]>,
    content: Content,
}

impl Queued {
    pub fn id(&self) -> QueueId {
        self.id
    }

    pub fn entry(&self) -> &Arc<Entry> {
        &self.entry
    }

    /// How this recipient stood when the value was made (an index into `entry().targets`).
    pub fn state(&self, target: usize) -> Fate {
        self.fates[target].clone()
    }

    /// The stored bytes. Already read and verified: never waits.
    pub fn content(&self) -> io::Result<Content> {
        Ok(self.content.clone())
    }

    pub fn size(&self) -> u64 {
        self.content.len()
    }
}

/// A message whose time has come, and for which of its recipients. These recipients are in flight
/// until they are settled or released.
#[derive(Debug)]
pub struct Due {
    pub queued: Queued,
    pub targets: Vec<usize>,
}

/// One line of a queue listing; made without reading the disk.
#[derive(Debug, Clone, PartialEq)]
pub struct Summary {
    pub id: QueueId,
    pub received_at: Timestamp,
    pub size: u64,
    /// Recipients without a final outcome.
    pub waiting: usize,
    /// Whether an attempt is running now.
    pub in_flight: bool,
    /// Most attempts any waiting recipient has had.
    pub attempts: u32,
    pub next_attempt: Option<Timestamp>,
    pub last_error: Option<String>,
}

/// Counters and gauges for metrics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Messages with a recipient that waits for its delivery.
    pub messages: u64,
    /// Messages with a recipient in quarantine.
    pub held: u64,
    /// Recipients that wait for their delivery.
    pub recipients: u64,
    /// Recipients that are held.
    pub held_recipients: u64,
    /// Recipients that came since the start, those found at the start among them: `entered = delivered + failed +
    /// released + handed_over + lost + recipients + held_recipients`, at every moment.
    pub entered: u64,
    pub delivered: u64,
    /// Returned, given up, refused by a reviewer, dropped.
    pub failed: u64,
    pub released: u64,
    /// Another pod has them.
    pub handed_over: u64,
    pub lost: u64,
    /// Bytes of these messages.
    pub bytes_live: u64,
    /// Bytes that segments and content files take.
    pub bytes_on_disk: u64,
    /// Calls that made something durable.
    pub commits: u64,
    /// fdatasync calls of the committer.
    pub syncs: u64,
    /// Times the disk refused or failed.
    pub failures: u64,
    /// Damaged places found at start-up and since.
    pub damaged: u64,
    /// Segments rewritten because most of them was dead.
    pub rewritten: u64,
}

/// A cheap handle; clones share one spool.
#[derive(Clone)]
pub struct Spool {
    inner: Arc<Inner>,
}

/// Owns the two threads: when the last handle goes, they write what is left and end.
struct Inner {
    shared: Arc<Shared>,
    committer: Arc<Mutex<Committer>>,
    dir: PathBuf,
    threads: Mutex<Option<Threads>>,
}

struct Threads {
    committer: JoinHandle<()>,
    sweeper: JoinHandle<()>,
}

const DEFAULT_WARM: u64 = 64 << 20;
/// Fates that may wait for the committer without anybody waiting for them.
const MOST_UNWRITTEN: usize = 256;

impl Spool {
    /// Locks the folder (one process), recovers what is in it. Blocks; call before serving.
    pub fn open(dir: &Path, options: Options) -> Result<(Spool, Recovery), OpenError> {
        let io = |error| OpenError::Io { dir: dir.to_owned(), error };
        let disk = Disk::open(dir).map_err(io)?.ok_or_else(|| OpenError::Locked(dir.to_owned()))?;
        Spool::open_on(Arc::new(disk), dir, &options).map_err(|error| match error {
            RecoverError::Io(error) => io(error),
            RecoverError::UnknownVersion { file, offset, version } => {
                OpenError::UnknownVersion { file, offset, version }
            }
            RecoverError::UnknownRecord { file, offset, kind } => {
                OpenError::UnknownRecord { file, offset, kind }
            }
        })
    }

    fn open_on(
        store: Arc<dyn Store>,
        dir: &Path,
        options: &Options,
    ) -> Result<(Spool, Recovery), RecoverError> {
        let space = store.space()?;
        let segment = options.segment_bytes.unwrap_or((space.total / 32).clamp(1 << 20, 16 << 20));
        let sizes = Sizes {
            segment,
            reserve: options.reserve_bytes.unwrap_or(4 * segment),
            warm: options.warm_bytes.unwrap_or(DEFAULT_WARM),
        };
        let Recovered { mut index, next_segment, ends, damaged, orphans } =
            recover::recover(&*store, sizes.warm, Timestamp::now())?;
        index.tally.begin();
        let recovery = Recovery { messages: index.len(), damaged: damaged as usize };
        let (chores, to_do) = mpsc::channel();
        for chore in orphans.into_iter().map(Chore::Remove).chain([Chore::Sweep]) {
            let _ = chores.send(chore);
        }
        let shared = Arc::new(Shared {
            store,
            sizes,
            index: Mutex::new(index),
            queue: Queue::default(),
            wake: Notify::new(),
            chores,
            spares: Spares::default(),
            readers: Readers::default(),
            writers: AtomicUsize::new(0),
            next_segment: AtomicU64::new(next_segment),
            counters: Counters { damaged: AtomicU64::new(damaged), ..Counters::default() },
            failing: AtomicBool::new(false),
            room: Room::new(space, sizes.reserve),
            sealed: AtomicBool::new(false),
            entering: AtomicUsize::new(0),
        });
        let sweeper = Sweeper::new(shared.clone());
        // The first mail finds a segment as ready as all later mail does.
        sweeper.prepare();
        let committer = Arc::new(Mutex::new(Committer::new(shared.clone(), ends)));
        let thread = committer.clone();
        let commit = move || Committer::run(&thread);
        let committing = thread::Builder::new().name("spool-commit".into()).spawn(commit)?;
        let sweeper = thread::Builder::new().name("spool-sweep".into()).spawn(move || sweeper.run(&to_do))?;
        let threads = Mutex::new(Some(Threads { committer: committing, sweeper }));
        Ok((Spool { inner: Arc::new(Inner { shared, committer, dir: dir.to_owned(), threads }) }, recovery))
    }

    /// The folder, for small files of the owner beside the segments.
    pub fn dir(&self) -> &Path {
        &self.inner.dir
    }

    pub fn new_id(&self) -> QueueId {
        QueueId::new()
    }

    /// Collects content: in memory up to 256 KiB (more if it may [hold](ContentWriter::hold) it), then in an
    /// uncommitted file of the spool.
    pub fn writer(&self) -> ContentWriter {
        ContentWriter::new(self.inner.shared.clone())
    }

    /// Durable when it returns Ok. All submissions of one call commit together or not at all.
    pub async fn commit(&self, submissions: Vec<Submission>) -> Result<Vec<Queued>, CommitError> {
        let _entering = self.inner.shared.enter()?;
        let bytes = submissions.iter().map(|submission| submission.content.memory()).sum::<u64>();
        // Content files took their room when they were written.
        if !self.inner.shared.take_room(bytes + 1024 * submissions.len() as u64) {
            return Err(CommitError::Full);
        }
        self.store(None, submissions, true).await
    }

    /// Records fates: appended when this returns, synced with the next commit (at most 100 ms
    /// later). With `reports` not empty, reports and fates are one commit and durable on return; they
    /// may use the room that is kept free of new mail.
    ///
    /// An error without `reports` means that the disk did not take the fates: they hold in this
    /// process and are written as soon as it does. An error with `reports`: nothing happened, the
    /// recipients are still in flight.
    pub async fn settle(
        &self,
        id: QueueId,
        fates: Vec<(usize, Fate)>,
        reports: Vec<Submission>,
    ) -> Result<Vec<Queued>, CommitError> {
        let durable = !reports.is_empty();
        self.store(Some((id, fates)), reports, durable).await
    }

    /// Records fates without waiting: appended within a few milliseconds, synced with the next commit. Until
    /// then a crash repeats what they tell of, as it would have a moment before. False: too much waits to be
    /// written already, so this one has to wait too; nothing happened.
    pub fn settle_soon(&self, id: QueueId, fates: &[(usize, Fate)]) -> bool {
        let queue = &self.inner.shared.queue;
        if queue.backlog() > MOST_UNWRITTEN {
            return false;
        }
        let fates = Some(Fates::new(id, fates.to_vec()));
        queue.push(Batch {
            messages: Vec::new(),
            fates,
            bodies: Vec::new(),
            durable: false,
            reply: Reply::Nobody,
        });
        true
    }

    async fn store(
        &self,
        fates: Option<(QueueId, Vec<(usize, Fate)>)>,
        submissions: Vec<Submission>,
        durable: bool,
    ) -> Result<Vec<Queued>, CommitError> {
        let bodies: Vec<Arc<Body>> =
            submissions.iter().filter_map(|submission| submission.content.body().cloned()).collect();
        self.sync_bodies(&bodies).await?;
        let now = Timestamp::now();
        let mut queued = Vec::with_capacity(submissions.len());
        let mut messages = Vec::with_capacity(submissions.len());
        for submission in submissions {
            let (message, copy) = prepare(submission, None, now);
            // Owed to nobody: there is nothing to keep.
            if !copy.entry.targets.is_empty() {
                messages.push(message);
            }
            queued.push(copy);
        }
        let fates = fates.map(|(id, fates)| Fates::new(id, fates));
        let (reply, answer) = Reply::new();
        let batch = Box::new(Batch { messages, fates, bodies, durable, reply });
        let shared = &self.inner.shared;
        let left =
            if durable { Committer::commit_alone(&self.inner.committer, shared, batch) } else { Err(batch) };
        if let Err(batch) = left {
            shared.queue.push(*batch);
        }
        match answer.await {
            Ok(result) => result.map(|()| queued),
            Err(_) => Err(CommitError::Io(Arc::new(io::Error::other("the spool is closed")))),
        }
    }

    /// Large contents are synced here, each by its own session, so that they hold up nobody else.
    async fn sync_bodies(&self, bodies: &[Arc<Body>]) -> Result<(), CommitError> {
        for body in bodies.iter().filter(|body| !body.is_synced()) {
            let body = body.clone();
            let synced = task::spawn_blocking(move || body.sync()).await;
            let synced = synced.unwrap_or_else(|error| Err(io::Error::other(error)));
            synced.map_err(|error| self.inner.shared.failed(error))?;
        }
        Ok(())
    }

    /// Gives back recipients that were handed out but not attempted, due again at these times.
    /// Nothing is written.
    pub fn release(&self, id: QueueId, times: &[(usize, Timestamp)]) {
        self.inner.shared.index().release(id, times);
        self.inner.shared.wake.notify_one();
    }

    /// Every message with a recipient that waits for its delivery, oldest first. Held mail is listed by
    /// [`Spool::held`].
    /// Looks at all messages, in steps between which others have their turn: what changes meanwhile may
    /// be missing or listed as it was.
    pub fn list(&self) -> Vec<Summary> {
        let mut list = Vec::new();
        for step in 0.. {
            // In its own statement: the lock is let go after each step.
            let waiting = self.inner.shared.index().waiting(step);
            match waiting {
                Some(waiting) => list.extend(waiting),
                None => break,
            }
        }
        list.sort_by_key(|summary| (summary.received_at, summary.id));
        list.dedup_by_key(|summary| summary.id);
        list
    }

    /// The line of one message; `None`: it does not wait (any more).
    pub fn summary(&self, id: QueueId) -> Option<Summary> {
        self.inner.shared.index().summary(id)
    }

    /// Messages with a recipient that has no final outcome: waiting or held.
    pub fn len(&self) -> usize {
        self.inner.shared.index().len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of new mail there is room for; 0 when the next commit would be refused as Full.
    pub fn free(&self) -> u64 {
        self.inner.shared.free()
    }

    /// Whether the disk took what was last written. False from its first failure until something was
    /// written again, which is tried twice a second even when no mail comes. A full disk works.
    pub fn disk_works(&self) -> bool {
        !self.inner.shared.failing.load(Ordering::Relaxed)
    }

    pub fn stats(&self) -> Stats {
        let Shared { counters, .. } = &*self.inner.shared;
        let index = self.inner.shared.index();
        let tally = index.tally;
        Stats {
            messages: (index.len() - index.held_len()) as u64,
            held: index.held_len() as u64,
            recipients: tally.waiting,
            held_recipients: tally.held,
            entered: tally.entered,
            delivered: tally.delivered,
            failed: tally.failed,
            released: tally.released,
            handed_over: tally.handed_over,
            lost: tally.lost,
            bytes_live: index.live_bytes(),
            bytes_on_disk: index.bytes_on_disk(),
            commits: counters.commits.load(Ordering::Relaxed),
            syncs: counters.syncs.load(Ordering::Relaxed),
            failures: counters.failures.load(Ordering::Relaxed),
            damaged: counters.damaged.load(Ordering::Relaxed),
            rewritten: counters.rewritten.load(Ordering::Relaxed),
        }
    }

    /// Final sync, then both threads end. Later commits through other clones fail.
    pub async fn close(self) {
        // The last sync can take long on a bad disk; joining is for a thread that may wait.
        let inner = self.inner;
        let _ = task::spawn_blocking(move || inner.end()).await;
    }
}

impl Inner {
    fn end(&self) {
        let Some(Threads { committer, sweeper }) = shared::lock(&self.threads).take() else { return };
        self.shared.queue.close();
        let _ = self.shared.chores.send(Chore::Stop);
        // A panic of theirs was reported where it happened.
        let _ = committer.join();
        let _ = sweeper.join();
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.end();
    }
}

/// Makes of a submission what the committer writes and what its caller gets back. `fates`: how its recipients stand
/// already.
fn prepare(submission: Submission, fates: Option<Vec<Fate>>, now: Timestamp) -> ((Record, Arrival), Queued) {
    let Submission { id, entry, content } = submission;
    let body = content.body().map(|body| body.at());
    let targets = entry.targets.len();
    let is_held = entry.held.is_some();
    let fates = fates.or_else(|| entry.held.as_ref().map(|held| hold::first_fates(held, targets)));
    let head = Head {
        id,
        received_at: entry.received_at,
        targets: u32::try_from(targets).expect("recipients are limited to thousands"),
        body,
        fates,
    };
    let inline = body.is_none().then(|| content.clone());
    let record = Record::message(&head, &entry, inline);
    let fates = head.fates.unwrap_or_else(|| vec![recover::first_fate(entry.received_at, now); targets]);
    let queued = Queued { id, entry: Arc::new(entry), fates: fates.clone().into(), content };
    let arrival = Arrival {
        id,
        place: Place { segment: 0, offset: 0, len: 0 },
        received_at: queued.entry.received_at,
        size: queued.content.len(),
        body,
        fates,
        // Held mail is not about to be read.
        warm: (!is_held).then(|| Warm { entry: queued.entry.clone(), content: queued.content.clone() }),
    };
    ((record, arrival), queued)
}
