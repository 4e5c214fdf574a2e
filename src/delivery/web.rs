//! HTTPS as delivery needs it: one request, one answer, no redirects, bounded in time and size. For
//! policies of MTA-STS and for reports about TLS.

use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::header::{CONTENT_TYPE, HOST, USER_AGENT};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::client::tls;

/// One address.
const CONNECT: Duration = Duration::from_secs(10);
/// Addresses of one host that are tried.
const MAX_ADDRESSES: usize = 4;
const AGENT: &str = concat!("postern/", env!("CARGO_PKG_VERSION"));

/// How web servers are reached.
#[derive(Default)]
pub struct Web {
    /// Instead of the port of an address. For tests.
    pub port: Option<u16>,
    /// Instead of the system's roots. For tests.
    pub roots: Option<RootCertStore>,
    config: OnceLock<Arc<ClientConfig>>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WebError {
    #[error("it could not be reached: {0}")]
    Unreachable(String),
    #[error("its certificate was refused: {0}")]
    Certificate(String),
    #[error("TLS failed: {0}")]
    Tls(String),
    #[error("it did not answer as a web server does: {0}")]
    Http(String),
    #[error("it did not answer in time")]
    TimedOut,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    /// In lower case, without parameters.
    pub content_type: String,
    pub body: Vec<u8>,
}

/// What to ask for.
#[derive(Debug, Clone)]
pub struct Question<'a> {
    pub host: &'a str,
    pub port: u16,
    /// Path and query.
    pub path: &'a str,
    /// Type and content of a POST; `None`: a GET.
    pub post: Option<(&'static str, Vec<u8>)>,
    /// Octets of the answer's body.
    pub limit: usize,
    /// For everything together.
    pub patience: Duration,
}

impl Web {
    /// Asks one of `addresses`, the first that can be connected to.
    pub async fn ask(&self, addresses: &[IpAddr], question: Question<'_>) -> Result<Answer, WebError> {
        let patience = question.patience;
        timeout(patience, self.exchange(addresses, question)).await.unwrap_or(Err(WebError::TimedOut))
    }

    async fn exchange(&self, addresses: &[IpAddr], question: Question<'_>) -> Result<Answer, WebError> {
        let Question { host, port, path, post, limit, patience: _ } = question;
        let stream = connect(addresses, self.port.unwrap_or(port)).await?;
        let name = ServerName::try_from(host.to_owned())
            .map_err(|_| WebError::Certificate(format!("{host:?} is not a name that one can carry")))?;
        let connector =
            TlsConnector::from(Arc::clone(self.config.get_or_init(|| config(self.roots.clone()))));
        let stream = connector.connect(name, stream).await.map_err(|error| refused(&error))?;

        let http = |error: hyper::Error| WebError::Http(error.to_string());
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(http)?;
        let request = request(host, port, path, post).map_err(|error| WebError::Http(error.to_string()))?;
        // The connection is driven here, so that nothing outlives this question.
        let answer = async {
            let response = sender.send_request(request).await.map_err(http)?;
            read(response, limit).await
        };
        let mut answer = pin!(answer);
        tokio::select! {
            answer = &mut answer => answer,
            // What came before the end is still to be read; if that is not all, reading says so.
            _ = connection => answer.await,
        }
    }
}

async fn connect(addresses: &[IpAddr], port: u16) -> Result<TcpStream, WebError> {
    let mut last = WebError::Unreachable("it has no address".to_owned());
    for ip in addresses.iter().take(MAX_ADDRESSES) {
        match timeout(CONNECT, TcpStream::connect(SocketAddr::new(*ip, port))).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => last = WebError::Unreachable(format!("{ip}: {error}")),
            Err(_) => last = WebError::Unreachable(format!("{ip}: no answer in time")),
        }
    }
    Err(last)
}

fn config(roots: Option<RootCertStore>) -> Arc<ClientConfig> {
    let roots = roots.unwrap_or_else(|| tls::system_roots().clone());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the provider has TLS 1.2 and 1.3");
    Arc::new(builder.with_root_certificates(roots).with_no_client_auth())
}

fn refused(error: &std::io::Error) -> WebError {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match inner {
        Some(rustls::Error::InvalidCertificate(why)) => WebError::Certificate(why.to_string()),
        _ => WebError::Tls(error.to_string()),
    }
}

fn request(
    host: &str,
    port: u16,
    path: &str,
    post: Option<(&'static str, Vec<u8>)>,
) -> Result<Request<Full<Bytes>>, hyper::http::Error> {
    let authority = if port == 443 { host.to_owned() } else { format!("{host}:{port}") };
    let builder = Request::builder().uri(path).header(HOST, authority).header(USER_AGENT, AGENT);
    match post {
        None => builder.body(Full::default()),
        Some((kind, body)) => builder.method("POST").header(CONTENT_TYPE, kind).body(Full::from(body)),
    }
}

async fn read(response: Response<hyper::body::Incoming>, limit: usize) -> Result<Answer, WebError> {
    let (parts, body) = response.into_parts();
    let kind = parts.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let content_type = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let body = Limited::new(body, limit).collect().await;
    let body = body.map_err(|error| WebError::Http(error.to_string()))?.to_bytes().to_vec();
    Ok(Answer { status: parts.status.as_u16(), content_type, body })
}
