//! The real cluster of tests/cluster, with Postern installed by Helm, and a real Postfix as the next hop.

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use super::gateway::{POSTERN, condition};
use super::postfix::Authority;
use super::wait_for;

/// The host as pods see it.
pub const HOST: &str = "10.200.0.1";
/// Where the operator runs.
pub const SYSTEM: &str = "postern-system";
pub const IMAGE: &str = "postern:test";
/// The name that the samples give their next hop; a Postfix of ours answers to it.
pub const RELAY: &str = "mail.example.net";

pub struct Cluster {
    pub kubeconfig: PathBuf,
    pub authority: Authority,
}

/// Tests take turns: they measure times, pause pods and scale the operator.
static TURN: Mutex<()> = Mutex::new(());

/// The cluster with the operator installed; started by whoever comes first. `make test` ends it.
pub fn cluster() -> (MutexGuard<'static, ()>, &'static Cluster) {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    let turn = TURN.lock();
    let failed = turn.is_err();
    let turn = turn.unwrap_or_else(PoisonError::into_inner);
    let cluster = CLUSTER.get_or_init(Cluster::start);
    if failed {
        // The test before may have left none or two.
        TURN.clear_poison();
        cluster.scale_operator(1);
    }
    (turn, cluster)
}

fn root(path: &str) -> String {
    format!("{}/{path}", env!("CARGO_MANIFEST_DIR"))
}

impl Cluster {
    fn start() -> Self {
        let script = |arguments: &[&str]| {
            let output = Command::new(root("tests/cluster/cluster"))
                .args(arguments)
                .stderr(Stdio::inherit())
                .output()
                .expect("tests/cluster/cluster starts");
            assert!(output.status.success(), "tests/cluster/cluster {arguments:?} failed");
            String::from_utf8(output.stdout).expect("it prints UTF-8")
        };
        let up = script(&["up"]);
        let kubeconfig = PathBuf::from(up.lines().last().expect("the last line is the KUBECONFIG"));
        let authority = Authority::new(&kubeconfig.with_file_name("postern-test-ca"));
        let trusted = authority.with_system_roots();
        let certificates = format!("{}:/etc/ssl/certs/ca-certificates.crt", trusted.display());
        script(&["load-image", IMAGE, POSTERN, &certificates]);
        let zone = kubeconfig.with_file_name("dns").join("zones/example.conf");
        fs::write(zone, zone_file()).expect("the cluster's DNS folder is writable");
        let cluster = Self { kubeconfig, authority };
        let charts = root("charts/postern");
        let installed = cluster.tool("helm", &["status", "postern", "-n", SYSTEM]).output();
        let verb = if installed.is_ok_and(|output| output.status.success()) { "upgrade" } else { "install" };
        cluster.run(
            "helm",
            &[
                verb,
                "postern",
                &charts,
                "--namespace",
                SYSTEM,
                "--create-namespace",
                "--wait",
                "--timeout",
                "3m",
                "--set",
                "image.repository=postern",
                "--set",
                "image.tag=test",
            ],
            None,
        );
        if verb == "upgrade" {
            // The same tag with new content: new pods are needed.
            cluster.kubectl(&["-n", SYSTEM, "rollout", "restart", "deployment"]);
            cluster.kubectl(&["-n", SYSTEM, "rollout", "status", "deployment", "--timeout=120s"]);
        }
        cluster
    }

    fn tool(&self, tool: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(root("tests/cluster/cluster"));
        command.arg(tool).args(arguments).env("KUBECONFIG", &self.kubeconfig);
        command
    }

    pub fn run(&self, tool: &str, arguments: &[&str], stdin: Option<&str>) -> String {
        let output = self.attempt(tool, arguments, stdin);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{tool} {}: {error}", arguments.join(" "));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    pub fn attempt(&self, tool: &str, arguments: &[&str], stdin: Option<&str>) -> Output {
        let mut child = self
            .tool(tool, arguments)
            .stdin(if stdin.is_some() { Stdio::piped() } else { Stdio::null() })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the tool starts");
        if let Some(text) = stdin {
            child.stdin.take().expect("piped").write_all(text.as_bytes()).expect("it reads");
        }
        child.wait_with_output().expect("it ends")
    }

    pub fn kubectl(&self, arguments: &[&str]) -> String {
        self.run("kubectl", arguments, None)
    }

    pub fn script(&self, arguments: &[&str]) {
        let status = Command::new(root("tests/cluster/cluster")).args(arguments).status().expect("it starts");
        assert!(status.success(), "tests/cluster/cluster {arguments:?}");
    }

    /// Runs so many controllers, and waits until it is so.
    pub fn scale_operator(&self, count: u32) {
        let to = format!("--replicas={count}");
        self.kubectl(&["-n", SYSTEM, "scale", "deployment", "--all", &to]);
        if count == 0 {
            wait_for("the operator is gone", Duration::from_secs(60), || {
                let selector = "app.kubernetes.io/component=controller";
                let pods = self.kubectl(&["-n", SYSTEM, "get", "pods", "-l", selector, "-o", "name"]);
                pods.is_empty().then_some(())
            });
        } else {
            self.kubectl(&["-n", SYSTEM, "rollout", "status", "deployment", "--timeout=120s"]);
        }
    }

    /// A namespace for one test, restricted as strictly as Kubernetes can.
    pub fn namespace(&self, name: &str) -> Namespace<'_> {
        self.attempt("kubectl", &["delete", "namespace", name, "--ignore-not-found", "--wait"], None);
        self.kubectl(&["create", "namespace", name]);
        self.kubectl(&["label", "namespace", name, "pod-security.kubernetes.io/enforce=restricted"]);
        Namespace { cluster: self, name: name.to_owned() }
    }
}

/// Names of the samples, as this cluster's DNS answers them.
fn zone_file() -> String {
    format!(
        "example.net:10053 {{
    bind {HOST}
    hosts {{
        {HOST} {RELAY}
        ttl 1
    }}
}}
"
    )
}

/// Removed at the end, unless the test failed: then what is left tells why.
pub struct Namespace<'a> {
    pub cluster: &'a Cluster,
    pub name: String,
}

impl Namespace<'_> {
    pub fn kubectl(&self, arguments: &[&str]) -> String {
        self.cluster.run("kubectl", &[&["-n", &self.name], arguments].concat(), None)
    }

    pub fn apply(&self, yaml: &str) -> String {
        self.cluster.run("kubectl", &["-n", &self.name, "apply", "-f", "-"], Some(yaml))
    }

    pub fn get(&self, what: &str) -> serde_json::Value {
        serde_json::from_str(&self.kubectl(&["get", what, "-o", "json"])).expect("kubectl prints JSON")
    }

    /// `kubectl wait` on the very generation that was applied.
    pub fn wait_ready(&self, what: &[&str]) {
        let arguments = [&["wait", "--for=condition=Ready", "--timeout=90s"], what].concat();
        let output =
            self.cluster.attempt("kubectl", &[&["-n", &self.name], arguments.as_slice()].concat(), None);
        if !output.status.success() {
            let state = self.kubectl(&["get", "obg,obr,rtr,cpr,pods,pvc", "-o", "wide"]);
            let gateways = self.kubectl(&["get", "obg", "-o", "yaml"]);
            panic!("{}\n{state}\n{gateways}", String::from_utf8_lossy(&output.stderr));
        }
    }

    /// Waits until all of a gateway's pods serve: Ready speaks of those that do already.
    pub fn wait_pods(&self, count: u32) {
        wait_for(&format!("{count} pods serve"), Duration::from_secs(90), || {
            let rollout = self.get("obg/default")["status"]["rollout"].clone();
            (rollout["podsTotal"] == count && rollout["podsUpdated"] == count).then_some(())
        });
    }

    pub fn wait_condition(&self, what: &str, kind: &str, status: &str, reason: &str) -> String {
        wait_for(&format!("{what} {kind}={status}/{reason}"), Duration::from_secs(60), || {
            let object = self.get(what);
            let found = condition(&object["status"], kind)?;
            let current = found["observedGeneration"] == object["metadata"]["generation"];
            (current && found["status"] == status && found["reason"] == reason)
                .then(|| found["message"].as_str().unwrap_or_default().to_owned())
        })
    }

    /// Address and port of the gateway's Service, reachable from the host.
    pub fn service(&self, gateway: &str) -> String {
        let service = self.get(&format!("service/{gateway}"));
        service["spec"]["clusterIP"].as_str().expect("a ClusterIP").to_owned()
    }

    pub fn pod_ip(&self, pod: &str) -> String {
        self.get(&format!("pod/{pod}"))["status"]["podIP"].as_str().expect("a pod IP").to_owned()
    }

    /// Sends by swaks; its transcript.
    pub fn swaks(&self, server: &str, port: u16, arguments: &[&str]) -> String {
        let port = port.to_string();
        let output = Command::new("swaks")
            .args(["--server", server, "--port", &port, "--ehlo", "client.solarmora.com"])
            .args(arguments)
            .output()
            .expect("swaks is installed");
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
    }
}

impl Drop for Namespace<'_> {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.cluster.attempt("kubectl", &["delete", "namespace", &self.name, "--wait=false"], None);
        }
    }
}
