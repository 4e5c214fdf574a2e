//! Objects of our kinds, from JSON to types. One that does not have the form of its kind is kept as
//! [`Malformed`]: it never stops a watch, and its author is told.

use std::sync::Arc;

use jiff::Timestamp;
use kube::ResourceExt;
use kube::api::DynamicObject;
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

/// An object that is there.
pub fn apply(state: &mut State, outline: &Bell, kind: ObjectKind, object: DynamicObject, now: Timestamp) {
    let id = id(kind, &object);
    let last = state.objects.get(&id);
    let entry = read(&id, object, last, now);
    let Some(last) = state.objects.insert(id.clone(), entry) else {
        changed(state, outline, &id, None);
        return;
    };
    let entry = &state.objects[&id];
    if super::older(&entry.resource_version, &last.resource_version) && entry.uid == last.uid {
        // Our own write is back already; this is the watch telling what was before.
        state.objects.insert(id, last);
        return;
    }
    if (entry.uid == last.uid, entry.generation, entry.deleting) != (true, last.generation, last.deleting) {
        let before = last.gateway.clone();
        changed(state, outline, &id, Some(before));
    } else if entry.status != last.status {
        // Nearly always our own; else somebody else's, which is to be put right.
        state.ring_cluster(&entry.gateway);
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
        .keys()
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

fn changed(state: &State, outline: &Bell, id: &ObjectId, before: Option<ObjectKey>) {
    let gateway = &state.objects[id].gateway;
    state.ring_spec(gateway);
    if let Some(before) = before.filter(|before| before != gateway) {
        state.ring_spec(&before);
    }
    outline.spec();
}

pub(super) fn id(kind: ObjectKind, object: &DynamicObject) -> ObjectId {
    ObjectId { kind, namespace: object.namespace().unwrap_or_default(), name: object.name_any() }
}

fn read(id: &ObjectId, object: DynamicObject, last: Option<&Entry>, now: Timestamp) -> Entry {
    let DynamicObject { types: _, mut metadata, data } = object;
    let managers = metadata.managed_fields.take().unwrap_or_default();
    let managers = managers.into_iter().filter_map(|entry| entry.manager).collect();
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
