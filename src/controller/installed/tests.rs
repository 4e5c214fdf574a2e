use k8s_openapi::api::coordination::v1::LeaseSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use serde_json::json;

use super::*;

#[test]
fn versions_are_read_as_providers_write_them() {
    assert_eq!(too_old("1", "31"), None);
    assert_eq!(too_old("1", "35+"), None);
    assert_eq!(too_old("2", "0"), None);
    assert!(too_old("1", "30").unwrap().contains("needs 1.31"));
    assert!(too_old("1", "").unwrap().contains("cannot be read"));
}

#[test]
fn older_definitions_are_named_by_the_fields_they_lack() {
    let own = json!({"properties": {
        "spec": {"properties": {"old": {}, "new": {}, "list": {"items": {"properties": {"a": {}, "b": {}}}}}},
    }});
    let served = |spec: Value| {
        let kind = json!([{"group": GROUP, "kind": "OutboundRoute", "version": VERSION}]);
        let schema = json!({"x-kubernetes-group-version-kind": kind, "properties": {"spec": spec}});
        json!({"components": {"schemas": {"dev.postern.v1alpha1.OutboundRoute": schema}}})
    };
    let same = served(own["properties"]["spec"].clone());
    assert_eq!(definition("OutboundRoute", &own, &same), None);
    let older = served(json!({"properties": {"old": {}, "list": {"items": {"properties": {"a": {}}}}}}));
    let said = definition("OutboundRoute", &own, &older).unwrap();
    assert!(said.starts_with("2 fields are missing") && said.contains("spec.list[].b"), "{said}");
    assert!(said.contains("spec.new"), "{said}");
    assert!(definition("RoutingRule", &own, &same).unwrap().contains("does not know it"));
}

#[test]
fn the_definitions_of_this_version_lack_nothing() {
    for crd in api::crds() {
        let schema = crd.spec.versions.into_iter().next().unwrap().schema.unwrap().open_api_v3_schema;
        let schema = serde_json::to_value(schema).unwrap();
        let mut missing = Vec::new();
        lacking("", &schema, &schema, &mut missing);
        assert!(missing.is_empty(), "{missing:?}");
        assert!(schema["properties"]["spec"]["properties"].is_object(), "{}", crd.spec.names.kind);
    }
}

#[test]
fn a_lease_says_whether_an_operator_works() {
    let now = Timestamp::from_second(1_000).unwrap();
    let lease = |holder: Option<&str>, renewed: Option<i64>| Lease {
        spec: Some(LeaseSpec {
            holder_identity: holder.map(str::to_owned),
            renew_time: renewed.map(|at| MicroTime(Timestamp::from_second(at).unwrap())),
            ..Default::default()
        }),
        ..Default::default()
    };
    assert_eq!(nobody_leads(&lease(Some("a"), Some(990)), now), None);
    // A clock that is a little ahead.
    assert_eq!(nobody_leads(&lease(Some("a"), Some(1_010)), now), None);
    assert!(nobody_leads(&lease(Some("a"), Some(900)), now).unwrap().contains("100 s"));
    assert!(nobody_leads(&lease(Some(""), Some(990)), now).unwrap().contains("nobody"));
    assert!(nobody_leads(&lease(None, None), now).unwrap().contains("nobody"));
    assert!(nobody_leads(&Lease::default(), now).is_some());
}
