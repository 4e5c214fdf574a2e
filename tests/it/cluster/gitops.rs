//! How Postern lives under Helm, kustomize, Flux and Argo CD: installed, tested, upgraded from an earlier chart,
//! uninstalled, and what those tools believe of objects in every state.

use std::fmt::Write as _;
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{gateway, letter, reject, sink_for_pods, to_pod};
use crate::support::chart::{check, root};
use crate::support::client::send;
use crate::support::cluster::{Cluster, IMAGE, SYSTEM, cluster};
use crate::support::gateway::{Folder, POSTERN, condition};
use crate::support::{tell, wait_for};

const CHART: &str = "charts/postern";
/// The chart as of the end of issue 4 (commit 84f21b6), by `helm package --version 0.0.4`.
const PREVIOUS: &str = "tests/golden/chart/postern-0.0.4.tgz";

/// What `helm` is told of this cluster.
fn helm(cluster: &Cluster, verb: &[&str], chart: &str, image: &str) -> String {
    let chart = root().join(chart);
    let (repository, tag) = image.split_once(':').expect("a name and a tag");
    let sets = [format!("image.repository={repository}"), format!("image.tag={tag}")];
    let chart = chart.to_str().expect("UTF-8");
    let place = ["postern", chart, "-n", SYSTEM, "--create-namespace", "--wait", "--timeout", "3m"];
    cluster.run("helm", &[verb, &place, &["--set", &sets[0], "--set", &sets[1]]].concat(), None)
}

/// The chart of this tree is back at the end, whatever happened.
struct Restored<'a>(&'a Cluster);

impl Drop for Restored<'_> {
    fn drop(&mut self) {
        let chart = root().join(CHART);
        let (repository, tag) = IMAGE.split_once(':').expect("a name and a tag");
        let sets = [format!("image.repository={repository}"), format!("image.tag={tag}")];
        let chart = chart.to_str().expect("UTF-8");
        let verb = ["upgrade", "--install", "postern", chart, "-n", SYSTEM, "--create-namespace"];
        let rest = ["--wait", "--timeout", "3m", "--set", &sets[0], "--set", &sets[1]];
        self.0.attempt("helm", &[&verb[..], &rest].concat(), None);
    }
}

/// Takes the operator away. A garbage collector whose API server was just away (tests of faults run before these) may
/// never hear that the Deployment went, and its pod would count as an operator for ever after.
fn uninstall(cluster: &Cluster) {
    cluster.run("helm", &["uninstall", "postern", "-n", SYSTEM, "--wait"], None);
    let ours = "app.kubernetes.io/instance=postern";
    cluster.kubectl(&["-n", SYSTEM, "delete", "replicasets,pods", "-l", ours, "--wait"]);
}

#[test]
fn helm_test_finds_a_whole_installation_whole_and_says_what_is_missing() {
    let (_turn, cluster) = cluster();
    let test = || {
        let output =
            cluster.attempt("helm", &["test", "postern", "-n", SYSTEM, "--logs", "--timeout", "2m"], None);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        (output.status.success(), text + &String::from_utf8_lossy(&output.stderr))
    };
    let (passed, said) = test();
    assert!(passed && said.contains("Phase:") && said.contains("Succeeded"), "{said}");
    let back = Restored(cluster);
    cluster.scale_operator(0);
    let (passed, said) = test();
    let log = cluster.kubectl(&["-n", SYSTEM, "logs", "pod/postern-test"]);
    assert!(!passed, "{said}");
    assert!(log.contains("FAIL  an operator works: nobody holds its lease"), "{log}");
    assert!(log.contains("ok    the operator has its rights in the whole cluster"), "{log}");
    for kind in ["OutboundGateway", "OutboundRoute", "RoutingRule", "ComplianceRule", "Quarantine"] {
        assert!(log.contains(&format!("ok    {kind} is defined as this version knows it")), "{log}");
    }
    cluster.scale_operator(1);
    let (passed, said) = test();
    assert!(passed, "{said}");
    drop(back);
}

/// What kstatus says of an object, as Flux runs it.
fn kstatus(object: &Value) -> String {
    let mut child = Command::new(check("kstatus"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("kstatus is built");
    child.stdin.take().expect("piped").write_all(object.to_string().as_bytes()).expect("it reads");
    let output = child.wait_with_output().expect("it ends");
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    text.split('\t').nth(2).unwrap_or_else(|| panic!("no verdict: {text}")).to_owned()
}

/// What Argo CD says of it, by the health check that is shipped.
fn argo(object: &Value) -> String {
    let folder = Folder::new("argo-health");
    let file = folder.write(
        "ask.lua",
        &format!("obj = {}\nlocal f = assert(loadfile(arg[1]))\nprint(f().status)\n", lua(object)),
    );
    let health = root().join("deploy/argocd/health.lua");
    let output = Command::new("lua5.1").args([&file, &health]).output().expect("lua5.1 is there");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// JSON as a table of Lua.
fn lua(value: &Value) -> String {
    match value {
        Value::Null => "nil".to_owned(),
        Value::String(text) => {
            let mut out = String::from("\"");
            for byte in text.bytes() {
                let _ = write!(out, "\\{byte:03}");
            }
            out + "\""
        }
        Value::Array(list) => format!("{{{}}}", list.iter().map(lua).collect::<Vec<_>>().join(",")),
        Value::Object(map) => {
            let entry = |(key, value): (&String, &Value)| {
                format!("[{}]={}", lua(&Value::from(key.as_str())), lua(value))
            };
            format!("{{{}}}", map.iter().map(entry).collect::<Vec<_>>().join(","))
        }
        plain => plain.to_string(),
    }
}

/// The one thing that both must agree on with the object itself: current only when Ready says so of this generation.
fn verdict(object: &Value) -> String {
    let said = kstatus(object);
    let argo = argo(object);
    let generation = &object["metadata"]["generation"];
    let ready = condition(&object["status"], "Ready")
        .is_some_and(|ready| ready["status"] == "True" && ready["observedGeneration"] == *generation);
    let seen = object["status"]["observedGeneration"] == *generation;
    assert!(said != "Current" || (ready && seen), "kstatus: Current before Ready: {object}");
    assert!(argo != "Healthy" || (ready && seen), "Argo CD: Healthy before Ready: {object}");
    let same = match said.as_str() {
        "Current" => "Healthy",
        "Failed" => "Degraded",
        _ => "Progressing",
    };
    assert_eq!(argo, same, "kstatus says {said} of {object}");
    said
}

#[test]
fn flux_and_argo_cd_never_call_an_object_current_before_it_is_ready() {
    let (_turn, cluster) = cluster();
    let namespace = cluster.namespace("flux");
    let sink = sink_for_pods();
    let back = Restored(cluster);
    cluster.scale_operator(0);
    // Nobody has looked at them: silence is no consent.
    let route = "apiVersion: postern.dev/v1alpha1\nkind: OutboundRoute\nmetadata: {name: r}\nspec: {hosts: [{host: a.example}], probe: {mode: Disabled}}\n";
    let others = [
        "apiVersion: postern.dev/v1alpha1\nkind: AddressList\nmetadata: {name: l}\nspec: {entries: [{domain: a.example}]}\n",
        "apiVersion: postern.dev/v1alpha1\nkind: Quarantine\nmetadata: {name: q}\nspec: {}\n",
        "apiVersion: postern.dev/v1alpha1\nkind: Directory\nmetadata: {name: d}\nspec: {units: [{path: /sales}]}\n",
        "apiVersion: postern.dev/v1alpha1\nkind: RoutingRule\nmetadata: {name: rr}\nspec: {messages: [Outbound], action: {modify: {subjectPrefix: x}}}\n",
    ];
    namespace.apply(&gateway(1, &sink, "  directoryRef: {name: d}\n"));
    namespace.apply(&reject("word", "one"));
    namespace.apply(route);
    others.iter().for_each(|yaml| drop(namespace.apply(yaml)));
    let all = ["obg/default", "cpr/word", "obr/r", "addresslist/l", "quarantine/q", "directory/d", "rtr/rr"];
    for object in all {
        assert_eq!(verdict(&namespace.get(object)), "InProgress", "{object} without an operator");
    }
    cluster.scale_operator(1);
    // From here on looked at all the time: whatever state is met, nobody is told too early.
    let mut states = std::collections::BTreeSet::new();
    let mut follow = |limit: u64, done: &str, objects: &[&str]| {
        wait_for(&format!("{objects:?} {done}"), Duration::from_secs(limit), || {
            let verdicts: Vec<String> =
                objects.iter().map(|object| verdict(&namespace.get(object))).collect();
            states.extend(verdicts.iter().cloned());
            verdicts.iter().all(|verdict| verdict == done).then_some(())
        });
    };
    follow(90, "Current", &all);
    for word in ["two", "three"] {
        namespace.apply(&reject("word", word));
        follow(20, "Current", &["cpr/word"]);
    }
    // What cannot become true by waiting fails at once; a gateway that is missing may still come.
    let uninvited = cluster.namespace("flux-uninvited");
    let of_gateway = |namespace: &str| {
        let reference = format!("spec:\n  gatewayRef: {{name: default, namespace: {namespace}}}\n");
        reject("far", "x").replace("spec:\n", &reference)
    };
    uninvited.apply(&of_gateway("flux"));
    wait_for("the uninvited rule fails", Duration::from_secs(20), || {
        (verdict(&uninvited.get("cpr/far")) == "Failed").then_some(())
    });
    namespace.apply(&of_gateway("kube-system"));
    namespace.wait_condition("cpr/far", "ResolvedRefs", "False", "GatewayNotFound");
    assert_eq!(verdict(&namespace.get("cpr/far")), "InProgress");
    // A paused pod: in progress, however long it takes.
    cluster.script(&["pause-pod", "flux", "default-0"]);
    namespace.apply(&reject("other", "four"));
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(4) {
        assert_eq!(verdict(&namespace.get("cpr/other")), "InProgress");
    }
    cluster.script(&["resume-pod", "flux", "default-0"]);
    follow(60, "Current", &["cpr/other"]);
    // Going away, held by somebody's finalizer.
    namespace.kubectl(&[
        "patch",
        "obr/r",
        "--type=merge",
        "-p",
        r#"{"metadata":{"finalizers":["example.com/hold"]}}"#,
    ]);
    namespace.kubectl(&["delete", "obr/r", "--wait=false"]);
    assert_eq!(verdict(&namespace.get("obr/r")), "Terminating");
    namespace.kubectl(&["patch", "obr/r", "--type=merge", "-p", r#"{"metadata":{"finalizers":null}}"#]);
    tell(&format!("states met on the way: {states:?}"));
    drop(back);
}

#[test]
fn the_kustomize_bases_are_taken_by_a_real_api_server() {
    let (_turn, cluster) = cluster();
    let namespace = cluster.namespace("mail");
    for overlay in ["base", "overlays/namespaced", "overlays/dev"] {
        let folder = root().join("deploy/kustomize").join(overlay);
        let arguments = ["apply", "--server-side", "--force-conflicts", "--dry-run=server", "-k"];
        cluster.kubectl(&[&arguments[..], &[folder.to_str().expect("UTF-8")]].concat());
    }
    let folder = root().join("deploy/kustomize/gateway/overlays/dev");
    namespace.kubectl(&["apply", "-k", folder.to_str().expect("UTF-8")]);
    namespace.wait_ready(&["obg/default"]);
    let message = namespace.wait_condition("obg/default", "AcceptsMail", "True", "AcceptsMail");
    tell(&format!("a gateway by kubectl apply -k: {message}"));
}

#[test]
fn an_upgrade_from_the_previous_chart_keeps_objects_gateways_and_mail_and_brings_new_fields() {
    let (_turn, cluster) = cluster();
    let back = Restored(cluster);
    uninstall(cluster);
    let crds =
        "outboundgateways outboundroutes routingrules compliancerules addresslists directories quarantines";
    let crds: Vec<String> = crds.split(' ').map(|kind| format!("crd/{kind}.postern.dev")).collect();
    let crds: Vec<&str> = crds.iter().map(String::as_str).collect();
    cluster.kubectl(&[&["delete", "--ignore-not-found", "--wait"], &crds[..]].concat());

    // Gateways run the operator's image: another name makes the upgrade replace their pods too.
    cluster.script(&["load-image", "postern:before", POSTERN]);
    helm(cluster, &["install"], PREVIOUS, "postern:before");
    let namespace = cluster.namespace("upgraded");
    let sink = sink_for_pods();
    namespace.apply(&gateway(2, &sink, "").replace("ephemeral: true", "size: 64Mi"));
    namespace.apply(&reject("word", "forbidden"));
    let route = "apiVersion: postern.dev/v1alpha1\nkind: OutboundRoute\nmetadata: {name: r}\nspec:\n  hosts: [{host: a.example}]\n  limits: {connections: 5}\n";
    let early = cluster.attempt("kubectl", &["-n", "upgraded", "apply", "-f", "-"], Some(route));
    let said = String::from_utf8_lossy(&early.stderr);
    assert!(!early.status.success() && said.contains("unknown field"), "the previous chart knows it: {said}");
    namespace.wait_ready(&["obg,cpr", "--all"]);
    namespace.wait_pods(2);
    let uid = |what: &str| namespace.get(what)["metadata"]["uid"].clone();
    let whats =
        ["obg/default", "cpr/word", "pvc/spool-default-0", "pvc/spool-default-1", "statefulset/default"];
    let before = whats.map(uid);
    let old_pods = ["pod/default-0", "pod/default-1"].map(uid);
    let generation = namespace.get("cpr/word")["metadata"]["generation"].clone();
    let service = namespace.service("default");

    let stop = AtomicBool::new(false);
    let accepted = std::thread::scope(|scope| {
        // By the Service: it goes to port 25.
        let sender = scope.spawn(|| send_by_service(&stop, &service));
        std::thread::sleep(Duration::from_secs(1));
        let start = Instant::now();
        helm(cluster, &["upgrade"], CHART, IMAGE);
        tell(&format!("helm upgrade took {:.1} s", start.elapsed().as_secs_f64()));
        wait_for("both pods are new", Duration::from_secs(180), || {
            let get = |pod| cluster.attempt("kubectl", &["-n", "upgraded", "get", pod, "-o", "json"], None);
            let now = ["pod/default-0", "pod/default-1"].map(|pod| {
                serde_json::from_slice::<Value>(&get(pod).stdout)
                    .map_or(Value::Null, |pod| pod["metadata"]["uid"].clone())
            });
            now.iter().zip(&old_pods).all(|(now, old)| !now.is_null() && now != old).then_some(())
        });
        namespace.wait_pods(2);
        namespace.wait_ready(&["obg,cpr", "--all"]);
        std::thread::sleep(Duration::from_secs(1));
        stop.store(true, Ordering::Relaxed);
        sender.join().expect("the sender ends")
    });
    assert_eq!(whats.map(uid), before, "objects, volumes and the set are those of before");
    assert_eq!(namespace.get("cpr/word")["metadata"]["generation"], generation, "no object was rewritten");
    assert!(accepted.len() > 20, "{}", accepted.len());
    wait_for("all that was accepted arrives", Duration::from_secs(60), || {
        let arrived: Vec<String> = sink.mail().iter().map(|mail| mail.text()).collect();
        let lost = accepted
            .iter()
            .filter(|subject| !arrived.iter().any(|text| text.contains(&format!("Subject: {subject}\r\n"))));
        (lost.count() == 0).then_some(())
    });
    let arrived = sink.mail().len();
    tell(&format!("during the upgrade: {} accepted, {arrived} delivered, lost 0", accepted.len()));
    let refused = send(
        to_pod(&namespace.pod_ip("default-0")),
        "ani@solarmora.com",
        &["b@partner.example"],
        &letter("forbidden"),
    );
    assert!(refused.starts_with("550"), "{refused}");
    namespace.apply(route);
    namespace.wait_ready(&["obr/r"]);
    cluster.run("helm", &["test", "postern", "-n", SYSTEM, "--timeout", "2m"], None);
    drop(back);
}

/// Sends until told to stop; the subjects of what was answered 250.
fn send_by_service(stop: &AtomicBool, service: &str) -> Vec<String> {
    let mut accepted = Vec::new();
    let address: std::net::SocketAddr = format!("{service}:25").parse().expect("an address");
    for number in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let subject = format!("upgrade-{number}");
        let text = letter("harmless").replace("Subject: Laporan", &format!("Subject: {subject}"));
        if one(address, &text).is_ok_and(|reply| reply.starts_with("250")) {
            accepted.push(subject);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    accepted
}

/// One message in a session of its own; a pod that is being replaced refuses or hangs up, and a client comes again.
fn one(address: std::net::SocketAddr, text: &str) -> std::io::Result<String> {
    let mut client = crate::support::client::Client::connect(address)?;
    client.say("EHLO client.solarmora.com")?;
    client.send("ani@solarmora.com", &["b@partner.example"], text)
}

#[test]
fn uninstalling_keeps_objects_gateways_and_mail_unless_told() {
    let (_turn, cluster) = cluster();
    let back = Restored(cluster);
    let namespace = cluster.namespace("kept");
    let sink = sink_for_pods();
    namespace.apply(&gateway(1, &sink, "").replace("ephemeral: true", "size: 64Mi"));
    namespace.apply(&reject("word", "forbidden"));
    namespace.wait_ready(&["obg,cpr", "--all"]);
    let uid = |what: &str| namespace.get(what)["metadata"]["uid"].clone();
    let whats = ["obg/default", "cpr/word", "pvc/spool-default-0", "pod/default-0", "statefulset/default"];
    let before = whats.map(uid);
    uninstall(cluster);
    let left =
        cluster.kubectl(&["get", "clusterrole,clusterrolebinding,validatingadmissionpolicy", "-o", "name"]);
    assert!(!left.contains("postern"), "{left}");
    assert_eq!(whats.map(uid), before);
    let pod = to_pod(&namespace.pod_ip("default-0"));
    let mail = |body: &str| send(pod, "ani@solarmora.com", &["b@partner.example"], &letter(body));
    assert!(mail("harmless").starts_with("250") && mail("forbidden").starts_with("550"));
    helm(cluster, &["install"], CHART, IMAGE);
    namespace.apply(&reject("word", "other"));
    namespace.wait_ready(&["obg,cpr", "--all"]);
    assert_eq!(whats.map(uid), before, "a new installation takes over what is there");
    assert!(mail("forbidden").starts_with("250") && mail("other").starts_with("550"));

    // Told otherwise, everything goes but the volumes: a 250 is a promise.
    helm(cluster, &["upgrade", "--set", "crds.keep=false"], CHART, IMAGE);
    uninstall(cluster);
    wait_for("the definitions are gone", Duration::from_secs(60), || {
        let crds = cluster.kubectl(&["get", "crd", "-o", "name"]);
        (!crds.contains("postern.dev")).then_some(())
    });
    wait_for("so are the pods", Duration::from_secs(120), || {
        namespace.kubectl(&["get", "pods,statefulsets", "-o", "name"]).is_empty().then_some(())
    });
    let claims = namespace.kubectl(&["get", "pvc", "-o", "name"]);
    assert_eq!(claims.trim(), "persistentvolumeclaim/spool-default-0");
    helm(cluster, &["install"], CHART, IMAGE);
    drop(back);
}
