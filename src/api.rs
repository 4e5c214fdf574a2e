//! What users write: one file per kind, with the rules the API server can check beside the fields.
//!
//! Start of the resource journey. The doc comment of a field is its manual page (`kubectl explain`).
//! Nothing here knows another module of ours, and nothing here decides: `translate` does.

pub mod action;
pub mod address_list;
pub mod checks;
pub mod clients;
pub mod columns;
pub mod compliance_rule;
pub mod conditions;
pub mod directory;
pub mod egress;
pub mod expression;
pub mod gateway;
pub mod ldap;
pub mod login;
pub mod modify;
pub mod pod;
pub mod quarantine;
pub mod refs;
pub mod rollout;
pub mod route;
pub mod routing_rule;
pub mod schema;
pub mod scope;
pub mod smime;
pub mod status;
pub mod tls_reports;
pub mod units;
pub mod yaml;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt as _;

pub use action::Action;
pub use address_list::{AddressList, AddressListSpec};
pub use compliance_rule::{ComplianceRule, ComplianceRuleSpec};
pub use directory::{Directory, DirectorySpec};
pub use gateway::{OutboundGateway, OutboundGatewaySpec};
pub use quarantine::{Quarantine, QuarantineSpec};
pub use refs::GatewayRef;
pub use route::{OutboundRoute, OutboundRouteSpec};
pub use routing_rule::{RoutingRule, RoutingRuleSpec};

pub const GROUP: &str = "postern.dev";
pub const VERSION: &str = "v1alpha1";
/// A Secret with this label set to `true` may be used whatever its type (design decision 3).
pub const USE_LABEL: &str = "postern.dev/use";
/// The one gateway name that is created when objects refer to it.
pub const DEFAULT_GATEWAY: &str = "default";
/// The quarantine that is there without a Quarantine object.
pub const DEFAULT_QUARANTINE: &str = "default";

/// The definitions of all kinds, as `postern crds` prints them and `crds/` keeps them.
pub fn crds() -> Vec<CustomResourceDefinition> {
    vec![
        schema::finish(OutboundGateway::crd(), columns::GATEWAY, &[checks::GATEWAY_NAME]),
        schema::finish(OutboundRoute::crd(), columns::ROUTE, &[]),
        schema::finish(RoutingRule::crd(), columns::RULE, &[]),
        schema::finish(ComplianceRule::crd(), columns::RULE, &[]),
        schema::finish(AddressList::crd(), columns::ADDRESS_LIST, &[]),
        schema::finish(Directory::crd(), columns::DIRECTORY, &[]),
        schema::finish(Quarantine::crd(), columns::QUARANTINE, &[]),
    ]
}

/// The same as YAML, one document each.
pub fn crds_yaml() -> String {
    crds().iter().map(|crd| format!("---\n{}", crd_yaml(crd))).collect()
}

/// One definition as YAML.
pub fn crd_yaml(crd: &CustomResourceDefinition) -> String {
    yaml::document(&serde_json::to_value(crd).expect("a definition is plain data"))
}

#[cfg(test)]
mod tests;
