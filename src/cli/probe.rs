//! `postern probe`: the staged test of a mail server (spec R23-R29), before a route is saved and at any time after:
//! from here against any host or the route of a folder of YAML, or from a gateway that runs.

mod words;

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, anyhow, bail};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::access::{self, Access, Running};
use super::folder::Folder;
use super::remote::Cluster;
use super::{Format, PROBLEMS, WrongUse};
use crate::bundle::document::{
    Bundle, Gateway, HostPort, ObjectId, ObjectKind, Origin, Route, RouteTarget, RouteTls, TlsMode,
    WeightedHost,
};
use crate::bundle::material::{Material, MaterialKind, Materials};
use crate::bundle::probe::{HostProbe, Reason, RouteProbe};
use crate::delivery::attempt::Outside;
use crate::delivery::probe::{self, Trial};
use crate::delivery::{Own, RouteTable};
use crate::gateway::probe::http::trial;
use crate::mail::envelope::{RouteName, Via};

/// The spool of a gateway pod.
const POD_STATE: &str = "/var/spool/postern";

#[derive(clap::Args)]
pub struct Args {
    /// HOST, HOST:PORT or [IPV6]:PORT; or, with DIR or a running gateway, an OutboundRoute as NAME or
    /// NAMESPACE/NAME
    target: String,
    /// Folder of YAML that has the route: tested from here, on its terms
    dir: Option<PathBuf>,
    /// Also ask the host to take mail for this address (MAIL and RCPT, no message)
    #[arg(long, value_name = "ADDRESS")]
    recipient: Option<String>,
    /// From this address; without it, the null sender
    #[arg(long, value_name = "ADDRESS", requires = "recipient")]
    sender: Option<String>,
    /// HOST speaks TLS from the first byte; taken for granted with port 465
    #[arg(long, conflicts_with = "dir")]
    implicit_tls: bool,
    /// Test the mail hosts (MX) of HOST
    #[arg(long, conflicts_with_all = ["dir", "implicit_tls"])]
    mx: bool,
    /// The name that the certificate must bear instead of HOST
    #[arg(long, value_name = "NAME", conflicts_with = "dir")]
    server_name: Option<String>,
    /// Certificates of further authorities to trust, in PEM form
    #[arg(long, value_name = "FILE", conflicts_with = "dir")]
    ca: Option<PathBuf>,
    /// Ask these DNS servers instead of the machine's
    #[arg(long, value_name = "ADDRESS:PORT")]
    dns: Vec<SocketAddr>,
    /// From this gateway pod, by kubectl exec
    #[arg(long, value_name = "POD", conflicts_with_all = ["dir", "state", "gateway"])]
    from: Option<String>,
    /// From the gateway that runs on this state or spool folder
    #[arg(long, value_name = "DIR", conflicts_with = "dir")]
    state: Option<PathBuf>,
    /// From the standalone gateway with this admin address, with --token
    #[arg(long, value_name = "http://HOST:PORT", value_parser = access::base, requires = "token", conflicts_with_all = ["dir", "state"])]
    gateway: Option<SocketAddr>,
    /// The file `token` of its state folder
    #[arg(long, value_name = "FILE", requires = "gateway")]
    token: Option<PathBuf>,
    /// In a cluster: from this pod only (default: from each)
    #[arg(long, value_name = "POD", conflicts_with_all = ["dir", "state", "gateway", "from"])]
    pod: Option<String>,
    /// How to print
    #[arg(short, long, value_name = "FORMAT", default_value = "text")]
    output: Format,
    #[command(flatten)]
    cluster: Cluster,
}

/// What is printed with `-o json`; stable.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Answer {
    version: u32,
    /// `host:port`, or the route as `namespace/name`.
    target: String,
    passed: bool,
    reason: Reason,
    message: String,
    tested_at: Timestamp,
    hosts: Vec<HostProbe>,
}

impl Answer {
    fn new(target: String, probe: RouteProbe) -> Self {
        let passed = probe.passed();
        let RouteProbe { tested_at, reason, message, hosts, .. } = probe;
        Self { version: 1, target, passed, reason, message, tested_at, hosts }
    }
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let trial = trial(args.recipient.as_deref(), args.sender.as_deref()).map_err(WrongUse)?;
    let local = args.from.is_some() || args.gateway.is_some() || args.state.is_some() || args.dir.is_some();
    if !local && args.cluster.is_meant() {
        return super::runtime()?.block_on(in_cluster(&args));
    }
    let answer = match &args {
        Args { from: Some(pod), .. } => in_pod(&args, pod)?,
        Args { gateway: Some(address), token: Some(token), .. } => {
            super::runtime()?.block_on(ask(&args, Running::At(*address, token)))?
        }
        Args { state: Some(state), .. } => super::runtime()?.block_on(ask(&args, Running::On(state)))?,
        Args { dir: Some(dir), .. } => super::runtime()?.block_on(route(&args, dir, trial.as_ref()))?,
        _ => super::runtime()?.block_on(host(&args, trial.as_ref()))?,
    };
    super::print(&match args.output {
        Format::Json => words::json(&answer),
        Format::Text => words::text(&answer, Timestamp::now()),
    });
    Ok(if answer.passed { ExitCode::SUCCESS } else { ExitCode::from(PROBLEMS) })
}

/// A gateway that runs tests one of its routes.
async fn ask(args: &Args, at: Running<'_>) -> anyhow::Result<Answer> {
    let access = Access::running(at).await?;
    let found = access.post(&path(args)).await?;
    access.close().await;
    let probe: RouteProbe = serde_json::from_slice(&found).context("the answer does not read")?;
    let object = &probe.origin.object;
    Ok(Answer::new(format!("{}/{}", object.namespace, object.name), probe))
}

fn path(args: &Args) -> String {
    let mut path = format!("/probe?route={}", access::escape(&args.target));
    for (name, value) in [("recipient", &args.recipient), ("sender", &args.sender), ("pod", &args.pod)] {
        if let Some(value) = value {
            path.push_str(&format!("&{name}={}", access::escape(value)));
        }
    }
    path
}

/// What each pod of a gateway found: each has its own way out.
#[derive(Debug, Serialize, Deserialize)]
#[serde(untagged)]
enum FromPod {
    Answer { pod: String, answer: Box<RouteProbe> },
    Error { pod: String, error: String },
}

#[derive(Debug, Serialize, Deserialize)]
struct FromPods {
    pods: Vec<FromPod>,
}

async fn in_cluster(args: &Args) -> anyhow::Result<ExitCode> {
    let access = Access::in_cluster(&args.cluster).await?;
    let found = access.post(&path(args)).await?;
    access.close().await;
    let FromPods { pods } = serde_json::from_slice(&found).context("the answer does not read")?;
    let (mut passed, mut list) = (true, Vec::new());
    for found in pods {
        match found {
            FromPod::Answer { pod, answer } => {
                let object = &answer.origin.object;
                let answer = Answer::new(format!("{}/{}", object.namespace, object.name), *answer);
                passed &= answer.passed;
                match args.output {
                    Format::Json => list.push(serde_json::json!({"pod": pod, "answer": answer})),
                    Format::Text => {
                        super::print(&format!("From {pod}\n{}\n", words::text(&answer, Timestamp::now())));
                    }
                }
            }
            FromPod::Error { pod, error } => {
                passed = false;
                super::caution(&format!("pod {pod}: {error}"));
                list.push(serde_json::json!({"pod": pod, "error": error}));
            }
        }
    }
    if args.output == Format::Json {
        super::print(&super::words::json(&serde_json::json!({"version": 1, "pods": list})));
    }
    Ok(if passed { ExitCode::SUCCESS } else { ExitCode::from(PROBLEMS) })
}

/// The same command inside a pod, with the rights that whoever asks has in the cluster.
fn in_pod(args: &Args, pod: &str) -> anyhow::Result<Answer> {
    let mut command = std::process::Command::new("kubectl");
    command.arg("exec").arg(pod);
    if let Some(namespace) = args.cluster.given_namespace() {
        command.args(["--namespace", namespace]);
    }
    command.args(["--", "/postern", "probe", &args.target, "--state", POD_STATE, "-o", "json"]);
    for (name, value) in [("--recipient", &args.recipient), ("--sender", &args.sender)] {
        command.args(value.iter().flat_map(|value| [name, value.as_str()]));
    }
    let done = command.output().context("kubectl cannot be started")?;
    // A failed test is an answer too.
    serde_json::from_slice(&done.stdout).map_err(|_| {
        let said = String::from_utf8_lossy(&done.stderr);
        anyhow!("no answer from pod {pod}: {}", said.trim())
    })
}

/// A route of a folder, tested from here.
async fn route(args: &Args, dir: &Path, trial: Option<&Trial>) -> anyhow::Result<Answer> {
    let folder = Folder::read(dir)?;
    let named = |object: &ObjectId| {
        object.name == args.target || format!("{}/{}", object.namespace, object.name) == args.target
    };
    let mut known = Vec::new();
    for key in folder.keys() {
        let Some(configured) = folder.translate(&key, None).0 else { continue };
        let routes = &configured.bundle.routes;
        known.extend(routes.iter().map(|route| route.name().to_string()));
        if let Some(record) = routes.iter().find(|route| named(&route.origin.object)) {
            return test(&configured.bundle, &configured.materials, record, &args.dns, trial).await;
        }
    }
    match known.is_empty() {
        true => bail!("{} has no OutboundRoute", dir.display()),
        false => bail!("{} has no OutboundRoute {}; it has {}", dir.display(), args.target, known.join(", ")),
    }
}

/// A host, on the terms that a new route has: TLS with a certificate that is trusted and bears its name.
async fn host(args: &Args, trial: Option<&Trial>) -> anyhow::Result<Answer> {
    let at = address(&args.target).ok_or_else(|| {
        WrongUse(format!(
            "{:?} is not HOST, HOST:PORT or [IPV6]:PORT; for a route give its folder too",
            args.target
        ))
    })?;
    let namespace = "command-line".to_owned();
    let object =
        ObjectId { kind: ObjectKind::OutboundRoute, namespace: namespace.clone(), name: at.host.clone() };
    let origin = |object: ObjectId| Origin { object, uid: String::new(), generation: 0 };
    let ca = Material { kind: MaterialKind::ConfigMap, namespace, name: "ca".into(), key: "ca.crt".into() };
    let mut materials = Materials::default();
    if let Some(file) = &args.ca {
        let text = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
        materials.insert(ca.clone(), text);
    }
    let tls = RouteTls {
        mode: if args.implicit_tls || at.port == 465 { TlsMode::Implicit } else { TlsMode::StartTls },
        require: true,
        require_ca_signed: true,
        validate_hostname: true,
        server_name: args.server_name.clone(),
        ca: args.ca.as_ref().map(|_| ca),
        ..RouteTls::opportunistic()
    };
    let target = match args.mx {
        true => RouteTarget::MxOf(vec![at]),
        false => {
            RouteTarget::Hosts { primary: vec![WeightedHost { at, weight: None }], secondary: Vec::new() }
        }
    };
    let record = Route::new(origin(object.clone()), target, tls);
    let gateway = Gateway::new(origin(ObjectId { kind: ObjectKind::OutboundGateway, ..object }));
    let bundle = Bundle { routes: vec![record.clone()], ..Bundle::new(gateway) };
    let answer = test(&bundle, &materials, &record, &args.dns, trial).await?;
    Ok(Answer { target: args.target.clone(), ..answer })
}

async fn test(
    bundle: &Bundle,
    materials: &Materials,
    record: &Route,
    dns: &[SocketAddr],
    trial: Option<&Trial>,
) -> anyhow::Result<Answer> {
    let own = Own { machine: super::host_name(), listening: Vec::new() };
    let mut table = RouteTable::build(bundle, materials, &own);
    if !dns.is_empty() {
        table.dns.addresses = dns.to_vec();
    }
    let name: RouteName = record.name();
    let route = table.resolve(&Via::Route(name.clone())).map_err(|problem| anyhow!("{problem}"))?;
    let outside = Outside { timeouts: probe::timeouts(), ..Outside::default() };
    let hosts = probe::hosts(&outside, &table, &Arc::clone(&route), trial).await;
    let found = probe::advice::sum_up(&record.origin, hosts, Timestamp::now());
    let found = found.ok_or_else(|| {
        anyhow!(
            "{name} names no host: mail goes to the mail hosts of each recipient's domain; test one with \
             `postern probe --mx DOMAIN`"
        )
    })?;
    Ok(Answer::new(name.to_string(), found))
}

/// `HOST`, `HOST:PORT`, an address, or one in brackets with a port.
fn address(text: &str) -> Option<HostPort> {
    if let Ok(at) = text.parse::<SocketAddr>() {
        return Some(HostPort { host: at.ip().to_string(), port: at.port() });
    }
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    if let Ok(ip) = bare.parse::<IpAddr>() {
        return Some(HostPort { host: ip.to_string(), port: 25 });
    }
    let (host, port) = match text.split_once(':') {
        Some((host, port)) => (host, port.parse().ok().filter(|port| *port != 0)?),
        None => (text, 25),
    };
    let domain = crate::mail::address::Domain::parse(host).ok()?;
    Some(HostPort { host: domain.ascii().to_owned(), port })
}

#[cfg(test)]
mod tests;
