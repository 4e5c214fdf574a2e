//! What the API server can know it refuses at `kubectl apply`, in plain words; the rest is a condition, and the
//! last good form stays in force.

use std::fs;

use super::{gateway, letter, reject, sink_for_pods, to_pod};
use crate::support::client::send;
use crate::support::cluster::cluster;
use crate::support::tell;

/// What the first lines of a file of `tests/golden/bad` say: the text that must appear, and whether the API server
/// refuses it (`check` says the same text with file and line; a test of `manifest` holds it to that).
fn expected(yaml: &str) -> Option<(&str, bool)> {
    let line = |name: &str| yaml.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    Some((line("# message: ")?, line("# api: ")? == "refused"))
}

#[test]
fn every_static_mistake_fails_at_kubectl_apply_with_its_text() {
    let (_turn, cluster) = cluster();
    let namespace = cluster.namespace("bad");
    let folder = format!("{}/tests/golden/bad", env!("CARGO_MANIFEST_DIR"));
    let (mut refused, mut wrong) = (0, Vec::new());
    for entry in fs::read_dir(folder).expect("the folder is there") {
        let path = entry.expect("readable").path();
        let yaml = fs::read_to_string(&path).expect("readable");
        let Some((text, true)) = expected(&yaml) else { continue };
        let arguments = ["-n", &namespace.name, "apply", "--dry-run=server", "-f", "-"];
        let output = cluster.attempt("kubectl", &arguments, Some(&yaml));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        if output.status.success() || !said.contains(text) {
            wrong.push(format!("{}: wanted {text:?}, got: {said}", path.display()));
        }
        refused += 1;
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(refused >= 20, "only {refused} mistakes were tried");
    tell(&format!("{refused} static mistakes refused by the API server"));
}

#[test]
fn what_only_the_operator_can_know_is_a_condition_and_the_last_good_form_stays() {
    let (_turn, cluster) = cluster();
    let namespace = cluster.namespace("conditions");
    let sink = sink_for_pods();
    namespace.apply(&gateway(1, &sink, ""));
    namespace.apply(&reject("word", "one"));
    namespace.wait_ready(&["obg,cpr", "--all"]);
    let ip = namespace.pod_ip("default-0");
    let say = |body: &str| send(to_pod(&ip), "ani@solarmora.com", &["b@partner.example"], &letter(body));

    // RE2 takes \pN{2}; only Rust's regex knows that this program would be too large.
    let pattern = reject("word", "two").replace(
        "match: {words: [\"two\"]}",
        "match: {expressions: [{location: Body, type: MatchesRegex, value: '(\\pL{900}){1000}'}]}",
    );
    let output = cluster.attempt("kubectl", &["-n", &namespace.name, "apply", "-f", "-"], Some(&pattern));
    if output.status.success() {
        let message = namespace.wait_condition("cpr/word", "Accepted", "False", "PatternInvalid");
        assert!(message.contains("generation 1 stays in force"), "{message}");
    } else {
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains("regular expression"), "{said}");
    }
    assert!(say("one").starts_with("550"), "generation 1 stays in force");

    let dangling = "apiVersion: postern.dev/v1alpha1
kind: RoutingRule
metadata: {name: all}
spec:
  description: Everything over a route that is not there
  messages: [Outbound]
  action: {modify: {route: {name: nowhere}}}
";
    namespace.apply(dangling);
    let message = namespace.wait_condition("rtr/all", "ResolvedRefs", "False", "RouteNotFound");
    assert!(message.contains("nowhere"), "{message}");
    assert!(say("harmless").starts_with("451"), "mail waits, it never leaves another way");
    namespace.kubectl(&["delete", "rtr/all"]);
}

#[test]
fn one_and_a_half_megabytes_in_one_rule_are_refused_and_the_last_good_form_stays() {
    let (_turn, cluster) = cluster();
    let namespace = cluster.namespace("huge");
    let sink = sink_for_pods();
    namespace.apply(&gateway(1, &sink, ""));
    namespace.apply(&reject("word", "one"));
    namespace.wait_ready(&["obg,cpr", "--all"]);
    let words: Vec<String> = (0..125_000).map(|number| format!("word{number:07}")).collect();
    let huge = reject("word", "one").replace("[\"one\"]", &format!("[{}]", words.join(", ")));
    assert!(huge.len() > 1_500_000);
    // `apply` would already stumble over its own annotation.
    let arguments = ["-n", &namespace.name, "replace", "-f", "-"];
    let output = cluster.attempt("kubectl", &arguments, Some(&huge));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "the API server took it");
    tell(said.get(..said.len().min(400)).unwrap_or(&said));
    assert!(said.contains("must have at most") || said.contains("too large"), "{said}");
    let ip = namespace.pod_ip("default-0");
    let reply = send(to_pod(&ip), "ani@solarmora.com", &["b@partner.example"], &letter("one"));
    assert!(reply.starts_with("550"), "{reply}");
}
