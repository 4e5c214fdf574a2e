//! The index as people ask for it: pages of what waits, times that somebody changes by hand, counts.

use std::collections::BinaryHeap;
use std::sync::Arc;

use jiff::Timestamp;

use super::{Index, Item, State, take_where};
use crate::spool::Standing;
use crate::spool::entry::{Entry, Fate};
use crate::spool::hold::ClaimError;
use crate::spool::id::QueueId;
use crate::spool::items::nanos;

/// Recipients, counted as they come and go.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::spool) struct Tally {
    pub entered: u64,
    pub waiting: u64,
    pub held: u64,
    pub delivered: u64,
    pub failed: u64,
    pub released: u64,
    pub handed_over: u64,
    pub lost: u64,
}

impl Tally {
    pub fn enter(&mut self, fate: &Fate) {
        if matches!(fate, Fate::Waiting(_) | Fate::Held(_)) {
            self.entered += 1;
            self.stand(fate);
        }
    }

    /// A recipient that had no final outcome stands otherwise now.
    pub fn turn(&mut self, before: &State, after: &Fate) {
        if before.is_open() {
            self.leave(before);
            self.stand(after);
        }
    }

    /// Its message is gone without a fate.
    pub fn lose(&mut self, state: &State) {
        self.leave(state);
        self.lost += u64::from(state.is_open());
    }

    /// As if it had never come.
    pub fn forget(&mut self, state: &State) {
        self.leave(state);
        self.entered -= u64::from(state.is_open());
    }

    /// Start-up has read what there is: all before was another process.
    pub fn begin(&mut self) {
        let Tally { waiting, held, .. } = *self;
        *self = Tally { entered: waiting + held, waiting, held, ..Tally::default() };
    }

    fn stand(&mut self, fate: &Fate) {
        match fate {
            Fate::Waiting(_) => self.waiting += 1,
            Fate::Held(_) => self.held += 1,
            Fate::Delivered => self.delivered += 1,
            Fate::Failed => self.failed += 1,
            Fate::Released => self.released += 1,
            Fate::HandedOver => self.handed_over += 1,
            Fate::Noted => {}
        }
    }

    fn leave(&mut self, state: &State) {
        self.waiting -= u64::from(state.is_waiting());
        self.held -= u64::from(state.is_held());
    }
}

impl Index {
    /// Of the messages of one step through all of them, those with a recipient who is `wanted` and that come
    /// behind `after`, as far as they are among the `limit` oldest. False behind the last step.
    pub fn gather(
        &self,
        step: usize,
        after: Option<QueueId>,
        limit: usize,
        wanted: fn(&State) -> bool,
        oldest: &mut BinaryHeap<QueueId>,
    ) -> bool {
        let Some(items) = self.items.chunk(step) else { return false };
        for item in items.filter(|item| after.is_none_or(|after| item.id > after)) {
            let is_full = oldest.len() >= limit;
            if is_full && oldest.peek().is_none_or(|last| *last < item.id) {
                continue;
            }
            if item.states().iter().any(wanted) {
                if is_full {
                    oldest.pop();
                }
                oldest.push(item.id);
            }
        }
        true
    }

    /// How a message stands; `entry` is for when it is not in memory: without it there is no answer then.
    pub fn standing(&self, id: QueueId, entry: Option<&Arc<Entry>>) -> Option<Standing> {
        let item = self.items.by_id(id)?;
        let warm = item.warm.as_ref().map(|warm| &warm.entry);
        let in_flight = item.states().iter().enumerate().filter(|(_, state)| state.in_flight);
        Some(Standing {
            id,
            size: item.size,
            entry: Arc::clone(warm.or(entry)?),
            fates: item.fates(),
            in_flight: in_flight.map(|(target, _)| target).collect(),
        })
    }

    /// Makes recipients due at this time, those that wait and are not being attempted. With `sooner` only
    /// those that would be due later. Returns how many.
    pub fn retime(&mut self, id: QueueId, targets: &[usize], at: Timestamp, sooner: bool) -> usize {
        let Some(slot) = self.items.find(id) else { return 0 };
        self.change(slot, |item, _| {
            let mut changed = 0;
            for target in targets {
                let Some(state) = item.states_mut().get_mut(*target) else { continue };
                if state.is_waiting() && !state.in_flight && (!sooner || nanos(at) < state.at()) {
                    state.postpone(at);
                    changed += 1;
                }
            }
            changed
        })
    }

    /// Takes waiting recipients of a message into hand, those of `wanted` that nobody attempts just now.
    pub fn take_waiting(&mut self, id: QueueId, wanted: &[usize]) -> Result<Vec<usize>, ClaimError> {
        let slot = self.items.find(id).ok_or(ClaimError::NotWaiting(id))?;
        let (taken, busy) = self.change(slot, |item, _| {
            let (mut taken, mut busy) = (Vec::new(), false);
            for target in wanted {
                match item.states_mut().get_mut(*target).filter(|state| state.is_waiting()) {
                    Some(state) if state.in_flight => busy = true,
                    Some(state) => {
                        state.in_flight = true;
                        taken.push(*target);
                    }
                    None => {}
                }
            }
            (taken, busy)
        });
        match (taken.is_empty(), busy) {
            (true, true) => Err(ClaimError::Busy(id)),
            (true, false) => Err(ClaimError::NotWaiting(id)),
            (false, _) => {
                *self.claimed.entry(id).or_default() += 1;
                Ok(taken)
            }
        }
    }

    /// Takes a message into hand as a whole: nobody may be busy with any recipient of it.
    pub fn lift(&mut self, id: QueueId) -> Result<Vec<usize>, ClaimError> {
        let slot = self.items.find(id).ok_or(ClaimError::NotWaiting(id))?;
        let item = self.items.at(slot);
        if item.in_flight() {
            return Err(ClaimError::Busy(id));
        }
        if !item.states().iter().any(State::is_open) {
            return Err(ClaimError::NotWaiting(id));
        }
        *self.claimed.entry(id).or_default() += 1;
        Ok(self.change(slot, |item, _| take_where(item, State::is_open)))
    }

    /// Nobody delivers any more: recipients of this step through all messages who were in delivery's hands wait
    /// again. `None` behind the last step; else how many there were.
    pub fn end_attempts(&mut self, step: usize) -> Option<usize> {
        let claimed = &self.claimed;
        let busy = |item: &&Item| item.in_flight() && !claimed.contains_key(&item.id);
        let ids: Vec<QueueId> = self.items.chunk(step)?.filter(busy).map(|item| item.id).collect();
        for id in &ids {
            let Some(slot) = self.items.find(*id) else { continue };
            self.change(slot, |item, _| {
                item.states_mut()
                    .iter_mut()
                    .filter(|state| state.is_waiting())
                    .for_each(|s| s.in_flight = false);
            });
        }
        Some(ids.len())
    }

    /// Notes, oldest first.
    pub fn notes(&self) -> Vec<QueueId> {
        self.notes.iter().copied().collect()
    }
}
