//! The queue's HTTP API, JSON. Who may ask is decided in [`crate::gateway::access`].
//!
//! ```text
//! GET  /queue?FILTER&after=ID&limit=N        a page of what waits, oldest first, and what is paused
//! GET  /queue/ID                             all about one message but for its content
//! GET  /queue/ID/content                     the message as it is stored
//! POST /queue/ID/retry
//! POST /queue/ID/drop?report=BOOL
//! POST /queue/retry?FILTER&after=ID&turn=N   the next part of the queue; the answer says where to go on
//! POST /queue/drop?FILTER&after=ID&report=BOOL
//! POST /queue/pause?route=NAME&reason=TEXT   or ?domain=NAME
//! POST /queue/resume?route=NAME              or ?domain=NAME
//! ```
//! `FILTER`: sender, recipient, domain, route, state, older and younger in seconds.

use std::time::Duration;

use axum::body::Body;
use axum::extract::{Path, Query, State as Of};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use serde::{Deserialize, Serialize};

use super::{Filter, FilterError, PAGE, Queue, QueueError, State, filter};
use crate::delivery::pauses::Closed;
use crate::gateway::access::{Actor, refuse};
use crate::spool::{ClaimError, CommitError, QueueId};

/// Characters of a reason that somebody gives.
const REASON: usize = 200;

#[derive(Debug, Default, Deserialize)]
struct Wanted {
    sender: Option<String>,
    recipient: Option<String>,
    domain: Option<String>,
    route: Option<String>,
    state: Option<State>,
    older: Option<u64>,
    younger: Option<u64>,
    after: Option<QueueId>,
    limit: Option<usize>,
    turn: Option<u32>,
    report: Option<bool>,
    reason: Option<String>,
}

impl Wanted {
    fn filter(&self) -> Result<Filter, FilterError> {
        Ok(Filter {
            sender: self.sender.as_deref().map(str::parse).transpose()?,
            recipient: self.recipient.as_deref().map(str::parse).transpose()?,
            domain: self.domain.as_deref().map(filter::domain).transpose()?,
            route: self.route.clone(),
            state: self.state,
            older: self.older.map(Duration::from_secs),
            younger: self.younger.map(Duration::from_secs),
        })
    }

    fn closed(&self) -> Result<Closed, QueueError> {
        match (&self.route, &self.domain) {
            (Some(route), None) => Ok(Closed::Route(route.clone())),
            (None, Some(domain)) => Ok(Closed::Domain(filter::domain(domain)?)),
            _ => Err(QueueError::Unknown("one of route and domain must be given".to_owned())),
        }
    }
}

/// The pages, for [`crate::gateway::access`] to open to somebody.
pub fn api(queue: Queue) -> Router {
    Router::new()
        .route("/queue", get(list))
        .route("/queue/retry", post(retry))
        .route("/queue/drop", post(drop))
        .route("/queue/pause", post(pause))
        .route("/queue/resume", post(resume))
        .route("/queue/{id}", get(show))
        .route("/queue/{id}/content", get(content))
        .route("/queue/{id}/retry", post(retry_one))
        .route("/queue/{id}/drop", post(drop_one))
        .with_state(queue)
}

async fn list(Of(queue): Of<Queue>, Query(wanted): Query<Wanted>) -> Response {
    match wanted.filter() {
        Ok(filter) => {
            Json(queue.list(&filter, wanted.after, wanted.limit.unwrap_or(PAGE)).await).into_response()
        }
        Err(error) => problem(&error.into()),
    }
}

async fn show(Of(queue): Of<Queue>, Extension(actor): Extension<Actor>, Path(id): Path<QueueId>) -> Response {
    answer(queue.show(id, &actor).await)
}

async fn content(
    Of(queue): Of<Queue>,
    Extension(actor): Extension<Actor>,
    Path(id): Path<QueueId>,
) -> Response {
    match queue.content(id, &actor).await {
        Ok(content) => {
            ([(CONTENT_TYPE, "message/rfc822")], Body::from(content.bytes().to_vec())).into_response()
        }
        Err(error) => problem(&error),
    }
}

async fn retry_one(
    Of(queue): Of<Queue>,
    Extension(actor): Extension<Actor>,
    Path(id): Path<QueueId>,
) -> Response {
    answer(queue.retry_one(id, &actor).await)
}

async fn drop_one(
    Of(queue): Of<Queue>,
    Extension(actor): Extension<Actor>,
    Path(id): Path<QueueId>,
    Query(wanted): Query<Wanted>,
) -> Response {
    answer(queue.drop_one(id, wanted.report.unwrap_or(true), &actor).await)
}

async fn retry(
    Of(queue): Of<Queue>,
    Extension(actor): Extension<Actor>,
    Query(wanted): Query<Wanted>,
) -> Response {
    match wanted.filter() {
        Ok(filter) => answer(queue.retry(&filter, wanted.after, wanted.turn.unwrap_or(0), &actor).await),
        Err(error) => problem(&error.into()),
    }
}

async fn drop(
    Of(queue): Of<Queue>,
    Extension(actor): Extension<Actor>,
    Query(wanted): Query<Wanted>,
) -> Response {
    match wanted.filter() {
        Ok(filter) if filter.is_empty() => {
            let error = "say which messages: everything is dropped by older=0".to_owned();
            refuse(StatusCode::BAD_REQUEST, error)
        }
        Ok(filter) => answer(queue.drop(&filter, wanted.after, wanted.report.unwrap_or(true), &actor).await),
        Err(error) => problem(&error.into()),
    }
}

async fn pause(
    Of(queue): Of<Queue>,
    Extension(actor): Extension<Actor>,
    Query(wanted): Query<Wanted>,
) -> Response {
    let plain = |text: &String| text.chars().filter(|c| !c.is_control()).take(REASON).collect::<String>();
    let reason = wanted.reason.as_ref().map(plain);
    match wanted.closed() {
        Ok(closed) => answer(queue.pause(&closed, reason, &actor).await),
        Err(error) => problem(&error),
    }
}

async fn resume(
    Of(queue): Of<Queue>,
    Extension(actor): Extension<Actor>,
    Query(wanted): Query<Wanted>,
) -> Response {
    match wanted.closed() {
        Ok(closed) => answer(queue.resume(&closed, &actor).await),
        Err(error) => problem(&error),
    }
}

fn answer<T: Serialize>(result: Result<T, QueueError>) -> Response {
    match result {
        Ok(value) => Json(value).into_response(),
        Err(error) => problem(&error),
    }
}

fn problem(error: &QueueError) -> Response {
    let status = match error {
        QueueError::Claim(ClaimError::NotHeld(_) | ClaimError::NotWaiting(_)) => StatusCode::NOT_FOUND,
        QueueError::Claim(ClaimError::Busy(_)) => StatusCode::CONFLICT,
        QueueError::Filter(_) | QueueError::Unknown(_) => StatusCode::BAD_REQUEST,
        QueueError::Store(CommitError::Full) => StatusCode::INSUFFICIENT_STORAGE,
        QueueError::NoPolicy => StatusCode::SERVICE_UNAVAILABLE,
        QueueError::Claim(ClaimError::Unreadable(_))
        | QueueError::Store(CommitError::Io(_))
        | QueueError::Pauses(_) => StatusCode::INTERNAL_SERVER_ERROR,
    };
    refuse(status, error.to_string())
}
