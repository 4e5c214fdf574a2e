//! Start-up: reads the segments in their order and builds the index anew. What was never durable is
//! cut off in silence, as after any crash; what was durable and is unreadable now is copied to
//! `damaged/`, counted and left out; a format from the future stops the start.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, IoSlice};
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::thread;

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
    what: What,
}

enum What {
    Message(Head, u64),
    News(News),
}

/// What a segment is like, from its first byte to its last.
#[derive(Default)]
struct Survey {
    /// Stretches that hold no record.
    bad: Vec<(u64, u64)>,
    needs: BTreeSet<u64>,
    /// Before this offset all was durable once, as later bytes witness.
    synced: u64,
    /// Where the last sound record ends.
    end: u64,
    /// Records of batches that are not whole.
    halves: Vec<Place>,
}

/// What a reading thread tells, one segment after the other.
enum Told {
    Events(Vec<Event>),
    Done(Survey),
}

/// Events in one message of a reading thread: enough to make it cheap, few enough to be small.
const EVENTS: usize = 256;
/// Threads that read; a disk rarely gives more.
const READERS: usize = 4;

/// One segment file.
#[derive(Clone, Copy)]
struct Segment {
    number: u64,
    len: u64,
    /// Where it ends, if a later one says so: then all before was durable.
    told: Option<u64>,
}

/// Segments are read at the same time and applied in their order. In memory are the index and a few
/// hundred events for each thread, whatever the length of the log.
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
    let mut order: Vec<Segment> = Vec::with_capacity(segments.len());
    for (&number, &len) in &segments {
        let told = told.get(&number).copied();
        match told {
            // Nothing in it ever counted.
            Some(end) if end <= FRONT => store.remove(&segment::name(number))?,
            _ => order.push(Segment { number, len, told }),
        }
    }
    let threads = thread::available_parallelism().map_or(1, usize::from).min(READERS).min(order.len());
    thread::scope(|scope| {
        let mut telling: Vec<Receiver<Result<Told, RecoverError>>> = Vec::new();
        for first in 0..threads {
            let (tell, told) = mpsc::sync_channel(4);
            let mine: Vec<Segment> = order.iter().skip(first).step_by(threads).copied().collect();
            thread::Builder::new()
                .name("spool-recover".into())
                .spawn_scoped(scope, move || tell_all(store, &mine, &tell))?;
            telling.push(told);
        }
        for (segment, told) in order.iter().zip(telling.iter().cycle()) {
            take_in(store, *segment, told, &mut recovered, now)?;
        }
        Ok::<(), RecoverError>(())
    })?;
    judge_bodies(&files, &mut recovered);
    store.sync_names()?;
    Ok(recovered)
}

/// The life of a reading thread; ends early when nobody listens any more.
fn tell_all(store: &dyn Store, segments: &[Segment], tell: &SyncSender<Result<Told, RecoverError>>) {
    for segment in segments {
        let mut events = Vec::new();
        let end = segment.told.unwrap_or(u64::MAX);
        // Without a told end it is not yet known what counts: nothing is told of what is in it.
        let survey = survey(store, segment.number, end, |event| {
            if segment.told.is_none() {
                return true;
            }
            events.push(event);
            events.len() < EVENTS || tell.send(Ok(Told::Events(std::mem::take(&mut events)))).is_ok()
        });
        let rest = tell.send(Ok(Told::Events(std::mem::take(&mut events))));
        if rest.is_err() || tell.send(survey.map(Told::Done)).is_err() {
            return;
        }
    }
}

/// Brings one segment into the index, and heals it.
fn take_in(
    store: &dyn Store,
    segment: Segment,
    told: &Receiver<Result<Told, RecoverError>>,
    recovered: &mut Recovered,
    now: Timestamp,
) -> Result<(), RecoverError> {
    let Segment { number, len, told: end } = segment;
    if let Some(end) = end {
        let usage = Usage { bytes: end, sealed: true, ..Usage::default() };
        recovered.index.segments.insert(number, usage);
    }
    let survey = loop {
        let gone = || io::Error::other("a thread that reads the spool ended");
        match told.recv().map_err(|_| gone())?? {
            Told::Events(events) => {
                events.into_iter().for_each(|event| apply(&mut recovered.index, event, now));
            }
            Told::Done(survey) => break survey,
        }
    };
    if let Some(end) = end {
        recovered.damaged += heal(store, number, &survey, Extent { len, end, durable: end })?;
    } else if survey.end == 0 {
        // Nothing in it counts.
        store.remove(&segment::name(number))?;
        return Ok(());
    } else {
        let (end, durable) = (survey.end, survey.synced);
        recovered.ends.push((number, end));
        let usage = Usage { bytes: end, sealed: true, ..Usage::default() };
        recovered.index.segments.insert(number, usage);
        recovered.damaged += heal(store, number, &survey, Extent { len, end, durable })?;
        // Now that what does not count is closed, all that is left does.
        self::survey(store, number, end, |event| {
            apply(&mut recovered.index, event, now);
            true
        })?;
    }
    if let Some(usage) = recovered.index.segments.get_mut(&number) {
        usage.needs.extend(&survey.needs);
    }
    Ok(())
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

/// Reads a segment up to `end`, or to its end when that is not known (`u64::MAX`), and tells of each message
/// and each piece of news in it, as long as the listener wants to hear more.
fn survey(
    store: &dyn Store,
    number: u64,
    end: u64,
    mut tell: impl FnMut(Event) -> bool,
) -> Result<Survey, RecoverError> {
    let name = segment::name(number);
    let file = store.open(&name)?;
    let is_open = end == u64::MAX;
    if is_open {
        // What a killed process wrote and never synced is about to count.
        file.sync()?;
    }
    let mut survey = Survey::default();
    let mut front = [0; FRONT as usize];
    let read = file.read_at(&mut front, 0)?;
    if segment::read_front(&front[..read], number) != Front::Good {
        survey.bad.push((0, FRONT));
    }
    let mut batch = Halves::default();
    let mut scan = Scan::new(file, number, end)?;
    while let Some((found, record)) = scan.next()? {
        match found {
            Found::Bad { at, end } => survey.bad.push((at, end)),
            Found::Unknown { at, kind } => {
                return Err(RecoverError::UnknownRecord { file: name, offset: at, kind });
            }
            Found::Record { at, header } => {
                let place = Place { segment: number, offset: at, len: header.len() };
                survey.synced = survey.synced.max(header.synced);
                survey.end = at + header.len();
                if header.home != 0 {
                    survey.needs.insert(header.home);
                }
                match what(&header, record) {
                    Ok(what) => {
                        batch.add(&mut survey.halves, &header, place);
                        if let Some(what) = what
                            && !tell(Event { place, what })
                        {
                            return Ok(survey);
                        }
                    }
                    Err(Unreadable) => survey.bad.push((at, survey.end)),
                }
            }
        }
    }
    batch.end(&mut survey.halves);
    if !is_open {
        survey.reach(end);
    }
    Ok(survey)
}

impl Survey {
    /// What is missing before the told end is as bad as what cannot be read.
    fn reach(&mut self, told: u64) {
        let good = self.end.max(FRONT);
        self.bad.retain(|(from, _)| *from < good);
        if good < told {
            self.bad.push((good, told));
        }
    }
}

/// The meta data of a record are not what its kind promises.
struct Unreadable;

fn what(header: &Header, record: &[u8]) -> Result<Option<What>, Unreadable> {
    let meta = header.meta(record);
    Ok(match header.kind {
        MESSAGE => {
            let (head, _) = decode::<Head>(meta).ok_or(Unreadable)?;
            let size = head.body.map_or(u64::from(header.body_len), |body| body.len);
            Some(What::Message(head, size))
        }
        FATES => Some(What::News(decode::<News>(meta).ok_or(Unreadable)?.0)),
        _ => None,
    })
}

/// Brings one event into the index.
fn apply(index: &mut Index, event: Event, now: Timestamp) {
    match event.what {
        What::Message(head, size) => index.insert(arrival(head, size, event.place, now)),
        What::News(News { id, fates }) => {
            let fates = fates.into_iter().map(|(target, fate)| (target as usize, fate)).collect();
            if let Some(finished) = index.settle(id, fates) {
                index.forget(&finished);
            }
        }
    }
}

/// Follows the records of a segment and finds those of batches that never got to disk whole. Of a batch
/// that was durable and is damaged now, what is left still counts: it was promised.
#[derive(Default)]
struct Halves {
    /// The batch that goes on, whole as far as it has come or not.
    places: Vec<Place>,
    part: u16,
    parts: u16,
    from_start: bool,
}

impl Halves {
    fn add(&mut self, halves: &mut Vec<Place>, header: &Header, place: Place) {
        let last = self.places.last().copied();
        let follows = last.is_some_and(|last| {
            (header.part, header.parts) == (self.part.wrapping_add(1), self.parts)
                && place.offset == last.offset + last.len
        });
        if !follows {
            self.end(halves);
            self.from_start = header.part == 0;
        }
        self.places.push(place);
        (self.part, self.parts) = (header.part, header.parts);
    }

    fn end(&mut self, halves: &mut Vec<Place>) {
        let whole = self.from_start && self.places.len() == usize::from(self.parts);
        if whole { self.places.clear() } else { halves.append(&mut self.places) }
    }
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
fn heal(store: &dyn Store, number: u64, survey: &Survey, extent: Extent) -> io::Result<u64> {
    let Extent { len, end, durable } = extent;
    let name = segment::name(number);
    let file = store.open(&name)?;
    let mut damaged = 0;
    let mut touched = false;
    for &(from, to) in survey.bad.iter().filter(|(from, _)| *from < end) {
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
    for place in survey.halves.iter().filter(|place| place.offset >= durable) {
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
