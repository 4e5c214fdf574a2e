//! The index in memory: which messages there are, where they lie, how each recipient stands and who
//! is due when. Plain data under one lock: no I/O, no clock (`now` is given), and nothing that looks at
//! every message while others wait for the lock.

mod queue;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;
use std::sync::Arc;

use jiff::Timestamp;

pub(super) use self::queue::Tally;
use super::Summary;
use super::content::Content;
use super::entry::{Entry, Fate};
use super::hold::{ClaimError, HeldSummary};
use super::id::QueueId;
use super::items::{Item, Items, Keys, Lane, Slot, State, nanos, time};
use super::record::BodyRef;
use super::texts::Texts;

/// Where a message's record lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub segment: u64,
    pub offset: u64,
    pub len: u64,
}

/// A message when it enters the index.
pub(super) struct Arrival {
    pub id: QueueId,
    pub place: Place,
    pub received_at: Timestamp,
    pub size: u64,
    pub body: Option<BodyRef>,
    pub fates: Vec<Fate>,
    pub warm: Option<Warm>,
}

/// What is kept in memory of mail that was never attempted.
#[derive(Debug, Clone)]
pub(super) struct Warm {
    pub entry: Arc<Entry>,
    pub content: Content,
}

/// A message that is finished: what the disk may forget once its last fate is durable.
#[derive(Debug)]
pub(super) struct Finished {
    pub place: Place,
    pub body: Option<BodyRef>,
}

/// A message taken out for delivery.
pub(super) struct Taken {
    pub id: QueueId,
    pub targets: Vec<usize>,
    pub fates: Arc<[Fate]>,
    pub warm: Option<Warm>,
}

/// What a look at the queues found.
pub(super) struct Batch {
    /// Oldest first, new mail and retries by turns.
    pub taken: Vec<Taken>,
    /// If nothing was taken: nothing is due before this time, if anything ever is.
    pub until: Option<Timestamp>,
}

/// What the index knows of a segment.
#[derive(Debug, Default)]
pub(super) struct Usage {
    /// Bytes on disk.
    pub bytes: u64,
    /// Bytes and number of the records of messages that are not durably finished.
    pub live_bytes: u64,
    pub live: u64,
    /// Older segments whose messages this one has news of: it may go only after them.
    pub needs: BTreeSet<u64>,
    /// Nothing is written to it any more.
    pub sealed: bool,
    /// Its file may become another segment's once it is dead.
    pub again: bool,
}

/// A segment that nothing needs.
#[derive(Debug, Clone, Copy)]
pub(super) struct Dead {
    pub number: u64,
    /// See [`Usage::again`].
    pub again: bool,
}

#[derive(Default)]
pub(super) struct Index {
    items: Items,
    texts: Texts,
    new: BTreeSet<(i64, Slot)>,
    retries: BTreeSet<(i64, Slot)>,
    /// Messages with a held recipient, in the order of their arrival and in that of their end.
    held: BTreeSet<QueueId>,
    expiring: BTreeSet<(i64, Slot)>,
    /// What is no mail: see [`super::handover`].
    notes: BTreeSet<QueueId>,
    /// Messages in the hands of those who decide about them, and not in delivery's: of how many.
    claimed: HashMap<QueueId, u32>,
    /// Whose turn it is when both lanes have something due.
    retry_next: bool,
    warm_left: u64,
    /// Content files, and how many messages use each.
    bodies: HashMap<QueueId, (u64, u32)>,
    body_bytes: u64,
    pub segments: BTreeMap<u64, Usage>,
    pub tally: Tally,
}

/// What memory a warm message is taken to cost beside its content.
const ENTRY_COST: u64 = 1024;
const TARGET_COST: u64 = 256;
/// The same of one whose content is mapped: a descriptor, a mapping and its page tables.
const MAPPED_COST: u64 = 64 << 10;

impl Warm {
    fn cost(&self) -> u64 {
        let content = match self.content.body() {
            Some(_) => MAPPED_COST,
            None => self.content.memory(),
        };
        content + ENTRY_COST + TARGET_COST * self.entry.targets.len() as u64
    }
}

impl Index {
    pub fn new(warm_bytes: u64) -> Index {
        Index { warm_left: warm_bytes, ..Index::default() }
    }

    /// Messages; notes are none.
    pub fn len(&self) -> usize {
        self.items.len() - self.notes.len()
    }

    /// Bytes of the messages, whether in the log or in content files.
    pub fn live_bytes(&self) -> u64 {
        self.log_live_bytes() + self.body_bytes
    }

    pub fn bytes_on_disk(&self) -> u64 {
        self.log_bytes() + self.body_bytes
    }

    pub fn log_bytes(&self) -> u64 {
        self.segments.values().map(|usage| usage.bytes).sum()
    }

    pub fn log_live_bytes(&self) -> u64 {
        self.segments.values().map(|usage| usage.live_bytes).sum()
    }

    /// Enters a message, or its new place if it is known (start-up finds moved messages twice).
    pub fn insert(&mut self, arrival: Arrival) {
        let Arrival { id, place, received_at, size, body, fates, warm } = arrival;
        self.remove(id);
        let usage = self.segments.entry(place.segment).or_default();
        usage.live += 1;
        usage.live_bytes += place.len;
        if let Some(body) = body {
            let (_, users) = self.bodies.entry(body.file).or_insert_with(|| {
                self.body_bytes += body.len;
                (body.len, 0)
            });
            *users += 1;
        }
        let mut item = Item::new(id, place, received_at, size, body, &fates, &mut self.texts);
        item.warm = warm.filter(|warm| warm.cost() <= self.warm_left).map(Box::new);
        self.warm_left -= item.warm.as_ref().map_or(0, |warm| warm.cost());
        fates.iter().for_each(|fate| self.tally.enter(fate));
        let keys = item.keys();
        let slot = self.items.insert(item);
        self.requeue(slot, id, Keys::default(), keys);
    }

    /// Takes the message out as if it had never been there; start-up only.
    fn remove(&mut self, id: QueueId) {
        if let Some(slot) = self.items.find(id) {
            let mut tally = self.tally;
            self.items.at(slot).states().iter().for_each(|state| tally.forget(state));
            self.tally = tally;
            let finished = self.finish(slot);
            self.forget(&finished);
        }
    }

    /// The segment a message lies in.
    pub fn home(&self, id: QueueId) -> Option<u64> {
        self.place(id).map(|place| place.segment)
    }

    pub fn place(&self, id: QueueId) -> Option<Place> {
        self.items.by_id(id).map(Item::place)
    }

    /// What a rewritten record has to say of a message.
    pub fn snapshot(&self, id: QueueId) -> Option<(Timestamp, Option<BodyRef>, Vec<Fate>)> {
        let item = self.items.by_id(id)?;
        Some((item.received_at(), item.body.as_deref().copied(), item.fates()))
    }

    /// Changes a message and moves it to where it belongs in the queues from then on.
    fn change<R>(&mut self, slot: Slot, change: impl FnOnce(&mut Item, &mut Texts) -> R) -> R {
        let item = self.items.at_mut(slot);
        let (id, before) = (item.id, item.keys());
        let result = change(item, &mut self.texts);
        let after = item.keys();
        self.requeue(slot, id, before, after);
        result
    }

    fn requeue(&mut self, slot: Slot, id: QueueId, before: Keys, after: Keys) {
        if before.due != after.due {
            if let Some((lane, at)) = before.due {
                self.lane(lane).remove(&(at, slot));
            }
            if let Some((lane, at)) = after.due {
                self.lane(lane).insert((at, slot));
            }
        }
        match (before.noted, after.noted) {
            (false, true) => _ = self.notes.insert(id),
            (true, false) => _ = self.notes.remove(&id),
            (true, true) | (false, false) => {}
        }
        if before.until != after.until {
            match before.until {
                Some(until) => _ = self.expiring.remove(&(until, slot)),
                None => _ = self.held.insert(id),
            }
            match after.until {
                Some(until) => _ = self.expiring.insert((until, slot)),
                None => _ = self.held.remove(&id),
            }
        }
    }

    fn lane(&mut self, lane: Lane) -> &mut BTreeSet<(i64, Slot)> {
        match lane {
            Lane::New => &mut self.new,
            Lane::Retry => &mut self.retries,
        }
    }

    /// Records how recipients stand now; they are no longer in flight. Some: that was the last one.
    pub fn settle(&mut self, id: QueueId, fates: Vec<(usize, Fate)>) -> Option<Finished> {
        let slot = self.items.find(id)?;
        let mut tally = self.tally;
        let over = self.change(slot, |item, texts| {
            for (target, fate) in fates {
                let Some(state) = item.states_mut().get_mut(target) else { continue };
                state.in_flight = false;
                // A final outcome stays: a late retry of something done would be a second delivery.
                if !state.is_final() {
                    tally.turn(state, &fate);
                    *state = State::new(&fate, texts);
                }
            }
            item.open() == 0
        });
        self.tally = tally;
        over.then(|| self.finish(slot))
    }

    /// Gives recipients back unattempted.
    pub fn release(&mut self, id: QueueId, times: &[(usize, Timestamp)]) {
        let Some(slot) = self.items.find(id) else { return };
        self.change(slot, |item, _| {
            for (target, time) in times {
                let Some(state) = item.states_mut().get_mut(*target) else { continue };
                state.in_flight = false;
                state.postpone(*time);
            }
        });
    }

    fn finish(&mut self, slot: Slot) -> Finished {
        let item = self.items.remove(slot);
        self.requeue(slot, item.id, item.keys(), Keys::default());
        self.warm_left += item.warm.as_ref().map_or(0, |warm| warm.cost());
        Finished { place: item.place(), body: item.body.map(|body| *body) }
    }

    /// A finished message's end is durable (or the message has a durable new record): its old record
    /// is dead. Some: this content file, too.
    pub fn forget(&mut self, finished: &Finished) -> Option<QueueId> {
        self.leave(finished.place);
        let file = finished.body?.file;
        let (len, users) = self.bodies.get_mut(&file)?;
        *users -= 1;
        if *users > 0 {
            return None;
        }
        self.body_bytes -= *len;
        self.bodies.remove(&file);
        Some(file)
    }

    fn leave(&mut self, place: Place) {
        if let Some(usage) = self.segments.get_mut(&place.segment) {
            usage.live -= 1;
            usage.live_bytes -= place.len;
        }
    }

    /// A message has a durable record at a new place. False: it was finished in the meantime.
    pub fn moved(&mut self, id: QueueId, to: Place) -> bool {
        let Some(slot) = self.items.find(id) else { return false };
        let item = self.items.at_mut(slot);
        let from = item.place();
        item.set_place(to);
        self.leave(from);
        let usage = self.segments.entry(to.segment).or_default();
        usage.live += 1;
        usage.live_bytes += to.len;
        true
    }

    pub fn held(&self, after: Option<QueueId>, limit: usize) -> Vec<HeldSummary> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let ids = self.held.range((from, Bound::Unbounded)).take(limit);
        ids.filter_map(|id| held_summary(self.items.by_id(*id)?)).collect()
    }

    pub fn held_one(&self, id: QueueId) -> Option<HeldSummary> {
        held_summary(self.items.by_id(id)?)
    }

    pub fn held_len(&self) -> usize {
        self.held.len()
    }

    pub fn next_expiry(&self) -> Option<Timestamp> {
        self.expiring.first().map(|(until, _)| time(*until))
    }

    pub fn expired(&self, now: Timestamp, limit: usize) -> Vec<QueueId> {
        let now = nanos(now);
        let over = self.expiring.iter().take_while(|(until, _)| *until <= now);
        over.take(limit).map(|(_, slot)| self.items.at(*slot).id).collect()
    }

    /// Takes the held recipients of a message into hand.
    pub fn claim(&mut self, id: QueueId) -> Result<Vec<usize>, ClaimError> {
        let slot = self.items.find(id).filter(|slot| self.items.at(*slot).keys().until.is_some());
        let slot = slot.ok_or(ClaimError::NotHeld(id))?;
        if self.items.at(slot).in_flight() {
            return Err(ClaimError::Busy(id));
        }
        *self.claimed.entry(id).or_default() += 1;
        Ok(self.change(slot, |item, _| take_where(item, State::is_held)))
    }

    /// The opposite of [`Index::claim`], for those of the recipients that are still there.
    pub fn give_back(&mut self, id: QueueId, targets: &[usize]) {
        if let Some(claims) = self.claimed.get_mut(&id) {
            *claims -= 1;
            if *claims == 0 {
                self.claimed.remove(&id);
            }
        }
        let Some(slot) = self.items.find(id) else { return };
        self.change(slot, |item, _| {
            for target in targets {
                if let Some(state) = item.states_mut().get_mut(*target) {
                    state.in_flight = false;
                }
            }
        });
    }

    /// Takes messages whose time has come, the lanes by turns, so that neither a flood of new mail
    /// nor a mountain of retries holds up the other. At least one if there is one; then no more than
    /// `max`, nor more than have `bytes` of content in memory together.
    pub fn take_due(&mut self, now: Timestamp, max: usize, bytes: u64) -> Batch {
        let mut taken = Vec::new();
        let mut left = bytes;
        while taken.len() < max.max(1) {
            let slot = match self.next(nanos(now)) {
                Ok(slot) => slot,
                Err(until) => return Batch { taken, until: until.map(time) },
            };
            let item = self.items.at(slot);
            let cost = if item.body.is_some() { MAPPED_COST } else { item.size + ENTRY_COST };
            if cost > left && !taken.is_empty() {
                break;
            }
            left = left.saturating_sub(cost);
            taken.push(self.take(slot, nanos(now)));
        }
        Batch { taken, until: None }
    }

    /// Whose turn it is; or when it is somebody's.
    fn next(&mut self, now: i64) -> Result<Slot, Option<i64>> {
        let first_new = self.new.first().copied();
        let first_retry = self.retries.first().copied();
        let due = |first: Option<(i64, Slot)>| first.filter(|(at, _)| *at <= now);
        match (due(first_new), due(first_retry)) {
            (Some((_, new)), Some((_, retry))) => {
                self.retry_next = !self.retry_next;
                Ok(if self.retry_next { retry } else { new })
            }
            (Some((_, slot)), None) | (None, Some((_, slot))) => Ok(slot),
            (None, None) => Err(first_new.into_iter().chain(first_retry).map(|(at, _)| at).min()),
        }
    }

    fn take(&mut self, slot: Slot, now: i64) -> Taken {
        let taken = self.change(slot, |item, _| Taken {
            id: item.id,
            targets: take_where(item, |state| state.is_waiting() && state.at() <= now),
            fates: item.fates(),
            warm: item.warm.take().map(|warm| *warm),
        });
        self.warm_left += taken.warm.as_ref().map_or(0, Warm::cost);
        taken
    }

    pub fn fates(&self, id: QueueId) -> Option<Arc<[Fate]>> {
        self.items.by_id(id).map(Item::fates)
    }

    /// Messages whose records are in this segment, among those of one step through all messages; None
    /// behind the last step, or as soon as there is none left.
    pub fn within(&self, step: usize, segment: u64) -> Option<Vec<(QueueId, Place)>> {
        let live = self.segments.get(&segment).map_or(0, |usage| usage.live);
        let items = self.items.chunk(step).filter(|_| live > 0)?;
        let inside = items.filter(|item| item.place().segment == segment);
        Some(inside.map(|item| (item.id, item.place())).collect())
    }

    pub fn bodies(&self) -> impl Iterator<Item = (QueueId, u64)> {
        self.bodies.iter().map(|(file, (len, _))| (*file, *len))
    }

    /// A message whose record is beyond reading.
    pub fn lose(&mut self, id: QueueId) -> Option<QueueId> {
        let slot = self.items.find(id)?;
        let mut tally = self.tally;
        self.items.at(slot).states().iter().for_each(|state| tally.lose(state));
        self.tally = tally;
        let finished = self.finish(slot);
        self.forget(&finished)
    }

    /// Sealed segments that nothing needs any more.
    pub fn droppable(&self) -> Vec<Dead> {
        let dead = |usage: &Usage| {
            usage.sealed
                && usage.live == 0
                && !usage.needs.iter().any(|older| self.segments.contains_key(older))
        };
        let dead = self.segments.iter().filter(|(_, usage)| dead(usage));
        dead.map(|(number, usage)| Dead { number: *number, again: usage.again }).collect()
    }

    /// The messages that wait among those of one step through all of them; None behind the last step.
    /// What moves while the lock is free between two steps may be missed or seen twice.
    pub fn waiting(&self, step: usize) -> Option<Vec<Summary>> {
        Some(self.items.chunk(step)?.filter(|item| is_queued(item)).map(summary).collect())
    }

    pub fn summary(&self, id: QueueId) -> Option<Summary> {
        self.items.by_id(id).filter(|item| is_queued(item)).map(summary)
    }
}

/// Neither held nor a note.
fn is_queued(item: &Item) -> bool {
    let keys = item.keys();
    keys.until.is_none() && !keys.noted
}

/// Puts the recipients that are free and like this in flight.
fn take_where(item: &mut Item, wanted: impl Fn(&State) -> bool) -> Vec<usize> {
    let mut targets = Vec::new();
    for (target, state) in item.states_mut().iter_mut().enumerate() {
        if !state.in_flight && wanted(state) {
            state.in_flight = true;
            targets.push(target);
        }
    }
    targets
}

fn held_summary(item: &Item) -> Option<HeldSummary> {
    Some(HeldSummary {
        id: item.id,
        received_at: item.received_at(),
        size: item.size,
        recipients: item.states().iter().filter(|state| state.is_held()).count(),
        until: time(item.keys().until?),
        busy: item.in_flight(),
    })
}

fn summary(item: &Item) -> Summary {
    let waiting = || item.states().iter().filter(|state| state.is_waiting());
    Summary {
        id: item.id,
        received_at: item.received_at(),
        size: item.size,
        waiting: item.open(),
        in_flight: item.in_flight(),
        attempts: waiting().map(State::attempts).max().unwrap_or(0),
        next_attempt: waiting().map(State::at).min().map(time),
        last_error: waiting().find_map(State::last_error).map(str::to_owned),
    }
}
