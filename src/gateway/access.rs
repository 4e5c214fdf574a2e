//! Who may ask a running gateway about its mail, and by which way: the unix socket beside the spool, the control
//! port behind mutual TLS, in standalone mode the admin address with the token file. Every command that works on
//! mail (`postern quarantine`, `postern queue`) comes through here; what it asks is not known here.

pub mod socket;
pub mod trail;

use std::fmt;
use std::path::Path;
use std::time::Duration;

use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::header::AUTHORIZATION;
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json, Router};
use serde::{Deserialize, Serialize};

/// An act that takes longer is still done; who asked for it is told to look again.
const PATIENCE: Duration = Duration::from_secs(60);
/// The controller says for whom it asks.
const ACTOR: &str = "x-postern-actor";

/// Who acts, for the audit log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Actor {
    /// A user of this machine, by the socket or on the folder itself.
    Uid(u32),
    /// Whoever has the token file.
    Token,
    /// The controller, for somebody it has checked.
    Controller(String),
    /// The gateway itself.
    Clock,
}

impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Actor::Uid(uid) => write!(f, "uid/{uid}"),
            Actor::Token => f.write_str("token"),
            Actor::Controller(who) => write!(f, "controller/{who}"),
            Actor::Clock => f.write_str("gateway"),
        }
    }
}

/// What went wrong, in words for people.
#[derive(Debug, Serialize, Deserialize)]
pub struct Refusal {
    pub error: String,
}

/// Pages for one actor.
pub fn of_actor(pages: Router, actor: Actor) -> Router {
    bounded(pages).layer(Extension(actor))
}

/// Pages for the controller, which says whom it asks for.
pub fn for_controller(pages: Router) -> Router {
    async fn name(mut request: Request, next: Next) -> Response {
        let who = request.headers().get(ACTOR).and_then(|value| value.to_str().ok()).unwrap_or("-");
        let actor = Actor::Controller(who.chars().filter(|c| !c.is_control()).take(200).collect());
        request.extensions_mut().insert(actor);
        next.run(request).await
    }
    bounded(pages).layer(middleware::from_fn(name))
}

/// Pages for whoever has the token.
pub fn with_token(pages: Router, token: Token) -> Router {
    async fn check(State(token): State<Token>, request: Request, next: Next) -> Response {
        if !token.is_in(request.headers()) {
            let error = "a token is needed: Authorization: Bearer, from the file `token` in the state folder";
            return refuse(StatusCode::UNAUTHORIZED, error.to_owned());
        }
        next.run(request).await
    }
    of_actor(pages, Actor::Token).layer(middleware::from_fn_with_state(token, check))
}

fn bounded(pages: Router) -> Router {
    pages.layer(DefaultBodyLimit::max(64 << 10)).layer(middleware::from_fn(in_time))
}

async fn in_time(request: Request, next: Next) -> Response {
    match tokio::time::timeout(PATIENCE, next.run(request)).await {
        Ok(response) => response,
        Err(_) => refuse(StatusCode::GATEWAY_TIMEOUT, "not done yet: look again in a while".to_owned()),
    }
}

pub fn refuse(status: StatusCode, error: String) -> Response {
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
