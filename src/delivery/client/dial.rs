//! The first bytes of a connection: from the source address that was chosen, or through the proxy that has it.
//! Never from another one.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;
use tokio_socks::tcp::Socks5Stream;

use crate::bundle::document::HostPort;
use crate::delivery::egress::Source;
use crate::delivery::outcome::Trouble;

pub async fn dial(
    address: SocketAddr,
    source: Option<&Source>,
    limit: Duration,
) -> Result<TcpStream, Trouble> {
    let dialing = async {
        match source {
            None => TcpStream::connect(address).await.map_err(|error| unreachable(address, &error)),
            Some(Source { proxy: Some(proxy), .. }) => through(proxy, address).await,
            Some(Source { address: from, .. }) => bound(*from, address).await,
        }
    };
    match timeout(limit, dialing).await {
        Ok(Ok(stream)) => {
            // Commands are small and each waits for its reply.
            stream.set_nodelay(true).ok();
            Ok(stream)
        }
        Ok(Err(trouble)) => Err(trouble),
        Err(_) => Err(Trouble::Unreachable(format!("{address}: no answer in time"))),
    }
}

async fn bound(from: IpAddr, address: SocketAddr) -> Result<TcpStream, Trouble> {
    let missing = |error: io::Error| Trouble::NoSource(format!("cannot send from {from}: {error}"));
    let socket = match from {
        IpAddr::V4(_) => TcpSocket::new_v4(),
        IpAddr::V6(_) => TcpSocket::new_v6(),
    };
    let socket = socket.map_err(|error| unreachable(address, &error))?;
    // Ports of connections that ended a moment ago can be used again.
    socket.set_reuseaddr(true).ok();
    socket.bind(SocketAddr::new(from, 0)).map_err(missing)?;
    socket.connect(address).await.map_err(|error| match error.kind() {
        io::ErrorKind::AddrNotAvailable | io::ErrorKind::AddrInUse => missing(error),
        _ => unreachable(address, &error),
    })
}

async fn through(proxy: &HostPort, address: SocketAddr) -> Result<TcpStream, Trouble> {
    let host = proxy.host.as_str();
    let broken = |why: &dyn std::fmt::Display| Trouble::Proxy(format!("{host}:{}: {why}", proxy.port));
    let stream = TcpStream::connect((host, proxy.port)).await.map_err(|error| broken(&error))?;
    // A mapped address would be an IPv6 one to the proxy.
    let target = SocketAddr::new(address.ip().to_canonical(), address.port());
    match Socks5Stream::connect_with_socket(stream, target).await {
        Ok(stream) => Ok(stream.into_inner()),
        Err(error) => Err(match error {
            // What the proxy says about the host it was to reach.
            tokio_socks::Error::NetworkUnreachable
            | tokio_socks::Error::HostUnreachable
            | tokio_socks::Error::ConnectionRefused
            | tokio_socks::Error::TtlExpired => {
                Trouble::Unreachable(format!("{address} through the proxy {host}: {error}"))
            }
            error => broken(&error),
        }),
    }
}

fn unreachable(address: SocketAddr, error: &io::Error) -> Trouble {
    Trouble::Unreachable(format!("{address}: {error}"))
}
