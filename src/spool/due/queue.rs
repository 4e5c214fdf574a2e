//! The index as people ask for it: pages of what waits, times that somebody changes by hand, counts.

use std::ops::Bound;
use std::sync::Arc;

use jiff::Timestamp;

use super::{Index, State, summary};
use crate::spool::entry::{Entry, Fate};
use crate::spool::hold::ClaimError;
use crate::spool::id::QueueId;
use crate::spool::items::nanos;
use crate::spool::{Standing, Summary};

/// Recipients, counted as they come and go.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::spool) struct Tally {
    pub entered: u64,
    pub waiting: u64,
    pub held: u64,
    pub delivered: u64,
    pub failed: u64,
    pub released: u64,
    pub lost: u64,
}

impl Tally {
    pub fn enter(&mut self, fate: &Fate) {
        if !fate.is_final() {
            self.entered += 1;
            self.stand(fate);
        }
    }

    /// A recipient that had no final outcome stands otherwise now.
    pub fn turn(&mut self, before: &State, after: &Fate) {
        self.leave(before);
        self.stand(after);
    }

    /// Its message is gone without a fate.
    pub fn lose(&mut self, state: &State) {
        self.leave(state);
        self.lost += u64::from(!state.is_final());
    }

    /// As if it had never come.
    pub fn forget(&mut self, state: &State) {
        self.leave(state);
        self.entered -= u64::from(!state.is_final());
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
        }
    }

    fn leave(&mut self, state: &State) {
        self.waiting -= u64::from(state.is_waiting());
        self.held -= u64::from(state.is_held());
    }
}

impl Index {
    /// Messages that wait, behind this one, oldest first, at most `limit`.
    pub fn page(&self, after: Option<QueueId>, limit: usize) -> Vec<Summary> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let ids = self.queued.range((from, Bound::Unbounded)).take(limit);
        ids.filter_map(|id| self.items.by_id(*id).map(summary)).collect()
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
            (false, _) => Ok(taken),
        }
    }
}
