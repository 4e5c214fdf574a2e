//! How many attempts run at the same time. An attempt that takes long (a host that is down, a tarpit, a slow line)
//! gives its place to others after a while and goes on beside them: else a thousand dead hosts would hold every
//! place until their time-outs, minutes for each, and healthy destinations would stand behind them. How long that
//! while is says whoever takes the place. No clock.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;

pub struct Places {
    most: usize,
    /// Slow ones beyond `most`.
    most_slow: usize,
    /// Attempts that have a place, by when they give it up.
    quick: BTreeMap<Timestamp, usize>,
    taken: usize,
    slow: usize,
}

impl Places {
    pub fn new(most: usize, most_slow: usize) -> Self {
        Self { most, most_slow, quick: BTreeMap::new(), taken: 0, slow: 0 }
    }

    /// Whether an attempt may start now.
    pub fn has_room(&mut self, now: Timestamp) -> bool {
        while let Some(first) = self.quick.first_entry()
            && *first.key() <= now
        {
            let count = first.remove();
            self.taken -= count;
            self.slow += count;
        }
        // Too many slow ones take places like everybody else.
        self.taken + self.slow.saturating_sub(self.most_slow) < self.most
    }

    /// An attempt starts. Returns until when the place is its own; it is given back by that.
    pub fn take(&mut self, now: Timestamp, patience: Duration) -> Timestamp {
        let until = now.checked_add(patience).unwrap_or(Timestamp::MAX);
        *self.quick.entry(until).or_default() += 1;
        self.taken += 1;
        until
    }

    /// It ended.
    pub fn give(&mut self, until: Timestamp) {
        match self.quick.get_mut(&until) {
            Some(count) => {
                *count -= 1;
                self.taken -= 1;
                if *count == 0 {
                    self.quick.remove(&until);
                }
            }
            None => self.slow = self.slow.saturating_sub(1),
        }
    }

    /// When the longest attempt gives its place to another, if all are taken.
    pub fn next_room(&self) -> Option<Timestamp> {
        let full = self.taken >= self.most;
        self.quick.first_key_value().filter(|_| full).map(|(until, _)| *until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    #[test]
    fn slow_attempts_make_room_for_others_up_to_a_number() {
        let mut places = Places::new(2, 3);
        let start = |places: &mut Places, now: i64| {
            let room = places.has_room(at(now));
            if room {
                places.take(at(now), Duration::from_secs(3));
            }
            room
        };
        assert!(start(&mut places, 0) && start(&mut places, 0) && !start(&mut places, 2));
        assert_eq!(places.next_room(), Some(at(3)));
        assert!(start(&mut places, 3) && start(&mut places, 4) && !start(&mut places, 5));
        // Four are slow by now, one more than may be beside: it takes a place.
        assert!(start(&mut places, 7) && !start(&mut places, 7));
        places.give(at(3));
        assert!(start(&mut places, 7), "a slow one ended");
        places.give(at(10));
        assert!(start(&mut places, 8), "a quick one ended");
    }

    #[test]
    fn who_was_given_less_time_makes_room_first() {
        let mut places = Places::new(2, 9);
        let slow = places.take(at(0), Duration::from_secs(3));
        let quiet = places.take(at(1), Duration::from_secs(1));
        assert_eq!((slow, quiet), (at(3), at(2)));
        assert!(!places.has_room(at(1)));
        assert_eq!(places.next_room(), Some(quiet));
        assert!(places.has_room(at(2)));
    }

    #[test]
    fn whatever_ends_in_whatever_order_no_place_is_lost() {
        let mut places = Places::new(10, 10);
        for now in 0..50 {
            let mut started = Vec::new();
            while started.len() < 10 && places.has_room(at(now)) {
                started.push(places.take(at(now), Duration::from_secs(1)));
            }
            assert_eq!(started.len(), 10);
            let _ = places.has_room(at(now + now % 3));
            started.into_iter().rev().for_each(|started| places.give(started));
        }
        assert_eq!((places.taken, places.slow, places.quick.len()), (0, 0, 0));
    }
}
