//! Tests over HTTP, JSON. Who may ask is decided in [`crate::gateway::access`] and by the control port.
//!
//! ```text
//! GET  /probes?after=N                                     results that changed since the count was N
//! POST /probe?route=NAME or NAMESPACE/NAME                 test this route now
//!             &recipient=ADDRESS&sender=ADDRESS            and ask its hosts to take mail for somebody
//! ```

use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use serde::Deserialize;

use super::{Prober, Unable};
use crate::bundle::probe::Probes;
use crate::delivery::probe::Trial;
use crate::gateway::access::{Actor, refuse};
use crate::mail::address::Mailbox;
use crate::mail::envelope::{Recipient, Sender};

#[derive(Debug, Deserialize)]
struct Known {
    #[serde(default)]
    after: u64,
}

#[derive(Debug, Deserialize)]
struct Asked {
    route: String,
    recipient: Option<String>,
    sender: Option<String>,
}

/// What was found; reading it changes nothing and shows no mail.
pub fn results(prober: Prober) -> Router {
    Router::new().route("/probes", get(since)).with_state(prober)
}

/// Tests on demand, for [`crate::gateway::access`] to open to somebody.
pub fn api(prober: Prober) -> Router {
    Router::new().route("/probe", post(test)).with_state(prober)
}

async fn since(State(prober): State<Prober>, Query(known): Query<Known>) -> Json<Probes> {
    Json(prober.since(known.after))
}

async fn test(
    State(prober): State<Prober>,
    Extension(actor): Extension<Actor>,
    Query(asked): Query<Asked>,
) -> Response {
    let trial = match trial(asked.recipient.as_deref(), asked.sender.as_deref()) {
        Ok(trial) => trial,
        Err(why) => return refuse(StatusCode::BAD_REQUEST, why),
    };
    tracing::info!(%actor, route = asked.route, recipient = trial.is_some(), "a test is asked for");
    match prober.test_now(&asked.route, trial.as_ref()).await {
        Ok(found) => Json(found).into_response(),
        Err(unable) => {
            let status = match unable {
                Unable::NoPolicy => StatusCode::SERVICE_UNAVAILABLE,
                Unable::NoRoute(_) => StatusCode::NOT_FOUND,
                Unable::Broken(_) | Unable::NoHost(_) => StatusCode::CONFLICT,
            };
            refuse(status, unable.to_string())
        }
    }
}

/// Whom the hosts are asked to take mail for.
pub fn trial(recipient: Option<&str>, sender: Option<&str>) -> Result<Option<Trial>, String> {
    let read = |what: &str, text: &str| {
        text.parse::<Mailbox>().map_err(|_| format!("{what} {text:?} is not an address"))
    };
    let Some(recipient) = recipient else {
        return match sender {
            Some(_) => Err("a sender means nothing without a recipient".to_owned()),
            None => Ok(None),
        };
    };
    let mailbox = sender.map(|sender| read("the sender", sender)).transpose()?;
    let recipient = Recipient::new(read("the recipient", recipient)?);
    Ok(Some(Trial { sender: Sender { mailbox, ..Sender::default() }, recipient }))
}
