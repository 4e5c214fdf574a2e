//! A mail's way in: one transaction from MAIL to the reply after the data. One policy snapshot is taken at
//! MAIL and kept to the end (design decision 13); 250 is said when the spool has it on disk.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use jiff::Timestamp;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

use crate::gateway::acceptance::{self, Acceptance, Before, Message, Verdict};
use crate::gateway::admission::{self, Client};
use crate::gateway::budget::{Budget, Share};
use crate::gateway::decisions::Occasion;
use crate::gateway::inspect::{Arrived, Findings, Inspector};
use crate::gateway::judge::{self, Case, Judge, Unjudged};
use crate::gateway::live::{Live, Running};
use crate::gateway::mount::Mount;
use crate::gateway::quarantine;
use crate::gateway::received;
use crate::mail::envelope::{Envelope, Recipient, Sender};
use crate::mail::rate::Rate;
use crate::policy::settle::{Settlement, settle};
use crate::policy::{Decision, Delivery};
use crate::smtp::rate::Buckets;
use crate::smtp::reply::Reply;
use crate::smtp::server::client as client_address;
use crate::smtp::{Handler, Mail, Peer};
use crate::spool::{CommitError, Content, ContentWriter, Facts, INLINE, LOGGED, QueueId, Spool};

/// What reception may cost: what the spool's writer holds in memory before it turns to disk.
const IN_MEMORY: u64 = INLINE as u64;

/// Clients whose rates are remembered at the same time; about 6 MiB.
const CLIENTS: usize = 50_000;

const MINUTE: Duration = Duration::from_secs(60);

/// The gateway as the SMTP server sees it. Cheap to clone.
#[derive(Clone)]
pub struct Intake(Arc<Shared>);

/// An [`Intake`] that does not keep it alive.
pub struct WeakIntake(Weak<Shared>);

impl WeakIntake {
    pub fn upgrade(&self) -> Option<Intake> {
        self.0.upgrade().map(Intake)
    }
}

struct Shared {
    live: Arc<Live>,
    /// The mounted bundle, to look again when its watcher is late; `None` in standalone mode.
    mount: Option<Arc<Mount>>,
    spool: Spool,
    budget: Budget,
    inspector: Inspector,
    judge: Judge,
    acceptance: Acceptance,
    draining: AtomicBool,
    /// Transactions between MAIL and their end.
    open: Arc<AtomicUsize>,
    hostname: String,
    /// What clients have handed in lately.
    rates: Mutex<Buckets<Source>>,
    metrics: Metrics,
}

/// Whose messages are counted together.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Source {
    Login(Arc<str>),
    Address(IpAddr),
}

struct Metrics {
    replies: Family<[(&'static str, &'static str); 1], Counter>,
    recipients: Family<[(&'static str, &'static str); 1], Counter>,
    no_room: Family<[(&'static str, &'static str); 1], Counter>,
    denied: Family<[(&'static str, &'static str); 1], Counter>,
    limited: Counter,
    /// Held messages are counted with what becomes of them.
    quarantine: quarantine::Metrics,
}

impl Metrics {
    fn register(quarantine: quarantine::Metrics, registry: &mut Registry) -> Self {
        let metrics = Self {
            replies: Family::default(),
            recipients: Family::default(),
            denied: Family::default(),
            limited: Counter::default(),
            no_room: Family::default(),
            quarantine,
        };
        registry.register(
            "postern_relay_denied",
            "Recipients refused whatever the rules say, by why: client (not allowed), login (bound to other senders), \
             sender (not of this organisation)",
            metrics.denied.clone(),
        );
        registry.register(
            "postern_rate_limited",
            "Transactions refused because their client handed in too many messages within a minute",
            metrics.limited.clone(),
        );
        registry.register(
            "postern_messages",
            "Messages by what was answered after the data: accepted, rejected, deferred, refused",
            metrics.replies.clone(),
        );
        registry.register(
            "postern_recipients",
            "Recipients of the accepted messages: accepted for delivery (copies included), rejected by policy, \
             held, discarded as blatant spam",
            metrics.recipients.clone(),
        );
        registry.register(
            "postern_no_room",
            "Transactions answered 452 4.3.1, by what was full: memory, disk",
            metrics.no_room.clone(),
        );
        metrics
    }

    fn storage(&self, error: &CommitError) -> Reply {
        match error {
            CommitError::Full => {
                self.no_room.get_or_create(&[("of", "disk")]).inc();
                Reply::new(452, [4, 3, 1], "Insufficient system storage, try again later")
            }
            CommitError::Io(_) => Reply::new(451, [4, 3, 0], "Cannot store the message, try again later"),
        }
    }

    fn out_of_memory(&self) -> Reply {
        self.no_room.get_or_create(&[("of", "memory")]).inc();
        Reply::new(452, [4, 3, 1], "Too many messages at once, try again later")
    }

    fn count(&self, result: &'static str) {
        self.replies.get_or_create(&[("result", result)]).inc();
    }

    fn count_recipients(&self, result: &'static str, count: usize) {
        self.recipients.get_or_create(&[("result", result)]).inc_by(count as u64);
    }
}

/// What an intake works with.
pub struct Parts {
    pub live: Arc<Live>,
    /// To look again when its watcher is late; `None` in standalone mode.
    pub mount: Option<Arc<Mount>>,
    pub budget: Budget,
    pub judge: Judge,
    pub acceptance: Acceptance,
    pub quarantine: quarantine::Metrics,
    /// Used when the gateway has no `hostname`.
    pub hostname: String,
}

impl Intake {
    pub fn new(parts: Parts, registry: &mut Registry) -> Self {
        let Parts { live, mount, budget, judge, acceptance, quarantine, hostname } = parts;
        Self(Arc::new(Shared {
            live,
            mount,
            spool: acceptance.spool.clone(),
            budget,
            inspector: Inspector::new(registry),
            judge,
            acceptance,
            draining: AtomicBool::new(false),
            open: Arc::default(),
            hostname,
            rates: Mutex::new(Buckets::new(CLIENTS)),
            metrics: Metrics::register(quarantine, registry),
        }))
    }

    pub fn downgrade(&self) -> WeakIntake {
        WeakIntake(Arc::downgrade(&self.0))
    }

    /// From now on every new transaction is answered 421.
    pub fn drain(&self) {
        self.0.draining.store(true, Ordering::Relaxed);
    }

    /// Transactions that were let begin and have not ended.
    pub fn open_transactions(&self) -> usize {
        self.0.open.load(Ordering::SeqCst)
    }

    /// Counts a message of a client; the refusal when it hands in too many (spec R160).
    fn counted(&self, running: &Running, peer: &Peer) -> Result<(), Reply> {
        let gateway = &running.bundle.gateway;
        let Some(limit) = gateway.limits.messages_per_minute_per_client else { return Ok(()) };
        let source = match &peer.login {
            Some(login) => Source::Login(Arc::clone(login)),
            None => Source::Address(client_address(peer.address.ip())),
        };
        // Counting cannot panic half way.
        let mut rates = self.0.rates.lock().unwrap_or_else(PoisonError::into_inner);
        rates.take(source, &Rate::whole(limit, MINUTE), Timestamp::now()).map_err(|_| {
            self.0.metrics.limited.inc();
            Reply::new(450, [4, 7, 1], format!("Rate limit exceeded ({limit} per minute)"))
        })
    }

    fn not_serving(&self) -> Option<Reply> {
        if self.0.draining.load(Ordering::Relaxed) {
            return Some(Reply::new(421, [4, 3, 2], "Service shutting down, try another host"));
        }
        match self.0.live.current() {
            None => Some(Reply::new(421, [4, 3, 2], "Service not ready (no policy revision)")),
            // A leaving pod is unready at once, and open for those who have not heard of it for a while.
            Some(_) if self.0.live.turns_away() || self.0.spool.is_sealed() => {
                Some(Reply::new(421, [4, 3, 2], "Service shutting down, try another host"))
            }
            Some(_) => None,
        }
    }
}

impl Handler for Intake {
    type Mail = Incoming;

    fn greet(&self, _address: SocketAddr) -> Result<(), Reply> {
        self.not_serving().map_or(Ok(()), Err)
    }

    async fn mail(&self, peer: &Peer, sender: Sender, declared: Option<u64>) -> Result<Incoming, Reply> {
        if let Some(mount) = &self.0.mount
            && !self.0.live.is_fresh()
        {
            mount.refresh(&self.0.live).await;
        }
        // Counted before it is looked whether it may begin: who sees none open sees none begin later.
        let open = Open::new(&self.0.open);
        if let Some(reply) = self.not_serving() {
            return Err(reply);
        }
        let running = self.0.live.current().expect("not_serving looked");
        self.counted(&running, peer)?;
        Ok(Incoming {
            client_listed: admission::client_allowed(&running.bundle.gateway, peer.address.ip()),
            shared: Arc::clone(&self.0),
            running,
            peer: peer.clone(),
            declared,
            envelope: Envelope { sender, recipients: Vec::new() },
            arriving: None,
            _open: open,
        })
    }
}

/// One transaction. Dropping it forgets everything.
pub struct Incoming {
    shared: Arc<Shared>,
    running: Arc<Running>,
    peer: Peer,
    /// Its address is in one of the gateway's networks.
    client_listed: bool,
    declared: Option<u64>,
    envelope: Envelope,
    arriving: Option<Arriving>,
    _open: Open,
}

/// Counts a transaction as long as it lives.
struct Open(Arc<AtomicUsize>);

impl Open {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(count))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Content on its way in.
struct Arriving {
    id: QueueId,
    writer: ContentWriter,
    /// Length of our own Received field at the front.
    received: usize,
    _share: Share,
    /// Memory beyond that, for a message that would do with less.
    spare: Option<Share>,
}

impl Mail for Incoming {
    async fn rcpt(&mut self, recipient: Recipient) -> Result<(), Reply> {
        let gateway = &self.running.bundle.gateway;
        admission::rcpt(gateway, self.client(), self.envelope.sender.mailbox.as_ref()).map_err(|denied| {
            self.shared.metrics.denied.get_or_create(&[("reason", denied.word())]).inc();
            denied.reply()
        })?;
        self.envelope.recipients.push(recipient);
        Ok(())
    }

    async fn data(&mut self) -> Result<(), Reply> {
        let wanted = self.declared.unwrap_or(IN_MEMORY).min(IN_MEMORY);
        let share =
            self.shared.budget.take(wanted).await.ok_or_else(|| self.shared.metrics.out_of_memory())?;
        let id = self.shared.spool.new_id();
        let field = received::field(
            &self.peer,
            self.hostname(),
            &received::mark(&self.running.bundle.gateway.origin.uid),
            &id.to_string(),
            &self.envelope.recipients,
            self.envelope.sender.smtputf8,
            Timestamp::now(),
        );
        let mut writer = self.shared.spool.writer();
        writer.write(field.as_bytes()).map_err(|error| self.shared.metrics.storage(&error))?;
        self.arriving = Some(Arriving { id, writer, received: field.len(), _share: share, spare: None });
        Ok(())
    }

    async fn write(&mut self, content: &[u8]) -> Result<(), Reply> {
        let Some(arriving) = &mut self.arriving else { return Err(lost()) };
        if arriving.spare.is_none() && arriving.writer.spills_with(content.len()) {
            // Still no large one, perhaps: in memory as long as there is plenty.
            let all = self.declared.map_or(LOGGED, |size| size.saturating_add(arriving.received as u64));
            arriving.spare = if all <= LOGGED { self.shared.budget.take_spare(all) } else { None };
            if arriving.spare.is_some() {
                arriving.writer.hold(all);
            }
        }
        arriving.writer.write(content).map_err(|error| self.shared.metrics.storage(&error))
    }

    async fn finish(mut self) -> Reply {
        let Some(arriving) = self.arriving.take() else { return lost() };
        let Arriving { id, writer, received, _share, spare: _spare } = arriving;
        let content = match writer.finish() {
            Ok(content) => content,
            Err(error) => return self.answer("refused", self.shared.metrics.storage(&error)),
        };
        let mark = received::mark(&self.running.bundle.gateway.origin.uid);
        if received::is_loop(&content.bytes()[received..], &mark) {
            return self.answer("refused", Reply::new(554, [5, 4, 6], "Routing loop detected"));
        }
        let facts = self.facts(id, &content, received).await;
        let decision = match self.judge(id, &content, &facts).await {
            Ok(decision) => decision,
            Err(reply) => return self.answer("deferred", reply),
        };
        let settlement = settle(&self.envelope, decision);
        let reply = admission::data(&settlement, &id.to_string());
        match settlement {
            Settlement::Defer(deferral) => {
                let object = deferral.object.map(|object| object.to_string());
                tracing::info!(%id, revision = %self.running.revision, object, "message deferred by policy");
                self.answer("deferred", reply)
            }
            Settlement::Reject { rejection, archive } => {
                tracing::info!(%id, revision = %self.running.revision, rule = %rejection.rule, "message rejected");
                match self.record(id, &content, &facts, archive).await {
                    Ok(()) => self.answer("rejected", reply),
                    // Nothing happens to a message without the record that was promised of it.
                    Err(error) => self.answer("refused", self.shared.metrics.storage(&error)),
                }
            }
            Settlement::Accept { deliveries, held, discarded, archive, refused, unreported } => {
                let numbers = Numbers { held: held.len(), discarded, rejected: refused.len() + unreported };
                let verdict = Verdict { deliveries, held, archive, refused };
                match self.store(id, &content, &facts, verdict, numbers).await {
                    Ok(()) => self.answer("accepted", reply),
                    Err(error) => self.answer("refused", self.shared.metrics.storage(&error)),
                }
            }
        }
    }
}

/// Recipients that are not delivered to now.
#[derive(Clone, Copy)]
struct Numbers {
    held: usize,
    discarded: usize,
    rejected: usize,
}

impl Incoming {
    fn hostname(&self) -> &str {
        self.running.bundle.gateway.hostname.as_deref().unwrap_or(&self.shared.hostname)
    }

    /// Why this client may hand over mail, and as whom.
    fn client(&self) -> Client<'_> {
        let Peer { login, certificate, .. } = &self.peer;
        let gateway = &self.running.bundle.gateway;
        admission::client(gateway, self.client_listed, login.as_deref(), certificate.as_deref())
    }

    fn answer(&self, result: &'static str, reply: Reply) -> Reply {
        self.shared.metrics.count(result);
        self.running.tally.answered(result);
        reply
    }

    /// What is known of the message besides its bytes and its envelope: who sent it to us, and what some rule
    /// wants found out about it.
    async fn facts(&self, id: QueueId, content: &Content, received: usize) -> Facts {
        let (id, client) = (id.to_string(), self.peer.address.ip().to_canonical());
        let arrived =
            Arrived { id: &id, client, helo: &self.peer.helo, envelope: &self.envelope, content, received };
        let (needs, gateway) = (self.running.policy.needs(), &self.running.bundle.gateway);
        let Findings { mut authenticated, spam } =
            self.shared.inspector.inspect(needs, gateway, arrived).await;
        let known = self.client();
        for domain in known.vouches_for(self.envelope.sender.mailbox.as_ref()) {
            if !authenticated.contains(&domain) {
                authenticated.push(domain);
            }
        }
        Facts {
            client,
            tls: self.peer.tls.is_some(),
            authenticated,
            spam: spam.spam,
            phishy: spam.phishy,
            blatant: spam.blatant,
            received: received as u64,
            identity: known.identity(),
        }
    }

    /// Never an unscanned send (spec R142): whatever goes wrong in here is 451.
    async fn judge(&self, id: QueueId, content: &Content, facts: &Facts) -> Result<Decision, Reply> {
        let case = Case {
            id: id.to_string(),
            envelope: self.envelope.clone(),
            facts: facts.clone(),
            except: Vec::new(),
            now: Timestamp::now(),
            occasion: Occasion::Received,
        };
        self.shared.judge.judge(&self.running, case, content).await.map_err(|error| match error {
            Unjudged::NoMemory => self.shared.metrics.out_of_memory(),
            Unjudged::Failed => Reply::new(451, [4, 7, 1], judge::failure(&id.to_string())),
        })
    }

    /// The archive's copy of a message that is refused as a whole.
    async fn record(
        &self,
        id: QueueId,
        content: &Content,
        facts: &Facts,
        archive: Option<Delivery>,
    ) -> Result<(), CommitError> {
        if archive.is_none() {
            return Ok(());
        }
        let origin = acceptance::origin(&self.peer.helo, self.peer.address.ip());
        let message = self.message(id, content, facts, &origin);
        let verdict = Verdict { archive, ..Verdict::default() };
        let acts = self.shared.acceptance.acts(&self.running, &message, verdict);
        self.shared.spool.commit(acts.submissions).await?;
        Ok(())
    }

    fn message<'m>(
        &'m self,
        id: QueueId,
        content: &'m Content,
        facts: &'m Facts,
        origin: &'m str,
    ) -> Message<'m> {
        Message {
            told: id,
            id,
            sender: &self.envelope.sender,
            received_at: Timestamp::now(),
            origin,
            content,
            facts,
            before: Before::default(),
        }
    }

    /// Durable when it returns Ok: everything that the 250 promises, in one commit.
    async fn store(
        &self,
        id: QueueId,
        content: &Content,
        facts: &Facts,
        verdict: Verdict,
        numbers: Numbers,
    ) -> Result<(), CommitError> {
        let Numbers { held, discarded, rejected } = numbers;
        let origin = acceptance::origin(&self.peer.helo, self.peer.address.ip());
        let message = self.message(id, content, facts, &origin);
        let mut acts = self.shared.acceptance.acts(&self.running, &message, verdict);
        self.shared.spool.commit(std::mem::take(&mut acts.submissions)).await?;
        self.shared.acceptance.done(&acts);
        let metrics = &self.shared.metrics;
        metrics.count_recipients("accepted", acts.deliveries);
        metrics.count_recipients("rejected", rejected);
        metrics.count_recipients("held", held);
        metrics.count_recipients("discarded", discarded);
        metrics.quarantine.count("held", acts.held.len());
        tracing::info!(
            %id, size = content.len(), revision = %self.running.revision, client = %facts.client,
            deliveries = acts.deliveries, held, discarded, rejected, reported = acts.reported,
            noticed = acts.noticed, "message accepted"
        );
        for held in acts.held.iter().filter(|held| **held != id) {
            tracing::info!(%id, held_as = %held, "recipients held");
        }
        Ok(())
    }
}

fn lost() -> Reply {
    Reply::new(451, [4, 3, 0], "Transaction lost, try again later")
}
