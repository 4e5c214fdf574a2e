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

/// An answer is kept so long at least, and so long while something of it is wrong ...
const LEAST: Duration = Duration::from_secs(300);
/// ... and no longer than this, whatever its TTL.
const MOST: Duration = Duration::from_secs(3600);
/// Asked again after silence, doubled with each up to [`LEAST`]: one lost answer is no reason to hold anything long.
const RETRY: Duration = Duration::from_secs(2);

/// Shared by whoever translates and the task that asks.
#[derive(Debug, Default)]
pub struct Keeper {
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
    /// Whether the question as it is now is on its way.
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
                // Nobody waits for what is on its way to servers that are silent, perhaps.
                *kept =
                    Kept { terms, next: Instant::now(), asking: false, failures: 0, told: kept.told.clone() };
                new = true;
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
        // The question changed meanwhile, and the new one is on its way by itself.
        if kept.terms != terms {
            return None;
        }
        kept.asking = false;
        let before = kept.told.clone();
        match result {
            Ok((news, ttl)) => {
                kept.failures = 0;
                let most = if news.is_fine() { MOST } else { LEAST };
                kept.next = Instant::now() + jittered(ttl.clamp(LEAST, most));
                match (&mut kept.told, news) {
                    (Answer::Spf(told), News::Spf(answer)) => told.learn(answer),
                    (Answer::Key(told), News::Key(answer)) => told.learn(answer),
                    (Answer::Ranges(told), News::Ranges(answer)) => told.learn(answer),
                    _ => {}
                }
            }
            Err(why) => {
                let doubled = RETRY.saturating_mul(1 << kept.failures.min(10));
                kept.failures += 1;
                kept.next = Instant::now() + jittered(doubled.min(LEAST));
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

#[cfg(test)]
mod tests {
    use super::*;

    const DOMAIN: &str = "_spf.provider.example";

    fn owner() -> ObjectKey {
        ObjectKey::new("default", "gateway")
    }

    fn asking(server: &str) -> Questions {
        Questions {
            servers: vec![server.parse().expect("an address")],
            ranges: [DOMAIN.to_owned()].into(),
            ..Questions::default()
        }
    }

    /// The end of a question to that server.
    fn ended(server: &str, result: Result<&str, &str>) -> Asked {
        let servers = vec![server.parse().expect("an address")];
        let terms = Terms { servers, addresses: BTreeSet::new(), helo: String::new() };
        let found =
            |net: &str| Ranges { networks: vec![net.parse().expect("a network")], skipped: Vec::new() };
        let result = result.map(|net| (News::Ranges(found(net)), Duration::from_secs(60)));
        (owner(), Item::Ranges(DOMAIN.to_owned()), terms, result.map_err(str::to_owned))
    }

    /// When the only question is asked next, from now on.
    fn pause(keeper: &Keeper) -> Duration {
        let items = keeper.lock();
        let kept = items.values().next().expect("there is one");
        assert!(!kept.asking);
        kept.next - Instant::now()
    }

    #[tokio::test(start_paused = true)]
    async fn a_changed_question_does_not_wait_for_the_answer_to_the_one_before() {
        let (keeper, mut on_their_way) = (Keeper::default(), JoinSet::new());
        keeper.want(&owner(), asking("192.0.2.1:53"));
        keeper.begin(&mut on_their_way);
        keeper.want(&owner(), asking("192.0.2.1:53"));
        keeper.begin(&mut on_their_way);
        assert_eq!(on_their_way.len(), 1, "the same is asked once");
        keeper.want(&owner(), asking("192.0.2.2:53"));
        keeper.begin(&mut on_their_way);
        assert_eq!(on_their_way.len(), 2);

        // What the first server says comes late, and is not what is asked any more.
        assert_eq!(keeper.note(ended("192.0.2.1:53", Ok("192.0.2.0/24")), Timestamp::now()), None);
        keeper.begin(&mut on_their_way);
        assert_eq!(on_their_way.len(), 2, "the second is still on its way");
        let told = keeper.note(ended("192.0.2.2:53", Ok("198.51.100.0/24")), Timestamp::now());
        assert_eq!(told, Some(owner()));
        let facts = keeper.facts(&owner());
        let found = facts.ranges[DOMAIN].last.as_ref().expect("it was answered");
        assert_eq!(found.networks, ["198.51.100.0/24".parse().expect("a network")]);
    }

    #[tokio::test(start_paused = true)]
    async fn silence_is_followed_by_a_question_soon_and_then_less_and_less_often() {
        let (keeper, mut on_their_way) = (Keeper::default(), JoinSet::new());
        keeper.want(&owner(), asking("192.0.2.1:53"));
        let mut before = Duration::ZERO;
        for failures in 0..12 {
            keeper.begin(&mut on_their_way);
            let told = keeper.note(ended("192.0.2.1:53", Err("no answer in time")), Timestamp::now());
            assert_eq!(told.is_some(), failures == 0, "it is news once");
            let pause = pause(&keeper);
            assert!(
                pause > before || pause > Duration::from_secs(260),
                "{failures}: {pause:?} after {before:?}"
            );
            assert!(failures > 0 || pause < Duration::from_secs(3), "{pause:?}");
            assert!(pause <= Duration::from_secs(330), "{pause:?}");
            tokio::time::advance(pause).await;
            before = pause;
        }
        keeper.begin(&mut on_their_way);
        keeper.note(ended("192.0.2.1:53", Ok("192.0.2.0/24")), Timestamp::now());
        tokio::time::advance(pause(&keeper)).await;
        keeper.begin(&mut on_their_way);
        keeper.note(ended("192.0.2.1:53", Err("no answer in time")), Timestamp::now());
        assert!(pause(&keeper) < Duration::from_secs(3), "after an answer it begins anew");
    }
}
