//! The other pods of the gateway, as one that hands its mail over sees them: found by the name of the headless
//! Service, reached on their control port, proved by the certificate of the gateway. An address is only a hint;
//! what answers there must show the name of this gateway.
//!
//! For an answer that did not come it matters whether anything was asked: before the request nothing can have
//! happened, after it everything can.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::{Body, Bytes};
use hyper::client::conn::http1::handshake;
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::parcel::Shipment;
use crate::delivery::dns::{Dns, Names};
use crate::gateway::papers::Papers;

/// The control port of every pod.
const PORT: u16 = 8026;
const CONNECT: Duration = Duration::from_secs(3);
const ANSWER: Duration = Duration::from_secs(10);
/// To take a shipment: so long, and a second more for each megabyte.
const TAKE: Duration = Duration::from_secs(30);
const LARGEST_ANSWER: usize = 64 << 10;

/// Where peers are looked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    At(SocketAddr),
    /// All addresses of a name.
    Named(String, u16),
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(address) = text.parse() {
            return Ok(Self::At(address));
        }
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) => (host, port.parse().map_err(|_| format!("{port:?} is no port"))?),
            None => (text, PORT),
        };
        if host.is_empty() { Err("no host".to_owned()) } else { Ok(Self::Named(host.to_owned(), port)) }
    }
}

/// What a pod says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Greeting {
    /// Of its spool: stays over restarts and changes of address.
    pub identity: String,
    pub pod: String,
    pub format: u32,
    /// Why it takes nothing now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub closed: Option<String>,
    /// Whether it has taken the batch that was asked about. If not, it never will.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub taken: Option<bool>,
}

/// What a pod says to a shipment. Whatever else comes back says nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Answer {
    /// Durable there. If not, nothing of it is there.
    pub taken: bool,
    /// Why not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// Batches up to this number are over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<u64>,
}

/// Names a batch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Label {
    /// The spool it comes from.
    pub from: String,
    pub pod: String,
    /// Rises with each batch of that spool.
    pub batch: u64,
    /// Of the ids in it.
    pub digest: String,
    pub count: usize,
    pub format: u32,
}

#[derive(Debug, thiserror::Error)]
pub enum PeerError {
    /// Nothing was asked.
    #[error("{0}")]
    Unreachable(String),
    /// It was asked, and what became of it is not known.
    #[error("{0}")]
    Lost(String),
}

pub struct Peers {
    places: Vec<Place>,
    /// Where our papers are.
    folder: PathBuf,
}

impl Peers {
    pub fn new(places: Vec<Place>, folder: PathBuf) -> Self {
        Self { places, folder }
    }

    /// Addresses where peers may be, this pod's own perhaps among them.
    pub async fn find(&self) -> Vec<SocketAddr> {
        let mut found = Vec::new();
        for place in &self.places {
            match place {
                Place::At(address) => found.push(*address),
                Place::Named(host, port) => {
                    // A new one each time: it must not remember who was there before.
                    let dns = Dns::default();
                    let addresses = dns.addresses(&[], host, Names::Typed);
                    let addresses: Vec<IpAddr> = match timeout(ANSWER, addresses).await {
                        Ok(Ok(addresses)) => addresses,
                        Ok(Err(error)) => {
                            tracing::debug!(host, %error, "no peers are known");
                            continue;
                        }
                        Err(_) => continue,
                    };
                    found.extend(addresses.into_iter().map(|ip| SocketAddr::new(ip, *port)));
                }
            }
        }
        found.sort();
        found.dedup();
        found
    }

    pub async fn greet(&self, at: SocketAddr) -> Result<Greeting, PeerError> {
        self.ask(at, Method::GET, "/handover", Empty::<Bytes>::new(), ANSWER).await
    }

    /// Whether it took this batch; from then on it will not, if it has not.
    pub async fn inquire(&self, at: SocketAddr, label: &Label) -> Result<Greeting, PeerError> {
        self.ask(at, Method::GET, &path(label), Empty::<Bytes>::new(), ANSWER).await
    }

    pub async fn ship(&self, at: SocketAddr, label: &Label, shipment: Shipment) -> Result<Answer, PeerError> {
        let limit = TAKE + Duration::from_secs(shipment.size_hint().lower() >> 20);
        self.ask(at, Method::POST, &path(label), shipment, limit).await
    }

    /// Says that there is nothing more to ask about.
    pub async fn take_leave(&self, at: SocketAddr, from: &str) -> Result<Answer, PeerError> {
        let path = format!("/handover?from={from}");
        self.ask(at, Method::DELETE, &path, Empty::<Bytes>::new(), ANSWER).await
    }

    async fn ask<A, B>(
        &self,
        at: SocketAddr,
        method: Method,
        path: &str,
        body: B,
        limit: Duration,
    ) -> Result<A, PeerError>
    where
        A: serde::de::DeserializeOwned,
        B: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + Unpin + 'static,
    {
        let unreachable = |error: String| PeerError::Unreachable(format!("{at}: {error}"));
        let lost = |error: String| PeerError::Lost(format!("{at}: {error}"));
        let folder = self.folder.clone();
        let papers = tokio::task::spawn_blocking(move || Papers::read(&folder)).await;
        let papers = papers.unwrap_or_else(|error| Err(error.to_string())).map_err(unreachable)?;
        let connect = async {
            let stream = TcpStream::connect(at).await.map_err(|error| error.to_string())?;
            stream.set_nodelay(true).map_err(|error| error.to_string())?;
            let tls = TlsConnector::from(papers.client()?);
            let stream =
                tls.connect(papers.name().clone(), stream).await.map_err(|error| error.to_string())?;
            handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())
        };
        let connected =
            timeout(CONNECT, connect).await.unwrap_or_else(|_| Err("no answer in time".to_owned()));
        let (mut sender, connection) = connected.map_err(unreachable)?;
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(hyper::header::HOST, papers.name().to_str().as_ref())
            .body(body)
            .expect("method, path and header are well-formed");
        let talk = async {
            let answer = sender.send_request(request).await.map_err(|error| error.to_string())?;
            let status = answer.status();
            let body = Limited::new(answer.into_body(), LARGEST_ANSWER).collect().await;
            let body = body.map_err(|error| error.to_string())?.to_bytes();
            serde_json::from_slice(&body).map_err(|_| format!("answered {status}"))
        };
        let talk = async {
            tokio::pin!(talk);
            tokio::select! {
                biased;
                answer = &mut talk => answer,
                // It may end with the answer already here; without one, the answer is why it ended.
                _ = connection => talk.await,
            }
        };
        timeout(limit, talk).await.unwrap_or_else(|_| Err("no answer in time".to_owned())).map_err(lost)
    }
}

fn path(label: &Label) -> String {
    let Label { from, pod, batch, digest, count, format } = label;
    format!("/handover?from={from}&pod={pod}&batch={batch}&digest={digest}&count={count}&format={format}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_are_named_by_address_or_by_name() {
        assert_eq!("127.0.0.1:9".parse(), Ok(Place::At("127.0.0.1:9".parse().unwrap())));
        assert_eq!("default-pods".parse(), Ok(Place::Named("default-pods".to_owned(), 8026)));
        assert_eq!("default-pods:99".parse(), Ok(Place::Named("default-pods".to_owned(), 99)));
        assert!("".parse::<Place>().is_err() && "a:b".parse::<Place>().is_err());
    }
}
