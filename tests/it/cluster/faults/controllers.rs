//! Controllers that die, sleep, or are two.

use std::thread::sleep;
use std::time::Duration;

use super::Scenario;
use super::ground::Ground;
use crate::support::cluster::SYSTEM;
use crate::support::wait_for;

/// Kills the leader without a word, so that nothing is given back, and has it replaced without waiting for kubelet's
/// back-off.
fn kill_leader(ground: &Ground<'_>) {
    let leader = ground.operators().remove(0);
    ground.script(&["kill-pod", SYSTEM, &leader]);
    ground.cluster.kubectl(&[
        "-n",
        SYSTEM,
        "delete",
        "pod",
        &leader,
        "--grace-period=0",
        "--force",
        "--wait=false",
    ]);
}

fn killed_after_a_change(ground: &Ground<'_>, pause: Duration) {
    ground.next_word();
    sleep(pause);
    kill_leader(ground);
    ground.next_word();
}

pub const SCENARIOS: &[Scenario] = &[
    Scenario { name: "killed at once after a change", does: |g| killed_after_a_change(g, Duration::ZERO) },
    Scenario {
        name: "killed 60 ms after a change",
        does: |g| killed_after_a_change(g, Duration::from_millis(60)),
    },
    Scenario {
        name: "killed 250 ms after a change",
        does: |g| killed_after_a_change(g, Duration::from_millis(250)),
    },
    Scenario {
        name: "killed while a pod is deleted and a rule changes",
        does: |g| {
            g.kubectl(&["delete", "pod/default-1", "--wait=false"]);
            g.next_word();
            kill_leader(g);
        },
    },
    Scenario {
        name: "killed while another waits",
        does: |g| {
            g.cluster.scale_operator(2);
            killed_after_a_change(g, Duration::from_millis(30));
            g.namespace.wait_ready(&["cpr/word"]);
            g.cluster.scale_operator(1);
        },
    },
    Scenario {
        name: "paused over a lease while another takes over, then goes on",
        does: |g| {
            g.cluster.scale_operator(2);
            let first = g.operators().remove(0);
            g.script(&["pause-pod", SYSTEM, &first]);
            let word = g.next_word();
            wait_for("another leads", Duration::from_secs(60), || {
                (!g.holder().starts_with(&first)).then_some(())
            });
            g.namespace.wait_ready(&["cpr/word"]);
            g.obeys(&word);
            let before = g.namespace.get("configmap/default-bundle-0")["data"].clone();
            g.script(&["resume-pod", SYSTEM, &first]);
            // Whatever it was about to write, it has no effect.
            sleep(Duration::from_secs(4));
            assert_eq!(g.namespace.get("configmap/default-bundle-0")["data"], before, "the old leader wrote");
            assert!(!g.holder().starts_with(&first), "the old leader leads again");
            g.cluster.scale_operator(1);
        },
    },
    Scenario {
        name: "both controllers paused, changes meanwhile",
        does: |g| {
            let leader = g.operators().remove(0);
            g.script(&["pause-pod", SYSTEM, &leader]);
            let before = g.word();
            g.next_word();
            sleep(Duration::from_secs(3));
            g.obeys(&before);
            g.script(&["resume-pod", SYSTEM, &leader]);
        },
    },
    Scenario {
        name: "restarted in good order with a change pending",
        does: |g| {
            g.next_word();
            g.cluster.kubectl(&["-n", SYSTEM, "rollout", "restart", "deployment"]);
            g.next_word();
            g.cluster.kubectl(&["-n", SYSTEM, "rollout", "status", "deployment", "--timeout=120s"]);
        },
    },
    Scenario {
        name: "away while rules come, change and go",
        does: |g| {
            g.cluster.scale_operator(0);
            let rule = crate::support::site::reject("extra", "extra");
            g.namespace.apply(&rule);
            g.next_word();
            g.kubectl(&["delete", "cpr/extra"]);
            g.kubectl(&["delete", "service/default", "configmap/default-bundle-0"]);
            g.cluster.scale_operator(1);
        },
    },
    Scenario {
        name: "its Lease deleted",
        does: |g| {
            g.cluster.kubectl(&["-n", SYSTEM, "delete", "leases", "--all"]);
            wait_for("somebody leads", Duration::from_secs(60), || (!g.holder().is_empty()).then_some(()));
        },
    },
    Scenario {
        name: "its Lease given to nobody that exists",
        does: |g| {
            let lease = g.cluster.kubectl(&["-n", SYSTEM, "get", "leases", "-o", "name"]);
            let patch = r#"{"spec":{"holderIdentity":"ghost"}}"#;
            g.cluster.kubectl(&["-n", SYSTEM, "patch", lease.trim(), "--type=merge", "-p", patch]);
            wait_for("the ghost is outlived", Duration::from_secs(60), || {
                (g.holder() != "ghost").then_some(())
            });
        },
    },
    Scenario {
        name: "its authority deleted, and itself restarted",
        does: |g| {
            let secrets = g.cluster.kubectl(&["-n", SYSTEM, "get", "secrets", "-o", "name"]);
            let ca = secrets.lines().find(|name| name.ends_with("control-ca")).expect("there is one");
            g.cluster.kubectl(&["-n", SYSTEM, "delete", ca]);
            kill_leader(g);
        },
    },
    Scenario {
        name: "definitions of the kinds applied again",
        does: |g| {
            let folder = format!("{}/crds", env!("CARGO_MANIFEST_DIR"));
            let arguments = ["apply", "--server-side", "--force-conflicts", "-f", folder.as_str()];
            g.cluster.kubectl(&arguments);
        },
    },
];
