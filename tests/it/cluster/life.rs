//! Pods come and go under load, and mail does not notice: fewer of them, new ones for old, nodes that are emptied,
//! volumes that grow, an autoscaler that decides.

use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::sink_for_pods;
use crate::support::cluster::{Namespace, cluster};
use crate::support::external::Metrics;
use crate::support::gateway::condition;
use crate::support::inbox::Inbox;
use crate::support::load::{Load, Report};
use crate::support::{tell, wait_for};

const RATE: u32 = 200;

/// A gateway whose pods have volumes.
fn gateway(replicas: u32, sink: &Inbox, extra: &str) -> String {
    format!(
        "apiVersion: postern.dev/v1alpha1
kind: OutboundGateway
metadata: {{name: default}}
spec:
  replicas: {replicas}
  hostname: gw.solarmora.com
  domains: [solarmora.com]
  clients: {{cidrs: [10.0.0.0/8]}}
  defaultRoute: {{host: {}, port: {}}}
{extra}",
        sink.address.ip(),
        sink.address.port()
    )
}

fn load(namespace: &Namespace<'_>, name: &str) -> Load {
    let to = SocketAddr::new(namespace.service("default").parse().expect("an address"), 25);
    Load::start(name, to, RATE, 2000)
}

/// Waits until so much of the load was taken.
fn run_for(load: &Load, seconds: u64) {
    let began = Instant::now();
    let wanted = load.accepted() + (u64::from(RATE) * seconds * 8 / 10) as usize;
    wait_for("the load runs", Duration::from_secs(30 + 4 * seconds), || {
        (load.accepted() >= wanted && began.elapsed() >= Duration::from_secs(seconds)).then_some(())
    });
}

fn pods(namespace: &Namespace<'_>) -> Vec<serde_json::Value> {
    namespace.get("pods")["items"].as_array().cloned().unwrap_or_default()
}

/// Mail that waits is tried at once, until none waits.
fn deliver_all(namespace: &Namespace<'_>) {
    wait_for("everything is delivered", Duration::from_secs(180), || {
        let mut waits = false;
        for pod in pods(namespace) {
            let name = pod["metadata"]["name"].as_str().expect("a name").to_owned();
            let queue = |arguments: &[&str]| {
                let line = ["exec", &name, "--", "/postern", "queue"];
                let state = ["--state", "/var/spool/postern"];
                let all = [&["-n", &namespace.name], &line[..], arguments, &state].concat();
                let output = namespace.cluster.attempt("kubectl", &all, None);
                (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
            };
            let (listed, rows) = queue(&["list", "-o", "json"]);
            let rows: serde_json::Value = serde_json::from_str(&rows).unwrap_or_default();
            let empty = rows["messages"].as_array().or(rows.as_array()).is_some_and(Vec::is_empty);
            if !listed || !empty {
                waits = true;
                queue(&["retry", "--all"]);
            }
        }
        if waits {
            std::thread::sleep(Duration::from_secs(1));
        }
        (!waits).then_some(())
    });
}

/// Compares what was promised with what came, and says it.
fn account(what: &str, report: &Report, sink: &Inbox) {
    let mut copies: std::collections::BTreeMap<String, usize> = std::collections::BTreeMap::new();
    for mail in sink.mail() {
        *copies.entry(mail.header("Subject").unwrap_or_default()).or_default() += 1;
    }
    let lost: Vec<_> = report.accepted.iter().filter(|subject| !copies.contains_key(*subject)).collect();
    let doubled: usize = copies.values().map(|count| count - 1).sum();
    tell(&format!(
        "{what}: accepted {}, delivered {}, lost {}, duplicates {doubled}, told later before a transaction {}, not \
         connected {}, broken transactions {}, slowest {:?}",
        report.accepted.len(),
        copies.len(),
        lost.len(),
        report.told_later,
        report.not_begun,
        report.broken.len(),
        report.slowest
    ));
    assert!(lost.is_empty(), "lost: {lost:?}");
    assert!(report.broken.is_empty(), "{:?}", report.broken);
    assert_eq!(doubled, 0, "no process was killed, so nothing has to come twice");
}

fn claims(namespace: &Namespace<'_>) -> Vec<String> {
    let claims = namespace.get("pvc")["items"].as_array().cloned().unwrap_or_default();
    let mut names: Vec<String> =
        claims.iter().filter_map(|claim| claim["metadata"]["name"].as_str().map(str::to_owned)).collect();
    names.sort();
    names
}

#[test]
fn r158_scale_down_from_three_to_one_under_load_loses_nothing_and_says_how_much_is_left() {
    let (_turn, cluster) = cluster();
    let namespace = cluster.namespace("fewer");
    let sink = sink_for_pods();
    sink.set_forgetful();
    namespace.apply(&gateway(3, &sink, ""));
    namespace.wait_ready(&["obg/default"]);
    namespace.wait_pods(3);
    let load = load(&namespace, "fewer");
    run_for(&load, 3);
    // A backlog that waits for its next attempt: this is what has to move.
    sink.set_busy(true);
    run_for(&load, 5);
    let began = Instant::now();
    namespace.kubectl(&["scale", "obg/default", "--replicas=1"]);
    let message = wait_for("it says how much is left", Duration::from_secs(30), || {
        let status = namespace.get("obg/default")["status"].clone();
        let scaling = condition(&status, "ScalingDown")?;
        (scaling["reason"] == "HandingOver")
            .then(|| scaling["message"].as_str().unwrap_or_default().to_owned())
    });
    wait_for("one pod is left", Duration::from_secs(180), || {
        let size = namespace.get("statefulset/default")["spec"]["replicas"].as_u64();
        (size == Some(1) && pods(&namespace).len() == 1).then_some(())
    });
    let took = began.elapsed();
    wait_for("their claims are gone", Duration::from_secs(60), || {
        (claims(&namespace) == ["spool-default-0"]).then_some(())
    });
    wait_for("nothing more is said of it", Duration::from_secs(30), || {
        let status = namespace.get("obg/default")["status"].clone();
        condition(&status, "ScalingDown").is_none().then_some(())
    });
    sink.set_busy(false);
    run_for(&load, 3);
    let report = load.finish();
    deliver_all(&namespace);
    tell(&format!("scale-down 3 → 1 took {took:?}; it said: {message}"));
    account("scale-down 3 → 1", &report, &sink);
    let set = namespace.get("statefulset/default");
    wait_for("claims of later pods are kept again", Duration::from_secs(30), || {
        let policy = &namespace.get("statefulset/default")["spec"]["persistentVolumeClaimRetentionPolicy"];
        (policy["whenScaled"] == "Retain").then_some(())
    });
    assert_eq!(set["spec"]["replicas"], 1);
}

#[test]
fn r162_a_rolling_update_under_load_breaks_no_transaction() {
    let (_turn, cluster) = cluster();
    let namespace = cluster.namespace("rolling");
    let sink = sink_for_pods();
    sink.set_forgetful();
    namespace.apply(&gateway(3, &sink, ""));
    namespace.wait_ready(&["obg/default"]);
    namespace.wait_pods(3);
    let load = load(&namespace, "rolling");
    run_for(&load, 2);
    let before: Vec<_> = pods(&namespace).iter().map(|pod| pod["metadata"]["uid"].clone()).collect();
    // Its author changes the pods, and somebody restarts them.
    namespace.apply(&gateway(3, &sink, "  pod: {annotations: {example.com/note: changed}}\n"));
    let rolled = |before: &[serde_json::Value]| {
        wait_for("every pod is a new one", Duration::from_secs(300), || {
            let pods = pods(&namespace);
            let ready = |pod: &serde_json::Value| {
                condition(&pod["status"], "Ready").is_some_and(|ready| ready["status"] == "True")
            };
            let new = pods.iter().all(|pod| !before.contains(&pod["metadata"]["uid"]) && ready(pod));
            (pods.len() == 3 && new).then_some(())
        });
    };
    rolled(&before);
    let before: Vec<_> = pods(&namespace).iter().map(|pod| pod["metadata"]["uid"].clone()).collect();
    namespace.kubectl(&["rollout", "restart", "statefulset/default"]);
    rolled(&before);
    run_for(&load, 2);
    let report = load.finish();
    deliver_all(&namespace);
    account("rolling update of 3 pods, twice", &report, &sink);
}

#[test]
fn r162_a_node_drain_under_load_respects_the_disruption_budget() {
    let (_turn, cluster) = cluster();
    let namespace = cluster.namespace("drained");
    let sink = sink_for_pods();
    sink.set_forgetful();
    namespace.apply(&gateway(3, &sink, ""));
    namespace.wait_ready(&["obg/default"]);
    namespace.wait_pods(3);
    let load = load(&namespace, "drained");
    run_for(&load, 2);
    let uids = || -> Vec<serde_json::Value> {
        pods(&namespace).iter().map(|pod| pod["metadata"]["uid"].clone()).collect()
    };
    let before = uids();
    let node = pods(&namespace)[0]["spec"]["nodeName"].as_str().expect("it runs").to_owned();
    let mut drain = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cluster/cluster"));
    drain
        .args(["kubectl", "drain", &node, "--pod-selector=postern.dev/gateway=default", "--timeout=240s"])
        .args(["--ignore-daemonsets", "--delete-emptydir-data", "--force"])
        .env("KUBECONFIG", &cluster.kubeconfig)
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let drain = std::thread::spawn(move || drain.status());
    // There is one node: a pod that went comes back when the node is open again, as it would on another one.
    let began = Instant::now();
    let mut fewest = 3;
    while !drain.is_finished() {
        assert!(began.elapsed() < Duration::from_secs(260), "the drain does not end");
        cluster.attempt("kubectl", &["uncordon", &node], None);
        let ready = pods(&namespace)
            .iter()
            .filter(|pod| pod["metadata"]["deletionTimestamp"].is_null())
            .filter(|pod| condition(&pod["status"], "Ready").is_some_and(|ready| ready["status"] == "True"))
            .count();
        fewest = fewest.min(ready);
        std::thread::sleep(Duration::from_millis(300));
    }
    cluster.attempt("kubectl", &["uncordon", &node], None);
    let ended = drain.join().expect("it is only waited for").expect("kubectl starts");
    assert!(ended.success(), "the drain failed");
    wait_for("every pod is a new one", Duration::from_secs(120), || {
        let now = uids();
        (now.len() == 3 && now.iter().all(|uid| !before.contains(uid))).then_some(())
    });
    assert!(fewest >= 2, "the budget lets one pod go at a time, {fewest} were left");
    run_for(&load, 2);
    let report = load.finish();
    deliver_all(&namespace);
    account("node drain of 3 pods", &report, &sink);
}

#[test]
fn r158_pods_without_volumes_hand_over_when_they_are_deleted() {
    let (_turn, cluster) = cluster();
    let namespace = cluster.namespace("ephemeral");
    let sink = sink_for_pods();
    sink.set_forgetful();
    namespace.apply(&gateway(2, &sink, "  storage: {ephemeral: true}\n"));
    namespace.wait_ready(&["obg/default"]);
    namespace.wait_pods(2);
    let load = load(&namespace, "ephemeral");
    sink.set_busy(true);
    run_for(&load, 3);
    // Each in its turn, as a rolling update or a drain would: its mail is with the other when it is gone.
    for pod in ["pod/default-1", "pod/default-0"] {
        namespace.kubectl(&["delete", pod, "--wait"]);
        namespace.wait_pods(2);
    }
    let report = load.finish();
    sink.set_busy(false);
    deliver_all(&namespace);
    account("two pods without volumes, deleted", &report, &sink);
}

#[test]
fn volumes_grow_and_no_pod_restarts() {
    let (_turn, cluster) = cluster();
    let namespace = cluster.namespace("growing");
    let sink = sink_for_pods();
    namespace.apply(&gateway(2, &sink, "  storage: {size: 1Gi}\n"));
    namespace.wait_ready(&["obg/default"]);
    namespace.wait_pods(2);
    let facts = || -> Vec<(serde_json::Value, serde_json::Value)> {
        let pods = pods(&namespace);
        let facts = pods.iter().map(|pod| {
            (pod["metadata"]["uid"].clone(), pod["status"]["containerStatuses"][0]["restartCount"].clone())
        });
        facts.collect()
    };
    let before = facts();
    assert_eq!(before.len(), 2);
    let set = namespace.get("statefulset/default")["metadata"]["uid"].clone();
    namespace.apply(&gateway(2, &sink, "  storage: {size: 2Gi}\n"));
    wait_for("the claims have grown", Duration::from_secs(60), || {
        let claims = namespace.get("pvc")["items"].as_array().cloned()?;
        let grown = claims.iter().all(|claim| claim["spec"]["resources"]["requests"]["storage"] == "2Gi");
        (claims.len() == 2 && grown).then_some(())
    });
    wait_for("there is a set of that size", Duration::from_secs(60), || {
        let set = namespace.get("statefulset/default");
        (set["spec"]["volumeClaimTemplates"][0]["spec"]["resources"]["requests"]["storage"] == "2Gi"
            && set["status"]["readyReplicas"] == 2)
            .then_some(())
    });
    namespace.wait_ready(&["obg/default"]);
    assert_ne!(
        namespace.get("statefulset/default")["metadata"]["uid"],
        set,
        "it was made anew around its pods"
    );
    assert_eq!(facts(), before, "the same pods, not restarted");
}

#[test]
fn an_autoscaler_drives_the_scale_subresource_by_a_metric() {
    let (_turn, cluster) = cluster();
    let namespace = cluster.namespace("autoscaled");
    let sink = sink_for_pods();
    let metrics = Metrics::serve(cluster);
    metrics.set(0);
    namespace.apply(&gateway(1, &sink, ""));
    namespace.wait_ready(&["obg/default"]);
    namespace.apply(
        "apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: default}
spec:
  scaleTargetRef: {apiVersion: postern.dev/v1alpha1, kind: OutboundGateway, name: default}
  minReplicas: 1
  maxReplicas: 3
  behavior:
    scaleUp: {stabilizationWindowSeconds: 0}
    scaleDown: {stabilizationWindowSeconds: 0}
  metrics:
  - type: External
    external:
      metric: {name: postern_queue_oldest_due_seconds}
      target: {type: AverageValue, averageValue: \"60\"}
",
    );
    metrics.set(170);
    namespace.wait_pods(3);
    assert_eq!(namespace.get("obg/default")["spec"]["replicas"], 3);
    metrics.set(10);
    wait_for("one pod is left", Duration::from_secs(240), || {
        let size = namespace.get("statefulset/default")["spec"]["replicas"].as_u64();
        (size == Some(1) && pods(&namespace).len() == 1).then_some(())
    });
    wait_for("their claims are gone", Duration::from_secs(60), || {
        (claims(&namespace) == ["spool-default-0"]).then_some(())
    });
}
