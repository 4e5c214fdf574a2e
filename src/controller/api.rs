//! The operator's API for people: queue, quarantine and tests of the gateways, and the audit log. HTTPS with a
//! certificate of the operator's own authority.
//!
//! ```text
//! ANY /v1/namespaces/NAMESPACE/gateways/NAME/…   as the control port of its pods has it: queue, quarantine, probe,
//!                                                decisions; ?pod=NAME asks one pod only
//! GET /v1/audit?namespace=&since=&until=&object=&actor=   records, as they stand in the log
//! ```
//! Each request goes: who is it ([`who`]), may he (SubjectAccessReview), write it down, ask the pods, put their
//! answers together ([`merge`]). What cannot be written down is not done. Only the leader serves; another replica
//! passes connections on unopened ([`front`]).

mod acts;
pub mod front;
mod merge;
mod pods;
#[cfg(test)]
mod tests;
mod who;

use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, Path, Query, RawQuery, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use axum::{Extension, Json, Router};
use jiff::Timestamp;
use kube::Client;
use serde_json::{Value, json};
use tokio::sync::{Semaphore, mpsc};
use tokio_util::task::TaskTracker;
use tracing::{error, info};

use super::acks::Dialler;
use super::audit::Ledger;
use super::metrics::Metrics;
use super::world::World;
use crate::audit::{Entry, Event, Wanted, read};
use crate::bundle::document::{ObjectId, ObjectKind};
use crate::translate::ObjectKey;

use acts::Act;
use front::Peer;
use who::{Caller, Denied, Right};

/// What the API works with.
pub struct Office {
    pub client: Client,
    pub world: Arc<World>,
    pub ledger: Arc<Ledger>,
    pub metrics: Arc<Metrics>,
    /// How the pods are asked.
    pub dial: Dialler,
    /// Connections to pods that are being made, those of the drivers among them.
    pub dials: Arc<Semaphore>,
    /// Acts that go on: to their end, also when whoever asked has gone.
    pub acts: TaskTracker,
}

/// What is asked for, by whom.
struct Request {
    caller: Caller,
    act: Act,
    gateway: ObjectKey,
    query: String,
}

pub fn pages(office: Arc<Office>) -> Router {
    Router::new()
        .route("/v1/namespaces/{namespace}/gateways/{gateway}/{*rest}", any(on_gateway))
        .route("/v1/audit", get(audit))
        .layer(DefaultBodyLimit::max(64 << 10))
        .with_state(office)
}

fn refuse(status: StatusCode, error: impl Into<String>) -> Response {
    (status, Json(json!({ "error": error.into() }))).into_response()
}

impl IntoResponse for Denied {
    fn into_response(self) -> Response {
        refuse(self.status, self.why)
    }
}

async fn on_gateway(
    State(office): State<Arc<Office>>,
    Extension(peer): Extension<Peer>,
    Path((namespace, gateway, rest)): Path<(String, String, String)>,
    RawQuery(query): RawQuery,
    method: Method,
    headers: HeaderMap,
) -> Response {
    let Some(act) = acts::of(&method, &rest) else {
        return refuse(StatusCode::NOT_FOUND, format!("there is no {method} {rest} of a gateway"));
    };
    let gateway = ObjectKey::new(namespace, gateway);
    let caller =
        match office.admit(&headers, &peer, act.right, &gateway.namespace, &gateway.name, act.name).await {
            Ok(caller) => caller,
            Err(denied) => return denied.into_response(),
        };
    let request = Request { caller, act, gateway, query: query.unwrap_or_default() };
    let working = Arc::clone(&office);
    let done = office.acts.spawn(async move { working.act(request).await });
    done.await.unwrap_or_else(|_| refuse(StatusCode::INTERNAL_SERVER_ERROR, "the work ended badly"))
}

impl Office {
    /// Who asks, and that he may. Somebody known who may not is recorded.
    async fn admit(
        &self,
        headers: &HeaderMap,
        peer: &Peer,
        right: Right,
        namespace: &str,
        name: &str,
        act: &str,
    ) -> Result<Caller, Denied> {
        let caller = who::caller(&self.client, headers, peer)
            .await
            .inspect_err(|_| self.metrics.api_asked("refused"))?;
        let Err(denied) = who::may(&self.client, &caller, right, namespace, name).await else {
            return Ok(caller);
        };
        self.metrics.api_asked("refused");
        if denied.status == StatusCode::FORBIDDEN {
            let object = if name.is_empty() { "Audit" } else { "OutboundGateway" };
            let entry = entry(Event::Refused, &caller, act)
                .about(format!("{object}/{namespace}/{name}"))
                .with("right", right.to_string());
            if let Err(error) = self.ledger.record(vec![entry]).await {
                error!(%error, user = caller.name, act, "a refusal is not recorded");
            }
        }
        Err(denied)
    }

    async fn act(&self, request: Request) -> Response {
        let Request { caller, act, gateway, query } = request;
        let object = ObjectId {
            kind: ObjectKind::OutboundGateway,
            namespace: gateway.namespace.clone(),
            name: gateway.name.clone(),
        };
        if self.world.entry(&object).is_none() {
            self.metrics.api_asked("failed");
            return refuse(StatusCode::NOT_FOUND, format!("there is no OutboundGateway {gateway}"));
        }
        let about = |event| {
            let mut entry = entry(event, &caller, act.name).about(&object).with("query", said(&query));
            if let Some(id) = &act.id {
                entry = entry.with("id", id.as_str());
            }
            entry
        };
        if let Err(unrecorded) = self.ledger.record(vec![about(Event::Act)]).await {
            self.metrics.api_asked("unrecorded");
            error!(error = %unrecorded, user = caller.name, act = act.name, "an act is refused: it cannot be recorded");
            let why = format!(
                "AuditUnwritable: nothing was done, because what is done must be recorded: {unrecorded}"
            );
            return refuse(StatusCode::SERVICE_UNAVAILABLE, why);
        }
        let answers = pods::ask(self, &gateway, &act, &query, &caller.name).await;
        let merged = match answers {
            Ok(answers) => merge::merge(act.merge, &query, answers),
            Err(denied) => merge::Merged::refusal(denied.status, &denied.why),
        };
        self.metrics.api_asked(if merged.status.is_success() { "ok" } else { "failed" });
        info!(user = caller.name, act = act.name, %gateway, status = merged.status.as_u16(), "asked for");
        if act.changes {
            let told = about(Event::Acted)
                .with("status", merged.status.as_u16())
                .with("result", merged.summary.clone());
            if let Err(error) = self.ledger.record(vec![told]).await {
                // That it was asked for is recorded.
                error!(%error, user = caller.name, act = act.name, "what came of an act is not recorded");
            }
        }
        (merged.status, [(CONTENT_TYPE, merged.content_type)], merged.body).into_response()
    }
}

fn entry(event: Event, caller: &Caller, act: &str) -> Entry {
    let source = Some("the operator's API".to_owned());
    Entry { user: Some(caller.name.clone()), source, ..Entry::new(Timestamp::now(), event) }.with("act", act)
}

/// A query as it is recorded: bounded.
fn said(query: &str) -> Value {
    query.chars().filter(|c| !c.is_control()).take(500).collect::<String>().into()
}

/// Records of a namespace, or of all.
async fn audit(
    State(office): State<Arc<Office>>,
    Extension(peer): Extension<Peer>,
    Query(wanted): Query<Wanted>,
    headers: HeaderMap,
) -> Response {
    let namespace = wanted.namespace.clone().unwrap_or_default();
    let caller = match office.admit(&headers, &peer, acts::AUDIT, &namespace, "", "audit export").await {
        Ok(caller) => caller,
        Err(denied) => return denied.into_response(),
    };
    let Some(folder) = office.ledger.folder() else {
        office.metrics.api_asked("failed");
        return refuse(StatusCode::NOT_FOUND, "the operator has no audit log (chart value audit)");
    };
    let words = serde_json::to_value(&wanted).unwrap_or_default();
    let asked = entry(Event::Act, &caller, "audit export").with("wanted", words);
    let asked = Entry { object: Some(format!("Audit/{namespace}/")), ..asked };
    if let Err(unrecorded) = office.ledger.record(vec![asked]).await {
        // Reading the log must be possible when it is full: that is how one finds out.
        error!(error = %unrecorded, user = caller.name, "an export of the audit log is not recorded");
    }
    office.metrics.api_asked("ok");
    let (send, mut receive) = mpsc::channel::<Result<Bytes, std::io::Error>>(16);
    office.acts.spawn_blocking(move || {
        let mut chunk = Vec::with_capacity(64 << 10);
        let done = read::lines(&folder, &wanted, &mut |line| {
            chunk.extend_from_slice(line);
            chunk.len() < 64 << 10 || send.blocking_send(Ok(std::mem::take(&mut chunk).into())).is_ok()
        });
        let rest = if chunk.is_empty() { Ok(()) } else { send.blocking_send(Ok(chunk.into())) };
        if let (Err(error), Ok(())) = (done, rest) {
            // The transfer breaks off, so that nobody takes a part for the whole.
            let _ = send.blocking_send(Err(error));
        }
    });
    let stream = futures::stream::poll_fn(move |cx| receive.poll_recv(cx));
    ([(CONTENT_TYPE, "application/jsonl")], Body::from_stream(stream)).into_response()
}
