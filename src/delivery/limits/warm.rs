//! The warm-up of new addresses: what each may still send to a domain on a day. Counts only, so a process that
//! ends writes them down for the next one; the days are those of the schedule, not of a calendar.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::bundle::document::WarmUp;
use crate::mail::rate::later;

const DAY: Duration = Duration::from_secs(86_400);

/// What a schedule says at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Allowance {
    /// The first day has not begun.
    NotBefore(Timestamp),
    /// So many messages to each domain on this day (from 0), which ends then.
    Day {
        day: u32,
        messages: u64,
        ends: Timestamp,
    },
    Unlimited,
}

pub fn allowance(schedule: &WarmUp, now: Timestamp) -> Allowance {
    let WarmUp { from, first_day, factor_percent, days } = schedule;
    if now < *from {
        return Allowance::NotBefore(*from);
    }
    let day = now.duration_since(*from).as_secs() / DAY.as_secs() as i64;
    let day = u32::try_from(day).unwrap_or(u32::MAX);
    if day >= *days {
        return Allowance::Unlimited;
    }
    let factor = (f64::from(*factor_percent) / 100.0).max(1.0);
    let messages = f64::from(*first_day) * factor.powi(i32::try_from(day).unwrap_or(i32::MAX));
    // `as` keeps a product beyond u64 at its largest value.
    Allowance::Day { day, messages: messages as u64, ends: later(*from, DAY.saturating_mul(day + 1)) }
}

/// One day of one address at one domain.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
struct Page {
    source: IpAddr,
    domain: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Count {
    /// The day ends then; afterwards the count is void.
    ends: Timestamp,
    messages: u64,
}

/// What was sent on the days that run.
#[derive(Debug, Default)]
pub struct Counts {
    counts: HashMap<Page, Count>,
    dirty: bool,
}

impl Counts {
    /// Whether one more may go; else when to ask again. `shares`: how many count each for itself.
    pub fn may_take(
        &self,
        schedule: &WarmUp,
        source: IpAddr,
        domain: &str,
        shares: u32,
        now: Timestamp,
    ) -> Result<(), Timestamp> {
        match allowance(schedule, now) {
            Allowance::Unlimited => Ok(()),
            Allowance::NotBefore(then) => Err(then),
            Allowance::Day { messages, ends, .. } => {
                let share = (messages / u64::from(shares.max(1))).max(1);
                if self.sent(source, domain, ends) < share { Ok(()) } else { Err(ends) }
            }
        }
    }

    fn sent(&self, source: IpAddr, domain: &str, ends: Timestamp) -> u64 {
        let page = Page { source, domain: domain.to_owned() };
        self.counts.get(&page).filter(|count| count.ends == ends).map_or(0, |count| count.messages)
    }

    /// Counts one. The day it was counted for, to give it back if the message left otherwise.
    pub fn take(
        &mut self,
        schedule: &WarmUp,
        source: IpAddr,
        domain: &str,
        now: Timestamp,
    ) -> Option<Timestamp> {
        let Allowance::Day { ends, .. } = allowance(schedule, now) else { return None };
        let page = Page { source, domain: domain.to_owned() };
        let count = self.counts.entry(page).or_insert(Count { ends, messages: 0 });
        if count.ends != ends {
            *count = Count { ends, messages: 0 };
        }
        count.messages += 1;
        self.dirty = true;
        Some(ends)
    }

    pub fn give_back(&mut self, source: IpAddr, domain: &str, ends: Timestamp) {
        let page = Page { source, domain: domain.to_owned() };
        if let Some(count) = self.counts.get_mut(&page).filter(|count| count.ends == ends) {
            count.messages = count.messages.saturating_sub(1);
            self.dirty = true;
        }
    }

    /// What a later process must know, if that changed since the last call.
    pub fn written(&mut self, now: Timestamp) -> Option<Vec<u8>> {
        if !std::mem::take(&mut self.dirty) {
            return None;
        }
        self.counts.retain(|_, count| count.ends > now);
        let lines: Vec<(&Page, &Count)> = self.counts.iter().collect();
        Some(serde_json::to_vec(&lines).expect("plain data"))
    }

    /// What an earlier process wrote. Bytes that are no counts are none: the day begins anew.
    pub fn read(bytes: &[u8]) -> Self {
        let lines: Vec<(Page, Count)> = serde_json::from_slice(bytes).unwrap_or_default();
        Self { counts: lines.into_iter().collect(), dirty: false }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(hours: i64) -> Timestamp {
        Timestamp::from_second(hours * 3600).unwrap()
    }

    fn schedule() -> WarmUp {
        WarmUp { from: at(24), first_day: 2, factor_percent: 150, days: 4 }
    }

    #[test]
    fn each_day_allows_more_until_there_is_no_limit() {
        let messages = |hours| match allowance(&schedule(), at(hours)) {
            Allowance::Day { messages, .. } => messages,
            other => panic!("{other:?}"),
        };
        assert_eq!(allowance(&schedule(), at(0)), Allowance::NotBefore(at(24)));
        assert_eq!([messages(24), messages(47), messages(48), messages(72), messages(96)], [2, 2, 3, 4, 6]);
        assert_eq!(allowance(&schedule(), at(120)), Allowance::Unlimited);
    }

    #[test]
    fn r002_a_new_address_sends_its_days_allowance_to_each_domain_also_over_a_restart() {
        let source = "192.0.2.10".parse().unwrap();
        let mut counts = Counts::default();
        let may = |counts: &Counts, domain: &str, at| counts.may_take(&schedule(), source, domain, 1, at);
        for _ in 0..2 {
            assert_eq!(may(&counts, "a.example", at(30)), Ok(()));
            counts.take(&schedule(), source, "a.example", at(30)).unwrap();
        }
        assert_eq!(may(&counts, "a.example", at(30)), Err(at(48)), "waits for the next day");
        assert_eq!(may(&counts, "b.example", at(30)), Ok(()), "each domain alone");
        let written = counts.written(at(31)).unwrap();
        assert_eq!(counts.written(at(31)), None, "nothing new");
        let mut counts = Counts::read(&written);
        assert_eq!(may(&counts, "a.example", at(31)), Err(at(48)));
        assert_eq!(may(&counts, "a.example", at(48)), Ok(()));
        counts.give_back(source, "a.example", at(48));
        assert_eq!(may(&counts, "a.example", at(40)), Ok(()));
        assert_eq!(Counts::read(b"rubbish").written(at(0)), None);
    }

    #[test]
    fn pods_share_a_days_allowance_and_each_has_one_message_at_least() {
        let source = "192.0.2.10".parse().unwrap();
        let mut counts = Counts::default();
        assert_eq!(counts.may_take(&schedule(), source, "a.example", 5, at(30)), Ok(()));
        counts.take(&schedule(), source, "a.example", at(30));
        assert_eq!(counts.may_take(&schedule(), source, "a.example", 5, at(30)), Err(at(48)));
    }
}
