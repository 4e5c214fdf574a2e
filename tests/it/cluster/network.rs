//! The gateway's NetworkPolicy, enforced: what it closes is closed to strangers, and what it leaves open is enough
//! for the operator, for mail and for probes.
//!
//! The test cluster has no engine for NetworkPolicies. Here the node's packet filter gets, for the gateway's pods,
//! exactly what the object allows by the rules of the API (support/netpol.rs); kubelet's probes come from the node
//! itself and pass, as everywhere. POSTERN_NETPOL_ENGINE names the program of sigs.k8s.io/kube-network-policies, if
//! you have it: then it decides.

use std::fs;
use std::net::IpAddr;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use super::{gateway, letter, reject, sink_for_pods, to_pod};
use crate::support::client::send;
use crate::support::cluster::{Cluster, SYSTEM, cluster};
use crate::support::netpol::{Someone, enters};
use crate::support::wait_for;

const NODE: &str = "--net=/run/netns/postern-node1";
const CHAIN: &str = "POSTERN-TEST-POLICY";
const PORTS: [u16; 3] = [10025, 8025, 8026];

fn filter(arguments: &[&str]) -> bool {
    let output = Command::new("nsenter").args([NODE, "iptables", "-w"]).args(arguments).output();
    output.expect("nsenter is there").status.success()
}

/// The policy is in force in the node; not any more when dropped.
enum Enforced {
    /// Rules of our own in the node's filter.
    Filter,
    Engine(Child),
}

impl Enforced {
    fn new(cluster: &Cluster, policies: &[Value], pods: &[Someone], others: &[Someone]) -> Self {
        let Some(engine) = std::env::var_os("POSTERN_NETPOL_ENGINE") else {
            return Self::filter(policies, pods, others);
        };
        let node = cluster.kubectl(&["get", "nodes", "-o", "jsonpath={.items[0].metadata.name}"]);
        let kubeconfig = format!("--kubeconfig={}", cluster.kubeconfig.display());
        let child = Command::new("nsenter")
            .arg(NODE)
            .arg(engine)
            .args([&kubeconfig, &format!("--hostname-override={node}")])
            .stderr(Stdio::null())
            .spawn()
            .expect("the engine starts");
        Self::Engine(child)
    }

    /// Opens for each of `pods` what `policies` let each of `others` reach, and closes the rest.
    fn filter(policies: &[Value], pods: &[Someone], others: &[Someone]) -> Self {
        // What a run that was killed has left.
        drop(Self::Filter);
        assert!(filter(&["-N", CHAIN]), "a chain in the node's filter");
        assert!(filter(&[
            "-A",
            CHAIN,
            "-m",
            "conntrack",
            "--ctstate",
            "ESTABLISHED,RELATED",
            "-j",
            "RETURN"
        ]));
        for pod in pods {
            let to = pod.ip.to_string();
            for (from, port) in others.iter().flat_map(|from| PORTS.map(|port| (from, port))) {
                if enters(policies, from, pod, "TCP", port) {
                    let (from, port) = (from.ip.to_string(), port.to_string());
                    let rule = ["-s", &from, "-d", &to, "-p", "tcp", "--dport", &port, "-j", "RETURN"];
                    assert!(filter(&[&["-A", CHAIN], &rule[..]].concat()));
                }
            }
            assert!(filter(&["-A", CHAIN, "-d", &to, "-j", "DROP"]));
        }
        assert!(filter(&["-I", "FORWARD", "1", "-j", CHAIN]));
        Self::Filter
    }
}

impl Drop for Enforced {
    fn drop(&mut self) {
        match self {
            Self::Filter => {
                filter(&["-D", "FORWARD", "-j", CHAIN]);
                filter(&["-F", CHAIN]);
                filter(&["-X", CHAIN]);
            }
            Self::Engine(child) => {
                // It takes its rules away when it is asked to end.
                let pid = child.id().to_string();
                let _ = Command::new("kill").arg(&pid).status();
                let _ = child.wait();
            }
        }
    }
}

fn someone(cluster: &Cluster, pod: &Value) -> Someone {
    let namespace = pod["metadata"]["namespace"].as_str().expect("namespaced");
    let labels = |value: &Value| {
        let map = value["metadata"]["labels"].as_object().into_iter().flatten();
        map.into_iter().map(|(key, value)| (key.clone(), value.as_str().expect("text").to_owned())).collect()
    };
    let home: Value = serde_json::from_str(&cluster.kubectl(&["get", "namespace", namespace, "-o", "json"]))
        .expect("kubectl prints JSON");
    Someone {
        namespace: Some(namespace.to_owned()),
        namespace_labels: labels(&home),
        labels: labels(pod),
        ip: pod["status"]["podIP"].as_str().expect("an address").parse().expect("an address"),
        ports: Default::default(),
    }
}

fn pods(cluster: &Cluster, namespace: &str) -> Vec<Someone> {
    let list = cluster.kubectl(&["-n", namespace, "get", "pods", "-o", "json"]);
    let list: Value = serde_json::from_str(&list).expect("kubectl prints JSON");
    let running =
        list["items"].as_array().expect("items").iter().filter(|pod| pod["status"]["podIP"].is_string());
    running.map(|pod| someone(cluster, pod)).collect()
}

/// Whether a process in the network of this pod can open a connection.
fn reaches(from: &Someone, to: &Someone, port: u16) -> bool {
    let here = from.ip.to_string();
    let pid = wait_for("a process of the pod", Duration::from_secs(10), || {
        let all = fs::read_dir("/proc").ok()?;
        all.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok()).find(|pid| {
            let exe = fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
            let addresses = fs::read_to_string(format!("/proc/{pid}/net/fib_trie")).unwrap_or_default();
            exe.ends_with("postern") && addresses.contains(&format!("{here}\n"))
        })
    });
    let script = format!("import socket\nsocket.create_connection(('{}', {port}), 1.5).close()", to.ip);
    let arguments = [&format!("--net=/proc/{pid}/ns/net"), "python3", "-c", &script];
    Command::new("nsenter").args(arguments).output().expect("nsenter and python3 are there").status.success()
}

#[test]
fn with_the_policy_enforced_strangers_find_the_control_port_closed_and_everything_else_goes_on() {
    let (_turn, cluster) = cluster();
    let (namespace, elsewhere) = (cluster.namespace("walled"), cluster.namespace("strangers"));
    let sink = sink_for_pods();
    namespace.apply(&gateway(2, &sink, ""));
    namespace.apply(&reject("word", "one"));
    elsewhere.apply(&gateway(1, &sink, ""));
    namespace.wait_ready(&["obg,cpr", "--all"]);
    namespace.wait_pods(2);
    elsewhere.wait_ready(&["obg/default"]);
    let (ours, strangers) = (pods(cluster, "walled"), pods(cluster, "strangers"));
    let (pod, peer, stranger) = (&ours[0], &ours[1], &strangers[0]);
    assert!(
        reaches(stranger, pod, 8026),
        "nothing is enforced yet: the port asks for a certificate, no more"
    );

    let policies = vec![namespace.get("networkpolicy/default")];
    let mut others = [pods(cluster, SYSTEM), ours.clone(), strangers.clone()].concat();
    // The host, where the senders of this test are.
    for address in ["10.200.0.1", "10.200.0.11"] {
        others.push(Someone::outside(address));
    }
    let enforced = Enforced::new(cluster, &policies, &ours, &others);
    wait_for("the policy is in force", Duration::from_secs(30), || {
        (!reaches(stranger, pod, 8026)).then_some(())
    });
    let addresses: Vec<IpAddr> = ours.iter().map(|pod| pod.ip).collect();
    for port in [8026, 8025] {
        assert!(!reaches(stranger, pod, port), "{port} of {addresses:?}");
    }
    assert!(reaches(stranger, pod, 10025), "mail is open to everybody");
    assert!(reaches(peer, pod, 8026), "peers hand their spools over");
    // The operator still hears from the pods, and mail still flows.
    for word in ["two", "three", "four"] {
        namespace.apply(&reject("word", word));
        namespace.wait_ready(&["cpr/word"]);
        for pod in &ours {
            let to = to_pod(&pod.ip.to_string());
            let mail = |body: &str| send(to, "ani@solarmora.com", &["b@partner.example"], &letter(body));
            assert!(mail(word).starts_with("550"));
            assert!(mail("harmless").starts_with("250"));
        }
    }
    // Long enough for a readiness probe that fails to show.
    namespace.wait_pods(2);
    drop(enforced);
    wait_for("the port is open again", Duration::from_secs(30), || {
        reaches(stranger, pod, 8026).then_some(())
    });
}
