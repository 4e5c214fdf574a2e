//! The rest of a cluster: StatefulSets make pods, the garbage collector follows owners, each pod has a kubelet with
//! its own idea of when a mount is refreshed.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, sleep_until};

use super::clock;
use super::pod::{Files, Memory, Pod, Shelf};
use super::server::Sim;
use super::store::{Key, Store, labels_match};

const GATEWAY_LABEL: &str = "postern.dev/gateway";
const REVISION: &str = "postern.dev/revision";
/// What a pod was made from.
const HASH: &str = "controller-revision-hash";
const LOOK: Duration = Duration::from_millis(500);
/// A kubelet looks at a changed pod at most so often, and at every pod so often.
const TOUCHED: Duration = Duration::from_secs(1);
const PERIOD: Duration = Duration::from_secs(70);

#[derive(Default)]
pub struct Fleet {
    pods: Mutex<BTreeMap<String, Arc<Pod>>>,
    volumes: Mutex<HashMap<String, Memory>>,
    addresses: AtomicU32,
    pub shelf: Arc<Shelf>,
}

impl Fleet {
    pub fn pods(&self) -> Vec<Arc<Pod>> {
        self.pods.lock().unwrap().values().cloned().collect()
    }

    pub fn by_address(&self, address: IpAddr) -> Option<Arc<Pod>> {
        self.pods.lock().unwrap().values().find(|pod| pod.address == address).cloned()
    }

    pub fn by_uid(&self, uid: &str) -> Option<Arc<Pod>> {
        self.pods.lock().unwrap().get(uid).cloned()
    }
}

/// Text of an object, by a path of names.
fn text(value: &Value, path: &str) -> String {
    value.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned()
}

pub fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
    conditions.filter(|condition| condition["type"] == "Ready").any(|condition| condition["status"] == "True")
}

/// Everything a mount of this gateway holds, each source as it was a moment ago or as it is.
fn mounted(store: &Store, namespace: &str, gateway: &str, version: impl Fn() -> Option<u64>) -> Files {
    let mut files = Files::new();
    let sources = (0..32).map(|number| ("configmaps", format!("{gateway}-bundle-{number}")));
    let sources = sources.chain((0..8).map(|number| ("secrets", format!("{gateway}-secrets-{number}"))));
    for (resource, name) in sources {
        let key = (resource, namespace.to_owned(), name);
        let Ok(found) = (match version() {
            Some(version) => store.get_at(&key, version),
            None => store.get(&key),
        }) else {
            continue;
        };
        let decode = |text: &Value| STANDARD.decode(text.as_str().unwrap_or_default()).unwrap_or_default();
        let entries = |field: &str| found[field].as_object().cloned().unwrap_or_default();
        for (name, text) in entries("data") {
            let bytes =
                if resource == "secrets" { decode(&text) } else { text.as_str().unwrap_or_default().into() };
            files.insert(name, bytes);
        }
        files.extend(entries("binaryData").iter().map(|(name, text)| (name.clone(), decode(text))));
    }
    files
}

/// What is published now, as a reader of the API server finds it.
pub fn published(store: &Store, namespace: &str, gateway: &str) -> Files {
    mounted(store, namespace, gateway, || None)
}

/// StatefulSets and the garbage collector, for ever.
pub async fn controllers(sim: Arc<Sim>) {
    let mut changed = sim.changed.subscribe();
    loop {
        let _ = changed.changed().await;
        sleep(sim.latency.millis(20, 150)).await;
        changed.mark_unchanged();
        clock::tick();
        collect(&sim);
        let sets = sim.store.lock().unwrap().list("statefulsets", None);
        for set in sets {
            staff(&sim, &set);
        }
    }
}

/// Deletes what has owners and none of them lives.
fn collect(sim: &Arc<Sim>) {
    let dead: Vec<Key> = {
        let store = sim.store.lock().unwrap();
        let uids: BTreeSet<String> =
            store.keys().filter_map(|key| Some(text(&*store.get(key).ok()?, "/metadata/uid"))).collect();
        let orphaned = |key: &&Key| {
            let Ok(value) = store.get(key) else { return false };
            let owners = value["metadata"]["ownerReferences"].as_array().cloned().unwrap_or_default();
            let going = !value["metadata"]["deletionTimestamp"].is_null();
            !going && !owners.is_empty() && !owners.iter().any(|owner| uids.contains(&text(owner, "/uid")))
        };
        store.keys().filter(orphaned).cloned().collect()
    };
    for key in dead {
        let _ = sim.change(|store| store.delete(&key, &Value::Null));
    }
}

fn staff(sim: &Arc<Sim>, set: &Value) {
    let (namespace, name, uid) =
        (text(set, "/metadata/namespace"), text(set, "/metadata/name"), text(set, "/metadata/uid"));
    let replicas = set["spec"]["replicas"].as_u64().unwrap_or(1);
    let template = &set["spec"]["template"];
    let hash = blake3::hash(template.to_string().as_bytes()).to_hex()[..8].to_owned();
    let selector =
        format!("{GATEWAY_LABEL}={}", text(set, "/spec/selector/matchLabels/postern.dev~1gateway"));
    let all = sim.store.lock().unwrap().list("pods", Some(&namespace));
    let mut pods: BTreeMap<u64, Arc<Value>> = BTreeMap::new();
    for pod in all.into_iter().filter(|pod| labels_match(pod, &selector)) {
        let pod_name = text(&pod, "/metadata/name");
        let ordinal = pod_name.strip_prefix(&format!("{name}-")).and_then(|text| text.parse().ok());
        let owners = pod["metadata"]["ownerReferences"].as_array().cloned().unwrap_or_default();
        let Some(ordinal) = ordinal else { continue };
        if owners.is_empty() {
            // Left behind by a StatefulSet that was deleted around it.
            let key = ("pods", namespace.clone(), pod_name);
            let _ = sim.change(|store| store.change(&key, &sim.cluster(), |pod| adopt(pod, &name, &uid)));
        } else if !owners.iter().any(|owner| text(owner, "/uid") == uid) {
            continue;
        }
        pods.insert(ordinal, pod);
    }
    for ordinal in 0..replicas {
        if pods.contains_key(&ordinal) {
            continue;
        }
        let pod_name = format!("{name}-{ordinal}");
        let mut pod = json!({"metadata": template["metadata"].clone(), "spec": template["spec"].clone()});
        pod["metadata"]["labels"][HASH] = json!(hash);
        adopt(&mut pod, &name, &uid);
        let key = ("pods", namespace.clone(), pod_name);
        let Ok(made) = sim.change(|store| store.create(&key, pod, &sim.cluster())) else { continue };
        let kept = set["spec"]["volumeClaimTemplates"].is_array();
        tokio::spawn(kubelet(sim.clone(), key, text(&made, "/metadata/uid"), kept));
    }
    let too_many: Vec<&Arc<Value>> =
        pods.iter().filter(|(ordinal, _)| **ordinal >= replicas).map(|(_, pod)| pod).collect();
    let staying = || pods.iter().filter(|(ordinal, _)| **ordinal < replicas).map(|(_, pod)| pod);
    let old = |pod: &&Arc<Value>| text(pod, "/metadata/labels/controller-revision-hash") != hash;
    let all_ready = staying().count() as u64 == replicas && staying().all(|pod| is_ready(pod));
    let next = staying().rev().find(|pod| old(pod) && (all_ready || !is_ready(pod)));
    for pod in too_many.into_iter().chain(next) {
        if pod["metadata"]["deletionTimestamp"].is_null() {
            let key = ("pods", namespace.clone(), text(pod, "/metadata/name"));
            let _ = sim.change(|store| store.delete(&key, &Value::Null));
        }
    }
}

fn adopt(pod: &mut Value, set: &str, uid: &str) {
    pod["metadata"]["ownerReferences"] = json!([{"apiVersion": "apps/v1", "kind": "StatefulSet", "name": set, "uid": uid, "controller": true}]);
}

/// One pod from its making to its end.
async fn kubelet(sim: Arc<Sim>, key: Key, uid: String, kept: bool) {
    let (_, namespace, name) = key.clone();
    sleep(sim.latency.millis(50, 800)).await;
    let Some(object) = find(&sim, &key, &uid) else { return };
    let gateway = text(&object, "/metadata/labels/postern.dev~1gateway");
    let control = format!("{gateway}-control");
    // The volume with the certificate must be there before anything can start.
    while sim.store.lock().unwrap().find("secrets", &namespace, &control).is_none() {
        sleep(LOOK).await;
        if ending(&sim, &key, &uid) {
            break;
        }
    }
    clock::tick();
    let memory = match kept {
        true => sim.fleet.volumes.lock().unwrap().entry(format!("{namespace}/{name}")).or_default().clone(),
        false => Memory::default(),
    };
    let number = sim.fleet.addresses.fetch_add(1, Ordering::Relaxed);
    let address = IpAddr::V4(Ipv4Addr::new(10, 244, (number / 250) as u8, (number % 250 + 1) as u8));
    let pod = Arc::new(Pod::new(&name, &namespace, &uid, &gateway, address, memory));
    refresh(&sim, &pod);
    pod.start();
    sim.fleet.pods.lock().unwrap().insert(uid.clone(), pod.clone());
    let mut shown = (false, String::new());
    let mut refreshed = Instant::now();
    let mut touched = text(&object, "/metadata/annotations/postern.dev~1revision");
    let mut changed = sim.changed.subscribe();
    let mut unready_since = None;
    loop {
        clock::tick();
        let Some(object) = find(&sim, &key, &uid) else { break };
        if !object["metadata"]["deletionTimestamp"].is_null() {
            pod.end();
            sleep(sim.latency.millis(200, 1500)).await;
            break;
        }
        let annotation = object["metadata"]["annotations"][REVISION].as_str().unwrap_or_default().to_owned();
        let due = (annotation != touched && refreshed.elapsed() >= TOUCHED) || refreshed.elapsed() >= PERIOD;
        if due {
            touched = annotation;
            sleep(sim.latency.millis(30, 150)).await;
            clock::tick();
            refresh(&sim, &pod);
            refreshed = Instant::now();
        }
        pod.look(&sim.fleet.shelf);
        let ready = pod.is_ready();
        // A probe that fails once is forgiven for a while; a process that ended is seen at once.
        let gone = pod.process().is_none();
        let since = *unready_since.get_or_insert_with(Instant::now);
        if ready {
            unready_since = None;
        }
        let ready = ready || (shown.0 && !gone && since.elapsed() < Duration::from_secs(10));
        if shown != (ready, address.to_string()) {
            shown = (ready, address.to_string());
            let _ = sim.change(|store| store.change(&key, &sim.cluster(), |pod| show(pod, address, ready)));
        }
        let next = Instant::now() + if ready { LOOK * 4 } else { LOOK };
        tokio::select! {
            biased;
            _ = changed.changed() => {}
            () = sleep_until(next) => {}
        }
    }
    clock::tick();
    pod.end();
    sim.fleet.pods.lock().unwrap().remove(&uid);
    if find(&sim, &key, &uid).is_some() {
        let _ = sim.change(|store| store.remove(&key).ok_or(()));
    }
}

fn show(pod: &mut Value, address: IpAddr, ready: bool) {
    let ready = if ready { "True" } else { "False" };
    pod["spec"]["nodeName"] = json!("node1");
    pod["status"] = json!({"podIP": address.to_string(), "conditions": [{"type": "Ready", "status": ready}]});
}

fn find(sim: &Sim, key: &Key, uid: &str) -> Option<Arc<Value>> {
    let found = sim.store.lock().unwrap().get(key).ok()?;
    (found["metadata"]["uid"] == uid).then_some(found)
}

fn ending(sim: &Sim, key: &Key, uid: &str) -> bool {
    find(sim, key, uid).is_none_or(|pod| !pod["metadata"]["deletionTimestamp"].is_null())
}

/// A kubelet's caches may be behind, each by its own time.
fn refresh(sim: &Sim, pod: &Pod) {
    let store = sim.store.lock().unwrap();
    let lag = || sim.chaos.lag().map(|seconds| store.version_before(seconds));
    *pod.mount.lock().unwrap() = mounted(&store, &pod.namespace, &pod.gateway, lag);
    pod.news.store(true, Ordering::Relaxed);
}
