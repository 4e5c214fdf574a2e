//! Which recipients of which messages are meant. Pure.

use std::str::FromStr;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::age;
use super::closures::is_called;
use crate::delivery::pauses::{Closed, closed};
use crate::delivery::routes::domain_of;
use crate::delivery::wake::Situation;
use crate::mail::address::{Domain, Host, Mailbox};
use crate::spool::{Fate, Standing, Summary};

/// How a recipient waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// An attempt runs.
    Active,
    /// Never attempted.
    New,
    /// Attempted in vain so far.
    Deferred,
    /// Its route or its domain is paused.
    Paused,
}

/// All that is given must fit; nothing given: everything fits.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    pub sender: Option<Who>,
    pub recipient: Option<Who>,
    pub domain: Option<String>,
    /// `namespace/name`, or the name alone; `default`, `mx`.
    pub route: Option<String>,
    pub state: Option<State>,
    pub older: Option<Duration>,
    pub younger: Option<Duration>,
}

/// An address, everybody of a domain, or the null sender.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Who {
    Nobody,
    Mailbox(String),
    Domain(String),
}

#[derive(Debug, thiserror::Error)]
pub enum FilterError {
    #[error("{0:?} is neither an address, nor a domain as @example.com, nor <> for the null sender")]
    Who(String),
    #[error("{0:?} is not a domain")]
    Domain(String),
}

impl FromStr for Who {
    type Err = FilterError;

    fn from_str(text: &str) -> Result<Self, FilterError> {
        let wrong = || FilterError::Who(text.to_owned());
        let inner = text.strip_prefix('<').and_then(|rest| rest.strip_suffix('>')).unwrap_or(text);
        match inner.strip_prefix('@') {
            _ if text == "<>" => Ok(Who::Nobody),
            Some(domain) => Ok(Who::Domain(self::domain(domain).map_err(|_| wrong())?)),
            None => {
                inner.parse::<Mailbox>().map(|mailbox| Who::Mailbox(mailbox.folded())).map_err(|_| wrong())
            }
        }
    }
}

/// A domain or an address literal, as delivery compares them.
pub fn domain(text: &str) -> Result<String, FilterError> {
    let literal =
        || format!("x@{text}").parse::<Mailbox>().ok().filter(|x| matches!(x.host(), Host::Literal(_)));
    match Domain::parse(text) {
        Ok(domain) => Ok(domain.ascii().to_ascii_lowercase()),
        Err(_) => literal().map(|x| domain_of(&x)).ok_or_else(|| FilterError::Domain(text.to_owned())),
    }
}

impl Who {
    fn is(&self, mailbox: Option<&Mailbox>) -> bool {
        match (self, mailbox) {
            (Who::Nobody, None) => true,
            (Who::Mailbox(wanted), Some(mailbox)) => mailbox.folded() == *wanted,
            (Who::Domain(wanted), Some(mailbox)) => domain_of(mailbox).eq_ignore_ascii_case(wanted),
            _ => false,
        }
    }
}

impl Filter {
    /// Whether nothing is asked for.
    pub fn is_empty(&self) -> bool {
        self.words() == "none"
    }

    /// What the log may say of it: which fields are given, not the addresses in them.
    pub fn words(&self) -> String {
        let Filter { sender, recipient, domain, route, state, older, younger } = self;
        let given = [
            (sender.is_some(), "sender"),
            (recipient.is_some(), "recipient"),
            (domain.is_some(), "domain"),
            (route.is_some(), "route"),
            (state.is_some(), "state"),
            (older.is_some(), "older"),
            (younger.is_some(), "younger"),
        ];
        let words: Vec<&str> = given.into_iter().filter(|(given, _)| *given).map(|(_, word)| word).collect();
        if words.is_empty() { "none".to_owned() } else { words.join(",") }
    }

    /// What the index alone can say; spares reading an envelope.
    pub fn may_fit(&self, summary: &Summary, now: Timestamp) -> bool {
        self.fits_age(summary.received_at, now)
            && match self.state {
                Some(State::Active) => summary.in_flight,
                Some(State::Deferred) => summary.attempts > 0,
                Some(State::New | State::Paused) | None => true,
            }
    }

    fn fits_age(&self, received_at: Timestamp, now: Timestamp) -> bool {
        let age = age(received_at, now);
        self.older.is_none_or(|limit| age >= limit) && self.younger.is_none_or(|limit| age < limit)
    }

    /// Recipients that wait and fit, and how many others fit that are attempted right now.
    pub fn targets(
        &self,
        situation: Option<&Situation>,
        standing: &Standing,
        now: Timestamp,
    ) -> (Vec<usize>, usize) {
        let entry = &standing.entry;
        let sender = self.sender.as_ref().is_none_or(|who| who.is(entry.sender.mailbox.as_ref()));
        if !sender || !self.fits_age(entry.received_at, now) {
            return (Vec::new(), 0);
        }
        let fits = |target: &usize| {
            let this = &entry.targets[*target];
            let mailbox = &this.recipient.mailbox;
            let route = || {
                let label = situation.map(|s| s.table.label(&this.via).to_string()).unwrap_or_default();
                let wanted = self.route.clone().map(Closed::Route);
                wanted.is_none_or(|wanted| is_called(&Closed::Route(label), &wanted))
            };
            self.recipient.as_ref().is_none_or(|who| who.is(Some(mailbox)))
                && self.domain.as_ref().is_none_or(|domain| domain_of(mailbox).eq_ignore_ascii_case(domain))
                && (self.route.is_none() || route())
                && self.state.is_none_or(|wanted| state(situation, standing, *target) == Some(wanted))
        };
        let (busy, free): (Vec<usize>, Vec<usize>) =
            standing.waiting().filter(fits).partition(|target| standing.in_flight.contains(target));
        (free, busy.len())
    }
}

/// How a recipient waits; `None`: it waits no more.
pub fn state(situation: Option<&Situation>, standing: &Standing, target: usize) -> Option<State> {
    let Fate::Waiting(waiting) = &standing.fates[target] else { return None };
    let this = &standing.entry.targets[target];
    let is_closed = |situation: &Situation| {
        let label = situation.table.label(&this.via).to_string();
        closed(&situation.closures, &label, &domain_of(&this.recipient.mailbox)).is_some()
    };
    Some(match () {
        () if standing.in_flight.contains(&target) => State::Active,
        () if situation.is_some_and(is_closed) => State::Paused,
        () if waiting.attempts == 0 => State::New,
        () => State::Deferred,
    })
}
