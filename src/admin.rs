//! The HTTP servers of a process: plain for probes and metrics, mutual TLS for what a controller asks.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::routing::get;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use prometheus_client::registry::Registry;
use rustls::pki_types::CertificateDer;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::debug;

/// A client that has not finished its TLS handshake or its request head in this time is dropped.
const PATIENCE: Duration = Duration::from_secs(10);

/// The TLS configuration for the next connection, and what its client will find behind it.
pub type Door = Box<dyn Fn() -> (Arc<rustls::ServerConfig>, Box<Pages>) + Send + Sync>;
/// The pages for whoever showed these certificates; `None`: there are none for him.
pub type Pages = dyn FnOnce(&[CertificateDer<'static>]) -> Option<Router> + Send;

/// `/livez`, `/readyz` and `/metrics`, and nothing else.
pub fn probes(ready: impl Fn() -> bool + Send + Sync + 'static, registry: Arc<Registry>) -> Router {
    let ready = Arc::new(ready);
    let readyz = move || {
        let ready = Arc::clone(&ready);
        async move {
            if ready() {
                (StatusCode::OK, "ready\n")
            } else {
                (StatusCode::SERVICE_UNAVAILABLE, "not ready\n")
            }
        }
    };
    let metrics = move || {
        let registry = Arc::clone(&registry);
        async move { render(&registry) }
    };
    Router::new()
        .route("/livez", get(|| async { "live\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
}

fn render(registry: &Registry) -> (StatusCode, [(axum::http::HeaderName, &'static str); 1], String) {
    const TEXT: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    let mut text = String::new();
    let status = match prometheus_client::encoding::text::encode(&mut text, registry) {
        Ok(()) => StatusCode::OK,
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR,
    };
    (status, [(CONTENT_TYPE, TEXT)], text)
}

/// Serves until `stop`, then lets open requests end (at most for [`PATIENCE`]).
pub async fn serve(listener: TcpListener, router: Router, stop: CancellationToken) {
    accept(listener, stop, |stream, stop| connection(stream, router.clone(), stop)).await;
}

/// The same behind a door: a client that does not show what its configuration demands, or for whom there is nothing
/// behind it, is dropped without touching the others.
pub async fn serve_behind(listener: TcpListener, door: Door, stop: CancellationToken) {
    accept(listener, stop, |stream, stop| {
        let (config, pages) = door();
        async move {
            let stream = match within(PATIENCE, TlsAcceptor::from(config).accept(stream)).await {
                Ok(stream) => stream,
                Err(error) => return debug!(%error, "control connection refused"),
            };
            match pages(stream.get_ref().1.peer_certificates().unwrap_or_default()) {
                Some(pages) => connection(stream, pages, stop).await,
                None => debug!("control connection of a stranger refused"),
            }
        }
    })
    .await;
}

async fn accept<F>(
    listener: TcpListener,
    stop: CancellationToken,
    serve: impl Fn(TcpStream, CancellationToken) -> F,
) where
    F: Future<Output = ()> + Send + 'static,
{
    let connections = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => break,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of file descriptors, most likely: give others time to end.
                tracing::warn!(%error, "cannot accept an admin connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        connections.spawn(serve(stream, stop.clone()));
    }
    connections.close();
    let _ = tokio::time::timeout(PATIENCE, connections.wait()).await;
}

async fn within<T>(limit: Duration, work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    tokio::time::timeout(limit, work).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// Serves one connection, until it ends or `stop` and the request on it is answered.
pub async fn connection<S>(stream: S, router: Router, stop: CancellationToken)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let mut server = hyper::server::conn::http1::Builder::new();
    server.timer(hyper_util::rt::TokioTimer::new()).header_read_timeout(PATIENCE);
    let service = TowerToHyperService::new(router);
    let mut connection = std::pin::pin!(server.serve_connection(TokioIo::new(stream), service));
    tokio::select! {
        biased;
        _ = connection.as_mut() => {}
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            let _ = connection.await;
        }
    }
}
