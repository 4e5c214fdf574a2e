//! What rules share reaches the pods too: a list of a million entries, a changed directory, a rule that
//! begins to act. Times are told; they go into the report.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use super::{gateway, letter, sink_for_pods, to_pod};
use crate::support::client::send;
use crate::support::cluster::{Namespace, cluster};
use crate::support::tell;

const ENTRIES: usize = 1_000_000;
/// Entries of one ConfigMap: 24 octets each and the line end stay below 1 MiB.
const EACH: usize = 36_000;

/// 24 octets.
fn domain(number: usize) -> String {
    format!("d{number:07}.partner.example")
}

fn rule(name: &str, more: &str, action: &str) -> String {
    format!(
        "apiVersion: postern.dev/v1alpha1\nkind: RoutingRule\nmetadata: {{name: {name}}}\nspec:\n  \
         messages: [Outbound]\n{more}  action: {action}\n"
    )
}

fn list(maps: usize, entry: &str) -> String {
    let mut yaml = format!(
        "apiVersion: postern.dev/v1alpha1\nkind: AddressList\nmetadata: {{name: partners}}\nspec:\n  \
         entries: [{{domain: {entry}}}]\n  entriesFrom:\n"
    );
    for map in 0..maps {
        let _ = writeln!(yaml, "  - configMapRef: {{name: partners-{map}, key: list}}");
    }
    yaml
}

/// From the API server's acceptance until the object says Ready.
fn ready_after(namespace: &Namespace<'_>, what: &str, yaml: &str) -> Duration {
    namespace.apply(yaml);
    let start = Instant::now();
    namespace.kubectl(&["wait", "--for=condition=Ready", "--timeout=300s", what]);
    start.elapsed()
}

#[test]
fn a_list_of_a_million_entries_reaches_the_pods_and_one_more_entry_too() {
    let (_turn, cluster) = cluster();
    let namespace = cluster.namespace("lists");
    let sink = sink_for_pods();
    namespace.apply(&gateway(2, &sink, ""));
    namespace.wait_ready(&["obg", "--all"]);
    namespace.wait_pods(2);

    let maps = ENTRIES.div_ceil(EACH);
    for map in 0..maps {
        let entries: String =
            (map * EACH..((map + 1) * EACH).min(ENTRIES)).map(|n| domain(n) + "\n").collect();
        assert!(entries.len() < 1 << 20);
        let body = serde_json::json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": format!("partners-{map}")},
            "data": {"list": entries},
        });
        // `apply` would put a copy of it into an annotation.
        cluster.run("kubectl", &["-n", &namespace.name, "create", "-f", "-"], Some(&body.to_string()));
    }
    namespace.apply(&rule(
        "all",
        "  addressLists: {mode: OnlyApply, match: Recipient, names: [partners]}\n",
        "{reject: {}}",
    ));
    let first = ready_after(&namespace, "adl/partners", &list(maps, "first.example"));
    namespace.kubectl(&["wait", "--for=condition=Ready", "--timeout=60s", "rtr/all"]);
    let status = namespace.get("adl/partners")["status"].clone();
    assert_eq!(status["entries"], ENTRIES as u64 + 1, "{status}");
    let ip = namespace.pod_ip("default-0");
    let say = |to: &str| send(to_pod(&ip), "ani@solarmora.com", &[to], &letter("x"));
    for number in [0, ENTRIES / 2, ENTRIES - 1] {
        let reply = say(&format!("b@sub.{}", domain(number)));
        assert!(reply.starts_with("550"), "{number}: {reply}");
    }
    assert!(say("b@d9999999.partner.example").starts_with("250"));

    let second = ready_after(&namespace, "adl/partners", &list(maps, "second.example"));
    assert!(say("b@second.example").starts_with("550"));
    assert!(say("b@first.example").starts_with("250"));
    let other = ready_after(
        &namespace,
        "rtr/other",
        &rule("other", "", "{modify: {headers: [{name: X-A, value: b}]}}"),
    );
    let rollout = namespace.get("adl/partners")["status"]["rollout"].clone();
    tell(&format!(
        "AddressList of {ENTRIES} entries in {maps} ConfigMaps, 2 pods: applied to Ready in {first:?}; one \
         changed entry in {second:?} ({} ms by its status); a rule beside it in {other:?}",
        rollout["propagationMillis"]
    ));
}

#[test]
fn a_changed_directory_and_a_rule_that_begins_to_act_reach_the_pods() {
    let (_turn, cluster) = cluster();
    let namespace = cluster.namespace("directory");
    let sink = sink_for_pods();
    namespace.apply(&gateway(2, &sink, "  directoryRef: {name: main}\n"));
    let directory = |unit: &str| {
        format!(
            "apiVersion: postern.dev/v1alpha1\nkind: Directory\nmetadata: {{name: main}}\nspec:\n  users:\n  - \
             {{address: ani@solarmora.com, unit: {unit}}}\n  - {{address: budi@solarmora.com, unit: /sales}}\n"
        )
    };
    let shadow = |mode: &str| {
        rule("sales", &format!("  organizationalUnit: /sales\n  mode: {mode}\n"), "{reject: {}}")
    };
    namespace.apply(&directory("/"));
    namespace.apply(&shadow("Enforce"));
    namespace.wait_ready(&["obg,dir,rtr", "--all"]);
    namespace.wait_pods(2);
    let ip = namespace.pod_ip("default-0");
    let say = || send(to_pod(&ip), "ani@solarmora.com", &["b@partner.example"], &letter("x"));
    assert!(say().starts_with("250"), "she is in /");

    let moved = ready_after(&namespace, "dir/main", &directory("/sales/export"));
    assert!(say().starts_with("550"), "she is in a unit below /sales");
    let shadowed = ready_after(&namespace, "rtr/sales", &shadow("Shadow"));
    assert!(say().starts_with("250"), "a shadow has no effect");
    let enforced = ready_after(&namespace, "rtr/sales", &shadow("Enforce"));
    assert!(say().starts_with("550"));
    tell(&format!(
        "2 pods, applied to Ready: Directory {moved:?}, Enforce to Shadow {shadowed:?}, Shadow to Enforce {enforced:?}"
    ));
}
