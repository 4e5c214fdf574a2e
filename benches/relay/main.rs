//! How fast a whole gateway relays, beside a real Postfix in the same run, on the same disk, every 250 durable
//! in both. `cargo bench --bench relay` measures small and large messages; `-- slow`, `-- tls`, `-- memory`
//! or `-- all` choose others, `-- --runs N` (3) how often; each figure is the median. `-- soak 30 7000` runs half
//! an hour at 7,000 messages a second while the next hop comes and goes.
//!
//! The load generator, Postfix's configuration and the library that slows syncs are the project's bench folder,
//! by default `../shared/bench`; `POSTERN_BENCH_KIT` names another. Needs root and Debian's postfix.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a bench talks to people")]

mod load;
mod memory;
mod peers;
mod soak;
mod tls;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use load::{Load, Run, median};
use peers::{Peer, Server};

/// What is shared by all measurements.
pub struct Bench {
    /// The project's bench folder.
    kit: PathBuf,
    /// Scratch space on the disk that is measured.
    root: PathBuf,
    loadgen: PathBuf,
    runs: usize,
}

struct Case {
    sessions: u32,
    size: &'static str,
    /// Messages of one run: Postern's, Postfix's.
    messages: [u32; 2],
    /// What Postern must reach, times Postfix's rate.
    bar: f64,
}

const fn case(sessions: u32, size: &'static str, messages: [u32; 2], bar: f64) -> Case {
    Case { sessions, size, messages, bar }
}

const THROUGHPUT: [Case; 6] = [
    case(1, "4k", [15_000, 4_000], 5.0),
    case(10, "4k", [40_000, 6_000], 10.0),
    case(50, "4k", [60_000, 6_000], 10.0),
    case(200, "4k", [60_000, 6_000], 10.0),
    case(10, "1m", [1_500, 800], 4.0),
    case(50, "1m", [1_500, 800], 4.0),
];

/// With every sync slowed by a millisecond.
const SLOW: [Case; 4] = [
    case(1, "4k", [2_000, 1_500], 1.0),
    case(10, "4k", [10_000, 5_000], 1.0),
    case(50, "4k", [30_000, 5_000], 8.0),
    case(200, "4k", [40_000, 5_000], 8.0),
];

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("relay bench: {why}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), String> {
    let mut suites: Vec<String> = Vec::new();
    let mut runs = 3;
    let mut soak = None;
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            // What cargo itself says.
            "--bench" => {}
            "--runs" => {
                let number = arguments.next().and_then(|n| n.parse().ok());
                runs = number.filter(|n| *n > 0).ok_or("--runs needs a number")?;
            }
            "soak" => {
                let mut number = || arguments.next().and_then(|n| n.parse::<u32>().ok());
                soak = Some(number().zip(number()).ok_or("soak needs minutes and messages a second")?);
            }
            suite if ["throughput", "slow", "tls", "memory", "all"].contains(&suite) => {
                suites.push(suite.to_owned());
            }
            other => {
                return Err(format!("{other}: not throughput, slow, tls, memory, all or soak MINUTES RATE"));
            }
        }
    }
    if suites.is_empty() && soak.is_none() {
        suites.push("throughput".to_owned());
    }
    let wants = |suite: &str| suites.iter().any(|s| s == suite || s == "all");
    let bench = Bench::prepare(runs)?;
    if wants("throughput") {
        let postern = PathBuf::from(env!("CARGO_BIN_EXE_postern"));
        table(
            &bench,
            "every 250 durable, this disk",
            &THROUGHPUT,
            &Peer::Postern(postern),
            &Peer::Postfix(""),
        )?;
    }
    if wants("slow") {
        let postern = Peer::Slow(bench.dynamic()?);
        table(&bench, "every sync 1 ms slower", &SLOW, &postern, &Peer::Postfix("+slow1000"))?;
    }
    if wants("memory") {
        memory::measure(&bench)?;
    }
    if wants("tls") {
        tls::measure(&bench)?;
    }
    if let Some((minutes, rate)) = soak {
        soak::measure(&bench, u64::from(minutes), rate)?;
    }
    Ok(())
}

impl Bench {
    fn prepare(runs: usize) -> Result<Self, String> {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        let kit = std::env::var_os("POSTERN_BENCH_KIT").map_or(here.join("../shared/bench"), PathBuf::from);
        let kit = kit.canonicalize().map_err(|error| {
            format!(
                "{}: {error}; POSTERN_BENCH_KIT names the folder with loadgen/ and scripts/",
                kit.display()
            )
        })?;
        // Postfix drops its rights and must still reach its folders, so they cannot lie under /root.
        let root =
            std::env::var_os("POSTERN_BENCH_DIR").map_or("/var/tmp/postern-bench".into(), PathBuf::from);
        std::fs::create_dir_all(&root).map_err(|error| format!("{}: {error}", root.display()))?;
        let target = root.join("loadgen");
        let build = ["build", "--quiet", "--release", "--target-dir"];
        let built = Command::new("cargo").args(build).arg(&target).current_dir(kit.join("loadgen")).status();
        if !built.is_ok_and(|status| status.success()) {
            return Err(format!("cannot build {}/loadgen", kit.display()));
        }
        Ok(Self { kit, root, loadgen: target.join("release/loadgen"), runs })
    }

    /// Postern for a library that is loaded before its own: not one static file, as the real one is.
    fn dynamic(&self) -> Result<PathBuf, String> {
        let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/dynamic");
        let built = Command::new("cargo")
            .args(["build", "--release", "--bin", "postern", "--target-dir"])
            .arg(&target)
            .env("RUSTFLAGS", "-C target-feature=-crt-static")
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .status();
        if !built.is_ok_and(|status| status.success()) {
            return Err("cannot build a dynamically linked postern".to_owned());
        }
        let shim = self.root.join("slowsync.so");
        let made = Command::new("cc")
            .args(["-O2", "-shared", "-fPIC", "-o"])
            .arg(&shim)
            .arg(self.kit.join("scripts/shim/slowsync.c"))
            .arg("-ldl")
            .status();
        if !made.is_ok_and(|status| status.success()) {
            return Err("cannot build the library that slows syncs; is a C compiler there?".to_owned());
        }
        let found = Command::new("find")
            .arg(&target)
            .args(["-path", "*/release/postern", "-type", "f"])
            .stdout(Stdio::piped())
            .output()
            .map_err(|error| error.to_string())?;
        let path = String::from_utf8_lossy(&found.stdout).lines().next().map(PathBuf::from);
        path.ok_or_else(|| "the dynamically linked postern is not where it was built".to_owned())
    }
}

/// Both servers by turns, so that an hour's mood of the machine meets both.
fn table(bench: &Bench, what: &str, cases: &[Case], postern: &Peer, postfix: &Peer) -> Result<(), String> {
    println!("\nRelay, {what}; median of {}", bench.runs);
    println!(
        "{:>8} {:>5} | {:>10} {:>10} {:>7} {:>6} | {:>15} {:>17} | {:>15} {:>15} | {:>13} | {:>11} | {:>8}",
        "sessions",
        "size",
        "Postern/s",
        "Postfix/s",
        "ratio",
        "bar",
        "accept p50 p99",
        "end to end p50 p99",
        "CPU us/message",
        "CPU s/1000",
        "PSS MiB",
        "syncs/msg",
        "syscalls"
    );
    for case in cases {
        let mut ours = Vec::new();
        let mut theirs = Vec::new();
        for _ in 0..bench.runs {
            for (at, (peer, runs)) in [(postern, &mut ours), (postfix, &mut theirs)].into_iter().enumerate() {
                let server = Server::start(bench, peer)?;
                let load = Load { sessions: case.sessions, size: case.size, messages: case.messages[at] };
                runs.push(load.run(bench, &server)?);
            }
        }
        let counted = Load { sessions: case.sessions, size: case.size, messages: case.messages[0] / 4 };
        let syscalls = counted.syscalls(bench, &Server::start(bench, postern)?)?;
        let of = |runs: &[Run], what: fn(&Run) -> f64| median(runs.iter().map(what).collect());
        let ratio = of(&ours, Run::rate) / of(&theirs, Run::rate);
        let (our_cpu, their_cpu) = (of(&ours, |r| r.cpu_us), of(&theirs, |r| r.cpu_us));
        println!(
            "{:>8} {:>5} | {:>10.0} {:>10.0} {:>6.1}x {:>5.0}x | {:>6.2} {:>5.1} ms {:>8.2} {:>5.1} ms | {:>6.0} {:>8.0} {:>6.3} {:>8.3} | {:>6.0} {:>6.0} | {:>5.3} {:>5.2} | {:>8.1}",
            case.sessions,
            case.size,
            of(&ours, Run::rate),
            of(&theirs, Run::rate),
            ratio,
            case.bar,
            of(&ours, |r| r.accept.0),
            of(&ours, |r| r.accept.1),
            of(&ours, |r| r.end_to_end.0),
            of(&ours, |r| r.end_to_end.1),
            our_cpu,
            their_cpu,
            our_cpu / 1000.0,
            their_cpu / 1000.0,
            of(&ours, |r| r.pss),
            of(&theirs, |r| r.pss),
            of(&ours, Run::syncs),
            of(&theirs, Run::syncs),
            syscalls,
        );
        if ratio < case.bar {
            println!("{:>14} below the bar of {:.0}x", "", case.bar);
        }
    }
    Ok(())
}
