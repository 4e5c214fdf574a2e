//! The cluster as a place to act on: the operator's API, reached through the API server with the rights of whoever
//! asks ([`forward`]), and the objects and bundles that are there ([`bundle`], [`objects`]). Used by every command that gets
//! `--context`, `--kubeconfig` or `--namespace`, and by all of them as `kubectl postern`.

pub mod bundle;
mod forward;
pub mod objects;

use std::path::PathBuf;
use std::sync::OnceLock;

use anyhow::{Context, bail};
use axum::body::Body;
use hyper::body::Bytes;
use hyper::client::conn::http1::SendRequest;
use hyper::{Method, Request, StatusCode};
use kube::{Client, Config};
use tokio::sync::Mutex;

use crate::api::DEFAULT_GATEWAY;
use crate::cli::kubeconfig;

pub use forward::Proof;

/// The name under which kubectl finds its plugins.
const PLUGIN: &str = "kubectl-postern";

/// Whether this process was called as `kubectl postern`.
pub fn is_plugin() -> bool {
    static PLUGIN_NAME: OnceLock<bool> = OnceLock::new();
    *PLUGIN_NAME.get_or_init(|| {
        let name = std::env::args_os().next().map(PathBuf::from);
        name.as_deref().and_then(|name| name.file_stem()).is_some_and(|name| name == PLUGIN)
    })
}

/// Which cluster, which namespace.
#[derive(clap::Args, Debug, Clone, Default)]
pub struct Cluster {
    /// Act in the cluster, through the operator (what `kubectl postern` does by itself)
    #[arg(long, global = true, help_heading = "In a cluster")]
    cluster: bool,
    /// Namespace of the gateway (default: that of the context)
    #[arg(short, long, value_name = "NAMESPACE", global = true, help_heading = "In a cluster")]
    namespace: Option<String>,
    /// Name of the OutboundGateway
    #[arg(long = "in", value_name = "GATEWAY", default_value = DEFAULT_GATEWAY, global = true, help_heading = "In a cluster")]
    name: String,
    /// Context of the kubeconfig (default: the current one)
    #[arg(long, value_name = "NAME", global = true, help_heading = "In a cluster")]
    context: Option<String>,
    /// The kubeconfig file (default: KUBECONFIG, else ~/.kube/config)
    #[arg(long, value_name = "FILE", global = true, help_heading = "In a cluster")]
    kubeconfig: Option<PathBuf>,
    /// Where the operator is: its namespace and release
    #[arg(
        long,
        value_name = "NAMESPACE/NAME",
        default_value = "postern-system/postern",
        global = true,
        help_heading = "In a cluster"
    )]
    operator: String,
}

impl Cluster {
    /// Whether the cluster is meant and not this machine.
    pub fn is_meant(&self) -> bool {
        is_plugin()
            || self.cluster
            || self.namespace.is_some()
            || self.context.is_some()
            || self.kubeconfig.is_some()
    }

    /// The namespace that is meant.
    pub async fn namespace(&self) -> anyhow::Result<String> {
        match &self.namespace {
            Some(namespace) => Ok(namespace.clone()),
            None => Ok(self.connect().await?.namespace),
        }
    }

    /// As it was given, if it was.
    pub fn given_namespace(&self) -> Option<&str> {
        self.namespace.as_deref()
    }

    pub async fn connect(&self) -> anyhow::Result<Remote> {
        let config = kubeconfig::read(self.kubeconfig.as_deref(), self.context.as_deref()).await?;
        let Some((operator, release)) = self.operator.split_once('/') else {
            bail!("--operator {}: expected NAMESPACE/NAME", self.operator);
        };
        let namespace = self.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
        let client =
            Client::try_from(config.clone()).context("cannot set up the connection to the API server")?;
        Ok(Remote {
            client,
            config,
            namespace,
            gateway: self.name.clone(),
            operator: operator.to_owned(),
            release: release.to_owned(),
            line: Mutex::new(None),
        })
    }
}

/// A cluster, with the rights of the one who asks.
pub struct Remote {
    pub client: Client,
    config: Config,
    pub namespace: String,
    pub gateway: String,
    operator: String,
    release: String,
    /// The connection to the operator, once there is one.
    line: Mutex<Option<Line>>,
}

struct Line {
    sender: SendRequest<Body>,
    proof: Proof,
    /// Works until the other side or we hang up.
    work: tokio::task::JoinHandle<()>,
}

impl Remote {
    /// Asks about the gateway: `path` as its control port has it.
    pub async fn ask(&self, method: Method, path: &str) -> anyhow::Result<(StatusCode, Bytes)> {
        self.call(method, &format!("/v1/namespaces/{}/gateways/{}{path}", self.namespace, self.gateway)).await
    }

    /// Asks the operator.
    pub async fn call(&self, method: Method, path: &str) -> anyhow::Result<(StatusCode, Bytes)> {
        let response = self.open(method, path).await?;
        let status = response.status();
        Ok((status, super::access::collect(Body::new(response.into_body())).await?))
    }

    /// The same, and what comes is read by the caller as it comes.
    pub async fn open(
        &self,
        method: Method,
        path: &str,
    ) -> anyhow::Result<hyper::Response<hyper::body::Incoming>> {
        let mut line = self.line.lock().await;
        if line.as_ref().is_none_or(|line| line.sender.is_closed()) {
            *line = Some(self.dial().await?);
        }
        let line = line.as_mut().expect("just dialled");
        let mut request = Request::builder().method(method).uri(path).header("host", "api.postern.internal");
        if let Some(token) = &line.proof.token {
            request = request.header("authorization", token);
        }
        line.sender.ready().await.context("the operator hung up")?;
        line.sender.send_request(request.body(Body::empty())?).await.context("the operator does not answer")
    }

    async fn dial(&self) -> anyhow::Result<Line> {
        let proof = forward::proof(&self.config).await?;
        let (sender, work) = forward::dial(&self.client, &self.operator, &self.release, &proof).await?;
        Ok(Line { sender, proof, work })
    }

    pub async fn close(self) {
        if let Some(line) = self.line.into_inner() {
            drop(line.sender);
            line.work.abort();
            let _ = line.work.await;
        }
    }
}
