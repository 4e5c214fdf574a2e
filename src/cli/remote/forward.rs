//! The way to the operator without exposing it: a port of its pod, forwarded by the API server, and inside it TLS
//! from here to the operator. What proves to the API server who somebody is, proves it to the operator too: the
//! token or the client certificate of the kubeconfig. The API server carries it and does not see it.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use axum::body::Body;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::api::ListParams;
use kube::client::ConfigExt;
use kube::{Api, Client, Config, ResourceExt};
use rustls::client::ResolvesClientCert;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tower::{Layer, ServiceExt, service_fn};

use crate::controller::authority::API_NAME;

const PORT: u16 = 8443;
const PATIENCE: Duration = Duration::from_secs(15);

/// What says who we are.
pub struct Proof {
    /// `Authorization`, if the kubeconfig has a token or a plugin that gets one.
    pub token: Option<String>,
    certificate: Option<Arc<dyn ResolvesClientCert>>,
}

/// As kube proves it to the API server.
pub async fn proof(config: &Config) -> anyhow::Result<Proof> {
    if config.auth_info.impersonate.is_some() {
        bail!("the operator asks who somebody is, not whom he plays: impersonation (--as) does not reach it");
    }
    let token = match config.auth_layer().context("the kubeconfig's login cannot be used")? {
        None => None,
        Some(layer) => {
            let caught = Arc::new(std::sync::Mutex::new(None));
            let catch = caught.clone();
            let service = service_fn(move |request: hyper::Request<kube::client::Body>| {
                let value = request.headers().get("authorization").and_then(|value| value.to_str().ok());
                *catch.lock().expect("nobody panics while holding it") = value.map(str::to_owned);
                std::future::ready(Ok::<_, tower::BoxError>(hyper::Response::new(())))
            });
            let request = hyper::Request::new(kube::client::Body::empty());
            let asked = layer.layer(service).oneshot(request).await;
            asked.map_err(|error| anyhow!("the kubeconfig's login cannot be used: {error}"))?;
            let token = caught.lock().expect("nobody panics while holding it").take();
            token.filter(|token| token.starts_with("Bearer "))
        }
    };
    let tls = config.rustls_client_config().context("the kubeconfig's certificates cannot be used")?;
    let certificate = Some(tls.client_auth_cert_resolver).filter(|resolver| resolver.has_certs());
    if token.is_none() && certificate.is_none() {
        bail!("the kubeconfig has neither a token nor a client certificate that the operator could check");
    }
    Ok(Proof { token, certificate })
}

/// Connects to the operator. Any of its pods will do: one that does not lead passes the connection on.
pub async fn dial(
    client: &Client,
    namespace: &str,
    release: &str,
    proof: &Proof,
) -> anyhow::Result<(SendRequest<Body>, JoinHandle<()>)> {
    let tls = trust(client, namespace, release, proof).await?;
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let labels = format!(
        "app.kubernetes.io/name=postern,app.kubernetes.io/component=controller,app.kubernetes.io/instance={release}"
    );
    let found = pods.list(&ListParams::default().labels(&labels)).await;
    let found = found.with_context(|| format!("the operator's pods in {namespace} cannot be listed"))?;
    let mut troubles = Vec::new();
    for pod in found.items.iter().filter(|pod| is_ready(pod)) {
        match timeout(PATIENCE, connect(&pods, &pod.name_any(), &tls)).await {
            Ok(Ok(line)) => return Ok(line),
            Ok(Err(error)) => troubles.push(format!("{}: {error:#}", pod.name_any())),
            Err(_) => troubles.push(format!("{}: no answer", pod.name_any())),
        }
    }
    match troubles.is_empty() {
        true => bail!("no operator runs in {namespace}: no ready pod with {labels}; see --operator"),
        false => bail!("the operator cannot be reached: {}", troubles.join("; ")),
    }
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    pod.metadata.deletion_timestamp.is_none()
        && conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

async fn connect(
    pods: &Api<Pod>,
    pod: &str,
    tls: &Arc<ClientConfig>,
) -> anyhow::Result<(SendRequest<Body>, JoinHandle<()>)> {
    let mut forwarder = pods.portforward(pod, &[PORT]).await.context("no port is forwarded")?;
    let stream = forwarder.take_stream(PORT).ok_or_else(|| anyhow!("no port is forwarded"))?;
    let name = ServerName::try_from(API_NAME).context("a name")?;
    let stream =
        TlsConnector::from(tls.clone()).connect(name, stream).await.context("no TLS with the operator")?;
    let (sender, connection) = handshake(TokioIo::new(stream)).await?;
    let work = tokio::spawn(async move {
        // What it ends with, whoever asks hears from the answer that does not come.
        let _ = connection.await;
        drop(forwarder);
    });
    Ok((sender, work))
}

/// The operator's own authority, and no other.
async fn trust(
    client: &Client,
    namespace: &str,
    release: &str,
    proof: &Proof,
) -> anyhow::Result<Arc<ClientConfig>> {
    let name = format!("{release}-api");
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let map = maps.get(&name).await.with_context(|| {
        format!("the operator's certificate authority (ConfigMap {namespace}/{name}) cannot be read")
    })?;
    let text = map.data.unwrap_or_default().remove("ca.crt").unwrap_or_default();
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(text.as_bytes()) {
        roots.add(certificate.context("the operator's certificate authority does not read")?)?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots);
    Ok(Arc::new(match &proof.certificate {
        Some(resolver) => config.with_client_cert_resolver(resolver.clone()),
        None => config.with_no_client_auth(),
    }))
}
