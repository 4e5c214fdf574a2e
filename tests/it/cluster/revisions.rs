//! Former revisions and staged rollouts on a real Kubernetes: the way back after a bad rule, a rollout that goes back
//! by itself under mail, and both over a restart of the operator.

use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use super::{gateway, letter, reject, sink_for_pods, to_pod};
use crate::support::client::send;
use crate::support::cluster::{Namespace, SYSTEM, cluster};
use crate::support::gateway::{POSTERN, condition};
use crate::support::{tell, wait_for};

const LIMIT: Duration = Duration::from_secs(60);

fn mail(ip: &str, body: &str) -> String {
    send(to_pod(ip), "ani@solarmora.com", &["b@partner.example"], &letter(body))
}

/// `postern …` with the cluster's kubeconfig, as its administrator would type it.
fn postern(namespace: &Namespace<'_>, arguments: &[&str]) -> Output {
    Command::new(POSTERN)
        .args(arguments)
        .args(["-n", &namespace.name])
        .env("KUBECONFIG", &namespace.cluster.kubeconfig)
        .output()
        .expect("it starts")
}

fn says(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn kept(namespace: &Namespace<'_>) -> Vec<Value> {
    let list = says(&postern(namespace, &["rollback", "--list", "-o", "json"]));
    serde_json::from_str(&list).expect("it prints JSON")
}

fn restart_operator(namespace: &Namespace<'_>) {
    let cluster = namespace.cluster;
    cluster.kubectl(&["-n", SYSTEM, "rollout", "restart", "deployment"]);
    cluster.kubectl(&["-n", SYSTEM, "rollout", "status", "deployment", "--timeout=120s"]);
}

#[test]
fn r156_a_bad_rule_is_rolled_back_stays_away_over_a_restart_and_comes_back_repaired() {
    let (_turn, cluster) = cluster();
    let namespace = cluster.namespace("rollback");
    let sink = sink_for_pods();
    namespace.apply(&gateway(2, &sink, ""));
    namespace.apply(&reject("word", "one"));
    namespace.wait_ready(&["obg,cpr", "--all"]);
    namespace.wait_pods(2);
    let ips = ["default-0", "default-1"].map(|pod| namespace.pod_ip(pod));
    let good = namespace.get("obg/default")["status"]["rollout"]["revision"].as_str().unwrap().to_owned();
    wait_for("the good revision is kept", LIMIT, || {
        kept(&namespace).iter().any(|row| row["revision"] == good.as_str()).then_some(())
    });
    // A word that is in every mail.
    namespace.apply(&reject("word", "Laporan"));
    namespace.wait_ready(&["cpr/word"]);
    assert!(mail(&ips[0], "harmless").starts_with("550"));
    let bad = namespace.get("obg/default")["status"]["rollout"]["revision"].as_str().unwrap().to_owned();
    wait_for("the bad one too", LIMIT, || {
        kept(&namespace).iter().any(|row| row["revision"] == bad.as_str()).then_some(())
    });
    let table = says(&postern(&namespace, &["rollback", "--list"]));
    assert!(table.contains("1 changed") && table.contains("in force"), "{table}");

    let began = std::time::Instant::now();
    let told = says(&postern(&namespace, &["rollback"]));
    assert!(told.contains(&good), "{told}");
    wait_for("both pods take the mail again", LIMIT, || {
        ips.iter().all(|ip| mail(ip, "harmless").starts_with("250")).then_some(())
    });
    tell(&format!("rollback: both pods by the former revision after {:?}", began.elapsed()));
    let message = namespace.wait_condition("obg/default", "Pinned", "True", "Pinned");
    assert!(message.contains(&good) && message.contains("ComplianceRule"), "{message}");
    namespace.wait_ready(&["obg/default"]);
    let message = namespace.wait_condition("cpr/word", "Ready", "False", "Pinned");
    assert!(message.contains(&good), "{message}");
    namespace.wait_condition("cpr/word", "Programmed", "False", "Pinned");
    let status = namespace.get("cpr/word")["status"].clone();
    assert!(condition(&status, "Stalled").is_none(), "its author can do nothing: {status}");
    let picture = String::from_utf8_lossy(&postern(&namespace, &["status"]).stdout).into_owned();
    assert!(picture.contains("Pinned=True") && picture.contains("ComplianceRule/word"), "{picture}");

    // A restart changes nothing, nor does another rule.
    restart_operator(&namespace);
    namespace.apply(&reject("other", "two"));
    namespace.wait_condition("cpr/other", "Ready", "False", "Pinned");
    assert!(ips.iter().all(|ip| mail(ip, "harmless").starts_with("250")));
    assert!(ips.iter().all(|ip| mail(ip, "two").starts_with("250")));
    assert!(ips.iter().all(|ip| mail(ip, "one").starts_with("550")), "what was pinned is in force");

    // An unknown revision: told by name, and what is published stays.
    let patch = json!({"spec": {"pinnedRevision": "00000000000000aa"}}).to_string();
    namespace.kubectl(&["patch", "obg/default", "--type=merge", "-p", &patch]);
    let message = namespace.wait_condition("obg/default", "ResolvedRefs", "False", "RevisionNotFound");
    assert!(message.contains("00000000000000aa"), "{message}");
    assert!(mail(&ips[0], "one").starts_with("550"));
    let refused = cluster.attempt(
        "kubectl",
        &[
            "-n",
            &namespace.name,
            "patch",
            "obg/default",
            "--type=merge",
            "-p",
            r#"{"spec":{"pinnedRevision":"x"}}"#,
        ],
        None,
    );
    assert!(!refused.status.success(), "no revision is named like this");

    // Repaired, and the pin ended.
    namespace.apply(&reject("word", "three"));
    let told = says(&postern(&namespace, &["rollback", "--undo"]));
    assert!(told.contains("no longer pinned"), "{told}");
    namespace.wait_ready(&["obg,cpr", "--all"]);
    for ip in &ips {
        assert!(mail(ip, "three").starts_with("550") && mail(ip, "two").starts_with("550"));
        assert!(mail(ip, "one").starts_with("250"));
    }
    assert!(condition(&namespace.get("obg/default")["status"], "Pinned").is_none());
    assert!(says(&postern(&namespace, &["status"])).contains("all obeyed as they are written"));
}

/// Sends one mail after the other to each pod until it is dropped.
struct Load {
    stop: Arc<AtomicBool>,
    threads: Vec<std::thread::JoinHandle<()>>,
    pub rejected: Arc<AtomicU32>,
}

impl Load {
    fn on(ips: &[String]) -> Self {
        let (stop, rejected) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
        let threads = ips.iter().map(|ip| {
            let (ip, stop, rejected) = (ip.clone(), stop.clone(), rejected.clone());
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    if mail(&ip, "harmless").starts_with("550") {
                        rejected.fetch_add(1, Ordering::Relaxed);
                    }
                    std::thread::sleep(Duration::from_millis(50));
                }
            })
        });
        let threads = threads.collect();
        Self { stop, threads, rejected }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

const STAGED: &str = "  rollout:
    steps: [{pods: 1, pause: 8s}, {pods: 2, pause: 3s}]
    haltOn: {rejectedPercent: 20, minMessages: 10}
";

#[test]
fn r156_a_staged_rollout_goes_back_by_itself_under_mail_and_a_good_one_goes_through_over_a_restart() {
    let (_turn, cluster) = cluster();
    let namespace = cluster.namespace("staged");
    let sink = sink_for_pods();
    namespace.apply(&gateway(3, &sink, STAGED));
    namespace.apply(&reject("word", "one"));
    namespace.wait_ready(&["obg,cpr", "--all"]);
    namespace.wait_pods(3);
    // Whatever came in pieces while the pods started has come through.
    wait_for("nothing is staged", LIMIT, || {
        namespace.get("obg/default")["status"]["stage"].is_null().then_some(())
    });
    let ips = ["default-0", "default-1", "default-2"].map(|pod| namespace.pod_ip(pod));
    let load = Load::on(&ips);
    let began = std::time::Instant::now();
    namespace.apply(&reject("word", "Laporan"));
    let message = namespace.wait_condition("obg/default", "RolloutHalted", "True", "RejectsRose");
    tell(&format!(
        "halted {:?} after the bad rule, {} mails rejected: {message}",
        began.elapsed(),
        load.rejected.load(Ordering::Relaxed)
    ));
    assert!(message.contains("default-0") && message.contains("rejected"), "{message}");
    namespace.wait_condition("cpr/word", "Programmed", "False", "RolloutHalted");
    namespace.wait_condition("cpr/word", "Ready", "False", "RolloutHalted");
    namespace.wait_condition("cpr/word", "Stalled", "True", "NeedsAuthor");
    wait_for("every pod is back", LIMIT, || {
        ips.iter()
            .all(|ip| mail(ip, "harmless").starts_with("250") && mail(ip, "one").starts_with("550"))
            .then_some(())
    });
    let events = namespace.kubectl(&["get", "events", "-o", "jsonpath={.items[*].reason}"]);
    assert!(events.contains("RolloutHalted"), "{events}");
    drop(load);

    // The next change of its author is tried anew; a new leader goes on with the step that is published.
    namespace.apply(&reject("word", "two"));
    let stage = wait_for("the first step", LIMIT, || {
        let status = namespace.get("obg/default")["status"].clone();
        (status["stage"]["podsUpdated"] == 1).then_some(status)
    });
    assert_eq!(stage["stage"]["pods"], json!(["default-0"]), "{stage}");
    assert_eq!(condition(&stage, "Ready").unwrap()["status"], "False", "{stage}");
    assert!(mail(&ips[0], "two").starts_with("550") && mail(&ips[1], "two").starts_with("250"));
    let rule = namespace.get("cpr/word")["status"].clone();
    assert_eq!(condition(&rule, "Ready").unwrap()["status"], "False", "{rule}");
    assert!(condition(&stage, "RolloutHalted").is_none(), "{stage}");
    restart_operator(&namespace);
    namespace.wait_ready(&["obg,cpr", "--all"]);
    assert!(ips.iter().all(|ip| mail(ip, "two").starts_with("550")), "Ready when all pods have it");
}
