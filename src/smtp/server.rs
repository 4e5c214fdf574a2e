//! The listener: accepts connections, counts them, gives each to a [`connection`] task, and sees all of
//! them end. What a connection says is decided in [`session`](super::session); here is only transport.

mod clients;
mod connection;
mod input;
mod logins;
mod proxy;

pub use clients::{Connections, client};
pub use connection::serve;
pub use logins::{Logins, Try};

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use ipnet::IpNet;
use rustix::io::Errno;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use clients::Place;
use proxy::Ends;

use super::Handler;
use super::session;
use super::settings::{Settings, TlsMode};
use super::tls::LiveCertificate;
use crate::loops::Dealer;

/// Connections the kernel completes before we accept them.
const BACKLOG: u32 = 4096;

/// How long to wait when the process or the machine has nothing left to accept with.
const EXHAUSTED: Duration = Duration::from_millis(100);

/// Where and how a listener listens. What may change while it runs is behind an `Arc`.
#[derive(Debug, Clone)]
pub struct ListenerConfig {
    pub name: String,
    pub addr: SocketAddr,
    pub tls: TlsMode,
    /// Load balancers: they say by a PROXY header who the client is, and must.
    pub proxy_from: Vec<IpNet>,
    pub certificate: Arc<LiveCertificate>,
    pub settings: Arc<ArcSwap<Settings>>,
    /// Shared by all listeners whose connections are counted together.
    pub connections: Arc<Connections>,
    /// Where sessions run.
    pub loops: Dealer,
}

/// A bound listener. [`run`](Self::run) serves it.
pub struct Server<H> {
    listener: TcpListener,
    local: SocketAddr,
    config: Arc<ListenerConfig>,
    handler: Arc<H>,
}

impl<H: Handler> Server<H> {
    /// Binds the address; clients can connect (and wait) from here on.
    pub fn bind(config: ListenerConfig, handler: Arc<H>) -> io::Result<Self> {
        let socket = match config.addr {
            SocketAddr::V4(_) => TcpSocket::new_v4()?,
            SocketAddr::V6(_) => TcpSocket::new_v6()?,
        };
        socket.set_reuseaddr(true)?;
        socket.bind(config.addr)?;
        Self::over(socket.listen(BACKLOG)?, config, handler)
    }

    /// Serves a socket that listens already, as [`socket`](Self::socket) of another server gave it.
    pub fn on(socket: std::net::TcpListener, config: ListenerConfig, handler: Arc<H>) -> io::Result<Self> {
        Self::over(TcpListener::from_std(socket)?, config, handler)
    }

    fn over(listener: TcpListener, config: ListenerConfig, handler: Arc<H>) -> io::Result<Self> {
        let local = listener.local_addr()?;
        Ok(Self { listener, local, config: Arc::new(config), handler })
    }

    /// Another handle of the listening socket: it stays open as long as one of them does.
    pub fn socket(&self) -> io::Result<std::net::TcpListener> {
        Ok(rustix::io::dup(&self.listener)?.into())
    }

    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// Serves until `shutdown` is cancelled and all sessions have ended: new connections are served
    /// for the drain grace, then idle sessions and those at their next MAIL get 421, and transactions
    /// have the drain limit to reach their reply. Must be awaited to its end; dropping it cuts all
    /// sessions.
    pub async fn run(self, shutdown: CancellationToken) {
        let Self { listener, local, config, handler } = self;
        let closing = CancellationToken::new();
        let mut sessions = JoinSet::new();
        info!(listener = %config.name, address = %local, "listening");
        let accepting = async {
            loop {
                tokio::select! {
                    accepted = listener.accept() => match accepted {
                        Ok((stream, peer)) => admit(stream, peer, &config, &handler, &closing, &mut sessions),
                        Err(error) => recover(&config, &error).await,
                    },
                    Some(ended) = sessions.join_next() => report(&config, ended),
                }
            }
        };
        let grace = async {
            shutdown.cancelled().await;
            let grace = config.settings.load().timeouts.drain_grace;
            // A sleep of no length still ends a tick later.
            if !grace.is_zero() {
                tokio::time::sleep(grace).await;
            }
        };
        // Whether it is over is asked first: another server may accept from this socket by now.
        tokio::select! {
            biased;
            () = grace => {}
            () = accepting => {}
        }
        drop(listener);
        closing.cancel();
        let limit = config.settings.load().timeouts.drain_limit;
        let ending = async {
            while let Some(ended) = sessions.join_next().await {
                report(&config, ended);
            }
        };
        if tokio::time::timeout(limit, ending).await.is_err() {
            warn!(listener = %config.name, sessions = sessions.len(), "cut sessions that did not end in time");
            sessions.shutdown().await;
        }
        info!(listener = %config.name, "closed");
    }
}

fn admit<H: Handler>(
    stream: TcpStream,
    peer: SocketAddr,
    config: &Arc<ListenerConfig>,
    handler: &Arc<H>,
    closing: &CancellationToken,
    sessions: &mut JoinSet<()>,
) {
    // An IPv4 client of a dual-stack listener is an IPv4 client.
    let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
    let limits = config.settings.load().limits;
    let by_proxy = config.proxy_from.iter().any(|network| network.contains(&peer.ip()));
    let place = match by_proxy {
        true => config.connections.take_unknown(&limits),
        false => config.connections.take(peer.ip(), &limits),
    };
    let Some(place) = place else { return turn_away(&stream, peer, config) };
    let Ok(local) = stream.local_addr() else { return };
    let local = SocketAddr::new(local.ip().to_canonical(), local.port());
    let _ = stream.set_nodelay(true);
    let (config, handler, closing) = (config.clone(), handler.clone(), closing.clone());
    let turn = config.loops.deal();
    let home = turn.handle();
    // The socket is watched by the loop that serves it, not by the one that accepted it.
    let Ok(stream) = stream.into_std() else { return };
    let session = async move {
        let stream = match TcpStream::from_std(stream) {
            Ok(stream) => stream,
            Err(error) => return debug!(%peer, %error, "a connection cannot be served"),
        };
        let _turn = turn;
        if by_proxy {
            let balancer = Ends { client: peer, local };
            // Boxed: no other connection has to be as large as this one is.
            return Box::pin(serve_proxied(stream, balancer, place, config, handler, closing)).await;
        }
        let _place = place;
        serve(stream, peer, local, config, handler, closing).await;
    };
    sessions.spawn_on(session, &home);
}

/// A connection from a load balancer: whose it is comes first.
async fn serve_proxied<H: Handler>(
    mut stream: TcpStream,
    balancer: Ends,
    mut place: Place,
    config: Arc<ListenerConfig>,
    handler: Arc<H>,
    closing: CancellationToken,
) {
    let settings = config.settings.load_full();
    // Boxed: it is over long before the session is.
    let header =
        Box::pin(tokio::time::timeout(settings.timeouts.proxy_header, proxy::read(&mut stream))).await;
    let ends = match header {
        Ok(Ok(ends)) => ends.unwrap_or(balancer),
        Ok(Err(error)) => {
            info!(listener = %config.name, balancer = %balancer.client, %error, "connection refused");
            return;
        }
        Err(_) => {
            info!(listener = %config.name, balancer = %balancer.client, "connection refused: no PROXY header in time");
            return;
        }
    };
    if !place.is_of(ends.client.ip(), &settings.limits) {
        return turn_away(&stream, ends.client, &config);
    }
    drop(settings);
    serve(stream, ends.client, ends.local, config, handler, closing).await;
    drop(place);
}

fn turn_away(stream: &TcpStream, peer: SocketAddr, config: &ListenerConfig) {
    debug!(listener = %config.name, %peer, "too many connections");
    let mut wire = Vec::new();
    session::too_many_connections().write_to(&mut wire);
    // A fresh socket takes a line at once or never.
    let _ = stream.try_write(&wire);
}

/// After a failed accept: waits where the next one would fail at once as well.
async fn recover(config: &ListenerConfig, error: &io::Error) {
    let exhausted = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM]
        .iter()
        .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()));
    if exhausted {
        warn!(listener = %config.name, %error, "cannot accept connections");
        tokio::time::sleep(EXHAUSTED).await;
    } else {
        debug!(listener = %config.name, %error, "a connection was lost before it was accepted");
    }
}

fn report(config: &ListenerConfig, ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        warn!(listener = %config.name, %error, "a session ended abnormally");
    }
}

#[cfg(test)]
mod tests;
