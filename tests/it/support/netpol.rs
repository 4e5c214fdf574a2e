//! What NetworkPolicy objects allow, computed from the rules of the API: for tests of what we generate. It shares
//! no code with any engine; the cluster's own test asks a real one.
#![allow(dead_code)]

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::Value;

/// One end of a connection.
#[derive(Debug, Clone)]
pub struct Someone {
    /// `None`: not a pod.
    pub namespace: Option<String>,
    pub namespace_labels: BTreeMap<String, String>,
    pub labels: BTreeMap<String, String>,
    pub ip: IpAddr,
    /// Names of its container ports.
    pub ports: BTreeMap<String, u16>,
}

impl Someone {
    pub fn pod(namespace: &str, labels: &[(&str, &str)], ip: &str) -> Self {
        let text = |&(key, value): &(&str, &str)| (key.to_owned(), value.to_owned());
        Self {
            namespace: Some(namespace.to_owned()),
            namespace_labels: [("kubernetes.io/metadata.name".to_owned(), namespace.to_owned())].into(),
            labels: labels.iter().map(text).collect(),
            ip: ip.parse().expect("an address"),
            ports: BTreeMap::new(),
        }
    }

    pub fn outside(ip: &str) -> Self {
        Self { namespace: None, ..Self::pod("", &[], ip) }
    }
}

/// Whether `to` takes a connection from `from` on this port, as far as these policies go.
pub fn enters(policies: &[Value], from: &Someone, to: &Someone, protocol: &str, port: u16) -> bool {
    allowed(policies, "Ingress", to, from, to, protocol, port)
}

/// Whether `from` may open a connection to `to` on this port.
pub fn leaves(policies: &[Value], from: &Someone, to: &Someone, protocol: &str, port: u16) -> bool {
    allowed(policies, "Egress", from, to, to, protocol, port)
}

fn allowed(
    policies: &[Value],
    way: &str,
    subject: &Someone,
    peer: &Someone,
    server: &Someone,
    protocol: &str,
    port: u16,
) -> bool {
    let mine: Vec<&Value> = policies
        .iter()
        .filter(|policy| policy["metadata"]["namespace"].as_str() == subject.namespace.as_deref())
        .filter(|policy| selects(&policy["spec"]["podSelector"], &subject.labels))
        .filter(|policy| directions(policy).contains(&way))
        .collect();
    // Without a policy for it everything is open.
    mine.is_empty()
        || mine.iter().any(|policy| {
            let (rules, peers) = if way == "Ingress" { ("ingress", "from") } else { ("egress", "to") };
            let rules = policy["spec"][rules].as_array().cloned().unwrap_or_default();
            let own = policy["metadata"]["namespace"].as_str().unwrap_or_default();
            rules.iter().any(|rule| ports(rule, server, protocol, port) && any_peer(&rule[peers], own, peer))
        })
}

fn directions(policy: &Value) -> Vec<&str> {
    let spec = &policy["spec"];
    match spec["policyTypes"].as_array() {
        Some(types) => types.iter().filter_map(Value::as_str).collect(),
        None if spec["egress"].is_array() => vec!["Ingress", "Egress"],
        None => vec!["Ingress"],
    }
}

fn ports(rule: &Value, server: &Someone, protocol: &str, port: u16) -> bool {
    let Some(ports) = rule["ports"].as_array().filter(|ports| !ports.is_empty()) else { return true };
    ports.iter().any(|allowed| {
        let first = match &allowed["port"] {
            Value::Null => return allowed["protocol"].as_str().unwrap_or("TCP") == protocol,
            Value::String(name) => server.ports.get(name).copied(),
            number => number.as_u64().and_then(|number| u16::try_from(number).ok()),
        };
        let last = allowed["endPort"].as_u64().and_then(|end| u16::try_from(end).ok());
        let fits = first.is_some_and(|first| (first..=last.unwrap_or(first)).contains(&port));
        fits && allowed["protocol"].as_str().unwrap_or("TCP") == protocol
    })
}

fn any_peer(peers: &Value, own: &str, peer: &Someone) -> bool {
    let Some(peers) = peers.as_array().filter(|peers| !peers.is_empty()) else { return true };
    peers.iter().any(|one| {
        if let Some(cidr) = one["ipBlock"]["cidr"].as_str() {
            let within = |text: &str| text.parse::<IpNet>().expect("a network").contains(&peer.ip);
            let excepted = one["ipBlock"]["except"].as_array().into_iter().flatten();
            return within(cidr) && !excepted.filter_map(Value::as_str).any(within);
        }
        let Some(namespace) = &peer.namespace else { return false };
        let place = match &one["namespaceSelector"] {
            Value::Null => namespace == own,
            selector => selects(selector, &peer.namespace_labels),
        };
        place && (one["podSelector"].is_null() || selects(&one["podSelector"], &peer.labels))
    })
}

fn selects(selector: &Value, labels: &BTreeMap<String, String>) -> bool {
    let equal = selector["matchLabels"].as_object().into_iter().flatten();
    let expressions = selector["matchExpressions"].as_array().into_iter().flatten();
    equal.into_iter().all(|(key, value)| labels.get(key).map(String::as_str) == value.as_str())
        && expressions.into_iter().all(|expression| {
            let label = labels.get(expression["key"].as_str().expect("a key"));
            let listed = |label: &String| {
                expression["values"].as_array().into_iter().flatten().any(|value| value == label.as_str())
            };
            match expression["operator"].as_str() {
                Some("In") => label.is_some_and(listed),
                Some("NotIn") => !label.is_some_and(listed),
                Some("Exists") => label.is_some(),
                Some("DoesNotExist") => label.is_none(),
                other => panic!("no such operator: {other:?}"),
            }
        })
}
