//! Gateway pods that go, stand still, or cannot be reached.

use std::thread::sleep;
use std::time::Duration;

use serde_json::json;

use super::Scenario;
use super::ground::Ground;
use crate::support::gateway::condition;
use crate::support::wait_for;

/// A change that one pod does not get: the status says that it waits, and for whom.
fn waits_for(ground: &Ground<'_>, pod: &str) {
    ground.next_word();
    wait_for(&format!("the status names {pod}"), Duration::from_secs(30), || {
        let rule = ground.namespace.get("cpr/word");
        let current = rule["status"]["observedGeneration"] == rule["metadata"]["generation"];
        let ready = condition(&rule["status"], "Ready")?;
        let named = rule["status"]["rollout"]["stalePods"] == json!([pod]);
        (current && named && ready["status"] == "False").then_some(())
    });
}

fn script(ground: &Ground<'_>, verb: &str, pod: &str, more: &[&str]) {
    ground.script(&[&[verb, &ground.namespace.name, pod], more].concat());
}

pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "a pod deleted",
        does: |g| drop(g.kubectl(&["delete", "pod/default-0", "--wait=false"])),
    },
    Scenario {
        name: "all pods deleted at once, a rule changed",
        does: |g| {
            g.kubectl(&["delete", "pods", "--all", "--wait=false"]);
            g.next_word();
        },
    },
    Scenario {
        name: "a pod evicted",
        does: |g| {
            let path = format!("/api/v1/namespaces/{}/pods/default-1/eviction", g.namespace.name);
            let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "default-1", "namespace": g.namespace.name}});
            g.cluster.run("kubectl", &["create", "--raw", &path, "-f", "-"], Some(&eviction.to_string()));
        },
    },
    Scenario {
        name: "a container killed in the middle of a change",
        does: |g| {
            g.next_word();
            script(g, "kill-pod", "default-0", &[]);
        },
    },
    Scenario {
        name: "a pod paused during a change",
        does: |g| {
            script(g, "pause-pod", "default-1", &[]);
            waits_for(g, "default-1");
            script(g, "resume-pod", "default-1", &[]);
        },
    },
    Scenario {
        name: "a pod paused until it no longer counts",
        does: |g| {
            script(g, "pause-pod", "default-1", &[]);
            waits_for(g, "default-1");
            // Its readiness runs out, and the others decide.
            g.namespace.wait_ready(&["cpr/word"]);
            let word = g.word();
            script(g, "resume-pod", "default-1", &[]);
            // The very first letter after it wakes is judged by the new rule, or not taken.
            let ip = g.namespace.pod_ip("default-1");
            let reply = g.mail(&ip, &word);
            assert!(!reply.starts_with("250"), "the pod that slept let it pass: {reply}");
        },
    },
    Scenario {
        name: "control port of a pod cut off during a change",
        does: |g| {
            script(g, "cut-pod", "default-0", &["8026"]);
            // Its answer to the question that was asked before still gets out; the next question does not get in.
            g.next_word();
            sleep(Duration::from_secs(3));
            waits_for(g, "default-0");
            script(g, "join-pod", "default-0", &["8026"]);
        },
    },
    Scenario {
        name: "network of a pod cut off until it no longer counts",
        does: |g| {
            script(g, "cut-pod", "default-0", &[]);
            waits_for(g, "default-0");
            g.namespace.wait_ready(&["cpr/word"]);
            script(g, "join-pod", "default-0", &[]);
        },
    },
    Scenario {
        name: "scaled up and down between changes",
        does: |g| {
            let scale =
                |count: u32| drop(g.kubectl(&["scale", "obg/default", &format!("--replicas={count}")]));
            scale(4);
            g.next_word();
            scale(1);
            g.next_word();
            scale(2);
        },
    },
    Scenario {
        name: "a pod deleted again and again while rules change",
        does: |g| {
            for _ in 0..3 {
                g.attempt(&["delete", "pod/default-1", "--grace-period=0", "--force"], None);
                g.next_word();
            }
        },
    },
];
