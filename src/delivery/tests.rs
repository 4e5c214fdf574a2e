//! Delivery against next hops that behave, and that do not.

mod attempts;
mod certificates;
mod edits;
mod egress;
mod fairness;
mod logins;
mod mail_hosts;
mod mutual;
mod names;
mod never_weaker;
mod notify;
mod probes;
mod protection;
mod signing;
mod tls_reports;
mod waking;
mod workers;

use std::sync::Arc;
use std::time::Duration;

use crate::bundle::Bundle;
use crate::bundle::document::{
    DefaultRoute, Gateway, HostPort, ObjectId, ObjectKind, OnTlsFailure, Origin, Route, RouteTarget,
    RouteTls, TlsMode, WeightedHost,
};
use crate::bundle::material::{Material, MaterialKind, Materials};
use crate::delivery::client::Timeouts;
use crate::delivery::limits::{Pass, Throttle};
use crate::delivery::plan::Plan;
use crate::delivery::routes::{Destination, Own, RouteTable};
use crate::mail::envelope::{Recipient, RouteName, Via};

pub const NAME: &str = "relay";

fn origin(kind: ObjectKind, name: &str) -> Origin {
    let object = ObjectId { kind, namespace: "mail".into(), name: name.into() };
    Origin { object, uid: "1".into(), generation: 1 }
}

pub fn host(at: std::net::SocketAddr) -> WeightedHost {
    WeightedHost { at: HostPort { host: at.ip().to_string(), port: at.port() }, weight: None }
}

pub fn hosts(primary: &[std::net::SocketAddr]) -> RouteTarget {
    RouteTarget::Hosts { primary: primary.iter().copied().map(host).collect(), secondary: Vec::new() }
}

/// A route named `relay` with opportunistic TLS; change what matters.
pub fn route(target: RouteTarget) -> Route {
    Route::new(origin(ObjectKind::OutboundRoute, NAME), target, RouteTls::opportunistic())
}

/// All three switches on, with an extra CA file of this text.
pub fn strict(ca: bool) -> RouteTls {
    RouteTls {
        mode: TlsMode::StartTls,
        require: true,
        require_ca_signed: true,
        validate_hostname: true,
        ca: ca.then(ca_material),
        ..RouteTls::opportunistic()
    }
}

pub fn ca_material() -> Material {
    Material {
        kind: MaterialKind::ConfigMap,
        namespace: "mail".into(),
        name: "ca".into(),
        key: "ca.crt".into(),
    }
}

pub fn gateway() -> Gateway {
    Gateway {
        hostname: Some("gw.solarmora.com".into()),
        domains: vec!["solarmora.com".parse().unwrap()],
        ..Gateway::new(origin(ObjectKind::OutboundGateway, "default"))
    }
}

pub fn table(routes: Vec<Route>, ca: Option<&str>) -> RouteTable {
    table_of(gateway(), routes, ca)
}

pub fn table_of(gateway: Gateway, routes: Vec<Route>, ca: Option<&str>) -> RouteTable {
    table_with(gateway, routes, ca, &Materials::default())
}

pub fn table_with(
    gateway: Gateway,
    routes: Vec<Route>,
    ca: Option<&str>,
    materials: &Materials,
) -> RouteTable {
    let mut materials = materials.clone();
    if let Some(ca) = ca {
        materials.insert(ca_material(), ca.as_bytes());
    }
    RouteTable::build(&Bundle { routes, ..Bundle::new(gateway) }, &materials, &Own::default())
}

pub fn via() -> Via {
    Via::Route(RouteName { namespace: "mail".into(), name: NAME.into() })
}

pub fn normal(host: HostPort) -> Gateway {
    Gateway { default_route: Some(DefaultRoute::Host(host)), ..gateway() }
}

/// Lets an attempt start.
pub fn pass(plan: &Plan) -> Pass {
    let destination = Destination::Route(plan.route.label.clone());
    let admitted = Throttle::default().admit(&plan.route, &destination, jiff::Timestamp::now());
    admitted.unwrap_or_else(|wait| panic!("{wait:?}"))
}

pub fn to(address: &str) -> Recipient {
    Recipient::new(address.parse().unwrap())
}

/// Short enough that a test of a time-out is quick.
pub fn impatient() -> Timeouts {
    let short = Duration::from_millis(300);
    Timeouts {
        connect: short,
        greeting: short,
        hello: short,
        mail: short,
        rcpt: short,
        data: short,
        block: short,
        end: short,
    }
}
