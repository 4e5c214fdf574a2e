//! The control plane under faults, simulated: the real controllers against an API server, a cluster and pods that are
//! models, in simulated time, every chance from a printed seed. docs/faults.md says what is simulated and how to
//! replay a history.

mod chaos;
mod clock;
mod dice;
mod fields;
mod fleet;
mod history;
mod laws;
mod pod;
mod server;
mod store;
mod users;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use chaos::Death;
use history::{End, Faults, Outcome, run};

use crate::support::tell;

/// Histories of one run of `make test`; `POSTERN_HISTORIES` says how many more.
const HISTORIES: u64 = 500;
/// Histories that share what their users do, and so the end they must come to.
const PER_SCENARIO: u64 = 10;

/// How bad a history is follows from its seed, too.
fn faults(seed: u64) -> Faults {
    let (rate, blows) = match seed % 5 {
        0 => (0, 6),
        1 => (15, 2),
        2 => (60, 0),
        3 => (40, 5),
        _ => (150, 3),
    };
    Faults { seed, rate, blows, death: None }
}

fn scenario(seed: u64) -> u64 {
    seed / PER_SCENARIO
}

/// Where the users' acts lead when nothing goes wrong.
fn undisturbed(scenario: u64) -> (End, Outcome) {
    let outcome = run(scenario, None, None);
    assert!(outcome.wrong.is_empty(), "scenario {scenario} without faults: {}", outcome.wrong.join("\n"));
    (outcome.end.clone(), outcome)
}

/// Runs many at a time; what came of each, in order.
fn all<T: Send>(count: u64, one: impl Fn(u64) -> T + Sync) -> Vec<T> {
    let next = AtomicUsize::new(0);
    let done = Mutex::new(BTreeMap::new());
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(2, usize::from) {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed) as u64;
                    if number >= count {
                        return;
                    }
                    let outcome = one(number);
                    done.lock().expect("nobody panics with it").insert(number, outcome);
                }
            });
        }
    });
    done.into_inner().expect("nobody panics with it").into_values().collect()
}

fn report(name: &str, text: &str) {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("target/faults");
    let _ = std::fs::create_dir_all(&folder);
    let _ = std::fs::write(folder.join(name), text);
}

#[test]
fn every_simulated_history_comes_to_the_end_that_it_would_have_without_faults() {
    if let Some(seed) = std::env::var("POSTERN_SEED").ok().and_then(|seed| seed.parse().ok()) {
        let (end, _) = undisturbed(scenario(seed));
        let outcome = run(scenario(seed), Some(faults(seed)), Some(end));
        tell(&format!(
            "seed {seed}: {} faults, settled after {:.0} s, trace {}",
            outcome.injected, outcome.settled, outcome.trace
        ));
        assert!(outcome.wrong.is_empty(), "seed {seed}:\n{}", outcome.wrong.join("\n"));
        return;
    }
    let count =
        std::env::var("POSTERN_HISTORIES").ok().and_then(|count| count.parse().ok()).unwrap_or(HISTORIES);
    let began = std::time::Instant::now();
    let groups = all(count.div_ceil(PER_SCENARIO), |group| {
        let (end, _) = undisturbed(group);
        let seeds = group * PER_SCENARIO..((group + 1) * PER_SCENARIO).min(count);
        let outcomes = seeds.map(|seed| (seed, run(scenario(seed), Some(faults(seed)), Some(end.clone()))));
        outcomes.collect::<Vec<_>>()
    });
    let outcomes: Vec<(u64, Outcome)> = groups.into_iter().flatten().collect();
    let mut table = String::from("seed\tfaults\twrites\tsettled after (s)\toutcome\n");
    for (seed, outcome) in &outcomes {
        let Outcome { injected, writes, settled, wrong, .. } = outcome;
        let came = if wrong.is_empty() { "converged".to_owned() } else { wrong.join("; ") };
        let _ = writeln!(table, "{seed}\t{injected}\t{writes}\t{settled:.0}\t{came}");
    }
    report("histories.tsv", &table);
    let injected: usize = outcomes.iter().map(|(_, outcome)| outcome.injected).sum();
    let longest = outcomes.iter().map(|(_, outcome)| outcome.settled).fold(0.0, f64::max);
    let bad: Vec<_> = outcomes.iter().filter(|(_, outcome)| !outcome.wrong.is_empty()).collect();
    tell(&format!(
        "{} simulated histories (seeds 0 to {}), {injected} faults: {} converged, the slowest {longest:.0} s after its last fault; {:.0} s; target/faults/histories.tsv",
        outcomes.len(),
        outcomes.len() - 1,
        outcomes.len() - bad.len(),
        began.elapsed().as_secs_f64()
    ));
    let shown =
        bad.iter().map(|(seed, outcome)| format!("POSTERN_SEED={seed}: {}", outcome.wrong.join("\n  ")));
    assert!(bad.is_empty(), "{}", shown.take(10).collect::<Vec<_>>().join("\n"));
}

#[test]
fn a_controller_that_dies_at_any_write_leaves_nothing_that_the_next_cannot_finish() {
    const SCENARIO: u64 = 3;
    let (end, calm) = undisturbed(SCENARIO);
    let writes = calm.writes as u64;
    let outcomes = all(writes * 2, |number| {
        let how = if number % 2 == 0 { Death::Before } else { Death::After };
        let faults = Faults { seed: number, death: Some(((number / 2) as usize, how)), ..Faults::default() };
        (number / 2, how, run(SCENARIO, Some(faults), Some(end.clone())))
    });
    let mut bad = Vec::new();
    for (write, how, outcome) in &outcomes {
        if !outcome.wrong.is_empty() {
            bad.push(format!("dead {how:?} write {write}: {}", outcome.wrong.join("\n  ")));
        }
    }
    let longest = outcomes.iter().map(|(_, _, outcome)| outcome.settled).fold(0.0, f64::max);
    tell(&format!(
        "a controller killed before and after each of {writes} writes: all converged, the slowest after {longest:.0} s"
    ));
    assert!(bad.is_empty(), "{}", bad.join("\n"));
}

#[test]
fn a_seed_tells_the_same_history_again() {
    for seed in [3, 4] {
        let (end, _) = undisturbed(scenario(seed));
        let once = run(scenario(seed), Some(faults(seed)), Some(end.clone()));
        let again = run(scenario(seed), Some(faults(seed)), Some(end));
        assert!(once.injected > 0);
        assert_eq!(once.trace, again.trace, "seed {seed} told two histories");
    }
}

#[test]
fn nothing_in_the_controller_leaves_it_to_chance_which_of_two_things_is_first() {
    fn walk(folder: &std::path::Path, wrong: &mut Vec<String>) {
        for entry in std::fs::read_dir(folder).expect("readable") {
            let path = entry.expect("readable").path();
            if path.is_dir() {
                walk(&path, wrong);
                continue;
            }
            let text = std::fs::read_to_string(&path).expect("readable");
            let lines: Vec<&str> = text.lines().map(str::trim).collect();
            for (number, pair) in lines.windows(2).enumerate() {
                if pair[0].ends_with("tokio::select! {") && pair[1] != "biased;" {
                    wrong.push(format!("{}:{}: select! without biased", path.display(), number + 1));
                }
                // What is asked of DNS is none of the simulation's business.
                if pair[0].contains("rand::random")
                    && path.components().any(|part| part.as_os_str() == "controller")
                {
                    wrong.push(format!("{}:{}: dice; see controller::spread", path.display(), number + 1));
                }
            }
        }
    }
    let mut wrong = Vec::new();
    for module in ["controller", "directory", "published"] {
        walk(&std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(module), &mut wrong);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
