//! The log's files. Segments are numbered in the order of time and only ever appended to; their
//! room is taken from the disk before, and their name is durable before anything in them counts.
//!
//! A sync that failed is never repeated and believed (the kernel may have thrown the pages away):
//! the segment is sealed where it was last known to be durable, and the next one says so.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use super::record::{ALIGN, Record};
use super::shared::{Shared, lock};
use super::store::{File, Store};
use super::sweep::Chore;

/// The version of all that is on disk. Raise it when a record's meaning or encoding changes.
pub(super) const VERSION: u32 = 4;
/// The oldest version that is read: 4 only added two ways in which a recipient can stand.
const OLDEST: u32 = 3;

const MAGIC: [u8; 16] = *b"POSTERN SPOOL\r\n\0";
/// Size of a segment when the disk has no room for a usual one.
const SMALL: u64 = 64 * 1024;
/// Bytes of a new segment that are filled and synced at a time: small, so that no commit waits long behind them.
const FILL: usize = 1 << 20;
/// Bytes before the first record.
pub(super) const FRONT: u64 = 32;

pub(super) fn name(number: u64) -> String {
    format!("{number:016}.log")
}

pub(super) fn number(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".log")?;
    (digits.len() == 16).then(|| digits.parse().ok())?
}

pub(super) fn front(number: u64) -> [u8; FRONT as usize] {
    front_of(number, VERSION)
}

fn front_of(number: u64, version: u32) -> [u8; FRONT as usize] {
    let mut front = [0; FRONT as usize];
    front[..16].copy_from_slice(&MAGIC);
    front[16..20].copy_from_slice(&version.to_le_bytes());
    front[24..].copy_from_slice(&number.to_le_bytes());
    front
}

/// What a segment begins with.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Front {
    Good,
    /// Torn or damaged, or never written.
    Bad,
    Version(u32),
}

pub(super) fn read_front(bytes: &[u8], number: u64) -> Front {
    match bytes.first_chunk::<{ FRONT as usize }>() {
        Some(bytes) if bytes[..16] == MAGIC => {
            match u32::from_le_bytes([bytes[16], bytes[17], bytes[18], bytes[19]]) {
                version @ OLDEST..=VERSION if *bytes == front_of(number, version) => Front::Good,
                OLDEST..=VERSION => Front::Bad,
                version => Front::Version(version),
            }
        }
        _ => Front::Bad,
    }
}

/// A segment that was made ready in advance. In most file systems the first sync of a block that was only
/// allocated must write to the file's map of blocks too, which on a journal is a transaction: a third of a commit's
/// time. So its blocks have been written to already, with zeros or in an earlier life.
pub(super) struct Spare {
    pub number: u64,
    pub file: Arc<dyn File>,
    pub size: u64,
}

/// Segments that were made ready, in the order of their numbers.
#[derive(Default)]
pub(super) struct Spares(Mutex<VecDeque<Spare>>);

impl Spares {
    /// Dead segments that are kept. Those of mail that passes through come and go in this number, and none is
    /// ever made anew.
    const MOST: usize = 3;

    pub fn is_empty(&self) -> bool {
        lock(&self.0).is_empty()
    }

    /// How many more are worth keeping.
    pub fn wanted(&self) -> usize {
        Spares::MOST.saturating_sub(lock(&self.0).len())
    }

    pub fn add(&self, spares: impl IntoIterator<Item = Spare>) {
        lock(&self.0).extend(spares);
    }

    fn take(&self) -> Option<Spare> {
        lock(&self.0).pop_front()
    }
}

impl Spare {
    /// Makes a new segment with room for at least this much, its name durable. Blocks.
    pub fn make(shared: &Shared, least: u64) -> io::Result<Spare> {
        let usual = shared.sizes.usual().max(least.next_multiple_of(4096));
        match Spare::try_make(shared, usual) {
            // On a disk that is all but full a small one still takes the fates.
            Err(error) if error.kind() == io::ErrorKind::StorageFull => {
                Spare::try_make(shared, least.max(SMALL).next_multiple_of(4096))
            }
            other => other,
        }
    }

    /// Has all its blocks written to. Not for whoever waits for a segment. Blocks.
    pub fn fill(&self) -> io::Result<()> {
        let zeros = vec![0; FILL];
        for at in (0..self.size).step_by(FILL) {
            let len = usize::try_from(self.size - at).map_or(FILL, |left| left.min(FILL));
            self.file.write_at(&mut [IoSlice::new(&zeros[..len])], at)?;
            self.file.sync()?;
        }
        Ok(())
    }

    /// A dead segment of the usual size begins a new life. What it held is no danger: every record says in which
    /// segment it lies. The new name is not durable yet. Blocks.
    pub fn revive(shared: &Shared, dead: u64) -> io::Result<Spare> {
        let number = shared.next_segment.fetch_add(1, Ordering::Relaxed);
        let size = shared.sizes.usual();
        shared.store.rename(&name(dead), &name(number))?;
        let made = (|| {
            let file = shared.store.open(&name(number))?;
            file.allocate(size)?;
            file.sync()?;
            Ok(Spare { number, file, size })
        })();
        if made.is_err() {
            let _ = shared.store.remove(&name(number));
        }
        made
    }

    fn try_make(shared: &Shared, size: u64) -> io::Result<Spare> {
        let number = shared.next_segment.fetch_add(1, Ordering::Relaxed);
        let made = Spare::create(&*shared.store, number, size);
        if made.is_err() {
            // It has nothing in it; if it stays, start-up removes it.
            let _ = shared.store.remove(&name(number));
        }
        made
    }

    fn create(store: &dyn Store, number: u64, size: u64) -> io::Result<Spare> {
        let file = store.create(&name(number))?;
        file.allocate(size)?;
        file.sync()?;
        store.sync_names()?;
        Ok(Spare { number, file, size })
    }
}

/// The segment that is written to.
struct Active {
    number: u64,
    file: Arc<dyn File>,
    size: u64,
    /// Where the next record goes.
    end: u64,
    /// Before this all is durable.
    synced: u64,
    asked_for_next: bool,
}

/// The end of the log. Only the committer has it.
pub(super) struct Log {
    shared: Arc<Shared>,
    active: Option<Active>,
    /// Ends of segments that no durable opening tells yet.
    ends: Vec<(u64, u64)>,
    /// Those among them that have something void behind their end.
    void: Vec<u64>,
    /// The newest segment there was: order must never turn back.
    last: u64,
}

impl Log {
    pub fn new(shared: Arc<Shared>, ends: Vec<(u64, u64)>) -> Log {
        Log { shared, active: None, ends, void: Vec::new(), last: 0 }
    }

    /// Bytes that still fit into the open segment.
    pub fn room(&self) -> u64 {
        self.active.as_ref().map_or(0, |active| active.size - active.end)
    }

    /// Whether a segment is open that everything written so far lies in.
    pub fn is_open(&self) -> bool {
        self.active.is_some()
    }

    /// Whether something was written that is not known to be durable.
    pub fn has_news(&self) -> bool {
        self.active.as_ref().is_some_and(|active| active.synced < active.end)
    }

    /// Opens the next segment with room for `least` bytes. The one before must be sealed.
    pub fn open(&mut self, least: u64) -> io::Result<()> {
        let mut opening = Record::opening(self.ends.clone());
        let size = FRONT + opening.len() + least;
        let spare = loop {
            match self.shared.spares.take() {
                Some(spare) if spare.size >= size && spare.number > self.last => break spare,
                Some(unfit) => {
                    let _ = self.shared.chores.send(Chore::RemoveSegment(unfit.number));
                }
                None => break Spare::make(&self.shared, size)?,
            }
        };
        self.last = spare.number;
        opening.place((spare.number, FRONT), (0, 1), 0, 0);
        let front = front(spare.number);
        let [a, b, c] = opening.pieces();
        let written = spare.file.write_at(&mut [IoSlice::new(&front), a, b, c], 0);
        let mut index = self.shared.index();
        let usage = index.segments.entry(spare.number).or_default();
        usage.bytes = spare.size;
        // A segment that could not even be begun goes with the next sweep.
        usage.sealed = written.is_err();
        // While they are there, so must be the word that part of them is void.
        usage.needs.extend(&self.void);
        drop(index);
        written?;
        self.active = Some(Active {
            number: spare.number,
            file: spare.file,
            size: spare.size,
            end: FRONT + opening.len(),
            synced: 0,
            asked_for_next: false,
        });
        Ok(())
    }

    /// Gives the next `len` bytes of the open segment their place.
    pub fn reserve(&mut self, len: u64) -> Reserved {
        let active = self.active.as_mut().expect("the caller opened a segment with room");
        debug_assert!(len.is_multiple_of(ALIGN) && len <= active.size - active.end);
        let at = active.end;
        active.end += len;
        Reserved { segment: active.number, offset: at, synced: active.synced }
    }

    pub fn write(&mut self, pieces: &mut [IoSlice<'_>], at: Reserved) -> io::Result<()> {
        let active = self.active.as_ref().expect("a place was reserved in it");
        active.file.write_at(pieces, at.offset)
    }

    /// Makes all that was written durable.
    pub fn sync(&mut self) -> io::Result<()> {
        let Some(active) = self.active.as_mut() else { return Ok(()) };
        self.shared.counters.syncs.fetch_add(1, Ordering::Relaxed);
        active.file.sync()?;
        active.synced = active.end;
        self.ends.clear();
        self.void.clear();
        Ok(())
    }

    /// Whether it is time to make the next segment ready; says so once for each segment.
    pub fn wants_next(&mut self) -> bool {
        match &mut self.active {
            Some(active) if !active.asked_for_next && active.end > active.size / 2 => {
                active.asked_for_next = true;
                true
            }
            _ => false,
        }
    }

    /// Ends the open segment where it was last durable. What lies behind is void.
    pub fn seal(&mut self) {
        let Some(active) = self.active.take() else { return };
        self.ends.push((active.number, active.synced));
        let (mut size, mut again) = (active.size, false);
        if active.synced < active.end {
            self.void.push(active.number);
        } else if active.file.truncate(active.end).is_ok() {
            size = active.end;
            // Not one that the disk failed with, nor a small one.
            again = active.size == self.shared.sizes.usual();
        }
        if let Some(usage) = self.shared.index().segments.get_mut(&active.number) {
            usage.bytes = size;
            usage.sealed = true;
            usage.again = again;
        }
    }
}

/// A place in the open segment.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reserved {
    pub segment: u64,
    pub offset: u64,
    pub synced: u64,
}
