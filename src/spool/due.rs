//! The index in memory: which messages there are, where they lie, how each recipient stands and who
//! is due when. Plain data under one lock: no I/O, no clock (`now` is given).

mod queue;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;
use std::sync::Arc;

use jiff::Timestamp;

pub(super) use self::queue::Tally;
use super::Summary;
use super::content::Content;
use super::entry::{Entry, Fate, Waiting};
use super::hold::{ClaimError, HeldSummary};
use super::id::QueueId;
use super::record::BodyRef;

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

struct Item {
    place: Place,
    received_at: Timestamp,
    size: u64,
    body: Option<BodyRef>,
    states: Box<[State]>,
    waiting: u32,
    /// The key it has in a queue now.
    due: Option<(Lane, Timestamp)>,
    /// When the first of its held recipients expires; the key it has among the held.
    until: Option<Timestamp>,
    warm: Option<Warm>,
}

struct State {
    fate: Fate,
    in_flight: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lane {
    /// Never attempted.
    New,
    Retry,
}

/// A message taken out for delivery.
pub(super) struct Taken {
    pub id: QueueId,
    pub targets: Vec<usize>,
    pub fates: Arc<[Fate]>,
    pub warm: Option<Warm>,
}

pub(super) enum Next {
    Taken(Taken),
    /// Nothing is due before this time, if anything ever is.
    Wait(Option<Timestamp>),
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
}

#[derive(Default)]
pub(super) struct Index {
    items: HashMap<QueueId, Item>,
    new: BTreeSet<(Timestamp, QueueId)>,
    retries: BTreeSet<(Timestamp, QueueId)>,
    /// Messages with a recipient that waits, in the order of their arrival.
    waiting: BTreeSet<QueueId>,
    /// Messages with a held recipient, in the order of their arrival and in that of their end.
    held: BTreeSet<QueueId>,
    expiring: BTreeSet<(Timestamp, QueueId)>,
    /// Whose turn it is when both lanes have something due.
    retry_next: bool,
    warm_left: u64,
    /// Content files, and how many messages use each.
    bodies: HashMap<QueueId, (u64, u32)>,
    pub segments: BTreeMap<u64, Usage>,
    pub tally: Tally,
}

impl Index {
    pub fn new(warm_bytes: u64) -> Index {
        Index { warm_left: warm_bytes, ..Index::default() }
    }

    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Bytes of the messages, whether in the log or in content files.
    pub fn live_bytes(&self) -> u64 {
        self.log_live_bytes() + self.body_bytes()
    }

    pub fn bytes_on_disk(&self) -> u64 {
        self.log_bytes() + self.body_bytes()
    }

    pub fn log_bytes(&self) -> u64 {
        self.segments.values().map(|usage| usage.bytes).sum()
    }

    pub fn log_live_bytes(&self) -> u64 {
        self.segments.values().map(|usage| usage.live_bytes).sum()
    }

    fn body_bytes(&self) -> u64 {
        self.bodies.values().map(|(len, _)| len).sum()
    }

    /// Enters a message, or its new place if it is known (start-up finds moved messages twice).
    pub fn insert(&mut self, arrival: Arrival) {
        let Arrival { id, place, received_at, size, body, fates, mut warm } = arrival;
        self.remove(id);
        let usage = self.segments.entry(place.segment).or_default();
        usage.live += 1;
        usage.live_bytes += place.len;
        if let Some(body) = body {
            self.bodies.entry(body.file).or_insert((body.len, 0)).1 += 1;
        }
        warm = warm.filter(|warm| warm.content.memory() <= self.warm_left);
        self.warm_left -= warm.as_ref().map_or(0, |warm| warm.content.memory());
        let waiting = fates.iter().filter(|fate| !fate.is_final()).count() as u32;
        fates.iter().for_each(|fate| self.tally.enter(fate));
        if fates.iter().any(|fate| matches!(fate, Fate::Waiting(_))) {
            self.waiting.insert(id);
        }
        let states = fates.into_iter().map(|fate| State { fate, in_flight: false }).collect();
        self.items.insert(
            id,
            Item { place, received_at, size, body, states, waiting, due: None, until: None, warm },
        );
        self.schedule(id);
    }

    /// Takes the message out as if it had never been there; start-up only.
    fn remove(&mut self, id: QueueId) {
        for state in self.items.get(&id).into_iter().flat_map(|item| &item.states) {
            self.tally.forget(&state.fate);
        }
        if let Some(finished) = self.finish(id) {
            self.forget(&finished);
        }
    }

    /// The segment a message lies in.
    pub fn home(&self, id: QueueId) -> Option<u64> {
        self.items.get(&id).map(|item| item.place.segment)
    }

    pub fn place(&self, id: QueueId) -> Option<Place> {
        self.items.get(&id).map(|item| item.place)
    }

    /// What a rewritten record has to say of a message.
    pub fn snapshot(&self, id: QueueId) -> Option<(Timestamp, Option<BodyRef>, Vec<Fate>)> {
        let item = self.items.get(&id)?;
        Some((item.received_at, item.body, item.states.iter().map(|state| state.fate.clone()).collect()))
    }

    /// Records how recipients stand now; they are no longer in flight. Some: that was the last one.
    pub fn settle(&mut self, id: QueueId, fates: Vec<(usize, Fate)>) -> Option<Finished> {
        let item = self.items.get_mut(&id)?;
        for (target, fate) in fates {
            let Some(state) = item.states.get_mut(target) else { continue };
            state.in_flight = false;
            // A final outcome stays: a late retry of something done would be a second delivery.
            if !state.fate.is_final() {
                item.waiting -= u32::from(fate.is_final());
                self.tally.turn(&state.fate, &fate);
                state.fate = fate;
            }
        }
        if item.waiting == 0 {
            return self.finish(id);
        }
        self.schedule(id);
        None
    }

    /// Gives recipients back unattempted.
    pub fn release(&mut self, id: QueueId, times: &[(usize, Timestamp)]) {
        let Some(item) = self.items.get_mut(&id) else { return };
        for (target, time) in times {
            let Some(state) = item.states.get_mut(*target) else { continue };
            state.in_flight = false;
            if let Fate::Waiting(waiting) = &mut state.fate {
                waiting.next_attempt = *time;
            }
        }
        self.schedule(id);
    }

    fn finish(&mut self, id: QueueId) -> Option<Finished> {
        let item = self.items.remove(&id)?;
        match item.due {
            Some((Lane::New, time)) => self.new.remove(&(time, id)),
            Some((Lane::Retry, time)) => self.retries.remove(&(time, id)),
            None => false,
        };
        self.waiting.remove(&id);
        if let Some(until) = item.until {
            self.held.remove(&id);
            self.expiring.remove(&(until, id));
        }
        self.warm_left += item.warm.map_or(0, |warm| warm.content.memory());
        Some(Finished { place: item.place, body: item.body })
    }

    /// A finished message's end is durable (or the message has a durable new record): its old record
    /// is dead. Some: this content file, too.
    pub fn forget(&mut self, finished: &Finished) -> Option<QueueId> {
        self.leave(finished.place);
        let file = finished.body?.file;
        let (_, users) = self.bodies.get_mut(&file)?;
        *users -= 1;
        if *users > 0 {
            return None;
        }
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
        let Some(item) = self.items.get_mut(&id) else { return false };
        let from = std::mem::replace(&mut item.place, to);
        self.leave(from);
        let usage = self.segments.entry(to.segment).or_default();
        usage.live += 1;
        usage.live_bytes += to.len;
        true
    }

    /// Puts the message into the lane and at the time its recipients ask for, and among the held if it is.
    fn schedule(&mut self, id: QueueId) {
        self.schedule_end(id);
        let Some(item) = self.items.get_mut(&id) else { return };
        let mut next: Option<(Lane, Timestamp)> = None;
        for state in &item.states {
            if let (Fate::Waiting(Waiting { attempts, next_attempt, .. }), false) =
                (&state.fate, state.in_flight)
            {
                let lane = if *attempts == 0 { Lane::New } else { Lane::Retry };
                if next.is_none_or(|(_, time)| *next_attempt < time) {
                    next = Some((lane, *next_attempt));
                }
            }
        }
        if item.due == next {
            return;
        }
        match std::mem::replace(&mut item.due, next) {
            Some((Lane::New, time)) => self.new.remove(&(time, id)),
            Some((Lane::Retry, time)) => self.retries.remove(&(time, id)),
            None => false,
        };
        match next {
            Some((Lane::New, time)) => self.new.insert((time, id)),
            Some((Lane::Retry, time)) => self.retries.insert((time, id)),
            None => false,
        };
    }

    fn schedule_end(&mut self, id: QueueId) {
        let Some(item) = self.items.get_mut(&id) else { return };
        let until = item.holds().min();
        match (std::mem::replace(&mut item.until, until), until) {
            (before, after) if before == after => return,
            (Some(before), _) => _ = self.expiring.remove(&(before, id)),
            (None, _) => _ = self.held.insert(id),
        }
        match until {
            Some(until) => _ = self.expiring.insert((until, id)),
            None => _ = self.held.remove(&id),
        }
    }

    pub fn held(&self, after: Option<QueueId>, limit: usize) -> Vec<HeldSummary> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let ids = self.held.range((from, Bound::Unbounded)).take(limit);
        ids.filter_map(|id| self.items.get(id)?.held(*id)).collect()
    }

    pub fn held_one(&self, id: QueueId) -> Option<HeldSummary> {
        self.items.get(&id)?.held(id)
    }

    pub fn held_len(&self) -> usize {
        self.held.len()
    }

    pub fn next_expiry(&self) -> Option<Timestamp> {
        self.expiring.first().map(|(until, _)| *until)
    }

    pub fn expired(&self, now: Timestamp, limit: usize) -> Vec<QueueId> {
        let over = self.expiring.iter().take_while(|(until, _)| *until <= now);
        over.take(limit).map(|(_, id)| *id).collect()
    }

    /// Takes the held recipients of a message into hand.
    pub fn claim(&mut self, id: QueueId) -> Result<Vec<usize>, ClaimError> {
        let item = self.items.get_mut(&id).filter(|item| item.until.is_some());
        let item = item.ok_or(ClaimError::NotHeld(id))?;
        if item.states.iter().any(|state| state.in_flight) {
            return Err(ClaimError::Busy(id));
        }
        let mut targets = Vec::new();
        for (target, state) in item.states.iter_mut().enumerate() {
            if matches!(state.fate, Fate::Held(_)) {
                state.in_flight = true;
                targets.push(target);
            }
        }
        Ok(targets)
    }

    /// The opposite of [`Index::claim`], for those of the recipients that are still there.
    pub fn give_back(&mut self, id: QueueId, targets: &[usize]) {
        let Some(item) = self.items.get_mut(&id) else { return };
        for target in targets {
            if let Some(state) = item.states.get_mut(*target) {
                state.in_flight = false;
            }
        }
        self.schedule(id);
    }

    /// Takes the next message whose time has come, the lanes by turns, so that neither a flood of
    /// new mail nor a mountain of retries holds up the other.
    pub fn next(&mut self, now: Timestamp) -> Next {
        let first_new = self.new.first().copied();
        let first_retry = self.retries.first().copied();
        let due = |first: Option<(Timestamp, QueueId)>| first.filter(|(time, _)| *time <= now);
        let id = match (due(first_new), due(first_retry)) {
            (Some((_, new)), Some((_, retry))) => {
                self.retry_next = !self.retry_next;
                if self.retry_next { retry } else { new }
            }
            (Some((_, id)), None) | (None, Some((_, id))) => id,
            (None, None) => {
                let times = first_new.into_iter().chain(first_retry).map(|(time, _)| time);
                return Next::Wait(times.min());
            }
        };
        Next::Taken(self.take(id, now))
    }

    fn take(&mut self, id: QueueId, now: Timestamp) -> Taken {
        let item = self.items.get_mut(&id).expect("what is in a lane is in the index");
        let mut targets = Vec::with_capacity(item.states.len());
        for (target, state) in item.states.iter_mut().enumerate() {
            if let (Fate::Waiting(waiting), false) = (&state.fate, state.in_flight)
                && waiting.next_attempt <= now
            {
                state.in_flight = true;
                targets.push(target);
            }
        }
        let fates = item.states.iter().map(|state| state.fate.clone()).collect();
        let warm = item.warm.take();
        self.warm_left += warm.as_ref().map_or(0, |warm| warm.content.memory());
        self.schedule(id);
        Taken { id, targets, fates, warm }
    }

    pub fn fates(&self, id: QueueId) -> Option<Arc<[Fate]>> {
        let item = self.items.get(&id)?;
        Some(item.states.iter().map(|state| state.fate.clone()).collect())
    }

    /// Messages whose records are still in this segment.
    pub fn within(&self, segment: u64) -> Vec<(QueueId, Place)> {
        let inside = self.items.iter().filter(|(_, item)| item.place.segment == segment);
        inside.map(|(id, item)| (*id, item.place)).collect()
    }

    pub fn bodies(&self) -> impl Iterator<Item = (QueueId, u64)> {
        self.bodies.iter().map(|(file, (len, _))| (*file, *len))
    }

    /// A message whose record is beyond reading.
    pub fn lose(&mut self, id: QueueId) -> Option<QueueId> {
        for state in self.items.get(&id).into_iter().flat_map(|item| &item.states) {
            self.tally.lose(&state.fate);
        }
        let finished = self.finish(id)?;
        self.forget(&finished)
    }

    /// Sealed segments that nothing needs any more.
    pub fn droppable(&self) -> Vec<u64> {
        let dead = |usage: &Usage| {
            usage.sealed
                && usage.live == 0
                && !usage.needs.iter().any(|older| self.segments.contains_key(older))
        };
        self.segments.iter().filter(|(_, usage)| dead(usage)).map(|(number, _)| *number).collect()
    }

    pub fn list(&self) -> Vec<Summary> {
        let waiting = self.items.iter().filter(|(id, _)| !self.held.contains(id));
        let mut list: Vec<Summary> = waiting.map(|(id, item)| item.summary(*id)).collect();
        list.sort_by_key(|summary| (summary.received_at, summary.id));
        list
    }
}

impl Item {
    /// When each of its held recipients expires.
    fn holds(&self) -> impl Iterator<Item = Timestamp> {
        self.states.iter().filter_map(|state| match &state.fate {
            Fate::Held(holding) => Some(holding.until),
            Fate::Waiting(_) | Fate::Delivered | Fate::Failed | Fate::Released => None,
        })
    }

    fn held(&self, id: QueueId) -> Option<HeldSummary> {
        Some(HeldSummary {
            id,
            received_at: self.received_at,
            size: self.size,
            recipients: self.holds().count(),
            until: self.until?,
            busy: self.states.iter().any(|state| state.in_flight),
        })
    }

    fn summary(&self, id: QueueId) -> Summary {
        let waiting = || {
            self.states.iter().filter_map(|state| match &state.fate {
                Fate::Waiting(waiting) => Some(waiting),
                Fate::Held(_) | Fate::Delivered | Fate::Failed | Fate::Released => None,
            })
        };
        Summary {
            id,
            received_at: self.received_at,
            size: self.size,
            waiting: self.waiting as usize,
            in_flight: self.states.iter().any(|state| state.in_flight),
            attempts: waiting().map(|waiting| waiting.attempts).max().unwrap_or(0),
            next_attempt: waiting().map(|waiting| waiting.next_attempt).min(),
            last_error: waiting().find_map(|waiting| waiting.last_error.clone()),
        }
    }
}
