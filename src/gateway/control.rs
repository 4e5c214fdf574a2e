//! What the controller asks a pod: `/ack`, as a long poll. Served on the control port behind mutual TLS; in
//! standalone mode on the admin address.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Query, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use jiff::Timestamp;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use serde::Deserialize;

use crate::admin;
use crate::bundle::{Ack, Push, Sequence};
use crate::delivery::Throttle;
use crate::gateway::decisions::Matches;
use crate::gateway::live::{self, Live};
use crate::gateway::mount::Mount;
use crate::gateway::probe::Prober;
use crate::gateway::queue::Queue;
use crate::spool::Spool;

/// A poll without news is answered after this.
const LONGEST_POLL: Duration = Duration::from_secs(25);
/// A bundle fits into 32 ConfigMaps of 1 MiB.
const LARGEST_PUSH: usize = 40 << 20;

#[derive(Clone)]
struct Shared {
    live: Arc<Live>,
    spool: Spool,
    throttle: Throttle,
}

/// What the asker knows already. With none of it the answer comes at once.
#[derive(Debug, Deserialize)]
struct Known {
    /// The running sequence it has seen.
    after: Option<u64>,
    /// The refused sequence it has seen.
    #[serde(default)]
    refused: u64,
    /// The count of tests of routes it has seen.
    tested: Option<u64>,
    /// The sequence it has published: confirms to the pod that what it runs is the newest.
    published: Option<u64>,
    /// Pods of the gateway that are ready: they share the limits of routes.
    pods: Option<u32>,
    /// The highest sequence it has seen.
    highest: Option<u64>,
    /// Seconds after which an answer without news is wanted, for the counts in it.
    within: Option<u64>,
}

pub fn routes(live: Arc<Live>, spool: Spool, throttle: Throttle) -> Router {
    Router::new().route("/ack", get(ack)).with_state(Shared { live, spool, throttle })
}

/// What runs, how often each of its rules matched here since the start, what is paused, what tests of its routes
/// found, which destinations get less mail than there is and why. In standalone mode the page of the objects shows
/// the same.
pub fn status(live: Arc<Live>, matches: Matches, queue: Queue, prober: Prober, throttle: Throttle) -> Router {
    let page = move || {
        let running = live.current();
        let rules = running.as_ref().map(|running| matches.of(&running.bundle)).unwrap_or_default();
        let page = serde_json::json!({
            "sequence": running.as_ref().map(|running| running.sequence),
            "revision": running.as_ref().map(|running| running.revision.as_str()),
            "rules": rules,
            "paused": queue.paused(),
            "routes": prober.all(),
            "delivery": throttle.view(Timestamp::now()),
        });
        async move { Json(page) }
    };
    Router::new().route("/status", get(page))
}

/// Where the controller hands over a publication. Only behind mutual TLS.
pub fn pushes(mount: Arc<Mount>, live: Arc<Live>) -> Router {
    Router::new()
        .route("/bundle", post(push))
        .layer(DefaultBodyLimit::max(LARGEST_PUSH))
        .with_state((mount, live))
}

async fn push(State((mount, live)): State<(Arc<Mount>, Arc<Live>)>, body: Bytes) -> StatusCode {
    let Some(push) = Push::decode(&body) else { return StatusCode::BAD_REQUEST };
    if mount.push(push, &live).await { StatusCode::NO_CONTENT } else { StatusCode::BAD_REQUEST }
}

async fn ack(State(shared): State<Shared>, Query(known): Query<Known>) -> Json<Ack> {
    if let Some(published) = known.published {
        shared.live.confirm(Sequence(published));
    }
    if let Some(pods) = known.pods {
        shared.throttle.set_pods(pods);
    }
    if let Some(after) = known.after {
        let asked = live::Known {
            after: Sequence(after),
            refused: Sequence(known.refused),
            tested: known.tested,
            highest: known.highest.map(Sequence),
        };
        let limit = known.within.map_or(LONGEST_POLL, |seconds| Duration::from_secs(seconds.max(1)));
        let _ = tokio::time::timeout(limit.min(LONGEST_POLL), shared.live.news_for(asked)).await;
    }
    Json(shared.live.ack(shared.spool.len() as u64))
}

/// The TLS of the control port: our certificate, and clients only with one of the operator's CA. Read anew for
/// each connection, since kubelet renews the files under us and the controller connects rarely.
pub fn tls(folder: PathBuf) -> Result<Arc<admin::TlsSource>, String> {
    let first = Arc::new(read_tls(&folder)?);
    let last_good = ArcSwap::new(first);
    Ok(Arc::new(move || {
        match read_tls(&folder) {
            Ok(config) => last_good.store(Arc::new(config)),
            Err(error) => tracing::warn!(%error, "control certificates: keeping the ones in use"),
        }
        last_good.load_full()
    }))
}

fn read_tls(folder: &Path) -> Result<ServerConfig, String> {
    let read = |name: &str| {
        let path = folder.join(name);
        std::fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))
    };
    let bad = |name: &str| {
        let path = folder.join(name);
        move |error: rustls::pki_types::pem::Error| format!("{}: {error}", path.display())
    };
    let (chain, key, ca) = (read("tls.crt")?, read("tls.key")?, read("ca.crt")?);
    let chain: Vec<_> =
        CertificateDer::pem_slice_iter(&chain).collect::<Result<_, _>>().map_err(bad("tls.crt"))?;
    let key = PrivateKeyDer::from_pem_slice(&key).map_err(bad("tls.key"))?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&ca) {
        roots.add(certificate.map_err(bad("ca.crt"))?).map_err(|error| format!("ca.crt: {error}"))?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
        .build()
        .map_err(|error| error.to_string())?;
    ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| error.to_string())?
        .with_client_cert_verifier(clients)
        .with_single_cert(chain, key)
        .map_err(|error| error.to_string())
}
