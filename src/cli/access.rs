//! The way to the mail of a gateway, for every command that works on it: the socket of the gateway that runs on a
//! folder, the admin address of one with its token, the folder itself when no gateway has it, or a cluster's
//! operator. The same API behind all of them.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use axum::Router;
use axum::body::Body;
use http_body_util::{BodyExt, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1::handshake;
use hyper::service::Service;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use jiff::Timestamp;
use prometheus_client::registry::Registry;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::bundle::document::FORMAT;
use crate::bundle::{Bundle, Materials, Revision, Sequence, segment};
use crate::cli::folder::Folder;
use crate::cli::remote::{Cluster, Remote};
use crate::cli::standalone::record::Record;
use crate::delivery::{self, Allowance, Own, Pauses, RouteTable};
use crate::gateway::acceptance::Acceptance;
use crate::gateway::access::trail::{self, Trail};
use crate::gateway::access::{self as opened, Actor, Refusal, socket};
use crate::gateway::budget::Budgets;
use crate::gateway::decisions::{Decisions, Limits, Matches};
use crate::gateway::judge::Judge;
use crate::gateway::live;
use crate::gateway::quarantine::{self, Desk, Parts, Policies};
use crate::gateway::queue::{self, Queue};
use crate::policy::compile;
use crate::spool::{self, OpenError, Spool};

/// A gateway that does not answer in this time is not there, or stuck.
const CONNECT: Duration = Duration::from_secs(5);
/// Longer than the gateway takes before it says that something goes on.
const ANSWER: Duration = Duration::from_secs(90);
/// A message is at most this large.
const LARGEST: usize = 1 << 30;

/// Where the mail is.
#[derive(clap::Args)]
pub struct Place {
    /// State folder of a standalone gateway, or the spool folder of a gateway pod. Goes through the gateway
    /// that runs on it, if one does
    #[arg(long, value_name = "DIR", default_value_os_t = super::standalone::default_state(), global = true)]
    state: PathBuf,
    /// Address of a standalone gateway's admin port, with --token
    #[arg(long, value_name = "http://HOST:PORT", value_parser = base, requires = "token", global = true)]
    gateway: Option<SocketAddr>,
    /// The file `token` of its state folder
    #[arg(long, value_name = "FILE", global = true)]
    token: Option<PathBuf>,
    /// When no gateway runs: judge a release by this folder of YAML instead of what the gateway ran last
    #[arg(long, value_name = "DIR", global = true)]
    config: Option<PathBuf>,
    /// When no gateway runs and the folder has several: the one meant, as NAME or NAMESPACE/NAME
    #[arg(long, value_name = "NAME", global = true)]
    gateway_name: Option<String>,
    #[command(flatten)]
    cluster: Cluster,
}

pub fn base(text: &str) -> Result<SocketAddr, String> {
    let address = text.strip_prefix("http://").unwrap_or(text).trim_end_matches('/');
    address.parse().map_err(|_| "expected http://ADDRESS:PORT, the admin address of the gateway".to_owned())
}

/// Where a gateway runs.
pub enum Running<'a> {
    On(&'a Path),
    At(SocketAddr, &'a Path),
}

pub enum Access {
    Socket(PathBuf),
    Address {
        address: SocketAddr,
        token: String,
    },
    Folder {
        spool: Spool,
        desk: Desk,
        pages: Router,
        decisions: Decisions,
    },
    /// A gateway of a cluster, all its pods, through the operator.
    Cluster(Box<Remote>),
}

impl Access {
    pub async fn open(place: &Place) -> anyhow::Result<Self> {
        if place.gateway.is_none() && place.cluster.is_meant() {
            return Self::in_cluster(&place.cluster).await;
        }
        if let (Some(address), Some(file)) = (place.gateway, &place.token) {
            let token = std::fs::read_to_string(file)
                .with_context(|| format!("cannot read the token file {}", file.display()))?;
            return Ok(Access::Address { address, token: token.trim().to_owned() });
        }
        let folder = spool_folder(&place.state)?;
        match timeout(CONNECT, socket::connect(&folder)).await {
            Ok(Ok(_)) => Ok(Access::Socket(folder)),
            Ok(Err(error)) => Self::on_folder(place, &folder, &error).await,
            Err(_) => bail!("the gateway on {} does not answer", folder.display()),
        }
    }

    pub async fn in_cluster(cluster: &Cluster) -> anyhow::Result<Self> {
        Ok(Access::Cluster(Box::new(cluster.connect().await?)))
    }

    /// A gateway that runs, by its folder or by its address and token file.
    pub async fn running(at: Running<'_>) -> anyhow::Result<Self> {
        match at {
            Running::On(state) => {
                let folder = spool_folder(state)?;
                match timeout(CONNECT, socket::connect(&folder)).await {
                    Ok(Ok(_)) => Ok(Access::Socket(folder)),
                    Ok(Err(error)) => {
                        bail!(
                            "no gateway answers on {}: {error}; start it, or leave out --state",
                            folder.display()
                        )
                    }
                    Err(_) => bail!("the gateway on {} does not answer", folder.display()),
                }
            }
            Running::At(address, file) => {
                let token = std::fs::read_to_string(file)
                    .with_context(|| format!("cannot read the token file {}", file.display()))?;
                Ok(Access::Address { address, token: token.trim().to_owned() })
            }
        }
    }

    /// No gateway answers: if none has the folder, we are the one who has it.
    async fn on_folder(place: &Place, folder: &Path, why: &io::Error) -> anyhow::Result<Self> {
        let policies = policies(place)?;
        let spool = match Spool::open(folder, spool::Options::default()) {
            Ok((spool, _)) => spool,
            Err(OpenError::Locked(_)) => bail!(
                "a gateway runs on {}, and its control socket cannot be used: {why}; try --gateway and --token",
                folder.display()
            ),
            Err(error) => return Err(error.into()),
        };
        // What a release decides is noted where the gateway's own decisions are.
        let mut unread = Registry::default();
        let decisions = Decisions::open(folder, Limits::default(), Matches::default(), &mut unread);
        let acceptance = Acceptance {
            spool: spool.clone(),
            allowance: Allowance::default(),
            metrics: delivery::Metrics::default(),
        };
        let routes = match &policies {
            Policies::Fixed(running) => Some(Arc::clone(&running.routes)),
            Policies::Live(_) | Policies::Nobody(_) => None,
        };
        let queue = Queue::open(
            &acceptance,
            Box::new(move || routes.clone()),
            Pauses::default(),
            queue::Metrics::default(),
        )?;
        let desk = Desk::new(Parts {
            acceptance,
            judge: Judge::new(Budgets::of_this_machine(), decisions.clone()),
            policies,
            metrics: quarantine::Metrics::default(),
        });
        let uid = rustix::process::getuid().as_raw();
        // Where the gateway itself would record it.
        let audit = if folder == place.state { folder.join("audit") } else { place.state.join("audit") };
        let trail = Trail::open(&audit, &format!("uid/{uid}, no gateway runs"));
        let pages = quarantine::http::api(desk.clone()).merge(queue::http::api(queue));
        let pages = opened::of_actor(trail::audited(pages, trail), Actor::Uid(uid));
        Ok(Access::Folder { spool, desk, pages, decisions })
    }

    pub fn is_offline(&self) -> bool {
        matches!(self, Access::Folder { .. })
    }

    pub async fn close(self) {
        match self {
            Access::Socket(_) | Access::Address { .. } => {}
            Access::Cluster(remote) => remote.close().await,
            Access::Folder { spool, desk, pages, decisions } => {
                desk.close().await;
                drop((desk, pages));
                spool.close().await;
                // A log that cannot be written has said so.
                let _ = tokio::task::spawn_blocking(move || decisions.close()).await;
            }
        }
    }

    pub async fn get(&self, path: &str) -> anyhow::Result<Bytes> {
        self.ask(Method::GET, path).await
    }

    pub async fn post(&self, path: &str) -> anyhow::Result<Bytes> {
        self.ask(Method::POST, path).await
    }

    async fn ask(&self, method: Method, path: &str) -> anyhow::Result<Bytes> {
        let answer = timeout(ANSWER, self.answer(method, path)).await;
        let (status, text) = answer.map_err(|_| anyhow!("the gateway does not answer"))??;
        if status.is_success() { Ok(text) } else { Err(refusal(status, &text)) }
    }

    async fn answer(&self, method: Method, path: &str) -> anyhow::Result<(StatusCode, Bytes)> {
        let request = || Request::builder().method(&method).uri(path).header("host", "gateway");
        match self {
            Access::Socket(folder) => {
                exchange(socket::connect(folder).await?, request().body(Body::empty())?).await
            }
            Access::Address { address, token } => {
                let stream = timeout(CONNECT, TcpStream::connect(address)).await;
                let stream = stream.map_err(|_| anyhow!("{address} does not answer"))?;
                let stream = stream.with_context(|| format!("cannot connect to {address}"))?;
                let request = request().header("authorization", format!("Bearer {token}"));
                exchange(stream, request.body(Body::empty())?).await
            }
            Access::Cluster(remote) => remote.ask(method, path).await,
            Access::Folder { pages, .. } => {
                let pages = TowerToHyperService::new(pages.clone());
                let response = pages.call(request().body(Body::empty())?).await?;
                let status = response.status();
                Ok((status, collect(response.into_body()).await?))
            }
        }
    }
}

async fn exchange<S>(stream: S, request: Request<Body>) -> anyhow::Result<(StatusCode, Bytes)>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = handshake(TokioIo::new(stream)).await?;
    let answer = async {
        let response = sender.send_request(request).await?;
        let status = response.status();
        let text = collect(Body::new(response.into_body())).await?;
        drop(sender);
        anyhow::Ok((status, text))
    };
    // The connection does the work; what it ends with matters only if there is no answer.
    let (answer, _) = tokio::join!(answer, connection);
    answer
}

/// What was said instead of an answer, in words.
pub fn refusal(status: StatusCode, text: &[u8]) -> anyhow::Error {
    match serde_json::from_slice::<Refusal>(text) {
        Ok(Refusal { error }) => anyhow!("{error}"),
        Err(_) => anyhow!("the answer is {status}: {}", String::from_utf8_lossy(text).trim()),
    }
}

pub async fn collect(body: Body) -> anyhow::Result<Bytes> {
    let collected = Limited::new(body, LARGEST).collect().await;
    Ok(collected.map_err(|error| anyhow!("the answer broke off: {error}"))?.to_bytes())
}

/// The spool in a state folder, or the folder itself if it is one.
fn spool_folder(state: &Path) -> anyhow::Result<PathBuf> {
    let candidates = [state.join("spool"), state.to_owned()];
    let found = candidates.into_iter().find(|folder| folder.join("lock").is_file());
    found.ok_or_else(|| {
        anyhow!(
            "there is no spool in {}: give the gateway's state or spool folder with --state",
            state.display()
        )
    })
}

/// By which policy a release is judged when no gateway runs: the folder that was given, else what a standalone
/// gateway ran last.
fn policies(place: &Place) -> anyhow::Result<Policies> {
    if let Some(folder) = &place.config {
        let configured = Folder::read(folder)?.gateway(place.gateway_name.as_deref())?;
        let running = running(&configured.bundle, configured.revision, &configured.materials)?;
        return Ok(Policies::Fixed(Arc::new(running)));
    }
    let record = Record::read(&place.state);
    let Some(last_good) = record.last_good() else {
        return Ok(Policies::Nobody(
            "no gateway runs here and it is not known by which rules to judge: give the folder of YAML with \
             --config, or start the gateway",
        ));
    };
    let revision = Revision::of(FORMAT, &segment::cut(&last_good.bundle), &last_good.materials);
    let running = running(&Arc::new(last_good.bundle.clone()), revision, &Materials::default())?;
    Ok(Policies::Fixed(Arc::new(running)))
}

fn running(bundle: &Arc<Bundle>, revision: Revision, materials: &Materials) -> anyhow::Result<live::Running> {
    let policy = compile(bundle, &revision)?;
    let own = Own { machine: crate::cli::host_name(), listening: Vec::new() };
    Ok(live::Running {
        sequence: Sequence::default(),
        revision,
        bundle: Arc::clone(bundle),
        policy: Arc::new(policy),
        routes: Arc::new(RouteTable::build(bundle, materials, &own)),
        loaded_at: Timestamp::now(),
        leaving: false,
    })
}

/// A value for a query string.
pub fn escape(value: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte);
    value
        .bytes()
        .map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}
