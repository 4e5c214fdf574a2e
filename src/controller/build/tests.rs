use serde_json::{Value, json};

use super::*;
use crate::api::OutboundGatewaySpec;
use crate::translate::{ObjectKey, Resources, translate};

/// A gateway as its author wrote it, and all objects made for it.
fn objects(spec: Value) -> Objects {
    let spec: OutboundGatewaySpec = serde_json::from_value(spec).unwrap();
    let mut gateway = OutboundGateway::new("default", spec);
    gateway.metadata.namespace = Some("mail".to_owned());
    gateway.metadata.uid = Some("uid-1".to_owned());
    gateway.metadata.generation = Some(1);
    let resources = Resources { gateways: vec![gateway.clone().into()], ..Resources::default() };
    let bundle =
        translate(&ObjectKey::new("mail", "default"), &resources, None).bundle.expect("a valid gateway");
    let site = Site { image: "postern:test".to_owned(), namespace: "postern-system".to_owned() };
    build(&gateway, &bundle, &site)
}

fn json(object: impl serde::Serialize) -> Value {
    serde_json::to_value(object).unwrap()
}

fn at<'a>(value: &'a Value, path: &str) -> &'a Value {
    value.pointer(path).unwrap_or(&Value::Null)
}

#[test]
fn every_object_is_owned_by_its_gateway_and_blocks_nothing() {
    let Objects { service, headless, network_policy, disruption_budget, stateful_set } = objects(json!({}));
    for object in
        [json(service), json(headless), json(network_policy), json(disruption_budget), json(stateful_set)]
    {
        let owner = at(&object, "/metadata/ownerReferences/0");
        assert_eq!(owner["uid"], "uid-1");
        assert_eq!(owner["controller"], true);
        assert_eq!(owner.get("blockOwnerDeletion"), None);
        assert_eq!(object["metadata"]["labels"][GATEWAY_LABEL], "default");
        assert_eq!(object["metadata"]["namespace"], "mail");
        assert_eq!(at(&object, "/metadata/finalizers"), &Value::Null);
    }
}

#[test]
fn pods_meet_the_restricted_standard_and_hold_no_credentials() {
    let set = json(objects(json!({})).stateful_set);
    let pod = at(&set, "/spec/template/spec");
    assert_eq!(pod["automountServiceAccountToken"], false);
    assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
    assert_eq!(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault");
    let container = &pod["containers"][0]["securityContext"];
    assert_eq!(container["allowPrivilegeEscalation"], false);
    assert_eq!(container["readOnlyRootFilesystem"], true);
    assert_eq!(container["capabilities"]["drop"], json!(["ALL"]));
    assert_eq!(container["capabilities"].get("add"), None);
    let token = |volume: &Value| volume.to_string().contains("serviceAccountToken");
    assert!(!pod["volumes"].as_array().unwrap().iter().any(token));
}

#[test]
fn every_config_map_and_secret_is_mounted_from_the_start() {
    let set = json(objects(json!({})).stateful_set);
    let volumes = at(&set, "/spec/template/spec/volumes").as_array().unwrap().clone();
    let sources = |name: &str| {
        let volume = volumes.iter().find(|volume| volume["name"] == name).unwrap();
        at(volume, "/projected/sources").as_array().unwrap().clone()
    };
    let maps = sources("bundle");
    assert_eq!(maps.len(), 32);
    assert_eq!(maps[31], json!({"configMap": {"name": "default-bundle-31", "optional": true}}));
    let secrets = sources("secrets");
    assert_eq!(secrets.len(), 8);
    assert_eq!(secrets[7], json!({"secret": {"name": "default-secrets-7", "optional": true}}));
}

#[test]
fn low_ports_are_bound_high_and_the_service_names_them_by_number() {
    let Objects { service, network_policy, stateful_set, .. } = objects(json!({"listeners": [
        {"name": "smtp", "port": 25}, {"name": "submission", "port": 2525},
    ]}));
    let (service, policy, set) = (json(service), json(network_policy), json(stateful_set));
    assert_eq!(
        at(&service, "/spec/ports"),
        &json!([
            {"name": "smtp", "port": 25, "targetPort": 10025, "protocol": "TCP"},
            {"name": "submission", "port": 2525, "targetPort": 2525, "protocol": "TCP"},
        ])
    );
    let mail = at(&policy, "/spec/ingress/0");
    assert_eq!(
        mail,
        &json!({"ports": [{"port": 10025, "protocol": "TCP"}, {"port": 2525, "protocol": "TCP"}]})
    );
    let ports = at(&set, "/spec/template/spec/containers/0/ports").as_array().unwrap().clone();
    let numbers: Vec<i64> = ports.iter().map(|port| port["containerPort"].as_i64().unwrap()).collect();
    assert_eq!(numbers, [10025, 2525, 8025, 8026]);
}

#[test]
fn the_control_port_is_for_the_controller_and_the_gateways_own_pods() {
    let policy = json(objects(json!({})).network_policy);
    let control = at(&policy, "/spec/ingress/1");
    assert_eq!(at(control, "/ports/0/port"), 8026);
    let from = control["from"].as_array().unwrap();
    assert_eq!(from.len(), 2);
    assert_eq!(
        at(&from[0], "/namespaceSelector/matchLabels"),
        &json!({"kubernetes.io/metadata.name": "postern-system"})
    );
    assert_eq!(at(&from[1], "/podSelector/matchLabels"), &json!({GATEWAY_LABEL: "default"}));
    assert_eq!(at(&policy, "/spec/policyTypes"), &json!(["Ingress"]));
    assert_eq!(at(&policy, "/spec/ingress/2"), &Value::Null, "metrics are for nobody unless asked for");
}

#[test]
fn metrics_and_egress_open_only_what_is_asked_for() {
    let policy = json(
        objects(json!({
            "defaultRoute": {"host": "192.0.2.7", "port": 2525},
            "networkPolicy": {"egress": true, "metricsFrom": [{"namespaceSelector": {}}]},
        }))
        .network_policy,
    );
    assert_eq!(at(&policy, "/spec/ingress/2/ports/0/port"), 8025);
    assert_eq!(at(&policy, "/spec/policyTypes"), &json!(["Ingress", "Egress"]));
    let egress = at(&policy, "/spec/egress").as_array().unwrap().clone();
    let block =
        json!({"ports": [{"port": 2525, "protocol": "TCP"}], "to": [{"ipBlock": {"cidr": "192.0.2.7/32"}}]});
    assert!(egress.contains(&block), "{egress:#?}");
    let everywhere: Vec<&Value> = egress.iter().filter(|rule| rule.get("to").is_none()).collect();
    assert_eq!(everywhere.len(), 1, "only name servers may be anywhere: {everywhere:?}");
}

#[test]
fn claims_outlive_the_gateway_unless_its_author_says_otherwise() {
    let retention = |spec: Value| {
        let set = json(objects(spec).stateful_set);
        at(&set, "/spec/persistentVolumeClaimRetentionPolicy").clone()
    };
    assert_eq!(retention(json!({})), json!({"whenDeleted": "Retain", "whenScaled": "Retain"}));
    assert_eq!(
        retention(json!({"storage": {"onDelete": "Delete"}})),
        json!({"whenDeleted": "Delete", "whenScaled": "Retain"})
    );
    let ephemeral = json(objects(json!({"storage": {"ephemeral": true}})).stateful_set);
    assert_eq!(at(&ephemeral, "/spec/volumeClaimTemplates"), &Value::Null);
    let volumes = at(&ephemeral, "/spec/template/spec/volumes").as_array().unwrap().clone();
    assert!(volumes.iter().any(|volume| volume["name"] == "spool" && volume["emptyDir"].is_object()));
}

#[test]
fn client_addresses_survive_a_load_balancer() {
    let spec = |spec: Value| at(&json(objects(spec).service), "/spec").clone();
    assert_eq!(spec(json!({"service": {"type": "LoadBalancer"}}))["externalTrafficPolicy"], "Local");
    assert_eq!(spec(json!({}))["externalTrafficPolicy"], Value::Null);
    assert_eq!(spec(json!({}))["type"], "ClusterIP");
}

#[test]
fn what_the_author_passes_on_reaches_the_pods_but_never_replaces_our_labels() {
    let set = json(
        objects(json!({"pod": {
            "labels": {"team": "mail", GATEWAY_LABEL: "other"},
            "annotations": {"a": "b"},
            "nodeSelector": {"disk": "ssd"},
            "resources": {"limits": {"memory": "2Gi"}},
        }}))
        .stateful_set,
    );
    let template = at(&set, "/spec/template");
    assert_eq!(template["metadata"]["labels"]["team"], "mail");
    assert_eq!(template["metadata"]["labels"][GATEWAY_LABEL], "default");
    assert_eq!(template["metadata"]["annotations"], json!({"a": "b"}));
    assert_eq!(template["spec"]["nodeSelector"], json!({"disk": "ssd"}));
    assert_eq!(at(template, "/spec/containers/0/resources/limits/memory"), "2Gi");
}
