//! What runs a gateway, as Kubernetes objects. Pure: gateway and bundle in, objects out; no client, no clock.
//!
//! Everything is owned by its OutboundGateway, so deleting that leaves nothing behind, and no finalizer can
//! hang a namespace. [`Objects`] is taken apart field by field where it is applied: an object that is
//! forgotten there does not compile.

mod network;
mod pods;
pub mod publication;
mod service;
pub mod shelves;

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ConfigMap, Secret, Service};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, OwnerReference};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::{Resource, ResourceExt};

use crate::api::OutboundGateway;
use crate::bundle::Bundle;
use crate::controller::authority::Pair;

/// The label that says which gateway an object belongs to; what carries it is ours.
pub const GATEWAY_LABEL: &str = "postern.dev/gateway";
/// The annotation of a pod that makes the kubelet refresh its mounts at once (design decision 3).
pub const REVISION_ANNOTATION: &str = "postern.dev/revision";

pub const ADMIN_PORT: u16 = 8025;
pub const CONTROL_PORT: u16 = 8026;

/// ConfigMaps and Secrets are all mounted from the start, so that a new one never restarts a pod.
pub const BUNDLE_MAPS: u8 = 32;
pub const SECRET_COPIES: u8 = 8;

/// What the operator knows of itself.
#[derive(Debug, Clone)]
pub struct Site {
    /// The image the gateway pods run: the operator's own.
    pub image: String,
    /// The namespace of the operator: from there the control port may be asked.
    pub namespace: String,
}

/// Everything that is applied as a whole. The bundle, the copies of secrets and the control certificate
/// have their own, more careful way.
pub struct Objects {
    pub service: Service,
    pub headless: Service,
    pub network_policy: NetworkPolicy,
    pub disruption_budget: PodDisruptionBudget,
    pub stateful_set: StatefulSet,
}

pub fn build(gateway: &OutboundGateway, bundle: &Bundle, site: &Site) -> Objects {
    Objects {
        service: service::for_clients(gateway, bundle),
        headless: service::headless(gateway),
        network_policy: network::policy(gateway, bundle, site),
        disruption_budget: disruption_budget(gateway),
        stateful_set: pods::stateful_set(gateway, bundle, site),
    }
}

pub fn bundle_map_name(gateway: &str, number: u8) -> String {
    format!("{gateway}-bundle-{number}")
}

pub fn secret_copy_name(gateway: &str, number: u8) -> String {
    format!("{gateway}-secrets-{number}")
}

pub fn control_secret_name(gateway: &str) -> String {
    format!("{gateway}-control")
}

pub fn headless_name(gateway: &str) -> String {
    format!("{gateway}-pods")
}

/// The volume claim of each pod is `spool-<gateway>-<ordinal>`.
pub const SPOOL_VOLUME: &str = "spool";

/// An empty ConfigMap for segments.
pub fn bundle_map(gateway: &OutboundGateway, number: u8) -> ConfigMap {
    let metadata = meta(gateway, bundle_map_name(&gateway.name_any(), number));
    ConfigMap { metadata, ..Default::default() }
}

/// An empty Secret for copies of named secrets.
pub fn secret_copy(gateway: &OutboundGateway, number: u8) -> Secret {
    let metadata = meta(gateway, secret_copy_name(&gateway.name_any(), number));
    Secret { metadata, type_: Some("Opaque".to_owned()), ..Default::default() }
}

/// What the pods of a gateway answer with on the control port, and whom they trust there.
pub fn control_secret(gateway: &OutboundGateway, pair: &Pair, ca: &str) -> Secret {
    let metadata = meta(gateway, control_secret_name(&gateway.name_any()));
    let data = BTreeMap::from([
        ("ca.crt".to_owned(), ByteString(ca.as_bytes().to_vec())),
        ("tls.crt".to_owned(), ByteString(pair.certificate.as_bytes().to_vec())),
        ("tls.key".to_owned(), ByteString(pair.key.as_bytes().to_vec())),
    ]);
    Secret { metadata, type_: Some("kubernetes.io/tls".to_owned()), data: Some(data), ..Default::default() }
}

fn disruption_budget(gateway: &OutboundGateway) -> PodDisruptionBudget {
    PodDisruptionBudget {
        metadata: meta(gateway, gateway.name_any()),
        spec: Some(PodDisruptionBudgetSpec {
            max_unavailable: Some(IntOrString::Int(1)),
            selector: Some(selector(gateway)),
            unhealthy_pod_eviction_policy: Some("AlwaysAllow".to_owned()),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// Name, namespace, labels and owner of an object of this gateway.
pub fn meta(gateway: &OutboundGateway, name: String) -> ObjectMeta {
    ObjectMeta {
        name: Some(name),
        namespace: gateway.namespace(),
        labels: Some(labels(&gateway.name_any())),
        owner_references: Some(vec![owner(gateway)]),
        ..Default::default()
    }
}

/// Whether an object of the gateway `name` has its labels still, and its owner.
pub fn is_dressed<K: Resource>(object: &K, name: &str, owner: &str) -> bool {
    let worn = object.labels();
    labels(name).iter().all(|(key, value)| worn.get(key) == Some(value))
        && object.owner_references().iter().any(|reference| reference.uid == owner)
}

/// Written out rather than by kube's helper: that one blocks the owner's deletion, which needs a right on
/// finalizers that nothing else needs.
fn owner(gateway: &OutboundGateway) -> OwnerReference {
    OwnerReference {
        api_version: OutboundGateway::api_version(&()).into_owned(),
        kind: OutboundGateway::kind(&()).into_owned(),
        name: gateway.name_any(),
        uid: gateway.uid().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: None,
    }
}

pub fn labels(gateway: &str) -> BTreeMap<String, String> {
    [
        ("app.kubernetes.io/name", "postern"),
        ("app.kubernetes.io/component", "gateway"),
        ("app.kubernetes.io/managed-by", "postern"),
        ("app.kubernetes.io/instance", gateway),
        (GATEWAY_LABEL, gateway),
    ]
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .into()
}

/// The pods of a gateway. As text for the scale subresource: [`selector_text`].
fn selector(gateway: &OutboundGateway) -> LabelSelector {
    let labels = BTreeMap::from([(GATEWAY_LABEL.to_owned(), gateway.name_any())]);
    LabelSelector { match_labels: Some(labels), ..Default::default() }
}

pub fn selector_text(gateway: &str) -> String {
    format!("{GATEWAY_LABEL}={gateway}")
}

#[cfg(test)]
mod tests;
