//! Pods that are not there: what the StatefulSet controller and the kubelet would do, and on an address of the
//! loopback what a gateway pod does on its control port. A pod acknowledges what it is handed, and what a touch
//! tells it of as a kubelet would have brought it a little later. It compiles nothing: this is about the operator.

use std::collections::HashMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Query, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use futures::StreamExt;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Client, ResourceExt};
use postern::admin;
use postern::bundle::ack::{Leaving, Running};
use postern::bundle::{Ack, Manifest, Push, Revision, Sequence};
use postern::gateway::control;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

const GATEWAY_LABEL: &str = "postern.dev/gateway";
const REVISION_ANNOTATION: &str = "postern.dev/revision";
const CONTROL_PORT: u16 = 8026;
/// What a touched pod takes to see its mount (measured on a real kubelet: 65-171 ms).
const MOUNT: Duration = Duration::from_millis(120);

/// All pods there are.
pub struct Fleet {
    client: Client,
}

/// One of them.
struct Fake {
    name: String,
    running: watch::Sender<Option<Running>>,
    /// It is to go. It has no mail, so nothing keeps it.
    leaves: AtomicBool,
    stop: CancellationToken,
}

type Fakes = Arc<Mutex<HashMap<(String, String), Arc<Fake>>>>;

impl Fleet {
    pub async fn start(client: Client) -> anyhow::Result<Self> {
        let fakes = Fakes::default();
        tokio::spawn(replicate(client.clone(), fakes.clone()));
        tokio::spawn(notice_touches(client.clone(), fakes));
        Ok(Self { client })
    }

    /// Waits until a gateway has so many pods, all of them ready.
    pub async fn wait(&self, namespace: &str, gateway: &str, pods: usize) -> anyhow::Result<()> {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        let params = ListParams::default().labels(&format!("{GATEWAY_LABEL}={gateway}"));
        let until = Instant::now() + Duration::from_secs(120);
        loop {
            let list = api.list(&params).await?;
            let ready =
                list.iter().filter(|pod| pod.status.as_ref().is_some_and(|s| s.pod_ip.is_some())).count();
            if ready == pods && list.items.len() == pods {
                return Ok(());
            }
            if Instant::now() > until {
                bail!("{namespace}/{gateway}: {ready} of {pods} pods");
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

/// Makes and removes pods as StatefulSets say.
async fn replicate(client: Client, fakes: Fakes) {
    let numbers = Arc::new(AtomicU32::new(0));
    let sets: Api<StatefulSet> = Api::all(client.clone());
    let config = watcher::Config::default().labels(GATEWAY_LABEL);
    let mut seen = watcher(sets, config).default_backoff().applied_objects().boxed();
    while let Some(set) = seen.next().await {
        let Ok(set) = set else { continue };
        let (client, fakes, numbers) = (client.clone(), fakes.clone(), numbers.clone());
        if let Err(error) = follow(&client, &fakes, &numbers, &set).await {
            println!("<!-- {}: {error:#} -->", set.name_any());
        }
    }
}

async fn follow(
    client: &Client,
    fakes: &Fakes,
    numbers: &AtomicU32,
    set: &StatefulSet,
) -> anyhow::Result<()> {
    let namespace = set.namespace().unwrap_or_default();
    let gateway = set.labels().get(GATEWAY_LABEL).cloned().unwrap_or_default();
    let wanted = set.spec.replicas.unwrap_or(1);
    let wanted: Vec<String> = (0..wanted).map(|number| format!("{}-{number}", set.name_any())).collect();
    let api: Api<Pod> = Api::namespaced(client.clone(), &namespace);
    let mine =
        |(place, name): &(String, String)| *place == namespace && name.starts_with(&format!("{gateway}-"));
    let there: Vec<String> = fakes
        .lock()
        .expect("nobody panics")
        .keys()
        .filter(|key| mine(key))
        .map(|(_, name)| name.clone())
        .collect();
    for name in there.iter().filter(|name| !wanted.contains(name)) {
        if let Some(fake) = fakes.lock().expect("nobody panics").remove(&(namespace.clone(), name.clone())) {
            fake.stop.cancel();
        }
        api.delete(name, &DeleteParams::default().grace_period(0)).await?;
    }
    let labels = set.spec.template.metadata.clone().and_then(|meta| meta.labels);
    for name in wanted.into_iter().filter(|name| !there.contains(name)) {
        let number = numbers.fetch_add(1, Ordering::Relaxed);
        let byte = |number: u32| u8::try_from(number % 250).unwrap_or_default() + 1;
        let address = Ipv4Addr::new(127, byte(number / 62_500), byte(number / 250), byte(number));
        let fake = serve(client, &namespace, &gateway, &name, address.into()).await?;
        let pod = json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "namespace": namespace, "labels": labels},
            "spec": {"nodeName": "played", "containers": [{"name": "gateway", "image": "postern:scale"}]},
        });
        api.create(&PostParams::default(), &serde_json::from_value(pod)?).await.context("a pod")?;
        let now = Timestamp::now().to_string();
        let status = json!({"status": {
            "phase": "Running",
            "podIP": address.to_string(),
            "podIPs": [{"ip": address.to_string()}],
            "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": now}],
        }});
        api.patch_status(&name, &PatchParams::default(), &Patch::Merge(&status))
            .await
            .context("its status")?;
        fakes.lock().expect("nobody panics").insert((namespace.clone(), name), fake);
    }
    Ok(())
}

/// The control port of a pod.
async fn serve(
    client: &Client,
    namespace: &str,
    gateway: &str,
    name: &str,
    address: IpAddr,
) -> anyhow::Result<Arc<Fake>> {
    let folder = certificates(client, namespace, gateway).await?;
    let listener = TcpListener::bind((address, CONTROL_PORT)).await.context("its control port")?;
    let stop = CancellationToken::new();
    let fake = Arc::new(Fake {
        name: name.to_owned(),
        running: watch::Sender::new(None),
        leaves: AtomicBool::new(false),
        stop: stop.clone(),
    });
    let router = Router::new()
        .route("/ack", get(ack))
        .route("/bundle", post(push))
        .layer(DefaultBodyLimit::max(64 << 20))
        .with_state(fake.clone());
    let door = control::door(folder, router, Router::new()).map_err(anyhow::Error::msg)?;
    tokio::spawn(admin::serve_behind(listener, door, stop));
    Ok(fake)
}

/// Puts the gateway's control Secret where a mount would.
async fn certificates(client: &Client, namespace: &str, gateway: &str) -> anyhow::Result<PathBuf> {
    let folder = std::env::temp_dir()
        .join(format!("postern-scale-{}", std::process::id()))
        .join(format!("{namespace}-{gateway}"));
    if folder.join("ca.crt").exists() {
        return Ok(folder);
    }
    let api: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let name = postern::controller::build::control_secret_name(gateway);
    let until = Instant::now() + Duration::from_secs(30);
    let secret = loop {
        match api.get_opt(&name).await? {
            Some(secret) => break secret,
            None if Instant::now() > until => bail!("no Secret {name}"),
            None => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    };
    fs::create_dir_all(&folder)?;
    // ca.crt last: it says that all are there.
    let data = secret.data.unwrap_or_default();
    for file in ["tls.crt", "tls.key", "ca.crt"] {
        let bytes = data.get(file).with_context(|| format!("{file} of Secret {name}"))?;
        fs::write(folder.join(file), &bytes.0)?;
    }
    Ok(folder)
}

#[derive(serde::Deserialize)]
struct Known {
    after: Option<u64>,
}

async fn ack(State(fake): State<Arc<Fake>>, Query(known): Query<Known>) -> Json<Ack> {
    if let Some(after) = known.after {
        let mut running = fake.running.subscribe();
        let news = running.wait_for(|now| now.as_ref().is_some_and(|now| now.sequence.0 > after));
        let _ = tokio::time::timeout(Duration::from_secs(25), news).await;
    }
    let leaves = fake.leaves.load(Ordering::Relaxed);
    Json(Ack {
        pod: fake.name.clone(),
        instance: "played".to_owned(),
        running: fake.running.borrow().clone(),
        formats: vec![postern::bundle::document::FORMAT],
        refused: None,
        tested: 0,
        queued: 0,
        leaving: leaves.then(|| Leaving { empty: true, ..Leaving::default() }),
        highest: fake.running.borrow().as_ref().map(|running| running.sequence).unwrap_or_default(),
        counts: Default::default(),
    })
}

async fn push(State(fake): State<Arc<Fake>>, body: Bytes) -> StatusCode {
    let Some(Push { manifest, .. }) = Push::decode(&body) else { return StatusCode::BAD_REQUEST };
    let Ok(manifest) = serde_json::from_slice::<Manifest>(&manifest) else { return StatusCode::BAD_REQUEST };
    fake.leaves.store(manifest.leaving.contains(&fake.name), Ordering::Relaxed);
    fake.runs(manifest.sequence, &manifest.revision);
    StatusCode::NO_CONTENT
}

impl Fake {
    fn runs(&self, sequence: Sequence, revision: &Revision) {
        self.running.send_if_modified(|now| {
            let newer = now.as_ref().is_none_or(|now| now.sequence < sequence);
            if newer {
                let (revision, loaded_at) = (revision.clone(), Timestamp::now());
                *now = Some(Running { sequence, revision, loaded_at });
            }
            newer
        });
    }
}

/// What a kubelet does for a pod whose annotation changed.
async fn notice_touches(client: Client, fakes: Fakes) {
    let pods: Api<Pod> = Api::all(client);
    let config = watcher::Config::default().labels(GATEWAY_LABEL);
    let mut seen = watcher(pods, config).default_backoff().applied_objects().boxed();
    while let Some(pod) = seen.next().await {
        let Ok(pod) = pod else { continue };
        let Some(told) = pod.annotations().get(REVISION_ANNOTATION) else { continue };
        let mut parts = told.split('.');
        let (Some(revision), Some(sequence)) =
            (parts.next(), parts.next().and_then(|text| text.parse().ok()))
        else {
            continue;
        };
        let Ok(revision) = serde_json::from_value::<Revision>(json!(revision)) else { continue };
        let key = (pod.namespace().unwrap_or_default(), pod.name_any());
        let Some(fake) = fakes.lock().expect("nobody panics").get(&key).cloned() else { continue };
        tokio::spawn(async move {
            tokio::time::sleep(MOUNT).await;
            fake.runs(Sequence(sequence), &revision);
        });
    }
}
