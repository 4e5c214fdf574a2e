//! Who reaches which port, by the NetworkPolicies that operator and chart make.

use postern::api::{OutboundGateway, OutboundGatewaySpec};
use postern::controller::build::{Site, build};
use postern::translate::{ObjectKey, Resources, translate};
use serde_json::{Value, json};

use crate::support::chart::{named, rendered};
use crate::support::netpol::{Someone, enters, leaves};

/// The policy of a gateway `default` in `mail`.
fn of_gateway(spec: Value) -> Vec<Value> {
    let spec: OutboundGatewaySpec = serde_json::from_value(spec).expect("a spec");
    let mut gateway = OutboundGateway::new("default", spec);
    gateway.metadata.namespace = Some("mail".to_owned());
    gateway.metadata.uid = Some("uid-1".to_owned());
    gateway.metadata.generation = Some(1);
    let resources = Resources { gateways: vec![gateway.clone().into()], ..Resources::default() };
    let key = ObjectKey::new("mail", "default");
    let bundle = translate(&key, &resources, None).bundle.expect("a valid gateway");
    let site = Site { image: "postern:test".to_owned(), namespace: "postern-system".to_owned() };
    vec![serde_json::to_value(build(&gateway, &bundle, &site).network_policy).expect("plain data")]
}

const GATEWAY: &[(&str, &str)] = &[
    ("app.kubernetes.io/name", "postern"),
    ("app.kubernetes.io/component", "gateway"),
    ("postern.dev/gateway", "default"),
];
const OPERATOR: &[(&str, &str)] = &[
    ("app.kubernetes.io/name", "postern"),
    ("app.kubernetes.io/component", "controller"),
    ("app.kubernetes.io/instance", "postern"),
];

fn gateway_pod() -> Someone {
    Someone::pod("mail", GATEWAY, "10.244.1.10")
}

/// Everybody who could want something, by name.
fn everybody() -> Vec<(&'static str, Someone)> {
    vec![
        ("the operator", Someone::pod("postern-system", OPERATOR, "10.244.0.2")),
        ("a pod that calls itself operator", Someone::pod("mail", OPERATOR, "10.244.1.66")),
        (
            "another pod of the operator's namespace",
            Someone::pod("postern-system", &[("app", "x")], "10.244.0.3"),
        ),
        ("a pod of the gateway", Someone::pod("mail", GATEWAY, "10.244.1.11")),
        ("a gateway of another namespace", Someone::pod("other", GATEWAY, "10.244.1.67")),
        (
            "another gateway of the namespace",
            Someone::pod("mail", &[GATEWAY[0], GATEWAY[1], ("postern.dev/gateway", "bulk")], "10.244.1.12"),
        ),
        ("a mail client in the namespace", Someone::pod("mail", &[("app", "shop")], "10.244.1.20")),
        ("a mail client elsewhere", Someone::pod("shop", &[("app", "shop")], "10.244.1.21")),
        ("prometheus", Someone::pod("monitoring", &[("app", "prometheus")], "10.244.1.30")),
        ("somebody outside", Someone::outside("203.0.113.9")),
    ]
}

fn who_enters(policies: &[Value], port: u16) -> Vec<&'static str> {
    let to = gateway_pod();
    let all = everybody().into_iter();
    all.filter(|(_, from)| enters(policies, from, &to, "TCP", port)).map(|(name, _)| name).collect()
}

#[test]
fn everybody_reaches_the_mail_ports_and_nobody_but_operator_and_own_pods_the_control_port() {
    let policies = of_gateway(json!({"listeners": [
        {"name": "smtp", "port": 25}, {"name": "submission", "port": 2525},
    ]}));
    for port in [10025, 2525] {
        assert_eq!(who_enters(&policies, port).len(), everybody().len(), "{port}");
    }
    assert_eq!(who_enters(&policies, 8026), ["the operator", "a pod of the gateway"]);
    assert_eq!(who_enters(&policies, 8025), [""; 0], "metrics are for nobody unless asked for");
    for port in [25, 22, 80, 10026] {
        assert_eq!(who_enters(&policies, port), [""; 0], "{port}");
    }
    assert!(!enters(&policies, &everybody()[0].1, &gateway_pod(), "UDP", 8026));
}

#[test]
fn metrics_are_for_those_who_are_named() {
    let monitoring = json!({"networkPolicy": {"metricsFrom": [
        {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}},
    ]}});
    let policies = of_gateway(monitoring);
    assert_eq!(who_enters(&policies, 8025), ["prometheus"]);
    assert_eq!(who_enters(&policies, 8026), ["the operator", "a pod of the gateway"]);
}

#[test]
fn a_gateway_without_an_egress_policy_is_free_to_leave() {
    let (policies, from) = (of_gateway(json!({})), gateway_pod());
    assert!(leaves(&policies, &from, &Someone::outside("203.0.113.9"), "TCP", 6443));
}

#[test]
fn with_an_egress_policy_a_gateway_reaches_what_its_bundle_names_and_never_the_api_server() {
    let policies = of_gateway(json!({
        "networkPolicy": {"egress": true},
        "defaultRoute": {"host": "192.0.2.7", "port": 2525},
        "dns": {"servers": ["192.0.2.53"]},
    }));
    let from = gateway_pod();
    let reaches =
        |to: &str, protocol: &str, port: u16| leaves(&policies, &from, &Someone::outside(to), protocol, port);
    assert!(reaches("192.0.2.7", "TCP", 2525));
    assert!(!reaches("192.0.2.8", "TCP", 2525), "a host given by address opens that address only");
    assert!(reaches("192.0.2.53", "UDP", 53) && reaches("192.0.2.53", "TCP", 53));
    assert!(!reaches("192.0.2.7", "TCP", 25) && !reaches("192.0.2.7", "TCP", 443));
    for port in [443, 6443, 8443, 10250, 2379] {
        assert!(!reaches("10.96.0.1", "TCP", port), "{port}");
    }
    let peer = Someone::pod("mail", GATEWAY, "10.244.1.11");
    assert!(leaves(&policies, &from, &peer, "TCP", 8026), "spools are handed over to peers");
    let stranger = Someone::pod("shop", &[("app", "shop")], "10.244.1.21");
    assert!(!leaves(&policies, &from, &stranger, "TCP", 8026));
    assert!(!leaves(&policies, &from, &stranger, "TCP", 80));
}

#[test]
fn delivery_by_mx_opens_the_mail_port_and_the_port_of_mta_sts_and_no_other() {
    let policies = of_gateway(json!({"networkPolicy": {"egress": true}}));
    let (from, world) = (gateway_pod(), Someone::outside("203.0.113.9"));
    let open: Vec<u16> =
        (1..=u16::MAX).filter(|port| leaves(&policies, &from, &world, "TCP", *port)).collect();
    assert_eq!(open, [25, 53, 443]);
    // Behind private addresses the same port is the API server's, or that of a cloud's metadata.
    for inside in ["10.96.0.1", "172.20.0.1", "192.168.1.1", "169.254.169.254", "fd00::1", "fe80::1"] {
        assert!(!leaves(&policies, &from, &Someone::outside(inside), "TCP", 443), "{inside}");
    }
    assert!(leaves(&policies, &from, &Someone::outside("2001:db8::25"), "TCP", 443));
}

#[test]
fn two_gateways_of_a_namespace_do_not_open_each_other() {
    let policies = of_gateway(json!({}));
    let bulk = Someone::pod("mail", &[("postern.dev/gateway", "bulk")], "10.244.1.12");
    assert!(!enters(&policies, &bulk, &gateway_pod(), "TCP", 8026));
    // The policy speaks of its own pods only: another gateway is not closed by it.
    assert!(enters(&policies, &Someone::outside("203.0.113.9"), &bulk, "TCP", 8026));
}

#[test]
fn nobody_reaches_the_operator_but_those_who_may_read_its_metrics() {
    let operator = |objects: &[Value]| {
        let deployment = named(objects, "Deployment", "postern");
        let template = &deployment["spec"]["template"];
        let labels = template["metadata"]["labels"].as_object().expect("labels");
        let labels: Vec<(&str, &str)> =
            labels.iter().map(|(key, value)| (key.as_str(), value.as_str().expect("text"))).collect();
        let mut pod = Someone::pod("postern-system", &labels, "10.244.0.2");
        for port in template["spec"]["containers"][0]["ports"].as_array().expect("ports") {
            let number = u16::try_from(port["containerPort"].as_u64().expect("a number")).expect("a port");
            pod.ports.insert(port["name"].as_str().expect("named").to_owned(), number);
        }
        pod
    };
    let closed = rendered(&[]);
    let pod = operator(&closed);
    assert_eq!(pod.ports.get("admin"), Some(&8025));
    let policies = [named(&closed, "NetworkPolicy", "postern").clone()];
    for (name, from) in everybody() {
        assert!(!enters(&policies, &from, &pod, "TCP", 8025), "{name}");
        assert!(!enters(&policies, &from, &pod, "TCP", 22), "{name}");
    }
    assert!(leaves(&policies, &pod, &Someone::outside("10.96.0.1"), "TCP", 443), "it reaches the API server");
    let label = "networkPolicy.metricsFrom[0].namespaceSelector.matchLabels.kubernetes\\.io/metadata\\.name";
    let open = rendered(&[&format!("{label}=monitoring")]);
    let policies = [named(&open, "NetworkPolicy", "postern").clone()];
    let readers = everybody().into_iter().filter(|(_, from)| enters(&policies, from, &pod, "TCP", 8025));
    assert_eq!(readers.map(|(name, _)| name).collect::<Vec<_>>(), ["prometheus"]);
}
