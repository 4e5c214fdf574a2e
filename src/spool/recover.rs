//! Start-up: reads the segments in their order and builds the index anew. What was never durable is
//! cut off in silence, as after any crash; what was durable and is unreadable now is copied to
//! `damaged/`, counted and left out; a format from the future stops the start.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, IoSlice};

use jiff::Timestamp;

use super::due::{Arrival, Index, Place, Usage};
use super::entry::{Fate, Waiting};
use super::id::QueueId;
use super::record::{FATES, HEADER, Head, Header, MESSAGE, News, OPENING, Opening, Record, decode};
use super::scan::{Found, Scan};
use super::segment::{self, FRONT, Front};
use super::store::{File, Store};
use super::sweep::set_aside;

/// What the folder holds.
pub(super) struct Recovered {
    pub index: Index,
    pub next_segment: u64,
    /// Ends of segments that no opening on disk tells.
    pub ends: Vec<(u64, u64)>,
    pub damaged: u64,
    /// Content files that nothing names.
    pub orphans: Vec<QueueId>,
}

#[derive(Debug)]
pub(super) enum RecoverError {
    Io(io::Error),
    UnknownVersion { file: String, offset: u64, version: u32 },
    UnknownRecord { file: String, offset: u64, kind: u8 },
}

impl From<io::Error> for RecoverError {
    fn from(error: io::Error) -> Self {
        RecoverError::Io(error)
    }
}

/// One record, as far as the index cares.
struct Event {
    place: Place,
    part: u16,
    parts: u16,
    what: What,
}

enum What {
    Nothing,
    Message(Head, u64),
    News(News),
}

/// One segment, read and not yet judged.
#[derive(Default)]
struct Reading {
    events: Vec<Event>,
    /// Stretches that hold no record.
    bad: Vec<(u64, u64)>,
    needs: BTreeSet<u64>,
    /// Before this offset all was durable once, as later bytes witness.
    synced: u64,
    /// Where the last sound record ends.
    end: u64,
}

pub(super) fn recover(store: &dyn Store, warm: u64, now: Timestamp) -> Result<Recovered, RecoverError> {
    let files = store.list()?;
    let mut segments: BTreeMap<u64, u64> = BTreeMap::new();
    for (name, len) in &files {
        if let Some(number) = segment::number(name) {
            segments.insert(number, *len);
        }
    }
    let told = openings(store, &segments)?;
    let mut recovered = Recovered {
        index: Index::new(warm),
        next_segment: segments.last_key_value().map_or(1, |(last, _)| last + 1),
        ends: Vec::new(),
        damaged: 0,
        orphans: Vec::new(),
    };
    for (&number, &len) in &segments {
        let told = told.get(&number).copied();
        let reading = read(store, number, told)?;
        if told.is_some_and(|end| end <= FRONT) || (told.is_none() && reading.end == 0) {
            // Nothing in it counts, or ever did.
            store.remove(&segment::name(number))?;
            continue;
        }
        let end = told.unwrap_or(reading.end);
        let durable = told.unwrap_or(reading.synced);
        if told.is_none() {
            recovered.ends.push((number, end));
        }
        let usage = Usage { bytes: end, needs: reading.needs.clone(), sealed: true, ..Usage::default() };
        recovered.index.segments.insert(number, usage);
        recovered.damaged += heal(store, number, &reading, Extent { len, end, durable })?;
        apply(&mut recovered.index, reading, durable, now);
    }
    judge_bodies(&files, &mut recovered);
    store.sync_names()?;
    Ok(recovered)
}

/// Where segments end, as the first records of later ones tell.
fn openings(store: &dyn Store, segments: &BTreeMap<u64, u64>) -> Result<BTreeMap<u64, u64>, RecoverError> {
    let mut ends = BTreeMap::new();
    for &number in segments.keys() {
        let name = segment::name(number);
        let file = store.open(&name)?;
        let mut front = [0; FRONT as usize];
        let read = file.read_at(&mut front, 0)?;
        if let Front::Version(version) = segment::read_front(&front[..read], number) {
            return Err(RecoverError::UnknownVersion { file: name, offset: 0, version });
        }
        let mut header = [0; HEADER];
        let read = file.read_at(&mut header, FRONT)?;
        let Some(header) = Header::read(&header[..read], (number, FRONT)) else { continue };
        if header.kind != OPENING {
            continue;
        }
        let mut record = vec![0; usize::try_from(header.len()).expect("lengths come from 32 bits")];
        let read = file.read_at(&mut record, FRONT)?;
        if read == record.len()
            && header.verify(&record)
            && let Some((Opening { ends: told }, _)) = decode::<Opening>(header.meta(&record))
        {
            ends.extend(told);
        }
    }
    Ok(ends)
}

fn read(store: &dyn Store, number: u64, told: Option<u64>) -> Result<Reading, RecoverError> {
    let name = segment::name(number);
    let file = store.open(&name)?;
    if told.is_none() {
        // What a killed process wrote and never synced is about to count.
        file.sync()?;
    }
    let mut reading = Reading::default();
    let mut front = [0; FRONT as usize];
    let read = file.read_at(&mut front, 0)?;
    if segment::read_front(&front[..read], number) != Front::Good {
        reading.bad.push((0, FRONT));
    }
    let mut scan = Scan::new(file, number, told.unwrap_or(u64::MAX))?;
    while let Some((found, record)) = scan.next()? {
        match found {
            Found::Bad { at, end } => reading.bad.push((at, end)),
            Found::Unknown { at, kind } => {
                return Err(RecoverError::UnknownRecord { file: name, offset: at, kind });
            }
            Found::Record { at, header } => {
                let place = Place { segment: number, offset: at, len: header.len() };
                reading.synced = reading.synced.max(header.synced);
                reading.end = at + header.len();
                if header.home != 0 {
                    reading.needs.insert(header.home);
                }
                match event(&header, record) {
                    Some(what) => {
                        let Header { part, parts, .. } = header;
                        reading.events.push(Event { place, part, parts, what });
                    }
                    None => reading.bad.push((at, reading.end)),
                }
            }
        }
    }
    if let Some(told) = told {
        reading.reach(told);
    }
    Ok(reading)
}

impl Reading {
    /// What is missing before the told end is as bad as what cannot be read.
    fn reach(&mut self, told: u64) {
        let good = self.end.max(FRONT);
        self.bad.retain(|(from, _)| *from < good);
        if good < told {
            self.bad.push((good, told));
        }
    }
}

fn event(header: &Header, record: &[u8]) -> Option<What> {
    let meta = header.meta(record);
    Some(match header.kind {
        MESSAGE => {
            let (head, _) = decode::<Head>(meta)?;
            let size = head.body.map_or(u64::from(header.body_len), |body| body.len);
            What::Message(head, size)
        }
        FATES => What::News(decode::<News>(meta)?.0),
        _ => What::Nothing,
    })
}

/// Brings the events of one segment into the index.
fn apply(index: &mut Index, reading: Reading, durable: u64, now: Timestamp) {
    let Reading { events, .. } = reading;
    let void = void(&events, durable);
    for event in events {
        if void.contains(&event.place.offset) {
            continue;
        }
        match event.what {
            What::Nothing => {}
            What::Message(head, size) => index.insert(arrival(head, size, event.place, now)),
            What::News(News { id, fates }) => {
                let fates = fates.into_iter().map(|(target, fate)| (target as usize, fate)).collect();
                if let Some(finished) = index.settle(id, fates) {
                    index.forget(&finished);
                }
            }
        }
    }
}

/// Records of batches that never got to disk whole. Of a batch that was durable and is damaged now,
/// what is left still counts: it was promised.
fn void(events: &[Event], durable: u64) -> BTreeSet<u64> {
    let mut void = BTreeSet::new();
    for batch in events.chunk_by(follows) {
        let whole = batch[0].part == 0 && batch.len() == usize::from(batch[0].parts);
        let places = batch.iter().map(|event| event.place.offset);
        void.extend(places.filter(|offset| !whole && *offset >= durable));
    }
    void
}

/// How far a segment goes.
#[derive(Clone, Copy)]
struct Extent {
    /// Bytes of the file.
    len: u64,
    /// Where the last thing that counts ends.
    end: u64,
    /// Before this, what is unreadable is damage.
    durable: u64,
}

/// Brings a segment to a state that reads the same at every later start: what is damaged is set
/// aside, what does not count is closed, and nothing is behind the end. Returns how many places
/// were damaged.
fn heal(store: &dyn Store, number: u64, reading: &Reading, extent: Extent) -> io::Result<u64> {
    let Extent { len, end, durable } = extent;
    let name = segment::name(number);
    let file = store.open(&name)?;
    let mut damaged = 0;
    let mut touched = false;
    for &(from, to) in reading.bad.iter().filter(|(from, _)| *from < end) {
        if from < durable {
            tracing::error!(segment = name, offset = from, end = to, "the spool is damaged here");
            set_aside(store, number, from, to - from);
            damaged += 1;
        }
        match from {
            0 => file.write_at(&mut [IoSlice::new(&segment::front(number))], 0)?,
            _ => close(&*file, (number, from), to - from, durable)?,
        }
        touched = true;
    }
    let void = void(&reading.events, durable);
    for Event { place, .. } in reading.events.iter().filter(|event| void.contains(&event.place.offset)) {
        close(&*file, (number, place.offset), place.len, durable)?;
        touched = true;
    }
    if len > end {
        file.truncate(end)?;
        touched = true;
    }
    if touched {
        file.sync()?;
    }
    Ok(damaged)
}

fn close(file: &dyn File, at: (u64, u64), len: u64, durable: u64) -> io::Result<()> {
    let mut gap = Record::gap(len);
    gap.place(at, (0, 1), 0, durable.min(at.1));
    file.write_at(&mut gap.pieces(), at.1)
}

fn follows(one: &Event, next: &Event) -> bool {
    (next.part, next.parts) == (one.part.wrapping_add(1), one.parts)
        && next.place.offset == one.place.offset + one.place.len
}

fn arrival(head: Head, size: u64, place: Place, now: Timestamp) -> Arrival {
    let Head { id, received_at, targets, body, fates } = head;
    let fates = fates.unwrap_or_else(|| vec![first_fate(received_at, now); targets as usize]);
    Arrival { id, place, received_at, size, body, fates, warm: None }
}

/// How a recipient stands before the first attempt: due at once, in the order of arrival.
pub(super) fn first_fate(received_at: Timestamp, now: Timestamp) -> Fate {
    let next_attempt = received_at.min(now);
    Fate::Waiting(Waiting { attempts: 0, next_attempt, last_error: None, warned: false })
}

/// Finds content files that nothing names, and names without their file.
fn judge_bodies(files: &[(String, u64)], recovered: &mut Recovered) {
    let mut present: BTreeMap<QueueId, u64> = BTreeMap::new();
    for (name, len) in files {
        if let Some(file) = name.strip_suffix(".body").and_then(|id| id.parse().ok()) {
            present.insert(file, *len);
        }
    }
    for (file, len) in recovered.index.bodies() {
        if present.remove(&file) != Some(len) {
            tracing::error!(%file, "a content file of the spool is missing or has the wrong length");
            recovered.damaged += 1;
        }
    }
    recovered.orphans.extend(present.into_keys());
}
