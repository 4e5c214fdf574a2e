//! What an OutboundGateway passes on to its pods, their Service and their NetworkPolicy.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Affinity, ResourceRequirements, Toleration, TopologySpreadConstraint};
use k8s_openapi::api::networking::v1::NetworkPolicyPeer;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::checks;
use super::schema::{atomic, cel, each, each_len, passed_on, passed_on_list, texts};

/// Passed on to the pods as it is.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Pod {
    /// CPU and memory of the gateway container. The memory limit also bounds how much mail is held in
    /// memory at a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "passed_on")]
    pub resources: Option<ResourceRequirements>,
    /// Labels of nodes that may run the pods.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "texts")]
    pub node_selector: BTreeMap<String, String>,
    /// Taints of nodes that the pods tolerate.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "passed_on_list")]
    pub tolerations: Vec<Toleration>,
    /// Where pods prefer or have to run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "passed_on")]
    pub affinity: Option<Affinity>,
    /// How pods spread over nodes and zones.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "passed_on_list")]
    pub topology_spread_constraints: Vec<TopologySpreadConstraint>,
    /// Annotations of the pods.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "texts")]
    pub annotations: BTreeMap<String, String>,
    /// Labels of the pods, beside those that Postern sets.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "texts")]
    pub labels: BTreeMap<String, String>,
}

/// The Service that mail clients use.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(transform = cel(&[checks::POLICY_NEEDS_OUTSIDE, checks::LOAD_BALANCER_ONLY]))]
pub struct Service {
    /// ClusterIP, NodePort or LoadBalancer.
    #[serde(rename = "type", default)]
    pub kind: ServiceType,
    /// Annotations of the Service.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "texts")]
    pub annotations: BTreeMap<String, String>,
    /// Local keeps the addresses of clients, which `clients.cidrs` needs; it is the default for NodePort
    /// and LoadBalancer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external_traffic_policy: Option<ExternalTrafficPolicy>,
    /// Which load balancer serves the Service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub load_balancer_class: Option<String>,
    /// Networks that the load balancer lets through.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 100), transform = atomic, transform = each_len(1, 49), transform = each(&[checks::CIDR]))]
    pub load_balancer_source_ranges: Vec<String>,
    /// SingleStack, PreferDualStack or RequireDualStack.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip_family_policy: Option<IpFamilyPolicy>,
    /// IPv4, IPv6 or both, the first one first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 2), transform = atomic)]
    pub ip_families: Vec<IpFamily>,
}

impl Service {
    /// The traffic policy that holds, the default filled in; a ClusterIP Service has none.
    pub fn traffic_policy(&self) -> Option<ExternalTrafficPolicy> {
        match self.kind {
            ServiceType::ClusterIP => None,
            ServiceType::NodePort | ServiceType::LoadBalancer => {
                Some(self.external_traffic_policy.unwrap_or(ExternalTrafficPolicy::Local))
            }
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub enum ServiceType {
    #[default]
    ClusterIP,
    NodePort,
    LoadBalancer,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ExternalTrafficPolicy {
    Local,
    Cluster,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum IpFamilyPolicy {
    SingleStack,
    PreferDualStack,
    RequireDualStack,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum IpFamily {
    IPv4,
    IPv6,
}

/// What the NetworkPolicy of the pods lets through. Mail ports are open to everybody: the gateway itself
/// checks clients.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NetworkPolicy {
    /// Who may read metrics and health on port 8025, as peers of a NetworkPolicy; default: nobody but the
    /// node.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "passed_on_list")]
    pub metrics_from: Vec<NetworkPolicyPeer>,
    /// Restrict what the pods may reach to name servers and the hosts and ports that routes name.
    #[serde(default)]
    pub egress: bool,
}
