//! `postern controller`: the operator.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::process::ExitCode;

use tokio_util::sync::CancellationToken;

use crate::controller::installed::Finding;
use crate::controller::{self, Options};

#[derive(clap::Args)]
pub struct Args {
    /// Watch this namespace only (may be given several times; default: the whole cluster)
    #[arg(
        long = "namespace",
        value_name = "NAMESPACE",
        env = "POSTERN_WATCH_NAMESPACE",
        value_delimiter = ','
    )]
    namespaces: Vec<String>,
    /// Image of the gateway pods: the operator's own
    #[arg(long, value_name = "IMAGE", env = "POSTERN_IMAGE")]
    image: String,
    /// Probes and metrics
    #[arg(long, value_name = "ADDR", default_value = "[::]:8025")]
    admin: SocketAddr,
    /// The operator's own namespace, for the Lease and the control CA
    #[arg(long, value_name = "NAMESPACE", env = "POSTERN_NAMESPACE")]
    own_namespace: String,
    /// Name of the Lease
    #[arg(long, value_name = "NAME", env = "POSTERN_LEASE", default_value = "postern-controller")]
    lease: String,
    /// Name of the Secret that keeps the CA of the control port
    #[arg(long, value_name = "NAME", env = "POSTERN_CONTROL_CA", default_value = "postern-control-ca")]
    control_ca: String,
    /// This pod's name
    #[arg(long, value_name = "NAME", env = "POSTERN_POD", default_value_t = super::host_name())]
    pod: String,
    /// Look at this installation from inside, say what is wrong with it, and end: the definitions, the
    /// operator's rights, whether one works
    #[arg(long)]
    check: bool,
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let Args { mut namespaces, image, admin, own_namespace, lease, control_ca, pod, check } = args;
    namespaces.retain(|namespace| !namespace.is_empty());
    // A pod that is started again under its old name is another candidate.
    let identity = format!("{pod}-{:08x}", rand::random::<u32>());
    let options = Options { namespaces, image, admin, own_namespace, lease, identity, control_ca };
    if check {
        return report(&super::runtime()?.block_on(controller::check(&options))?);
    }
    super::runtime()?.block_on(async {
        let shutdown = CancellationToken::new();
        let end = shutdown.clone();
        let signals = tokio::spawn(async move {
            super::asked_to_end().await;
            end.cancel();
        });
        let result = controller::run(options, shutdown).await;
        signals.abort();
        result?;
        Ok(ExitCode::SUCCESS)
    })
}

fn report(findings: &[Finding]) -> anyhow::Result<ExitCode> {
    let mut text = String::new();
    for Finding { what, trouble } in findings {
        let _ = match trouble {
            None => writeln!(text, "ok    {what}"),
            Some(trouble) => writeln!(text, "FAIL  {what}: {trouble}"),
        };
    }
    super::print(&text);
    let whole = findings.iter().all(|finding| finding.trouble.is_none());
    Ok(if whole { ExitCode::SUCCESS } else { ExitCode::from(super::PROBLEMS) })
}
