//! The audit log of a standalone gateway, by the command line (spec R144-R147).

use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use serde_json::Value;

use crate::support::client::send;
use crate::support::gateway::{Folder, POSTERN, Standalone};
use crate::support::inbox::Inbox;
use crate::support::wait_for;

const MAIL: &str =
    "From: Ani <ani@solarmora.com>\r\nTo: b@partner.example\r\nSubject: Laporan\r\n\r\nsecret\r\n";

fn yaml(sink: &Inbox, word: &str, reason: &str) -> String {
    format!(
        "apiVersion: postern.dev/v1alpha1
kind: OutboundGateway
metadata: {{name: default}}
spec:
  hostname: gw.solarmora.com
  domains: [solarmora.com]
  clients: {{cidrs: [127.0.0.0/8]}}
  defaultRoute: {{host: {}, port: {}}}
---
apiVersion: postern.dev/v1alpha1
kind: ComplianceRule
metadata: {{name: word, annotations: {{postern.dev/reason: {reason}}}}}
spec:
  messages: [Outbound]
  match: {{words: [{word}]}}
  action: {{quarantine: {{}}}}
",
        sink.address.ip(),
        sink.address.port()
    )
}

fn postern(arguments: &[&str], state: &Path) -> Output {
    Command::new(POSTERN).args(arguments).arg(state).output().expect("it starts")
}

fn records(state: &Path) -> Vec<Value> {
    let done = postern(&["audit", "export"], state);
    let text = String::from_utf8_lossy(&done.stdout).into_owned();
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

fn wait_record(state: &Path, what: &str, is_it: impl Fn(&Value) -> bool) -> Value {
    wait_for(what, Duration::from_secs(20), || records(state).into_iter().find(&is_it))
}

#[test]
fn r144_r147_a_changed_folder_and_a_decision_about_held_mail_are_in_a_log_that_can_be_verified() {
    let (folder, sink) = (Folder::new("audit"), Inbox::start());
    let state = folder.0.join("state");
    let config = folder.write("config/all.yaml", &yaml(&sink, "secret", "CHG-1"));
    let config = config.parent().expect("its folder").to_owned();
    let gateway = Standalone::start(&config, &state);
    let rule = "ComplianceRule/default/word";
    wait_record(&state, "what was there is found", |record| {
        record["event"] == "found" && record["object"] == rule
    });
    let reply = send(gateway.smtp, "ani@solarmora.com", &["b@partner.example"], MAIL);
    assert!(reply.starts_with("250"), "{reply}");
    let held = postern(&["quarantine", "list", "-o", "json", "--state"], &state);
    let page: Value = serde_json::from_slice(&held.stdout).expect("JSON");
    let id = page["messages"][0]["id"].as_str().expect("it is held").to_owned();
    let released = postern(&["quarantine", "release", &id, "--state"], &state);
    assert!(released.status.success(), "{}", String::from_utf8_lossy(&released.stderr));
    sink.wait(1);
    let acted = wait_record(&state, "what came of it", |record| {
        record["event"] == "acted" && record["detail"]["act"] == "quarantine release"
    });
    assert_eq!((&acted["detail"]["id"], &acted["detail"]["status"]), (&id.as_str().into(), &200.into()));
    let who = format!("uid/{}", rustix::process::getuid().as_raw());
    assert_eq!(acted["user"], who);

    // One change while it runs, one while it does not.
    folder.write("config/all.yaml", &yaml(&sink, "other", "CHG-2"));
    let update =
        wait_record(&state, "the change", |record| record["event"] == "update" && record["object"] == rule);
    assert_eq!(update["reason"], "CHG-2");
    let words = update["fields"].as_array().expect("fields").iter().find(|f| f["path"] == "spec.match.words");
    assert_eq!(words.expect("the words")["new"], serde_json::json!({"added": ["other"]}));
    let count = records(&state).iter().filter(|record| record["event"] == "reload").count();
    gateway.stop();
    folder.write("config/all.yaml", &yaml(&sink, "third", "CHG-3"));
    let gateway = Standalone::start(&config, &state);
    wait_record(&state, "the change in between", |record| record["reason"] == "CHG-3");
    wait_for("its revision is in force", Duration::from_secs(20), || {
        let reloads = records(&state).into_iter().filter(|record| record["event"] == "reload").count();
        (reloads > count).then_some(())
    });
    gateway.stop();

    let whole = postern(&["audit", "verify"], &state);
    assert!(whole.status.success(), "{}", String::from_utf8_lossy(&whole.stdout));
    let segment = fs::read_dir(state.join("audit")).expect("the log").find_map(|entry| {
        let path = entry.expect("readable").path();
        path.extension().is_some_and(|extension| extension == "jsonl").then_some(path)
    });
    let segment = segment.expect("a segment");
    let forged = fs::read_to_string(&segment).expect("readable").replace("CHG-2", "CHG-8");
    fs::write(&segment, forged).expect("writable");
    let broken = postern(&["audit", "verify"], &state);
    let said = String::from_utf8_lossy(&broken.stdout).into_owned();
    assert!(broken.status.code() == Some(1) && said.contains("it was changed"), "{said}");
    let place = format!("{}:", segment.display());
    assert!(said.starts_with(&place), "{said}");
}
