//! The port of the API. The leader opens connections and answers; a replica that does not lead passes each on to
//! the leader as it comes, unopened, so that a Service may reach any of them.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::{Extension, Router};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{RootCertStore, ServerConfig};
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use super::who::Caller;
use crate::admin;
use crate::controller::apply::{ApplyError, MANAGER, bounded};
use crate::controller::authority::{API_NAME, Authority, AuthorityError};
use crate::controller::control::today;

/// Connections at the same time.
const MOST: usize = 256;
/// A handshake that takes longer is given up.
const PATIENCE: Duration = Duration::from_secs(10);
/// Where every cluster says by which authority it knows client certificates.
const CLUSTER_AUTHORITY: (&str, &str, &str) =
    ("kube-system", "extension-apiserver-authentication", "client-ca-file");

/// Who the certificate of a connection says it is.
#[derive(Debug, Clone)]
pub struct Peer(pub Option<Caller>);

/// What this process does with connections.
#[derive(Clone)]
pub enum Duty {
    /// It does not lead.
    PassOn,
    Serve {
        tls: Arc<ServerConfig>,
        pages: Router,
    },
}

/// Finds the leader.
#[derive(Clone)]
pub struct Neighbours {
    pub client: Client,
    pub namespace: String,
    pub lease: String,
    /// Who this process is among those that want the Lease.
    pub identity: String,
    pub port: u16,
}

/// Takes connections until `stop`.
pub async fn run(
    listener: TcpListener,
    duty: watch::Receiver<Duty>,
    neighbours: Neighbours,
    stop: CancellationToken,
) {
    let connections = TaskTracker::new();
    loop {
        let stream = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            accepted = listener.accept(), if connections.len() < MOST => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    warn!(%error, "cannot accept a connection to the API");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            },
            () = tokio::time::sleep(Duration::from_millis(100)), if connections.len() >= MOST => continue,
        };
        let now = duty.borrow().clone();
        let (neighbours, stop) = (neighbours.clone(), stop.clone());
        connections.spawn(async move {
            let done = match now {
                Duty::Serve { tls, pages } => serve(stream, tls, pages, stop.clone()).await,
                Duty::PassOn => stop.run_until_cancelled(neighbours.pass_on(stream)).await.unwrap_or(Ok(())),
            };
            if let Err(error) = done {
                debug!(%error, "a connection to the API ended");
            }
        });
    }
    connections.close();
    let _ = timeout(PATIENCE, connections.wait()).await;
}

async fn serve(
    stream: TcpStream,
    tls: Arc<ServerConfig>,
    pages: Router,
    stop: CancellationToken,
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let stream = timeout(PATIENCE, TlsAcceptor::from(tls).accept(stream)).await??;
    let shown = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    let peer = Peer(shown.and_then(of_certificate));
    admin::connection(stream, pages.layer(Extension(peer)), stop).await;
    Ok(())
}

/// As the API server reads it: CN is the user, each O a group.
pub fn of_certificate(certificate: &CertificateDer<'_>) -> Option<Caller> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let subject = parsed.subject();
    let name = subject.iter_common_name().next()?.as_str().ok()?.to_owned();
    let groups = subject.iter_organization().filter_map(|group| Some(group.as_str().ok()?.to_owned()));
    // The API server gives this group to whoever it knows.
    let groups = groups.chain(["system:authenticated".to_owned()]).collect();
    (!name.is_empty()).then(|| Caller { name, groups, ..Caller::default() })
}

impl Neighbours {
    async fn pass_on(&self, mut stream: TcpStream) -> io::Result<()> {
        let leader = self.leader().await.map_err(io::Error::other)?;
        let leader = leader.ok_or_else(|| io::Error::other("nobody leads right now"))?;
        let mut onward = timeout(PATIENCE, TcpStream::connect(leader)).await??;
        onward.set_nodelay(true)?;
        tokio::io::copy_bidirectional(&mut stream, &mut onward).await?;
        Ok(())
    }

    async fn leader(&self) -> Result<Option<SocketAddr>, ApplyError> {
        let leases: Api<Lease> = Api::namespaced(self.client.clone(), &self.namespace);
        let lease = bounded("the lease", leases.get(&self.lease)).await?;
        let holder =
            lease.spec.and_then(|spec| spec.holder_identity).filter(|holder| *holder != self.identity);
        // The identity is the pod's name and a number of its process.
        let Some(pod) = holder.as_deref().and_then(|holder| Some(holder.rsplit_once('-')?.0.to_owned()))
        else {
            return Ok(None);
        };
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &self.namespace);
        let pod = bounded("the leader's pod", pods.get(&pod)).await?;
        let address = pod.status.and_then(|status| status.pod_ip).and_then(|ip| ip.parse::<IpAddr>().ok());
        Ok(address.map(|address| SocketAddr::new(address, self.port)))
    }
}

/// The names that the API's certificate bears: one for all, and those of the Service.
pub fn names(namespace: &str, service: &str) -> Vec<String> {
    vec![
        API_NAME.to_owned(),
        format!("{service}.{namespace}.svc"),
        format!("{service}.{namespace}.svc.cluster.local"),
    ]
}

/// A certificate for today, and what the cluster's own authority is today.
pub async fn tls(
    client: &Client,
    authority: &Authority,
    names: &[String],
) -> Result<Arc<ServerConfig>, AuthorityError> {
    let clients = cluster_authority(client).await;
    authority.server(names, clients, today())
}

/// `None`: it cannot be read, so that only tokens say who somebody is.
async fn cluster_authority(client: &Client) -> Option<RootCertStore> {
    let (namespace, name, key) = CLUSTER_AUTHORITY;
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let map = match bounded("the cluster's client authority", api.get(name)).await {
        Ok(map) => map,
        Err(error) => {
            warn!(%error, "client certificates are not asked for at the API; tokens are");
            return None;
        }
    };
    let text = map.data?.remove(key)?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(text.as_bytes()).flatten() {
        if let Err(error) = roots.add(certificate) {
            warn!(%error, "a client authority of the cluster cannot be used");
        }
    }
    (!roots.is_empty()).then_some(roots)
}

/// Says by which authority callers know the API: in a ConfigMap beside the operator.
pub async fn publish(
    client: &Client,
    authority: &Authority,
    namespace: &str,
    name: &str,
) -> Result<(), ApplyError> {
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let map = json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "labels": {"app.kubernetes.io/managed-by": MANAGER, "app.kubernetes.io/part-of": "postern"},
        },
        "data": {"ca.crt": authority.certificate()},
    });
    let params = PatchParams::apply(MANAGER).force();
    bounded(&format!("ConfigMap {namespace}/{name}"), api.patch(name, &params, &Patch::Apply(&map))).await?;
    Ok(())
}
