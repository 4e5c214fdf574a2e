//! Asks rspamd what it thinks of a message: `POST /checkv2`, the message as it came with its envelope in
//! headers. rspamd decides by its own settings; this only reads its answer.

use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use http_body_util::{BodyExt, Limited};
use hyper::body::{Body, Bytes, Frame, SizeHint};
use hyper::client::conn::http1::handshake;
use hyper::header::{HOST, HeaderMap, HeaderName, HeaderValue};
use hyper::{Request, Uri};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::Arrived;
use crate::delivery::dns::{Dns, LookupError, Names};
use crate::policy::verdict::Spam;
use crate::spool::Content;

/// Octets of the message in one piece.
const BLOCK: usize = 64 << 10;
const LARGEST_ANSWER: usize = 1 << 20;
/// Recipients that are named: enough for any rule about how many there are.
const MAX_RECIPIENTS: usize = 100;

#[derive(Debug, thiserror::Error)]
pub(super) enum ClassifyError {
    #[error("`{0}` is not a base address such as http://rspamd:11333")]
    Address(String),
    #[error("cannot find the host: {0}")]
    Name(#[from] LookupError),
    #[error("cannot connect: {0}")]
    Connect(#[from] std::io::Error),
    #[error("{0}")]
    Http(#[from] hyper::Error),
    #[error("it answered {0}")]
    Status(hyper::StatusCode),
    #[error("its answer does not read: {0}")]
    Unreadable(String),
    #[error("no answer in time")]
    Slow,
}

/// One question; `patience` is for all of it.
pub(super) async fn classify(
    dns: &Dns,
    servers: &[SocketAddr],
    base: &str,
    mail: Arrived<'_>,
    patience: Duration,
) -> Result<Spam, ClassifyError> {
    timeout(patience, ask(dns, servers, base, mail)).await.unwrap_or(Err(ClassifyError::Slow))
}

async fn ask(
    dns: &Dns,
    servers: &[SocketAddr],
    base: &str,
    mail: Arrived<'_>,
) -> Result<Spam, ClassifyError> {
    let no_address = || ClassifyError::Address(base.to_owned());
    let uri: Uri = base.parse().map_err(|_| no_address())?;
    let host = uri.host().filter(|_| uri.scheme_str() == Some("http")).ok_or_else(no_address)?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let addresses = match host.parse() {
        Ok(ip) => vec![ip],
        Err(_) => dns.addresses(servers, host, Names::Typed).await?,
    };
    let port = uri.port_u16().unwrap_or(80);
    let addresses: Vec<SocketAddr> = addresses.into_iter().map(|ip| SocketAddr::new(ip, port)).collect();
    let stream = TcpStream::connect(&addresses[..]).await?;
    let _ = stream.set_nodelay(true);
    let (mut sender, connection) = handshake(TokioIo::new(stream)).await?;

    let message = Message { content: mail.content.clone(), at: mail.received };
    let path = format!("{}/checkv2", uri.path().trim_end_matches('/'));
    let mut request = Request::post(path).body(message).map_err(|_| no_address())?;
    let authority = uri.authority().map_or(host, |authority| authority.as_str());
    fill(request.headers_mut(), authority, mail);

    let answer = async {
        let response = sender.send_request(request).await?;
        let status = response.status();
        if !status.is_success() {
            return Err(ClassifyError::Status(status));
        }
        let body = Limited::new(response.into_body(), LARGEST_ANSWER).collect().await;
        let body = body.map_err(|error| ClassifyError::Unreadable(error.to_string()))?.to_bytes();
        let answer: Answer =
            serde_json::from_slice(&body).map_err(|error| ClassifyError::Unreadable(error.to_string()))?;
        answer.spam()
    };
    tokio::pin!(answer);
    tokio::select! {
        biased;
        answer = &mut answer => answer,
        // It may end with the answer already here; without one, the answer is why it ended.
        _ = connection => answer.await,
    }
}

/// What rspamd wants to know beside the message. A value that no HTTP header can carry is left out.
fn fill(headers: &mut HeaderMap, authority: &str, mail: Arrived<'_>) {
    let mut add = |name: HeaderName, value: &str| {
        if let Ok(value) = HeaderValue::from_bytes(value.as_bytes()) {
            headers.append(name, value);
        }
    };
    add(HOST, authority);
    add(HeaderName::from_static("queue-id"), mail.id);
    add(HeaderName::from_static("ip"), &mail.client.to_canonical().to_string());
    add(HeaderName::from_static("helo"), mail.helo);
    let sender = mail.envelope.sender.mailbox.as_ref().map(ToString::to_string).unwrap_or_default();
    add(HeaderName::from_static("from"), &sender);
    for recipient in mail.envelope.recipients.iter().take(MAX_RECIPIENTS) {
        add(HeaderName::from_static("rcpt"), &recipient.mailbox.to_string());
    }
}

/// The message, read from where it lies a block at a time.
struct Message {
    content: Content,
    at: usize,
}

impl Message {
    fn left(&self) -> u64 {
        (self.content.bytes().len() - self.at) as u64
    }
}

impl Body for Message {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let left = &self.content.bytes()[self.at..];
        if left.is_empty() {
            return Poll::Ready(None);
        }
        let block = Bytes::copy_from_slice(&left[..left.len().min(BLOCK)]);
        self.at += block.len();
        Poll::Ready(Some(Ok(Frame::data(block))))
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left())
    }
}

/// The part of rspamd's answer that matters here.
#[derive(Debug, Deserialize)]
struct Answer {
    action: Option<String>,
    #[serde(default)]
    symbols: std::collections::BTreeMap<String, Symbol>,
}

#[derive(Debug, Deserialize)]
struct Symbol {
    #[serde(default)]
    score: f64,
}

impl Answer {
    /// `reject` and `discard` are blatant; `add header`, `rewrite subject` and `quarantine` are spam; `no action`,
    /// `greylist` and `soft reject` (which ask for time, not for a verdict) are not.
    fn spam(&self) -> Result<Spam, ClassifyError> {
        let phishy = self.symbols.iter().any(|(name, symbol)| symbol.score > 0.0 && is_phishing(name));
        let (spam, blatant) = match self.action.as_deref() {
            Some("reject" | "discard") => (true, true),
            Some("add header" | "rewrite subject" | "quarantine") => (true, false),
            Some("no action" | "greylist" | "soft reject") => (false, false),
            other => return Err(ClassifyError::Unreadable(format!("action {other:?}"))),
        };
        Ok(Spam { spam, phishy, blatant })
    }
}

/// rspamd's symbols of phishing: its own detection, the feeds of known pages, the phishing zones of URL lists.
fn is_phishing(symbol: &str) -> bool {
    symbol.contains("PHISH") || symbol == "PH_SURBL_MULTI"
}
