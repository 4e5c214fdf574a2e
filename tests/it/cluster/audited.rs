//! Who did what, as the operator's audit log has it, and the way to the operator for people: `kubectl postern` with
//! the rights that Kubernetes gives (spec R6, R144-R147).

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::Duration;

use serde_json::Value;

use super::{gateway, letter, sink_for_pods, to_pod};
use crate::support::client::send;
use crate::support::cluster::{Cluster, Namespace, SYSTEM, cluster};
use crate::support::gateway::{Folder, POSTERN};
use crate::support::wait_for;

fn word(name: &str, word: &str, reason: &str) -> String {
    format!(
        "apiVersion: postern.dev/v1alpha1
kind: ComplianceRule
metadata:
  name: {name}
  annotations: {{postern.dev/reason: {reason}}}
spec:
  messages: [Outbound]
  match: {{words: [{word}]}}
  action: {{quarantine: {{}}}}
"
    )
}

fn apply_as(namespace: &Namespace<'_>, manager: &str, yaml: &str) {
    let manager = format!("--field-manager={manager}");
    let arguments =
        ["-n", &namespace.name, "apply", "--server-side", "--force-conflicts", &manager, "-f", "-"];
    namespace.cluster.run("kubectl", &arguments, Some(yaml));
}

/// `kubectl postern …` with a kubeconfig of somebody.
fn plugin(kubeconfig: &PathBuf, folder: &Folder, arguments: &[&str]) -> Output {
    let link = folder.0.join("kubectl-postern");
    if !link.exists() {
        symlink(POSTERN, &link).expect("a link");
    }
    Command::new(link).args(arguments).env("KUBECONFIG", kubeconfig).output().expect("it starts")
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// A kubeconfig with the token of a service account.
fn account(namespace: &Namespace<'_>, folder: &Folder, name: &str) -> PathBuf {
    let cluster = namespace.cluster;
    namespace.kubectl(&["create", "serviceaccount", name]);
    let token = namespace.kubectl(&["create", "token", name]);
    let binding = format!("{}-{name}", namespace.name);
    let subject = format!("--serviceaccount={}:{name}", namespace.name);
    cluster.attempt(
        "kubectl",
        &["-n", SYSTEM, "delete", "rolebinding", &binding, "--ignore-not-found"],
        None,
    );
    cluster.kubectl(&["-n", SYSTEM, "create", "rolebinding", &binding, "--role=postern-api-user", &subject]);
    let whole: Value =
        serde_json::from_str(&cluster.kubectl(&["config", "view", "--raw", "--minify", "-o", "json"]))
            .expect("JSON");
    let config = serde_json::json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "k", "cluster": whole["clusters"][0]["cluster"]}],
        "users": [{"name": "u", "user": {"token": token.trim()}}],
        "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u", "namespace": namespace.name}}],
    });
    let file = folder.0.join(format!("{name}.json"));
    fs::write(&file, config.to_string()).expect("writable");
    file
}

fn records(cluster: &Cluster, folder: &Folder, namespace: &str) -> Vec<Value> {
    let done = plugin(&cluster.kubeconfig, folder, &["audit", "export", "-n", namespace]);
    assert!(done.status.success(), "{}", text(&done));
    let lines = String::from_utf8_lossy(&done.stdout).into_owned();
    lines.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
}

fn wait_record(
    cluster: &Cluster,
    folder: &Folder,
    namespace: &str,
    what: &str,
    is_it: impl Fn(&Value) -> bool,
) -> Value {
    wait_for(what, Duration::from_secs(60), || {
        records(cluster, folder, namespace).into_iter().rev().find(&is_it)
    })
}

#[test]
fn r144_r145_r147_each_change_is_recorded_with_its_author_its_fields_and_the_moment_all_pods_obeyed() {
    let (_turn, cluster) = cluster();
    let namespace = cluster.namespace("audited");
    let folder = Folder::new("audited");
    let sink = sink_for_pods();
    namespace.apply(&gateway(1, &sink, ""));
    apply_as(&namespace, "alice", &word("word", "one", "CHG-1"));
    namespace.wait_ready(&["obg,cpr", "--all"]);
    apply_as(&namespace, "bob", &word("word", "two", "CHG-2"));
    namespace.wait_ready(&["cpr/word"]);
    let rule = "ComplianceRule/audited/word";
    let ready = wait_record(cluster, &folder, "audited", "Ready is recorded", |record| {
        record["object"] == rule && record["event"] == "ready" && record["generation"] == 2
    });
    assert!(ready["revision"].is_string() && ready["detail"]["pods"] == 1, "{ready}");
    let all = records(cluster, &folder, "audited");
    let find = |event: &str, generation: i64| {
        let found = all.iter().find(|record| {
            record["object"] == rule && record["event"] == event && record["generation"] == generation
        });
        found.unwrap_or_else(|| panic!("{event} of generation {generation}: {all:#?}"))
    };
    let (made, changed) = (find("create", 1), find("update", 2));
    assert_eq!((&made["managers"], &made["reason"]), (&serde_json::json!(["alice"]), &"CHG-1".into()));
    assert_eq!((&changed["managers"], &changed["reason"]), (&serde_json::json!(["bob"]), &"CHG-2".into()));
    let fields = changed["fields"].as_array().expect("fields");
    let words = fields.iter().find(|field| field["path"] == "spec.match.words").expect("the words changed");
    assert_eq!(words["old"], serde_json::json!({"removed": ["one"]}));
    assert_eq!(words["new"], serde_json::json!({"added": ["two"]}));
    assert_eq!(words["by"], serde_json::json!(["bob"]));
    crate::support::tell(&text(&plugin(
        &cluster.kubeconfig,
        &folder,
        &["audit", "export", "-n", "audited", "-o", "text"],
    )));

    // What changes while no operator runs is recorded when one does.
    apply_as(&namespace, "alice", &word("short", "brief", "CHG-3"));
    wait_record(cluster, &folder, "audited", "its creation is recorded", |record| {
        record["object"] == "ComplianceRule/audited/short"
    });
    cluster.scale_operator(0);
    apply_as(&namespace, "carol", &word("word", "three", "CHG-4"));
    namespace.kubectl(&["delete", "cpr/short"]);
    cluster.scale_operator(1);
    let missed = wait_record(cluster, &folder, "audited", "the change is recorded", |record| {
        record["object"] == rule && record["generation"] == 3 && record["event"] == "update"
    });
    assert_eq!((&missed["managers"], &missed["reason"]), (&serde_json::json!(["carol"]), &"CHG-4".into()));
    wait_record(cluster, &folder, "audited", "the deletion is recorded", |record| {
        record["object"] == "ComplianceRule/audited/short" && record["event"] == "delete"
    });

    // The log is whole, and a changed letter is found.
    let whole = plugin(&cluster.kubeconfig, &folder, &["audit", "verify"]);
    assert!(whole.status.success() && text(&whole).contains("whole: "), "{}", text(&whole));
    crate::support::tell(&text(&whole));
    let export = plugin(&cluster.kubeconfig, &folder, &["audit", "export", "-A"]);
    let copy = folder.0.join("copy");
    fs::create_dir(&copy).expect("a folder");
    let file = copy.join("audit-00000000000000000001.jsonl");
    fs::write(&file, &export.stdout).expect("writable");
    let verify = || Command::new(POSTERN).args(["audit", "verify"]).arg(&copy).output().expect("it starts");
    assert!(verify().status.success(), "{}", text(&verify()));
    let forged = String::from_utf8_lossy(&export.stdout).replace("CHG-2", "CHG-9");
    fs::write(&file, forged).expect("writable");
    let found = verify();
    assert_eq!(found.status.code(), Some(1), "{}", text(&found));
    assert!(text(&found).contains("its content is not what its hash says"), "{}", text(&found));
}

#[test]
fn r006_r146_held_mail_is_released_by_whoever_may_and_the_log_has_the_name() {
    let (_turn, cluster) = cluster();
    let namespace = cluster.namespace("reviewed");
    let folder = Folder::new("reviewed");
    let sink = sink_for_pods();
    namespace.apply(&gateway(2, &sink, ""));
    apply_as(&namespace, "alice", &word("word", "secret", "CHG-1"));
    namespace.wait_ready(&["obg,cpr", "--all"]);
    namespace.wait_pods(2);
    let stranger = account(&namespace, &folder, "stranger");
    let reviewer = account(&namespace, &folder, "reviewer");
    namespace.kubectl(&[
        "create",
        "rolebinding",
        "reviewers",
        "--clusterrole=postern-quarantine-reviewer",
        "--serviceaccount=reviewed:reviewer",
    ]);
    for pod in ["default-0", "default-1"] {
        let ip = namespace.pod_ip(pod);
        let reply = send(to_pod(&ip), "ani@solarmora.com", &["b@partner.example"], &letter("secret"));
        assert!(reply.starts_with("250"), "{reply}");
    }

    let refused = plugin(&stranger, &folder, &["quarantine", "list"]);
    assert_eq!(refused.status.code(), Some(1), "{}", text(&refused));
    let why = "system:serviceaccount:reviewed:stranger may not get outboundgateways/quarantine in namespace reviewed";
    assert!(text(&refused).contains(why), "{}", text(&refused));

    let listed = plugin(&reviewer, &folder, &["quarantine", "list", "-o", "json"]);
    assert!(listed.status.success(), "{}", text(&listed));
    let page: Value = serde_json::from_slice(&listed.stdout).expect("JSON");
    let held = page["messages"].as_array().expect("messages");
    let mut pods: Vec<&str> = held.iter().map(|row| row["pod"].as_str().expect("its pod")).collect();
    pods.sort_unstable();
    assert_eq!(pods, ["default-0", "default-1"], "{page:#}");
    let id = held[0]["id"].as_str().expect("an id");
    crate::support::tell(&text(&plugin(&reviewer, &folder, &["quarantine", "list"])));
    let released = plugin(&reviewer, &folder, &["quarantine", "release", id]);
    assert!(released.status.success() && text(&released).contains("released"), "{}", text(&released));
    assert_eq!(sink.wait(1).len(), 1, "it is delivered");
    // The queue is another right.
    let queue = plugin(&reviewer, &folder, &["queue", "list"]);
    assert!(text(&queue).contains("may not get outboundgateways/queue"), "{}", text(&queue));

    let user = "system:serviceaccount:reviewed:reviewer";
    let of = |event: &str| {
        wait_record(cluster, &folder, "reviewed", event, |record| {
            record["event"] == event && record["detail"]["act"] == "quarantine release"
        })
    };
    let (asked, done) = (of("act"), of("acted"));
    assert_eq!((&asked["user"], &asked["detail"]["id"]), (&user.into(), &id.into()));
    assert_eq!((&done["user"], &done["detail"]["status"]), (&user.into(), &200.into()));
    assert_eq!(done["detail"]["result"]["result"], "released");
    wait_record(cluster, &folder, "reviewed", "the refusal", |record| {
        record["event"] == "refused" && record["user"] == "system:serviceaccount:reviewed:stranger"
    });

    // An administrator with a client certificate: pause, list, resume, explain, trace, diff.
    let admin = |arguments: &[&str]| {
        let done = plugin(
            &cluster.kubeconfig,
            &folder,
            &[&["-n", "reviewed"][..0], arguments, &["-n", "reviewed"]].concat(),
        );
        (done.status.code(), text(&done))
    };
    let (code, said) = admin(&["queue", "pause", "--domain", "partner.example", "--reason", "CHG-5"]);
    assert_eq!(code, Some(0), "{said}");
    let (code, said) = admin(&["queue", "list"]);
    assert!(code == Some(0) && said.matches("PAUSED: domain partner.example").count() == 2, "{said}");
    let (code, said) = admin(&["queue", "resume", "--domain", "partner.example"]);
    assert_eq!(code, Some(0), "{said}");
    let mail = folder.0.join("mail");
    fs::create_dir(&mail).expect("a folder");
    let file = mail.join("one.eml");
    fs::write(&file, letter("secret")).expect("writable");
    let path = file.to_str().expect("UTF-8");
    let (code, said) =
        admin(&["explain", "--mail", path, "--from", "ani@solarmora.com", "--to", "b@partner.example"]);
    assert!(code == Some(0) && said.contains("ComplianceRule/reviewed/word"), "{said}");
    let (code, said) = admin(&["explain", "--ref", held[1]["message"].as_str().expect("its reference")]);
    assert!(code == Some(0) && said.contains("Decided by default-"), "{said}");
    let yaml = folder.0.join("yaml");
    fs::create_dir(&yaml).expect("a folder");
    fs::write(yaml.join("word.yaml"), word("word", "other", "CHG-6")).expect("writable");
    let (code, said) =
        admin(&["diff", yaml.to_str().expect("UTF-8"), "--mail", mail.to_str().expect("UTF-8")]);
    assert!(code == Some(1) && said.contains("1 would be treated otherwise"), "{said}");
}
