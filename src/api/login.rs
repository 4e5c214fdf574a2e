//! How a route shows its next hosts who the gateway is.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::refs::SecretRef;

/// A login at the next hosts (SMTP AUTH). It is made on every connection, over TLS with a verified certificate
/// only; while a host does not take it, mail waits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RouteAuth {
    /// A Secret of type kubernetes.io/basic-auth (or with the label `postern.dev/use: "true"`), with the keys
    /// `username` and `password`; with the mechanism XOAuth2 the keys `username` and `token`. A change is used
    /// by the next attempt, without a restart.
    pub credentials_ref: SecretRef,
    /// How to log in. There is no other way than this one: a host that does not offer it gets no mail.
    pub mechanism: AuthMechanism,
}

/// A SASL mechanism.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum AuthMechanism {
    Plain,
    Login,
    CramMd5,
    ScramSha256,
    XOAuth2,
}

/// The oldest version of TLS that is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum TlsVersion {
    #[serde(rename = "TLSv1.2")]
    Tls12,
    #[serde(rename = "TLSv1.3")]
    Tls13,
}
