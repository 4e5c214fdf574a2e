//! What the operator costs when there is a lot: a real API server and etcd, the real `postern controller`, and pods
//! that a bench plays: each has an address of the loopback where it takes publications and acknowledges them over
//! mutual TLS, as the gateway does. `cargo bench --bench scale` prints the tables of docs/scale.md.
//!
//!     -- --rules 100,1000,10000 --pods 1,10,100 --changes 40    the table of changes
//!     -- --gateways 100                                        as many gateways, 100 rules each; 0: leave it out
//!
//! Needs the program that `tests/cluster/cluster build` makes. Nothing but two processes of it runs, on free ports,
//! with data in a folder of its own; a cluster that runs beside it is not touched.

#![expect(clippy::print_stdout, reason = "a bench prints what it measured")]

mod controller;
mod load;
mod plane;
mod pods;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use controller::{Controller, Cost};
use load::Load;
use plane::Plane;
use pods::Fleet;

/// The gateway of the table of changes.
pub const NAMESPACE: &str = "mail";
pub const GATEWAY: &str = "default";
const RULES_EACH: usize = 100;

struct Wish {
    rules: Vec<usize>,
    pods: Vec<usize>,
    changes: usize,
    gateways: usize,
}

fn wish() -> Wish {
    let given: Vec<String> = std::env::args().collect();
    let text = |name: &str, default: &str| {
        let at = given.iter().position(|one| one == name);
        at.and_then(|at| given.get(at + 1)).cloned().unwrap_or_else(|| default.to_owned())
    };
    let numbers = |name: &str, default: &str| -> Vec<usize> {
        text(name, default).split(',').filter_map(|number| number.trim().parse().ok()).collect()
    };
    let number = |name: &str, default: &str| text(name, default).parse().unwrap_or(0);
    Wish {
        rules: numbers("--rules", "100,1000,10000"),
        pods: numbers("--pods", "1,10,100"),
        changes: number("--changes", "40").max(1),
        gateways: number("--gateways", "100"),
    }
}

fn main() -> ExitCode {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    match runtime.block_on(run(wish())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("scale: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(wish: Wish) -> anyhow::Result<()> {
    let plane = Plane::start().await?;
    println!("API server and etcd run in {}", plane.folder().display());
    let mut controller = Controller::start(&plane, "one").await?;
    let fleet = Fleet::start(plane.client("fleet").await?).await?;
    let load = Load::new(plane.client("author").await?);

    println!("\n## Changes of one rule\n");
    println!(
        "| rules | pods | Ready p50 | p99 | controller CPU per change | resident | requests per change | of them statuses | touches | looked at |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|");
    let mut there = 0;
    load.namespace(NAMESPACE).await?;
    for &rules in &wish.rules {
        load.gateway(NAMESPACE, GATEWAY, 1).await?;
        fleet.wait(NAMESPACE, GATEWAY, 1).await?;
        let before = controller.cost(&plane).await?;
        let began = Instant::now();
        load.rules(NAMESPACE, GATEWAY, there..rules).await?;
        let applied = began.elapsed();
        load.wait_all_ready(NAMESPACE, rules).await?;
        let all = began.elapsed();
        plane.wait_quiet(Duration::from_secs(3)).await?;
        let spent = controller.cost(&plane).await? - before;
        println!(
            "<!-- {} rules applied at once in {applied:.1?}, Ready after {all:.1?}: {} statuses written, {:.1} s of CPU, {} publications -->",
            rules - there,
            spent.statuses,
            spent.cpu.as_secs_f64(),
            spent.publications
        );
        there = rules;
        for &pods in &wish.pods {
            load.gateway(NAMESPACE, GATEWAY, pods).await?;
            fleet.wait(NAMESPACE, GATEWAY, pods).await?;
            plane.wait_quiet(Duration::from_secs(2)).await?;
            let (times, spent) = changes(&plane, &controller, &load, rules, wish.changes).await?;
            row(rules, pods, &times, &spent, wish.changes);
        }
    }

    println!("\n## A new start with {there} unchanged rules\n");
    println!(
        "| after | caught up | statuses written | writes of any kind | requests | controller CPU | resident |"
    );
    println!("|---|---|---|---|---|---|---|");
    controller.kill();
    let began = Instant::now();
    controller = Controller::start(&plane, "one").await?;
    restart_row("kill -9 and a new start", &plane, &controller, began).await?;
    let second = Controller::start(&plane, "two").await?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    controller.end();
    let began = Instant::now();
    restart_row("a change of the leader", &plane, &second, began).await?;
    controller = second;

    if wish.gateways > 0 {
        many_gateways(&plane, &controller, &fleet, &load, wish.gateways, wish.changes).await?;
    }
    Ok(())
}

/// Changes one rule after the other and waits each time until it is obeyed.
async fn changes(
    plane: &Plane,
    controller: &Controller,
    load: &Load,
    rules: usize,
    changes: usize,
) -> anyhow::Result<(Vec<Duration>, Cost)> {
    let before = controller.cost(plane).await?;
    let mut times = Vec::new();
    for change in 0..changes {
        // Spread over all rules, so that it is not always the same segment.
        let rule = change * 7919 % rules;
        times.push(load.change(NAMESPACE, rule, &format!("changed-{change}-{pods}", pods = rules)).await?);
        tokio::time::sleep(Duration::from_millis(400)).await;
    }
    plane.wait_quiet(Duration::from_secs(1)).await?;
    let spent = controller.cost(plane).await? - before;
    times.sort();
    Ok((times, spent))
}

fn row(rules: usize, pods: usize, times: &[Duration], spent: &Cost, changes: usize) {
    let each = |count: u64| count as f64 / changes as f64;
    let at = |share: f64| times[((times.len() - 1) as f64 * share).round() as usize].as_millis();
    println!(
        "| {rules} | {pods} | {} ms | {} ms | {:.0} ms | {} MiB | {:.1} | {:.1} | {:.1} | {:.0} |",
        at(0.5),
        at(0.99),
        spent.cpu.as_secs_f64() * 1000.0 / changes as f64,
        spent.resident >> 20,
        each(spent.requests),
        each(spent.statuses),
        each(spent.touches),
        each(spent.looks),
    );
}

async fn restart_row(
    what: &str,
    plane: &Plane,
    controller: &Controller,
    began: Instant,
) -> anyhow::Result<()> {
    let before = plane.requests()?;
    let cpu = controller.usage()?.cpu;
    controller.wait_leading().await?;
    let led = began.elapsed();
    let quiet = plane.wait_quiet(Duration::from_secs(5)).await?;
    let after = plane.requests()?;
    let spent = after - before;
    let usage = controller.usage()?;
    println!(
        "| {what} | leading after {led:.1?}, quiet after {:.1?} | {} | {} | {} | {:.1} s | {} MiB |",
        quiet.saturating_duration_since(began),
        spent.statuses,
        spent.writes,
        spent.total,
        (usage.cpu - cpu).as_secs_f64(),
        usage.resident >> 20,
    );
    for (verb, count) in &spent.by_verb {
        println!("<!-- {what}: {verb} {count} -->");
    }
    Ok(())
}

/// Many gateways, each in a namespace of its own; one change in one of them.
async fn many_gateways(
    plane: &Plane,
    controller: &Controller,
    fleet: &Fleet,
    load: &Load,
    gateways: usize,
    changes: usize,
) -> anyhow::Result<()> {
    println!("\n## {gateways} gateways in {gateways} namespaces, {RULES_EACH} rules each\n");
    let began = Instant::now();
    for number in 0..gateways {
        let namespace = format!("tenant-{number:03}");
        load.namespace(&namespace).await?;
        load.gateway(&namespace, GATEWAY, 1).await?;
        load.rules(&namespace, GATEWAY, 0..RULES_EACH).await?;
    }
    for number in 0..gateways {
        fleet.wait(&format!("tenant-{number:03}"), GATEWAY, 1).await?;
    }
    load.wait_all_ready("tenant-000", RULES_EACH).await?;
    plane.wait_quiet(Duration::from_secs(5)).await?;
    println!("all Ready after {:.1?}\n", began.elapsed());
    let before = controller.cost(plane).await?;
    let mut times = Vec::new();
    for change in 0..changes {
        times.push(load.change("tenant-007", change % RULES_EACH, &format!("tenant-{change}")).await?);
        tokio::time::sleep(Duration::from_millis(400)).await;
    }
    plane.wait_quiet(Duration::from_secs(1)).await?;
    let spent = controller.cost(plane).await? - before;
    times.sort();
    let each = |count: u64| count as f64 / changes as f64;
    println!(
        "| Ready p50 | p99 | controller CPU per change | resident | requests per change | passes per change | looked at |"
    );
    println!("|---|---|---|---|---|---|---|");
    println!(
        "| {} ms | {} ms | {:.0} ms | {} MiB | {:.1} | {:.1} | {:.1} |",
        times[times.len() / 2].as_millis(),
        times[times.len() - 1].as_millis(),
        spent.cpu.as_secs_f64() * 1000.0 / changes as f64,
        spent.resident >> 20,
        each(spent.requests),
        each(spent.passes),
        each(spent.looks),
    );
    Ok(())
}
