//! A whole gateway: spool, delivery, listeners, admin and control servers, started in order and drained in
//! the opposite one. In a pod it reads the mounted bundle; in standalone mode bundles are offered to it.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::admin;
use crate::bundle::Sequence;
use crate::delivery::outcome::Trouble;
use crate::delivery::routes::Label;
use crate::delivery::{self, Allowance, Metrics, Pauses, RouteTable, Routes, Throttle, Worker};
use crate::gateway::acceptance::Acceptance;
use crate::gateway::access::trail::{self, Trail};
use crate::gateway::access::{self, Actor, Token, socket};
use crate::gateway::budget::Budgets;
use crate::gateway::control;
use crate::gateway::decisions::{self, Decisions, Limits, Matches};
use crate::gateway::gauges::Gauges;
use crate::gateway::handover::receive::{self, Receiver};
use crate::gateway::handover::{self, Exit, Handover, Lamp, Peers, Place, Sender};
use crate::gateway::intake::{self, Intake};
use crate::gateway::judge::Judge;
use crate::gateway::listeners::Listeners;
use crate::gateway::live::Live;
use crate::gateway::mount::Mount;
use crate::gateway::probe::{self, Prober};
use crate::gateway::quarantine::{self, Desk, Policies, clock};
use crate::gateway::queue::{self, Queue};
use crate::loops::Loops;
use crate::spool::{self, Spool};

/// How long a drain waits for transactions and deliveries in flight; what is left stays in the spool.
const DRAIN: Duration = Duration::from_secs(20);

pub struct Options {
    pub source: Source,
    pub spool: PathBuf,
    /// Listen here, whatever the bundle says. Empty: the bundle's listeners.
    pub smtp: Vec<SocketAddr>,
    pub admin: SocketAddr,
    pub control: Option<ControlTls>,
    /// Without a control port: who has this file's secret may look at held mail and decide about it, on the
    /// admin address. Made if it is not there.
    pub token: Option<PathBuf>,
    /// Where acts of people on this machine are recorded.
    pub trail: Trail,
    pub drain_lag: Duration,
    pub pod: String,
    /// Used for banner and EHLO when the gateway has no `hostname`.
    pub hostname: String,
    /// Counts how often each rule matched; whoever serves a status page holds a clone.
    pub matches: Matches,
    /// How much mail goes where at a time; whoever serves a status page holds a clone.
    pub throttle: Throttle,
    /// What is paused; whoever serves a status page holds a clone.
    pub pauses: Pauses,
}

pub enum Source {
    /// The folders that kubelet keeps up to date.
    Mount { bundle: PathBuf, secrets: PathBuf },
    /// Whoever holds [`Gateway::live`] offers bundles; extra pages are served on the admin address.
    Offered { pages: axum::Router },
}

/// The control port and the folder with `tls.crt`, `tls.key` and `ca.crt` for it.
pub struct ControlTls {
    pub address: SocketAddr,
    pub folder: PathBuf,
    /// Where the other pods of the gateway are.
    pub peers: Vec<Place>,
    /// The volume dies with the pod: at its end mail is handed over, for so long at most.
    pub hand_over_on_exit: Option<Duration>,
}

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("cannot open the spool: {0}")]
    Spool(#[from] spool::OpenError),
    #[error("cannot listen on {address} for {what}: {source}")]
    Listen { what: &'static str, address: SocketAddr, source: io::Error },
    #[error(transparent)]
    Pauses(#[from] queue::ClosuresError),
    #[error("cannot start a thread: {0}")]
    Thread(io::Error),
    #[error("cannot use the certificates of the control port: {0}")]
    Control(String),
    #[error("cannot tell which mail is here: {0}")]
    Handover(String),
    #[error("cannot read or make the token file {}: {source}", path.display())]
    Token { path: PathBuf, source: io::Error },
}

pub struct Gateway {
    loops: [Loops; 2],
    live: Arc<Live>,
    prober: Prober,
    intake: Intake,
    spool: Spool,
    desk: Desk,
    decisions: Decisions,
    delivery: (JoinHandle<()>, CancellationToken),
    /// Owned tasks: the bundle's watcher, the admin and control servers.
    tasks: Vec<JoinHandle<()>>,
    stop: CancellationToken,
    leaving: Arc<AtomicBool>,
    drain_lag: Duration,
    /// With the time it may take.
    exit: Option<(Exit, Duration)>,
    admin: SocketAddr,
}

/// A kubelet takes a pod for unready after five questions, two seconds apart; endpoint lists follow.
const PROBES: Duration = Duration::from_secs(10);

/// Routes as they are now, for each attempt afresh. Made when the first policy runs.
struct Current {
    live: Arc<Live>,
    prober: Prober,
}

impl Routes for Current {
    fn current(&self) -> Arc<RouteTable> {
        let running =
            self.live.current().expect("delivery starts with the first policy, and there is one ever after");
        Arc::clone(&running.routes)
    }

    fn troubled(&self, way: &Label, trouble: &Trouble) {
        self.prober.doubt(way, trouble);
    }
}

/// Delivers from the first policy on: before it there are no routes, and mail of an earlier run would be set back.
/// While the lamp is off nobody delivers, and no mail is in delivery's hands.
async fn deliver(
    routes: Current,
    spool: Spool,
    metrics: Metrics,
    allowance: Allowance,
    pauses: Pauses,
    config: delivery::Config,
    mut lamp: Lamp,
    stop: CancellationToken,
) {
    tokio::select! {
        () = routes.live.news(Sequence::default(), Sequence(u64::MAX)) => {}
        () = stop.cancelled() => return,
    }
    let routes = Arc::new(routes);
    while !stop.is_cancelled() {
        let (spool_too, routes) = (spool.clone(), Arc::clone(&routes));
        let (metrics, allowance) = (metrics.clone(), allowance.clone());
        let worker = Worker::start(spool_too, routes, metrics, allowance, pauses.clone(), config.clone());
        lamp.runs(true);
        tokio::select! {
            () = stop.cancelled() => {}
            () = lamp.until(false) => {}
        }
        worker.shutdown().await;
        let ended = spool.end_attempts();
        if !stop.is_cancelled() {
            tracing::info!(ended, "delivery is off: what is left goes to another pod");
        }
        lamp.runs(false);
        tokio::select! {
            () = stop.cancelled() => {}
            () = lamp.until(true) => {}
        }
    }
}

impl Gateway {
    pub async fn start(options: Options) -> Result<Self, StartError> {
        let Options {
            source,
            spool,
            smtp,
            admin,
            control,
            token,
            trail,
            drain_lag,
            pod,
            hostname,
            matches,
            pauses,
            throttle,
        } = options;
        let mut registry = Registry::default();
        let memory = spool.join("sequence");
        let folder = spool.clone();
        let budgets = Budgets::of_this_machine();
        let listener = bind("probes and metrics", admin).await?;
        let admin = listener.local_addr().unwrap_or(admin);
        let early = Early::answer(&listener).map_err(|source| listening(admin, source))?;
        let spool =
            open(spool, spool::Options { warm_bytes: Some(budgets.warm), ..spool::Options::default() });
        let spool = spool.await?;
        let instance = spool.new_id().to_string();
        let incoming = Loops::start("smtp").map_err(StartError::Thread)?;
        let outgoing = Loops::start("delivery").map_err(StartError::Thread)?;
        let listeners = Listeners::new(smtp, hostname.clone(), incoming.dealer());
        let (mount, memory, pages) = match source {
            Source::Mount { bundle, secrets } => {
                let mount = Arc::new(Mount::new(bundle, secrets, pod.clone()));
                (Some(mount), Some(memory), axum::Router::new())
            }
            Source::Offered { pages } => (None, None, pages),
        };
        // Who is deleted is taken from endpoint lists at once; who turns unready, when a kubelet has asked.
        let leave_lag = if drain_lag.is_zero() { drain_lag } else { drain_lag + PROBES };
        let live = Live::new(pod.clone(), instance.clone(), listeners, memory).with_leave_lag(leave_lag);
        let live = Arc::new(live);
        let prober = Prober::new(Arc::clone(&live), instance, &mut registry);
        let allowance = Allowance::default();
        let metrics = Metrics::default();
        metrics.register(&mut registry);
        throttle.register(&mut registry);
        let decisions = Decisions::open(&folder, Limits::default(), matches, &mut registry);
        let judge = Judge::new(budgets.clone(), decisions.clone());
        let acceptance =
            Acceptance { spool: spool.clone(), allowance: allowance.clone(), metrics: metrics.clone() };
        let held = quarantine::Metrics::default();
        held.register(&mut registry);
        let desk = Desk::new(quarantine::Parts {
            acceptance: acceptance.clone(),
            judge: judge.clone(),
            policies: Policies::Live(Arc::clone(&live)),
            metrics: held.clone(),
        });
        let for_queue = acceptance.clone();
        let parts = intake::Parts {
            live: Arc::clone(&live),
            mount: mount.clone(),
            budget: budgets.reception.clone(),
            judge,
            acceptance,
            quarantine: held,
            hostname,
        };
        let intake = Intake::new(parts, &mut registry);
        registry.register_collector(Box::new(Gauges {
            live: Arc::clone(&live),
            spool: spool.clone(),
            pauses: pauses.clone(),
        }));
        live.listeners().attach(&intake);
        live.listeners().open_early().await;
        let no_more = CancellationToken::new();
        let acts = queue::Metrics::default();
        acts.register(&mut registry);
        let routes = {
            let live = Arc::clone(&live);
            Box::new(move || live.current().map(|running| Arc::clone(&running.routes)))
        };
        let queue = Queue::open(&for_queue, routes, pauses.clone(), acts)?;
        let (switch, lamp) = handover::switch();
        let handovers = handover::Metrics::default();
        handovers.register(&mut registry);
        let identity =
            handover::identity(&folder).map_err(|error| StartError::Handover(error.to_string()))?;
        // Before anybody delivers: what an earlier process sent off may be elsewhere.
        let (peers, papers) = control
            .as_ref()
            .map_or((Vec::new(), PathBuf::new()), |control| (control.peers.clone(), control.folder.clone()));
        let sender = Sender::open(
            spool.clone(),
            identity.clone(),
            pod.clone(),
            Peers::new(peers, papers),
            pauses.clone(),
            handovers.clone(),
        );
        let sender = sender.await.map_err(StartError::Handover)?;
        let delivery = tokio::spawn(deliver(
            Current { live: Arc::clone(&live), prober: prober.clone() },
            spool.clone(),
            metrics,
            allowance,
            pauses.clone(),
            delivery::Config {
                drain: DRAIN,
                memory: budgets.delivery,
                loops: outgoing.dealer(),
                throttle: throttle.clone(),
                ..delivery::Config::default()
            },
            lamp,
            no_more.clone(),
        ));

        let stop = CancellationToken::new();
        let leaving = Arc::new(AtomicBool::new(false));
        let mut tasks = Vec::new();
        let ready = {
            let (live, leaving, spool) = (Arc::clone(&live), Arc::clone(&leaving), spool.clone());
            move || !leaving.load(Ordering::Relaxed) && live.is_ready() && spool.disk_works()
        };
        let mail_pages = quarantine::http::api(desk.clone()).merge(queue::http::api(queue.clone()));
        let control_pages = control::routes(Arc::clone(&live), spool.clone(), throttle.clone());
        let mail_pages = mail_pages.merge(probe::http::api(prober.clone()));
        let mail_pages = mail_pages.merge(decisions::http::api(folder.clone()));
        let mail_pages = trail::audited(mail_pages, trail);
        let control_pages = control_pages.merge(probe::http::results(prober.clone()));
        let matches = decisions.matches().clone();
        let status_page =
            control::status(Arc::clone(&live), matches, queue.clone(), prober.clone(), throttle);
        let mut admin_pages = admin::probes(ready, Arc::new(registry)).merge(pages);
        let mut exit = None;
        if let Some(ControlTls { address, folder, peers: _, hand_over_on_exit }) = control {
            let listener = bind("control", address).await?;
            let control_pages = control_pages.merge(access::for_controller(mail_pages.clone()));
            let control_pages = match &mount {
                Some(mount) => control_pages.merge(control::pushes(Arc::clone(mount), Arc::clone(&live))),
                None => control_pages,
            };
            let receiver = Receiver::open(receive::Parts {
                spool: spool.clone(),
                identity,
                pod,
                live: Arc::clone(&live),
                queue: queue.clone(),
                budget: budgets.reception.clone(),
                ending: Arc::clone(&leaving),
                metrics: handovers,
            });
            let receiver = receiver.await;
            let control_pages = control_pages.merge(status_page).merge(receiver.pages());
            let door = control::door(folder, control_pages, receiver.pages()).map_err(StartError::Control)?;
            tasks.push(tokio::spawn(admin::serve_behind(listener, door, stop.clone())));
            let at_the_end = Exit::default();
            exit = hand_over_on_exit.map(|limit| (at_the_end.clone(), limit));
            let handover = Handover {
                sender,
                spool: spool.clone(),
                live: Arc::clone(&live),
                intake: intake.clone(),
                switch,
                exit: at_the_end,
                told: None,
            };
            tasks.push(tokio::spawn(handover.run(stop.clone())));
        } else {
            admin_pages = admin_pages.merge(control_pages);
            if let Some(path) = token {
                let token = Token::of_file(&path);
                let token = token.map_err(|source| StartError::Token { path, source })?;
                admin_pages = admin_pages.merge(access::with_token(mail_pages.clone(), token));
            }
        }
        match socket::bind(&folder) {
            Ok(listener) => {
                let pages = move |uid| access::of_actor(mail_pages.clone(), Actor::Uid(uid));
                tasks.push(tokio::spawn(socket::serve(listener, pages, stop.clone())));
            }
            // Some volumes know no sockets; there is the control port.
            Err(error) => {
                tracing::warn!(%error, "no control socket: `postern queue` and `postern quarantine` need --gateway");
            }
        }
        tasks.push(tokio::spawn(clock::keep(desk.clone(), stop.clone())));
        tasks.push(tokio::spawn(prober.clone().run(stop.clone())));
        early.end().await;
        tasks.push(tokio::spawn(admin::serve(listener, admin_pages, stop.clone())));
        if let Some(mount) = mount {
            tasks.push(tokio::spawn(mount.watch(Arc::clone(&live), stop.clone())));
        }
        let delivery = (delivery, no_more);
        let loops = [incoming, outgoing];
        Ok(Self {
            loops,
            live,
            prober,
            intake,
            spool,
            desk,
            decisions,
            delivery,
            tasks,
            stop,
            leaving,
            drain_lag,
            exit,
            admin,
        })
    }

    /// Where bundles are offered in standalone mode.
    pub fn live(&self) -> &Arc<Live> {
        &self.live
    }

    /// What tests of the routes found.
    pub fn prober(&self) -> &Prober {
        &self.prober
    }

    /// The admin address as it was bound.
    pub fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// Serves until `end`, then drains: unready, a little longer open for those who have not heard, 421 for new
    /// transactions, the rest finished or left in the spool (spec R162).
    pub async fn run(self, end: impl Future<Output = ()>) -> Result<(), StartError> {
        end.await;
        let Self {
            loops,
            live,
            intake,
            spool,
            desk,
            decisions,
            delivery: (delivery, no_more),
            tasks,
            stop,
            leaving,
            drain_lag,
            exit,
            ..
        } = self;
        tracing::info!("draining");
        leaving.store(true, Ordering::Relaxed);
        if let Some((exit, _)) = &exit {
            exit.begin();
        }
        tokio::time::sleep(drain_lag).await;
        intake.drain();
        live.listeners().shut_down(DRAIN).await;
        if let Some((exit, limit)) = exit {
            exit.closed();
            if !exit.emptied(limit).await {
                tracing::error!(
                    messages = spool.len(),
                    "not handed over in time: lost with the volume of this pod"
                );
            }
        }
        no_more.cancel();
        let mut tasks = tasks;
        tasks.insert(0, delivery);
        stop.cancel();
        for task in tasks {
            if let Err(error) = task.await {
                tracing::error!(%error, "a task of the gateway did not end well");
            }
        }
        if tokio::time::timeout(DRAIN, desk.close()).await.is_err() {
            tracing::warn!("an act on held mail is cut off; the spool knows whether it happened");
        }
        let ended = tokio::task::spawn_blocking(move || loops.into_iter().for_each(Loops::end)).await;
        if let Err(error) = ended {
            tracing::error!(%error, "an event loop did not end well");
        }
        let queued = spool.len();
        spool.close().await;
        if let Err(error) = tokio::task::spawn_blocking(move || decisions.close()).await {
            tracing::error!(%error, "the decision log did not end well");
        }
        tracing::info!(queued, "stopped");
        Ok(())
    }
}

/// Recovers the spool, on a thread that may wait for the disk: a large backlog takes its time.
async fn open(folder: PathBuf, options: spool::Options) -> Result<Spool, StartError> {
    let began = Instant::now();
    let opened = tokio::task::spawn_blocking(move || Spool::open(&folder, options)).await;
    let (spool, recovery) = opened.map_err(|error| StartError::Thread(io::Error::other(error)))??;
    tracing::info!(queued = spool.len(), ?recovery, took = ?began.elapsed(), "spool opened");
    Ok(spool)
}

/// Answers probes while the spool is recovered: alive, not ready.
struct Early {
    stop: CancellationToken,
    server: JoinHandle<()>,
}

impl Early {
    /// On a second handle of the same socket, so that no connection is refused when the real pages take over.
    fn answer(listener: &TcpListener) -> io::Result<Self> {
        let twin = rustix::io::fcntl_dupfd_cloexec(listener, 0)?;
        let twin = TcpListener::from_std(twin.into())?;
        let stop = CancellationToken::new();
        let pages = admin::probes(|| false, Arc::new(Registry::default()));
        let server = tokio::spawn(admin::serve(twin, pages, stop.clone()));
        Ok(Self { stop, server })
    }

    async fn end(self) {
        self.stop.cancel();
        if let Err(error) = self.server.await {
            tracing::error!(%error, "the probes of the start did not end well");
        }
    }
}

fn listening(address: SocketAddr, source: io::Error) -> StartError {
    StartError::Listen { what: "probes and metrics", address, source }
}

async fn bind(what: &'static str, address: SocketAddr) -> Result<TcpListener, StartError> {
    TcpListener::bind(address).await.map_err(|source| StartError::Listen { what, address, source })
}
