//! One history: two controllers that want the Lease, people, pods, and what goes wrong; then quiet, and a look at
//! what has become of it all. Everything follows from two numbers, the scenario of the people and the seed of the
//! faults.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use postern::controller::api::front::Duty;
use postern::controller::metrics::Metrics;
use postern::controller::{Notices, Options, operate};
use prometheus_client::registry::Registry;
use serde_json::Value;
use tokio::runtime::Builder;
use tokio::sync::watch;
use tokio::task::LocalSet;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::chaos::{Death, Health};
use super::clock;
use super::dice::Dice;
use super::fleet;
use super::laws::{differences, end};
use super::server::{Instance, Lines, Sim};
use super::users::{self, Mark, Plan};

/// After the last fault everything is as it should be within this.
const BOUND: Duration = Duration::from_secs(180);
/// Longer than any round of a controller: nothing may be written in that time.
const SILENCE: Duration = Duration::from_secs(75);

pub type End = BTreeMap<String, Value>;

/// What goes wrong.
#[derive(Debug, Clone, Default)]
pub struct Faults {
    pub seed: u64,
    /// Of a thousand requests and events.
    pub rate: u32,
    /// How many bigger things happen.
    pub blows: usize,
    /// A controller dies at this write.
    pub death: Option<(usize, Death)>,
}

#[derive(Debug)]
pub struct Outcome {
    pub end: End,
    /// Names the run: the same seeds give the same.
    pub trace: String,
    pub injected: usize,
    pub writes: usize,
    /// Seconds from the last fault until all was as wanted.
    pub settled: f64,
    pub wrong: Vec<String>,
}

/// Something that happens to the world and is over after a while.
#[derive(Debug, Clone, Copy)]
enum Blow {
    Kill,
    Resign,
    Freeze,
    PodCut,
    PodPause,
    PodRestart,
    PodDelete,
    PodRefuse,
    ByHandDelete,
    ByHandEdit,
    ApiDown,
    StorageDown,
    Oblivion,
}

const BLOWS: [Blow; 15] = [
    Blow::Kill,
    Blow::Resign,
    Blow::Freeze,
    Blow::Freeze,
    Blow::PodCut,
    Blow::PodPause,
    Blow::PodRestart,
    Blow::PodDelete,
    Blow::PodRefuse,
    Blow::ByHandDelete,
    Blow::ByHandEdit,
    Blow::ByHandEdit,
    Blow::ApiDown,
    Blow::StorageDown,
    Blow::Oblivion,
];

/// Runs it on a thread of its own, which nothing from outside can make differ. `wanted`: the end to come to.
pub fn run(scenario: u64, faults: Option<Faults>, wanted: Option<End>) -> Outcome {
    let seed = faults.as_ref().map_or(0, |faults| faults.seed);
    let thread = std::thread::Builder::new().name(format!("history {scenario}.{seed}")).stack_size(8 << 20);
    let thread = thread.spawn(move || {
        clock::simulate((scenario << 32) ^ seed);
        let runtime =
            Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime");
        let local = LocalSet::new();
        let outcome = local.block_on(&runtime, async move {
            clock::begin();
            History::new(scenario, faults).live(wanted).await
        });
        drop(local);
        outcome
    });
    thread.expect("a thread can be started").join().expect("the history does not panic")
}

struct History {
    sim: Arc<Sim>,
    plan: Plan,
    faults: Option<Faults>,
    dice: Dice,
    candidates: Vec<Candidate>,
    marks: Vec<Mark>,
}

/// One of the controllers' places: whoever dies there is started again.
struct Candidate {
    now: watch::Receiver<Arc<Instance>>,
    resign: watch::Sender<CancellationToken>,
}

impl History {
    fn new(scenario: u64, faults: Option<Faults>) -> Self {
        let seed = faults.as_ref().map_or(0, |faults| faults.seed);
        let sim = Sim::new((scenario << 32) ^ seed);
        let plan = users::plan(scenario);
        Self { sim, plan, faults, dice: Dice::new(seed, "blows"), candidates: Vec::new(), marks: Vec::new() }
    }

    async fn live(mut self, wanted: Option<End>) -> Outcome {
        self.sim.change(users::neighbours);
        tokio::spawn(fleet::controllers(self.sim.clone()));
        for name in ["a", "b"] {
            self.candidates.push(candidate(&self.sim, name));
        }
        self.happen().await;
        self.sim.chaos.end();
        self.heal();
        self.sim.say("all faults are over");
        let began = Instant::now();
        let mut wrong = Vec::new();
        match &wanted {
            None => sleep(Duration::from_secs(15)).await,
            Some(wanted) => {
                while end(&self.sim) != *wanted && began.elapsed() < BOUND {
                    sleep(Duration::from_secs(2)).await;
                }
                let found = end(&self.sim);
                if found != *wanted {
                    let differences = differences(wanted, &found);
                    wrong.extend(differences.into_iter().map(|what| format!("after {BOUND:?}: {what}")));
                }
            }
        }
        let settled = began.elapsed().as_secs_f64();
        // Requests that were sent long ago may still arrive, and Secrets, which are not watched, are read again now
        // and then.
        sleep(Duration::from_secs(130)).await;
        let writes = self.sim.chaos.writes();
        self.sim.say("silence");
        sleep(SILENCE).await;
        if self.sim.chaos.writes() != writes {
            wrong.push(format!("{} writes although nothing changes", self.sim.chaos.writes() - writes));
        }
        let found = end(&self.sim);
        if wanted.as_ref().is_some_and(|wanted| *wanted != found) && wrong.is_empty() {
            wrong.push("it did not stay as it should be".to_owned());
        }
        wrong.extend(self.marks.iter().filter_map(|mark| mark.holds(&self.sim.store.lock().unwrap()).err()));
        wrong.extend(self.sim.laws.broken());
        Outcome {
            end: found,
            trace: self.sim.trace(),
            injected: self.sim.injected(),
            writes: self.sim.chaos.writes(),
            settled,
            wrong,
        }
    }

    /// Users' acts and blows in the order of time.
    async fn happen(&mut self) {
        let began = Instant::now();
        let last = self.plan.last().map_or(0.0, |(at, _)| *at);
        let mut blows: Vec<(f64, Blow)> = Vec::new();
        if let Some(faults) = self.faults.clone() {
            for _ in 0..faults.blows {
                let at = self.dice.millis(1000, (last * 1000.0) as u64 + 12_000).as_secs_f64();
                blows.push((at, *self.dice.pick(&BLOWS)));
            }
            blows.sort_by(|a, b| a.0.total_cmp(&b.0));
            if let Some((write, how)) = faults.death {
                self.sim.chaos.die_at(write, how);
            }
            if faults.rate > 0 {
                self.sim.chaos.begin(faults.rate);
            }
        }
        let plan = std::mem::take(&mut self.plan);
        let (mut acts, mut blows) = (plan.into_iter().peekable(), blows.into_iter().peekable());
        loop {
            let act = acts.peek().map(|(at, _)| *at);
            let blow = blows.peek().map(|(at, _)| *at);
            let Some(at) = act.into_iter().chain(blow).min_by(f64::total_cmp) else { break };
            sleep_until(began + Duration::from_secs_f64(at)).await;
            if act == Some(at) {
                let (_, act) = acts.next().expect("peeked");
                self.sim.say(&format!("users: {act:?}"));
                self.sim.change(|store| users::carry_out(store, &act));
            } else {
                let (_, blow) = blows.next().expect("peeked");
                self.strike(blow);
            }
        }
        if self.faults.as_ref().is_some_and(|faults| faults.blows > 0 || faults.rate > 0) {
            sleep(self.dice.millis(500, 20_000)).await;
        }
    }

    fn strike(&mut self, blow: Blow) {
        let sim = self.sim.clone();
        let pods = sim.fleet.pods();
        let pod = (!pods.is_empty()).then(|| self.dice.pick(&pods).clone());
        let candidate = self.dice.pick(&self.candidates);
        let instance = candidate.now.borrow().clone();
        sim.chaos.injected.fetch_add(1, Ordering::Relaxed);
        sim.say(&format!("{blow:?} {} {}", instance.name, pod.as_ref().map_or("-", |pod| &pod.name)));
        let pause = self.dice.millis(500, 25_000);
        match (blow, pod) {
            (Blow::Kill, _) => instance.dead.cancel(),
            (Blow::Resign, _) => candidate.resign.borrow().cancel(),
            (Blow::Freeze, _) => {
                instance.open.send_replace(false);
                *instance.trouble.lock().unwrap() = Some(Instant::now() + pause);
                tokio::spawn(async move {
                    sleep(pause).await;
                    instance.open.send_replace(true);
                });
            }
            (Blow::PodCut, Some(pod)) => {
                pod.open.send_replace(false);
                tokio::spawn(async move {
                    sleep(pause).await;
                    pod.open.send_replace(true);
                });
            }
            (Blow::PodPause, Some(pod)) => {
                pod.paused.store(true, Ordering::Relaxed);
                pod.open.send_replace(false);
                tokio::spawn(async move {
                    sleep(pause).await;
                    pod.paused.store(false, Ordering::Relaxed);
                    pod.open.send_replace(true);
                });
            }
            (Blow::PodRestart, Some(pod)) => {
                pod.end();
                tokio::spawn(async move {
                    sleep(pause / 5).await;
                    if sim.fleet.by_uid(&pod.uid).is_some() {
                        pod.start();
                        sim.changed.send_modify(|_| {});
                    }
                });
            }
            (Blow::PodDelete, Some(pod)) => {
                let key = ("pods", pod.namespace.clone(), pod.name.clone());
                drop(sim.change(|store| store.delete(&key, &Value::Null)));
            }
            (Blow::PodRefuse, Some(pod)) => *pod.refuses.lock().unwrap() = Some(Instant::now() + pause),
            (Blow::ByHandDelete, _) => users::delete_by_hand(&sim, &self.dice),
            (Blow::ByHandEdit, _) => self.marks.extend(users::edit_by_hand(&sim, &self.dice)),
            (Blow::ApiDown, _) => ill(sim, Health::Down, pause),
            (Blow::StorageDown, _) => ill(sim, Health::ReadOnly, pause),
            (Blow::Oblivion, _) => {
                self.candidates.iter().for_each(|candidate| candidate.now.borrow().dead.cancel());
                users::delete_manifests(&sim);
            }
            (_, None) => {}
        }
    }

    /// Nothing of what went wrong goes on.
    fn heal(&self) {
        for pod in self.sim.fleet.pods() {
            pod.paused.store(false, Ordering::Relaxed);
            pod.open.send_replace(true);
            *pod.refuses.lock().unwrap() = None;
        }
        for candidate in &self.candidates {
            candidate.now.borrow().open.send_replace(true);
        }
        self.sim.changed.send_modify(|_| {});
    }
}

fn ill(sim: Arc<Sim>, how: Health, pause: Duration) {
    *sim.chaos.health.lock().unwrap() = how;
    sim.changed.send_modify(|_| {});
    tokio::spawn(async move {
        sleep(pause).await;
        *sim.chaos.health.lock().unwrap() = Health::Well;
    });
}

/// Controllers one after the other, each a process of its own.
fn candidate(sim: &Arc<Sim>, name: &'static str) -> Candidate {
    let first = Instance::new(format!("{name}0"));
    let (tell, now) = watch::channel(first.clone());
    let resign = watch::Sender::new(CancellationToken::new());
    let token = resign.clone();
    let sim = sim.clone();
    tokio::task::spawn_local(async move {
        for turn in 1.. {
            let instance = tell.borrow().clone();
            let shutdown = CancellationToken::new();
            token.send_replace(shutdown.clone());
            let options = Options {
                namespaces: Vec::new(),
                image: "postern:sim".to_owned(),
                admin: SocketAddr::from(([127, 0, 0, 1], 0)),
                own_namespace: "postern-system".to_owned(),
                lease: "postern-controller".to_owned(),
                identity: instance.name.clone(),
                control_ca: "postern-control-ca".to_owned(),
                api: "127.0.0.1:0".parse().unwrap(),
                service: "postern".to_owned(),
                audit: None,
            };
            let metrics = Arc::new(Metrics::register(&mut Registry::default()));
            let notices =
                Notices { working: watch::Sender::new(None), on_duty: watch::Sender::new(Duty::PassOn) };
            let lines = Arc::new(Lines { sim: sim.clone(), who: instance.clone() });
            let work = operate(sim.client(&instance), Some(lines), &options, metrics, &notices, shutdown);
            sim.say(&format!("{} starts", instance.name));
            tokio::select! {
                biased;
                () = instance.dead.cancelled() => {}
                () = work => {}
            }
            instance.dead.cancel();
            sim.say(&format!("{} is gone", instance.name));
            sleep(sim.latency.millis(300, 5000)).await;
            tell.send_replace(Instance::new(format!("{name}{turn}")));
        }
    });
    Candidate { now, resign }
}
