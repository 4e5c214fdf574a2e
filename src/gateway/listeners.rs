//! The SMTP listeners, bound and closed at run time as the bundle says: no restart, and all or nothing. What a
//! new bundle wants is bound before the first old listener closes.

mod expiry;

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, OnceLock, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use ipnet::IpNet;
use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::bundle::document::{ClientUser, Gateway, Listener, ListenerTls};
use crate::bundle::{Materials, NackReason};
use crate::gateway::intake::{Intake, WeakIntake};
use crate::loops::Dealer;
use crate::smtp::auth::Users;
use crate::smtp::server::{Connections, ListenerConfig, Logins, Server};
use crate::smtp::settings::{Limits, Settings, Timeouts, TlsMode};
use crate::smtp::tls::{ClientAuthority, LiveCertificate, TlsError};

#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    #[error("cannot listen on {address} for listener {name}: {source}")]
    Bind { name: String, address: SocketAddr, source: io::Error },
    #[error("the certificate of listener {name} cannot be used: {source}")]
    Certificate { name: String, source: TlsError },
    #[error("the certificate of listener {name} is not in the mount")]
    Missing { name: String },
    #[error("the password of client {name} is not in the mount")]
    Password { name: String },
    #[error("the CA of the clients is not in the mount")]
    NoClientCa,
    #[error("the CA of the clients cannot be used: {0}")]
    ClientCa(TlsError),
}

impl ListenError {
    pub fn reason(&self) -> NackReason {
        match self {
            ListenError::Bind { .. } | ListenError::Certificate { .. } | ListenError::ClientCa(_) => {
                NackReason::ListenerFailed
            }
            ListenError::Missing { .. } | ListenError::Password { .. } | ListenError::NoClientCa => {
                NackReason::SecretMissing
            }
        }
    }
}

pub struct Listeners {
    /// Listen here whatever the bundle says.
    fixed: Vec<SocketAddr>,
    /// The greeting's name when the gateway has none.
    hostname: String,
    /// Set once, before the first bundle. Weak: the intake holds us.
    intake: OnceLock<WeakIntake>,
    settings: Arc<ArcSwap<Settings>>,
    connections: Arc<Connections>,
    loops: Dealer,
    open: Mutex<HashMap<SocketAddr, Open>>,
    /// When the certificates that were given to listeners expire, by listener; own ones are made anew.
    expiries: std::sync::Mutex<BTreeMap<String, i64>>,
}

/// A listener at one of its addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    name: String,
    address: SocketAddr,
    tls: TlsMode,
    /// Load balancers in front of it.
    proxy_from: Vec<IpNet>,
}

struct Open {
    place: Place,
    /// The listening socket: it stays, and nobody is turned away, when the listener at it changes.
    socket: std::net::TcpListener,
    certificate: Arc<LiveCertificate>,
    /// What the certificate was made of, to notice a change.
    made_of: CertificateSource,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

#[derive(Debug, Clone, PartialEq)]
struct CertificateSource {
    own: OwnCertificate,
    /// Whom clients' certificates are to be from, if they are asked for one.
    client_ca: Option<Arc<[u8]>>,
}

#[derive(Debug, Clone, PartialEq)]
enum OwnCertificate {
    SelfSigned { hostname: String },
    Pem { chain: Arc<[u8]>, key: Arc<[u8]> },
}

/// A server that does not run yet, and its socket.
type Bound = (std::net::TcpListener, Server<Intake>);

impl Open {
    fn start(
        place: Place,
        (socket, server): Bound,
        certificate: Arc<LiveCertificate>,
        made_of: CertificateSource,
    ) -> Self {
        let stop = CancellationToken::new();
        let task = tokio::spawn(server.run(stop.clone()));
        Self { place, socket, certificate, made_of, stop, task }
    }

    /// Its sessions end by themselves within the drain limit; nothing waits for them here.
    fn close(self) {
        self.stop.cancel();
        tokio::spawn(self.task);
    }
}

impl Listeners {
    pub fn new(fixed: Vec<SocketAddr>, hostname: String, loops: Dealer) -> Self {
        let settings = Settings { timeouts: timeouts(), ..Settings::new(&hostname) };
        Self {
            fixed,
            hostname,
            intake: OnceLock::new(),
            settings: Arc::new(ArcSwap::from_pointee(settings)),
            connections: Arc::new(Connections::default()),
            loops,
            open: Mutex::new(HashMap::new()),
            expiries: std::sync::Mutex::default(),
        }
    }

    /// Says who takes the mail. Called once, before the first bundle.
    pub fn attach(&self, intake: &Intake) {
        // A second call would be a programming mistake without a consequence: the first intake stays.
        let _ = self.intake.set(intake.downgrade());
    }

    /// Opens the fixed addresses before there is a policy: until then every client is told 421 there. An address
    /// that cannot be bound is the first policy's to report.
    pub async fn open_early(&self) {
        let Some(intake) = self.intake.get().and_then(WeakIntake::upgrade) else { return };
        let listener = Listener {
            name: "smtp".to_owned(),
            port: 25,
            tls: ListenerTls::Optional,
            certificate: None,
            proxy_from: Vec::new(),
        };
        let own = OwnCertificate::SelfSigned { hostname: self.hostname.clone() };
        let made_of = CertificateSource { own, client_ca: None };
        let mut open = self.open.lock().await;
        for place in self.places(&listener).into_iter().filter(|place| self.fixed.contains(&place.address)) {
            let Ok(certificate) = make(&listener, &made_of, None).map(Arc::new) else { return };
            if let Ok(bound) = self.bind(&place, Arc::clone(&certificate), &intake) {
                open.insert(place.address, Open::start(place, bound, certificate, made_of.clone()));
            }
        }
    }

    /// Makes the open listeners those of `gateway`. After an error everything is as it was.
    pub async fn apply(&self, gateway: &Gateway, materials: &Materials) -> Result<(), ListenError> {
        let Some(intake) = self.intake.get().and_then(WeakIntake::upgrade) else { return Ok(()) };
        let hostname = gateway.hostname.as_deref().unwrap_or(&self.hostname);
        let mut open = self.open.lock().await;

        // Everything that can fail comes first.
        let users = Arc::new(users(gateway, materials)?);
        let client_ca = client_ca(gateway, materials)?;
        let authority = client_ca.as_deref().map(ClientAuthority::from_pem).transpose();
        let authority = authority.map_err(ListenError::ClientCa)?.map(Arc::new);
        let mut certificates = Vec::new();
        let mut fresh = Vec::new();
        let mut wanted = Vec::new();
        for listener in self.meant(gateway) {
            let own = source(listener, hostname, materials)?;
            let made_of = CertificateSource { own, client_ca: client_ca.clone() };
            for place in self.places(listener) {
                wanted.push(place.address);
                match open.get(&place.address) {
                    Some(known) if known.place == place && known.made_of == made_of => {}
                    Some(known) if known.place == place => {
                        let certificate = make(listener, &made_of, authority.as_deref())?;
                        certificates.push((place, certificate, made_of.clone()));
                    }
                    other => {
                        let certificate = Arc::new(make(listener, &made_of, authority.as_deref())?);
                        let bound = match other {
                            Some(known) => self.take_over(&known.socket, &place, &certificate, &intake)?,
                            None => self.bind(&place, Arc::clone(&certificate), &intake)?,
                        };
                        fresh.push((place, bound, certificate, made_of.clone()));
                    }
                }
            }
        }

        let limits = &gateway.limits;
        let limits = Limits {
            message_size: limits.message_size,
            recipients: limits.recipients as usize,
            connections: limits.connections as usize,
            connections_per_client: limits.connections_per_client as usize,
            ..Limits::default()
        };
        let hostname = hostname.to_owned();
        self.settings.store(Arc::new(Settings { hostname, limits, timeouts: timeouts(), users, authority }));
        for (place, certificate, made_of) in certificates {
            if let Some(known) = open.get_mut(&place.address) {
                known.certificate.replace_by(&certificate);
                known.made_of = made_of;
            }
        }
        for (place, bound, certificate, made_of) in fresh {
            // The old one first: both accept from one socket, and who connects from now on is a client of the new
            // one. In between connections wait in the socket's backlog.
            open.remove(&place.address).into_iter().for_each(Open::close);
            open.insert(place.address, Open::start(place, bound, certificate, made_of));
        }
        let gone: Vec<SocketAddr> =
            open.keys().filter(|address| !wanted.contains(address)).copied().collect();
        gone.iter().filter_map(|address| open.remove(address)).for_each(Open::close);
        let expiries = open.values().filter_map(|open| match &open.made_of.own {
            OwnCertificate::Pem { chain, .. } => Some((open.place.name.clone(), expiry::of(chain)?)),
            OwnCertificate::SelfSigned { .. } => None,
        });
        *self.expiries.lock().unwrap_or_else(PoisonError::into_inner) = expiries.collect();
        Ok(())
    }

    /// When the certificates of listeners expire, in seconds since 1970, by the listener's name.
    pub fn expiries(&self) -> BTreeMap<String, i64> {
        self.expiries.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// SMTP sessions that are open, of all listeners.
    pub fn sessions(&self) -> usize {
        self.connections.open()
    }

    /// How logins of clients went.
    pub fn logins(&self) -> &Logins {
        self.connections.logins()
    }

    /// The name of this machine.
    pub fn hostname(&self) -> &str {
        &self.hostname
    }

    /// Where this gateway listens, so that delivery never talks to itself.
    pub fn addresses(&self, gateway: &Gateway) -> Vec<SocketAddr> {
        let places = self.meant(gateway).iter().flat_map(|listener| self.places(listener));
        places.map(|place| place.address).collect()
    }

    /// The listeners of the bundle; with fixed addresses only the first, so that none is bound twice.
    fn meant<'a>(&self, gateway: &'a Gateway) -> &'a [Listener] {
        match self.fixed.as_slice() {
            [] => &gateway.listeners,
            _ => &gateway.listeners[..gateway.listeners.len().min(1)],
        }
    }

    /// Where a listener of the bundle is bound: its port on all addresses, or the fixed addresses.
    fn places(&self, listener: &Listener) -> Vec<Place> {
        let tls = match listener.tls {
            ListenerTls::Optional => TlsMode::Optional,
            ListenerTls::Required => TlsMode::Required,
            ListenerTls::Implicit => TlsMode::Implicit,
        };
        let place = |address| Place {
            name: listener.name.clone(),
            address,
            tls,
            proxy_from: listener.proxy_from.clone(),
        };
        if self.fixed.is_empty() {
            return vec![place(SocketAddr::from((Ipv6Addr::UNSPECIFIED, listener.bind_port())))];
        }
        self.fixed.iter().map(|address| place(*address)).collect()
    }

    fn config(&self, place: &Place, addr: SocketAddr, certificate: &Arc<LiveCertificate>) -> ListenerConfig {
        ListenerConfig {
            name: place.name.clone(),
            addr,
            tls: place.tls,
            proxy_from: place.proxy_from.clone(),
            certificate: Arc::clone(certificate),
            settings: Arc::clone(&self.settings),
            connections: Arc::clone(&self.connections),
            loops: self.loops.clone(),
        }
    }

    /// Another listener at a socket that is open: whoever connects meanwhile waits in its queue.
    fn take_over(
        &self,
        socket: &std::net::TcpListener,
        place: &Place,
        certificate: &Arc<LiveCertificate>,
        intake: &Intake,
    ) -> Result<Bound, ListenError> {
        let config = self.config(place, place.address, certificate);
        let server =
            socket.try_clone().and_then(|socket| Server::on(socket, config, Arc::new(intake.clone())));
        let bound = server.and_then(|server| Ok((server.socket()?, server)));
        let (name, address) = (place.name.clone(), place.address);
        bound.map_err(|source| ListenError::Bind { name, address, source })
    }

    fn bind(
        &self,
        place: &Place,
        certificate: Arc<LiveCertificate>,
        intake: &Intake,
    ) -> Result<Bound, ListenError> {
        let config = |addr| self.config(place, addr, &certificate);
        let handler = Arc::new(intake.clone());
        let bound = Server::bind(config(place.address), Arc::clone(&handler)).or_else(|error| {
            // A machine without IPv6 has no `[::]`.
            if place.address.ip() == Ipv6Addr::UNSPECIFIED && is_no_ipv6(&error) {
                return Server::bind(config((Ipv4Addr::UNSPECIFIED, place.address.port()).into()), handler);
            }
            Err(error)
        });
        let (name, address) = (place.name.clone(), place.address);
        bound.and_then(|server| Ok((server.socket()?, server))).map_err(|source| ListenError::Bind {
            name,
            address,
            source,
        })
    }

    /// Closes all listeners and waits for their sessions, at most `limit`.
    pub async fn shut_down(&self, limit: Duration) {
        let open = std::mem::take(&mut *self.open.lock().await);
        let tasks = open.into_values().map(|listener| {
            listener.stop.cancel();
            // With the value goes the socket: nobody is left waiting in its queue.
            listener.task
        });
        let ended = futures::future::join_all(tasks.collect::<Vec<_>>());
        let _ = tokio::time::timeout(limit, ended).await;
    }
}

fn is_no_ipv6(error: &io::Error) -> bool {
    use rustix::io::Errno;
    [Errno::AFNOSUPPORT, Errno::ADDRNOTAVAIL]
        .iter()
        .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

fn timeouts() -> Timeouts {
    // The gateway itself stays open a little longer before it closes its listeners.
    Timeouts { drain_grace: Duration::ZERO, ..Timeouts::default() }
}

/// Who may log in, with their passwords. A line end at the end of a password is the editor's, not the user's.
fn users(gateway: &Gateway, materials: &Materials) -> Result<Users, ListenError> {
    let mut users = Vec::with_capacity(gateway.users.len());
    for ClientUser { name, password, senders: _ } in &gateway.users {
        let password = materials.get(password).ok_or_else(|| ListenError::Password { name: name.clone() })?;
        let password = password.strip_suffix(b"\n").unwrap_or(password);
        users.push((name.as_str(), password.strip_suffix(b"\r").unwrap_or(password)));
    }
    Ok(Users::new(users))
}

fn client_ca(gateway: &Gateway, materials: &Materials) -> Result<Option<Arc<[u8]>>, ListenError> {
    let Some(authority) = &gateway.mutual_tls else { return Ok(None) };
    materials.get(&authority.ca).map(|ca| Some(Arc::clone(ca))).ok_or(ListenError::NoClientCa)
}

fn source(listener: &Listener, hostname: &str, materials: &Materials) -> Result<OwnCertificate, ListenError> {
    let Some(certificate) = &listener.certificate else {
        return Ok(OwnCertificate::SelfSigned { hostname: hostname.to_owned() });
    };
    match (materials.get(&certificate.chain), materials.get(&certificate.key)) {
        (Some(chain), Some(key)) => {
            Ok(OwnCertificate::Pem { chain: Arc::clone(chain), key: Arc::clone(key) })
        }
        _ => Err(ListenError::Missing { name: listener.name.clone() }),
    }
}

fn make(
    listener: &Listener,
    made_of: &CertificateSource,
    clients: Option<&ClientAuthority>,
) -> Result<LiveCertificate, ListenError> {
    match &made_of.own {
        OwnCertificate::SelfSigned { hostname } => LiveCertificate::self_signed(hostname, clients),
        OwnCertificate::Pem { chain, key } => LiveCertificate::from_pem(chain, key, clients),
    }
    .map_err(|source| ListenError::Certificate { name: listener.name.clone(), source })
}
