//! `postern standalone`: the same gateway from a folder of the same YAML. The folder is watched; each change
//! makes one pass, and what became of each object is shown at `/status` and in the state folder.

mod changes;
pub(super) mod record;
mod statuses;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::Context;
use axum::Json;
use axum::routing::get;
use jiff::Timestamp;
use notify::Watcher;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::bundle::material::MaterialVersion;
use crate::bundle::{Bundle, Materials, Sequence};
use crate::cli::folder::{Folder, Unusable};
use crate::delivery::{Pauses, Throttle};
use crate::directory;
use crate::gateway::access::trail::Trail;
use crate::gateway::decisions::Matches;
use crate::gateway::files;
use crate::gateway::live::{Found, Known, Live};
use crate::gateway::probe::Prober;
use crate::gateway::queue;
use crate::gateway::run::{Gateway, Options, Source};
use crate::manifest::Stamps;
use crate::published;
use changes::Changes;
use record::Record;
use statuses::Statuses;

/// Without any event we look this often: file systems without events exist.
const TICK: Duration = Duration::from_secs(2);
/// No policy is newer.
const NEVER: Sequence = Sequence(u64::MAX);

#[derive(clap::Args)]
pub struct Args {
    /// Folder of YAML
    dir: PathBuf,
    /// Listen for mail here (may be given several times)
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:2525")]
    smtp: Vec<SocketAddr>,
    /// Probes, metrics and status
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8025")]
    admin: SocketAddr,
    /// Folder for the spool and what is remembered over a restart
    #[arg(long, value_name = "DIR", default_value_os_t = default_state())]
    state: PathBuf,
    /// One of several gateways, as NAME or NAMESPACE/NAME
    #[arg(long, value_name = "NAME")]
    gateway: Option<String>,
}

pub(super) fn default_state() -> PathBuf {
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".local/state"));
    std::env::var_os("XDG_STATE_HOME")
        .map(PathBuf::from)
        .or_else(home)
        .unwrap_or_else(|| PathBuf::from("."))
        .join("postern")
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    if !args.admin.ip().is_loopback() {
        anyhow::bail!("--admin {}: it is served on loopback only, since it has no password", args.admin);
    }
    // A folder that cannot be read at all is said at once, not logged later.
    Folder::read(&args.dir)?.choose(args.gateway.as_deref())?;
    std::fs::create_dir_all(&args.state)
        .with_context(|| format!("cannot make the state folder {}", args.state.display()))?;
    let trail = Trail::open(&args.state.join("audit"), "standalone");
    super::runtime()?.block_on(serve(args, trail))
}

async fn serve(args: Args, trail: Trail) -> anyhow::Result<ExitCode> {
    let page = watch::Sender::new(serde_json::json!({"objects": []}));
    let matches = Matches::default();
    let spool = args.state.join("spool");
    let throttle = Throttle::kept_in(&spool);
    let pauses = Pauses::default();
    let bundle = watch::Sender::new(None::<Arc<Bundle>>);
    let prober = Arc::new(OnceLock::<Prober>::new());
    let status = {
        let (page, matches, bundle) = (page.subscribe(), matches.clone(), bundle.subscribe());
        let throttle = throttle.clone();
        let prober = Arc::clone(&prober);
        let pauses = pauses.clone();
        move || {
            let mut page = page.borrow().clone();
            // Counts change with each mail: they are put in when somebody looks.
            let rules = bundle.borrow().as_ref().map(|bundle| matches.of(bundle)).unwrap_or_default();
            page["rules"] = serde_json::to_value(rules).unwrap_or_default();
            page["delivery"] = serde_json::to_value(throttle.view(Timestamp::now())).unwrap_or_default();
            let routes = prober.get().map(Prober::all).unwrap_or_default();
            page["routes"] = serde_json::to_value(routes).unwrap_or_default();
            let paused = queue::pause_rows(&pauses.current());
            page["paused"] = serde_json::to_value(paused).unwrap_or_default();
            async move { Json(page) }
        }
    };
    let options = Options {
        source: Source::Offered { pages: axum::Router::new().route("/status", get(status)) },
        spool,
        smtp: args.smtp,
        admin: args.admin,
        control: None,
        token: Some(args.state.join("token")),
        trail: trail.clone(),
        drain_lag: Duration::ZERO,
        pod: "standalone".to_owned(),
        hostname: super::host_name(),
        matches,
        throttle,
        pauses,
    };
    let gateway = Gateway::start(options).await?;
    let prober = prober.get_or_init(|| gateway.prober().clone()).clone();
    let stop = CancellationToken::new();
    let follower = Follower {
        changes: Changes::read(trail, &args.state, &args.dir),
        record: Record::read(&args.state),
        materials: Materials::default(),
        statuses: Statuses::default(),
        people: Arc::default(),
        published: Arc::default(),
        dir: args.dir,
        stamps: Stamps::default(),
        unusable: String::new(),
        state: args.state,
        name: args.gateway,
        live: Arc::clone(gateway.live()),
        prober,
        page,
        bundle,
    };
    let following = tokio::spawn(follower.follow(stop.clone()));
    gateway.run(super::asked_to_end()).await?;
    stop.cancel();
    following.await?;
    Ok(ExitCode::SUCCESS)
}

/// Follows the folder: one pass for each change.
struct Follower {
    dir: PathBuf,
    /// Of the files of the last look.
    stamps: Stamps,
    /// Why the folder could not be used at the last look; empty when it could.
    unusable: String,
    state: PathBuf,
    name: Option<String>,
    live: Arc<Live>,
    prober: Prober,
    /// Who writes down what changed.
    changes: Changes,
    record: Record,
    /// Certificates and CA files of every look so far: the last good form may need what the folder no longer has.
    materials: Materials,
    statuses: Statuses,
    /// Reads the LDAP server of the Directory.
    people: Arc<directory::Keeper>,
    /// Asks DNS what is published of the organisation.
    published: Arc<published::Keeper>,
    page: watch::Sender<serde_json::Value>,
    /// What runs, for the page.
    bundle: watch::Sender<Option<Arc<Bundle>>>,
}

impl Follower {
    async fn follow(mut self, stop: CancellationToken) {
        let changed = Arc::new(Notify::new());
        // Watching begins before the first look, so that no change falls between the two.
        let _watcher = watcher(&self.dir, Arc::clone(&changed));
        let told = Arc::clone(&changed);
        let reading = Arc::clone(&self.people).run(move |_| told.notify_one(), stop.clone());
        let told = Arc::clone(&changed);
        let asking = Arc::clone(&self.published).run(move |_| told.notify_one(), stop.clone());
        let looking = async {
            loop {
                let tested = self.live.ack(0).tested;
                let folder = tokio::select! {
                    folder = Folder::at_rest(&self.dir, &self.stamps) => folder,
                    () = stop.cancelled() => return,
                };
                match folder {
                    Ok((folder, stamps)) => {
                        self.stamps = stamps;
                        self.look(folder).await;
                    }
                    Err(error) => self.unusable(&error),
                }
                tokio::select! {
                    () = self.live.news_for(Known { tested: Some(tested), after: NEVER, refused: NEVER, ..Known::default() }) => {}
                    () = changed.notified() => {}
                    () = tokio::time::sleep(TICK) => {}
                    () = stop.cancelled() => return,
                }
            }
        };
        tokio::join!(looking, reading, asking);
    }

    /// Translate, offer, show.
    async fn look(&mut self, mut folder: Folder) {
        let seen = Timestamp::now();
        self.record.number(&mut folder.loaded);
        self.changes.seen(&folder.loaded, seen).await;
        self.materials.update(std::mem::take(&mut folder.loaded.materials));
        folder.loaded.materials = self.materials.clone();
        for problem in &folder.loaded.problems {
            self.statuses.tell(problem);
        }
        if folder.loaded.incomplete {
            // Which objects are missing cannot be told: everything stays as it was, and after a start nothing runs.
            self.statuses.incomplete();
            return self.unusable(&Unusable::Incomplete);
        }
        let key = match folder.choose(self.name.as_deref()) {
            Ok(key) => key,
            Err(error) => return self.unusable(&error),
        };
        self.unusable.clear();
        let resources = &mut folder.loaded.resources;
        let content = |version: &MaterialVersion| self.materials.get(&version.material).cloned();
        if let Some(wanted) = directory::wanted(&key, resources, content) {
            self.people.want(&key, wanted);
        }
        resources.ldap = Some(self.people.facts());
        resources.published = Some(self.published.facts(&key));
        let (configured, outcomes) = folder.translate(&key, self.record.last_good());
        self.statuses.translated(&key, outcomes, seen);
        if let Some(configured) = configured {
            self.published.want(&key, published::wanted(&configured.bundle));
            let manifest = self.record.publish(&configured, seen);
            self.statuses.published(&manifest);
            let bundle = Arc::clone(&configured.bundle);
            let revision = manifest.revision.to_string();
            let found = Found {
                sequence: manifest.sequence,
                revision: manifest.revision,
                bundle: configured.bundle,
                materials: configured.materials,
                leaving: false,
            };
            if self.live.offer(found).await.is_ok() {
                let news = published::range_news(self.record.bundle(), &bundle);
                news.iter().for_each(|news| news.log(&key.to_string()));
                self.changes.ranges(&key, &news).await;
                self.changes.taken(&revision).await;
                self.record.keep(configured.last_good, &self.state);
                self.bundle.send_replace(Some(bundle));
            }
        }
        self.show();
    }

    fn unusable(&mut self, error: &Unusable) {
        let text = error.to_string();
        if self.unusable != text {
            let goes_on =
                if self.bundle.borrow().is_some() { "what ran goes on" } else { "no mail is taken" };
            tracing::error!(error = text, "the folder cannot be used; {goes_on}");
            self.unusable = text;
        }
        self.show();
    }

    fn show(&mut self) {
        let (ack, tests) = (self.live.ack(0), self.prober.all());
        let page = self.statuses.page(&ack, self.record.bundle(), &tests, Timestamp::now());
        let news = self.page.send_if_modified(|shown| {
            let news = *shown != page;
            *shown = page.clone();
            news
        });
        if news {
            let text = serde_json::to_vec_pretty(&page).unwrap_or_default();
            if let Err(error) = files::replace(&self.state.join("status.json"), &text) {
                tracing::warn!(%error, "cannot write status.json");
            }
        }
    }
}

fn watcher(dir: &Path, changed: Arc<Notify>) -> Option<notify::RecommendedWatcher> {
    let told = move |event: notify::Result<notify::Event>| {
        // Our own reading is an event too on some systems.
        if !event.is_ok_and(|event| event.kind.is_access()) {
            changed.notify_one();
        }
    };
    let watcher = notify::recommended_watcher(told).and_then(|mut watcher| {
        watcher.watch(dir, notify::RecursiveMode::Recursive)?;
        Ok(watcher)
    });
    watcher.inspect_err(|error| tracing::warn!(%error, "no file events: looking every 2 s")).ok()
}
