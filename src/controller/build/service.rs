//! The Service that mail clients use, and the headless one that names the pods.

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt;

use crate::api::OutboundGateway;
use crate::api::pod::{self, ExternalTrafficPolicy, IpFamily, IpFamilyPolicy, ServiceType};
use crate::bundle::Bundle;

pub fn for_clients(gateway: &OutboundGateway, bundle: &Bundle) -> Service {
    let wish = gateway.spec.service.clone().unwrap_or_default();
    let traffic_policy = wish.traffic_policy().map(|policy| match policy {
        ExternalTrafficPolicy::Local => "Local".to_owned(),
        ExternalTrafficPolicy::Cluster => "Cluster".to_owned(),
    });
    let pod::Service {
        kind,
        annotations,
        external_traffic_policy: _,
        load_balancer_class,
        load_balancer_source_ranges,
        ip_family_policy,
        ip_families,
    } = wish;
    let listeners = bundle.gateway.listeners.iter().map(|listener| ServicePort {
        name: Some(listener.name.clone()),
        port: listener.port.into(),
        // By number: names of ports would tie the Service to one version of the pods.
        target_port: Some(IntOrString::Int(listener.bind_port().into())),
        protocol: Some("TCP".to_owned()),
        ..Default::default()
    });
    let policy = match ip_family_policy.unwrap_or(IpFamilyPolicy::PreferDualStack) {
        IpFamilyPolicy::SingleStack => "SingleStack",
        IpFamilyPolicy::PreferDualStack => "PreferDualStack",
        IpFamilyPolicy::RequireDualStack => "RequireDualStack",
    };
    let families: Vec<String> = ip_families
        .iter()
        .map(|family| match family {
            IpFamily::IPv4 => "IPv4".to_owned(),
            IpFamily::IPv6 => "IPv6".to_owned(),
        })
        .collect();
    let mut metadata = super::meta(gateway, gateway.name_any());
    metadata.annotations = (!annotations.is_empty()).then_some(annotations);
    Service {
        metadata,
        spec: Some(ServiceSpec {
            type_: Some(
                match kind {
                    ServiceType::ClusterIP => "ClusterIP",
                    ServiceType::NodePort => "NodePort",
                    ServiceType::LoadBalancer => "LoadBalancer",
                }
                .to_owned(),
            ),
            selector: super::selector(gateway).match_labels,
            ports: Some(listeners.collect()),
            external_traffic_policy: traffic_policy,
            load_balancer_class,
            load_balancer_source_ranges: (!load_balancer_source_ranges.is_empty())
                .then_some(load_balancer_source_ranges),
            ip_family_policy: Some(policy.to_owned()),
            ip_families: (!families.is_empty()).then_some(families),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// Gives each pod a name that does not depend on its being ready.
pub fn headless(gateway: &OutboundGateway) -> Service {
    Service {
        metadata: super::meta(gateway, super::headless_name(&gateway.name_any())),
        spec: Some(ServiceSpec {
            type_: Some("ClusterIP".to_owned()),
            cluster_ip: Some("None".to_owned()),
            publish_not_ready_addresses: Some(true),
            selector: super::selector(gateway).match_labels,
            ip_family_policy: Some("PreferDualStack".to_owned()),
            ports: Some(vec![ServicePort {
                name: Some("control".to_owned()),
                port: super::CONTROL_PORT.into(),
                target_port: Some(IntOrString::Int(super::CONTROL_PORT.into())),
                protocol: Some("TCP".to_owned()),
                ..Default::default()
            }]),
            ..Default::default()
        }),
        ..Default::default()
    }
}
