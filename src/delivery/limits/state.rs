//! What runs, what is used up and how destinations stand: plain data and the one decision whether a job may
//! start. No IO, no clock, no lock.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::time::Duration;

use jiff::Timestamp;
use prometheus_client::encoding::EncodeLabelValue;

use super::backoff::{Schedule, Sign, Standing, Step};
use super::warm;
use crate::bundle::document::RouteLimits;
use crate::delivery::egress::{Leave, Rotor, Source};
use crate::delivery::routes::{Destination, Label, Route};
use crate::mail::rate::{Bucket, Rate, earlier, later};

/// How long an answer about a source is believed.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// How long a proxy that does not work is left alone.
const PROXY_PAUSE: Duration = Duration::from_secs(30);
/// Whoever does not come for so long after it was told to may be gone; its turn holds nobody else up.
const LATE: Duration = Duration::from_secs(1);
/// More than this many who are late are as many.
const MOST_LATE: usize = 64;
/// The longest that a turn is promised ahead.
const HORIZON: Duration = Duration::from_secs(3600);
/// Places remembered at most; beyond it those that matter least are forgotten first.
const MOST_PLACES: usize = 100_000;

/// Why a job waits. A closed list: metrics have it as a label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
#[allow(non_camel_case_types)]
pub enum Hold {
    route_connections,
    domain_connections,
    route_rate,
    domain_rate,
    /// The destination asked for less.
    limited,
    /// Nothing is sent there for a while.
    suspended,
    /// New addresses have sent what they may today.
    warm_up,
    /// The other pods have used up what all may send.
    shared_rate,
}

impl Hold {
    /// For reports to senders.
    pub fn words(self) -> &'static str {
        match self {
            Hold::route_connections | Hold::domain_connections => "as many connections as allowed are open",
            Hold::route_rate | Hold::domain_rate | Hold::shared_rate => {
                "as many messages as allowed were sent within the last minute"
            }
            Hold::limited => "its mail servers asked for less mail at a time",
            Hold::suspended => "its mail servers take no mail from here for now",
            Hold::warm_up => "a new sending address has sent what it may today",
        }
    }
}

/// The job waits; nothing failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wait {
    /// When to ask again. Asking earlier does no harm.
    pub until: Timestamp,
    /// From one job of this destination to the next, if that is known.
    pub pace: Duration,
    pub why: Hold,
}

/// What a started job was counted for, to be given back when it ends.
#[derive(Debug, Clone)]
pub struct Counted {
    pub label: Label,
    pub place: Destination,
    edition: i64,
    sources: Vec<Option<IpAddr>>,
    warm: Vec<(IpAddr, Timestamp)>,
}

/// What a job heard while it ran.
#[derive(Debug, Clone, PartialEq)]
pub enum Heard {
    /// A transaction or an attempt at one was made from there.
    Used,
    Served,
    Sign(Sign, String),
    /// The machine does not have the address.
    Missing,
    /// The proxy does not work.
    ProxyFailed,
}

/// What somebody should read in the log.
#[derive(Debug, Clone, PartialEq)]
pub enum News {
    SourceGone { source: IpAddr, why: &'static str },
    SourceBack { source: IpAddr },
    Suspended { place: Destination, source: Option<IpAddr>, cause: Sign, until: Timestamp },
}

#[derive(Debug)]
pub(super) struct Flow {
    pub running: u32,
    /// Sessions that are open.
    pub open: u32,
    bucket: Bucket,
    /// The first turn that is promised to nobody.
    horizon: Timestamp,
    /// Turns that are promised and not yet taken, and when their owners were told to come.
    promised: BTreeMap<Timestamp, Timestamp>,
    rotor: Rotor,
}

#[derive(Debug)]
pub(super) struct Place {
    running: u32,
    pub open: u32,
    bucket: Option<Bucket>,
    /// The turn it was promised on its route.
    ticket: Option<Timestamp>,
    /// The shared server said so.
    blocked: Option<Timestamp>,
    /// The route's generation; another one is another route.
    edition: i64,
    pub standings: Vec<(Option<IpAddr>, Standing)>,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Presence {
    pub here: bool,
    pub why: &'static str,
    looked: Timestamp,
    until: Timestamp,
}

#[derive(Debug)]
pub struct State {
    started: Timestamp,
    /// Pods that share the limits, this one included.
    pub pods: u32,
    /// A server counts for all pods, so a limit is not divided.
    pub exact: bool,
    schedule: Schedule,
    /// Connections to one destination without any limit: from there on a destination is free again.
    most: u32,
    pub(super) flows: HashMap<Label, Flow>,
    pub(super) places: HashMap<Destination, Place>,
    pub(super) sources: HashMap<IpAddr, Presence>,
    pub warm: warm::Counts,
    pub news: Vec<News>,
}

impl State {
    pub fn new(schedule: Schedule, most: u32, warm: warm::Counts, now: Timestamp) -> Self {
        Self {
            started: now,
            pods: 1,
            exact: false,
            schedule,
            most,
            flows: HashMap::new(),
            places: HashMap::new(),
            sources: HashMap::new(),
            warm,
            news: Vec::new(),
        }
    }

    /// Whether a job may start now, and where it leaves from. Counts it if so. `here`: whether this machine has
    /// an address.
    pub fn admit(
        &mut self,
        route: &Route,
        destination: &Destination,
        now: Timestamp,
        here: impl Fn(IpAddr) -> bool,
    ) -> Result<(Leave, Counted), Wait> {
        self.look(route, now, here);
        let (pods, exact) = (self.pods.max(1), self.exact);
        let share = |limit: u32| (limit / pods).max(1);
        let rate = |limit: u32| {
            let rate = Rate::per_minute(limit);
            if exact { rate } else { rate.divided(pods) }
        };
        if !self.flows.contains_key(&route.label) {
            let first = route.limits.messages_per_minute.map(rate);
            let bucket = first.map_or(Bucket::full(now), |rate| Bucket::empty(&rate, self.started));
            let flow = Flow {
                running: 0,
                open: 0,
                bucket,
                horizon: now,
                promised: BTreeMap::new(),
                rotor: Rotor::default(),
            };
            self.flows.insert(route.label.clone(), flow);
        }
        if !self.places.contains_key(destination) {
            let bucket = route.limits.per_domain.messages_per_minute.map(rate);
            let bucket = bucket.map(|rate| Bucket::empty(&rate, self.started));
            self.places.insert(destination.clone(), Place::new(route.edition, bucket));
        }
        let flow = self.flows.get_mut(&route.label).expect("it was just made");
        let place = self.places.get_mut(destination).expect("it was just made");
        if place.edition != route.edition {
            // What its hosts said to the route as it was says nothing about it as it is.
            place.edition = route.edition;
            place.standings.retain(|(_, standing)| standing.running > 0);
            place.standings.iter_mut().for_each(|(_, standing)| {
                *standing = standing.anew(now);
            });
        }
        let wait = |until, pace, why| Wait { until, pace, why };
        let soon = later(now, Duration::from_secs(1));

        // From where.
        let domain = destination.domain().unwrap_or_default();
        let mut usable = Vec::new();
        match &route.egress {
            None => {
                if let Err(until) = place.may_start(None, now) {
                    return Err(wait(until, place.pace(None), place.hold(None)));
                }
            }
            Some(egress) => {
                let there = |source: &&std::sync::Arc<Source>| {
                    self.sources.get(&source.address).is_some_and(|presence| presence.here)
                };
                let mut nearest: Option<Wait> = None;
                let mut any = false;
                for source in egress.list.iter().filter(there) {
                    any = true;
                    let key = Some(source.address);
                    let warm = source.warm_up.as_ref().map_or(Ok(()), |schedule| {
                        self.warm.may_take(schedule, source.address, domain, pods, now)
                    });
                    let hindered = match (place.may_start(key, now), warm) {
                        (Ok(()), Ok(())) => None,
                        (Err(until), Ok(())) => Some(wait(until, place.pace(key), place.hold(key))),
                        (Ok(()), Err(until)) => Some(wait(until, Duration::ZERO, Hold::warm_up)),
                        (Err(one), Err(other)) => Some(wait(one.max(other), Duration::ZERO, Hold::warm_up)),
                    };
                    match hindered {
                        None => usable.push(std::sync::Arc::clone(source)),
                        Some(this) => {
                            nearest = Some(nearest.filter(|other| other.until <= this.until).unwrap_or(this));
                        }
                    }
                }
                if usable.is_empty() && any {
                    return Err(nearest.expect("each source that is there was hindered"));
                }
                if usable.is_empty() {
                    // The attempt says that there is no source: it is a failure that somebody must hear of.
                    let counted = Counted::new(route, destination, Vec::new());
                    place.running += 1;
                    flow.running += 1;
                    return Ok((Leave::nowhere(), counted));
                }
            }
        }

        // How much.
        let RouteLimits { connections, messages_per_minute, per_domain, .. } = &route.limits;
        if connections.is_some_and(|limit| flow.running >= share(limit)) {
            return Err(wait(soon, Duration::ZERO, Hold::route_connections));
        }
        if per_domain.connections.is_some_and(|limit| place.running >= share(limit)) {
            return Err(wait(soon, Duration::ZERO, Hold::domain_connections));
        }
        if let Some(until) = place.blocked.filter(|until| *until > now && *until <= later(now, HORIZON)) {
            return Err(wait(until, Duration::ZERO, Hold::shared_rate));
        }
        let of_domain = per_domain.messages_per_minute.map(rate);
        if let Some(rate) = &of_domain {
            let bucket = place.bucket.get_or_insert(Bucket::full(now));
            let next = bucket.next(rate, now);
            if next > now {
                return Err(wait(next, rate.interval(), Hold::domain_rate));
            }
        }
        let of_route = messages_per_minute.map(rate);
        if let Some(rate) = &of_route {
            if let Err(until) = flow.turn(place, rate, now) {
                return Err(wait(until, rate.interval(), Hold::route_rate));
            }
            flow.bucket.take(rate, now).expect("its turn has come");
            flow.horizon = flow.horizon.max(flow.bucket.next(rate, now));
            if let Some(ticket) = place.ticket.take() {
                flow.promised.remove(&ticket);
            }
        }
        if let (Some(rate), Some(bucket)) = (&of_domain, &mut place.bucket) {
            bucket.take(rate, now).expect("it was looked at above");
        }

        // Go.
        let leave = match &route.egress {
            None => Leave::Anywhere,
            Some(egress) => flow.rotor.pick(egress.rotation, domain, &usable),
        };
        let mut counted = Counted::new(route, destination, leave.addresses());
        flow.running += 1;
        place.running += 1;
        for key in &counted.sources {
            place.standing(*key, now).started(now);
        }
        for way in leave.ways().into_iter().flatten() {
            if let Some(schedule) = &way.warm_up {
                let day = self.warm.take(schedule, way.address, domain, now);
                counted.warm.extend(day.map(|day| (way.address, day)));
            }
        }
        Ok((leave, counted))
    }

    /// A job ended, however it ended.
    pub fn ended(&mut self, counted: &Counted, heard: &[(Option<IpAddr>, Heard)], now: Timestamp) {
        if let Some(flow) = self.flows.get_mut(&counted.label) {
            flow.running = flow.running.saturating_sub(1);
        }
        for (source, day) in &counted.warm {
            let used = heard.iter().any(|(key, _)| *key == Some(*source));
            if !used {
                self.warm.give_back(*source, counted.place.domain().unwrap_or_default(), *day);
            }
        }
        for (key, heard) in heard {
            let (Some(source), Heard::Missing | Heard::ProxyFailed) = (key, heard) else { continue };
            let why = match heard {
                Heard::ProxyFailed => PROXY_FAILED,
                _ => NOT_HERE,
            };
            let until = later(now, if why == PROXY_FAILED { PROXY_PAUSE } else { LOOK_AGAIN });
            let before = self.sources.insert(*source, Presence { here: false, why, looked: now, until });
            if before.is_none_or(|before| before.here) {
                self.news.push(News::SourceGone { source: *source, why });
            }
        }
        let Some(place) = self.places.get_mut(&counted.place) else { return };
        place.running = place.running.saturating_sub(1);
        for key in &counted.sources {
            place.standing(*key, now).ended();
        }
        if place.edition != counted.edition {
            return;
        }
        // What was heard last counts: a second host that takes the message makes good what the first one said.
        for key in &counted.sources {
            let last = heard
                .iter()
                .rev()
                .find(|(of, heard)| of == key && matches!(heard, Heard::Served | Heard::Sign(..)));
            match last {
                Some((_, Heard::Sign(sign, words))) => {
                    let standing = place.standing(*key, now);
                    // It still ran when it heard that.
                    standing.running += 1;
                    let paused = standing.signed(*sign, words, &self.schedule, now);
                    standing.running -= 1;
                    if let (true, Step::Suspended { until }) = (paused, standing.stage) {
                        let place = counted.place.clone();
                        self.news.push(News::Suspended { place, source: *key, cause: *sign, until });
                    }
                }
                Some(_) => {
                    if let Some((_, standing)) = place.standings.iter_mut().find(|(of, _)| of == key) {
                        standing.served(self.most, &self.schedule, now);
                    }
                }
                None => {}
            }
        }
    }

    /// A session is to be opened: whether the limits have room for one more that is open at the same time.
    pub fn open(&mut self, limits: &RouteLimits, label: &Label, place: &Destination) -> Result<(), Hold> {
        let pods = self.pods.max(1);
        let share = |limit: u32| (limit / pods).max(1);
        let (Some(flow), Some(place)) = (self.flows.get_mut(label), self.places.get_mut(place)) else {
            return Ok(());
        };
        if limits.connections.is_some_and(|limit| flow.open >= share(limit)) {
            return Err(Hold::route_connections);
        }
        if limits.per_domain.connections.is_some_and(|limit| place.open >= share(limit)) {
            return Err(Hold::domain_connections);
        }
        flow.open += 1;
        place.open += 1;
        Ok(())
    }

    pub fn closed(&mut self, label: &Label, place: &Destination) {
        if let Some(flow) = self.flows.get_mut(label) {
            flow.open = flow.open.saturating_sub(1);
        }
        if let Some(place) = self.places.get_mut(place) {
            place.open = place.open.saturating_sub(1);
        }
    }

    /// The shared server says that all pods together have sent enough until then.
    pub fn block(&mut self, place: &Destination, until: Timestamp) {
        if let Some(place) = self.places.get_mut(place) {
            place.blocked = Some(until);
        }
    }

    /// Looks which sources of a route can be used, now and then.
    fn look(&mut self, route: &Route, now: Timestamp, here: impl Fn(IpAddr) -> bool) {
        for source in route.egress.iter().flat_map(|egress| &egress.list) {
            let before = self.sources.get(&source.address).copied();
            if before.is_some_and(|before| now < before.until && now >= before.looked) {
                continue;
            }
            // A proxy proves itself in use.
            let usable = source.proxy.is_some() || here(source.address);
            let why = if usable { "" } else { NOT_HERE };
            let presence = Presence { here: usable, why, looked: now, until: later(now, LOOK_AGAIN) };
            self.sources.insert(source.address, presence);
            match before.map(|before| before.here) {
                None | Some(true) if !usable => {
                    self.news.push(News::SourceGone { source: source.address, why: NOT_HERE });
                }
                Some(false) if usable => self.news.push(News::SourceBack { source: source.address }),
                _ => {}
            }
        }
    }

    /// Looks at all sources of these routes, so that the page and the metrics know them before any mail does.
    pub fn look_at<'a>(
        &mut self,
        routes: impl Iterator<Item = &'a Route>,
        now: Timestamp,
        here: impl Fn(IpAddr) -> bool,
    ) {
        let mut known = Vec::new();
        for route in routes {
            self.look(route, now, &here);
            known.extend(route.egress.iter().flat_map(|egress| &egress.list).map(|source| source.address));
        }
        self.sources.retain(|address, _| known.contains(address));
    }

    /// Forgets what says nothing any more.
    pub fn tidy(&mut self, now: Timestamp) {
        let schedule = self.schedule;
        for place in self.places.values_mut() {
            place.standings.retain(|(_, standing)| !standing.is_forgotten(&schedule, now));
        }
        self.places.retain(|_, place| !place.is_idle(now));
        if self.places.len() > MOST_PLACES {
            let surplus = self.places.len() - MOST_PLACES;
            let idle = |place: &Place| place.running == 0 && place.open == 0;
            let gone = self.places.iter().filter(|(_, place)| idle(place)).take(surplus);
            let gone: Vec<Destination> = gone.map(|(key, _)| key.clone()).collect();
            for key in gone {
                self.places.remove(&key);
            }
        }
        let old = earlier(now, HORIZON);
        self.flows.values_mut().for_each(|flow| flow.promised.retain(|_, told| *told >= old));
        self.flows.retain(|_, flow| flow.running > 0 || flow.open > 0 || !flow.bucket.is_full(now));
    }
}

pub(super) const NOT_HERE: &str = "this machine does not have the address";
pub(super) const PROXY_FAILED: &str = "its proxy does not work";

impl Counted {
    fn new(route: &Route, destination: &Destination, sources: Vec<Option<IpAddr>>) -> Self {
        let (label, place) = (route.label.clone(), destination.clone());
        Self { label, place, edition: route.edition, sources, warm: Vec::new() }
    }
}

impl Flow {
    /// Whose turn it is when many wait for one bucket: each that comes too early is promised a turn of its own,
    /// so nobody who waits is overtaken for ever.
    fn turn(&mut self, place: &mut Place, rate: &Rate, now: Timestamp) -> Result<(), Timestamp> {
        let next = self.bucket.next(rate, now);
        let far = later(now, HORIZON);
        match place.ticket.filter(|ticket| *ticket <= far) {
            Some(ticket) => {
                // Those who were promised an earlier turn and are late, but not lost.
                let lost = earlier(now, LATE);
                let earlier = self.promised.range(..ticket).filter(|(_, told)| **told >= lost);
                let before = earlier.take(MOST_LATE).count();
                let wait = rate.interval().saturating_mul(u32::try_from(before).unwrap_or(u32::MAX));
                let turn = ticket.max(later(next, wait));
                if turn <= now {
                    return Ok(());
                }
                self.promised.insert(ticket, turn);
                Err(turn)
            }
            None => {
                let horizon = if self.horizon > later(far, rate.interval()) { next } else { self.horizon };
                let turn = horizon.max(next);
                if turn <= now {
                    return Ok(());
                }
                if turn > far {
                    return Err(far);
                }
                place.ticket = Some(turn);
                self.promised.insert(turn, turn);
                self.horizon = later(turn, rate.interval());
                Err(turn)
            }
        }
    }
}

impl Place {
    fn new(edition: i64, bucket: Option<Bucket>) -> Self {
        Self { running: 0, open: 0, bucket, ticket: None, blocked: None, edition, standings: Vec::new() }
    }

    fn standing(&mut self, key: Option<IpAddr>, now: Timestamp) -> &mut Standing {
        let at = self.standings.iter().position(|(of, _)| *of == key).unwrap_or_else(|| {
            self.standings.push((key, Standing::new(now)));
            self.standings.len() - 1
        });
        &mut self.standings[at].1
    }

    fn find(&self, key: Option<IpAddr>) -> Option<&Standing> {
        self.standings.iter().find(|(of, _)| *of == key).map(|(_, standing)| standing)
    }

    fn may_start(&self, key: Option<IpAddr>, now: Timestamp) -> Result<(), Timestamp> {
        self.find(key).map_or(Ok(()), |standing| standing.may_start(now))
    }

    fn hold(&self, key: Option<IpAddr>) -> Hold {
        match self.find(key).map(|standing| standing.stage) {
            Some(Step::Suspended { .. } | Step::Probing) => Hold::suspended,
            Some(Step::Free | Step::Limited { .. }) | None => Hold::limited,
        }
    }

    fn pace(&self, key: Option<IpAddr>) -> Duration {
        match self.find(key).map(|standing| standing.stage) {
            Some(Step::Limited { pace, .. }) => pace,
            _ => Duration::ZERO,
        }
    }

    fn is_idle(&self, now: Timestamp) -> bool {
        self.running == 0
            && self.open == 0
            && self.standings.is_empty()
            && self.bucket.is_none_or(|bucket| bucket.is_full(now))
            && self.ticket.is_none_or(|ticket| ticket <= now)
            && self.blocked.is_none_or(|until| until <= now)
    }
}

#[cfg(test)]
mod tests;
