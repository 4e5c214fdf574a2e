//! RoutingRule: what happens to messages by where they come from and go to.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::action::Action;
use super::refs::GatewayRef;
use super::schema::atomic;
use super::scope::{self, Direction, Envelope};
use super::status::RuleStatus;

/// Decides by direction and envelope what happens to messages: which route they take, how they are
/// changed, or that they are refused. Use a ComplianceRule to decide by content.
#[derive(CustomResource, Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "postern.dev",
    version = "v1alpha1",
    kind = "RoutingRule",
    namespaced,
    shortname = "rtr",
    category = "postern",
    status = "RuleStatus",
    derive = "PartialEq",
    doc = "A RoutingRule decides by direction and envelope what happens to messages: which route they take, how they are changed, or that they are refused."
)]
#[serde(rename_all = "camelCase")]
pub struct RoutingRuleSpec {
    /// The OutboundGateway that obeys this rule.
    #[serde(default)]
    pub gateway_ref: GatewayRef,
    /// For people: what the rule is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1000))]
    pub description: Option<String>,
    /// A rule that is not enabled does nothing.
    #[serde(default = "scope::enabled")]
    pub enabled: bool,
    /// Decides which of two rules wins where they contradict each other: 1 before 1000.
    #[serde(default = "scope::priority")]
    #[schemars(range(min = 1, max = 1000))]
    pub priority: u16,
    /// Which messages: at least one of Outbound, Inbound, InternalSending, InternalReceiving.
    #[schemars(length(min = 1, max = 4), transform = atomic)]
    pub messages: Vec<Direction>,
    /// Narrows the rule to some senders or recipients.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub envelope: Option<Envelope>,
    /// What happens: exactly one of `reject` and `modify`.
    pub action: Action,
}
