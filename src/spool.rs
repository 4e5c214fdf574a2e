//! The promise behind 250 (spec R158): accepted mail survives kill -9 and power cuts until each
//! recipient has had a final outcome. Append-only checksummed segments, one committer, group commit.
//!
//! Each recipient has its own fate. Delivery is at least once: a crash may repeat a delivery whose
//! completion was not yet synced, and never loses one.

pub mod commit;
pub mod content;
pub mod due;
pub mod entry;
pub mod id;
pub mod record;
pub mod recover;
pub mod segment;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;

pub use content::{Content, ContentWriter};
pub use entry::{Entry, Fate, Submission, Target, Waiting};
pub use id::QueueId;

/// How a spool uses its disk and memory. The defaults suit a volume of its own of any size.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Size of a segment. By default a 32nd of the file system, between 1 and 64 MiB.
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
    /// Messages with a recipient that still waits.
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
    /// Messages with a waiting recipient.
    pub messages: u64,
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
pub struct Spool {}

impl Spool {
    /// Locks the folder (one process), recovers what is in it. Blocks; call before serving.
    pub fn open(_dir: &Path, _options: Options) -> Result<(Spool, Recovery), OpenError> {
        todo!()
    }

    /// The folder, for small files of the owner beside the segments.
    pub fn dir(&self) -> &Path {
        todo!()
    }

    pub fn new_id(&self) -> QueueId {
        QueueId::new()
    }

    /// Collects content: in memory up to 256 KiB, then in an uncommitted file of the spool.
    pub fn writer(&self) -> ContentWriter {
        todo!()
    }

    /// Durable when it returns Ok. All submissions of one call commit together or not at all.
    pub async fn commit(&self, _submissions: Vec<Submission>) -> Result<Vec<Queued>, CommitError> {
        todo!()
    }

    /// Records fates: appended when this returns, synced with the next commit (at most 100 ms
    /// later). With `reports` not empty, reports and fates are one commit and durable on return.
    ///
    /// An error without `reports` means that the disk did not take the fates: they hold in this
    /// process and are written as soon as it does. An error with `reports`: nothing happened, the
    /// recipients are still in flight.
    pub async fn settle(
        &self,
        _id: QueueId,
        _fates: Vec<(usize, Fate)>,
        _reports: Vec<Submission>,
    ) -> Result<Vec<Queued>, CommitError> {
        todo!()
    }

    /// Gives back recipients that were handed out but not attempted, due again at these times.
    /// Nothing is written.
    pub fn release(&self, _id: QueueId, _times: &[(usize, Timestamp)]) {
        todo!()
    }

    /// The next message whose time has come, oldest first, new mail and retries by turns; waits
    /// until there is one. Newly committed mail is due at once. May be dropped while it waits.
    pub async fn next_due(&self) -> Due {
        todo!()
    }

    /// One message with its content, whatever its state; None when it is finished or unknown.
    pub async fn get(&self, _id: QueueId) -> io::Result<Option<Queued>> {
        todo!()
    }

    /// Every message with a waiting recipient, oldest first.
    pub fn list(&self) -> Vec<Summary> {
        todo!()
    }

    /// Messages with a waiting recipient.
    pub fn len(&self) -> usize {
        todo!()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of new mail there is room for; 0 when the next commit would be refused as Full.
    pub fn free(&self) -> u64 {
        todo!()
    }

    pub fn stats(&self) -> Stats {
        todo!()
    }

    /// Final sync, then both threads end. Later commits through other clones fail.
    pub async fn close(self) {
        todo!()
    }
}
