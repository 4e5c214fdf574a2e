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

/// What a child process is to do: the number of a scenario, and where to write what came of its histories.
const BATCH: &str = "POSTERN_BATCH";

/// Not a test of its own: histories run in child processes, one scenario in each, because tokio counts its runtimes
/// for the whole process and takes the order of some wake-ups from that.
#[test]
fn a_batch_of_histories_when_asked_for() {
    let Ok(order) = std::env::var(BATCH) else { return };
    let (scenario, file) = order.split_once(' ').expect("a number and a path");
    let scenario: u64 = scenario.parse().expect("a number");
    let (end, calm) = undisturbed(scenario);
    let mut lines = String::new();
    let only: Option<u64> = std::env::var("POSTERN_SEED").ok().and_then(|seed| seed.parse().ok());
    for seed in scenario * PER_SCENARIO..(scenario + 1) * PER_SCENARIO {
        if only.is_some_and(|only| only != seed) {
            // As many runtimes as if it had been told.
            drop(tokio::runtime::Builder::new_current_thread());
            continue;
        }
        let Outcome { injected, writes, settled, wrong, trace, .. } =
            run(scenario, Some(faults(seed)), Some(end.clone()));
        let came =
            if wrong.is_empty() { "converged".to_owned() } else { wrong.join("; ").replace('\n', " ") };
        let _ = writeln!(lines, "{seed}\t{injected}\t{writes}\t{settled:.0}\t{trace}\t{came}");
    }
    assert!(calm.injected == 0, "nothing goes wrong without faults");
    std::fs::write(file, lines).expect("writable");
}

/// Has a child tell the histories of a scenario: the lines of the table.
fn batch(scenario: u64, seed: Option<u64>) -> Vec<String> {
    let name =
        format!("postern-histories-{}-{scenario}-{}", std::process::id(), seed.map_or(0, |seed| seed + 1));
    let file = std::env::temp_dir().join(name);
    let mut child = std::process::Command::new(std::env::current_exe().expect("there is one"));
    child.args(["--exact", "sim::a_batch_of_histories_when_asked_for", "--nocapture"]);
    child.env(BATCH, format!("{scenario} {}", file.display())).env_remove("POSTERN_SEED");
    if let Some(seed) = seed {
        child.env("POSTERN_SEED", seed.to_string());
    } else {
        child.env_remove("POSTERN_TRACE");
    }
    let output = child.stdout(std::process::Stdio::null()).output().expect("it starts");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    if seed.is_some() {
        tell(&said);
    }
    assert!(output.status.success(), "scenario {scenario}: {said}");
    let lines = std::fs::read_to_string(&file).expect("it was written");
    let _ = std::fs::remove_file(&file);
    lines.lines().map(str::to_owned).collect()
}

#[test]
fn every_simulated_history_comes_to_the_end_that_it_would_have_without_faults() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    if std::env::var_os(BATCH).is_some() {
        return;
    }
    let lines = match number("POSTERN_SEED") {
        Some(seed) => batch(seed / PER_SCENARIO, Some(seed)),
        None => {
            let count = number("POSTERN_HISTORIES").unwrap_or(HISTORIES).div_ceil(PER_SCENARIO);
            all(count, |scenario| batch(scenario, None)).concat()
        }
    };
    let table = format!("seed\tfaults\twrites\tsettled after (s)\ttrace\toutcome\n{}\n", lines.join("\n"));
    report("histories.tsv", &table);
    let field = |line: &str, number: usize| line.split('\t').nth(number).unwrap_or_default().to_owned();
    let figure = |line: &String, number| field(line, number).parse::<f64>().unwrap_or(0.0);
    let injected: f64 = lines.iter().map(|line| figure(line, 1)).sum();
    let longest = lines.iter().map(|line| figure(line, 3)).fold(0.0, f64::max);
    let bad: Vec<String> = lines
        .iter()
        .filter(|line| field(line, 5) != "converged")
        .map(|line| format!("POSTERN_SEED={}: {}", field(line, 0), field(line, 5)))
        .collect();
    tell(&format!(
        "{} simulated histories, {injected:.0} faults: {} converged, the slowest {longest:.0} s after its last fault; target/faults/histories.tsv",
        lines.len(),
        lines.len() - bad.len()
    ));
    assert!(bad.is_empty(), "{}", bad[..bad.len().min(10)].join("\n"));
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

/// A process tells what it is asked for the same way each time: a seed alone, and a whole batch. (Between the two a
/// history may differ: tokio's order of wake-ups goes by a counter of the whole process.)
#[test]
fn a_seed_tells_the_same_history_again() {
    for seed in [3, 4] {
        assert_eq!(batch(0, Some(seed)), batch(0, Some(seed)), "seed {seed} told two histories");
    }
    assert_eq!(batch(1, None), batch(1, None), "the second batch told two histories");
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
