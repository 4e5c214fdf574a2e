//! The quarantine's HTTP API, JSON. Who may ask is decided in [`crate::gateway::access`].
//!
//! ```text
//! GET  /quarantine?quarantine=NAME&after=ID&limit=N     a page of held messages, oldest first
//! GET  /quarantine/ID                                   all about one, but for its body
//! GET  /quarantine/ID/raw                               the message
//! POST /quarantine/ID/release | deny | extend?until=TIME or ?by=SECONDS
//! ```

use std::time::Duration;

use axum::body::Body;
use axum::extract::{Path as Segment, Query, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Desk, DeskError, Longer, PAGE};
use crate::gateway::access::{Actor, refuse};
use crate::spool::{ClaimError, CommitError, QueueId};

#[derive(Debug, Deserialize)]
struct Wanted {
    quarantine: Option<String>,
    after: Option<QueueId>,
    limit: Option<usize>,
}

#[derive(Debug, Deserialize)]
struct Until {
    until: Option<Timestamp>,
    /// Seconds longer than it is held now.
    by: Option<u32>,
}

/// The pages, for [`crate::gateway::access`] to open to somebody.
pub fn api(desk: Desk) -> Router {
    Router::new()
        .route("/quarantine", get(list))
        .route("/quarantine/{id}", get(show))
        .route("/quarantine/{id}/raw", get(raw))
        .route("/quarantine/{id}/release", post(release))
        .route("/quarantine/{id}/deny", post(deny))
        .route("/quarantine/{id}/extend", post(extend))
        .with_state(desk)
}

async fn list(State(desk): State<Desk>, Query(wanted): Query<Wanted>) -> Response {
    let limit = wanted.limit.unwrap_or(PAGE);
    Json(desk.list(wanted.quarantine.as_deref(), wanted.after, limit).await).into_response()
}

async fn show(
    State(desk): State<Desk>,
    Extension(actor): Extension<Actor>,
    Segment(id): Segment<QueueId>,
) -> Response {
    answer(desk.show(id, &actor).await)
}

async fn raw(
    State(desk): State<Desk>,
    Extension(actor): Extension<Actor>,
    Segment(id): Segment<QueueId>,
) -> Response {
    match desk.raw(id, &actor).await {
        Ok(content) => {
            ([(CONTENT_TYPE, "message/rfc822")], Body::from(content.bytes().to_vec())).into_response()
        }
        Err(error) => problem(&error),
    }
}

async fn release(
    State(desk): State<Desk>,
    Extension(actor): Extension<Actor>,
    Segment(id): Segment<QueueId>,
) -> Response {
    answer(desk.release(id, actor).await)
}

async fn deny(
    State(desk): State<Desk>,
    Extension(actor): Extension<Actor>,
    Segment(id): Segment<QueueId>,
) -> Response {
    answer(desk.deny(id, actor).await)
}

async fn extend(
    State(desk): State<Desk>,
    Extension(actor): Extension<Actor>,
    Segment(id): Segment<QueueId>,
    Query(Until { until, by }): Query<Until>,
) -> Response {
    let longer = match (until, by) {
        (Some(until), None) => Longer::Until(until),
        (None, Some(by)) => Longer::By(Duration::from_secs(by.into())),
        _ => return refuse(StatusCode::BAD_REQUEST, "one of until and by must be given".to_owned()),
    };
    answer(desk.extend(id, longer, actor).await)
}

fn answer<T: Serialize>(result: Result<T, DeskError>) -> Response {
    match result {
        Ok(value) => Json(value).into_response(),
        Err(error) => problem(&error),
    }
}

fn problem(error: &DeskError) -> Response {
    let status = match error {
        DeskError::Claim(ClaimError::NotHeld(_) | ClaimError::NotWaiting(_)) => StatusCode::NOT_FOUND,
        DeskError::Claim(ClaimError::Busy(_)) | DeskError::Deferred(_) => StatusCode::CONFLICT,
        DeskError::NotLater(..) => StatusCode::BAD_REQUEST,
        DeskError::Store(CommitError::Full) => StatusCode::INSUFFICIENT_STORAGE,
        DeskError::NoPolicy(_) | DeskError::Unjudged(_) => StatusCode::SERVICE_UNAVAILABLE,
        DeskError::Claim(ClaimError::Unreadable(_))
        | DeskError::Store(CommitError::Io(_))
        | DeskError::Lost => StatusCode::INTERNAL_SERVER_ERROR,
    };
    refuse(status, error.to_string())
}
