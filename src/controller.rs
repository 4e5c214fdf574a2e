//! The control plane assembled: watches fill the [`world`], a driver per gateway turns it into a published
//! bundle and running pods ([`reconcile`]), pods say what they obey ([`acks`]), and statuses say it to people.
//!
//! Only the process that holds the Lease works; nothing here touches a mail.

pub mod acks;
pub mod api;
pub mod apply;
pub mod audit;
pub mod authority;
pub mod build;
pub mod census;
pub mod control;
pub mod history;
pub mod installed;
pub mod leader;
pub mod life;
pub mod metrics;
pub mod probes;
pub mod publish;
pub mod reconcile;
pub mod rollout;
mod spread;
pub mod status;
pub mod statuses;
pub mod supervise;
mod told;
pub mod world;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use kube::runtime::events::{Recorder, Reporter};
use kube::{Client, Config};
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{error, info, warn};

use crate::admin;
use crate::directory;
use crate::published;

use acks::{Dial, Dialler};
use api::Office;
use api::front::{self, Duty, Neighbours};
use audit::Ledger;
use build::Site;
use leader::{Election, Terms};
use metrics::Metrics;
use reconcile::{Bounds, Context};
use statuses::Statuses;
use supervise::Supervisor;
use world::World;

/// The API server ends a watch after 290 s, and says something before.
const SILENCE: Duration = Duration::from_secs(300);
/// How often the controller's own certificate is made anew, and the authority looked at.
const DAY: Duration = Duration::from_secs(24 * 3600);

#[derive(Debug, Clone)]
pub struct Options {
    /// Watch these namespaces only; empty: the whole cluster.
    pub namespaces: Vec<String>,
    /// The image that gateway pods run: the operator's own.
    pub image: String,
    /// Probes and metrics.
    pub admin: SocketAddr,
    /// The operator's own namespace: Lease and control CA live there.
    pub own_namespace: String,
    /// Name of the Lease.
    pub lease: String,
    /// Who this process is among those that want the Lease.
    pub identity: String,
    /// Name of the Secret with the control CA.
    pub control_ca: String,
    /// The API for people.
    pub api: SocketAddr,
    /// Name of the Service in front of the API; the ConfigMap with its authority is `<name>-api`.
    pub service: String,
    /// The audit log. `None`: nothing is recorded, and nothing is done through the API.
    pub audit: Option<audit::Store>,
}

#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error("cannot find out how to reach the API server: {0}")]
    Client(#[from] kube::Error),
    #[error("cannot listen on {address} for {what}: {source}")]
    Listen { what: &'static str, address: SocketAddr, source: std::io::Error },
}

/// Runs the operator until `shutdown`.
pub async fn run(options: Options, shutdown: CancellationToken) -> Result<(), RunError> {
    let mut config = Config::infer().await.map_err(kube::Error::InferConfig)?;
    // A connection that stays silent for longer than any watch does is dead.
    config.read_timeout = Some(SILENCE);
    let client = Client::try_from(config)?;
    let mut registry = Registry::default();
    let metrics = Arc::new(Metrics::register(&mut registry));
    let (working, work) = watch::channel(None::<Arc<World>>);
    registry.register_collector(Box::new(census::Census(work.clone())));
    let listener = listen("probes and metrics", options.admin).await?;
    let counter = listen("the API", options.api).await?;
    // One that waits for the Lease is as ready as it can be; one that works is when its caches are full.
    let ready = move || work.borrow().as_ref().is_none_or(|world| world.is_complete());
    let pages = admin::probes(ready, Arc::new(registry));
    let stop_admin = CancellationToken::new();
    let admin = tokio::spawn(admin::serve(listener, pages, stop_admin.clone()));
    let (on_duty, duty) = watch::channel(Duty::PassOn);
    let neighbours = Neighbours {
        client: client.clone(),
        namespace: options.own_namespace.clone(),
        lease: options.lease.clone(),
        identity: options.identity.clone(),
        port: options.api.port(),
    };
    let api = tokio::spawn(front::run(counter, duty, neighbours, stop_admin.clone()));

    operate(client, None, &options, metrics, &Notices { working, on_duty }, shutdown).await;

    stop_admin.cancel();
    for (what, server) in [("admin", admin), ("API", api)] {
        if let Err(failure) = server.await {
            error!(%failure, "the {what} server did not end well");
        }
    }
    Ok(())
}

async fn listen(what: &'static str, address: SocketAddr) -> Result<TcpListener, RunError> {
    TcpListener::bind(address).await.map_err(|source| RunError::Listen { what, address, source })
}

/// Looks at the installation that these options belong to, and changes nothing.
pub async fn check(options: &Options) -> Result<Vec<installed::Finding>, RunError> {
    let client = Client::try_default().await?;
    Ok(installed::look(&client, options).await)
}

/// What the rest of the process is told of the leader's work.
pub struct Notices {
    pub working: watch::Sender<Option<Arc<World>>>,
    pub on_duty: watch::Sender<Duty>,
}

/// Leads whenever the Lease is to be had, until `shutdown`. Pods are reached by `dial`, by default over the network.
pub async fn operate(
    client: Client,
    dial: Option<Arc<dyn Dial>>,
    options: &Options,
    metrics: Arc<Metrics>,
    notices: &Notices,
    shutdown: CancellationToken,
) {
    let terms = Terms::default();
    let identity = options.identity.clone();
    let election =
        Election::new(client.clone(), &options.own_namespace, options.lease.clone(), identity, terms);
    election
        .run(shutdown, |stop| {
            let (client, dial, metrics) = (client.clone(), dial.clone(), metrics.clone());
            async move {
                metrics.leading(true);
                lead(client, dial, options, metrics.clone(), notices, stop).await;
                metrics.leading(false);
                notices.on_duty.send_replace(Duty::PassOn);
                notices.working.send_replace(None);
            }
        })
        .await;
}

/// The work of the leader, until `stop`.
async fn lead(
    client: Client,
    dial: Option<Arc<dyn Dial>>,
    options: &Options,
    metrics: Arc<Metrics>,
    notices: &Notices,
    stop: CancellationToken,
) {
    let Some((authority, tls)) = certificates(&client, options, &stop).await else { return };
    let world = World::new(client.clone(), options.namespaces.clone());
    if options.audit.is_some() {
        world.observer.begin();
    }
    let ledger = Arc::new(Ledger::new(options.audit.as_ref(), metrics.clone()));
    notices.working.send_replace(Some(world.clone()));
    let reporter = Reporter { controller: "postern".to_owned(), instance: Some(options.identity.clone()) };
    let recorder = Recorder::new(client.clone(), reporter);
    let statuses = Arc::new(Statuses::new(client.clone(), world.clone(), metrics.clone(), recorder));
    let (renew, tls) = watch::channel(tls);
    let authority = Arc::new(authority);
    let (dial, bounds) = (dial.map_or(Dialler::Tls(tls), Dialler::Other), Bounds::default());
    let people = Arc::new(directory::Keeper::default());
    let published = Arc::new(published::Keeper::default());
    let office = Arc::new(Office {
        client: client.clone(),
        world: world.clone(),
        ledger: ledger.clone(),
        metrics: metrics.clone(),
        dial: dial.clone(),
        dials: bounds.dials.clone(),
        acts: TaskTracker::new(),
    });
    let counter = open_api(office.clone(), authority.clone(), options, &notices.on_duty, &stop);
    let recording =
        audit::record(&ledger, &world, &metrics, options.audit.as_ref(), &options.identity, stop.clone());
    let ctx = Arc::new(Context {
        client,
        people: people.clone(),
        published: published.clone(),
        world: world.clone(),
        metrics: metrics.clone(),
        statuses: statuses.clone(),
        authority: authority.clone(),
        dial,
        bounds,
        ledger: ledger.clone(),
        site: Site { image: options.image.clone(), namespace: options.own_namespace.clone() },
    });
    let mut watches = world::watch_all(&world, &metrics, &stop);
    let supervisor = Supervisor::new(ctx).run(stop.clone());
    let writer = statuses.run(stop.clone());
    let renewal = async {
        while stop.run_until_cancelled(sleep(DAY)).await.is_some() {
            match authority.client(control::today()) {
                Ok(tls) => drop(renew.send_replace(tls)),
                Err(failure) => error!(%failure, "cannot renew the controller's certificate"),
            }
        }
    };
    let directories = people.run(|gateway| world.ring_spec(gateway), stop.clone());
    let domains = published.run(|gateway| world.ring_spec(gateway), stop.clone());
    tokio::join!(supervisor, writer, renewal, directories, domains, recording, counter);
    ledger.close();
    while watches.join_next().await.is_some() {}
    info!("stopped working");
}

/// Serves the API until `stop`, with a new certificate each day; then waits for acts that have begun.
async fn open_api(
    office: Arc<Office>,
    authority: Arc<authority::Authority>,
    options: &Options,
    on_duty: &watch::Sender<Duty>,
    stop: &CancellationToken,
) {
    if options.audit.is_none() {
        // What cannot be recorded is not done: there is nothing to serve.
        return;
    }
    let names = front::names(&options.own_namespace, &options.service);
    let config_map = format!("{}-api", options.service);
    let pages = api::pages(office.clone());
    let serving = async {
        loop {
            let ready = async {
                let client = &office.client;
                let tls = front::tls(client, &authority, &names).await.map_err(|error| error.to_string())?;
                let published = front::publish(client, &authority, &options.own_namespace, &config_map);
                published.await.map_err(|error| error.to_string())?;
                Ok::<_, String>(tls)
            };
            let pause = match ready.await {
                Ok(tls) => {
                    on_duty.send_replace(Duty::Serve { tls, pages: pages.clone() });
                    DAY
                }
                Err(error) => {
                    warn!(error, "the API cannot be served yet");
                    Duration::from_secs(30)
                }
            };
            sleep(pause).await;
        }
    };
    stop.run_until_cancelled(serving).await.unwrap_or(());
    on_duty.send_replace(Duty::PassOn);
    office.acts.close();
    office.acts.wait().await;
}

/// Without them no pod could be asked: tries until there are some. `None`: stopped before.
async fn certificates(
    client: &Client,
    options: &Options,
    stop: &CancellationToken,
) -> Option<(authority::Authority, Arc<rustls::ClientConfig>)> {
    let mut pause = Duration::from_millis(500);
    loop {
        let attempt = async {
            let authority = control::authority(client, &options.own_namespace, &options.control_ca).await?;
            let tls = authority.client(control::today())?;
            Ok::<_, control::ControlError>((authority, tls))
        };
        match stop.run_until_cancelled(attempt).await? {
            Ok(made) => return Some(made),
            Err(failure) => warn!(%failure, "no certificates for the control port yet"),
        }
        stop.run_until_cancelled(sleep(pause)).await?;
        pause = (pause * 2).min(Duration::from_secs(30));
    }
}
