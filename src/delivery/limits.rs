//! How much mail goes where at a time: what administrators allow (spec R160), what destinations bear (spec R2),
//! which source addresses can be used (spec R1). A job asks [`Throttle::admit`] before it starts; the [`Pass`] it
//! gets tells, when it is dropped, that the job ended.
//!
//! Waiting here is no failure and no attempt. Nothing leaves by a way that was not chosen here.

pub mod backoff;
mod metrics;
pub mod shared;
pub mod state;
mod view;
pub mod warm;

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use prometheus_client::registry::Registry;
use tokio::sync::Notify;
use tracing::{info, warn};

use self::backoff::{Schedule, sign};
pub use self::metrics::Metrics;
use self::shared::{Link, Server, Turn};
use self::state::{Counted, Heard, News, State};
pub use self::state::{Hold, Wait};
pub use self::view::View;
use super::egress::{Leave, Source};
use super::outcome::Trouble;
use super::routes::{Destination, Label, Route, RouteTable, is_local};
use crate::bundle::document::RouteLimits;
use crate::mail::rate::{Rate, later};

/// A turn at the shared server that comes so soon is waited for where the job is.
const SOON: Duration = Duration::from_millis(500);

/// What a throttle is made with.
#[derive(Debug, Clone)]
pub struct Options {
    pub schedule: Schedule,
    /// Connections to one destination that needs no limit.
    pub most: u32,
    /// Where the counts of new addresses are kept over a restart.
    pub memory: Option<PathBuf>,
}

impl Default for Options {
    fn default() -> Self {
        Self { schedule: Schedule::default(), most: 20, memory: None }
    }
}

/// A cheap handle; clones decide together.
#[derive(Clone)]
pub struct Throttle(Arc<Inner>);

struct Inner {
    state: Mutex<State>,
    metrics: Metrics,
    memory: Option<PathBuf>,
    link: Link,
}

impl std::fmt::Debug for Throttle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Throttle")
    }
}

impl Default for Throttle {
    fn default() -> Self {
        Self::new(Options::default())
    }
}

impl Throttle {
    /// The throttle of a gateway with this spool: what new addresses have sent is kept there.
    pub fn kept_in(spool: &std::path::Path) -> Self {
        Self::new(Options { memory: Some(spool.join("warm-up")), ..Options::default() })
    }

    pub fn new(options: Options) -> Self {
        let Options { schedule, most, memory } = options;
        let warm = memory.as_ref().and_then(|path| std::fs::read(path).ok());
        let warm = warm.map(|bytes| warm::Counts::read(&bytes)).unwrap_or_default();
        let state = Mutex::new(State::new(schedule, most, warm, Timestamp::now()));
        Self(Arc::new(Inner { state, metrics: Metrics::default(), memory, link: Link::default() }))
    }

    /// Metrics that change with each event, and those that are looked up when somebody asks.
    pub fn register(&self, registry: &mut Registry) {
        self.0.metrics.register(registry);
        registry.register_collector(Box::new(view::Gauges(self.clone())));
    }

    /// How many pods share the limits, this one included.
    pub fn set_pods(&self, pods: u32) {
        self.state().pods = pods.max(1);
    }

    /// The one question before a job starts.
    pub fn admit(&self, route: &Arc<Route>, destination: &Destination, now: Timestamp) -> Result<Pass, Wait> {
        let (answer, news) = {
            let mut state = self.state();
            let answer = state.admit(route, destination, now, is_local);
            (answer, std::mem::take(&mut state.news))
        };
        self.tell(news);
        match answer {
            Ok((leave, counted)) => Ok(Pass {
                throttle: self.clone(),
                route: Arc::clone(route),
                leave,
                counted,
                heard: Mutex::default(),
                met: Notify::new(),
            }),
            Err(wait) => {
                self.0.metrics.waited(wait.why);
                Err(wait)
            }
        }
    }

    fn open(&self, limits: &RouteLimits, counted: &Counted) -> Result<Option<Lease>, Hold> {
        if !has_connection_limit(limits) {
            return Ok(None);
        }
        self.state().open(limits, &counted.label, &counted.place)?;
        let (label, place) = (counted.label.clone(), counted.place.clone());
        Ok(Some(Lease { throttle: self.clone(), label, place }))
    }

    /// What anybody may look at.
    pub fn view(&self, now: Timestamp) -> View {
        view::view(&self.state(), now)
    }

    /// Now and then: looks at sources and forgets. The answer is what a later process must know, to be written
    /// into that file; `None`: it knows already.
    pub fn tidy(&self, table: &RouteTable, now: Timestamp) -> Option<(PathBuf, Vec<u8>)> {
        let (written, news) = {
            let mut state = self.state();
            state.look_at(table.routes(), now, is_local);
            state.tidy(now);
            (state.warm.written(now), std::mem::take(&mut state.news))
        };
        self.tell(news);
        if table.shared_limits.is_none() {
            self.state().exact = false;
        }
        self.0.memory.clone().zip(written)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, news: Vec<News>) {
        for news in news {
            match news {
                News::SourceGone { source, why } => {
                    warn!(%source, why, "a source address is set aside; mail leaves by the others or waits");
                }
                News::SourceBack { source } => info!(%source, "a source address can be used again"),
                News::Suspended { place, source, cause, until } => {
                    self.0.metrics.suspended(cause);
                    let route = place.label().map(Label::to_string);
                    let domain = place.domain();
                    let source = source.map(|source| source.to_string());
                    warn!(route, domain, source, cause = cause.word(), %until, "nothing is sent there for a while");
                }
            }
        }
    }
}

fn has_connection_limit(limits: &RouteLimits) -> bool {
    limits.connections.is_some() || limits.per_domain.connections.is_some()
}

/// A job that runs. Dropping it ends the job, however it went.
pub struct Pass {
    throttle: Throttle,
    route: Arc<Route>,
    leave: Leave,
    counted: Counted,
    heard: Mutex<Vec<(Option<IpAddr>, Heard)>>,
    met: Notify,
}

impl Pass {
    /// There is a session: the host has greeted, and taken what we said of ourselves.
    pub fn meet(&self) {
        self.met.notify_one();
    }

    /// Waits for that.
    pub async fn meeting(&self) {
        self.met.notified().await;
    }

    /// Where the message may leave from.
    pub fn leave(&self) -> &Leave {
        &self.leave
    }

    /// Whether it was given for just this route.
    pub fn is_for(&self, route: &Arc<Route>) -> bool {
        Arc::ptr_eq(&self.route, route)
    }

    /// Whose connections these are, where their number is limited: such sessions serve nobody else.
    pub fn lane(&self) -> Option<Destination> {
        let limits = &self.route.limits;
        match limits.per_domain.connections {
            Some(_) => Some(self.counted.place.clone()),
            None => limits.connections.map(|_| Destination::Route(self.counted.label.clone())),
        }
    }

    /// Notes that a transaction is made from there, and how it went.
    pub fn note<'a>(
        &self,
        source: Option<&Source>,
        troubles: impl Iterator<Item = &'a Trouble>,
        answered: bool,
    ) {
        let key = source.map(|source| source.address);
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        heard.push((key, Heard::Used));
        if let Some(address) = key {
            self.throttle.0.metrics.left(address);
        }
        let mut served = answered;
        for trouble in troubles {
            if let Some(sign) = sign(trouble, key) {
                let words = match trouble {
                    Trouble::Refused(_, reply) => reply.to_string(),
                    other => other.reason().to_owned(),
                };
                heard.push((key, Heard::Sign(sign, words)));
                return;
            }
            // Whatever else a host says, it says it to somebody it listens to.
            served |= matches!(trouble, Trouble::Refused(..));
        }
        if served {
            heard.push((key, Heard::Served));
        }
    }

    /// Notes that a source is of no use now.
    pub fn unusable(&self, source: &Source, trouble: &Trouble) {
        let heard = match trouble {
            Trouble::NoSource(_) => Heard::Missing,
            Trouble::Proxy(_) => Heard::ProxyFailed,
            _ => return,
        };
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).push((Some(source.address), heard));
    }

    /// Room for one more session that is open at the same time, if there is any.
    pub fn room(&self) -> Result<Option<Lease>, Hold> {
        self.throttle.open(&self.route.limits, &self.counted)
    }

    pub fn place(&self) -> &Destination {
        &self.counted.place
    }

    /// Asks the server where pods count together, if there is one and a limit it counts. When it does not answer
    /// the pod keeps to its share.
    pub async fn confirm(&self, server: Option<&Arc<Server>>) -> Result<(), Wait> {
        let Some(server) = server else { return Ok(()) };
        let limits = &self.route.limits;
        let mut rates: Vec<(String, Rate)> = Vec::new();
        let label = &self.counted.label;
        rates.extend(limits.messages_per_minute.map(|n| (format!("route:{label}"), Rate::per_minute(n))));
        if let (Some(n), Some(domain)) = (limits.per_domain.messages_per_minute, self.counted.place.domain())
        {
            rates.push((format!("domain:{label}:{domain}"), Rate::per_minute(n)));
        }
        if rates.is_empty() {
            return Ok(());
        }
        let answer = self.throttle.0.link.take(server, &rates, SOON).await;
        self.throttle.0.metrics.asked(answer.is_ok());
        let before = std::mem::replace(&mut self.throttle.state().exact, answer.is_ok());
        match answer {
            Ok(Turn::In(wait)) => {
                if !wait.is_zero() {
                    tokio::time::sleep(wait).await;
                }
                Ok(())
            }
            Ok(Turn::NotBefore(wait)) => Err(self.blocked(wait)),
            // Admitted by the whole limit a moment ago: from now on by the share, this job too.
            Err(_) if before => {
                let slowest = rates.iter().map(|(_, rate)| rate.interval()).max().unwrap_or_default();
                let pods = self.throttle.state().pods;
                Err(self.blocked(slowest.saturating_mul(pods)))
            }
            // Admitted by the share.
            Err(_) => Ok(()),
        }
    }

    fn blocked(&self, wait: Duration) -> Wait {
        let until = later(Timestamp::now(), wait);
        self.throttle.state().block(&self.counted.place, until);
        self.throttle.0.metrics.waited(Hold::shared_rate);
        Wait { until, pace: wait, why: Hold::shared_rate }
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        let heard = std::mem::take(self.heard.get_mut().unwrap_or_else(PoisonError::into_inner));
        let news = {
            let mut state = self.throttle.state();
            state.ended(&self.counted, &heard, Timestamp::now());
            std::mem::take(&mut state.news)
        };
        self.throttle.tell(news);
    }
}

/// An open session that counts against a limit. Dropping it gives its place back.
pub struct Lease {
    throttle: Throttle,
    label: Label,
    place: Destination,
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.throttle.state().closed(&self.label, &self.place);
    }
}
