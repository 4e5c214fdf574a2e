//! AddressList: addresses and domains under one name, shared by several rules.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::checks;
use super::refs::{ConfigMapKeyRef, GatewayRef};
use super::schema::{atomic, cel};
use super::status::ListStatus;

/// Addresses and domains that rules name in `addressLists`. A change of the list is a change of every rule
/// that names it.
#[derive(CustomResource, Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "postern.dev",
    version = "v1alpha1",
    kind = "AddressList",
    namespaced,
    shortname = "adl",
    category = "postern",
    status = "ListStatus",
    derive = "PartialEq",
    doc = "An AddressList holds e-mail addresses and domains under one name; rules apply only to them or exempt them."
)]
#[serde(rename_all = "camelCase")]
pub struct AddressListSpec {
    /// The OutboundGateway whose rules may name this list.
    #[serde(default)]
    pub gateway_ref: GatewayRef,
    /// For people: what the list is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1000))]
    pub description: Option<String>,
    /// Addresses and domains; larger lists go into `entriesFrom`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 2000), transform = atomic)]
    pub entries: Vec<Entry>,
    /// More entries, from ConfigMaps of this namespace: up to a million in all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 128), transform = atomic)]
    pub entries_from: Vec<EntriesFrom>,
}

/// Exactly one of `address` and `domain`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(transform = cel(&[checks::ENTRY_ONE_OF]))]
pub struct Entry {
    /// One address. Case is ignored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 320), transform = cel(&[checks::ADDRESS]))]
    pub address: Option<String>,
    /// A domain and its subdomains.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), transform = cel(&[checks::HOSTNAME]))]
    pub domain: Option<String>,
    /// Where a sender is looked up: the entry counts only if the From domain is authenticated by an aligned
    /// SPF or DKIM result. Without that anybody can claim the address.
    #[serde(default = "yes")]
    pub require_authentication: bool,
}

/// A list kept elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EntriesFrom {
    /// A key of a ConfigMap whose text holds addresses and domains separated by commas or white space; an
    /// entry with `@` is an address.
    pub config_map_ref: ConfigMapKeyRef,
    /// The same as on an entry, for all entries of this text.
    #[serde(default = "yes")]
    pub require_authentication: bool,
}

fn yes() -> bool {
    true
}
