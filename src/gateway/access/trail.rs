//! The audit log of a gateway by itself: who looked at or decided about mail through its socket or its admin
//! address. What a controller asks for is recorded there, with the name of the person.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode};
use axum::middleware::{self, Next};
use axum::response::Response;
use jiff::Timestamp;
use serde_json::Value;
use tokio::time::timeout;

use super::{Actor, refuse};
use crate::audit::{Entry, Event, Limits, Log};

const PATIENCE: Duration = Duration::from_secs(10);
const DAY: Duration = Duration::from_secs(24 * 3600);
/// Characters of a query that are kept.
const QUERY: usize = 500;

/// Cheap to clone.
#[derive(Clone)]
pub struct Trail(Arc<Mutex<Shared>>);

struct Shared {
    log: Result<Log, String>,
    swept: Timestamp,
}

impl Trail {
    /// Opens the log of a folder. Where it cannot be opened mail goes on, and acts are refused.
    pub fn open(folder: &Path, who: &str) -> Self {
        let now = Timestamp::now();
        let log = Log::open(folder, Limits::default(), who, now).map(|(mut log, opening)| {
            if opening != Default::default() {
                tracing::warn!(?opening, "the audit log did not end well: see `postern audit verify`");
            }
            if let Err(error) = log.expire(now) {
                tracing::warn!(%error, "cannot remove audit records past their retention");
            }
            log
        });
        let log = log.map_err(|error| error.to_string());
        if let Err(error) = &log {
            tracing::error!(error, "the audit log cannot be written: nothing is done with mail by hand");
        }
        Self(Arc::new(Mutex::new(Shared { log, swept: now })))
    }

    /// On return they are on the disk.
    pub async fn record(&self, entries: Vec<Entry>) -> Result<(), String> {
        let shared = Arc::clone(&self.0);
        let write = tokio::task::spawn_blocking(move || {
            let mut state = shared.lock().unwrap_or_else(PoisonError::into_inner);
            let now = Timestamp::now();
            let Shared { log, swept } = &mut *state;
            let log = log.as_mut().map_err(|why| why.clone())?;
            let link = log.append(entries, now).map_err(|error| error.to_string())?;
            tracing::info!(target: "audit", seq = link.seq, hash = %link.hash, "recorded");
            if now.duration_since(*swept).unsigned_abs() >= DAY {
                *swept = now;
                log.expire(now).map_err(|error| error.to_string())?;
            }
            Ok::<_, String>(())
        });
        match timeout(PATIENCE, write).await {
            Ok(Ok(done)) => done,
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err("the disk does not answer".to_owned()),
        }
    }
}

/// Pages whose every use is recorded before it acts, and what came of it afterwards.
pub fn audited(pages: Router, trail: Trail) -> Router {
    pages.layer(middleware::from_fn_with_state(trail, note))
}

async fn note(State(trail): State<Trail>, request: Request, next: Next) -> Response {
    let actor = request.extensions().get::<Actor>().cloned();
    let Some(actor) = actor.filter(|actor| !matches!(actor, Actor::Controller(_))) else {
        return next.run(request).await;
    };
    let changes = request.method() != Method::GET;
    let about = about(request.method(), request.uri().path(), request.uri().query(), &actor);
    if let Err(why) = trail.record(vec![about.clone()]).await {
        tracing::error!(error = why, %actor, "an act is refused: it cannot be recorded");
        let error =
            format!("AuditUnwritable: nothing was done, because what is done must be recorded: {why}");
        return refuse(StatusCode::SERVICE_UNAVAILABLE, error);
    }
    let response = next.run(request).await;
    if changes {
        let done = Entry { at: Timestamp::now(), event: Event::Acted, ..about };
        if let Err(error) = trail.record(vec![done.with("status", response.status().as_u16())]).await {
            tracing::error!(error, %actor, "what came of an act is not recorded");
        }
    }
    response
}

/// `queue list`, `quarantine release`: the words of the command line.
fn about(method: &Method, path: &str, query: Option<&str>, actor: &Actor) -> Entry {
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let (act, id) = match parts.as_slice() {
        [what] if method == Method::GET => (format!("{what} list"), None),
        [what] => ((*what).to_owned(), None),
        [what, id] if method == Method::GET => (format!("{what} show"), Some(*id)),
        [what, how] => (format!("{what} {how}"), None),
        [what, id, how, ..] => (format!("{what} {how}"), Some(*id)),
        [] => (path.to_owned(), None),
    };
    let mut entry = Entry::new(Timestamp::now(), Event::Act).with("act", act);
    entry.user = Some(actor.to_string());
    if let Some(id) = id {
        entry = entry.with("id", id);
    }
    if let Some(query) = query.filter(|query| !query.is_empty()) {
        let query: String = query.chars().filter(|c| !c.is_control()).take(QUERY).collect();
        entry = entry.with("query", Value::from(query));
    }
    entry
}

#[cfg(test)]
mod tests {
    use axum::Extension;
    use axum::body::Body;
    use axum::routing::post;
    use hyper::service::Service;
    use hyper_util::service::TowerToHyperService;

    use super::*;
    use crate::audit::{Wanted, read, verify};

    fn folder() -> std::path::PathBuf {
        std::env::temp_dir().join(format!("postern-trail-{:016x}", rand::random::<u64>()))
    }

    async fn ask(trail: Trail) -> StatusCode {
        let pages = Router::new().route("/queue/{id}/drop", post(|| async { "done" }));
        let pages = audited(pages, trail).layer(Extension(Actor::Uid(7)));
        let request = Request::post("/queue/0GT3Jw/drop?report=false").body(Body::empty()).unwrap();
        TowerToHyperService::new(pages).call(request).await.unwrap().status()
    }

    #[tokio::test]
    async fn r146_an_act_is_recorded_before_it_is_done_and_so_is_what_came_of_it() {
        let folder = folder();
        assert_eq!(ask(Trail::open(&folder, "test")).await, StatusCode::OK);
        let mut text = String::new();
        let mut take = |line: &[u8]| {
            text.push_str(&String::from_utf8_lossy(line));
            true
        };
        read::lines(&folder, &Wanted { actor: Some("uid/7".into()), ..Wanted::default() }, &mut take)
            .unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 2, "{text}");
        assert!(
            lines[0].contains(r#""event":"act""#) && lines[0].contains(r#""act":"queue drop""#),
            "{text}"
        );
        assert!(lines[0].contains("0GT3Jw") && lines[0].contains("report=false"), "{text}");
        assert!(lines[1].contains(r#""event":"acted""#) && lines[1].contains(r#""status":200"#), "{text}");
        assert!(verify::folder(&folder, None).unwrap().is_whole());
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[tokio::test]
    async fn r146_what_cannot_be_recorded_is_not_done() {
        let folder = folder();
        let other = Trail::open(&folder, "somebody else who writes there");
        assert_eq!(ask(Trail::open(&folder, "test")).await, StatusCode::SERVICE_UNAVAILABLE);
        drop(other);
        std::fs::remove_dir_all(folder).unwrap();
    }
}
