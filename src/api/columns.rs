//! What `kubectl get` shows of each kind: its state at a glance (spec R167).

use serde_json::{Value, json};

pub struct Column {
    name: &'static str,
    kind: &'static str,
    path: &'static str,
    description: &'static str,
    /// Shown with `-o wide` only.
    wide: bool,
}

impl Column {
    pub fn value(&self) -> Value {
        let Column { name, kind, path, description, wide } = self;
        let mut value = json!({"name": name, "type": kind, "jsonPath": path, "description": description});
        if *wide {
            value["priority"] = json!(1);
        }
        value
    }
}

const fn text(name: &'static str, path: &'static str, description: &'static str) -> Column {
    Column { name, kind: "string", path, description, wide: false }
}

const fn number(name: &'static str, path: &'static str, description: &'static str) -> Column {
    Column { name, kind: "integer", path, description, wide: false }
}

const fn switch(name: &'static str, path: &'static str, description: &'static str) -> Column {
    Column { name, kind: "boolean", path, description, wide: false }
}

const fn wide(column: Column) -> Column {
    Column { wide: true, ..column }
}

macro_rules! condition {
    ($name:literal) => {
        concat!(r#".status.conditions[?(@.type==""#, $name, r#"")].status"#)
    };
}

const ACCEPTED: Column = text("Accepted", condition!("Accepted"), "Whether it was understood");
const REFS: Column = wide(text("Refs", condition!("ResolvedRefs"), "Whether everything it names exists"));
const READY: Column = text("Ready", condition!("Ready"), "Whether every serving pod obeys it");
const UPDATED: Column = number("Updated", ".status.rollout.podsUpdated", "Pods that obey it");
const PODS: Column = number("Pods", ".status.rollout.podsTotal", "Pods that serve");
const REVISION: Column =
    wide(text("Revision", ".status.rollout.revision", "Content hash of what was published"));
const MILLIS: Column =
    wide(number("Millis", ".status.rollout.propagationMillis", "From the change to the last pod"));
const AGE: Column = Column {
    name: "Age",
    kind: "date",
    path: ".metadata.creationTimestamp",
    description: "Since its creation",
    wide: false,
};

pub const GATEWAY: &[Column] = &[
    ACCEPTED,
    text("Programmed", condition!("Programmed"), "Whether the bundle is published"),
    READY,
    text("Mail", condition!("AcceptsMail"), "Whether any client may relay"),
    UPDATED,
    PODS,
    REFS,
    REVISION,
    MILLIS,
    AGE,
];

pub const ROUTE: &[Column] = &[
    text("Host", ".spec.hosts[0].host", "The first host"),
    switch("TLS", ".spec.tls.require", "Whether TLS is required"),
    text("Verified", condition!("TLSVerified"), "Whether its hosts pass the TLS test"),
    wide(text("Test", r#".status.conditions[?(@.type=="TLSVerified")].reason"#, "How that test ended")),
    wide(text(
        "Expires",
        ".status.probe.hosts[0].certificate.notAfter",
        "When the first host's certificate expires",
    )),
    ACCEPTED,
    READY,
    UPDATED,
    PODS,
    wide(switch("MX", ".spec.mxLookup", "Whether the MX hosts of that name are used")),
    REFS,
    MILLIS,
    AGE,
];

pub const RULE: &[Column] = &[
    text("Messages", ".spec.messages", "Directions"),
    text("Action", ".status.action", "Reject, Quarantine or Modify"),
    text("Route", ".spec.action.modify.route.name", "The OutboundRoute it sends over"),
    number("Priority", ".spec.priority", "Smaller first"),
    text("Unit", ".spec.organizationalUnit", "The organizational unit it is for"),
    text("Mode", ".spec.mode", "Enforce, or Shadow: without effect"),
    switch("Enabled", ".spec.enabled", "Whether it does anything"),
    ACCEPTED,
    READY,
    UPDATED,
    PODS,
    REFS,
    MILLIS,
    AGE,
];

pub const ADDRESS_LIST: &[Column] = &[
    number("Entries", ".status.entries", "Addresses and domains, those of ConfigMaps included"),
    ACCEPTED,
    READY,
    UPDATED,
    PODS,
    REFS,
    MILLIS,
    AGE,
];

pub const DIRECTORY: &[Column] = &[
    number("Accounts", ".status.entries", "Addresses of users and groups, aliases included"),
    text("Unknown", ".spec.unknownSenders", "What becomes of own senders it does not know"),
    ACCEPTED,
    READY,
    UPDATED,
    PODS,
    REFS,
    MILLIS,
    AGE,
];

pub const QUARANTINE: &[Column] = &[
    text("Retention", ".spec.retention", "How long mail is held"),
    text("OnDeny", ".spec.onDeny", "What happens to denied mail"),
    ACCEPTED,
    READY,
    UPDATED,
    PODS,
    REFS,
    MILLIS,
    AGE,
];
