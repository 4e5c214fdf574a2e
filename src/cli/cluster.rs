//! The cluster as the user of the command line may see it: with his own kubeconfig, context and namespace, and the
//! rights that he has.

use std::path::PathBuf;

use anyhow::{Context as _, bail};
use k8s_openapi::NamespaceResourceScope;
use kube::{Api, Client, Resource};

use crate::api::{DEFAULT_GATEWAY, OutboundGateway};
use crate::cli::kubeconfig;

/// Which cluster, namespace and gateway.
#[derive(clap::Args)]
pub struct Target {
    /// Name of the OutboundGateway
    #[arg(value_name = "GATEWAY", default_value = DEFAULT_GATEWAY)]
    pub gateway: String,
    /// Its namespace; default: that of the kubeconfig's context
    #[arg(short, long, value_name = "NAMESPACE")]
    namespace: Option<String>,
    /// The kubeconfig file; default: $KUBECONFIG, ~/.kube/config, or the pod's own account
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// The context of the kubeconfig
    #[arg(long, value_name = "NAME")]
    context: Option<String>,
}

/// An open door to the cluster.
pub struct Cluster {
    pub client: Client,
    pub namespace: String,
    pub gateway: String,
}

impl Target {
    pub async fn open(self) -> anyhow::Result<Cluster> {
        let Self { gateway, namespace, kubeconfig, context } = self;
        let config = kubeconfig::read(kubeconfig.as_deref(), context.as_deref()).await?;
        let namespace = namespace.unwrap_or_else(|| config.default_namespace.clone());
        let client = Client::try_from(config).context("cannot use the kubeconfig")?;
        Ok(Cluster { client, namespace, gateway })
    }
}

impl Cluster {
    pub fn api<K>(&self) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// The gateway this is about.
    pub async fn the_gateway(&self) -> anyhow::Result<OutboundGateway> {
        let Self { namespace, gateway, .. } = self;
        match self.api::<OutboundGateway>().get_opt(gateway).await {
            Ok(Some(found)) => Ok(found),
            Ok(None) => bail!("there is no OutboundGateway {gateway} in namespace {namespace}"),
            Err(error) => Err(error).context(format!("cannot read OutboundGateway {namespace}/{gateway}")),
        }
    }

    /// `default -n mail`: how a further command names the same.
    pub fn named(&self) -> String {
        format!("{} -n {}", self.gateway, self.namespace)
    }
}
