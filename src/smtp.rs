//! SMTP as a protocol (RFC 5321 and its extensions): lines, commands, replies, the session's states,
//! TLS. It knows no policy and no spool: what a server does with mail is behind [`Handler`].

pub mod auth;
pub mod chunk;
pub mod command;
pub mod line;
pub mod rate;
pub mod reply;
pub mod server;
pub mod session;
pub mod settings;
pub mod tls;

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;

use reply::Reply;

use crate::mail::envelope::{Recipient, Sender};

/// What the session knows of its client when a transaction begins.
#[derive(Debug, Clone)]
pub struct Peer {
    pub address: SocketAddr,
    pub local: SocketAddr,
    /// Name of the listener that accepted the connection.
    pub listener: String,
    /// What EHLO or HELO said.
    pub helo: String,
    /// Whether the client said EHLO (for the `with` clause of Received, RFC 3848).
    pub esmtp: bool,
    /// Protocol version and cipher suite, e.g. `TLSv1.3 with cipher TLS13_AES_256_GCM_SHA384`.
    pub tls: Option<String>,
    /// Whom it has logged in as (RFC 4954).
    pub login: Option<Arc<str>>,
    /// The names in its certificate, if it showed one of an authority that vouches for clients.
    pub certificate: Option<Arc<[String]>>,
}

/// What a server does with mail. One value serves all sessions.
pub trait Handler: Send + Sync + 'static {
    type Mail: Mail;

    /// MAIL was read and is well formed: begins a transaction, or says why not.
    fn mail(
        &self,
        peer: &Peer,
        sender: Sender,
        declared_size: Option<u64>,
    ) -> impl Future<Output = Result<Self::Mail, Reply>> + Send;

    /// Checked before the greeting and again at each MAIL: an error is sent and the connection
    /// closed (421 when draining or without a policy).
    fn greet(&self, address: SocketAddr) -> Result<(), Reply>;
}

/// One transaction, from an accepted MAIL to the reply after the data. Dropped when the client
/// resets, goes away or starts TLS: then nothing of it remains.
pub trait Mail: Send {
    /// One well-formed RCPT. An error refuses that recipient alone.
    fn rcpt(&mut self, recipient: Recipient) -> impl Future<Output = Result<(), Reply>> + Send;

    /// DATA or a first BDAT was read and at least one recipient accepted: an error is sent instead of 354 and ends
    /// the transaction.
    fn data(&mut self) -> impl Future<Output = Result<(), Reply>> + Send;

    /// A piece of the content: dots unstuffed, lines ended by CRLF, never the final dot. After an
    /// error the rest is read and thrown away, and the error is the reply after the data. A piece can
    /// be one octet and can end inside a line; content that turns out to hold a bare CR, bare LF or
    /// NUL never reaches `finish`.
    fn write(&mut self, content: &[u8]) -> impl Future<Output = Result<(), Reply>> + Send;

    /// The final dot: decides, stores, answers. 250 only when durable.
    fn finish(self) -> impl Future<Output = Reply> + Send;
}
