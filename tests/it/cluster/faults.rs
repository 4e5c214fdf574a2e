//! Faults on the real cluster, a table of them: what is done, and that everything comes back to what it was: the same
//! children, every object Ready at its generation, and mail at each pod by the newest rule.

mod controllers;
mod ground;
mod objects;
mod outages;
mod pods;
mod surroundings;

use std::fmt::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use crate::support::cluster::cluster;
use crate::support::tell;
use ground::Ground;

/// One line of the table.
pub struct Scenario {
    pub name: &'static str,
    /// Brings the fault about, checks what must hold while it lasts, and ends it.
    pub does: fn(&Ground<'_>),
}

/// Runs a group on a gateway of its own, one after the other, and goes on after one that fails.
fn run(group: &str, replicas: u32, scenarios: &[Scenario]) {
    let only = std::env::var("POSTERN_SCENARIO").ok();
    let (_turn, cluster) = cluster();
    let ground = Ground::new(cluster, &format!("faults-{group}"), replicas);
    let mut table = String::from("scenario\tconverged after (ms)\toutcome\n");
    let mut failed = Vec::new();
    for Scenario { name, does } in scenarios {
        if only.as_ref().is_some_and(|only| !name.contains(only.as_str())) {
            continue;
        }
        let began = Instant::now();
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            does(&ground);
            let healed = Instant::now();
            ground.converged();
            healed.elapsed()
        }));
        let line = match outcome {
            Ok(took) => format!("{name}\t{}\tconverged", took.as_millis()),
            Err(panic) => {
                let why = panic.downcast_ref::<String>().cloned();
                let why = why.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
                let why = why.unwrap_or_default();
                failed.push(format!("{name}: {why}"));
                // What follows is not to suffer from it.
                ground.repair();
                format!("{name}\t-\tFAILED: {}", why.lines().next().unwrap_or_default())
            }
        };
        tell(&format!("{group}: {line} ({:.1} s in all)", began.elapsed().as_secs_f64()));
        let _ = writeln!(table, "{line}");
    }
    let folder = format!("{}/target/faults", env!("CARGO_MANIFEST_DIR"));
    let _ = std::fs::create_dir_all(&folder);
    let _ = std::fs::write(format!("{folder}/cluster-{group}.tsv"), table);
    assert!(
        failed.is_empty(),
        "{} of {} scenarios failed:\n{}",
        failed.len(),
        scenarios.len(),
        failed.join("\n")
    );
}

#[test]
fn faults_of_objects_deleted_or_edited_by_hand_are_put_right_and_foreign_fields_stay() {
    run("objects", 2, objects::SCENARIOS);
}

#[test]
fn faults_of_controllers_killed_paused_or_replaced_lose_no_change() {
    run("controllers", 2, controllers::SCENARIOS);
}

#[test]
fn faults_of_the_api_server_and_its_storage_end_in_the_same_state() {
    run("outages", 2, outages::SCENARIOS);
}

#[test]
fn faults_of_pods_are_named_and_survived() {
    run("pods", 2, pods::SCENARIOS);
}

#[test]
fn faults_of_the_surroundings_are_said_and_end_with_their_cause() {
    run("surroundings", 2, surroundings::SCENARIOS);
}

/// 10 minutes with `POSTERN_SOAK`, else as long as it takes to show.
#[test]
fn e18_with_the_operator_down_restarted_pods_serve_and_the_status_is_right_within_5_s_after() {
    let (_turn, cluster) = cluster();
    outages::operator_down(&Ground::new(cluster, "faults-operator-down", 2));
}

/// 5 minutes with `POSTERN_SOAK`.
#[test]
fn r157_with_the_api_server_down_mail_flows_and_the_status_is_right_within_5_s_after() {
    let (_turn, cluster) = cluster();
    outages::api_server_down(&Ground::new(cluster, "faults-api-down", 2));
}
