//! A folder of YAML and what `postern explain` and `postern check` say of it: the shortest way from a rule as
//! its author writes it to what happens to a message. No gateway runs and no network is used.

use std::process::{Command, Output};
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::Value;

use super::gateway::{Folder, POSTERN};
use super::site::{OWN, PARTNER};

/// A gateway of solarmora.com that delivers by MX, and what a test adds to it.
pub struct Judge {
    pub folder: Folder,
}

impl Judge {
    /// `objects`: further YAML documents; `metadata.namespace` is `default` unless they say otherwise.
    pub fn new(objects: &str) -> Self {
        Self::with_gateway("", objects)
    }

    /// `more`: further lines of the gateway's spec, indented by two; its `clients` replaces ours.
    pub fn with_gateway(more: &str, objects: &str) -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let folder = Folder::new(&format!("judge-{}", COUNT.fetch_add(1, Ordering::Relaxed)));
        let clients = if more.contains("  clients:") { "" } else { "  clients: {cidrs: [10.0.0.0/8]}\n" };
        let gateway = format!(
            "apiVersion: postern.dev/v1alpha1\nkind: OutboundGateway\nmetadata: {{name: default}}\nspec:\n  \
             domains: [solarmora.com]\n{clients}{more}"
        );
        folder.write("config/gateway.yaml", &gateway);
        folder.write("config/objects.yaml", objects);
        Self { folder }
    }

    /// An object; `spec` in YAML's flow style, without its braces.
    pub fn object(kind: &str, name: &str, spec: &str) -> String {
        format!(
            "---\napiVersion: postern.dev/v1alpha1\nkind: {kind}\nmetadata: {{name: {name}}}\nspec: {{{spec}}}\n"
        )
    }

    /// OutboundRoutes, each to one host.
    pub fn routes(names: &[&str]) -> String {
        let one = |name: &&str| {
            Self::object("OutboundRoute", name, &format!("hosts: [{{host: mx.{name}.example}}]"))
        };
        names.iter().map(one).collect()
    }

    /// A ComplianceRule for outgoing mail; `matches` and `action` in YAML's flow style.
    pub fn compliance(name: &str, matches: &str, action: &str) -> String {
        format!(
            "---\napiVersion: postern.dev/v1alpha1\nkind: ComplianceRule\nmetadata: {{name: {name}}}\nspec:\n  \
             messages: [Outbound]\n  match: {matches}\n  action: {action}\n"
        )
    }

    /// A RoutingRule for outgoing mail; `more` are further lines of its spec, indented by two.
    pub fn routing(name: &str, action: &str, more: &str) -> String {
        format!(
            "---\napiVersion: postern.dev/v1alpha1\nkind: RoutingRule\nmetadata: {{name: {name}}}\nspec:\n  \
             messages: [Outbound]\n  action: {action}\n{more}"
        )
    }

    /// What `explain -o json` says of a message from an own sender to an outside partner.
    pub fn mail(&self, mail: impl AsRef<[u8]>) -> Value {
        self.explain(mail, &["--from", OWN, "--to", PARTNER])
    }

    /// What `explain -o json` says of a short message between these.
    pub fn between(&self, from: &str, to: &[&str]) -> Value {
        self.explain(letter(from), &[&["--from", from, "--to"], to].concat())
    }

    /// What `explain -o json` says, with the envelope and other options given.
    pub fn explain(&self, mail: impl AsRef<[u8]>, options: &[&str]) -> Value {
        let output = self.run_explain(mail, options);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).expect("explain writes JSON")
    }

    pub fn run_explain(&self, mail: impl AsRef<[u8]>, options: &[&str]) -> Output {
        let file = self.folder.0.join("mail.eml");
        std::fs::write(&file, mail).expect("writable");
        let config = self.folder.0.join("config");
        let mut command = Command::new(POSTERN);
        command.arg("explain").arg(config).arg("--mail").arg(file).args(options).args(["-o", "json"]);
        command.output().expect("postern runs")
    }

    /// The disposition of a message from an own sender to an outside partner.
    pub fn disposition(&self, mail: impl AsRef<[u8]>) -> String {
        let explained = self.mail(mail);
        explained["messages"][0]["disposition"].as_str().expect("there is one").to_owned()
    }

    /// Whether a message with this body (text/plain, UTF-8) is rejected.
    pub fn rejects_body(&self, body: &str) -> bool {
        let mail = format!(
            "From: {OWN}\r\nSubject: x\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n\
             Content-Transfer-Encoding: 8bit\r\n\r\n{body}\r\n"
        );
        self.disposition(mail) == "reject"
    }

    /// The messages of `postern check`.
    pub fn problems(&self) -> Vec<String> {
        let output = Command::new(POSTERN)
            .arg("check")
            .arg(self.folder.0.join("config"))
            .args(["-o", "json"])
            .output()
            .expect("postern runs");
        let found: Value = serde_json::from_slice(&output.stdout).expect("check writes JSON");
        let text = |one: &Value| one["message"].as_str().expect("a message").to_owned();
        found.as_array().expect("a list").iter().map(text).collect()
    }
}

/// A short message. Its body says `secret` and its subject `Laporan bulanan`.
pub fn letter(from: &str) -> String {
    format!("From: {from}\r\nSubject: Laporan bulanan\r\n\r\na secret\r\n")
}

/// What was said of a rule for a recipient.
pub fn rule<'a>(message: &'a Value, name: &str) -> &'a Value {
    let rules = message["rules"].as_array().expect("a list");
    rules.iter().find(|rule| rule["rule"] == name).expect("the rule was considered")
}

/// Names of the rules that matched for a recipient, best rank first.
pub fn matched(message: &Value) -> Vec<&str> {
    let rules = message["rules"].as_array().expect("a list").iter();
    let names = rules.filter(|rule| rule["matched"] == true).filter_map(|rule| rule["rule"].as_str());
    names.filter_map(|name| name.rsplit('/').next()).collect()
}

/// Whom the deliveries for a recipient go to, copies included, with their routes.
pub fn ways(message: &Value) -> Vec<(&str, Option<&str>)> {
    let deliveries = message["deliveries"].as_array().expect("a list").iter();
    deliveries.map(|one| (one["to"].as_str().expect("an address"), one["route"].as_str())).collect()
}
