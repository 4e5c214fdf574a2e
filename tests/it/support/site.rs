//! A gateway as an organisation would write it: own domain, loopback clients, all mail over one relay whose
//! retries come quickly. Tests add what they are about.

use std::net::SocketAddr;

use super::gateway::{Folder, Standalone};

pub const OWN: &str = "ani@solarmora.com";
pub const PARTNER: &str = "b@partner.example";

pub struct Site {
    pub folder: Folder,
}

impl Site {
    /// All mail goes to `relay`, over TLS where it has TLS.
    pub fn new(name: &str, relay: SocketAddr) -> Self {
        let site = Self { folder: Folder::new(name) };
        site.gateway("");
        site.route("relay", relay, "require: false");
        site
    }

    /// Writes the gateway; `more` are further lines of its spec, indented by two.
    pub fn gateway(&self, more: &str) {
        let clients = if more.contains("  clients:") { "" } else { "  clients: {cidrs: [127.0.0.0/8]}\n" };
        let yaml = format!(
            "apiVersion: postern.dev/v1alpha1
kind: OutboundGateway
metadata: {{name: default}}
spec:
  hostname: gw.solarmora.com
  domains: [solarmora.com]
  defaultRoute: {{name: relay}}
{clients}{more}"
        );
        self.folder.write("config/gateway.yaml", &yaml);
    }

    /// Delivery reports go to a next hop of their own.
    pub fn notices(&self, to: SocketAddr) {
        self.gateway("  notices: {from: postmaster@solarmora.com, route: {name: notices}}\n");
        self.route("notices", to, "require: false");
    }

    pub fn route(&self, name: &str, to: SocketAddr, tls: &str) {
        self.route_by_name(name, &to.ip().to_string(), to.port(), tls);
    }

    pub fn route_by_name(&self, name: &str, host: &str, port: u16, tls: &str) {
        self.add(
            "OutboundRoute",
            name,
            &format!(
                "  hosts: [{{host: \"{host}\", port: {port}}}]
  tls: {{{tls}}}
  retry: {{initial: 100ms, max: 500ms}}
"
            ),
        );
    }

    /// An object; `spec` is indented by two.
    pub fn add(&self, kind: &str, name: &str, spec: &str) {
        let yaml = format!(
            "apiVersion: postern.dev/v1alpha1\nkind: {kind}\nmetadata: {{name: {name}}}\nspec:\n{spec}"
        );
        self.folder.write(&format!("config/{}-{name}.yaml", kind.to_lowercase()), &yaml);
    }

    /// A rule for all outgoing mail.
    pub fn rule(&self, name: &str, action: &str) {
        self.add("RoutingRule", name, &format!("  messages: [Outbound]\n  action: {action}\n"));
    }

    /// A ConfigMap with a CA file.
    pub fn ca(&self, name: &str, pem: &str) {
        let pem = pem.replace('\n', "\n    ");
        let yaml = format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}}}\ndata:\n  ca.crt: |\n    {pem}\n"
        );
        self.folder.write(&format!("config/configmap-{name}.yaml"), &yaml);
    }

    /// A Secret of this type.
    pub fn secret(&self, name: &str, kind: &str, data: &[(&str, &str)]) {
        let data: String = data
            .iter()
            .map(|(key, text)| format!("  {key}: |-\n    {}\n", text.trim_end().replace('\n', "\n    ")))
            .collect();
        let yaml = format!(
            "apiVersion: v1\nkind: Secret\nmetadata: {{name: {name}}}\ntype: {kind}\nstringData:\n{data}"
        );
        self.folder.write(&format!("config/secret-{name}.yaml"), &yaml);
    }

    pub fn start(&self) -> Standalone {
        self.start_by(&[])
    }

    /// Started by another program, such as `sh -c '…; exec "$@"' sh`, which must become the gateway.
    pub fn start_by(&self, launcher: &[&str]) -> Standalone {
        let (config, state) = (self.folder.0.join("config"), self.folder.0.join("state"));
        let gateway = Standalone::launch_by(launcher, &config, &state);
        gateway.wait_ready();
        gateway
    }
}

/// A plain message; `subject` tells it from others.
pub fn message(subject: &str) -> String {
    format!("From: Ani <{OWN}>\r\nTo: <{PARTNER}>\r\nSubject: {subject}\r\n\r\nbody of {subject}\r\n")
}

/// A rule that refuses outgoing mail with a word.
pub fn reject(name: &str, word: &str) -> String {
    format!(
        "apiVersion: postern.dev/v1alpha1
kind: ComplianceRule
metadata: {{name: {name}}}
spec:
  description: A word that must not leave
  messages: [Outbound]
  match: {{words: [\"{word}\"]}}
  action: {{reject: {{notice: Not this word}}}}
"
    )
}
