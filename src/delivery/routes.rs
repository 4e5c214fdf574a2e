//! The routes of a gateway as delivery uses them, made from a bundle and its material. A new revision
//! is a new table; an attempt takes the table of its moment (spec R141).

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;

use super::client::tls::Tls;
use super::egress::Sources;
use super::limits::shared::Server;
use super::outcome::{Problem, Trouble};
use super::sign::Signers;
use crate::bundle::document::{
    self, Bundle, DefaultRoute, OnTlsFailure, Retry, Rotation, RouteLimits, RouteTarget, RouteTls,
};
use crate::bundle::material::Materials;
use crate::mail::address::{Domain, Host, Mailbox};
use crate::mail::envelope::{RouteName, Via};

/// Where the current table comes from.
pub trait Routes: Send + Sync + 'static {
    fn current(&self) -> Arc<RouteTable>;
}

/// What the gateway knows of itself when a table is made.
#[derive(Debug, Clone, Default)]
pub struct Own {
    /// The machine's name, for gateways without a `hostname`.
    pub machine: String,
    /// The addresses its listeners are bound to (0.0.0.0 and :: mean every address of the machine).
    pub listening: Vec<SocketAddr>,
}

#[derive(Debug)]
pub struct RouteTable {
    /// What EHLO says, and what reports call the gateway.
    pub hostname: String,
    /// From of the gateway's own mail.
    pub notices_from: Mailbox,
    /// How the gateway's own mail leaves.
    pub notices_via: Via,
    pub dns_servers: Vec<SocketAddr>,
    /// Where pods count together what limits allow.
    pub shared_limits: Option<Arc<Server>>,
    /// Sign what the gateway changed or wrote.
    pub signers: Signers,
    listening: Vec<SocketAddr>,
    normal: Normal,
    routes: BTreeMap<RouteName, Result<Arc<Route>, String>>,
}

#[derive(Debug)]
enum Normal {
    /// The default route typed inline, or the recipient's MX hosts.
    Way(Arc<Route>),
    Named(RouteName),
}

/// One way out.
#[derive(Debug, Clone)]
pub struct Route {
    pub label: Label,
    pub target: RouteTarget,
    pub tls: Tls,
    pub on_tls_failure: OnTlsFailure,
    pub retry: Retry,
    /// Where mail leaves from; `None`: whatever the machine picks.
    pub egress: Option<Sources>,
    pub limits: RouteLimits,
    /// The generation of the object: what hosts said to an earlier one is forgotten.
    pub edition: i64,
}

impl Route {
    /// Whether each recipient domain has a lane of its own.
    pub fn is_by_domain(&self) -> bool {
        let warm = |sources: &Sources| sources.list.iter().any(|source| source.warm_up.is_some());
        self.target == RouteTarget::RecipientMx
            || self.limits.per_domain != document::DomainLimits::default()
            || self
                .egress
                .as_ref()
                .is_some_and(|egress| egress.rotation == Rotation::PerDomain || warm(egress))
    }

    /// Recipients that may share a job: where transactions are counted, a job is one.
    pub fn max_together(&self) -> usize {
        let RouteLimits { messages_per_minute, recipients_per_message, per_domain, .. } = &self.limits;
        let counted = [*messages_per_minute, *recipients_per_message, per_domain.messages_per_minute];
        if counted.iter().any(Option::is_some) { self.max_recipients() } else { usize::MAX }
    }

    /// Recipients of one transaction: what every host takes (RFC 5321 section 4.5.3.1.8), or what the route says.
    pub fn max_recipients(&self) -> usize {
        self.limits.recipients_per_message.map_or(100, |most| most.max(1) as usize)
    }
}

/// Whom a lane leads to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Destination {
    Route(Label),
    /// The mail hosts of one domain, over a route or without one.
    Domain(Label, String),
    /// A route that cannot be used now.
    Nowhere(Via),
}

impl Destination {
    /// `None`: there is no way out at all.
    pub fn label(&self) -> Option<&Label> {
        match self {
            Destination::Route(label) | Destination::Domain(label, _) => Some(label),
            Destination::Nowhere(_) => None,
        }
    }

    pub fn domain(&self) -> Option<&str> {
        match self {
            Destination::Domain(_, domain) => Some(domain),
            Destination::Route(_) | Destination::Nowhere(_) => None,
        }
    }
}

/// What logs and metrics call a way out.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Label {
    Named(RouteName),
    /// The inline default route.
    Default,
    /// The recipient's own mail hosts.
    Mx,
}

impl std::fmt::Display for Label {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Label::Named(name) => name.fmt(f),
            Label::Default => f.write_str("default"),
            Label::Mx => f.write_str("mx"),
        }
    }
}

impl RouteTable {
    /// Never fails: a route whose material is missing or unreadable is broken, and its mail waits.
    pub fn build(bundle: &Bundle, materials: &Materials, own: &Own) -> Self {
        let gateway = &bundle.gateway;
        let machine = if own.machine.is_empty() { "localhost" } else { &own.machine };
        let hostname = gateway.hostname.clone().unwrap_or_else(|| machine.to_owned());
        let normal = match &gateway.default_route {
            None => Normal::Way(Arc::new(opportunistic(Label::Mx, RouteTarget::RecipientMx))),
            Some(DefaultRoute::Host(at)) => {
                let host = document::WeightedHost { at: at.clone(), weight: None };
                let target = RouteTarget::Hosts { primary: vec![host], secondary: Vec::new() };
                Normal::Way(Arc::new(opportunistic(Label::Default, target)))
            }
            Some(DefaultRoute::Named(name) | DefaultRoute::Missing(name)) => Normal::Named(name.clone()),
        };
        let routes = bundle.routes.iter().map(|route| (route.name(), read(route, materials))).collect();
        let notices_via = match &gateway.notices.route {
            Some(name) => Via::Route(name.clone()),
            None => Via::Normal,
        };
        Self {
            notices_from: notices_from(gateway, &hostname),
            notices_via,
            hostname,
            dns_servers: gateway.dns_servers.clone(),
            shared_limits: gateway
                .shared_limits
                .as_ref()
                .and_then(|shared| Server::read(shared, &gateway.origin.uid, materials).map(Arc::new)),
            signers: Signers::read(&gateway.dkim, materials),
            listening: own.listening.clone(),
            normal,
            routes,
        }
    }

    /// The way out that `via` names now. A route that is gone or broken is a reason to wait, never to
    /// take another way (spec R18).
    pub fn resolve(&self, via: &Via) -> Result<Arc<Route>, Problem> {
        let name = match (via, &self.normal) {
            (Via::Normal, Normal::Way(route)) => return Ok(Arc::clone(route)),
            (Via::Normal, Normal::Named(name)) | (Via::Route(name), _) => name,
        };
        match self.routes.get(name) {
            Some(Ok(route)) => Ok(Arc::clone(route)),
            Some(Err(why)) => {
                Err(Problem::new(Trouble::RouteBroken { route: name.clone(), why: why.clone() }))
            }
            None => Err(Problem::new(Trouble::RouteMissing(name.clone()))),
        }
    }

    /// Every way out that can be used.
    pub fn routes(&self) -> impl Iterator<Item = &Route> {
        self.routes.values().flatten().map(|route| &**route)
    }

    /// The schedule of a way out, also of one that is broken now.
    pub fn retry(&self, via: &Via) -> Retry {
        self.resolve(via).map_or_else(|_| Retry::default(), |route| route.retry)
    }

    /// Whether one of the gateway's own listeners has this port.
    pub fn listens_on(&self, port: u16) -> bool {
        self.listening.iter().any(|own| own.port() == port)
    }

    /// Whether a connection there would reach this gateway's own listener.
    pub fn is_self(&self, address: SocketAddr) -> bool {
        let ip = address.ip().to_canonical();
        self.listening.iter().any(|own| {
            let own_ip = own.ip().to_canonical();
            own.port() == address.port() && (own_ip == ip || (own_ip.is_unspecified() && is_local(ip)))
        })
    }
}

/// Whether this machine has the address: only its own addresses can be bound.
pub fn is_local(ip: IpAddr) -> bool {
    ip.is_loopback() || ip.is_unspecified() || UdpSocket::bind((ip, 0)).is_ok()
}

/// Google's default for delivery (spec R21).
fn opportunistic(label: Label, target: RouteTarget) -> Route {
    Route {
        label,
        target,
        tls: Tls::opportunistic(),
        on_tls_failure: OnTlsFailure::Bounce,
        retry: Retry::default(),
        egress: None,
        limits: RouteLimits::default(),
        edition: 0,
    }
}

fn read(route: &document::Route, materials: &Materials) -> Result<Arc<Route>, String> {
    if let Some(why) = &route.broken {
        return Err(why.clone());
    }
    let tls = read_tls(&route.tls, materials)?;
    Ok(Arc::new(Route {
        label: Label::Named(route.name()),
        target: route.target.clone(),
        tls,
        on_tls_failure: route.on_tls_failure,
        retry: route.retry,
        egress: route.egress.as_ref().map(Sources::read),
        limits: route.limits.clone(),
        edition: route.origin.generation,
    }))
}

fn read_tls(tls: &RouteTls, materials: &Materials) -> Result<Tls, String> {
    let ca = match &tls.ca {
        None => None,
        Some(material) => Some(materials.get(material).ok_or_else(|| {
            format!("its CA file {}/{} (key {}) is not here", material.namespace, material.name, material.key)
        })?),
    };
    Tls::build(tls, ca.map(|bytes| &bytes[..])).map_err(|error| error.to_string())
}

/// `notices.from`, else postmaster at the first own domain, else at the gateway itself.
fn notices_from(gateway: &document::Gateway, hostname: &str) -> Mailbox {
    if let Some(from) = &gateway.notices.from {
        return from.clone();
    }
    let own = gateway.domains.first().map(Domain::ascii).unwrap_or(hostname);
    let last_resort = || "postmaster@localhost".parse().expect("a literal address");
    format!("postmaster@{own}").parse().unwrap_or_else(|_| last_resort())
}

/// The part of a recipient that matters for the way to it.
pub fn domain_of(mailbox: &Mailbox) -> String {
    match mailbox.host() {
        Host::Domain(domain) => domain.ascii().to_owned(),
        literal @ Host::Literal(_) => literal.to_string(),
    }
}
