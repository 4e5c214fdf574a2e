//! Ready never lies: paused pods, refusing pods, a controller that is away.

use std::process::{Child, Command};
use std::time::Duration;

use super::{gateway, letter, reject, sink_for_pods, to_pod};
use crate::support::client::send;
use crate::support::cluster::{Namespace, cluster};
use crate::support::gateway::condition;
use crate::support::wait_for;

fn mail(ip: &str, body: &str) -> String {
    send(to_pod(ip), "ani@solarmora.com", &["b@partner.example"], &letter(body))
}

#[test]
fn e13_a_paused_pod_is_named_and_ready_waits_for_it() {
    let (_turn, cluster) = cluster();
    let namespace = cluster.namespace("paused");
    let sink = sink_for_pods();
    namespace.apply(&gateway(3, &sink, ""));
    namespace.apply(&reject("word", "one"));
    namespace.wait_ready(&["obg,cpr", "--all"]);
    namespace.wait_pods(3);
    let paused = namespace.pod_ip("default-1");
    cluster.script(&["pause-pod", &namespace.name, "default-1"]);
    namespace.apply(&reject("word", "two"));
    let status = wait_for("two of three pods have it", Duration::from_secs(30), || {
        let rule = namespace.get("cpr/word");
        let rollout = &rule["status"]["rollout"];
        let here = rollout["podsUpdated"] == 2 && rule["status"]["observedGeneration"] == 2;
        here.then(|| rule["status"].clone())
    });
    assert_eq!(status["rollout"]["podsTotal"], 3, "{status}");
    assert_eq!(status["rollout"]["stalePods"], serde_json::json!(["default-1"]), "{status}");
    assert_eq!(condition(&status, "Ready").unwrap()["status"], "False", "{status}");
    cluster.script(&["resume-pod", &namespace.name, "default-1"]);
    namespace.wait_ready(&["cpr/word"]);
    assert!(mail(&paused, "two").starts_with("550"));
    let status = namespace.get("cpr/word")["status"].clone();
    assert!(status["rollout"]["propagationMillis"].is_u64(), "{status}");
}

/// A process that holds a port inside a pod's network, so that the gateway there cannot.
struct PortThief(Child);

impl PortThief {
    fn steal(namespace: &Namespace<'_>, pod: &str, port: u16) -> Self {
        let ip = namespace.pod_ip(pod);
        // The pod's network namespace is that of the process that answers to its address.
        let pid = wait_for("a process of the pod", Duration::from_secs(10), || {
            let all = std::fs::read_dir("/proc").ok()?;
            all.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok()).find(|pid| {
                let addresses =
                    std::fs::read_to_string(format!("/proc/{pid}/net/fib_trie")).unwrap_or_default();
                let root = std::fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
                root.ends_with("postern") && addresses.contains(&format!("{ip}\n"))
            })
        });
        let script = format!(
            "import socket,time\ns=socket.socket(socket.AF_INET6)\ns.bind(('::',{port}))\ns.listen()\ntime.sleep(600)"
        );
        let child = Command::new("nsenter")
            .args([&format!("--net=/proc/{pid}/ns/net"), "python3", "-c", &script])
            .spawn()
            .expect("nsenter and python3 are there");
        Self(child)
    }
}

impl Drop for PortThief {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn e14_a_revision_that_one_pod_refuses_is_not_ready_and_says_why() {
    let (_turn, cluster) = cluster();
    let namespace = cluster.namespace("refused");
    let sink = sink_for_pods();
    namespace.apply(&gateway(2, &sink, ""));
    namespace.apply(&reject("word", "one"));
    namespace.wait_ready(&["obg,cpr", "--all"]);
    namespace.wait_pods(2);
    let ip = namespace.pod_ip("default-0");
    let thief = PortThief::steal(&namespace, "default-0", 2626);
    std::thread::sleep(Duration::from_secs(1));
    let listeners = "  listeners: [{name: smtp, port: 25}, {name: extra, port: 2626}]\n";
    namespace.apply(&gateway(2, &sink, listeners));
    let message = namespace.wait_condition("obg/default", "Ready", "False", "ConfigRejected");
    assert!(message.contains("default-0") && message.contains("2626"), "{message}");
    assert!(mail(&ip, "one").starts_with("550"), "mail goes on under the old revision");
    drop(thief);
    namespace.wait_ready(&["obg/default"]);
}

#[test]
fn e18_without_the_operator_a_restarted_pod_serves_the_last_revision() {
    let (_turn, cluster) = cluster();
    let namespace = cluster.namespace("orphan");
    let sink = sink_for_pods();
    namespace.apply(&gateway(1, &sink, ""));
    namespace.apply(&reject("word", "one"));
    namespace.wait_ready(&["obg,cpr", "--all"]);
    cluster.scale_operator(0);
    namespace.kubectl(&["delete", "pod/default-0", "--wait"]);
    namespace.kubectl(&["wait", "--for=condition=Ready", "pod/default-0", "--timeout=90s"]);
    assert!(mail(&namespace.pod_ip("default-0"), "one").starts_with("550"));
    assert!(mail(&namespace.pod_ip("default-0"), "other").starts_with("250"));
    cluster.scale_operator(1);
    namespace.apply(&reject("word", "two"));
    namespace.wait_ready(&["cpr/word"]);
}
