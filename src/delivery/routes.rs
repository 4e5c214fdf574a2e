//! The routes of a gateway as delivery uses them, made from a bundle and its material. A new revision
//! is a new table; an attempt takes the table of its moment (spec R141).

mod ways;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;

use super::client::auth::Credentials;
use super::client::tls::Tls;
use super::dns::Servers;
use super::egress::Sources;
use super::limits::shared::Server;
use super::outcome::{Problem, Trouble};
use super::sign::Signers;
use crate::bundle::document::{
    self, Bundle, DefaultRoute, OnTlsFailure, Retry, Rotation, RouteAuth, RouteLimits, RouteTarget, RouteTls,
    TlsReports,
};
use crate::bundle::material::{Material, Materials};
use crate::mail::address::{Domain, Host, Mailbox};
use crate::mail::edit;
use crate::mail::envelope::{RouteName, Via};

/// Where the current table comes from.
pub trait Routes: Send + Sync + 'static {
    fn current(&self) -> Arc<RouteTable>;

    /// An attempt over this way out had trouble; whoever watches over routes may want to know.
    fn troubled(&self, _way: &Label, _trouble: &Trouble) {}
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
    /// Where pods count together what limits allow.
    pub shared_limits: Option<Arc<Server>>,
    pub dns: Servers,
    /// Whether, and how, domains are told about TLS.
    pub tls_reports: Option<TlsReports>,
    /// Where the world sees this gateway's mail come from, if that is said.
    pub public_address: Option<IpAddr>,
    /// Sign what the gateway changed or wrote.
    pub signers: Signers,
    /// Sign with S/MIME for senders.
    pub smime: edit::Signers,
    listening: Vec<SocketAddr>,
    normal: Normal,
    routes: BTreeMap<RouteName, Result<Arc<Route>, String>>,
    /// What each of them was read from.
    sources: BTreeMap<RouteName, Arc<Source>>,
    ways: ways::Ways,
}

/// A record and the bytes it names: equal ones are read as equal routes.
#[derive(PartialEq)]
struct Source {
    record: document::Route,
    bytes: Vec<Option<Arc<[u8]>>>,
}

/// Shows no secret.
impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Source").field("record", &self.record.origin).finish_non_exhaustive()
    }
}

impl Source {
    fn of(record: &document::Route, materials: &Materials) -> Self {
        let bytes = record.materials().map(|material| materials.get(material).cloned());
        Self { bytes: bytes.collect(), record: record.clone() }
    }
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
    /// Who the gateway is at the hosts of this route.
    pub auth: Option<Arc<Credentials>>,
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
        Self::build_after(None, bundle, materials, own)
    }

    /// The same; routes that are what they were in `before` are shared with it, roots of trust and all.
    pub fn build_after(before: Option<&Self>, bundle: &Bundle, materials: &Materials, own: &Own) -> Self {
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
        let mut routes = BTreeMap::new();
        let mut sources = BTreeMap::new();
        for record in &bundle.routes {
            let (name, source) = (record.name(), Arc::new(Source::of(record, materials)));
            let known = before.filter(|before| before.sources.get(&name) == Some(&source));
            let known = known.and_then(|before| before.routes.get(&name).cloned());
            routes.insert(name.clone(), known.unwrap_or_else(|| read(record, materials)));
            sources.insert(name, source);
        }
        let usable = |name: &RouteName| matches!(routes.get(name), Some(Ok(_)));
        let ways = ways::Ways::of(bundle, materials, usable);
        let notices_via = match &gateway.notices.route {
            Some(name) => Via::Route(name.clone()),
            None => Via::Normal,
        };
        Self {
            notices_from: notices_from(gateway, &hostname),
            notices_via,
            hostname,
            shared_limits: gateway
                .shared_limits
                .as_ref()
                .and_then(|shared| Server::read(shared, &gateway.origin.uid, materials).map(Arc::new)),
            dns: Servers {
                addresses: gateway.dns_servers.clone(),
                dnssec: gateway.dnssec,
                anchors: gateway.dns_anchors.clone(),
            },
            tls_reports: gateway.tls_reports.clone(),
            public_address: gateway.public_addresses.first().copied(),
            signers: Signers::read(&gateway.dkim, materials),
            smime: super::sign::smime(&gateway.smime_signers, materials),
            listening: own.listening.clone(),
            normal,
            routes,
            sources,
            ways,
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

    /// What logs and metrics call the way out that `via` names now, also when it cannot be used.
    pub fn label(&self, via: &Via) -> Label {
        match (via, &self.normal) {
            (Via::Normal, Normal::Way(route)) => route.label.clone(),
            (Via::Normal, Normal::Named(name)) | (Via::Route(name), _) => Label::Named(name.clone()),
        }
    }

    /// What the way out depends on, as a hash that changes with any of it; `None`: it cannot be used now.
    pub fn way(&self, via: &Via) -> Option<blake3::Hash> {
        match self.label(via) {
            Label::Named(name) => self.ways.named(&name),
            Label::Default | Label::Mx => Some(self.ways.normal()),
        }
    }

    /// Whether some way out can be used that could not be, or was another, in an earlier table.
    pub fn has_new_ways(&self, earlier: &RouteTable) -> bool {
        self.ways.has_new(&earlier.ways)
    }

    /// The labels of all ways out that have a name, usable or not.
    pub fn labels(&self) -> impl Iterator<Item = Label> {
        let normal = match &self.normal {
            Normal::Way(route) => Some(route.label.clone()),
            Normal::Named(_) => None,
        };
        self.routes.keys().cloned().map(Label::Named).chain(normal)
    }

    /// The routes that cannot be used, and why; nothing secret is in it.
    pub fn broken(&self) -> impl Iterator<Item = (&RouteName, &str)> {
        self.routes.iter().filter_map(|(name, route)| Some((name, route.as_ref().err()?.as_str())))
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
        auth: None,
    }
}

fn read(route: &document::Route, materials: &Materials) -> Result<Arc<Route>, String> {
    if let Some(why) = &route.broken {
        return Err(why.clone());
    }
    let tls = read_tls(&route.tls, materials)?;
    let auth = route.auth.as_ref().map(|auth| read_auth(auth, &route.tls, materials)).transpose()?;
    Ok(Arc::new(Route {
        label: Label::Named(route.name()),
        target: route.target.clone(),
        tls,
        on_tls_failure: route.on_tls_failure,
        retry: route.retry,
        egress: route.egress.as_ref().map(Sources::read),
        limits: route.limits.clone(),
        edition: route.origin.generation,
        auth,
    }))
}

/// A password is said only to a host that proved who it is: a route that does not demand that has no login.
fn read_auth(auth: &RouteAuth, tls: &RouteTls, materials: &Materials) -> Result<Arc<Credentials>, String> {
    if !tls.verifies_peer() {
        return Err("it has a login and does not demand TLS with a verified certificate".to_owned());
    }
    let bytes = |material| file(materials, material, "Secret of its login");
    let (username, secret) = (bytes(&auth.username)?, bytes(&auth.password)?);
    let credentials = Credentials::read(auth.mechanism, username, secret);
    credentials.map(Arc::new).map_err(|error| error.to_string())
}

fn file<'a>(materials: &'a Materials, material: &Material, what: &str) -> Result<&'a [u8], String> {
    let Material { namespace, name, key, .. } = material;
    let bytes = materials.get(material).map(|bytes| &bytes[..]);
    bytes.ok_or_else(|| format!("the {what} {namespace}/{name} (key {key}) is not here"))
}

fn read_tls(tls: &RouteTls, materials: &Materials) -> Result<Tls, String> {
    let ca = tls.ca.as_ref().map(|material| file(materials, material, "CA file")).transpose()?;
    let built = Tls::build(tls, ca).map_err(|error| error.to_string())?;
    let Some(certificate) = &tls.client_certificate else { return Ok(built) };
    let bytes = |material| file(materials, material, "client certificate");
    let (chain, key) = (bytes(&certificate.chain)?, bytes(&certificate.key)?);
    built.with_client_certificate(chain, key).map_err(|error| error.to_string())
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bundle::document::{Gateway, HostPort, ObjectId, ObjectKind, Origin};
    use crate::bundle::material::MaterialKind;

    fn origin(kind: ObjectKind, name: &str) -> Origin {
        let object = ObjectId { kind, namespace: "mail".into(), name: name.into() };
        Origin { object, uid: "1".into(), generation: 1 }
    }

    #[test]
    fn routes_that_did_not_change_are_shared_with_the_table_before() {
        let ca = Material {
            kind: MaterialKind::ConfigMap,
            namespace: "mail".into(),
            name: "ca".into(),
            key: "ca.crt".into(),
        };
        let record = |name: &str, host: &str, own: bool| {
            let target = RouteTarget::MxOf(vec![HostPort { host: host.into(), port: 25 }]);
            let tls = RouteTls { ca: own.then(|| ca.clone()), ..RouteTls::opportunistic() };
            document::Route::new(origin(ObjectKind::OutboundRoute, name), target, tls)
        };
        let bundle = |host: &str| {
            let gateway = Gateway::new(origin(ObjectKind::OutboundGateway, "default"));
            let routes = vec![
                record("kept", "kept.example", false),
                record("other", host, false),
                record("own", "own.example", true),
            ];
            Bundle { routes, ..Bundle::new(gateway) }
        };
        let first = RouteTable::build(&bundle("one.example"), &Materials::default(), &Own::default());
        let mut materials = Materials::default();
        let key = rcgen::generate_simple_self_signed(["ca.example".to_owned()]).unwrap();
        materials.insert(ca.clone(), key.cert.pem().as_bytes());
        let second =
            RouteTable::build_after(Some(&first), &bundle("two.example"), &materials, &Own::default());
        let get = |table: &RouteTable, name: &str| {
            let name = RouteName { namespace: "mail".into(), name: name.into() };
            table.resolve(&Via::Route(name)).map_err(|_| ())
        };
        assert!(Arc::ptr_eq(&get(&first, "kept").unwrap(), &get(&second, "kept").unwrap()));
        assert_ne!(get(&first, "other").unwrap().target, get(&second, "other").unwrap().target);
        // Its CA file has come: it can be used now.
        assert!(get(&first, "own").is_err() && get(&second, "own").is_ok());
    }
}
