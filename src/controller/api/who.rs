//! Who asks, and whether he may: both questions go to the API server of the cluster. A caller shows what he shows
//! there too: a bearer token, or a client certificate of the cluster's authority.

use std::collections::BTreeMap;
use std::fmt;

use axum::http::header::AUTHORIZATION;
use axum::http::{HeaderMap, StatusCode};
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, UserInfo};
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use kube::api::PostParams;
use kube::{Api, Client};
use tracing::warn;

use super::front::Peer;
use crate::api::{GROUP, VERSION};
use crate::controller::apply::bounded;

/// What one must be allowed: a verb on a subresource of `outboundgateways`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Right {
    pub verb: &'static str,
    pub subresource: &'static str,
}

impl fmt::Display for Right {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} outboundgateways/{}", self.verb, self.subresource)
    }
}

/// Somebody whom the API server knows.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Caller {
    pub name: String,
    pub uid: Option<String>,
    pub groups: Vec<String>,
    pub extra: BTreeMap<String, Vec<String>>,
}

#[derive(Debug)]
pub struct Denied {
    pub status: StatusCode,
    pub why: String,
}

impl Denied {
    pub fn new(status: StatusCode, why: impl Into<String>) -> Self {
        Self { status, why: why.into() }
    }
}

/// Who asks: by the token, else by the certificate.
pub async fn caller(client: &Client, headers: &HeaderMap, peer: &Peer) -> Result<Caller, Denied> {
    let token = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    if let Some(token) = token.and_then(|value| value.strip_prefix("Bearer ")) {
        return by_token(client, token.trim()).await;
    }
    match &peer.0 {
        Some(caller) => Ok(caller.clone()),
        None => Err(Denied::new(
            StatusCode::UNAUTHORIZED,
            "say who you are: a bearer token or a client certificate that the API server of this cluster knows",
        )),
    }
}

async fn by_token(client: &Client, token: &str) -> Result<Caller, Denied> {
    let api: Api<TokenReview> = Api::all(client.clone());
    let review = TokenReview {
        spec: TokenReviewSpec { token: token.to_owned(), audiences: None },
        ..TokenReview::default()
    };
    let reviewed = bounded("a token review", api.create(&PostParams::default(), &review)).await;
    let status = reviewed.map_err(|error| unanswered(&error))?.status.unwrap_or_default();
    match status.user {
        Some(UserInfo { extra, groups, uid, username: Some(name) })
            if status.authenticated == Some(true) && !name.is_empty() =>
        {
            Ok(Caller { name, uid, groups: groups.unwrap_or_default(), extra: extra.unwrap_or_default() })
        }
        _ => Err(Denied::new(StatusCode::UNAUTHORIZED, "the API server does not know this token")),
    }
}

/// Whether he may. An empty namespace: all of them.
pub async fn may(
    client: &Client,
    caller: &Caller,
    right: Right,
    namespace: &str,
    name: &str,
) -> Result<(), Denied> {
    let api: Api<SubjectAccessReview> = Api::all(client.clone());
    let Caller { name: user, uid, groups, extra } = caller.clone();
    let review = SubjectAccessReview {
        spec: SubjectAccessReviewSpec {
            user: Some(user.clone()),
            uid,
            groups: Some(groups),
            extra: Some(extra),
            resource_attributes: Some(ResourceAttributes {
                group: Some(GROUP.to_owned()),
                version: Some(VERSION.to_owned()),
                resource: Some("outboundgateways".to_owned()),
                subresource: Some(right.subresource.to_owned()),
                verb: Some(right.verb.to_owned()),
                namespace: (!namespace.is_empty()).then(|| namespace.to_owned()),
                name: (!name.is_empty()).then(|| name.to_owned()),
                ..ResourceAttributes::default()
            }),
            non_resource_attributes: None,
        },
        ..SubjectAccessReview::default()
    };
    let reviewed = bounded("an access review", api.create(&PostParams::default(), &review)).await;
    let status = reviewed.map_err(|error| unanswered(&error))?.status.unwrap_or_default();
    if status.allowed && status.denied != Some(true) {
        return Ok(());
    }
    let place = match namespace {
        "" => "in all namespaces".to_owned(),
        namespace => format!("in namespace {namespace}"),
    };
    let role = match right.subresource {
        "quarantine" | "messages" => "quarantine-reviewer",
        "audit" => "auditor",
        _ => "route-admin",
    };
    Err(Denied::new(
        StatusCode::FORBIDDEN,
        format!("{user} may not {right} {place}; the ClusterRole {role} of the chart has this right"),
    ))
}

fn unanswered(error: &dyn fmt::Display) -> Denied {
    warn!(%error, "the API server does not say who may");
    Denied::new(StatusCode::SERVICE_UNAVAILABLE, format!("nothing was done: {error}"))
}
