//! The quarantine's HTTP API, JSON: on the control port behind mutual TLS, on the unix socket beside the spool,
//! and in standalone mode on the admin address for who has the token file.
//!
//! ```text
//! GET  /quarantine?quarantine=NAME&after=ID&limit=N     a page of held messages, oldest first
//! GET  /quarantine/ID                                   all about one, but for its body
//! GET  /quarantine/ID/raw                               the message
//! POST /quarantine/ID/release | deny | extend?until=TIME or ?by=SECONDS
//! ```

use std::path::Path;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{DefaultBodyLimit, Path as Segment, Query, Request, State};
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Actor, Desk, DeskError, Longer, PAGE};
use crate::spool::{ClaimError, CommitError, QueueId};

/// An act that takes longer is still done; who asked for it is told to look again.
const PATIENCE: Duration = Duration::from_secs(60);
/// The controller says for whom it asks.
const ACTOR: &str = "x-postern-actor";

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

/// What went wrong, in words for people.
#[derive(Debug, Serialize, Deserialize)]
pub struct Refusal {
    pub error: String,
}

/// The API for one actor.
pub fn routes(desk: Desk, actor: Actor) -> Router {
    api(desk).layer(Extension(actor))
}

/// The API for the controller, which says whom it asks for.
pub fn for_controller(desk: Desk) -> Router {
    async fn name(mut request: Request, next: Next) -> Response {
        let who = request.headers().get(ACTOR).and_then(|value| value.to_str().ok()).unwrap_or("-");
        let actor = Actor::Controller(who.chars().filter(|c| !c.is_control()).take(200).collect());
        request.extensions_mut().insert(actor);
        next.run(request).await
    }
    api(desk).layer(middleware::from_fn(name))
}

/// The API for whoever has the token.
pub fn with_token(desk: Desk, token: Token) -> Router {
    async fn check(State(token): State<Token>, request: Request, next: Next) -> Response {
        if !token.is_in(request.headers()) {
            let error = "a token is needed: Authorization: Bearer, from the file `token` in the state folder";
            return refuse(StatusCode::UNAUTHORIZED, error.to_owned());
        }
        next.run(request).await
    }
    routes(desk, Actor::Token).layer(middleware::from_fn_with_state(token, check))
}

fn api(desk: Desk) -> Router {
    Router::new()
        .route("/quarantine", get(list))
        .route("/quarantine/{id}", get(show))
        .route("/quarantine/{id}/raw", get(raw))
        .route("/quarantine/{id}/release", post(release))
        .route("/quarantine/{id}/deny", post(deny))
        .route("/quarantine/{id}/extend", post(extend))
        .layer(DefaultBodyLimit::max(64 << 10))
        .layer(middleware::from_fn(in_time))
        .with_state(desk)
}

async fn in_time(request: Request, next: Next) -> Response {
    match tokio::time::timeout(PATIENCE, next.run(request)).await {
        Ok(response) => response,
        Err(_) => refuse(StatusCode::GATEWAY_TIMEOUT, "not done yet: look again in a while".to_owned()),
    }
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
        DeskError::Claim(ClaimError::NotHeld(_)) => StatusCode::NOT_FOUND,
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

fn refuse(status: StatusCode, error: String) -> Response {
    (status, Json(Refusal { error })).into_response()
}

/// The secret of a standalone gateway's state folder.
#[derive(Clone)]
pub struct Token(std::sync::Arc<str>);

impl Token {
    /// Reads the file, or makes it, for its owner alone.
    pub fn of_file(path: &Path) -> std::io::Result<Self> {
        use std::io::Write;
        use std::os::unix::fs::OpenOptionsExt;
        if let Ok(text) = std::fs::read_to_string(path)
            && !text.trim().is_empty()
        {
            return Ok(Self(text.trim().into()));
        }
        let secret: [u8; 32] = rand::random();
        let text: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
        let beside = path.with_extension("new");
        let _ = std::fs::remove_file(&beside);
        let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
        writeln!(file, "{text}")?;
        file.sync_all()?;
        std::fs::rename(&beside, path)?;
        Ok(Self(text.into()))
    }

    /// Compared by hash, so that the time it takes tells nothing.
    fn is_in(&self, headers: &HeaderMap) -> bool {
        let given = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        let given = given.and_then(|value| value.strip_prefix("Bearer "));
        given.is_some_and(|given| blake3::hash(given.trim().as_bytes()) == blake3::hash(self.0.as_bytes()))
    }
}
