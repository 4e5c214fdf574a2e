//! How long a change takes from the API server's acceptance to Ready, measured from outside; and that Ready is true
//! of every pod in the moment it is said.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use futures::{StreamExt, TryStreamExt};
use kube::api::{Api, Patch, PatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Client, Config};
use postern::api::ComplianceRule;

use super::{gateway, letter, reject, sink_for_pods, to_pod};
use crate::support::client::send;
use crate::support::cluster::{Cluster, Namespace, cluster};

const PODS: u32 = 5;

/// From the environment: the figures of the report take longer than a test should.
fn count(name: &str, usual: usize) -> usize {
    std::env::var(name)
        .map_or(usual, |text| text.parse().unwrap_or_else(|_| panic!("{name}={text}: a number")))
}

async fn client(kubeconfig: &std::path::Path) -> Client {
    let kubeconfig = Kubeconfig::read_from(kubeconfig).expect("the cluster wrote it");
    let options = KubeConfigOptions::default();
    let config = Config::from_custom_kubeconfig(kubeconfig, &options).await.expect("it is complete");
    Client::try_from(config).expect("it can be used")
}

fn is_ready(rule: &ComplianceRule, generation: i64) -> bool {
    let conditions = rule.status.iter().flat_map(|status| &status.conditions);
    conditions.into_iter().any(|condition| {
        condition.type_ == "Ready"
            && condition.status == "True"
            && condition.observed_generation == Some(generation)
    })
}

/// Sends mail with a word to every pod; what each replied.
fn replies(pods: &[String], word: &str) -> Vec<String> {
    let mail = |ip: &String| send(to_pod(ip), "ani@solarmora.com", &["b@partner.example"], &letter(word));
    std::thread::scope(|scope| {
        let sent: Vec<_> = pods.iter().map(|ip| scope.spawn(move || mail(ip))).collect();
        sent.into_iter().map(|reply| reply.join().expect("mail is answered")).collect()
    })
}

fn pods(namespace: &Namespace<'_>) -> Vec<String> {
    (0..PODS).map(|number| namespace.pod_ip(&format!("default-{number}"))).collect()
}

#[test]
fn r155_changes_in_a_row_are_ready_in_time_and_obeyed_by_every_pod_from_then_on() {
    let (_turn, cluster) = cluster();
    let namespace = cluster.namespace("propagation");
    let sink = sink_for_pods();
    namespace.apply(&gateway(PODS, &sink, ""));
    namespace.apply(&reject("word", "first"));
    namespace.wait_ready(&["obg,cpr", "--all"]);
    namespace.wait_pods(PODS);
    let pods = pods(&namespace);

    let changes = count("POSTERN_CHANGES", 60);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let mut times: Vec<Duration> = runtime.block_on(async {
        let rules: Api<ComplianceRule> = Api::namespaced(client(&cluster.kubeconfig).await, &namespace.name);
        let config = watcher::Config::default().fields("metadata.name=word");
        let mut seen = watcher(rules.clone(), config).default_backoff().applied_objects().boxed();
        seen.try_next().await.expect("the watch works");
        let mut times = Vec::new();
        for change in 0..changes {
            let word = format!("word-{change}");
            let patch = serde_json::json!({"spec": {"match": {"words": [word]}}});
            let rule = rules.patch("word", &PatchParams::default(), &Patch::Merge(&patch)).await;
            let accepted = Instant::now();
            let generation = rule.expect("the API server takes it").metadata.generation.unwrap_or_default();
            let ready = async {
                while let Some(rule) = seen.try_next().await.expect("the watch works") {
                    if is_ready(&rule, generation) {
                        return;
                    }
                }
            };
            let limit = Duration::from_secs(30);
            tokio::time::timeout(limit, ready)
                .await
                .unwrap_or_else(|_| panic!("change {change}: not in {limit:?}"));
            times.push(accepted.elapsed());
            for (pod, reply) in pods.iter().zip(replies(&pods, &word)) {
                assert!(reply.starts_with("550"), "change {change}: Ready, and {pod} says {reply}");
            }
        }
        times
    });
    times.sort();
    let (p50, p99) = (times[times.len() / 2], times[times.len() * 99 / 100]);
    crate::support::tell(&format!(
        "{changes} changes, {PODS} pods, acceptance to Ready: p50 {p50:?}, p99 {p99:?}, longest {:?}",
        times[times.len() - 1]
    ));
    // A generous bound for a busy machine: without our pushing a change takes a minute. The figures are in the report.
    assert!(p50 < Duration::from_secs(5), "p50 {p50:?}");
    if std::env::var_os("POSTERN_CHANGES").is_some() {
        crate::support::tell(&format!("the kubelet alone: {:?}", kubelet_alone(cluster, &namespace)));
    }
}

/// How long a ConfigMap that a gateway pod mounts takes to get there when nobody touches the pod.
fn kubelet_alone(cluster: &Cluster, namespace: &Namespace<'_>) -> Duration {
    // Mounts follow the last change when it has come to rest.
    std::thread::sleep(Duration::from_secs(5));
    let uid = namespace.get("pod/default-0")["metadata"]["uid"].as_str().expect("a uid").to_owned();
    let state = cluster.kubeconfig.parent().expect("the folder of the cluster");
    let find = |folder: PathBuf| {
        let found = std::process::Command::new("find")
            .arg(&folder)
            .args(["-path", &format!("*{uid}/volumes/kubernetes.io~projected/bundle"), "-prune", "-print"])
            .output()
            .expect("find runs");
        String::from_utf8_lossy(&found.stdout).lines().next().map(PathBuf::from)
    };
    let mount = find(state.to_owned()).or_else(|| find("/var/lib/kubelet".into())).expect("the pod's mount");
    let key = "kubelet-alone.txt";
    let map = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: default-bundle-31}\ndata: {kubelet-alone.txt: x}\n";
    namespace.apply(map);
    let began = Instant::now();
    while !mount.join(key).exists() {
        assert!(began.elapsed() < Duration::from_secs(180), "{} never came", mount.join(key).display());
        std::thread::sleep(Duration::from_millis(10));
    }
    began.elapsed()
}

#[test]
fn r152_kubectl_apply_and_wait_never_returns_early() {
    let (_turn, cluster) = cluster();
    let namespace = cluster.namespace("waits");
    let sink = sink_for_pods();
    namespace.apply(&gateway(PODS, &sink, ""));
    namespace.apply(&reject("word", "first"));
    namespace.wait_ready(&["obg,cpr", "--all"]);
    namespace.wait_pods(PODS);
    let pods = pods(&namespace);
    let rounds = count("POSTERN_WAITS", 15);
    for round in 0..rounds {
        let word = format!("word-{round}");
        namespace.apply(&reject("word", &word));
        namespace.wait_ready(&["cpr/word"]);
        for (pod, reply) in pods.iter().zip(replies(&pods, &word)) {
            assert!(reply.starts_with("550"), "round {round}: {pod} says {reply}");
        }
    }
    crate::support::tell(&format!("{rounds} times apply and wait, {PODS} pods: never early"));
}
