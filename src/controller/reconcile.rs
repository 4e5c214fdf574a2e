//! One gateway's driver. A pass reads as a list of steps; what decides is pure and elsewhere.
//!
//! Rules mean something only together, so every change leads to a pass over the whole set (design decision
//! 4): the first at once, further ones at most every 100 ms.

mod desk;
mod life;
mod report;
mod steer;
mod storage;
mod touch;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use kube::Client;
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::acks::{Acks, Dialler};
use super::apply::{Applier, ApplyError};
use super::audit::Ledger;
use super::authority::Authority;
use super::build::publication::Plan;
use super::build::shelves::Full;
use super::build::{self, Site};
use super::control::{self, ControlError};
use super::history::History;
use super::metrics::Metrics;
use super::publish::{Press, PublishError};
use super::rollout::format::format;
use super::rollout::standing::{Standings, Why};
use super::rollout::{self, Arrival, Journeys, Pod, Wish};
use super::status::{Failure, News, Tone};
use super::statuses::Statuses;
use super::world::{Bell, Changed, World, Written, gateway_id, now};
use crate::api::conditions::Reason;
use crate::api::{OutboundGateway, OutboundGatewaySpec};
use crate::bundle::document::{ObjectId, ObjectKind, WRITES};
use crate::bundle::material::MaterialVersion;
use crate::bundle::segment::{Cutter, Segment};
use crate::bundle::{Ack, Bundle, Manifest, Revision};
use crate::directory;
use crate::policy::compile::{CompileError, try_out};
use crate::published;
use crate::translate::{LastGood, Memory, ObjectKey, Outcome, Resources, Translation, references, translate};

use desk::Desk;
use report::outcome_of;
use steer::{Aim, Steering};
use touch::Touches;

/// Publications of one gateway follow each other no faster. Handed over directly a change needs 40-80 ms, so this is
/// what changes that follow each other wait for; it bounds the writes to the API server.
const PACE: Duration = Duration::from_millis(100);
/// How long a status waits for the pods, so that most changes need one write and not two.
const HOLD: Duration = Duration::from_millis(300);
/// How long a new driver waits to hear from the pods before it says that they lag.
const FIRST_WORD: Duration = Duration::from_secs(3);
/// Everything is looked at again after this, whatever the watches said: so long may a Secret of ours, which nobody
/// may watch, stay deleted or edited.
const ROUND: Duration = Duration::from_secs(60);
const STARTS: usize = 8;
const DIALS: usize = 64;
const FIRST_RETRY: Duration = Duration::from_millis(200);
const LONGEST_RETRY: Duration = Duration::from_secs(30);

/// What all drivers share.
pub struct Context {
    pub client: Client,
    pub world: Arc<World>,
    pub metrics: Arc<Metrics>,
    pub statuses: Arc<Statuses>,
    /// Reads the LDAP servers of Directories.
    pub people: Arc<directory::Keeper>,
    /// Asks DNS what is published of the organisation.
    pub published: Arc<published::Keeper>,
    pub authority: Arc<Authority>,
    pub dial: Dialler,
    /// The audit log.
    pub ledger: Arc<Ledger>,
    pub site: Site,
    pub bounds: Bounds,
}

/// What all drivers together do at once, however many there are: after a start, or a change of the leader, each
/// of them has everything to read.
#[derive(Clone)]
pub struct Bounds {
    /// First passes.
    starts: Arc<Semaphore>,
    /// Connections to pods that are being made.
    pub dials: Arc<Semaphore>,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { starts: Arc::new(Semaphore::new(STARTS)), dials: Arc::new(Semaphore::new(DIALS)) }
    }
}

#[derive(Debug, thiserror::Error)]
enum PassError {
    #[error(transparent)]
    Publish(#[from] PublishError),
}

impl From<ApplyError> for PassError {
    fn from(error: ApplyError) -> Self {
        Self::Publish(error.into())
    }
}

impl PassError {
    /// Somebody else wrote in between.
    fn is_conflict(&self) -> bool {
        matches!(self, Self::Publish(PublishError::Write(error)) if error.is_conflict())
    }
}

pub struct Driver {
    ctx: Arc<Context>,
    key: ObjectKey,
    bell: Arc<Bell>,
    press: Press,
    applier: Applier,
    acks: Acks,
    /// What pods had said when this pass began.
    heard: Arc<HashMap<String, Ack>>,
    touches: Touches,
    journeys: Journeys,
    desk: Desk,
    /// What passes made of rules, and what bundles were cut into.
    memory: Memory,
    cutter: Option<Cutter>,
    /// What the last pass decided of each object.
    outcomes: Vec<Outcome>,
    /// Why the newest decisions are not published.
    failure: Option<Failure>,
    /// What keeps pods from running although everything is published.
    trouble: Option<Failure>,
    started: Timestamp,
    arrived: Option<Arrival>,
    /// What an earlier controller wrote of the revision named there.
    restored: Option<Restored>,
    /// When this driver began, and pods had not been asked yet.
    born: Instant,
    published_at: Option<Instant>,
    control: control::Keeper,
    apply_failures: Failures,
    storage_seen: Option<(Instant, bool)>,
    life: life::Memory,
    steering: Steering,
}

/// How often the last passes failed, and when the next one may be tried.
struct Failures {
    count: u32,
    not_before: Instant,
}

impl Default for Failures {
    fn default() -> Self {
        Self { count: 0, not_before: Instant::now() }
    }
}

impl Failures {
    fn one_more(&mut self) {
        let pause = (FIRST_RETRY * 2u32.saturating_pow(self.count)).min(LONGEST_RETRY);
        self.not_before = Instant::now() + pause;
        self.count += 1;
    }

    fn lasting(&self) -> bool {
        self.count >= 3
    }
}

struct Restored {
    revision: String,
    started: Timestamp,
    arrival: Option<Arrival>,
}

/// The gateway a pass is about.
struct Subject {
    gateway: Arc<OutboundGateway>,
    uid: String,
    /// It could not be read: its objects are left as they are.
    malformed: bool,
}

impl Driver {
    pub fn new(ctx: Arc<Context>, key: ObjectKey, bell: Arc<Bell>) -> Self {
        let Context { client, world, metrics, dial, .. } = &*ctx;
        let press = Press::new(client.clone(), world.clone(), metrics.clone(), key.clone());
        let applier = Applier::new(client.clone(), world.clone(), metrics.clone());
        let acks = Acks::new(key.clone(), dial.clone(), bell.clone(), ctx.bounds.dials.clone());
        let touches = Touches::new(client.clone(), key.namespace.clone(), metrics.clone());
        let history = History::new(client.clone(), metrics.clone(), key.clone(), bell.clone());
        let mut driver = Self {
            press,
            applier,
            acks,
            heard: Arc::default(),
            touches,
            journeys: Journeys::default(),
            desk: Desk::new(key.to_string()),
            memory: Memory::default(),
            cutter: None,
            outcomes: Vec::new(),
            failure: None,
            trouble: None,
            started: now(),
            arrived: None,
            restored: None,
            born: Instant::now(),
            published_at: None,
            control: control::Keeper::default(),
            apply_failures: Failures::default(),
            storage_seen: None,
            life: life::Memory::default(),
            steering: Steering::new(history),
            ctx,
            key,
            bell,
        };
        driver.restored = driver.restore();
        driver
    }

    /// The rollout of a revision that has not changed since goes on as it was told.
    fn restore(&self) -> Option<Restored> {
        let rollout = self.ctx.world.entry(&self.id())?.status.rollout.clone()?;
        let pods = rollout.pods_total;
        let arrival = |at| Arrival { at, pods, not_counting: rollout.stale_pods.clone() };
        Some(Restored {
            arrival: rollout.completed_at.map(arrival),
            revision: rollout.revision,
            started: rollout.started_at?,
        })
    }

    /// Looks after its gateway until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut decide = false;
        let mut look_again = Instant::now() + ROUND;
        let mut decided = Instant::now();
        let mut first = true;
        let mut failures = Failures::default();
        loop {
            let paced_until = self.published_at.map_or(self.born, |at| at + PACE);
            let due = look_again.min(if decide { paced_until } else { decided + ROUND });
            let changed = tokio::select! {
                biased;
                () = stop.cancelled() => return self.ctx.published.forget(&self.key),
                changed = self.bell.wait() => changed,
                () = sleep_until(due.max(failures.not_before)) => Changed::default(),
            };
            let now = Instant::now();
            decide |= changed.spec || now.duration_since(decided) >= ROUND;
            if now < failures.not_before {
                // What fails is not tried faster because something rings.
                continue;
            }
            let paced = now >= paced_until;
            // A pass is never cut short: half a publication would have to be read back.
            let turn = match first {
                true => Some(self.ctx.bounds.starts.clone().acquire_owned().await),
                false => None,
            };
            let result = Box::pin(self.pass(decide && paced)).await;
            drop(turn);
            let outcome = match &result {
                Ok(_) => "ok",
                Err(error) if error.is_conflict() => "conflict",
                Err(_) => "error",
            };
            self.ctx.metrics.passed(outcome, now.elapsed());
            match result {
                Ok(wake) => {
                    first = false;
                    if decide && paced {
                        decided = now;
                    }
                    decide &= !paced;
                    failures = Failures::default();
                    look_again = wake;
                }
                Err(error) => {
                    let PassError::Publish(cause) = &error;
                    match cause {
                        PublishError::Write(cause) if cause.is_namespace_going() => {}
                        _ => warn!(gateway = %self.key, %error, "the pass failed; it is tried again"),
                    }
                    self.press.distrust();
                    self.life.distrust();
                    decide = true;
                    failures.one_more();
                    // A race or a hiccup is nobody's business; what lasts is said.
                    if failures.lasting() && !error.is_conflict() {
                        let message = error.to_string();
                        self.failure = Some(Failure { reason: Reason::PublishFailed, message });
                        self.report();
                    }
                }
            }
        }
    }

    /// One look at the world. Returns when to look again though nothing rings.
    async fn pass(&mut self, decide: bool) -> Result<Instant, PassError> {
        let Some(subject) = self.subject() else { return Ok(Instant::now() + ROUND) };
        let reread = self.press.load(&subject.uid).await?;
        self.hear();
        self.live_on(&subject).await?;
        let due = self.stage_is_due(&subject);
        if decide || reread || due || self.is_behind() || self.is_leaving_unsaid() {
            Box::pin(self.decide(&subject)).await?;
        }
        self.uphold(&subject).await;
        let mut wake = self.follow(&subject).await?.min(self.report());
        if self.apply_failures.count > 0 {
            wake = wake.min(self.apply_failures.not_before);
        }
        Ok(wake)
    }

    fn id(&self) -> ObjectId {
        gateway_id(&self.key)
    }

    /// `None`: it is gone or going, and everything of it goes with it.
    fn subject(&self) -> Option<Subject> {
        let entry = self.ctx.world.entry(&self.id()).filter(|entry| !entry.deleting)?;
        let uid = entry.uid.clone();
        Some(match &entry.written {
            Written::Gateway(gateway) => Subject { gateway: gateway.clone(), uid, malformed: false },
            _ => {
                let mut stand_in = OutboundGateway::new(&self.key.name, OutboundGatewaySpec::default());
                stand_in.metadata.namespace = Some(self.key.namespace.clone());
                stand_in.metadata.uid = Some(uid.clone());
                Subject { gateway: Arc::new(stand_in), uid, malformed: true }
            }
        })
    }

    /// Takes in what the API server has shown and pods have said. What they say later is for the next pass: a pod that
    /// turns out to be further than the sequence just published has not taken that one.
    fn hear(&mut self) {
        self.desk.changed(self.ctx.world.take_changed(&self.key));
        let pods = self.pods();
        self.acks.follow(&pods);
        self.heard = Arc::new(self.acks.heard());
        let floor = rollout::floor(&pods, &self.heard);
        let published = &mut self.press.published;
        published.floor = published.floor.max(floor);
        published.contested =
            published.manifest.as_ref().is_some_and(|manifest| rollout::contested(manifest, &self.heard));
        // A new pod must not take an old publication for confirmed, neither before the first decision nor when
        // somebody brought an old one back.
        if let Some(manifest) = &published.manifest {
            self.acks.publish(manifest.sequence.max(published.floor));
        }
        if self.is_behind() {
            self.journeys.overtaken();
        }
    }

    fn pods(&self) -> Vec<Pod> {
        self.ctx.world.pods(&self.key)
    }

    /// A pod is further than the manifest, or runs something else under its number: somebody brought an old one back,
    /// or deleted it.
    fn is_behind(&self) -> bool {
        let published = &self.press.published;
        published.manifest.is_some() && !published.is_newest()
    }

    async fn decide(&mut self, subject: &Subject) -> Result<(), PassError> {
        let mut resources = self.gather().await;
        let pin = self.pin(subject, &mut resources).await?;
        let Prepared { translation, segments, refused, format } = self.prepare(resources).await;
        let Translation { bundle, materials, outcomes } = translation;
        self.desk.decided(&self.outcomes, &outcomes);
        self.outcomes = outcomes;
        let Some(bundle) = bundle else {
            self.set_out();
            self.failure = None;
            return Ok(());
        };
        let newest = Aim { format, bundle, segments, materials };
        match pin {
            Some(Ok((revision, former))) => self.go_back(subject, revision, former, &newest.bundle).await,
            Some(Err(failure)) => {
                self.failure = Some(failure);
                self.set_out();
                Ok(())
            }
            None => {
                self.ctx.published.want(&self.key, published::wanted(&newest.bundle));
                if let Some(error) = refused {
                    self.failure =
                        Some(Failure { reason: Reason::CompileFailed, message: error.to_string() });
                    self.set_out();
                    return Ok(());
                }
                Box::pin(self.take_turn(subject, newest)).await
            }
        }
    }

    /// Has all pods run a former revision, whatever is wished for now.
    async fn go_back(
        &mut self,
        subject: &Subject,
        revision: Revision,
        former: Aim,
        newest: &Bundle,
    ) -> Result<(), PassError> {
        let runs = self.press.published.manifest.as_ref().is_some_and(|m| m.publishes(&former.revision()));
        if !runs {
            // Rarely and for a person who waits: not worth a thread of its own.
            if let Err(error) = try_out(&former.bundle, None, &former.revision()) {
                let message = format!(
                    "revision {revision} cannot be used by this release: {error}; what is published stays in force"
                );
                self.failure = Some(Failure { reason: Reason::RevisionUnusable, message });
                self.set_out();
                return Ok(());
            }
        }
        self.stand(Standings::between(Why::Pinned(revision), newest, Some(&former.bundle)));
        self.steering.trial = None;
        self.steering.view = None;
        if !runs {
            self.report();
        }
        self.ctx.published.want(&self.key, published::wanted(newest));
        self.put_out(subject, former, None).await
    }

    /// Reads caches, and what the objects name.
    async fn gather(&self) -> Resources {
        let mut resources = self.ctx.world.resources(&self.key);
        resources.memory = self.memory.clone();
        let references = references(&self.key, &resources);
        self.ctx.world.resolve(&self.key, &references, &mut resources).await;
        let content = |version: &MaterialVersion| self.ctx.world.bytes(version).map(Arc::from);
        if let Some(wanted) = directory::wanted(&self.key, &resources, content) {
            self.ctx.people.want(&self.key, wanted);
        }
        resources.ldap = Some(self.ctx.people.facts());
        resources.published = Some(self.ctx.published.facts(&self.key));
        resources
    }

    /// The pure part of a pass, off the threads that do IO.
    async fn prepare(&mut self, resources: Resources) -> Prepared {
        let (key, last_good) = (self.key.clone(), self.press.last_good.clone());
        let published = self.press.published.manifest.as_ref();
        let format = format(WRITES, published.map(|manifest| manifest.format), &self.pods(), &self.heard);
        let staged = published.and_then(Manifest::staged).map(|staged| staged.revision.clone());
        let known: Vec<Revision> = published.map(|m| m.revision.clone()).into_iter().chain(staged).collect();
        let mut cutter = self.cutter.take().unwrap_or_default();
        let work = move || {
            let last_good = last_good.as_deref();
            let prepared = prepare(&key, &resources, last_good, &known, format, &mut cutter);
            (prepared, cutter)
        };
        let (prepared, cutter) = if Handle::current().runtime_flavor() == RuntimeFlavor::CurrentThread {
            // The runtime of a simulation: a second thread would make its runs differ.
            work()
        } else {
            let done = tokio::task::spawn_blocking(work).await;
            done.expect("the pure part does not panic and is never aborted")
        };
        self.cutter = Some(cutter);
        prepared
    }

    /// Notes which generations are on their way from here.
    fn set_out(&mut self) {
        let undecided = self.desk.take_undecided();
        let entries = self.ctx.world.entries(&undecided);
        for object in undecided.iter().filter(|object| object.kind != ObjectKind::OutboundGateway) {
            let Some(entry) = entries.get(object).filter(|entry| entry.gateway == self.key) else {
                self.journeys.end(object);
                continue;
            };
            let Some(outcome) = outcome_of(&self.outcomes, object) else { continue };
            let generation = outcome.origin.generation;
            let withheld = self.steering.standings.of(object).is_some_and(|why| *why != Why::Staged);
            if !outcome.is_current() || withheld {
                self.journeys.end(object);
            } else if self.steering.released.remove(object) || !entry.status.is_ready(generation) {
                // What was spoken of before began then, or begins now if it was out of force.
                let rollout = entry.status.rollout.as_ref();
                let started = if entry.status.observed_generation == Some(generation) {
                    rollout.and_then(|rollout| rollout.started_at).unwrap_or_else(now)
                } else {
                    entry.seen
                };
                self.journeys.begin(object, Wish { uid: entry.uid.clone(), generation, started });
            }
        }
    }

    /// Just this is published already.
    async fn arrange(
        &mut self,
        subject: &Subject,
        bundle: &Bundle,
        materials: &[MaterialVersion],
    ) -> Result<(), PassError> {
        self.failure = None;
        self.set_out();
        if let Some(manifest) = &self.press.published.manifest {
            self.journeys.published_but(manifest, &self.steering.standings);
            self.acks.publish(manifest.sequence);
            if let Some(restored) = self.restored.take_if(|last| last.revision == manifest.revision.as_str())
            {
                (self.started, self.arrived) = (restored.started, restored.arrival);
            }
        }
        self.apply(subject, bundle).await;
        self.press.mend(&subject.gateway, materials).await?;
        Ok(())
    }

    async fn publish(
        &mut self,
        subject: &Subject,
        plan: Plan,
        bundle: Option<Bundle>,
        materials: &[MaterialVersion],
    ) -> Result<(), PassError> {
        self.set_out();
        let before = self.press.published.manifest.as_ref().and_then(Manifest::staged);
        // The last step is part of the rollout that began with the first.
        let last_step = before.filter(|staged| staged.revision == plan.manifest.revision);
        let began = plan.manifest.staged().or(last_step).map(|staged| staged.started);
        let changed = began.or_else(|| self.journeys.unpublished_since()).unwrap_or_else(now);
        self.restored = None;
        match self.press.copy_materials(&subject.gateway, materials).await {
            Err(error @ PublishError::TooManySecrets(_)) => {
                self.failure = Some(Failure { reason: Reason::BundleTooLarge, message: error.to_string() });
                return Ok(());
            }
            other => other?,
        }
        let in_force = self.press.last_good.clone();
        let before = in_force.as_ref().map(|good| &good.bundle);
        if let Some(bundle) = bundle.as_ref().or(before) {
            self.apply(subject, bundle).await;
        }
        if let Some(bundle) = &bundle {
            self.steering.history.describe(&plan.manifest.revision, bundle, before);
        }
        let news = bundle.as_ref().map(|bundle| published::range_news(before, bundle)).unwrap_or_default();
        let push = self.press.publish(&subject.gateway, plan, bundle).await?;
        self.announce(subject, &news).await;
        // Before the pods answer: what they ask next is to be answered soon.
        let staged = self.press.published.manifest.as_ref().is_some_and(|m| m.staged().is_some());
        self.acks.compare(staged);
        self.acks.push(&push);
        self.published_at = Some(Instant::now());
        let Some(manifest) = &self.press.published.manifest else { return Ok(()) };
        self.failure = None;
        self.journeys.published_but(manifest, &self.steering.standings);
        (self.started, self.arrived) = (changed, None);
        self.acks.publish(manifest.sequence);
        self.touches.published();
        Ok(())
    }

    /// Who may relay has changed though nobody wrote anything: told to those who audit (spec R36).
    async fn announce(&self, subject: &Subject, news: &[published::RangeNews]) {
        for news in news {
            news.log(&self.key.to_string());
            let told = News { tone: Tone::Good, reason: "ClientRangesChanged", note: news.to_string() };
            self.ctx.statuses.announce(&self.id(), &subject.uid, told).await;
        }
        self.ctx.ledger.client_ranges(&self.id(), news).await;
    }

    /// Applies the objects that run the pods. What goes wrong here (a quota, a node selector that cannot be)
    /// does not stop a publication to pods that run already.
    async fn apply(&mut self, subject: &Subject, bundle: &Bundle) {
        if subject.malformed || self.apply_failures.not_before > Instant::now() {
            return;
        }
        match self.try_apply(subject, bundle).await {
            Ok(()) => {
                self.apply_failures = Failures::default();
                self.trouble.take_if(|trouble| trouble.reason == Reason::PublishFailed);
            }
            // Gone, or somebody wrote in between: nothing to say of it.
            Err(ControlError::Api(error)) if error.is_namespace_going() || error.is_conflict() => {
                self.apply_failures.one_more();
            }
            Err(error) => {
                warn!(gateway = %self.key, %error, "cannot bring its objects about; it is tried again");
                self.apply_failures.one_more();
                let message = error.to_string();
                self.trouble = Some(Failure { reason: Reason::PublishFailed, message });
            }
        }
    }

    async fn try_apply(&mut self, subject: &Subject, bundle: &Bundle) -> Result<(), ControlError> {
        self.control.uphold(&self.ctx, &subject.gateway).await?;
        let mut objects = match &self.steering.trial {
            Some(trial) => build::build_with_trial(&subject.gateway, bundle, trial, &self.ctx.site),
            None => build::build(&subject.gateway, bundle, &self.ctx.site),
        };
        self.life.shape(&mut objects.stateful_set);
        let applied = self.applier.apply(objects, &self.key.namespace, &subject.uid).await;
        if applied.is_ok() {
            self.life.written();
        } else {
            self.life.distrust();
        }
        Ok(applied?)
    }

    /// Puts right what somebody else changed.
    async fn uphold(&mut self, subject: &Subject) {
        let published = self.press.published.manifest.is_some();
        if let Some(last_good) = self.press.last_good.clone().filter(|_| published) {
            self.apply(subject, &last_good.bundle).await;
        }
    }

    /// Where pods are, and pushing those that lag. Returns when to look again.
    async fn follow(&mut self, subject: &Subject) -> Result<Instant, PassError> {
        let mut wake = Instant::now() + ROUND;
        let Some(manifest) = self.press.published.manifest.clone() else { return Ok(wake) };
        let (pods, heard) = (self.pods(), self.heard.clone());
        let now = now();
        // Of what somebody else published, only he knows what is in it.
        let ours = !self.is_behind();
        if ours {
            self.journeys.advance(&pods, &heard, now);
        }
        let progress = rollout::progress(manifest.sequence, &pods, &heard);
        if self.arrived.is_none() && ours && manifest.staged().is_none() && progress.complete() {
            let not_counting = progress.stale.clone();
            let arrival = Arrival { at: now, pods: progress.total, not_counting };
            self.ctx.metrics.propagated(Duration::from_millis(arrival.after(self.started)));
            self.arrived = Some(arrival);
        }
        if !self.press.published.settled && rollout::settled(&manifest, &pods, &heard) {
            self.press.published.settled = true;
            self.press.tidy_copies(&subject.gateway).await?;
        }
        if let Some(at) = self.touches.again(&pods, &heard, &manifest).await {
            wake = wake.min(at);
        }
        if let Some(at) = self.look_at_storage(subject, &pods).await {
            wake = wake.min(at);
        }
        if let Some(at) = self.look_at_stage(subject, &manifest) {
            wake = wake.min(at);
        }
        if !subject.malformed {
            let in_force = self.press.last_good.clone();
            let bundle = in_force.as_ref().map(|good| &good.bundle);
            let (arrived, history) = (self.arrived.is_some(), &mut self.steering.history);
            if let Some(at) = history.look(&subject.gateway, &manifest, bundle, arrived).await {
                wake = wake.min(at);
            }
        }
        Ok(wake)
    }
}

/// What a pass has decided, before anything is written.
struct Prepared {
    translation: Translation,
    segments: Vec<Segment>,
    /// The gateway's own compiler refuses the bundle.
    refused: Option<CompileError>,
    /// What the segments are written in.
    format: u32,
}

/// Translate, cut, and compile as a gateway would (unless just this is published already).
fn prepare(
    key: &ObjectKey,
    resources: &Resources,
    last_good: Option<&LastGood>,
    known: &[Revision],
    format: u32,
    cutter: &mut Cutter,
) -> Prepared {
    let translation = translate(key, resources, last_good);
    let segments = translation.bundle.as_ref().map(|bundle| cutter.cut(bundle)).unwrap_or_default();
    let revision = Revision::of(format, &segments, &translation.materials);
    let new = translation.bundle.as_ref().filter(|_| !known.contains(&revision));
    let good = last_good.map(|good| &good.bundle);
    let refused = new.and_then(|bundle| try_out(bundle, good, &revision).err());
    Prepared { translation, segments, refused, format }
}

fn too_large(full: &Full) -> Failure {
    let kib = |bytes: usize| bytes.div_ceil(1024);
    let message = format!(
        "the bundle takes {} KiB compressed; {} of {} KiB are free beside the published one: use fewer or smaller rules and lists, or a second OutboundGateway; what is published stays in force",
        kib(full.wanted),
        kib(full.free),
        kib(full.total)
    );
    Failure { reason: Reason::BundleTooLarge, message }
}
