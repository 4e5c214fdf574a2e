//! What the controller asks a pod: `/ack`, as a long poll. Served on the control port behind mutual TLS; in
//! standalone mode on the admin address.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Query, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use jiff::Timestamp;
use serde::Deserialize;

use crate::admin;
use crate::bundle::{Ack, Push, Sequence};
use crate::delivery::Throttle;
use crate::gateway::decisions::Matches;
use crate::gateway::live::Live;
use crate::gateway::mount::Mount;
use crate::gateway::papers::{Asker, Papers};
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
    /// How much a leaving pod had left; -1: it was empty.
    left: Option<i64>,
    /// The sequence it has published: confirms to the pod that what it runs is the newest.
    published: Option<u64>,
    /// Pods of the gateway that are ready: they share the limits of routes.
    pods: Option<u32>,
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
        let news =
            shared.live.news_or_tests(Sequence(after), Sequence(known.refused), known.tested, known.left);
        let _ = tokio::time::timeout(LONGEST_POLL, news).await;
    }
    Json(shared.live.ack(shared.spool.len() as u64))
}

/// The door of the control port: mutual TLS with our certificate, clients only with one of the operator's CA. The
/// controller finds `all` behind it, a pod of this gateway `peers`, anybody else nothing. Read anew for each
/// connection, since kubelet renews the files under us and others connect rarely.
pub fn door(folder: PathBuf, all: Router, peers: Router) -> Result<admin::Door, String> {
    let first = Arc::new(Papers::read(&folder)?);
    let last_good = ArcSwap::new(Arc::new((first.server()?, first)));
    let papers = move || {
        let read = Papers::read(&folder).and_then(|papers| Ok((papers.server()?, Arc::new(papers))));
        match read {
            Ok(fresh) => last_good.store(Arc::new(fresh)),
            Err(error) => tracing::warn!(%error, "control certificates: keeping the ones in use"),
        }
        last_good.load_full()
    };
    Ok(Box::new(move || {
        let papers = papers();
        let (config, (all, peers)) = (Arc::clone(&papers.0), (all.clone(), peers.clone()));
        let pages: Box<admin::Pages> = Box::new(move |certificates| match papers.1.asker(certificates) {
            Asker::Controller => Some(all),
            Asker::Peer => Some(peers),
            Asker::Stranger => None,
        });
        (config, pages)
    }))
}
