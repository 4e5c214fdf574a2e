//! A connection to a pod's control port: HTTP over mutual TLS, the pod's certificate checked by its gateway's name.

use std::future::Future;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::HOST;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::controller::authority::gateway_name;
use crate::controller::build::CONTROL_PORT;
use crate::translate::ObjectKey;

const CONNECT: Duration = Duration::from_secs(3);
const LARGEST_ANSWER: usize = 1 << 20;
/// Tells the pod for whom the controller asks.
const ACTOR: &str = "x-postern-actor";

#[derive(Debug, thiserror::Error)]
pub enum LineError {
    #[error("cannot connect: {0}")]
    Connect(#[from] std::io::Error),
    #[error("{0}")]
    Http(#[from] hyper::Error),
    #[error("no answer in time")]
    Slow,
    #[error("answered {0}")]
    Status(hyper::StatusCode),
    #[error("the answer does not read: {0}")]
    Unreadable(String),
}

/// A connection to a pod whose identity is proven.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// Another way to pods than the network: simulations have one.
pub trait Dial: Send + Sync {
    /// Connects to the pod of `gateway` at `address`.
    fn dial<'a>(
        &'a self,
        gateway: &'a ObjectKey,
        address: IpAddr,
    ) -> BoxFuture<'a, io::Result<Box<dyn Stream>>>;
}

/// How connections to control ports come about.
#[derive(Clone)]
pub enum Dialler {
    /// Mutual TLS with the certificates of this moment.
    Tls(watch::Receiver<Arc<ClientConfig>>),
    Other(Arc<dyn Dial>),
}

impl Dialler {
    async fn connect(&self, gateway: &ObjectKey, address: &str) -> Result<Box<dyn Stream>, LineError> {
        let address: IpAddr = address.parse().map_err(|_| LineError::Unreadable(address.to_owned()))?;
        let tls = match self {
            Self::Tls(tls) => TlsConnector::from(tls.borrow().clone()),
            Self::Other(dial) => return Ok(dial.dial(gateway, address).await?),
        };
        let stream = TcpStream::connect((address, CONTROL_PORT)).await?;
        stream.set_nodelay(true)?;
        let name = gateway_name(&gateway.namespace, &gateway.name);
        let name = ServerName::try_from(name).map_err(|error| LineError::Unreadable(error.to_string()))?;
        Ok(Box::new(tls.connect(name, stream).await?))
    }
}

/// Where a pod is and how to reach it.
#[derive(Clone)]
pub struct Line {
    pub gateway: ObjectKey,
    pub address: String,
    pub dial: Dialler,
    /// Whoever connects takes a place: thousands of pods are not met all at once after a start.
    pub dials: Arc<Semaphore>,
}

impl Line {
    /// Connects, and lets `talk` ask over the connection until it ends by itself.
    pub async fn open<T, F>(&self, talk: impl FnOnce(Caller) -> F) -> Result<T, LineError>
    where
        F: Future<Output = Result<T, LineError>>,
    {
        let place = self.dials.acquire().await;
        let connected = timeout(CONNECT, self.connect()).await;
        drop(place);
        let (sender, connection) = connected.map_err(|_| LineError::Slow)??;
        let host = gateway_name(&self.gateway.namespace, &self.gateway.name);
        tokio::select! {
            biased;
            result = talk(Caller { sender, host }) => result,
            ended = connection => Err(ended.err().map_or(LineError::Unreadable("it hung up".to_owned()), Into::into)),
        }
    }

    async fn connect(
        &self,
    ) -> Result<(SendRequest<Full<Bytes>>, impl Future<Output = hyper::Result<()>> + use<>), LineError> {
        let stream = self.dial.connect(&self.gateway, &self.address).await?;
        Ok(handshake(TokioIo::new(stream)).await?)
    }
}

/// Asks over an open connection.
pub struct Caller {
    sender: SendRequest<Full<Bytes>>,
    host: String,
}

impl Caller {
    pub async fn get(&mut self, path: &str, limit: Duration) -> Result<Bytes, LineError> {
        self.ask(Request::get(path), Bytes::new(), limit).await
    }

    pub async fn post(&mut self, path: &str, body: Bytes, limit: Duration) -> Result<Bytes, LineError> {
        self.ask(Request::post(path), body, limit).await
    }

    /// Passes somebody's question on in his name; whatever the pod says to it is an answer. `most`: octets of it.
    pub async fn pass(
        &mut self,
        method: Method,
        path: &str,
        who: &str,
        most: usize,
        limit: Duration,
    ) -> Result<(StatusCode, Bytes), LineError> {
        let who: String = who.chars().filter(|c| c.is_ascii_graphic()).take(200).collect();
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, &self.host)
            .header(ACTOR, who)
            .body(Full::new(Bytes::new()))
            .map_err(|error| LineError::Unreadable(error.to_string()))?;
        let answer = async {
            let response = self.sender.send_request(request).await?;
            let status = response.status();
            let body = Limited::new(response.into_body(), most).collect().await;
            Ok((status, body.map_err(|error| LineError::Unreadable(error.to_string()))?.to_bytes()))
        };
        timeout(limit, answer).await.map_err(|_| LineError::Slow)?
    }

    async fn ask(
        &mut self,
        request: hyper::http::request::Builder,
        body: Bytes,
        limit: Duration,
    ) -> Result<Bytes, LineError> {
        let request = request
            .header(HOST, &self.host)
            .body(Full::new(body))
            .expect("method, path and header are well-formed");
        let answer = async {
            let response = self.sender.send_request(request).await?;
            let status = response.status();
            if !status.is_success() {
                return Err(LineError::Status(status));
            }
            let body = Limited::new(response.into_body(), LARGEST_ANSWER).collect().await;
            Ok(body.map_err(|error| LineError::Unreadable(error.to_string()))?.to_bytes())
        };
        timeout(limit, answer).await.map_err(|_| LineError::Slow)?
    }
}
