//! The API server as a controller meets it: HTTP in, HTTP out, with everything that may go wrong on the way. Also the
//! control lines to pods.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use futures::future::{BoxFuture, pending};
use futures::{FutureExt, stream};
use http_body_util::BodyExt;
use hyper::Method;
use postern::admin;
use postern::controller::acks::{Dial, Stream};
use postern::translate::ObjectKey;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::chaos::{Chaos, EventFate, Fate, Health};
use super::clock;
use super::dice::Dice;
use super::fields::Manager;
use super::fleet::{self, Fleet};
use super::laws::Laws;
use super::store::{self, Answer, Key, Refusal, Store, labels_match, refuse};

const BOOKMARK: Duration = Duration::from_secs(30);
/// The API server ends a watch after the time its client asks for.
const WATCH: Duration = Duration::from_secs(290);

/// Everything there is.
pub struct Sim {
    pub store: Mutex<Store>,
    /// The newest version.
    pub changed: watch::Sender<u64>,
    pub chaos: Chaos,
    pub fleet: Fleet,
    pub laws: Laws,
    pub latency: Dice,
    pub verbose: bool,
    trace: Mutex<blake3::Hasher>,
}

/// A controller's process, as the outside sees it.
pub struct Instance {
    pub name: String,
    /// Killed: nothing it sends is heard any more.
    pub dead: CancellationToken,
    /// False: its network stands still.
    pub open: watch::Sender<bool>,
    /// Pods that were shown to it as ready, and since when.
    pub view: Mutex<HashMap<String, Instant>>,
    /// When one of its writes went wrong last.
    pub trouble: Mutex<Option<Instant>>,
}

impl Instance {
    pub fn new(name: String) -> Arc<Self> {
        Arc::new(Self {
            name,
            dead: CancellationToken::new(),
            open: watch::Sender::new(true),
            view: Mutex::default(),
            trouble: Mutex::default(),
        })
    }

    async fn through(&self) {
        let mut open = self.open.subscribe();
        let _ = open.wait_for(|open| *open).await.map(drop);
        if self.dead.is_cancelled() {
            pending::<()>().await;
        }
    }

    fn stumbles(&self) {
        *self.trouble.lock().unwrap() = Some(Instant::now());
    }
}

/// A request, taken apart.
pub struct Call {
    pub method: Method,
    resource: &'static str,
    namespace: Option<String>,
    name: Option<String>,
    pub status: bool,
    query: HashMap<String, String>,
    kind: String,
    metadata_only: bool,
    pub body: Value,
}

impl Call {
    async fn read(request: Request) -> Option<Self> {
        let (parts, body) = request.into_parts();
        let header = |name: &str| {
            let value = parts.headers.get(name).and_then(|value| value.to_str().ok());
            value.unwrap_or_default().to_owned()
        };
        let query = parts.uri.query().unwrap_or_default();
        let query = query.split('&').filter_map(|pair| pair.split_once('='));
        let query = query.map(|(key, value)| (key.to_owned(), plain(value))).collect();
        let body = body.collect().await.ok()?.to_bytes();
        let body = if body.is_empty() { Value::Null } else { serde_json::from_slice(&body).ok()? };
        let words: Vec<&str> = parts.uri.path().trim_matches('/').split('/').collect();
        let rest = match words.as_slice() {
            ["api", _, rest @ ..] | ["apis", _, _, rest @ ..] => rest,
            _ => return None,
        };
        let (namespace, rest) = match rest {
            ["namespaces", namespace, rest @ ..] if !rest.is_empty() => (Some((*namespace).to_owned()), rest),
            rest => (None, rest),
        };
        let resource = store::resource(rest.first()?)?.0;
        Some(Self {
            method: parts.method.clone(),
            resource,
            namespace,
            name: rest.get(1).map(|name| (*name).to_owned()),
            status: rest.get(2) == Some(&"status"),
            query,
            kind: header("content-type"),
            metadata_only: header("accept").contains("PartialObjectMetadata"),
            body,
        })
    }

    fn key(&self) -> Key {
        let name = self.name.clone().or_else(|| self.body["metadata"]["name"].as_str().map(str::to_owned));
        (self.resource, self.namespace.clone().unwrap_or_default(), name.unwrap_or_default())
    }

    fn is_write(&self) -> bool {
        self.method != Method::GET
    }

    /// Leases and Events go on for ever and change nothing.
    fn counts(&self) -> bool {
        self.is_write() && self.resource != "leases" && self.resource != "events"
    }

    fn shown(&self) -> String {
        let (resource, namespace, name) = self.key();
        let status = if self.status { "/status" } else { "" };
        format!("{} {resource}/{namespace}/{name}{status}", self.method)
    }
}

/// `%2F` and the like.
fn plain(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        let code = || u8::from_str_radix(std::str::from_utf8(after.get(..2)?).ok()?, 16).ok();
        match (first, code()) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            (b'+', _) => {
                bytes.push(b' ');
                rest = after;
            }
            _ => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

impl Sim {
    pub fn new(seed: u64) -> Arc<Self> {
        Arc::new(Self {
            store: Mutex::default(),
            changed: watch::Sender::new(0),
            chaos: Chaos::new(seed),
            fleet: Fleet::default(),
            laws: Laws::default(),
            latency: Dice::new(seed, "latency"),
            verbose: std::env::var_os("POSTERN_TRACE").is_some(),
            trace: Mutex::default(),
        })
    }

    /// Notes what happens: two runs of a seed must note the same.
    pub fn say(&self, what: &str) {
        let line = format!("{:9.3} {what}\n", clock::seconds());
        if self.verbose {
            crate::support::tell(line.trim_end());
        }
        self.trace.lock().unwrap().update(line.as_bytes());
    }

    pub fn trace(&self) -> String {
        self.trace.lock().unwrap().finalize().to_hex()[..16].to_owned()
    }

    /// Those that make up the cluster.
    pub fn cluster(&self) -> Manager {
        Manager { name: "kube-controller-manager".to_owned(), apply: false, status: false }
    }

    /// A change by anybody but a controller of ours.
    pub fn change<T>(&self, how: impl FnOnce(&mut Store) -> T) -> T {
        clock::tick();
        let mut store = self.store.lock().unwrap();
        let result = how(&mut store);
        let version = store.version;
        drop(store);
        self.changed.send_if_modified(|last| std::mem::replace(last, version) != version);
        result
    }

    pub fn client(self: &Arc<Self>, who: &Arc<Instance>) -> kube::Client {
        let (sim, who) = (self.clone(), who.clone());
        let router = Router::new().fallback(move |request: Request| {
            let (sim, who) = (sim.clone(), who.clone());
            async move { sim.serve(who, request).await }
        });
        kube::Client::new(router, "default")
    }

    async fn serve(self: Arc<Self>, who: Arc<Instance>, request: Request) -> Response {
        who.through().await;
        let Some(call) = Call::read(request).await else {
            return failure(&refuse(404, "NotFound", "the simulation knows no such thing"));
        };
        sleep(self.latency.millis(1, 5)).await;
        clock::tick();
        let health = *self.chaos.health.lock().unwrap();
        if health == Health::Down {
            who.stumbles();
            return broken();
        }
        if call.query.contains_key("watch") {
            return self.watch(who, call);
        }
        if health == Health::ReadOnly && call.is_write() {
            who.stumbles();
            return failure(&refuse(500, "InternalError", "etcdserver: leader changed"));
        }
        let fate = if call.is_write() { self.chaos.of_write(call.counts()) } else { self.chaos.of_read() };
        if call.is_write() && fate != Fate::Pass {
            who.stumbles();
        }
        if fate != Fate::Pass || call.counts() {
            let fate = if fate == Fate::Pass { String::new() } else { format!(" {fate:?}") };
            self.say(&format!("{}: {}{fate}", who.name, call.shown()));
        }
        match fate {
            Fate::Pass | Fate::Stale(_) => {}
            Fate::Refused(code) => return failure(&refusal(code)),
            Fate::Lost => return pending().await,
            Fate::Slow(pause) => sleep(pause).await,
            Fate::KillBefore => {
                who.dead.cancel();
                return pending().await;
            }
            Fate::KillAfter => {
                drop(self.execute(&who, &call));
                who.dead.cancel();
                return pending().await;
            }
            Fate::AnswerLost => {
                drop(self.execute(&who, &call));
                return pending().await;
            }
            Fate::Reset => {
                drop(self.execute(&who, &call));
                return broken();
            }
            Fate::Late(pause) => {
                tokio::spawn(async move {
                    sleep(pause).await;
                    who.stumbles();
                    self.say(&format!("{}: arrives late: {}", who.name, call.shown()));
                    drop(self.execute(&who, &call));
                });
                return pending().await;
            }
        }
        who.through().await;
        let stale = if let Fate::Stale(millis) = fate { Some(millis as f64 / 1000.0) } else { None };
        let answer = match call.is_write() {
            true => self.execute(&who, &call),
            false => self.look_up(&who, &call, stale),
        };
        who.through().await;
        match answer {
            Ok(value) if call.metadata_only && call.name.is_some() => json_body(&metadata(&value)),
            Ok(value) => json_body(&value),
            Err(refusal) => failure(&refusal),
        }
    }

    fn look_up(&self, who: &Instance, call: &Call, stale: Option<f64>) -> Answer {
        clock::tick();
        let store = self.store.lock().unwrap();
        if call.name.is_some() {
            return match stale {
                Some(seconds) => store.get_at(&call.key(), store.version_before(seconds)),
                None => store.get(&call.key()),
            };
        }
        let namespace = call.namespace.as_deref();
        let version = stale.map_or(store.version, |seconds| store.version_before(seconds));
        let mut items = match stale {
            Some(_) => store.list_at(call.resource, namespace, version),
            None => store.list(call.resource, namespace),
        };
        drop(store);
        if let Some(selector) = call.query.get("labelSelector") {
            items.retain(|item| labels_match(item, selector));
        }
        if call.resource == "pods" {
            let mut view = who.view.lock().unwrap();
            view.clear();
            for pod in items.iter().filter(|pod| fleet::is_ready(pod)) {
                view.insert(pod["metadata"]["uid"].as_str().unwrap_or_default().to_owned(), Instant::now());
            }
        }
        let items: Vec<Value> = items
            .iter()
            .map(|item| if call.metadata_only { metadata(item) } else { Value::clone(item) })
            .collect();
        let meta = json!({"resourceVersion": version.to_string()});
        Ok(Arc::new(json!({"kind": "List", "apiVersion": "v1", "metadata": meta, "items": items})))
    }

    /// A write of a controller, and what must hold whenever there is one.
    fn execute(&self, who: &Instance, call: &Call) -> Answer {
        clock::tick();
        let key = call.key();
        let manager = Manager {
            name: call.query.get("fieldManager").cloned().unwrap_or_else(|| "postern".to_owned()),
            apply: call.kind.contains("apply-patch"),
            status: call.status,
        };
        let mut store = self.store.lock().unwrap();
        if call.resource == "events" {
            return Ok(Arc::new(call.body.clone()));
        }
        self.laws.before(self, who, &store, &key, call);
        let version = store.version;
        let force = call.query.get("force").is_some_and(|force| force == "true");
        let answer = match (&call.method, manager.apply) {
            (&Method::POST, _) => store.create(&key, call.body.clone(), &manager),
            (&Method::PATCH, true) => store.apply(&key, &call.body, &manager, force),
            (&Method::PATCH, false) => store.patch(&key, &call.body, &manager),
            (&Method::PUT, _) => store.replace(&key, &call.body, &manager),
            (&Method::DELETE, _) => self.delete(&mut store, &key, &call.body),
            _ => Err(refuse(405, "MethodNotAllowed", "no such method")),
        };
        let newest = store.version;
        if let Err(refusal) = &answer {
            self.say(&format!("{}: refused: {} {}", who.name, refusal.code, refusal.message));
        }
        if newest != version && call.counts() {
            self.laws.after(self, who, &store, &key);
        }
        drop(store);
        self.changed.send_if_modified(|last| std::mem::replace(last, newest) != newest);
        answer
    }

    fn delete(&self, store: &mut Store, key: &Key, options: &Value) -> Answer {
        let uid = store.get(key)?["metadata"]["uid"].clone();
        let gone = store.delete(key, &options["preconditions"])?;
        if options["propagationPolicy"] == "Orphan" {
            let owned: Vec<Key> = store
                .keys()
                .filter(|key| {
                    let owners =
                        store.get(key).ok().map(|value| value["metadata"]["ownerReferences"].clone());
                    let owners = owners.as_ref().and_then(Value::as_array).cloned().unwrap_or_default();
                    owners.iter().any(|owner| owner["uid"] == uid)
                })
                .cloned()
                .collect();
            for key in owned {
                let _ = store.change(&key, &self.cluster(), |value| {
                    value["metadata"].as_object_mut().expect("it has metadata").remove("ownerReferences");
                });
            }
        }
        Ok(gone)
    }

    fn watch(self: Arc<Self>, who: Arc<Instance>, call: Call) -> Response {
        let from: u64 = call.query.get("resourceVersion").and_then(|text| text.parse().ok()).unwrap_or(0);
        if self.chaos.is_gone() {
            return failure(&refuse(410, "Expired", "too old resource version"));
        }
        let seen = Watching {
            changed: self.changed.subscribe(),
            sim: self,
            who,
            call,
            at: from,
            next: 0,
            ends: Instant::now() + WATCH,
            bookmark: Instant::now() + BOOKMARK,
            gone: None,
            last: false,
        };
        let lines =
            stream::unfold(seen, |mut seen| async move { seen.line().await.map(|line| (line, seen)) });
        Response::new(Body::from_stream(lines))
    }
}

/// One watch.
struct Watching {
    sim: Arc<Sim>,
    who: Arc<Instance>,
    call: Call,
    changed: watch::Receiver<u64>,
    /// Events up to this version were sent.
    at: u64,
    /// Where to go on in the log.
    next: usize,
    ends: Instant,
    bookmark: Instant,
    /// When an event was dropped: the moment it comes out.
    gone: Option<Instant>,
    last: bool,
}

impl Watching {
    /// The next line, or `None` at the end.
    async fn line(&mut self) -> Option<Result<String, io::Error>> {
        loop {
            self.who.through().await;
            clock::tick();
            if self.last || *self.sim.chaos.health.lock().unwrap() == Health::Down {
                return None;
            }
            // What is broken ends with the faults at the latest.
            if self.gone.is_some_and(|gone| gone <= Instant::now() || !self.sim.chaos.is_on()) {
                self.last = true;
                let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                    "message": "too old resource version", "reason": "Expired", "code": 410});
                return Some(Ok(line("ERROR", &status)));
            }
            if let Some((kind, value)) = self.event() {
                match self.sim.chaos.of_event() {
                    EventFate::Pass => {}
                    EventFate::Delayed(pause) => {
                        sleep(pause).await;
                        self.who.through().await;
                    }
                    EventFate::Twice => {
                        self.see(kind, &value);
                        return Some(Ok(self.shown(kind, &value) + &self.shown(kind, &value)));
                    }
                    EventFate::Dropped => {
                        self.gone.get_or_insert(Instant::now() + self.sim.chaos.patience());
                        continue;
                    }
                    EventFate::Cut => return None,
                }
                self.see(kind, &value);
                return Some(Ok(self.shown(kind, &value)));
            }
            if Instant::now() >= self.ends {
                return None;
            }
            if Instant::now() >= self.bookmark {
                self.bookmark = Instant::now() + BOOKMARK;
                let (_, api_version, kind, _) = store::resource(self.call.resource)?;
                let meta = json!({"resourceVersion": self.at.to_string()});
                let value = json!({"apiVersion": api_version, "kind": kind, "metadata": meta});
                // A dropped event must not be jumped over.
                if self.gone.is_none() {
                    return Some(Ok(line("BOOKMARK", &value)));
                }
            }
            let wake = self.ends.min(self.bookmark).min(self.gone.unwrap_or(self.ends));
            tokio::select! {
                biased;
                _ = self.changed.changed() => {}
                () = sleep_until(wake) => {}
                () = sleep(Duration::from_secs(1)), if self.gone.is_some() => {}
                () = self.who.dead.cancelled() => return None,
            }
        }
    }

    /// The next event of the log that belongs here.
    fn event(&mut self) -> Option<(&'static str, Arc<Value>)> {
        let store = self.sim.store.lock().unwrap();
        while let Some(event) = store.log.get(self.next) {
            self.next += 1;
            let (resource, namespace, _) = &event.key;
            let ours = *resource == self.call.resource
                && self.call.namespace.as_ref().is_none_or(|own| own == namespace);
            if event.version <= self.at || !ours {
                continue;
            }
            self.at = event.version;
            let selector = self.call.query.get("labelSelector");
            let matches = |value: &Arc<Value>| selector.is_none_or(|selector| labels_match(value, selector));
            let before = event.old.as_ref().is_some_and(matches);
            let found = match (&event.new, before) {
                (Some(new), false) if matches(new) => ("ADDED", new.clone()),
                (Some(new), true) if matches(new) => ("MODIFIED", new.clone()),
                (Some(new), true) => {
                    // It no longer matches: shown as it was, with the version of now.
                    let mut last = Value::clone(event.old.as_ref()?);
                    last["metadata"]["resourceVersion"] = new["metadata"]["resourceVersion"].clone();
                    ("DELETED", Arc::new(last))
                }
                (None, true) => ("DELETED", event.gone.clone()?),
                _ => continue,
            };
            return Some(found);
        }
        None
    }

    fn see(&self, kind: &str, value: &Value) {
        if self.call.resource != "pods" {
            return;
        }
        let uid = value["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
        let mut view = self.who.view.lock().unwrap();
        if kind != "DELETED" && fleet::is_ready(value) {
            view.entry(uid).or_insert_with(Instant::now);
        } else {
            view.remove(&uid);
        }
    }

    fn shown(&self, kind: &str, value: &Value) -> String {
        if self.call.metadata_only { line(kind, &metadata(value)) } else { line(kind, value) }
    }
}

fn line(kind: &str, value: &Value) -> String {
    format!("{}\n", json!({"type": kind, "object": value}))
}

fn metadata(value: &Value) -> Value {
    json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": value["metadata"]})
}

fn json_body(value: &Value) -> Response {
    Response::new(Body::from(value.to_string()))
}

/// The connection breaks instead of an answer.
fn broken() -> Response {
    let error = stream::once(async { Err::<String, _>(io::Error::from(io::ErrorKind::ConnectionReset)) });
    Response::new(Body::from_stream(error))
}

fn refusal(code: u16) -> Refusal {
    match code {
        409 => refuse(
            409,
            "Conflict",
            "the object has been modified; please apply your changes to the latest version",
        ),
        429 => refuse(429, "TooManyRequests", "too many requests, please try again later"),
        503 => refuse(503, "ServiceUnavailable", "the server is currently unable to handle the request"),
        _ => refuse(500, "InternalError", "an error on the server has prevented the request from succeeding"),
    }
}

fn failure(refusal: &Refusal) -> Response {
    let Refusal { code, reason, message } = refusal;
    let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": message, "reason": reason, "code": code});
    let mut response = json_body(&status);
    *response.status_mut() = hyper::StatusCode::from_u16(*code).expect("a status");
    if *code == 429 {
        response.headers_mut().insert("retry-after", hyper::header::HeaderValue::from_static("1"));
    }
    response
}

/// The control lines of one controller.
pub struct Lines {
    pub sim: Arc<Sim>,
    pub who: Arc<Instance>,
}

impl Dial for Lines {
    fn dial<'a>(
        &'a self,
        gateway: &'a ObjectKey,
        address: IpAddr,
    ) -> BoxFuture<'a, io::Result<Box<dyn Stream>>> {
        async move {
            self.who.through().await;
            sleep(self.sim.latency.millis(1, 3)).await;
            let refused = || io::Error::from(io::ErrorKind::ConnectionRefused);
            let pod = self.sim.fleet.by_address(address).ok_or_else(refused)?;
            // The certificate has the gateway's name.
            if (&pod.namespace, &pod.gateway) != (&gateway.namespace, &gateway.name) {
                return Err(io::ErrorKind::InvalidData.into());
            }
            let mut open = pod.open.subscribe();
            let _ = open.wait_for(|open| *open).await.map(drop);
            let process = pod.process().ok_or_else(refused)?;
            let (ours, near) = tokio::io::duplex(1 << 16);
            let (far, theirs) = tokio::io::duplex(1 << 16);
            let routes = pod.routes(process.clone(), self.sim.fleet.shelf.clone());
            let (stop, end) = (process.stop.clone(), process.stop.clone());
            let gates = || vec![pod.open.subscribe(), self.who.open.subscribe()];
            let (near_read, near_write) = tokio::io::split(near);
            let (far_read, far_write) = tokio::io::split(far);
            let (up, down) = (pump(near_read, far_write, gates()), pump(far_read, near_write, gates()));
            let dead = self.who.dead.clone();
            tokio::spawn(async move {
                tokio::select! {
                    biased;
                    () = end.cancelled() => {}
                    () = dead.cancelled() => {}
                    // The process ends its connections in no orderly way.
                    _ = stop.run_until_cancelled(admin::connection(theirs, routes, CancellationToken::new())) => {}
                    ((), ()) = async { tokio::join!(up, down) } => {}
                }
            });
            Ok(Box::new(ours) as Box<dyn Stream>)
        }
        .boxed()
    }
}

/// Carries bytes as long as every gate is open.
async fn pump<S: tokio::io::AsyncRead + tokio::io::AsyncWrite>(
    mut from: ReadHalf<S>,
    mut to: WriteHalf<S>,
    mut gates: Vec<watch::Receiver<bool>>,
) {
    let mut buffer = vec![0; 1 << 14];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        for gate in &mut gates {
            let _ = gate.wait_for(|open| *open).await.map(drop);
        }
        if to.write_all(&buffer[..count]).await.is_err() {
            break;
        }
    }
    let _ = to.shutdown().await;
}

impl Sim {
    pub fn injected(&self) -> usize {
        self.chaos.injected.load(Ordering::Relaxed)
    }
}
