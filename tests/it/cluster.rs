//! Postern on a real Kubernetes: installed by Helm, driven by kubectl, mail by swaks through Services to a real
//! Postfix over verified TLS.

mod audited;
mod faults;
mod gitops;
mod install;
mod life;
mod lists;
mod network;
mod probe;
mod propagation;
mod rollout;
mod static_errors;
mod tenancy;

use std::net::SocketAddr;

use crate::support::cluster::{Cluster, HOST, RELAY};
use crate::support::inbox::Inbox;
use crate::support::postfix::Postfix;
use crate::support::site::reject;

/// A gateway for a namespace without a volume of its own; `{extra}` goes into its spec.
fn gateway(replicas: u32, sink: &Inbox, extra: &str) -> String {
    format!(
        "apiVersion: postern.dev/v1alpha1
kind: OutboundGateway
metadata: {{name: default}}
spec:
  replicas: {replicas}
  hostname: gw.solarmora.com
  domains: [solarmora.com]
  clients: {{cidrs: [10.0.0.0/8]}}
  defaultRoute: {{host: {}, port: {}}}
  storage: {{ephemeral: true}}
{extra}",
        sink.address.ip(),
        sink.address.port()
    )
}

/// A sink that pods can reach.
fn sink_for_pods() -> Inbox {
    Inbox::on(SocketAddr::new(HOST.parse().expect("an address"), 0))
}

/// The next hop of the samples: a real Postfix with a certificate for its name, that hands on to a sink.
fn relay(cluster: &Cluster, port: u16) -> (Postfix, Inbox) {
    let sink = Inbox::start();
    let certificate = cluster.authority.issue(&[RELAY]);
    let address = SocketAddr::new(HOST.parse().expect("an address"), port);
    (Postfix::start(address, Some(certificate), sink.address), sink)
}

/// A client on the host that reaches a pod directly.
fn to_pod(ip: &str) -> SocketAddr {
    SocketAddr::new(ip.parse().expect("a pod IP"), 10025)
}

fn letter(body: &str) -> String {
    format!("From: Ani <ani@solarmora.com>\r\nTo: b@partner.example\r\nSubject: Laporan\r\n\r\n{body}\r\n")
}
