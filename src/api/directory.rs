//! Directory: who belongs to the organisation, and in which unit.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::checks;
use super::ldap::Ldap;
use super::refs::GatewayRef;
use super::schema::{atomic, cel, each_len, pattern};
use super::scope;
use super::status::ListStatus;

/// Units, users and groups of the organisation. An OutboundGateway uses the one its `directoryRef` names.
#[derive(CustomResource, Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "postern.dev",
    version = "v1alpha1",
    kind = "Directory",
    namespaced,
    shortname = "dir",
    category = "postern",
    status = "ListStatus",
    derive = "PartialEq",
    doc = "A Directory says who belongs to the organisation: users with their units, and groups with their members."
)]
#[serde(rename_all = "camelCase")]
pub struct DirectorySpec {
    /// The OutboundGateway this is for; it must name the Directory in its `directoryRef`.
    #[serde(default)]
    pub gateway_ref: GatewayRef,
    /// Units that say something of their own. A unit needs no entry here to exist.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1000), transform = atomic)]
    pub units: Vec<Unit>,
    /// The organisation's people and machines that send and receive mail.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 10_000), transform = atomic)]
    pub users: Vec<User>,
    /// Addresses that stand for several others.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 2000), transform = atomic)]
    pub groups: Vec<Group>,
    /// An LDAP server that has further users and groups. Where an address is in the lists above too, the lists count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ldap: Option<Ldap>,
    /// What becomes of an own sender that is neither a user nor a group. RootUnit: it counts as a user in
    /// `/`. Refuse: its mail is refused with 550 5.7.1.
    #[serde(default)]
    pub unknown_senders: UnknownSenders,
}

/// A unit that says something of its own.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Unit {
    /// Its place in the tree, such as `/sales/export`.
    #[schemars(length(min = 1, max = 255), transform = cel(&[checks::UNIT]))]
    pub path: String,
    /// Rules of units above that do not apply here and below, such as `RoutingRule/big-files`; a rule of
    /// another namespace as `ComplianceRule/<namespace>/<name>`. A mandatory rule cannot be disabled.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 100), transform = atomic, transform = each_len(1, 350), transform = pattern(checks::RULE_NAME_FORM))]
    pub disabled_rules: Vec<String>,
}

/// Somebody who sends and receives mail.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct User {
    /// The address. Case is ignored.
    #[schemars(length(min = 1, max = 320), transform = cel(&[checks::ADDRESS]))]
    pub address: String,
    /// Other addresses of the same user, in the same unit and in the same groups.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 50), transform = atomic, transform = each_len(1, 320))]
    pub aliases: Vec<String>,
    /// The unit; rules of the units above apply too.
    #[serde(default = "scope::root_unit")]
    #[schemars(length(min = 1, max = 255), transform = pattern(checks::UNIT_FORM))]
    pub unit: String,
}

/// An address that stands for several others. Groups have no unit: rules of `/` are for them.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct Group {
    /// The address. Case is ignored.
    #[schemars(length(min = 1, max = 320), transform = cel(&[checks::ADDRESS]))]
    pub address: String,
    /// Addresses of users, of other groups, and of people outside. Members of a group that is a member
    /// count as members here too.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 10_000), transform = atomic, transform = each_len(1, 320))]
    pub members: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub enum UnknownSenders {
    #[default]
    RootUnit,
    Refuse,
}
