//! RoutingRule: what happens to messages by where they come from and go to.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::action::Action;
use super::checks;
use super::refs::GatewayRef;
use super::schema::{atomic, cel};
use super::scope::{self, AccountType, AddressLists, Direction, Envelope, Mode};
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
#[schemars(transform = cel(checks::RULE))]
pub struct RoutingRuleSpec {
    /// The OutboundGateway that obeys this rule.
    #[serde(default)]
    pub gateway_ref: GatewayRef,
    /// For people: what the rule is for. Two rules of one unit with the same description get a warning.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1000))]
    pub description: Option<String>,
    /// A rule that is not enabled does nothing.
    #[serde(default = "scope::enabled")]
    pub enabled: bool,
    /// Enforce: the rule acts. Shadow: it is judged and counted, and has no effect.
    #[serde(default)]
    pub mode: Mode,
    /// Decides which of two rules wins where they contradict each other: 1 before 1000.
    #[serde(default = "scope::priority")]
    #[schemars(range(min = 1, max = 1000))]
    pub priority: u16,
    /// The unit of the gateway's Directory that the rule is for, such as `/sales/export`; units below
    /// inherit it. `/` is everybody. The sender's unit counts for sent mail, the recipient's for received
    /// mail.
    #[serde(default = "scope::root_unit")]
    #[schemars(length(min = 1, max = 255), transform = cel(&[checks::UNIT]))]
    pub organizational_unit: String,
    /// Units below cannot disable the rule, and it goes ahead of theirs.
    #[serde(default)]
    pub mandatory: bool,
    /// Which messages: at least one of Outbound, Inbound, InternalSending, InternalReceiving.
    #[schemars(length(min = 1, max = 4), transform = atomic)]
    pub messages: Vec<Direction>,
    /// Whose mail: at least one of Users, Groups (mail that a group forwards or receives) and Unrecognized
    /// (mail to own addresses that the Directory does not know; received mail only).
    #[serde(default = "scope::users")]
    #[schemars(length(min = 1, max = 3), transform = atomic)]
    pub account_types: Vec<AccountType>,
    /// Narrows the rule by address lists, or exempts from it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address_lists: Option<AddressLists>,
    /// Narrows the rule to some senders or recipients.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub envelope: Option<Envelope>,
    /// What happens: exactly one of `reject`, `quarantine` and `modify`.
    pub action: Action,
}
