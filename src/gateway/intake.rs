//! A mail's way in: one transaction from MAIL to the reply after the data. One policy snapshot is taken at
//! MAIL and kept to the end (design decision 13); 250 is said when the spool has it on disk.

use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use jiff::Timestamp;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use tokio::sync::Semaphore;

use crate::delivery::bounce::{self, About};
use crate::delivery::metrics::{ByKind, ReportKind};
use crate::delivery::{self, Allowance};
use crate::gateway::admission;
use crate::gateway::budget::{Budget, Share};
use crate::gateway::inspect::{Arrived, Inspector};
use crate::gateway::live::{Live, Running};
use crate::gateway::mount::Mount;
use crate::gateway::received;
use crate::mail::dsn::Fate;
use crate::mail::envelope::{Envelope, Recipient, Sender};
use crate::policy::settle::{Settlement, settle};
use crate::policy::verdict::Rejection;
use crate::policy::{Decision, Fuel, Transaction, decide};
use crate::smtp::reply::Reply;
use crate::smtp::{Handler, Mail, Peer};
use crate::spool::{CommitError, Content, ContentWriter, Entry, QueueId, Spool, Submission, Target};

/// Content up to this size is judged where it was read; larger ones on the bounded pool, so that a big
/// message never holds up the small ones of other sessions.
const INLINE: usize = 64 << 10;
/// What the spool's writer holds in memory before it turns to disk, and so what reception may cost.
const IN_MEMORY: u64 = 256 << 10;

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
    /// Reports to a sender, those of delivery included.
    allowance: Allowance,
    inspector: Inspector,
    /// Threads that judge large messages at the same time.
    pool: Arc<Semaphore>,
    draining: AtomicBool,
    hostname: String,
    metrics: Metrics,
}

struct Metrics {
    replies: Family<[(&'static str, &'static str); 1], Counter>,
    recipients: Family<[(&'static str, &'static str); 1], Counter>,
    /// Reports are counted with those of delivery.
    delivery: delivery::Metrics,
}

impl Metrics {
    fn register(delivery: delivery::Metrics, registry: &mut Registry) -> Self {
        let metrics = Self { replies: Family::default(), recipients: Family::default(), delivery };
        registry.register(
            "postern_messages",
            "Messages by what was answered after the data: accepted, rejected, deferred, refused",
            metrics.replies.clone(),
        );
        registry.register(
            "postern_recipients",
            "Recipients of the accepted messages: accepted for delivery, or rejected by policy",
            metrics.recipients.clone(),
        );
        metrics
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
    pub spool: Spool,
    pub budget: Budget,
    /// Reports to a sender, those of delivery included.
    pub allowance: Allowance,
    /// Counts the reports that policy causes beside those of delivery.
    pub delivery: delivery::Metrics,
    /// Used when the gateway has no `hostname`.
    pub hostname: String,
}

impl Intake {
    pub fn new(parts: Parts, registry: &mut Registry) -> Self {
        let Parts { live, mount, spool, budget, allowance, delivery, hostname } = parts;
        let threads = std::thread::available_parallelism().map_or(2, usize::from);
        Self(Arc::new(Shared {
            live,
            mount,
            spool,
            budget,
            allowance,
            inspector: Inspector::new(registry),
            pool: Arc::new(Semaphore::new(threads)),
            draining: AtomicBool::new(false),
            hostname,
            metrics: Metrics::register(delivery, registry),
        }))
    }

    pub fn downgrade(&self) -> WeakIntake {
        WeakIntake(Arc::downgrade(&self.0))
    }

    /// From now on every new transaction is answered 421.
    pub fn drain(&self) {
        self.0.draining.store(true, Ordering::Relaxed);
    }

    fn not_serving(&self) -> Option<Reply> {
        if self.0.draining.load(Ordering::Relaxed) {
            return Some(Reply::new(421, [4, 3, 2], "Service shutting down, try another host"));
        }
        match self.0.live.current() {
            None => Some(Reply::new(421, [4, 3, 2], "Service not ready (no policy revision)")),
            Some(running) if running.leaving => {
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
        if let Some(reply) = self.not_serving() {
            return Err(reply);
        }
        let running = self.0.live.current().expect("not_serving looked");
        Ok(Incoming {
            client_allowed: admission::client_allowed(&running.bundle.gateway, peer.address.ip()),
            shared: Arc::clone(&self.0),
            running,
            peer: peer.clone(),
            declared,
            envelope: Envelope { sender, recipients: Vec::new() },
            arriving: None,
        })
    }
}

/// One transaction. Dropping it forgets everything.
pub struct Incoming {
    shared: Arc<Shared>,
    running: Arc<Running>,
    peer: Peer,
    client_allowed: bool,
    declared: Option<u64>,
    envelope: Envelope,
    arriving: Option<Arriving>,
}

/// Content on its way in.
struct Arriving {
    id: QueueId,
    writer: ContentWriter,
    /// Length of our own Received field at the front.
    received: usize,
    _share: Share,
}

impl Mail for Incoming {
    async fn rcpt(&mut self, recipient: Recipient) -> Result<(), Reply> {
        let gateway = &self.running.bundle.gateway;
        admission::rcpt(gateway, self.client_allowed, self.envelope.sender.mailbox.as_ref())?;
        self.envelope.recipients.push(recipient);
        Ok(())
    }

    async fn data(&mut self) -> Result<(), Reply> {
        let wanted = self.declared.unwrap_or(IN_MEMORY).min(IN_MEMORY);
        let share = self.shared.budget.take(wanted).await.ok_or_else(out_of_memory)?;
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
        writer.write(field.as_bytes()).map_err(|error| storage(&error))?;
        self.arriving = Some(Arriving { id, writer, received: field.len(), _share: share });
        Ok(())
    }

    async fn write(&mut self, content: &[u8]) -> Result<(), Reply> {
        let Some(arriving) = &mut self.arriving else { return Err(lost()) };
        arriving.writer.write(content).map_err(|error| storage(&error))
    }

    async fn finish(mut self) -> Reply {
        let Some(arriving) = self.arriving.take() else { return lost() };
        let Arriving { id, writer, received, _share } = arriving;
        let content = match writer.finish() {
            Ok(content) => content,
            Err(error) => return self.answer("refused", storage(&error)),
        };
        let mark = received::mark(&self.running.bundle.gateway.origin.uid);
        if received::is_loop(&content.bytes()[received..], &mark) {
            return self.answer("refused", Reply::new(554, [5, 4, 6], "Routing loop detected"));
        }
        let decision = match self.judge(id, &content, received).await {
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
            Settlement::Reject(rejection) => {
                tracing::info!(%id, revision = %self.running.revision, rule = %rejection.rule, "message rejected");
                self.answer("rejected", reply)
            }
            Settlement::Accept { deliveries, held: _, discarded: _, archive: _, refused, unreported } => {
                let targets = deliveries.into_iter().map(target).collect();
                let entry = self.entry(targets);
                let (size, accepted) = (content.len(), entry.targets.len());
                let report = self.report(&entry, &content, &refused);
                let reported = report.is_some();
                let mut submissions = Vec::from_iter(report);
                submissions.push(Submission { id, entry, content });
                match self.shared.spool.commit(submissions).await {
                    Ok(_) => {
                        let metrics = &self.shared.metrics;
                        metrics.count_recipients("accepted", accepted);
                        metrics.count_recipients("rejected", refused.len() + unreported);
                        if reported {
                            metrics
                                .delivery
                                .reports
                                .get_or_create(&ByKind { kind: ReportKind::failed })
                                .inc();
                        }
                        tracing::info!(
                            %id, size, revision = %self.running.revision, client = %self.peer.address.ip(),
                            refused = refused.len(), unreported, "message accepted"
                        );
                        self.answer("accepted", reply)
                    }
                    Err(error) => self.answer("refused", storage(&error)),
                }
            }
        }
    }
}

impl Incoming {
    fn hostname(&self) -> &str {
        self.running.bundle.gateway.hostname.as_deref().unwrap_or(&self.shared.hostname)
    }

    fn answer(&self, result: &'static str, reply: Reply) -> Reply {
        self.shared.metrics.count(result);
        reply
    }

    /// Never an unscanned send (spec R142): whatever goes wrong in here is 451.
    async fn judge(&self, id: QueueId, content: &Content, received: usize) -> Result<Decision, Reply> {
        let size = content.bytes().len() - received;
        let (policy, envelope) = (Arc::clone(&self.running.policy), self.envelope.clone());
        let (client, tls) = (self.peer.address.ip().to_canonical(), self.peer.tls.is_some());
        let content = content.clone();
        let (id, helo) = (id.to_string(), self.peer.helo.as_str());
        let arrived =
            Arrived { id: &id, client, helo, envelope: &self.envelope, content: &content, received };
        let gateway = &self.running.bundle.gateway;
        let found = self.shared.inspector.inspect(policy.needs(), gateway, arrived).await;
        let now = Timestamp::now();
        let work = move || {
            let (authenticated, spam) = (&found.authenticated[..], found.spam);
            let transaction = Transaction {
                client,
                tls,
                now,
                authenticated,
                spam,
                ..Transaction::new(&id, &envelope)
            };
            decide(&policy, &transaction, &content.bytes()[received..], Fuel::default())
        };
        if size <= INLINE {
            return std::panic::catch_unwind(AssertUnwindSafe(work)).map_err(|_| unavailable());
        }
        // Reading a large message needs room for its decoded text.
        let _share = self.shared.budget.take(2 * size as u64).await.ok_or_else(out_of_memory)?;
        let _turn = self.shared.pool.acquire().await.map_err(|_| unavailable())?;
        tokio::task::spawn_blocking(work).await.map_err(|_| unavailable())
    }

    /// Tells the sender of a message that went to some of its recipients which ones policy refused.
    fn report(
        &self,
        entry: &Entry,
        content: &Content,
        refused: &[(Recipient, Rejection)],
    ) -> Option<Submission> {
        let sender = entry.sender.mailbox.as_ref()?;
        let now = Timestamp::now();
        if refused.is_empty() {
            return None;
        }
        if !self.shared.allowance.take(&sender.folded(), now) {
            self.shared.metrics.delivery.reports_suppressed.inc();
            return None;
        }
        let fates: Vec<Fate> = refused
            .iter()
            .map(|(recipient, rejection)| bounce::refused(recipient, rejection.code.0, &rejection.full_text))
            .collect();
        let about = About { entry, content: content.bytes() };
        bounce::report(&self.running.routes, self.shared.spool.new_id(), now, about, &fates)
    }

    fn entry(&self, targets: Vec<Target>) -> Entry {
        Entry {
            sender: self.envelope.sender.clone(),
            received_at: Timestamp::now(),
            origin: format!("{} ([{}])", self.peer.helo, self.peer.address.ip().to_canonical()),
            revision: self.running.revision.to_string(),
            own: false,
            held: None,
            targets,
        }
    }
}

fn target(delivery: crate::policy::Delivery) -> Target {
    let crate::policy::Delivery { recipient, via, edits, require_tls, suppress_bounces, .. } = delivery;
    Target { recipient, via, require_tls, edits, suppress_bounces }
}

fn storage(error: &CommitError) -> Reply {
    match error {
        CommitError::Full => Reply::new(452, [4, 3, 1], "Insufficient system storage, try again later"),
        CommitError::Io(_) => Reply::new(451, [4, 3, 0], "Cannot store the message, try again later"),
    }
}

fn out_of_memory() -> Reply {
    Reply::new(452, [4, 3, 1], "Too many messages at once, try again later")
}

fn unavailable() -> Reply {
    Reply::new(451, [4, 7, 1], "Policy evaluation unavailable, try again later")
}

fn lost() -> Reply {
    Reply::new(451, [4, 3, 0], "Transaction lost, try again later")
}
