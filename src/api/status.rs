//! What the operator says of an object, and how far its last change has come.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::schema::{atomic, conditions, each_len};

/// Status of a Quarantine.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ObjectStatus {
    /// The generation this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Accepted (understood), ResolvedRefs (what it names exists), Programmed (published), Ready (every
    /// serving pod decides its next transaction by this generation).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "conditions")]
    pub conditions: Vec<Condition>,
    /// How this generation reached the pods. It does not change any more once it is complete.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout: Option<Rollout>,
}

/// Status of an OutboundRoute.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RouteStatus {
    /// The generation this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Accepted (understood), ResolvedRefs (what it names exists), Programmed (published), Ready (every
    /// serving pod decides its next transaction by this generation), TLSVerified (the hosts pass the TLS test
    /// on the terms of this route; False says why, what helps, and what becomes of mail).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "conditions")]
    pub conditions: Vec<Condition>,
    /// How this generation reached the pods. It does not change any more once it is complete.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout: Option<Rollout>,
    /// What the tests of the hosts found. Written when they find something new.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probe: Option<ProbeStatus>,
}

/// What the tests of the hosts of a route found.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProbeStatus {
    /// When a test found this first. Later ones that found the same do not change it: the times of the last
    /// tests are at /status of the pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "time")]
    pub since: Option<Timestamp>,
    /// Pods that have tested it.
    #[serde(default)]
    pub pods_tested: u32,
    /// Pods from which every host passed.
    #[serde(default)]
    pub pods_passed: u32,
    /// The pods one by one, those that failed first; at most 20.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 20), transform = atomic)]
    pub pods: Vec<PodProbe>,
    /// The hosts, as the first of these pods found them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), transform = atomic)]
    pub hosts: Vec<HostStatus>,
}

/// What one pod found.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PodProbe {
    #[schemars(length(max = 253))]
    pub name: String,
    /// Verified, or why not; of the first host that failed.
    #[schemars(length(max = 64))]
    pub reason: String,
    /// Hosts that failed from there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), transform = atomic, transform = each_len(1, 300))]
    pub failed: Vec<String>,
}

/// What is known of a host.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HostStatus {
    #[schemars(length(max = 253))]
    pub host: String,
    pub port: u16,
    /// Verified, or why not.
    #[schemars(length(max = 64))]
    pub reason: String,
    /// The addresses of its name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), transform = atomic, transform = each_len(1, 64))]
    pub addresses: Vec<String>,
    /// Such as TLSv1.3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub tls_version: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    pub cipher: Option<String>,
    /// What it shows, whether or not the route is content with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<CertificateStatus>,
    /// What it offers after EHLO.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), transform = atomic, transform = each_len(0, 256))]
    pub extensions: Vec<String>,
}

/// A host's certificate.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CertificateStatus {
    #[schemars(length(max = 256))]
    pub subject: String,
    /// Host names and addresses it is good for; at most 20.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 20), transform = atomic, transform = each_len(0, 256))]
    pub names: Vec<String>,
    #[schemars(length(max = 256))]
    pub issuer: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "time")]
    pub not_after: Option<Timestamp>,
    /// Whole days until then; negative: since then.
    #[serde(default)]
    pub days_left: i64,
}

/// Status of a rule.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RuleStatus {
    /// The generation this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Accepted (understood), ResolvedRefs (what it names exists), Programmed (published), Ready (every
    /// serving pod decides its next transaction by this generation).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "conditions")]
    pub conditions: Vec<Condition>,
    /// How this generation reached the pods. It does not change any more once it is complete.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout: Option<Rollout>,
    /// What the rule does, for the ACTION column: Reject, Quarantine or Modify.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub action: Option<String>,
}

/// Status of an AddressList or a Directory.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ListStatus {
    /// The generation this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Accepted (understood), ResolvedRefs (what it names exists), Programmed (published), Ready (every
    /// serving pod decides its next transaction by this generation).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "conditions")]
    pub conditions: Vec<Condition>,
    /// How this generation reached the pods. It does not change any more once it is complete.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout: Option<Rollout>,
    /// How many addresses and domains it holds, all sources together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entries: Option<u64>,
}

/// Status of an OutboundGateway.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GatewayStatus {
    /// The generation this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Accepted (understood), ResolvedRefs (what it names exists), Programmed (published), Ready (every
    /// serving pod runs the newest revision), AcceptsMail (some client may relay).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "conditions")]
    pub conditions: Vec<Condition>,
    /// The live picture: which revision the pods run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout: Option<Rollout>,
    /// Of a staged rollout that is under way: where it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stage: Option<Stage>,
    /// Number of pods, for the scale subresource.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<i32>,
    /// Label selector of the pods, for autoscalers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub selector: Option<String>,
}

/// How far a change has come.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Rollout {
    /// Content hash of what was published.
    #[serde(default)]
    #[schemars(length(max = 64))]
    pub revision: String,
    /// Pods that count: those that serve.
    #[serde(default)]
    pub pods_total: u32,
    /// Pods that have it.
    #[serde(default)]
    pub pods_updated: u32,
    /// Pods that do not have it, or do not count; at most 20 names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 20), transform = atomic, transform = each_len(1, 253))]
    pub stale_pods: Vec<String>,
    /// When the operator saw the change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "time")]
    pub started_at: Option<Timestamp>,
    /// When the last pod had it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "time")]
    pub completed_at: Option<Timestamp>,
    /// From `startedAt` to `completedAt`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub propagation_millis: Option<u64>,
    /// Why a pod refused it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 4096))]
    pub last_error: Option<String>,
}

/// Where a staged rollout is.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Stage {
    /// Content hash of what some pods have already.
    #[schemars(length(max = 64))]
    pub revision: String,
    /// The step, from 1.
    pub step: u32,
    /// How many steps there are before all pods have it.
    pub steps: u32,
    /// The pods that have it or get it now; at most 20 names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 20), transform = atomic, transform = each_len(1, 253))]
    pub pods: Vec<String>,
    /// Of the named pods, those that obey it.
    #[serde(default)]
    pub pods_updated: u32,
    /// When the step began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "time")]
    pub since: Option<Timestamp>,
    /// When it ends, if nothing goes wrong; absent while a pod is waited for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "time")]
    pub until: Option<Timestamp>,
}

fn time(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({"type": "string", "format": "date-time", "maxLength": 64})
}
