//! From an address to a session that is ready for MAIL: connect, greeting, EHLO, TLS as demanded, login.

use std::net::SocketAddr;
use std::sync::Arc;

use rustls::pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::Timeouts;
use super::auth::{self, Credentials};
use super::dial::dial;
use super::extensions::Extensions;
use super::tls::{self, Tls};
use super::wire::{Stream, Wire};
use crate::bundle::document::TlsMode;
use crate::delivery::egress::Source;
use crate::delivery::limits::Lease;
use crate::delivery::outcome::{Stage, Trouble};
use crate::delivery::protect::Demand;
use crate::smtp::reply::Reply;

/// A session between transactions.
pub struct Session {
    pub(super) wire: Wire,
    pub(super) timeouts: Timeouts,
    pub extensions: Extensions,
    /// Protocol and cipher suite; `None`: clear text.
    pub tls: Option<String>,
    /// Transactions so far.
    pub used: u32,
    /// What it counts against, where the number of connections is limited.
    pub lease: Option<Lease>,
}

/// On what terms to connect.
#[derive(Debug, Clone, Copy)]
pub struct Terms<'a> {
    /// What EHLO says.
    pub hostname: &'a str,
    /// Where it must leave from; `None`: the machine picks.
    pub source: Option<&'a Source>,
    /// The next hop's name, for its certificate.
    pub host: &'a str,
    pub tls: &'a Tls,
    /// What a certificate must be besides what the route says (DANE, MTA-STS).
    pub demand: &'a Demand,
    /// No clear text, whatever happens.
    pub require_tls: bool,
    /// Logged in with, or no session at all.
    pub auth: Option<&'a Arc<Credentials>>,
    pub timeouts: Timeouts,
    /// Hears how far the session comes; `None` for mail.
    pub watch: Option<&'a dyn Watch>,
}

/// Who tests a next hop and wants to know how far a session came.
pub trait Watch: std::fmt::Debug + Sync {
    fn reached(&self, milestone: Milestone<'_>);
}

#[derive(Debug, Clone, Copy)]
pub enum Milestone<'a> {
    Connected,
    Greeted(&'a Reply),
    /// The 250 after EHLO, each of them.
    Hello(&'a Reply),
    /// TLS stands, with protocol and cipher suite.
    Encrypted(&'a str),
}

impl Terms<'_> {
    fn reached(&self, milestone: Milestone<'_>) {
        if let Some(watch) = self.watch {
            watch.reached(milestone);
        }
    }
}

/// Opens a session. Clear text is used only if nothing demands TLS, and then also when TLS is offered
/// but broken (spec R21): that takes a new connection.
pub async fn open(address: SocketAddr, terms: Terms<'_>) -> Result<Session, Trouble> {
    let session = greet(address, terms).await?;
    match terms.auth {
        None => Ok(session),
        Some(credentials) => session.log_in(credentials, &terms).await,
    }
}

async fn greet(address: SocketAddr, terms: Terms<'_>) -> Result<Session, Trouble> {
    if terms.tls.mode == TlsMode::Implicit {
        let stream = reach(address, &terms).await?;
        let (stream, facts) = handshake(stream, &terms).await?;
        let mut wire = Wire::new(stream);
        greeting(&mut wire, &terms).await?;
        let extensions = ehlo(&mut wire, &terms).await?;
        return Ok(session(wire, extensions, Some(facts), &terms));
    }
    match starttls(address, &terms, true).await {
        Err(
            Trouble::Handshake(_)
            | Trouble::ClientCertificate(_)
            | Trouble::Closed(Stage::StartTls)
            | Trouble::TimedOut(Stage::StartTls)
            | Trouble::Garbled(Stage::StartTls, _),
        ) if !terms.require_tls => starttls(address, &terms, false).await,
        result => result,
    }
}

async fn starttls(address: SocketAddr, terms: &Terms<'_>, use_tls: bool) -> Result<Session, Trouble> {
    let mut wire = Wire::new(Stream::Plain(reach(address, terms).await?));
    greeting(&mut wire, terms).await?;
    let extensions = ehlo(&mut wire, terms).await?;
    if !(use_tls && extensions.starttls) {
        if !terms.require_tls {
            return Ok(session(wire, extensions, None, terms));
        }
        session(wire, extensions, None, terms).quit().await;
        // Only a complete EHLO response establishes that there is no TLS; a host that does not know
        // EHLO may be having a bad day.
        return Err(match extensions.esmtp {
            true => Trouble::StartTlsMissing,
            false => {
                Trouble::Garbled(Stage::Ehlo, "it does not know EHLO, so there is no STARTTLS".to_owned())
            }
        });
    }
    wire.send(b"STARTTLS\r\n", Stage::StartTls, terms.timeouts.hello).await?;
    let reply = wire.reply(Stage::StartTls, terms.timeouts.hello).await?;
    if reply.code != 220 {
        return match terms.require_tls || reply.code == 421 {
            true => Err(Trouble::Refused(Stage::StartTls, reply)),
            false => Ok(session(wire, extensions, None, terms)),
        };
    }
    let Stream::Plain(stream) = wire.into_stream() else {
        return Err(Trouble::Handshake("TLS inside TLS".to_owned()));
    };
    let (stream, facts) = handshake(stream, terms).await?;
    let mut wire = Wire::new(stream);
    let extensions = ehlo(&mut wire, terms).await?;
    Ok(session(wire, extensions, Some(facts), terms))
}

fn session(wire: Wire, extensions: Extensions, tls: Option<String>, terms: &Terms<'_>) -> Session {
    Session { wire, timeouts: terms.timeouts, extensions, tls, used: 0, lease: None }
}

async fn reach(address: SocketAddr, terms: &Terms<'_>) -> Result<TcpStream, Trouble> {
    let stream = dial(address, terms.source, terms.timeouts.connect).await?;
    terms.reached(Milestone::Connected);
    Ok(stream)
}

async fn handshake(stream: TcpStream, terms: &Terms<'_>) -> Result<(Stream, String), Trouble> {
    let name = terms.tls.server_name.as_deref().or(terms.demand.sni()).unwrap_or(terms.host);
    let name = ServerName::try_from(name.to_owned())
        .map_err(|_| Trouble::Handshake(format!("{name:?} is not a name that a certificate can carry")))?;
    let connector = TlsConnector::from(Arc::clone(&terms.tls.config));
    match timeout(terms.timeouts.hello, connector.connect(name, stream)).await {
        Ok(Ok(stream)) => {
            let (_, connection) = stream.get_ref();
            let chain = connection.peer_certificates().unwrap_or_default();
            terms.demand.check(chain).map_err(|why| terms.demand.unfit(&why))?;
            let version = connection.protocol_version().map(|v| format!("{v:?}")).unwrap_or_default();
            let suite = connection.negotiated_cipher_suite().map(|s| format!("{:?}", s.suite()));
            let facts = format!("{} with cipher {}", version.replace('_', "."), suite.unwrap_or_default());
            terms.reached(Milestone::Encrypted(&facts));
            Ok((Stream::Tls(Box::new(stream)), facts))
        }
        Ok(Err(error)) => Err(match tls::refusal(&error) {
            Some(text) => Trouble::Certificate(text),
            None => match tls::refused_certificate(&error) {
                Some(alert) => Trouble::ClientCertificate(alert),
                None => Trouble::Handshake(error.to_string()),
            },
        }),
        Err(_) => Err(Trouble::Handshake("no answer in time".to_owned())),
    }
}

async fn greeting(wire: &mut Wire, terms: &Terms<'_>) -> Result<(), Trouble> {
    let reply = wire.reply(Stage::Greeting, terms.timeouts.greeting).await?;
    if reply.code != 220 {
        return Err(Trouble::Refused(Stage::Greeting, reply));
    }
    terms.reached(Milestone::Greeted(&reply));
    Ok(())
}

/// EHLO; HELO for a host that does not know it (RFC 5321 section 3.2).
async fn ehlo(wire: &mut Wire, terms: &Terms<'_>) -> Result<Extensions, Trouble> {
    let limit = terms.timeouts.hello;
    wire.send(format!("EHLO {}\r\n", terms.hostname).as_bytes(), Stage::Ehlo, limit).await?;
    let reply = wire.reply(Stage::Ehlo, limit).await?;
    if reply.code == 250 {
        terms.reached(Milestone::Hello(&reply));
        return Ok(Extensions::parse(&reply.text));
    }
    if !matches!(reply.code, 500 | 501 | 502 | 504 | 550) {
        return Err(Trouble::Refused(Stage::Ehlo, reply));
    }
    wire.send(format!("HELO {}\r\n", terms.hostname).as_bytes(), Stage::Ehlo, limit).await?;
    let reply = wire.reply(Stage::Ehlo, limit).await?;
    if reply.code == 250 { Ok(Extensions::default()) } else { Err(Trouble::Refused(Stage::Ehlo, reply)) }
}

impl Session {
    /// The chain that the peer showed, its own certificate first; none in clear text.
    pub fn certificates(&self) -> Vec<CertificateDer<'static>> {
        self.wire.certificates()
    }

    /// The login that the route has (spec R16). Without it there is no session.
    async fn log_in(mut self, credentials: &Arc<Credentials>, terms: &Terms<'_>) -> Result<Self, Trouble> {
        let login = match self.tls.is_some() && terms.tls.verifies_peer {
            true => {
                let (offered, limit) = (self.extensions.auth, terms.timeouts.hello);
                auth::login(&mut self.wire, offered, credentials, limit).await
            }
            // No route is made like this; if one were, no password would leave.
            false => Err(Trouble::AuthUnprotected),
        };
        match login {
            Ok(()) => Ok(self),
            Err(trouble) => {
                if !matches!(trouble, Trouble::Closed(_) | Trouble::TimedOut(_)) {
                    self.quit().await;
                }
                Err(trouble)
            }
        }
    }

    /// A login, by who has seen for itself that the peer is verified: a test.
    pub async fn try_login(&mut self, credentials: &Arc<Credentials>) -> Result<(), Trouble> {
        auth::login(&mut self.wire, self.extensions.auth, credentials, self.timeouts.hello).await
    }

    /// Says goodbye, briefly.
    pub async fn quit(mut self) {
        let limit = std::time::Duration::from_secs(2);
        if self.wire.send(b"QUIT\r\n", Stage::Mail, limit).await.is_ok() {
            self.wire.reply(Stage::Mail, limit).await.ok();
        }
    }
}
