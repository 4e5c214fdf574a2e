//! How long a change takes from the API server's acceptance to Ready, measured from outside.

use std::time::{Duration, Instant};

use futures::{StreamExt, TryStreamExt};
use kube::api::{Api, Patch, PatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Client, Config};
use postern::api::ComplianceRule;

use super::{gateway, reject, sink_for_pods};
use crate::support::cluster::cluster;

const CHANGES: usize = 30;

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

#[test]
fn thirty_changes_with_three_pods_are_ready_in_time() {
    let (_turn, cluster) = cluster();
    let namespace = cluster.namespace("propagation");
    let sink = sink_for_pods();
    namespace.apply(&gateway(3, &sink, ""));
    namespace.apply(&reject("word", "one"));
    namespace.wait_ready(&["obg,cpr", "--all"]);
    namespace.wait_pods(3);

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let mut times: Vec<Duration> = runtime.block_on(async {
        let rules: Api<ComplianceRule> = Api::namespaced(client(&cluster.kubeconfig).await, &namespace.name);
        let config = watcher::Config::default().fields("metadata.name=word");
        let mut seen = watcher(rules.clone(), config).default_backoff().applied_objects().boxed();
        seen.try_next().await.expect("the watch works");
        let mut times = Vec::new();
        for change in 0..CHANGES {
            let patch = serde_json::json!({"spec": {"match": {"words": [format!("word-{change}")]}}});
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
        }
        times
    });
    times.sort();
    let (p50, p99) = (times[CHANGES / 2], times[CHANGES - 1]);
    crate::support::tell(&format!(
        "{CHANGES} changes, 3 pods, acceptance to Ready: p50 {p50:?}, p99 {p99:?}, all {times:?}"
    ));
    // A generous bound for a busy machine: without the touch a change takes a minute. The figures are in the report.
    assert!(p50 < Duration::from_secs(5), "p50 {p50:?}");
}
