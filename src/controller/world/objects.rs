//! Objects of our kinds, from JSON to types. One that does not have the form of its kind is kept as
//! [`Malformed`]: it never stops a watch, and its author is told.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::DynamicObject;
use kube::{Resource, ResourceExt};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::watch::Listed;
use super::{Bell, Entry, State, Written};
use crate::api::GatewayRef;
use crate::bundle::document::{ObjectId, ObjectKind};
use crate::controller::status::Status;
use crate::translate::resources::target;
use crate::translate::{Malformed, ObjectKey};

/// Where `kubectl apply` keeps what it applied last.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// An object that is there.
pub fn apply(state: &mut State, outline: &Bell, kind: ObjectKind, object: DynamicObject, now: Timestamp) {
    let id = id(kind, &object);
    let last = state.objects.get(&id).cloned();
    let entry = read(&id, object, last.as_deref(), now);
    let Some(last) = last else {
        let gateway = entry.gateway.clone();
        state.objects.insert(id.clone(), entry.into());
        changed(state, outline, &id, &gateway, None);
        return;
    };
    if super::older(&entry.resource_version, &last.resource_version) && entry.uid == last.uid {
        // Our own write is back already; this is the watch telling what was before.
        return;
    }
    if (entry.uid == last.uid, entry.generation, entry.deleting) != (true, last.generation, last.deleting) {
        let gateway = entry.gateway.clone();
        state.objects.insert(id.clone(), entry.into());
        changed(state, outline, &id, &gateway, Some(&last.gateway));
        return;
    }
    if entry.status == last.status || state.expected.get(&id) == Some(&entry.status) {
        // Known, or just written by us.
        state.objects.settle(&id, entry);
    } else {
        // Somebody else's, which is to be put right.
        let gateway = entry.gateway.clone();
        state.objects.insert(id, entry.into());
        state.ring_cluster(&gateway);
    }
}

pub fn delete(state: &mut State, outline: &Bell, kind: ObjectKind, object: &DynamicObject) {
    let id = id(kind, object);
    if let Some(last) = state.objects.remove(&id) {
        let before = last.gateway.clone();
        state.ring_spec(&before);
        outline.spec();
    }
}

/// After a complete list: what it did not hold is gone.
pub fn keep(state: &mut State, outline: &Bell, kind: ObjectKind, listed: &Listed) {
    let gone: Vec<ObjectId> = state
        .objects
        .all()
        .map(|(id, _)| id)
        .filter(|id| id.kind == kind && listed.lacks(&ObjectKey::new(&id.namespace, &id.name)))
        .cloned()
        .collect();
    for id in gone {
        if let Some(last) = state.objects.remove(&id) {
            state.ring_spec(&last.gateway);
            outline.spec();
        }
    }
}

/// Tells who must look again: the driver of its gateway and of the one it left, and who looks after gateways if
/// it is one, has none, or might have been the last that its former one was there for.
fn changed(state: &State, outline: &Bell, id: &ObjectId, gateway: &ObjectKey, before: Option<&ObjectKey>) {
    state.ring_spec(gateway);
    let left = before.filter(|before| *before != gateway);
    if let Some(left) = left {
        state.ring_spec(left);
    }
    let is_gateway = id.kind == ObjectKind::OutboundGateway;
    if is_gateway || left.is_some() || !state.objects.has_gateway(gateway) {
        outline.spec();
    }
}

pub(super) fn id(kind: ObjectKind, object: &DynamicObject) -> ObjectId {
    ObjectId { kind, namespace: object.namespace().unwrap_or_default(), name: object.name_any() }
}

fn read(id: &ObjectId, object: DynamicObject, last: Option<&Entry>, now: Timestamp) -> Entry {
    let DynamicObject { types: _, mut metadata, data } = object;
    let managers = metadata.managed_fields.take().unwrap_or_default();
    let managers = managers.into_iter().filter_map(|entry| entry.manager).collect();
    // A second copy of the whole spec.
    if let Some(annotations) = &mut metadata.annotations {
        annotations.remove(LAST_APPLIED);
    }
    let uid = metadata.uid.clone().unwrap_or_default();
    let generation = metadata.generation.unwrap_or(0);
    let seen = match last {
        Some(last) if last.uid == uid && last.generation == generation => last.seen,
        _ => now,
    };
    // A status that does not read is none: it will be written again.
    let status = data.get("status").and_then(|status| Status::deserialize(status).ok()).unwrap_or_default();
    let spec = data.get("spec").cloned();
    let resource_version = metadata.resource_version.clone().unwrap_or_default();
    let deleting = metadata.deletion_timestamp.is_some();
    // Nearly always this is a status of ours coming back: what was read before is the same then, and whoever
    // remembers what it made of it sees that.
    let known = last.filter(|last| {
        last.uid == uid
            && last.generation == generation
            && last.written.meta().is_some_and(|known| {
                (&known.labels, &known.annotations) == (&metadata.labels, &metadata.annotations)
            })
    });
    if let Some(Entry { written, gateway, .. }) = known {
        let (written, gateway) = (written.clone(), gateway.clone());
        return Entry {
            written,
            uid,
            generation,
            resource_version,
            seen,
            status,
            gateway,
            managers,
            deleting,
        };
    }
    let value = json!({
        "metadata": metadata,
        "spec": spec.clone().unwrap_or_else(|| Value::Object(Default::default())),
    });
    let written = match id.kind {
        ObjectKind::OutboundGateway => parse(value).map(|gateway| Written::Gateway(Arc::new(gateway))),
        ObjectKind::OutboundRoute => parse(value).map(|route| Written::Route(Arc::new(route))),
        ObjectKind::RoutingRule => parse(value).map(|rule| Written::RoutingRule(Arc::new(rule))),
        ObjectKind::ComplianceRule => parse(value).map(|rule| Written::ComplianceRule(Arc::new(rule))),
        ObjectKind::AddressList => parse(value).map(|list| Written::AddressList(Arc::new(list))),
        ObjectKind::Directory => parse(value).map(|directory| Written::Directory(Arc::new(directory))),
        ObjectKind::Quarantine => parse(value).map(|held| Written::Quarantine(Arc::new(held))),
    };
    let written = written.unwrap_or_else(|error| {
        let gateway_ref = spec
            .as_ref()
            .and_then(|spec| spec.get("gatewayRef"))
            .and_then(|reference| GatewayRef::deserialize(reference).ok());
        Written::Malformed(Malformed {
            object: id.clone(),
            uid: uid.clone(),
            generation,
            error,
            gateway_ref,
            spec,
        })
    });
    let own = || ObjectKey::new(&id.namespace, &id.name);
    let gateway = match &written {
        Written::Gateway(_) => own(),
        Written::Route(route) => target(&route.spec.gateway_ref, &id.namespace),
        Written::RoutingRule(rule) => target(&rule.spec.gateway_ref, &id.namespace),
        Written::ComplianceRule(rule) => target(&rule.spec.gateway_ref, &id.namespace),
        Written::AddressList(list) => target(&list.spec.gateway_ref, &id.namespace),
        Written::Directory(directory) => target(&directory.spec.gateway_ref, &id.namespace),
        Written::Quarantine(quarantine) => target(&quarantine.spec.gateway_ref, &id.namespace),
        Written::Malformed(_) if id.kind == ObjectKind::OutboundGateway => own(),
        Written::Malformed(malformed) => malformed.gateway(),
    };
    Entry { written, uid, generation, resource_version, seen, status, gateway, managers, deleting }
}

fn parse<K: DeserializeOwned>(value: Value) -> Result<K, String> {
    // The path says which field its author got wrong.
    serde_path_to_error::deserialize(value).map_err(|error| error.to_string())
}

impl Written {
    fn meta(&self) -> Option<&ObjectMeta> {
        Some(match self {
            Written::Gateway(gateway) => gateway.meta(),
            Written::Route(route) => route.meta(),
            Written::RoutingRule(rule) => rule.meta(),
            Written::ComplianceRule(rule) => rule.meta(),
            Written::AddressList(list) => list.meta(),
            Written::Directory(directory) => directory.meta(),
            Written::Quarantine(quarantine) => quarantine.meta(),
            Written::Malformed(_) => return None,
        })
    }
}

impl Entry {
    /// What the ACTION column of a rule shows.
    pub fn action(&self) -> Option<String> {
        let action = match &self.written {
            Written::RoutingRule(rule) => &rule.spec.action,
            Written::ComplianceRule(rule) => &rule.spec.action,
            Written::Gateway(_)
            | Written::Route(_)
            | Written::AddressList(_)
            | Written::Directory(_)
            | Written::Quarantine(_)
            | Written::Malformed(_) => return None,
        };
        Some(action.verb().to_owned())
    }
}

#[cfg(test)]
mod tests;
