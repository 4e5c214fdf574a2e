//! Tests the hosts of every route without mail, from this pod (spec R28): when a route is new or changed, after
//! a delivery over it failed, and now and then. What was found is shown at `/status`, counted, and collected by
//! the controller.
//!
//! A test is never on the way of mail: it has connections of its own, and its result stops nothing.

pub mod http;
mod metrics;
mod schedule;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use prometheus_client::registry::Registry;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use self::metrics::{ByReason, Series, Tests};
use self::schedule::{Fingerprint, Schedule, Wanted};
use crate::bundle::Sequence;
use crate::bundle::document::{ObjectId, RouteTarget};
use crate::bundle::probe::{Probes, Reason, RouteProbe};
use crate::delivery::attempt::Outside;
use crate::delivery::outcome::{Stage, Trouble};
use crate::delivery::probe::{self, Trial};
use crate::delivery::routes::{Label, Route};
use crate::gateway::live::{Live, Running};
use crate::mail::envelope::{RouteName, Via};

/// Routes that are tested at the same time.
const AT_ONCE: usize = 8;
/// Octets of one answer to the controller, about; a route more may be in it.
const PAGE: usize = 256 << 10;

/// A cheap handle; clones share results.
#[derive(Clone)]
pub struct Prober(Arc<Shared>);

struct Shared {
    live: Arc<Live>,
    outside: Outside,
    /// Of this start of the process: counts begin anew with each.
    instance: String,
    results: Mutex<Results>,
    rung: Notify,
    tests: Tests,
}

#[derive(Default)]
struct Results {
    /// How many results were new so far.
    tested: u64,
    routes: BTreeMap<RouteName, Kept>,
    /// Deliveries over these failed.
    doubted: BTreeSet<RouteName>,
}

struct Kept {
    fingerprint: Fingerprint,
    /// The count when this became so.
    tested: u64,
    probe: RouteProbe,
}

/// Why somebody's question for a test has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unable {
    #[error("no policy runs here yet")]
    NoPolicy,
    #[error("this gateway has no OutboundRoute {0}")]
    NoRoute(String),
    #[error("{0}")]
    Broken(String),
    #[error(
        "OutboundRoute {0} names no host: mail goes to the mail hosts of each recipient's domain; test one of those"
    )]
    NoHost(RouteName),
}

impl Prober {
    pub fn new(live: Arc<Live>, instance: String, registry: &mut Registry) -> Self {
        let tests = Tests::default();
        registry.register(
            "postern_route_probes",
            "Tests of a route's hosts without mail, by how they ended",
            tests.clone(),
        );
        let outside = Outside { timeouts: probe::timeouts(), ..Outside::default() };
        let shared =
            Shared { live, outside, instance, results: Mutex::default(), rung: Notify::new(), tests };
        let prober = Self(Arc::new(shared));
        registry.register_collector(Box::new(Series(prober.clone())));
        prober
    }

    fn results(&self) -> MutexGuard<'_, Results> {
        self.0.results.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tests until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let mut schedule = Schedule::default();
        let mut tests = JoinSet::new();
        let mut names = HashMap::new();
        let mut followed = Sequence::default();
        loop {
            if let Some(running) = self.0.live.current()
                && running.sequence != followed
            {
                followed = running.sequence;
                let wanted = wanted(&running);
                self.forget_all_but(&wanted);
                schedule.follow(&wanted, Instant::now());
            }
            for doubted in std::mem::take(&mut self.results().doubted) {
                schedule.doubt(&doubted, Instant::now());
            }
            for (name, fingerprint) in schedule.take(AT_ONCE - tests.len(), Instant::now()) {
                let (prober, route) = (self.clone(), name.clone());
                let test = tests.spawn(async move { prober.test(&route).await });
                names.insert(test.id(), (name, fingerprint));
            }
            let next = schedule.next().filter(|_| tests.len() < AT_ONCE);
            tokio::select! {
                () = stop.cancelled() => break,
                () = self.0.live.news(followed, Sequence(u64::MAX)) => {}
                () = self.0.rung.notified() => {}
                () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {}
                Some(done) = tests.join_next_with_id() => {
                    let (id, found) = match done {
                        Ok((id, found)) => (id, found),
                        Err(error) => {
                            tracing::error!(%error, "a test of a route ended badly");
                            (error.id(), None)
                        }
                    };
                    if let Some((name, fingerprint)) = names.remove(&id) {
                        let careful = found.as_ref().is_some_and(|found| found.reason == Reason::AuthFailed);
                        schedule.done(&name, Instant::now(), rand::random(), careful);
                        if let Some(found) = found.filter(|_| schedule.is(&name, fingerprint)) {
                            self.keep(name, fingerprint, found);
                        }
                    }
                }
            }
        }
        tests.shutdown().await;
    }

    /// A delivery failed: soon the route is tested, unless what failed says nothing about its hosts.
    pub fn doubt(&self, label: &Label, trouble: &Trouble) {
        let Label::Named(name) = label else { return };
        let at_the_door = |stage: &Stage| matches!(stage, Stage::Greeting | Stage::Ehlo | Stage::StartTls);
        let telling = match trouble {
            Trouble::Unreachable(_) | Trouble::NoAddress | Trouble::StartTlsMissing => true,
            Trouble::Certificate(_) | Trouble::Handshake(_) => true,
            Trouble::TimedOut(stage) | Trouble::Closed(stage) | Trouble::Garbled(stage, _) => {
                at_the_door(stage)
            }
            Trouble::Refused(stage, _) => at_the_door(stage),
            _ => false,
        };
        if telling && self.results().doubted.insert(name.clone()) {
            self.0.rung.notify_one();
        }
    }

    /// One test of a route as it is now, by the schedule.
    async fn test(&self, name: &RouteName) -> Option<RouteProbe> {
        let running = self.0.live.current()?;
        let found = self.ask(&running, name, None).await.ok()?;
        self.0.tests.get_or_create(&ByReason { reason: found.reason.as_str() }).inc();
        Some(found)
    }

    /// One test because somebody asks for it. Without a recipient it counts like one of the schedule.
    pub async fn test_now(&self, name: &str, trial: Option<&Trial>) -> Result<RouteProbe, Unable> {
        let running = self.0.live.current().ok_or(Unable::NoPolicy)?;
        let record = find(&running, name).ok_or_else(|| Unable::NoRoute(name.to_owned()))?;
        let (name, wanted) = (record.name(), wanted_of(&running, record));
        let found = self.ask(&running, &name, trial).await?;
        if let (Some(wanted), None) = (wanted, trial) {
            self.keep(name, wanted.fingerprint, found.clone());
        }
        Ok(found)
    }

    async fn ask(
        &self,
        running: &Running,
        name: &RouteName,
        trial: Option<&Trial>,
    ) -> Result<RouteProbe, Unable> {
        let missing = || Unable::NoRoute(name.to_string());
        let record =
            running.bundle.routes.iter().find(|record| record.name() == *name).ok_or_else(missing)?;
        let route = running.routes.resolve(&Via::Route(name.clone()));
        let route: Arc<Route> = route.map_err(|problem| Unable::Broken(problem.to_string()))?;
        let hosts = probe::hosts(&self.0.outside, &running.routes, &route, trial).await;
        probe::advice::sum_up(&record.origin, hosts, Timestamp::now())
            .ok_or_else(|| Unable::NoHost(name.clone()))
    }

    /// Notes a result. One that found what was known keeps its words: nobody is told twice.
    fn keep(&self, name: RouteName, fingerprint: Fingerprint, mut found: RouteProbe) {
        let mut results = self.results();
        let known = results.routes.get(&name).filter(|kept| kept.fingerprint == fingerprint);
        let tested = match known {
            Some(kept) if kept.probe.agrees_with(&found) => {
                (found.since, found.message) = (kept.probe.since, kept.probe.message.clone());
                kept.tested
            }
            _ => {
                let hosts = found.hosts.len();
                match found.passed() {
                    true => tracing::info!(route = %name, reason = %found.reason, hosts, "route tested"),
                    false => tracing::warn!(route = %name, reason = %found.reason, hosts, "route tested"),
                }
                results.tested += 1;
                results.tested
            }
        };
        results.routes.insert(name, Kept { fingerprint, tested, probe: found });
        let count = results.tested;
        drop(results);
        self.0.live.tested(count);
    }

    /// Results of routes that are gone, or are not tested any more, mean nothing.
    fn forget_all_but(&self, wanted: &[Wanted]) {
        let names: BTreeSet<&RouteName> = wanted.iter().map(|wanted| &wanted.name).collect();
        self.results().routes.retain(|name, _| names.contains(name));
    }

    /// What was found of every route, for pages of this process.
    pub fn all(&self) -> Vec<RouteProbe> {
        self.results().routes.values().map(|kept| kept.probe.clone()).collect()
    }

    /// What changed since the count was `after`, oldest first.
    pub fn since(&self, after: u64) -> Probes {
        let results = self.results();
        let mut news: Vec<&Kept> = results.routes.values().filter(|kept| kept.tested > after).collect();
        news.sort_by_key(|kept| kept.tested);
        let mut answer =
            Probes { instance: self.0.instance.clone(), tested: results.tested, routes: Vec::new() };
        let mut size = 0;
        for kept in news {
            if size > PAGE {
                break;
            }
            size += serde_json::to_vec(&kept.probe).map_or(0, |text| text.len());
            answer.tested = kept.tested;
            answer.routes.push(kept.probe.clone());
        }
        if size <= PAGE {
            answer.tested = results.tested;
        }
        answer
    }
}

/// A route by `NAMESPACE/NAME`, or by its name alone where that is enough.
fn find<'a>(running: &'a Running, name: &str) -> Option<&'a crate::bundle::document::Route> {
    let is =
        |object: &ObjectId| object.name == name || format!("{}/{}", object.namespace, object.name) == name;
    let mut found = running.bundle.routes.iter().filter(|record| is(&record.origin.object));
    found.next().filter(|_| found.next().is_none())
}

/// The routes that are tested, and by what they are recognised.
fn wanted(running: &Running) -> Vec<Wanted> {
    running.bundle.routes.iter().filter_map(|record| wanted_of(running, record)).collect()
}

fn wanted_of(running: &Running, record: &crate::bundle::document::Route) -> Option<Wanted> {
    let interval = Duration::from_secs(record.probe_seconds?.into());
    if record.target == RouteTarget::RecipientMx {
        return None;
    }
    let name = record.name();
    let route = running.routes.resolve(&Via::Route(name.clone())).ok()?;
    let mut hasher = blake3::Hasher::new();
    let dns = &running.routes.dns;
    let on_what = (&record, &running.routes.hostname, &dns.addresses, dns.dnssec, &dns.anchors);
    hasher.update(&serde_json::to_vec(&on_what).expect("records have string keys only"));
    // What the record only names: CA files and certificates.
    hasher.update(route.tls.identity.as_bytes());
    if let Some(credentials) = &route.auth {
        hasher.update(credentials.identity().as_bytes());
    }
    Some(Wanted { name, fingerprint: hasher.finalize(), interval })
}
