//! `postern controller`: the operator.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use jiff::SignedDuration;
use tokio_util::sync::CancellationToken;

use super::WrongUse;
use crate::controller::audit::Store;
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
    /// The API for people: queue, quarantine, tests, audit log
    #[arg(long, value_name = "ADDR", default_value = "[::]:8443")]
    api: SocketAddr,
    /// Name of the Service in front of it, which its certificate bears; the ConfigMap with its authority is
    /// NAME-api
    #[arg(long, value_name = "NAME", env = "POSTERN_SERVICE", default_value = "postern")]
    service: String,
    /// Folder of the audit log. Without it nothing is recorded, and nothing is done through the API
    #[arg(long, value_name = "DIR", env = "POSTERN_AUDIT")]
    audit: Option<PathBuf>,
    /// How long records are kept, such as 9600h (400 days)
    #[arg(long, value_name = "DURATION", env = "POSTERN_AUDIT_RETENTION", default_value = "9600h")]
    audit_retention: SignedDuration,
    /// This pod's name
    #[arg(long, value_name = "NAME", env = "POSTERN_POD", default_value_t = super::host_name())]
    pod: String,
    /// Look at this installation from inside, say what is wrong with it, and end: the definitions, the
    /// operator's rights, whether one works
    #[arg(long)]
    check: bool,
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let Args {
        mut namespaces,
        image,
        admin,
        own_namespace,
        lease,
        control_ca,
        api,
        service,
        audit,
        audit_retention,
        pod,
        check,
    } = args;
    let retention = Duration::try_from(audit_retention)
        .map_err(|_| WrongUse(format!("--audit-retention {audit_retention}: it cannot be negative")))?;
    let audit = audit.map(|folder| Store { folder, retention });
    namespaces.retain(|namespace| !namespace.is_empty());
    // A pod that is started again under its old name is another candidate.
    let identity = format!("{pod}-{:08x}", rand::random::<u32>());
    let options =
        Options { namespaces, image, admin, own_namespace, lease, identity, control_ca, api, service, audit };
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
