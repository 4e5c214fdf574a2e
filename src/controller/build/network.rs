//! The NetworkPolicy of a gateway's pods (design decision 2). Mail ports are open to everybody, because the
//! gateway itself checks clients; the control port is for the controller and the gateway's own pods.

use std::collections::BTreeSet;
use std::net::IpAddr;

use k8s_openapi::api::networking::v1::{
    IPBlock, NetworkPolicy, NetworkPolicyEgressRule, NetworkPolicyIngressRule, NetworkPolicyPeer,
    NetworkPolicyPort, NetworkPolicySpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt;

use crate::api::OutboundGateway;
use crate::bundle::Bundle;
use crate::bundle::document::{DefaultRoute, HostPort, RouteTarget};

use super::{ADMIN_PORT, CONTROL_PORT, Site};

pub fn policy(gateway: &OutboundGateway, bundle: &Bundle, site: &Site) -> NetworkPolicy {
    let wish = gateway.spec.network_policy.clone().unwrap_or_default();
    let mail = bundle.gateway.listeners.iter().map(|listener| tcp(listener.bind_port())).collect();
    let mut ingress = vec![
        NetworkPolicyIngressRule { ports: Some(mail), ..Default::default() },
        NetworkPolicyIngressRule {
            ports: Some(vec![tcp(CONTROL_PORT)]),
            from: Some(vec![controller(site), own_pods(gateway)]),
        },
    ];
    if !wish.metrics_from.is_empty() {
        ingress.push(NetworkPolicyIngressRule {
            ports: Some(vec![tcp(ADMIN_PORT)]),
            from: Some(wish.metrics_from),
        });
    }
    let mut types = vec!["Ingress".to_owned()];
    if wish.egress {
        types.push("Egress".to_owned());
    }
    NetworkPolicy {
        metadata: super::meta(gateway, gateway.name_any()),
        spec: Some(NetworkPolicySpec {
            pod_selector: Some(super::selector(gateway)),
            policy_types: Some(types),
            ingress: Some(ingress),
            egress: wish.egress.then(|| egress(gateway, bundle)),
        }),
    }
}

/// Name servers, each other, and every host and port the bundle names. A policy knows no host names, so a
/// host given by name opens its port to every address.
fn egress(gateway: &OutboundGateway, bundle: &Bundle) -> Vec<NetworkPolicyEgressRule> {
    let mut anywhere: BTreeSet<u16> = BTreeSet::new();
    let mut blocks: BTreeSet<(IpAddr, u16)> = BTreeSet::new();
    let mut named = false;
    let mut reach = |at: &HostPort| match at.host.parse::<IpAddr>() {
        Ok(address) => drop(blocks.insert((address, at.port))),
        Err(_) => {
            named = true;
            anywhere.insert(at.port);
        }
    };
    let mut mx = false;
    match &bundle.gateway.default_route {
        Some(DefaultRoute::Host(at)) => reach(at),
        Some(DefaultRoute::Named(_) | DefaultRoute::Missing(_)) => {}
        None => mx = true,
    }
    for route in &bundle.routes {
        match &route.target {
            RouteTarget::Hosts { primary, secondary } => {
                primary.iter().chain(secondary).for_each(|host| reach(&host.at));
            }
            RouteTarget::MxOf(_) | RouteTarget::RecipientMx => mx = true,
        }
        let sources = route.egress.iter().flat_map(|egress| &egress.sources);
        sources.filter_map(|source| source.proxy.as_ref()).for_each(&mut reach);
    }
    if let Some(shared) = &bundle.gateway.shared_limits {
        reach(&shared.at);
    }
    if let Some(url) = &bundle.gateway.rspamd {
        reach(&web_server(url));
    }
    if mx {
        anywhere.insert(25);
    }
    let mut rules = vec![dns(bundle)];
    rules.push(NetworkPolicyEgressRule {
        ports: Some(vec![tcp(CONTROL_PORT)]),
        to: Some(vec![own_pods(gateway)]),
    });
    if !anywhere.is_empty() {
        let ports = anywhere.into_iter().map(tcp).collect();
        rules.push(NetworkPolicyEgressRule { ports: Some(ports), to: None });
    }
    // Whoever is reached by a name may have a policy of MTA-STS, and want a report.
    if mx || named {
        rules.push(public_web());
    }
    rules.extend(blocks.into_iter().map(|(address, port)| NetworkPolicyEgressRule {
        ports: Some(vec![tcp(port)]),
        to: Some(vec![block(address)]),
    }));
    rules
}

fn dns(bundle: &Bundle) -> NetworkPolicyEgressRule {
    let servers = &bundle.gateway.dns_servers;
    let numbers: BTreeSet<u16> = servers.iter().map(|server| server.port()).chain([53]).collect();
    let ports = numbers.iter().flat_map(|&number| [port("UDP", number), port("TCP", number)]).collect();
    NetworkPolicyEgressRule { ports: Some(ports), to: None }
}

/// Web servers of the world. Nobody publishes a policy of MTA-STS on a private address, and there the API server
/// and the metadata of cloud machines answer on the same port.
fn public_web() -> NetworkPolicyEgressRule {
    let all_but = |cidr: &str, except: &[&str]| NetworkPolicyPeer {
        ip_block: Some(IPBlock {
            cidr: cidr.to_owned(),
            except: Some(except.iter().map(|&cidr| cidr.to_owned()).collect()),
        }),
        ..Default::default()
    };
    let v4 =
        ["10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.168.0.0/16"];
    NetworkPolicyEgressRule {
        ports: Some(vec![tcp(443)]),
        to: Some(vec![all_but("0.0.0.0/0", &v4), all_but("::/0", &["::1/128", "fc00::/7", "fe80::/10"])]),
    }
}

fn controller(site: &Site) -> NetworkPolicyPeer {
    let named = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    NetworkPolicyPeer {
        namespace_selector: Some(LabelSelector {
            match_labels: Some([named("kubernetes.io/metadata.name", &site.namespace)].into()),
            ..Default::default()
        }),
        pod_selector: Some(LabelSelector {
            match_labels: Some(
                [
                    named("app.kubernetes.io/name", "postern"),
                    named("app.kubernetes.io/component", "controller"),
                ]
                .into(),
            ),
            ..Default::default()
        }),
        ip_block: None,
    }
}

fn own_pods(gateway: &OutboundGateway) -> NetworkPolicyPeer {
    NetworkPolicyPeer { pod_selector: Some(super::selector(gateway)), ..Default::default() }
}

fn block(address: IpAddr) -> NetworkPolicyPeer {
    let cidr = match address {
        IpAddr::V4(address) => format!("{address}/32"),
        IpAddr::V6(address) => format!("{address}/128"),
    };
    NetworkPolicyPeer { ip_block: Some(IPBlock { cidr, except: None }), ..Default::default() }
}

fn tcp(number: u16) -> NetworkPolicyPort {
    port("TCP", number)
}

fn port(protocol: &str, number: u16) -> NetworkPolicyPort {
    NetworkPolicyPort {
        protocol: Some(protocol.to_owned()),
        port: Some(IntOrString::Int(number.into())),
        end_port: None,
    }
}

/// Host and port of a web address that was checked at admission.
fn web_server(url: &str) -> HostPort {
    let (rest, usual) = match url.strip_prefix("https://") {
        Some(rest) => (rest, 443),
        None => (url.strip_prefix("http://").unwrap_or(url), 80),
    };
    let authority = rest.split('/').next().unwrap_or_default();
    let (host, port) =
        match authority.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse().ok()?))) {
            Some((host, port)) => (host, port),
            None => (authority, usual),
        };
    HostPort { host: host.trim_matches(['[', ']']).to_owned(), port }
}
