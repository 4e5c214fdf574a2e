//! Quarantine: a place where mail is held for review.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::checks;
use super::refs::GatewayRef;
use super::schema::{atomic, each, each_len};
use super::status::ObjectStatus;
use super::units::GoDuration;

/// A place where mail is held until somebody releases or denies it. One called `default` is there without
/// an object; a Quarantine of that name changes its settings for the rules of its namespace.
#[derive(CustomResource, Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "postern.dev",
    version = "v1alpha1",
    kind = "Quarantine",
    namespaced,
    shortname = "qtn",
    category = "postern",
    status = "ObjectStatus",
    derive = "PartialEq",
    doc = "A Quarantine is a place where mail is held until somebody releases or denies it."
)]
#[serde(rename_all = "camelCase")]
pub struct QuarantineSpec {
    /// The OutboundGateway whose rules may name this quarantine.
    #[serde(default)]
    pub gateway_ref: GatewayRef,
    /// For people: what is held here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1000))]
    pub description: Option<String>,
    /// How long mail is held; then it is deleted.
    #[serde(default = "retention")]
    pub retention: GoDuration,
    /// What happens to mail that is denied. Drop: it is deleted. Reject: its sender gets the default reject
    /// message as a delivery report.
    #[serde(default)]
    pub on_deny: OnDeny,
    /// A regular summary of what is held; default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
}

impl Default for QuarantineSpec {
    fn default() -> Self {
        Self {
            gateway_ref: GatewayRef::default(),
            description: None,
            retention: retention(),
            on_deny: OnDeny::default(),
            digest: None,
        }
    }
}

fn retention() -> GoDuration {
    GoDuration::new("720h")
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub enum OnDeny {
    #[default]
    Drop,
    Reject,
}

/// A regular summary of what is held.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Digest {
    /// Who gets it.
    #[schemars(length(min = 1, max = 50), transform = atomic, transform = each_len(1, 320), transform = each(&[checks::ADDRESS]))]
    pub to: Vec<String>,
    /// How often.
    #[serde(default = "daily")]
    pub every: GoDuration,
}

fn daily() -> GoDuration {
    GoDuration::new("24h")
}
