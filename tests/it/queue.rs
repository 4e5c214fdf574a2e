//! Waiting mail, end to end: a standalone gateway, a next hop that comes and goes, and `postern queue` as
//! administrators use it.

use std::process::{Command, Output};
use std::time::Duration;

use serde_json::Value;

use crate::support::client::{Client, send};
use crate::support::gateway::{POSTERN, Standalone, free_address};
use crate::support::inbox::Inbox;
use crate::support::site::{OWN, Site, message};
use crate::support::wait_for;

/// A gateway with a next hop and an inbox for its reports.
struct Office {
    sink: Inbox,
    notices: Inbox,
    site: Site,
}

impl Office {
    fn new(name: &str) -> Self {
        let (sink, notices) = (Inbox::start(), Inbox::start());
        let site = Site::new(name, sink.address);
        site.notices(notices.address);
        let office = Self { sink, notices, site };
        // Retries come when somebody asks for them.
        office.route("relay", &office.sink);
        office
    }

    fn route(&self, name: &str, to: &Inbox) {
        let spec = format!(
            "  hosts: [{{host: 127.0.0.1, port: {}}}]\n  tls: {{require: false}}\n  retry: {{initial: 1h}}\n",
            to.address.port()
        );
        self.site.add("OutboundRoute", name, &spec);
    }

    fn command(&self, arguments: &[&str]) -> Output {
        let state = self.site.folder.0.join("state");
        let mut command = Command::new(POSTERN);
        command.arg("queue").args(arguments).env("RUST_LOG", "warn");
        if !arguments.contains(&"--gateway") {
            command.arg("--state").arg(state);
        }
        command.stdin(std::process::Stdio::null()).output().expect("postern runs")
    }

    fn text(&self, arguments: &[&str]) -> String {
        let output = self.command(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("it prints UTF-8")
    }

    fn json(&self, arguments: &[&str]) -> Value {
        let text = self.text(&[arguments, &["-o", "json"]].concat());
        serde_json::from_str(&text).expect("it prints JSON")
    }

    /// What a command that fails says, and its exit code.
    fn failure(&self, arguments: &[&str]) -> (Option<i32>, String) {
        let output = self.command(arguments);
        assert!(!output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stdout));
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    }

    /// Waits until so many messages stand like this, and lists them.
    fn wait_state(&self, state: &str, count: usize) -> Vec<Value> {
        wait_for(&format!("{count} messages are {state}"), Duration::from_secs(20), || {
            let page = self.json(&["list", "--status", state]);
            let messages = page["messages"].as_array().expect("a list").clone();
            (messages.len() == count).then_some(messages)
        })
    }
}

fn id(row: &Value) -> String {
    row["id"].as_str().expect("it has an id").to_owned()
}

#[test]
fn waiting_mail_is_listed_shown_tried_again_and_dropped() {
    let office = Office::new("queue-acts");
    office.sink.set_busy(true);
    let gateway = office.site.start();
    for to in ["a@one.example", "b@one.example", "c@two.example", "d@two.example"] {
        assert!(send(gateway.smtp, OWN, &[to], &message(to)).starts_with("250"));
    }
    let rows = office.wait_state("deferred", 4);
    assert_eq!((&rows[0]["to"][0], &rows[0]["attempts"]), (&Value::from("a@one.example"), &Value::from(1)));
    assert_eq!(rows[0]["routes"][0], "default/relay");

    let table = office.text(&["list", "--domain", "two.example", "--limit", "1"]);
    assert!(table.contains("c@two.example") && !table.contains("d@two.example"), "{table}");
    let next =
        table.lines().last().and_then(|line| line.strip_prefix("there is more: --after ")).expect(&table);
    let rest = office.text(&["list", "--domain", "two.example", "--after", next]);
    assert!(rest.contains("d@two.example") && !rest.contains("there is more"), "{rest}");

    let detail = office.json(&["show", &id(&rows[0])]);
    let recipient = &detail["recipients"][0];
    assert_eq!((&detail["from"], &recipient["state"]), (&Value::from(OWN), &Value::from("deferred")));
    assert!(recipient["lastError"].as_str().expect("a text").contains("451 4.3.0 Later"), "{detail}");
    let shown = office.text(&["show", &id(&rows[0])]);
    assert!(shown.contains("Returned") && !shown.contains("body of a@one.example"), "{shown}");
    let content = office.text(&["show", &id(&rows[0]), "--content"]);
    assert!(content.contains("body of a@one.example"), "{content}");
    gateway.wait_log("queued message read");

    // For good, and so never by a slip.
    let (code, said) = office.failure(&["drop", &id(&rows[0])]);
    assert!(code == Some(2) && said.contains("confirm with --yes"), "{code:?} {said}");
    let (code, said) = office.failure(&["drop", "--yes"]);
    assert!(code == Some(2) && said.contains("say which messages"), "{code:?} {said}");
    assert_eq!(office.wait_state("deferred", 4).len(), 4);
    office.text(&["drop", &id(&rows[0]), "--yes"]);
    let report = office.notices.wait(1).remove(0).text();
    assert!(report.contains("Status: 5.0.0") && report.contains("a@one.example"), "{report}");
    let done = office.json(&["drop", "--recipient", "b@one.example", "--no-report", "--yes"]);
    assert_eq!((&done["messages"], &done["recipients"]), (&Value::from(1), &Value::from(1)));
    let (code, said) = office.failure(&["drop", &id(&rows[0]), "--yes"]);
    assert!(code == Some(1) && said.contains("there is no message"), "{said}");
    let log = gateway.log();
    assert!(
        log.contains("queued message dropped") && log.contains("uid/"),
        "who dropped what is in the log: {log}"
    );
    assert_eq!(gateway.metric("postern_queue_dropped", "sender=\"told\""), 1);
    assert_eq!(gateway.metric("postern_queue_dropped", "sender=\"silent\""), 1);

    office.sink.set_busy(false);
    office.text(&["retry", &id(&rows[2])]);
    assert_eq!(office.sink.wait(1)[0].to, ["c@two.example"]);
    office.text(&["retry", "--all"]);
    office.sink.wait(2);
    gateway.wait_empty();
    assert_eq!(office.notices.mail().len(), 1, "nobody else was told");
    assert_eq!(office.text(&["list"]), "no waiting mail\n");
}

#[test]
fn r159_a_paused_route_keeps_its_mail_over_a_restart_until_it_is_resumed() {
    let office = Office::new("queue-pause");
    let gateway = office.site.start();
    office.text(&["pause", "--route", "relay", "--reason", "they are down"]);
    assert!(send(gateway.smtp, OWN, &["a@one.example"], &message("1")).starts_with("250"));
    let row = office.wait_state("paused", 1).remove(0);
    assert_eq!(gateway.metric("postern_queue_paused_routes", ""), 1);
    let (_, status) = gateway.get("/status").expect("it is served");
    assert!(status.contains("they are down"), "{status}");
    gateway.stop();

    // Without a gateway the folder itself says the same.
    assert!(
        office.text(&["list"]).starts_with("PAUSED: route default/relay since "),
        "{}",
        office.text(&["list"])
    );
    let gateway = office.site.start();
    assert!(send(gateway.smtp, OWN, &["b@one.example"], &message("2")).starts_with("250"));
    office.wait_state("paused", 2);
    assert!(office.text(&["retry", &id(&row)]).contains("paused"));
    assert_eq!(office.sink.mail().len(), 0);
    office.text(&["resume", "--route", "default/relay"]);
    office.sink.wait(2);
    gateway.wait_empty();
    assert_eq!(gateway.metric("postern_queue_paused_routes", ""), 0);
}

#[test]
fn r141_mail_of_a_route_that_was_repaired_leaves_at_once() {
    let office = Office::new("queue-repair");
    let other = Inbox::start();
    let dead = Inbox::on(free_address());
    dead.set_busy(true);
    office.route("relay", &dead);
    let gateway = office.site.start();
    assert!(send(gateway.smtp, OWN, &["a@one.example"], &message("1")).starts_with("250"));
    office.wait_state("deferred", 1);
    office.route("relay", &other);
    other.wait(1);
    gateway.wait_empty();
}

#[test]
fn without_the_token_nobody_sees_or_changes_the_queue_over_the_admin_address() {
    let office = Office::new("queue-token");
    office.sink.set_busy(true);
    let gateway = office.site.start();
    assert!(send(gateway.smtp, OWN, &["a@one.example"], &message("1")).starts_with("250"));
    office.wait_state("deferred", 1);
    let (status, text) = gateway.get("/queue").expect("it answers");
    assert!(status == 401 && !text.contains("one.example"), "{status} {text}");
    let (address, token) = (format!("http://{}", gateway.admin), office.site.folder.0.join("state/token"));
    let token = token.to_str().expect("UTF-8");
    let page = office.json(&["list", "--gateway", &address, "--token", token]);
    assert_eq!(page["messages"].as_array().map(Vec::len), Some(1), "{page}");
    office.text(&["drop", "--all", "--yes", "--no-report", "--gateway", &address, "--token", token]);
    gateway.wait_empty();
    assert!(gateway.log().contains("token"), "the log says by which way");
}

/// By metrics alone, at any moment: what came in = what was delivered + what failed + what is still there.
#[test]
fn r159_all_mail_is_accounted_for_over_a_restart_of_the_next_hop() {
    let address = free_address();
    let office = Office::new("queue-account");
    let spec = format!(
        "  hosts: [{{host: 127.0.0.1, port: {}}}]\n  tls: {{require: false}}\n  retry: {{initial: 100ms, max: 300ms}}\n",
        address.port()
    );
    office.site.add("OutboundRoute", "relay", &spec);
    let gateway = office.site.start();
    let sum = |gateway: &Standalone| {
        let (_, text) = gateway.get("/metrics").expect("metrics are served");
        let value = |name: &str| -> u64 {
            let line = text.lines().find(|line| line.starts_with(&format!("{name} "))).expect(name);
            line.rsplit(' ').next().and_then(|value| value.parse().ok()).expect(name)
        };
        let gone = ["delivered", "failed", "released", "lost"]
            .map(|how| value(&format!("postern_queue_{how}_total")));
        let here = value("postern_queue_recipients") + value("postern_held_recipients");
        (value("postern_queue_entered_total"), gone.iter().sum::<u64>() + here, here)
    };
    let send_some = |number: usize| {
        let mut client = Client::hello(gateway.smtp);
        for n in 0..20 {
            let to = [format!("a{number}x{n}@one.example"), format!("b{number}x{n}@two.example")];
            let to: Vec<&str> = to.iter().map(String::as_str).collect();
            assert!(client.send(OWN, &to, &message("x")).unwrap().starts_with("250"));
            let (came, accounted, _) = sum(&gateway);
            assert_eq!(came, accounted, "at any moment");
        }
    };
    // Nobody there; then a next hop that is busy; then one that takes mail.
    send_some(1);
    let sink = Inbox::on(address);
    sink.set_busy(true);
    send_some(2);
    // Not while it is being attempted: an act leaves that alone.
    wait_for("the mail is dropped", Duration::from_secs(10), || {
        let done = office.json(&["drop", "--recipient", "a1x0@one.example", "--yes"]);
        (done["recipients"] == 1).then_some(())
    });
    sink.set_busy(false);
    send_some(3);
    gateway.wait_empty();
    let (came, accounted, here) = sum(&gateway);
    // 60 messages to two each, and the report on the dropped one.
    assert_eq!((came, accounted, here), (121, 121, 0));
    assert_eq!(gateway.metric("postern_queue_delivered", ""), 120);
    let arrived: usize = sink.mail().iter().map(|mail| mail.to.len()).sum();
    assert_eq!((arrived, office.notices.wait(1).len()), (119, 1));
}
