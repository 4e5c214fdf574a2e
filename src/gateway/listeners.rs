//! The SMTP listeners, bound and closed at run time as the bundle says: no restart, and all or nothing. What a
//! new bundle wants is bound before the first old listener closes.

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::bundle::document::{Gateway, Listener, ListenerTls};
use crate::bundle::{Materials, NackReason};
use crate::gateway::intake::{Intake, WeakIntake};
use crate::loops::Dealer;
use crate::smtp::server::{Connections, ListenerConfig, Server};
use crate::smtp::settings::{Limits, Settings, TlsMode};
use crate::smtp::tls::{LiveCertificate, TlsError};

#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    #[error("cannot listen on {address} for listener {name}: {source}")]
    Bind { name: String, address: SocketAddr, source: io::Error },
    #[error("the certificate of listener {name} cannot be used: {source}")]
    Certificate { name: String, source: TlsError },
    #[error("the certificate of listener {name} is not in the mount")]
    Missing { name: String },
}

impl ListenError {
    pub fn reason(&self) -> NackReason {
        match self {
            ListenError::Bind { .. } | ListenError::Certificate { .. } => NackReason::ListenerFailed,
            ListenError::Missing { .. } => NackReason::SecretMissing,
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
}

/// A listener at one of its addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    name: String,
    address: SocketAddr,
    tls: TlsMode,
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
enum CertificateSource {
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
        let settings = settings(&hostname, Limits::default());
        Self {
            fixed,
            hostname,
            intake: OnceLock::new(),
            settings: Arc::new(ArcSwap::from_pointee(settings)),
            connections: Arc::new(Connections::default()),
            loops,
            open: Mutex::new(HashMap::new()),
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
        let made_of = CertificateSource::SelfSigned { hostname: self.hostname.clone() };
        let mut open = self.open.lock().await;
        for place in self.places(&listener).into_iter().filter(|place| self.fixed.contains(&place.address)) {
            let Ok(certificate) = make(&listener, &made_of).map(Arc::new) else { return };
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
        let mut certificates = Vec::new();
        let mut fresh = Vec::new();
        let mut wanted = Vec::new();
        for listener in self.meant(gateway) {
            let made_of = source(listener, hostname, materials)?;
            for place in self.places(listener) {
                wanted.push(place.address);
                match open.get(&place.address) {
                    Some(known) if known.place == place && known.made_of == made_of => {}
                    Some(known) if known.place == place => {
                        certificates.push((place, make(listener, &made_of)?, made_of.clone()));
                    }
                    other => {
                        let certificate = Arc::new(make(listener, &made_of)?);
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
        self.settings.store(Arc::new(settings(hostname, limits)));
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
        Ok(())
    }

    /// SMTP sessions that are open, of all listeners.
    pub fn sessions(&self) -> usize {
        self.connections.open()
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
        let place = |address| Place { name: listener.name.clone(), address, tls };
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

fn settings(hostname: &str, limits: Limits) -> Settings {
    let mut settings = Settings { limits, ..Settings::new(hostname) };
    // The gateway itself stays open a little longer before it closes its listeners.
    settings.timeouts.drain_grace = Duration::ZERO;
    settings
}

fn source(
    listener: &Listener,
    hostname: &str,
    materials: &Materials,
) -> Result<CertificateSource, ListenError> {
    let Some(certificate) = &listener.certificate else {
        return Ok(CertificateSource::SelfSigned { hostname: hostname.to_owned() });
    };
    match (materials.get(&certificate.chain), materials.get(&certificate.key)) {
        (Some(chain), Some(key)) => {
            Ok(CertificateSource::Pem { chain: Arc::clone(chain), key: Arc::clone(key) })
        }
        _ => Err(ListenError::Missing { name: listener.name.clone() }),
    }
}

fn make(listener: &Listener, made_of: &CertificateSource) -> Result<LiveCertificate, ListenError> {
    match made_of {
        CertificateSource::SelfSigned { hostname } => LiveCertificate::self_signed(hostname),
        CertificateSource::Pem { chain, key } => LiveCertificate::from_pem(chain, key),
    }
    .map_err(|source| ListenError::Certificate { name: listener.name.clone(), source })
}
