//! A gateway pod as far as the control plane can see it: it reads its mount and what is handed over, takes a bundle
//! whole or not at all, never goes back, answers `/ack`. The rules are those of `gateway::{live, mount}`; the bundle
//! is read by the real code.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use jiff::Timestamp;
use postern::bundle::ack::{Leaving, Running as RunningFacts};
use postern::bundle::document::FORMAT;
use postern::bundle::manifest::{MANIFEST, Manifest, SegmentRef};
use postern::bundle::segment::{self, LoadError};
use postern::bundle::{Ack, Bundle, Nack, NackReason, Push, Revision, Sequence};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::clock;

const LONGEST_POLL: Duration = Duration::from_secs(25);
const LONELY: Duration = Duration::from_secs(10);
const INCOMPLETE: Duration = Duration::from_secs(3);

pub type Files = BTreeMap<String, Vec<u8>>;
/// The highest sequence that ever ran on a volume, with the uid of the gateway.
pub type Memory = Arc<Mutex<Option<(String, u64)>>>;

pub struct Pod {
    pub name: String,
    pub namespace: String,
    pub uid: String,
    pub gateway: String,
    pub address: IpAddr,
    /// False: nothing comes through its network, or the process does not run on.
    pub open: watch::Sender<bool>,
    pub paused: AtomicBool,
    pub process: Mutex<Option<Arc<Process>>>,
    pub mount: Mutex<Files>,
    pub memory: Memory,
    /// Refuses what is new until then: a port is taken, say.
    pub refuses: Mutex<Option<Instant>>,
    starts: AtomicU32,
    /// Something may have come since the last look.
    pub news: AtomicBool,
}

#[derive(Clone)]
pub struct Running {
    pub sequence: u64,
    pub bundle: Arc<Bundle>,
    facts: RunningFacts,
    /// It has no mail, so it is empty as soon as it is to leave.
    leaving: bool,
}

impl Running {
    pub fn revision(&self) -> &Revision {
        &self.facts.revision
    }
}

pub struct Process {
    instance: String,
    pod: String,
    running: Mutex<Option<Running>>,
    refused: Mutex<Option<Nack>>,
    /// Counts what a poll waits for.
    seen: watch::Sender<(u64, u64)>,
    /// The highest sequence that ran on its volume.
    highest: AtomicU64,
    published: AtomicU64,
    was_ready: AtomicBool,
    started: Instant,
    pushed: Mutex<Option<(Manifest, Vec<u8>, Files)>>,
    incomplete: Mutex<Option<(u64, Instant)>>,
    pub stop: CancellationToken,
}

/// Bundles that were read before, by all that was read: reading the same again says the same.
#[derive(Default)]
pub struct Shelf(Mutex<HashMap<blake3::Hash, Arc<Bundle>>>);

impl Shelf {
    pub fn assemble(
        &self,
        manifest: &Manifest,
        read: &impl Fn(&str) -> std::io::Result<Option<Vec<u8>>>,
    ) -> Result<Arc<Bundle>, LoadError> {
        let mut hasher = blake3::Hasher::new();
        for segment in &manifest.segments {
            hasher.update(segment.name.as_bytes());
            for key in segment.keys() {
                match read(&key) {
                    Ok(Some(bytes)) => drop(hasher.update(&bytes)),
                    _ => return Err(LoadError::Incomplete(key)),
                }
            }
        }
        let hash = hasher.finalize();
        let known = self.0.lock().unwrap().get(&hash).cloned();
        if let Some(bundle) = known {
            return Ok(bundle);
        }
        let bundle = Arc::new(segment::assemble(manifest, read)?);
        self.0.lock().unwrap().insert(hash, bundle.clone());
        Ok(bundle)
    }
}

enum Trouble {
    Nothing,
    Missing(Box<Manifest>, String, bool),
    Damaged(Box<Manifest>, String),
}

impl Pod {
    pub fn new(
        name: &str,
        namespace: &str,
        uid: &str,
        gateway: &str,
        address: IpAddr,
        memory: Memory,
    ) -> Self {
        Self {
            name: name.to_owned(),
            namespace: namespace.to_owned(),
            uid: uid.to_owned(),
            gateway: gateway.to_owned(),
            address,
            open: watch::Sender::new(true),
            paused: AtomicBool::new(false),
            process: Mutex::default(),
            mount: Mutex::default(),
            memory,
            refuses: Mutex::default(),
            starts: AtomicU32::new(0),
            news: AtomicBool::new(true),
        }
    }

    pub fn start(&self) {
        self.news.store(true, Ordering::Relaxed);
        let start = self.starts.fetch_add(1, Ordering::Relaxed);
        *self.process.lock().unwrap() = Some(Arc::new(Process {
            instance: format!("{}-{start}", self.uid),
            pod: self.name.clone(),
            running: Mutex::default(),
            refused: Mutex::default(),
            seen: watch::Sender::new((0, 0)),
            highest: AtomicU64::default(),
            published: AtomicU64::new(0),
            was_ready: AtomicBool::new(false),
            started: Instant::now(),
            pushed: Mutex::default(),
            incomplete: Mutex::default(),
            stop: CancellationToken::new(),
        }));
    }

    pub fn end(&self) {
        if let Some(process) = self.process.lock().unwrap().take() {
            process.stop.cancel();
        }
    }

    pub fn process(&self) -> Option<Arc<Process>> {
        self.process.lock().unwrap().clone()
    }

    pub fn running(&self) -> Option<Running> {
        self.process()?.running.lock().unwrap().clone()
    }

    pub fn is_ready(&self) -> bool {
        !self.paused.load(Ordering::Relaxed) && self.process().is_some_and(|process| process.is_ready())
    }

    /// Looks at mount and hand-over, and takes what is new.
    pub fn look(&self, shelf: &Shelf) {
        let Some(process) = self.process() else { return };
        if self.paused.load(Ordering::Relaxed) {
            return;
        }
        let waits = process.incomplete.lock().unwrap().is_some() || process.refused.lock().unwrap().is_some();
        if !self.news.swap(false, Ordering::Relaxed) && !waits {
            return;
        }
        let refuses = self.refuses.lock().unwrap().is_some_and(|until| until > Instant::now());
        match process.read(&self.mount.lock().unwrap(), shelf) {
            Ok(Some((manifest, bundle))) => {
                *process.incomplete.lock().unwrap() = None;
                process.offer(&manifest, bundle, &self.memory, refuses);
            }
            Ok(None) => *process.incomplete.lock().unwrap() = None,
            Err(Trouble::Nothing) => {}
            Err(Trouble::Missing(manifest, what, secret)) => {
                let since = {
                    let mut incomplete = process.incomplete.lock().unwrap();
                    match *incomplete {
                        Some((sequence, since)) if sequence == manifest.sequence.0 => since,
                        _ => incomplete.insert((manifest.sequence.0, Instant::now())).1,
                    }
                };
                if since.elapsed() >= INCOMPLETE {
                    let reason = if secret { NackReason::SecretMissing } else { NackReason::CompileFailed };
                    process.refuse(&manifest, reason, what);
                }
            }
            Err(Trouble::Damaged(manifest, what)) => {
                process.refuse(&manifest, NackReason::CompileFailed, what);
            }
        }
    }

    pub fn routes(self: &Arc<Self>, process: Arc<Process>, shelf: Arc<Shelf>) -> Router {
        Router::new().route("/ack", get(ack)).route("/bundle", post(push)).with_state((
            self.clone(),
            process,
            shelf,
        ))
    }
}

type Served = (Arc<Pod>, Arc<Process>, Arc<Shelf>);

async fn ack(
    State((pod, process, _)): State<Served>,
    Query(known): Query<HashMap<String, String>>,
) -> Result<Json<Ack>, StatusCode> {
    clock::tick();
    // Nobody answers for a process that is gone, whoever was let in while it ended.
    let lives = || pod.process().is_some_and(|now| Arc::ptr_eq(&now, &process));
    if !lives() {
        return Err(StatusCode::SERVICE_UNAVAILABLE);
    }
    let number = |name: &str| known.get(name).and_then(|text| text.parse::<u64>().ok());
    if let Some(published) = number("published") {
        process.published.fetch_max(published, Ordering::Relaxed);
    }
    if let Some(after) = number("after") {
        let refused = number("refused").unwrap_or(0);
        let mut seen = process.seen.subscribe();
        let news = seen.wait_for(|(running, nack)| *running > after || *nack > refused);
        let _ = timeout(LONGEST_POLL, news).await.map(drop);
    }
    if lives() { Ok(Json(process.ack())) } else { Err(StatusCode::SERVICE_UNAVAILABLE) }
}

async fn push(State((pod, process, shelf)): State<Served>, body: Bytes) -> StatusCode {
    clock::tick();
    let Some(push) = Push::decode(&body) else { return StatusCode::BAD_REQUEST };
    if process.push(push) {
        pod.news.store(true, Ordering::Relaxed);
        pod.look(&shelf);
        StatusCode::NO_CONTENT
    } else {
        StatusCode::BAD_REQUEST
    }
}

impl Process {
    fn is_ready(&self) -> bool {
        let Some(running) = self.running.lock().unwrap().clone() else { return false };
        let confirmed = match self.published.load(Ordering::Relaxed) {
            0 => self.started.elapsed() >= LONELY,
            published => running.sequence >= published,
        };
        if confirmed {
            self.was_ready.store(true, Ordering::Relaxed);
        }
        !running.leaving && self.was_ready.load(Ordering::Relaxed)
    }

    fn ack(&self) -> Ack {
        let running = self.running.lock().unwrap().clone();
        let leaves = running.as_ref().is_some_and(|running| running.leaving);
        let highest = Sequence(self.highest.load(Ordering::Relaxed));
        Ack {
            pod: self.pod.clone(),
            instance: self.instance.clone(),
            running: running.map(|running| running.facts),
            formats: vec![FORMAT],
            refused: self.refused.lock().unwrap().clone(),
            tested: 0,
            queued: 0,
            leaving: leaves.then(|| Leaving { empty: true, ..Leaving::default() }),
            highest,
            counts: Default::default(),
        }
    }

    fn push(&self, push: Push) -> bool {
        let Push { manifest: bytes, mut pieces } = push;
        let Ok(manifest) = segment::read_manifest(&|_: &str| Ok(Some(bytes.clone()))) else { return false };
        let mut pushed = self.pushed.lock().unwrap();
        if let Some((before, _, kept)) = &*pushed {
            if before.sequence > manifest.sequence {
                return true;
            }
            for key in manifest.segments.iter().flat_map(SegmentRef::keys) {
                if let Some(piece) = kept.get(&key) {
                    pieces.entry(key).or_insert_with(|| piece.clone());
                }
            }
        }
        *pushed = Some((manifest, bytes, pieces));
        true
    }

    fn read(&self, mount: &Files, shelf: &Shelf) -> Result<Option<(Manifest, Arc<Bundle>)>, Trouble> {
        let mounted = segment::read_manifest(&|name: &str| Ok(mount.get(name).cloned())).ok();
        let mut pushed = self.pushed.lock().unwrap();
        let overtaken = |(ahead, _, _): &mut (Manifest, Vec<u8>, Files)| {
            mounted.as_ref().is_some_and(|mounted| mounted.sequence >= ahead.sequence)
        };
        pushed.take_if(overtaken);
        let file = |name: &str| {
            let ahead = pushed.as_ref().and_then(|(_, manifest, pieces)| match name {
                MANIFEST => Some(manifest),
                _ => pieces.get(name),
            });
            Ok(ahead.or_else(|| mount.get(name)).cloned())
        };
        let Ok(manifest) = segment::read_manifest(&file) else { return Err(Trouble::Nothing) };
        if self.running.lock().unwrap().as_ref().is_some_and(|now| now.sequence == manifest.sequence.0) {
            return Ok(None);
        }
        for version in &manifest.materials {
            if !mount.contains_key(&version.file_name()) {
                return Err(Trouble::Missing(Box::new(manifest.clone()), version.file_name(), true));
            }
        }
        match shelf.assemble(&manifest, &file) {
            Ok(bundle) => Ok(Some((manifest, bundle))),
            Err(LoadError::Incomplete(what)) => Err(Trouble::Missing(Box::new(manifest), what, false)),
            Err(error) => Err(Trouble::Damaged(Box::new(manifest), error.to_string())),
        }
    }

    fn offer(&self, manifest: &Manifest, bundle: Arc<Bundle>, memory: &Memory, refuses: bool) {
        let uid = bundle.gateway.origin.uid.clone();
        let now = self.running.lock().unwrap().clone();
        let running = now.filter(|now| now.bundle.gateway.origin.uid == uid).map_or(0, |now| now.sequence);
        let kept =
            memory.lock().unwrap().clone().filter(|(of, _)| *of == uid).map_or(0, |(_, sequence)| sequence);
        let sequence = manifest.sequence.0;
        self.highest.fetch_max(running.max(kept), Ordering::Relaxed);
        if sequence < running.max(kept) {
            return;
        }
        if refuses {
            return self.refuse(manifest, NackReason::ListenerFailed, "port 10025 is taken".to_owned());
        }
        *memory.lock().unwrap() = Some((uid, sequence));
        self.highest.fetch_max(sequence, Ordering::Relaxed);
        let loaded_at = Timestamp::now();
        let facts =
            RunningFacts { sequence: manifest.sequence, revision: manifest.revision.clone(), loaded_at };
        let leaving = manifest.leaving.contains(&self.pod);
        *self.running.lock().unwrap() = Some(Running { sequence, bundle, facts, leaving });
        *self.refused.lock().unwrap() = None;
        self.seen.send_replace((sequence, 0));
    }

    fn refuse(&self, manifest: &Manifest, reason: NackReason, message: String) {
        let (sequence, revision) = (manifest.sequence, manifest.revision.clone());
        let nack = Nack { sequence, revision, reason, message, object: None };
        let mut refused = self.refused.lock().unwrap();
        if refused.as_ref() != Some(&nack) {
            *refused = Some(nack);
            self.seen.send_modify(|(_, nack)| *nack = sequence.0);
        }
    }
}
