//! The way to the API server for whoever sits at the command line: the kubeconfig as kubectl reads it, or the account
//! of the pod that this runs in.

use std::path::Path;

use anyhow::Context as _;
use kube::Config;
use kube::config::{KubeConfigOptions, Kubeconfig};

/// Without a file and a context: KUBECONFIG, else ~/.kube/config, else the pod's own account.
pub async fn read(file: Option<&Path>, context: Option<&str>) -> anyhow::Result<Config> {
    const NO_WAY: &str = "no way to the cluster: give --kubeconfig and --context, or set KUBECONFIG";
    let options = KubeConfigOptions { context: context.map(str::to_owned), ..KubeConfigOptions::default() };
    match (file, context) {
        (None, None) => Config::infer().await.context(NO_WAY),
        (None, Some(_)) => Config::from_kubeconfig(&options).await.context(NO_WAY),
        (Some(file), _) => {
            let kubeconfig = Kubeconfig::read_from(file)
                .with_context(|| format!("cannot read the kubeconfig {}", file.display()))?;
            Config::from_custom_kubeconfig(kubeconfig, &options).await.context(NO_WAY)
        }
    }
}
