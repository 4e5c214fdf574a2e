//! The bytes of a message on their way into the spool and out of it. Small ones stay in memory and
//! lie in the log; large ones go to a file of their own as they arrive, which nothing names until
//! their message is committed.

use std::io::{self, IoSlice};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::mpsc::Sender;

use super::CommitError;
use super::id::QueueId;
use super::record::{BodyRef, body_name};
use super::shared::Shared;
use super::store::{File, Mapping};
use super::sweep::Chore;

/// Content up to this size always lies in the log, beside its entry; a writer holds it in memory.
pub const INLINE: usize = 256 * 1024;
/// Content up to this size lies in the log if its writer may hold it: a file of its own costs half as much CPU again,
/// and three more writes to the disk. Above it commits of small mail would wait for it too long.
pub const LOGGED: u64 = 2 << 20;

/// Bytes of a message, in memory or mapped from disk. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Content(Form);

#[derive(Debug, Clone)]
enum Form {
    Memory { bytes: Arc<Vec<u8>>, range: Range<usize> },
    Body(Arc<Body>),
}

impl Content {
    pub fn len(&self) -> u64 {
        self.bytes().len() as u64
    }

    pub fn is_empty(&self) -> bool {
        self.bytes().is_empty()
    }

    pub fn bytes(&self) -> &[u8] {
        match &self.0 {
            Form::Memory { bytes, range } => &bytes[range.clone()],
            Form::Body(body) => &body.mapping,
        }
    }

    /// A part of bytes already in memory.
    pub(super) fn part(bytes: Vec<u8>, range: Range<usize>) -> Content {
        Content(Form::Memory { bytes: Arc::new(bytes), range })
    }

    pub(super) fn from_body(body: Body) -> Content {
        Content(Form::Body(Arc::new(body)))
    }

    pub(super) fn body(&self) -> Option<&Arc<Body>> {
        match &self.0 {
            Form::Memory { .. } => None,
            Form::Body(body) => Some(body),
        }
    }

    /// Bytes of memory it holds (mapped bytes are the kernel's to keep or drop).
    pub(super) fn memory(&self) -> u64 {
        match &self.0 {
            Form::Memory { bytes, .. } => bytes.capacity() as u64,
            Form::Body(_) => 0,
        }
    }
}

impl From<Vec<u8>> for Content {
    fn from(bytes: Vec<u8>) -> Self {
        let range = 0..bytes.len();
        Content::part(bytes, range)
    }
}

/// A content file. Removed when dropped before a commit named it.
pub(super) struct Body {
    at: BodyRef,
    file: Arc<dyn File>,
    mapping: Mapping,
    stage: AtomicU8,
    chores: Sender<Chore>,
}

const WRITTEN: u8 = 0;
const SYNCED: u8 = 1;
const COMMITTED: u8 = 2;
/// A sync failed: what the kernel says of this file is not to be believed any more.
const BROKEN: u8 = 3;

impl Body {
    pub fn at(&self) -> BodyRef {
        self.at
    }

    /// Makes the bytes durable (not yet the name). Blocks.
    pub fn sync(&self) -> io::Result<()> {
        match self.stage.load(Ordering::Acquire) {
            SYNCED | COMMITTED => return Ok(()),
            BROKEN => return Err(io::Error::other("an earlier sync of this content failed")),
            _ => {}
        }
        let result = self.file.sync();
        self.stage.store(if result.is_ok() { SYNCED } else { BROKEN }, Ordering::Release);
        result
    }

    pub fn is_synced(&self) -> bool {
        matches!(self.stage.load(Ordering::Acquire), SYNCED | COMMITTED)
    }

    /// A durable record names it: from now on the index decides when it goes.
    pub fn committed(&self) {
        self.stage.store(COMMITTED, Ordering::Release);
    }

    /// Reads and verifies a content file that a committed record names. Blocks.
    pub fn load(shared: &Shared, at: BodyRef) -> io::Result<Body> {
        let file = shared.store.open(&at.name())?;
        if file.len()? != at.len {
            return Err(damaged("a content file has the wrong length"));
        }
        // Read before it is mapped: a failing disk is then an error and not a signal.
        let mut crc = crc32fast::Hasher::new();
        let mut buffer = vec![0; INLINE];
        let mut offset = 0;
        while offset < at.len {
            let read = file.read_at(&mut buffer, offset)?;
            if read == 0 {
                return Err(damaged("a content file became shorter"));
            }
            crc.update(&buffer[..read]);
            offset += read as u64;
        }
        if crc.finalize() != at.crc {
            return Err(damaged("a content file is not as it was written"));
        }
        let mapping = file.map()?;
        Ok(Body { at, file, mapping, stage: AtomicU8::new(COMMITTED), chores: shared.chores.clone() })
    }
}

pub(super) fn damaged(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

impl std::fmt::Debug for Body {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Body").field(&self.at).finish()
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        if *self.stage.get_mut() != COMMITTED {
            // Nobody is left to listen only when the spool is closed; start-up removes it then.
            let _ = self.chores.send(Chore::Remove(self.at.file));
        }
    }
}

/// Collects the content of one message. Dropped unfinished, nothing of it remains.
pub struct ContentWriter {
    shared: Arc<Shared>,
    buffer: Vec<u8>,
    /// What stays in memory.
    most: usize,
    spilled: Option<Spilled>,
    _open: Open,
}

/// Counts who collects content at this moment: they will want a commit soon.
struct Open(Arc<Shared>);

impl Open {
    fn new(shared: Arc<Shared>) -> Self {
        shared.writers.fetch_add(1, Ordering::Relaxed);
        Self(shared)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.writers.fetch_sub(1, Ordering::Relaxed);
    }
}

struct Spilled {
    file: Arc<dyn File>,
    name: QueueId,
    len: u64,
    crc: crc32fast::Hasher,
    chores: Sender<Chore>,
    finished: bool,
}

impl Drop for Spilled {
    fn drop(&mut self) {
        if !self.finished {
            let _ = self.chores.send(Chore::Remove(self.name));
        }
    }
}

impl ContentWriter {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        let open = Open::new(shared.clone());
        Self { shared, buffer: Vec::new(), most: INLINE, spilled: None, _open: open }
    }

    /// Whether so many more bytes would turn it to disk.
    pub fn spills_with(&self, more: usize) -> bool {
        self.spilled.is_none() && self.buffer.len() + more > self.most
    }

    /// From now on it may keep so many bytes in memory; more than [`LOGGED`] are of no use to it.
    pub fn hold(&mut self, bytes: u64) {
        let logged = LOGGED.min(self.shared.sizes.segment / 8);
        let most = usize::try_from(bytes).ok().filter(|_| bytes <= logged);
        if let Some(most) = most.filter(|most| *most > self.most) {
            self.most = most;
            self.buffer.reserve_exact(most.saturating_sub(self.buffer.len()));
        }
    }

    /// Takes the next bytes. An error is final: drop the writer.
    pub fn write(&mut self, mut piece: &[u8]) -> Result<(), CommitError> {
        while self.buffer.len() + piece.len() > self.most {
            let (fits, rest) = piece.split_at(self.most - self.buffer.len());
            self.buffer.extend_from_slice(fits);
            piece = rest;
            self.spill()?;
        }
        self.buffer.extend_from_slice(piece);
        Ok(())
    }

    pub fn len(&self) -> u64 {
        self.buffer.len() as u64 + self.spilled.as_ref().map_or(0, |spilled| spilled.len)
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn finish(mut self) -> Result<Content, CommitError> {
        if self.spilled.is_none() {
            let mut bytes = std::mem::take(&mut self.buffer);
            bytes.shrink_to_fit();
            return Ok(Content::from(bytes));
        }
        self.spill()?;
        let mut spilled = self.spilled.take().expect("it was there above");
        let mapping = spilled.file.map().map_err(|error| self.shared.failed(error))?;
        spilled.finished = true;
        let at = BodyRef { file: spilled.name, len: spilled.len, crc: spilled.crc.clone().finalize() };
        Ok(Content::from_body(Body {
            at,
            file: spilled.file.clone(),
            mapping,
            stage: AtomicU8::new(WRITTEN),
            chores: self.shared.chores.clone(),
        }))
    }

    /// Moves the buffer to the file, to the page cache that is: this does not wait for the disk
    /// unless the kernel makes us.
    fn spill(&mut self) -> Result<(), CommitError> {
        let shared = &self.shared;
        if !shared.take_room(self.buffer.len() as u64) {
            return Err(CommitError::Full);
        }
        let spilled = match &mut self.spilled {
            Some(spilled) => spilled,
            none => {
                let name = QueueId::new();
                let file = shared.store.create(&body_name(name)).map_err(|error| shared.failed(error))?;
                none.insert(Spilled {
                    file,
                    name,
                    len: 0,
                    crc: crc32fast::Hasher::new(),
                    chores: shared.chores.clone(),
                    finished: false,
                })
            }
        };
        spilled
            .file
            .write_at(&mut [IoSlice::new(&self.buffer)], spilled.len)
            .map_err(|error| shared.failed(error))?;
        spilled.crc.update(&self.buffer);
        spilled.len += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }
}
