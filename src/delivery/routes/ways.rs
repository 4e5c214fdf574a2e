//! Whether a way out is still the one it was: a hash over all that decides whether delivery can succeed. The record
//! itself is hashed, so a new field of routes counts by being there.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::bundle::document::{Bundle, Retry, Route, RouteLimits};
use crate::bundle::material::{Material, Materials};
use crate::mail::envelope::RouteName;

#[derive(Debug)]
pub struct Ways {
    /// Of the inline default route, or of no default route at all.
    normal: blake3::Hash,
    named: BTreeMap<RouteName, blake3::Hash>,
}

impl Ways {
    pub fn of(bundle: &Bundle, materials: &Materials, usable: impl Fn(&RouteName) -> bool) -> Self {
        let gateway = &bundle.gateway;
        let names = format!("{:?}", gateway.dns_servers);
        let normal = blake3::hash(format!("{:?} {names}", gateway.default_route).as_bytes());
        let usable = bundle.routes.iter().filter(|route| usable(&route.name()));
        let named = usable.map(|route| (route.name(), way(route, materials, &names))).collect();
        Self { normal, named }
    }

    pub fn normal(&self) -> blake3::Hash {
        self.normal
    }

    pub fn named(&self, name: &RouteName) -> Option<blake3::Hash> {
        self.named.get(name).copied()
    }

    pub fn has_new(&self, earlier: &Ways) -> bool {
        self.normal != earlier.normal
            || self.named.iter().any(|(name, way)| earlier.named(name) != Some(*way))
    }
}

fn way(route: &Route, materials: &Materials, names: &str) -> blake3::Hash {
    // How often and how much is tried says nothing about whether it can succeed.
    let mut route = Route {
        retry: Retry::default(),
        limits: RouteLimits::default(),
        probe_seconds: None,
        ..route.clone()
    };
    route.origin.generation = 0;
    let record = serde_json::to_value(&route).unwrap_or_default();
    let mut hasher = blake3::Hasher::new();
    hasher.update(names.as_bytes()).update(record.to_string().as_bytes());
    contents(&record, materials, &mut hasher);
    hasher.finalize()
}

/// The certificates and credentials that the record names, wherever in it.
fn contents(value: &Value, materials: &Materials, hasher: &mut blake3::Hasher) {
    match value {
        Value::Object(fields) => {
            if let Ok(material) = serde_json::from_value::<Material>(value.clone()) {
                let bytes = materials.get(&material).map_or(&[][..], |bytes| bytes);
                hasher.update(blake3::hash(bytes).as_bytes());
            }
            fields.values().for_each(|field| contents(field, materials, hasher));
        }
        Value::Array(items) => items.iter().for_each(|item| contents(item, materials, hasher)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bundle::document::{Gateway, HostPort, ObjectId, ObjectKind, Origin, RouteTarget, RouteTls};
    use crate::bundle::material::MaterialKind;

    fn ca() -> Material {
        let (namespace, name, key) = ("mail".into(), "ca".into(), "ca.crt".into());
        Material { kind: MaterialKind::ConfigMap, namespace, name, key }
    }

    fn origin(kind: ObjectKind, name: &str) -> Origin {
        let object = ObjectId { kind, namespace: "mail".into(), name: name.into() };
        Origin { object, uid: "1".into(), generation: 1 }
    }

    fn ways(change: impl Fn(&mut Route), ca_text: &str, broken: bool) -> Ways {
        let target = RouteTarget::MxOf(vec![HostPort { host: "relay.example".into(), port: 25 }]);
        let tls = RouteTls { ca: Some(ca()), ..RouteTls::opportunistic() };
        let mut route = Route::new(origin(ObjectKind::OutboundRoute, "relay"), target, tls);
        change(&mut route);
        let mut materials = Materials::default();
        materials.insert(ca(), ca_text.as_bytes());
        let gateway = Gateway::new(origin(ObjectKind::OutboundGateway, "default"));
        let bundle = Bundle { routes: vec![route], ..Bundle::new(gateway) };
        Ways::of(&bundle, &materials, |_| !broken)
    }

    #[test]
    fn a_way_is_new_when_delivery_may_go_better_and_else_it_is_not() {
        let before = || ways(|_| {}, "one", false);
        let cases: [(&str, bool, Ways); 7] = [
            ("nothing", false, before()),
            ("its text was saved again", false, ways(|route| route.origin.generation = 9, "one", false)),
            ("its schedule", false, ways(|route| route.retry.factor = 9.0, "one", false)),
            ("its TLS", true, ways(|route| route.tls.validate_hostname = true, "one", false)),
            ("its CA's certificates", true, ways(|_| {}, "two", false)),
            ("its hosts", true, ways(|route| route.target = RouteTarget::RecipientMx, "one", false)),
            ("it broke", false, ways(|_| {}, "one", true)),
        ];
        for (what, new, after) in cases {
            assert_eq!(after.has_new(&before()), new, "{what}");
        }
        assert!(before().has_new(&ways(|_| {}, "one", true)), "it was repaired");
    }
}
