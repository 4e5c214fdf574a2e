//! The header with which a load balancer says who its client is (PROXY protocol, versions 2 and 1), read octet
//! by octet exactly: what follows it belongs to the session, or to a TLS handshake. It is read only from load
//! balancers that the listener names, and from those it is demanded, so nobody chooses his own address.

use std::io;
use std::net::{IpAddr, SocketAddr};

use ppp::{v1, v2};
use tokio::io::{AsyncRead, AsyncReadExt as _};

/// Octets of a version 2 header that say how many follow.
const FRONT: usize = 16;

/// Octets behind them; TLVs are read over.
const MOST: usize = 4096;

/// Octets of a version 1 line with its CRLF.
const LINE: usize = 107;

#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    #[error("the header did not come: {0}")]
    Io(#[from] io::Error),
    #[error("there is no PROXY header where one was due")]
    Missing,
    #[error("the PROXY header cannot be read: {0}")]
    Malformed(String),
    #[error("the PROXY header has {0} octets, too many")]
    TooLong(usize),
    /// Taking the balancer's own address for it could let everybody in.
    #[error("the PROXY header names no TCP address")]
    NoAddress,
}

/// Both ends of the connection that the load balancer accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ends {
    pub client: SocketAddr,
    pub local: SocketAddr,
}

/// Reads the header and nothing behind it. `None`: the load balancer itself is the client (a health check).
pub async fn read<S: AsyncRead + Unpin>(stream: &mut S) -> Result<Option<Ends>, ProxyError> {
    let mut header = vec![0; FRONT];
    // A line of version 1 can be shorter than a header of version 2.
    let (start, rest) = header.split_at_mut(v2::PROTOCOL_PREFIX.len());
    stream.read_exact(start).await?;
    if start == v2::PROTOCOL_PREFIX {
        stream.read_exact(rest).await?;
        let length = usize::from(u16::from_be_bytes([header[14], header[15]]));
        if length > MOST {
            return Err(ProxyError::TooLong(length));
        }
        header.resize(FRONT + length, 0);
        stream.read_exact(&mut header[FRONT..]).await?;
        return binary(&header);
    }
    if !start.starts_with(b"PROXY ") {
        return Err(ProxyError::Missing);
    }
    header.truncate(v2::PROTOCOL_PREFIX.len());
    while !header.ends_with(b"\n") {
        if header.len() == LINE {
            return Err(ProxyError::TooLong(header.len()));
        }
        header.push(stream.read_u8().await?);
    }
    text(&header)
}

fn binary(header: &[u8]) -> Result<Option<Ends>, ProxyError> {
    let header = v2::Header::try_from(header).map_err(|error| ProxyError::Malformed(error.to_string()))?;
    if header.command == v2::Command::Local {
        return Ok(None);
    }
    match (header.protocol, header.addresses) {
        (v2::Protocol::Stream, v2::Addresses::IPv4(ends)) => Ok(Some(Ends::new(
            (ends.source_address, ends.source_port),
            (ends.destination_address, ends.destination_port),
        ))),
        (v2::Protocol::Stream, v2::Addresses::IPv6(ends)) => Ok(Some(Ends::new(
            (ends.source_address, ends.source_port),
            (ends.destination_address, ends.destination_port),
        ))),
        _ => Err(ProxyError::NoAddress),
    }
}

fn text(line: &[u8]) -> Result<Option<Ends>, ProxyError> {
    let header = v1::Header::try_from(line).map_err(|error| ProxyError::Malformed(error.to_string()))?;
    match header.addresses {
        v1::Addresses::Tcp4(ends) => Ok(Some(Ends::new(
            (ends.source_address, ends.source_port),
            (ends.destination_address, ends.destination_port),
        ))),
        v1::Addresses::Tcp6(ends) => Ok(Some(Ends::new(
            (ends.source_address, ends.source_port),
            (ends.destination_address, ends.destination_port),
        ))),
        v1::Addresses::Unknown => Err(ProxyError::NoAddress),
    }
}

impl Ends {
    fn new<A: Into<IpAddr>>(client: (A, u16), local: (A, u16)) -> Self {
        let end = |(address, port): (A, u16)| SocketAddr::new(address.into().to_canonical(), port);
        Self { client: end(client), local: end(local) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What is read of `wire`, and what is left of it.
    fn parse(wire: &[u8]) -> (Result<Option<Ends>, String>, usize) {
        let mut rest = wire;
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let read = runtime.block_on(read(&mut rest)).map_err(|error| error.to_string());
        (read, rest.len())
    }

    fn v2_header(command: u8, family: u8, payload: &[u8]) -> Vec<u8> {
        let length = u16::try_from(payload.len()).unwrap().to_be_bytes();
        [v2::PROTOCOL_PREFIX, &[0x20 | command, family], &length, payload].concat()
    }

    fn ends(client: &str, local: &str) -> Result<Option<Ends>, String> {
        Ok(Some(Ends { client: client.parse().unwrap(), local: local.parse().unwrap() }))
    }

    #[test]
    fn both_versions_and_families_are_read_to_their_end_and_no_further() {
        let v4 = [203, 0, 113, 9, 192, 0, 2, 1, 0x12, 0x34, 0, 25];
        let with_tlv = [&v4[..], &[0x04, 0, 3, 0, 0, 0]].concat();
        let mapped =
            [&[0; 10][..], &[0xff, 0xff, 203, 0, 113, 9], &[0; 10], &[0xff, 0xff, 192, 0, 2, 1]].concat();
        let mapped = [&mapped[..], &[0x12, 0x34, 0, 25]].concat();
        for header in [
            v2_header(1, 0x11, &v4),
            v2_header(1, 0x11, &with_tlv),
            v2_header(1, 0x21, &mapped),
            b"PROXY TCP4 203.0.113.9 192.0.2.1 4660 25\r\n".to_vec(),
        ] {
            let wire = [&header[..], b"EHLO c\r\n"].concat();
            assert_eq!(parse(&wire), (ends("203.0.113.9:4660", "192.0.2.1:25"), 8), "{header:?}");
        }
        let v6 = b"PROXY TCP6 2001:db8::9 2001:db8::1 4660 25\r\nEHLO";
        assert_eq!(parse(v6), (ends("[2001:db8::9]:4660", "[2001:db8::1]:25"), 4));
    }

    #[test]
    fn the_balancers_own_check_is_its_own_and_a_client_without_address_is_nobody() {
        assert_eq!(parse(&[&v2_header(0, 0, &[])[..], b"QUIT"].concat()), (Ok(None), 4));
        assert_eq!(parse(&v2_header(0, 0x11, &[0; 12])), (Ok(None), 0));
        for header in [
            v2_header(1, 0x00, &[]),
            v2_header(1, 0x31, &[0; 216]),
            // UDP.
            v2_header(1, 0x12, &[0; 12]),
            b"PROXY UNKNOWN\r\n".to_vec(),
        ] {
            assert_eq!(parse(&header).0, Err(ProxyError::NoAddress.to_string()), "{header:?}");
        }
    }

    #[test]
    fn what_is_no_header_is_refused() {
        for wire in [
            &b"EHLO client.example\r\n"[..],
            b"PROXY TCP4 203.0.113.9 192.0.2.1 4660\r\n        ",
            b"PROXY TCP4 203.0.113.999 192.0.2.1 4660 25\r\n",
            b"PROXY TCP4 2001:db8::9 192.0.2.1 4660 25\r\n",
            &v2_header(2, 0x11, &[0; 12]),
            &v2_header(1, 0x11, &[0; 11]),
            &v2_header(1, 0x11, &[0; MOST + 1]),
            &v2_header(1, 0x11, &[0; 12])[..20],
            &[b"PROXY TCP4 ", &[b'1'; 200][..]].concat(),
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        ] {
            assert!(parse(wire).0.is_err(), "{wire:?}");
        }
    }

    proptest! {
        #[test]
        fn noise_is_survived(wire: Vec<u8>) {
            let _ = parse(&wire);
            let _ = parse(&[v2::PROTOCOL_PREFIX, &wire].concat());
            let _ = parse(&[b"PROXY TCP4 ", &wire[..]].concat());
        }
    }
}
