//! The TLS test of a route from real pods, and what kubectl shows of it (spec R19, R22, R28, E9).

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use super::{gateway, sink_for_pods};
use crate::support::cluster::{HOST, Namespace, cluster};
use crate::support::gateway::POSTERN;
use crate::support::sink::{Authority, Behaviour, Sink};
use crate::support::{wait, wait_for};

fn route(port: u16, name: &str) -> String {
    format!(
        "apiVersion: postern.dev/v1alpha1
kind: OutboundRoute
metadata: {{name: partner}}
spec:
  hosts: [{{host: {HOST}, port: {port}}}]
  tls: {{serverName: {name}, caRef: {{kind: ConfigMap, name: ca, key: ca.crt}}}}
"
    )
}

fn version(namespace: &Namespace<'_>) -> String {
    let object = namespace.get("obr/partner");
    object["metadata"]["resourceVersion"].as_str().expect("it has one").to_owned()
}

#[test]
fn r019_r022_r028_every_pod_tests_a_route_and_kubectl_says_what_they_found() {
    let (_turn, cluster) = cluster();
    let namespace = cluster.namespace("probe");
    let inbox = sink_for_pods();
    let authority = Authority::new();
    let address = SocketAddr::new(HOST.parse().expect("an address"), 0);
    let behaviour = Behaviour::with_tls(authority.server(&["mx1.example.org"]));
    let sink = wait(Sink::start_at(address, behaviour));
    namespace.apply(&gateway(2, &inbox, ""));
    namespace.wait_ready(&["obg", "--all"]);
    namespace.wait_pods(2);
    let ca = authority.pem().replace('\n', "\n    ");
    namespace.apply(&format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: ca}}\ndata:\n  ca.crt: |\n    {ca}\n"
    ));
    namespace.apply(&route(sink.address.port(), "mx.example.org"));
    namespace.wait_ready(&["obr/partner"]);
    let said = namespace.wait_condition("obr/partner", "TLSVerified", "False", "CertNameMismatch");
    assert!(said.contains("Could not validate certificate: name mismatch: wanted mx.example.org"), "{said}");
    let probe = wait_for("both pods have tested it", Duration::from_secs(60), || {
        let probe = namespace.get("obr/partner")["status"]["probe"].clone();
        (probe["podsTested"] == 2).then_some(probe)
    });
    assert_eq!((&probe["podsPassed"], probe["pods"].as_array().unwrap().len()), (&0.into(), 2));
    let described = namespace.kubectl(&["describe", "obr", "partner"]);
    for part in ["mx1.example.org", "What helps:", "CertNameMismatch", "returned to its senders (5.7.5)"] {
        assert!(described.contains(part), "{part}: {described}");
    }
    crate::support::tell(&described);

    // The same from one pod, for whoever may exec.
    let wrapper = format!("{}/tests/cluster/cluster", env!("CARGO_MANIFEST_DIR"));
    let folder = std::env::temp_dir().join(format!("postern-kubectl-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let kubectl = folder.join("kubectl");
    std::fs::write(&kubectl, format!("#!/bin/sh\nexec {wrapper} kubectl \"$@\"\n")).unwrap();
    std::fs::set_permissions(&kubectl, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", folder.display(), std::env::var("PATH").unwrap_or_default());
    let asked = Command::new(POSTERN)
        .args(["probe", "partner", "--from", "default-0", "--namespace", &namespace.name])
        .env("PATH", path)
        .env("KUBECONFIG", &cluster.kubeconfig)
        .output()
        .expect("postern starts");
    let said = String::from_utf8_lossy(&asked.stdout).into_owned() + &String::from_utf8_lossy(&asked.stderr);
    assert_eq!(asked.status.code(), Some(1), "{said}");
    assert!(said.contains("FAILED CertNameMismatch"), "{said}");
    std::fs::remove_dir_all(&folder).unwrap();

    // Repaired: verified from both, an event for each turn, and then silence.
    namespace.apply(&route(sink.address.port(), "mx1.example.org"));
    namespace.wait_condition("obr/partner", "TLSVerified", "True", "Verified");
    wait_for("both pods pass", Duration::from_secs(60), || {
        (namespace.get("obr/partner")["status"]["probe"]["podsPassed"] == 2).then_some(())
    });
    let line = namespace.kubectl(&["get", "obr", "partner"]);
    assert!(line.contains("VERIFIED"), "{line}");
    let events = namespace.kubectl(&["get", "events", "--field-selector", "reason=CertNameMismatch"]);
    assert!(events.contains("Could not validate certificate"), "{events}");
    let before = version(&namespace);
    let state = "/var/spool/postern";
    for pod in ["default-0", "default-1"] {
        namespace.kubectl(&["exec", pod, "--", "/postern", "probe", "partner", "--state", state]);
    }
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(version(&namespace), before, "a test that found the same writes nothing");

    // The sink goes: mail fails or not, whoever asks hears it, and so does the status.
    drop(sink);
    let asked = cluster.attempt(
        "kubectl",
        &["-n", &namespace.name, "exec", "default-1", "--", "/postern", "probe", "partner", "--state", state],
        None,
    );
    assert!(!asked.status.success());
    let said = namespace.wait_condition("obr/partner", "TLSVerified", "False", "ConnectFailed");
    assert!(said.starts_with("from 1 of 2 pods (default-1): "), "{said}");
}
