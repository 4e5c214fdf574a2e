//! Decisions of the past over HTTP, JSON. Who may ask is decided in [`crate::gateway::access`].
//!
//! ```text
//! GET /decisions/REF        all decisions of the message whose reference is, or begins with, this one
//! ```

use std::path::PathBuf;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde::{Deserialize, Serialize};

use super::{Explained, find};
use crate::gateway::access::refuse;

/// Characters of a reference that are few enough to be guessed.
const SHORT: usize = 6;

/// What a search came to.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Recalled {
    /// Oldest first: a message that was held has several.
    pub decisions: Vec<Explained>,
}

/// The pages, for [`crate::gateway::access`] to open to somebody. `spool`: the folder that has the log.
pub fn api(spool: PathBuf) -> Router {
    Router::new().route("/decisions/{reference}", get(recall)).with_state(spool)
}

async fn recall(State(spool): State<PathBuf>, Path(reference): Path<String>) -> Response {
    let short =
        || refuse(StatusCode::BAD_REQUEST, format!("give at least {SHORT} characters of the reference"));
    if reference.len() < SHORT {
        return short();
    }
    let wanted = reference.clone();
    let found = tokio::task::spawn_blocking(move || find(&spool, &wanted)).await;
    match found {
        Ok(Ok(found)) if !found.ambiguous.is_empty() => {
            let several: Vec<_> = found.ambiguous.iter().map(String::as_str).collect();
            let error = format!("several references begin with {reference}: {}", several.join(", "));
            refuse(StatusCode::CONFLICT, error)
        }
        Ok(Ok(found)) if found.decisions.is_empty() => {
            let error = format!(
                "no decision {reference}: it is older than the log, or the message was accepted without any rule \
                 that matched"
            );
            refuse(StatusCode::NOT_FOUND, error)
        }
        Ok(Ok(found)) => Json(Recalled { decisions: found.decisions }).into_response(),
        Ok(Err(error)) => refuse(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
        Err(error) => refuse(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}
