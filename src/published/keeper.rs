//! Asks what the gateways want to know, again before the answers grow old, and keeps what DNS said last. One task
//! owns all of it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::names::{Names, Resolver};
use super::ranges::ranges;
use super::walk::{Walk, record};
use super::{Questions, names::Silence};
use crate::translate::ObjectKey;
use crate::translate::published::{KeyAnswer, PublishedFacts, Ranges, SpfAnswer, SpfResult, Told};

/// Questions on their way at the same time.
const AT_ONCE: usize = 16;
/// One question may be many look-ups.
const PATIENCE: Duration = Duration::from_secs(120);

/// How often DNS is asked the same.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// An answer is kept so long at least, and so long while something of it is wrong ...
    pub least: Duration,
    /// ... and no longer than this, whatever its TTL.
    pub most: Duration,
    /// After silence, doubled with each.
    pub retry: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            least: Duration::from_secs(300),
            most: Duration::from_secs(3600),
            retry: Duration::from_secs(30),
        }
    }
}

/// Shared by whoever translates and the task that asks.
#[derive(Debug, Default)]
pub struct Keeper {
    pace: Pace,
    items: Mutex<BTreeMap<(ObjectKey, Item), Kept>>,
    wake: Notify,
}

/// One question.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Item {
    Spf(String),
    Key(String),
    Ranges(String),
}

/// What belongs to the question; when it changes, the question is asked at once.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Terms {
    servers: Vec<SocketAddr>,
    addresses: BTreeSet<IpAddr>,
    helo: String,
}

#[derive(Debug)]
struct Kept {
    terms: Terms,
    next: Instant,
    asking: bool,
    failures: u32,
    told: Answer,
}

/// What is known.
#[derive(Debug, Clone, PartialEq)]
enum Answer {
    Spf(Told<SpfAnswer>),
    Key(Told<KeyAnswer>),
    Ranges(Told<Ranges>),
}

/// What DNS said just now, and how long that holds.
enum News {
    Spf(SpfAnswer),
    Key(KeyAnswer),
    Ranges(Ranges),
}

type Asked = (ObjectKey, Item, Terms, Result<(News, Duration), String>);

impl Item {
    fn unknown(&self) -> Answer {
        match self {
            Item::Spf(_) => Answer::Spf(Told::default()),
            Item::Key(_) => Answer::Key(Told::default()),
            Item::Ranges(_) => Answer::Ranges(Told::default()),
        }
    }
}

impl Keeper {
    pub fn with_pace(pace: Pace) -> Self {
        Self { pace, ..Self::default() }
    }

    /// Says what gateway `owner` wants to know from now on, and nothing else of what it wanted before.
    pub fn want(&self, owner: &ObjectKey, questions: Questions) {
        let Questions { servers, domains, addresses, helo, keys, ranges } = questions;
        let plain = Terms { servers, addresses: BTreeSet::new(), helo: String::new() };
        let of_domains = Terms { addresses, helo, ..plain.clone() };
        let spf = domains.into_iter().map(|domain| (Item::Spf(domain), of_domains.clone()));
        let keys = keys.into_iter().map(|name| (Item::Key(name), plain.clone()));
        let ranges = ranges.into_iter().map(|domain| (Item::Ranges(domain), plain.clone()));
        let wanted: BTreeMap<Item, Terms> = spf.chain(keys).chain(ranges).collect();
        let mut news = false;
        let mut items = self.lock();
        items.retain(|(of, item), _| of != owner || wanted.contains_key(item));
        for (item, terms) in wanted {
            let fresh = || Kept {
                terms: terms.clone(),
                next: Instant::now(),
                asking: false,
                failures: 0,
                told: item.unknown(),
            };
            let mut new = false;
            let kept = items.entry((owner.clone(), item.clone())).or_insert_with(|| {
                new = true;
                fresh()
            });
            if kept.terms != terms {
                (kept.terms, kept.next, new) = (terms, Instant::now(), true);
            }
            news |= new;
        }
        if news {
            self.wake.notify_one();
        }
    }

    /// Nobody looks after this gateway any more.
    pub fn forget(&self, owner: &ObjectKey) {
        self.want(owner, Questions::default());
    }

    /// What is known of the questions of one gateway.
    pub fn facts(&self, owner: &ObjectKey) -> PublishedFacts {
        let mut facts = PublishedFacts::default();
        for ((_, item), kept) in self.lock().iter().filter(|((of, _), _)| of == owner) {
            match (item, &kept.told) {
                (Item::Spf(domain), Answer::Spf(told)) => {
                    drop(facts.spf.insert(domain.clone(), told.clone()));
                }
                (Item::Key(name), Answer::Key(told)) => drop(facts.keys.insert(name.clone(), told.clone())),
                (Item::Ranges(domain), Answer::Ranges(told)) => {
                    facts.ranges.insert(domain.clone(), told.clone());
                }
                _ => {}
            }
        }
        facts
    }

    /// Asks until `stop`; `news` is called with the gateway of each question to which something else is known than
    /// before.
    pub async fn run(self: Arc<Self>, news: impl Fn(&ObjectKey), stop: CancellationToken) {
        let mut asking: JoinSet<Asked> = JoinSet::new();
        loop {
            let next = self.begin(&mut asking);
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                () = self.wake.notified() => {}
                () = tokio::time::sleep_until(next) => {}
                Some(done) = asking.join_next() => {
                    let Ok(asked) = done else { continue };
                    if let Some(owner) = self.note(asked, Timestamp::now()) {
                        news(&owner);
                    }
                }
            }
        }
        asking.shutdown().await;
    }

    /// Starts what is due; when there is something to do again.
    fn begin(&self, asking: &mut JoinSet<Asked>) -> Instant {
        let now = Instant::now();
        let idle = now + Duration::from_secs(3600);
        let mut items = self.lock();
        for ((owner, item), kept) in items.iter_mut().filter(|(_, kept)| !kept.asking && kept.next <= now) {
            if asking.len() == AT_ONCE {
                // The next answer makes room.
                return idle;
            }
            kept.asking = true;
            let (owner, item, terms) = (owner.clone(), item.clone(), kept.terms.clone());
            asking.spawn(async move {
                let result = match tokio::time::timeout(PATIENCE, ask(&item, &terms)).await {
                    Ok(result) => result,
                    Err(_) => Err(format!("no answer within {} s", PATIENCE.as_secs())),
                };
                (owner, item, terms, result)
            });
        }
        items.values().filter(|kept| !kept.asking).map(|kept| kept.next).min().unwrap_or(idle)
    }

    /// Takes one answer; whose it is, if anything is known now that was not.
    fn note(&self, asked: Asked, now: Timestamp) -> Option<ObjectKey> {
        let (owner, item, terms, result) = asked;
        let mut items = self.lock();
        let kept = items.get_mut(&(owner.clone(), item.clone()))?;
        kept.asking = false;
        // The question changed meanwhile: `next` is now, and this answer is to an old one.
        if kept.terms != terms {
            return None;
        }
        let before = kept.told.clone();
        match result {
            Ok((news, ttl)) => {
                kept.failures = 0;
                let most = if news.is_fine() { self.pace.most } else { self.pace.least };
                kept.next = Instant::now() + jittered(ttl.clamp(self.pace.least, most));
                match (&mut kept.told, news) {
                    (Answer::Spf(told), News::Spf(answer)) => told.learn(answer),
                    (Answer::Key(told), News::Key(answer)) => told.learn(answer),
                    (Answer::Ranges(told), News::Ranges(answer)) => told.learn(answer),
                    _ => {}
                }
            }
            Err(why) => {
                let doubled = self.pace.retry.saturating_mul(1 << kept.failures.min(6));
                kept.failures += 1;
                kept.next = Instant::now() + jittered(doubled.min(self.pace.least.max(self.pace.retry)));
                tracing::warn!(gateway = %owner, question = ?item, why, "DNS gave nothing to go by");
                let since = now.strftime("%Y-%m-%d %H:%M:%S UTC").to_string();
                match &mut kept.told {
                    Answer::Spf(told) => told.miss(&why, &since),
                    Answer::Key(told) => told.miss(&why, &since),
                    Answer::Ranges(told) => told.miss(&why, &since),
                }
            }
        }
        (kept.told != before).then_some(owner)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<(ObjectKey, Item), Kept>> {
        self.items.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl News {
    /// Whether nobody waits for it to change.
    fn is_fine(&self) -> bool {
        match self {
            News::Spf(answer) => answer.results.values().all(|result| *result == SpfResult::Pass),
            News::Key(answer) => !answer.records.is_empty(),
            News::Ranges(_) => true,
        }
    }
}

/// A tenth more or less, so that many gateways do not ask at once.
fn jittered(time: Duration) -> Duration {
    time.mul_f64(rand::random_range(0.9..1.1))
}

async fn ask(item: &Item, terms: &Terms) -> Result<(News, Duration), String> {
    // A new one each time: what an old one remembers is not asked.
    let names = Resolver::new(&terms.servers).map_err(|error| error.to_string())?;
    match item {
        Item::Spf(domain) => {
            let answer = spf(&names, domain, &terms.addresses, &terms.helo)
                .await
                .map_err(|error| error.to_string())?;
            Ok((News::Spf(answer.0), answer.1))
        }
        Item::Key(name) => {
            let found = names.txt(name).await.map_err(|error| error.to_string())?;
            Ok((News::Key(KeyAnswer { records: found.records }), found.ttl))
        }
        Item::Ranges(domain) => {
            let (found, ttl) = ranges(&names, domain).await.map_err(|error| error.to_string())?;
            Ok((News::Ranges(found), ttl))
        }
    }
}

/// The record of a domain, what it says of each address, and what it costs.
pub(super) async fn spf<N: Names>(
    names: &N,
    domain: &str,
    addresses: &BTreeSet<IpAddr>,
    helo: &str,
) -> Result<(SpfAnswer, Duration), Silence> {
    let (text, mut ttl) = record(names, domain).await?;
    let mut survey = Walk::new(names, None, domain, helo);
    // What is wrong with the record is said by the evaluations.
    survey.check(domain).await?;
    let (lookups, chain) = (survey.lookups, std::mem::take(&mut survey.chain));
    let mut results = BTreeMap::new();
    for address in addresses {
        let mut walk = Walk::new(names, Some(*address), domain, helo);
        results.insert(*address, walk.check(domain).await?);
        ttl = ttl.min(walk.ttl);
    }
    let passing = ranges(names, domain).await.ok().map(|(found, _)| found.networks);
    Ok((SpfAnswer { record: text, lookups, results, chain, passing }, ttl))
}
