//! A gateway with rules, a route with a login and a word list, on which faults are tried; and what it must come back
//! to.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

use super::super::{gateway, letter, reject, sink_for_pods, to_pod};
use crate::support::client::Client;
use crate::support::cluster::{Cluster, Namespace, SYSTEM};
use crate::support::gateway::condition;
use crate::support::inbox::Inbox;
use crate::support::wait_for;

/// Marks what others put onto objects of ours.
pub const MARK: &str = "someone.example";

/// What a pod says to a letter with this word; nothing, if it cannot be reached.
pub fn mail(ip: &str, word: &str) -> String {
    let answer = || {
        let mut client = Client::connect(to_pod(ip)).ok()?;
        client.say("EHLO client.solarmora.com").ok()?;
        client.send("ani@solarmora.com", &["b@partner.example"], &letter(word)).ok()
    };
    answer().unwrap_or_default()
}

pub struct Ground<'a> {
    pub cluster: &'a Cluster,
    pub namespace: Namespace<'a>,
    pub sink: Inbox,
    replicas: u32,
    word: Cell<u32>,
    baseline: BTreeMap<String, Value>,
}

impl<'a> Ground<'a> {
    pub fn new(cluster: &'a Cluster, name: &str, replicas: u32) -> Self {
        let namespace = cluster.namespace(name);
        let sink = sink_for_pods();
        let mut ground =
            Self { cluster, namespace, sink, replicas, word: Cell::new(0), baseline: BTreeMap::new() };
        ground.write_all();
        ground.namespace.wait_ready(&["obg,cpr,obr", "--all"]);
        ground.namespace.wait_pods(replicas);
        ground.baseline = ground.children();
        ground
    }

    /// What the people of this namespace want.
    pub fn write_all(&self) {
        self.namespace.apply(&self.gateway());
        self.namespace.apply(
            "apiVersion: v1
kind: Secret
metadata: {name: login}
type: kubernetes.io/basic-auth
stringData: {username: u, password: p}
---
apiVersion: postern.dev/v1alpha1
kind: OutboundRoute
metadata: {name: relay}
spec:
  hosts: [{host: relay.example.net, port: 25}]
  auth: {credentialsRef: {name: login}, mechanism: Plain}
",
        );
        self.next_word();
    }

    pub fn gateway(&self) -> String {
        gateway(self.replicas, &self.sink, "")
    }

    /// A change: from now on another word must not leave.
    pub fn next_word(&self) -> String {
        self.word.set(self.word.get() + 1);
        let word = self.word();
        self.namespace.apply(&reject("word", &word));
        word
    }

    pub fn word(&self) -> String {
        format!("word{}", self.word.get())
    }

    /// Pods that are ready, with their addresses.
    pub fn pods(&self) -> Vec<(String, String)> {
        let pods = self.namespace.get("pods");
        let items = pods["items"].as_array().cloned().unwrap_or_default();
        let serving = items.iter().filter(|pod| {
            let ready = condition(&pod["status"], "Ready").is_some_and(|ready| ready["status"] == "True");
            ready && pod["metadata"]["deletionTimestamp"].is_null()
        });
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        serving.map(|pod| (text(&pod["metadata"]["name"]), text(&pod["status"]["podIP"]))).collect()
    }

    /// What a pod says to a letter with this word.
    pub fn mail(&self, ip: &str, word: &str) -> String {
        mail(ip, word)
    }

    /// Every ready pod decides by this word, and by no other. A pod may be dead for a second before the kubelet says
    /// so: one that does not answer is asked again, one that answers is held to it.
    pub fn obeys(&self, word: &str) {
        let pods = self.pods();
        assert!(!pods.is_empty(), "no pod serves");
        for (pod, ip) in pods {
            let answer = |word: &str| {
                let answered = || Some(self.mail(&ip, word)).filter(|reply| !reply.is_empty());
                wait_for(&format!("{pod} answers"), Duration::from_secs(30), answered)
            };
            let (held, harmless) = (answer(word), answer("harmless"));
            assert!(held.starts_with("550"), "{pod} lets {word} pass: {held:?}");
            assert!(harmless.starts_with("250"), "{pod} does not take harmless mail: {harmless:?}");
        }
    }

    /// Everything is as it was: children, statuses, and what pods do.
    pub fn converged(&self) {
        // What was changed under the fault, and one change more.
        wait_for("all pods serve", Duration::from_secs(90), || {
            (self.pods().len() == self.replicas as usize).then_some(())
        });
        self.all_ready(Duration::from_secs(90));
        if self.word.get() > 0 {
            self.obeys(&self.word());
        }
        let word = self.next_word();
        self.namespace.wait_ready(&["cpr/word"]);
        self.obeys(&word);
        let mut last = Vec::new();
        let began = Instant::now();
        loop {
            let children = self.children();
            let names = self.baseline.keys().chain(children.keys());
            let different = names.filter(|name| self.baseline.get(*name) != children.get(*name));
            last.clear();
            last.extend(different.map(|name| {
                format!("{name}: was {:?}, is {:?}", self.baseline.get(name), children.get(name))
            }));
            if last.is_empty() {
                return;
            }
            assert!(began.elapsed() < Duration::from_secs(75), "not as before:\n{}", last.join("\n"));
            std::thread::sleep(Duration::from_millis(500));
        }
    }

    /// Each object is Ready at the generation that was written.
    pub fn all_ready(&self, limit: Duration) {
        let mut last = Vec::new();
        let began = Instant::now();
        loop {
            let objects = self.namespace.get("obg,cpr,obr");
            let items = objects["items"].as_array().cloned().unwrap_or_default();
            let unready = items.iter().filter(|object| {
                let ready = condition(&object["status"], "Ready");
                !ready.is_some_and(|ready| {
                    ready["status"] == "True"
                        && ready["observedGeneration"] == object["metadata"]["generation"]
                })
            });
            last.clear();
            last.extend(unready.map(|object| {
                format!(
                    "{} {}: {:?}",
                    object["kind"],
                    object["metadata"]["name"],
                    condition(&object["status"], "Ready")
                )
            }));
            if last.is_empty() {
                return;
            }
            assert!(began.elapsed() < limit, "not Ready after {limit:?}:\n{}", last.join("\n"));
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Our objects as written by us, without what the cluster or others add.
    pub fn children(&self) -> BTreeMap<String, Value> {
        let kinds = "statefulsets,services,networkpolicies,pdb,configmaps,secrets";
        // Revisions that are kept are more with each change.
        let ours = "postern.dev/gateway=default,!postern.dev/revision";
        let list = self.namespace.kubectl(&["get", kinds, "-l", ours, "-o", "json"]);
        let list: Value = serde_json::from_str(&list).expect("kubectl prints JSON");
        let items = list["items"].as_array().cloned().unwrap_or_default();
        let shown = items.into_iter().map(|object| {
            let name = format!(
                "{}/{}",
                object["kind"].as_str().unwrap_or_default(),
                object["metadata"]["name"].as_str().unwrap_or_default()
            );
            let marked = |(key, _): &(&String, &Value)| !key.starts_with(MARK);
            let of = |part: &str| -> Map<String, Value> {
                let map = object["metadata"][part].as_object();
                map.into_iter()
                    .flatten()
                    .filter(marked)
                    .map(|(key, value)| (key.clone(), value.clone()))
                    .collect()
            };
            let owners: Vec<&Value> = object["metadata"]["ownerReferences"]
                .as_array()
                .into_iter()
                .flatten()
                .map(|o| &o["name"])
                .collect();
            let mut spec = object["spec"].clone();
            if let Some(spec) = spec.as_object_mut() {
                // Given by the cluster, or set by others in a scenario.
                let others = [
                    "clusterIP",
                    "clusterIPs",
                    "minReadySeconds",
                    "sessionAffinity",
                    "sessionAffinityConfig",
                ];
                for name in others {
                    spec.remove(name);
                }
            }
            let content = match object["kind"].as_str() {
                Some("Secret") => object["data"].as_object().map(|data| json!(data.len())),
                Some("ConfigMap") => Some(json!(object["data"].get("manifest.json").is_some())),
                _ => None,
            };
            (name, json!({"labels": of("labels"), "owners": owners, "spec": spec, "content": content}))
        });
        shown.collect()
    }

    pub fn kubectl(&self, arguments: &[&str]) -> String {
        self.namespace.kubectl(arguments)
    }

    pub fn attempt(&self, arguments: &[&str], stdin: Option<&str>) -> bool {
        self.cluster
            .attempt("kubectl", &[&["-n", &self.namespace.name], arguments].concat(), stdin)
            .status
            .success()
    }

    pub fn patch(&self, what: &str, patch: &str) {
        self.kubectl(&["patch", what, "--type=merge", "-p", patch]);
    }

    /// The pods of the operator that run, the leader first.
    pub fn operators(&self) -> Vec<String> {
        let selector = "app.kubernetes.io/component=controller";
        let pods = self.cluster.kubectl(&["-n", SYSTEM, "get", "pods", "-l", selector, "-o", "json"]);
        let pods: Value = serde_json::from_str(&pods).expect("kubectl prints JSON");
        let items = pods["items"].as_array().cloned().unwrap_or_default();
        let alive = items.iter().filter(|pod| pod["metadata"]["deletionTimestamp"].is_null());
        let mut names: Vec<String> =
            alive.map(|pod| pod["metadata"]["name"].as_str().unwrap_or_default().to_owned()).collect();
        let holder = self.holder();
        names.sort_by_key(|name| !holder.starts_with(name.as_str()));
        names
    }

    /// Who has the Lease.
    pub fn holder(&self) -> String {
        let path = "jsonpath={.items[*].spec.holderIdentity}";
        self.cluster.kubectl(&["-n", SYSTEM, "get", "leases", "-o", path])
    }

    pub fn script(&self, arguments: &[&str]) {
        self.cluster.script(arguments);
    }

    /// After a scenario that failed somewhere in its middle.
    pub fn repair(&self) {
        for part in ["etcd", "kube-apiserver"] {
            self.script(&["start-part", part]);
        }
        self.attempt(&["delete", "quota,resourcequota", "--all"], None);
        for kind in [
            "validatingadmissionpolicybindings",
            "validatingadmissionpolicies",
            "validatingwebhookconfigurations",
        ] {
            self.attempt(&["delete", kind, "-l", "someone.example/fault=true"], None);
        }
        // Paused and cut off pods stay so; new ones have processes and a network of their own.
        self.attempt(&["delete", "pods", "--all", "--force", "--grace-period=0"], None);
        self.cluster.scale_operator(1);
        self.namespace.apply(&self.gateway());
    }
}
