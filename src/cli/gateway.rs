//! `postern gateway`: the data plane in a pod.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use crate::delivery::{Pauses, Throttle};
use crate::gateway::access::trail::Trail;
use crate::gateway::decisions::Matches;
use crate::gateway::handover::Place;
use crate::gateway::run::{ControlTls, Gateway, Options, Source};

#[derive(clap::Args)]
pub struct Args {
    /// Folder in which the bundle is mounted
    #[arg(long, value_name = "DIR")]
    bundle: PathBuf,
    /// Folder in which the secrets are mounted
    #[arg(long, value_name = "DIR")]
    secrets: PathBuf,
    /// Folder of the durable spool
    #[arg(long, value_name = "DIR")]
    spool: PathBuf,
    /// Listen here instead of where the bundle says (may be given several times)
    #[arg(long, value_name = "ADDR")]
    smtp: Vec<SocketAddr>,
    /// Probes and metrics
    #[arg(long, value_name = "ADDR", default_value = "[::]:8025")]
    admin: SocketAddr,
    /// What the controller asks, behind mutual TLS
    #[arg(long, value_name = "ADDR")]
    control: Option<SocketAddr>,
    /// Folder with tls.crt, tls.key and ca.crt of the control port
    #[arg(long, value_name = "DIR", default_value = "/etc/postern/control")]
    control_tls: PathBuf,
    /// Seconds during which mail is still taken after SIGTERM, until every endpoint list has forgotten this pod
    #[arg(long, value_name = "SECONDS", default_value_t = 5)]
    drain_lag: u64,
    /// Where the other pods of this gateway are, HOST, HOST:PORT or ADDRESS:PORT: to them mail goes when this pod leaves
    /// (may be given several times)
    #[arg(long, value_name = "PEER")]
    peers: Vec<Place>,
    /// At the end hand mail over, for at most so many seconds: the spool's volume dies with this pod
    #[arg(long, value_name = "SECONDS")]
    hand_over_on_exit: Option<u64>,
    /// This pod's name
    #[arg(long, env = "POD_NAME", default_value_t = super::host_name())]
    pod: String,
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let throttle = Throttle::kept_in(&args.spool);
    let trail = Trail::open(&args.spool.join("audit"), &args.pod);
    let options = Options {
        source: Source::Mount { bundle: args.bundle, secrets: args.secrets },
        spool: args.spool,
        smtp: args.smtp,
        admin: args.admin,
        control: args.control.map(|address| ControlTls {
            address,
            folder: args.control_tls,
            peers: args.peers,
            hand_over_on_exit: args.hand_over_on_exit.map(Duration::from_secs),
        }),
        token: None,
        trail,
        drain_lag: Duration::from_secs(args.drain_lag),
        pod: args.pod,
        hostname: super::host_name(),
        matches: Matches::default(),
        throttle,
        pauses: Pauses::default(),
    };
    super::runtime()?.block_on(async {
        let gateway = Gateway::start(options).await?;
        gateway.run(super::asked_to_end()).await?;
        Ok(ExitCode::SUCCESS)
    })
}
