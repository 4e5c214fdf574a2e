//! What the operator may do and what people may do, as tables that are committed: more of it is a decision somebody
//! made, not something that happened.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use postern::controller::installed::NEEDS;
use serde_json::Value;

use crate::support::chart::{golden, of_kind, rendered, texts};

/// One line of the table: where, what, which verbs, on which names.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Right {
    place: String,
    resource: String,
    names: String,
    verbs: BTreeSet<String>,
}

/// All rights that bindings give to the operator's account.
fn of_operator(objects: &[Value]) -> Vec<Right> {
    let mut rights = BTreeMap::new();
    for (binding, role) in [("ClusterRoleBinding", "ClusterRole"), ("RoleBinding", "Role")] {
        for bound in of_kind(objects, binding) {
            let subjects = bound["subjects"].as_array().expect("a binding has subjects");
            for subject in subjects {
                assert_eq!(
                    subject["kind"], "ServiceAccount",
                    "only the operator's account is bound: {bound}"
                );
                assert_eq!(subject["name"], "postern");
                assert_eq!(subject["namespace"], "postern-system");
            }
            assert_eq!(bound["roleRef"]["kind"], role, "{bound}");
            let place = bound["metadata"]["namespace"].as_str().unwrap_or("*").to_owned();
            let same = |object: &&Value| {
                object["metadata"]["name"] == bound["roleRef"]["name"]
                    && object["metadata"]["namespace"] == bound["metadata"]["namespace"]
            };
            match of_kind(objects, role).find(same) {
                Some(role) => collect(&place, role, &mut rights),
                // One that every cluster has: its name says what it gives.
                None => {
                    let name = bound["roleRef"]["name"].as_str().expect("named");
                    rights.entry((place, format!("the role {name}"), String::new())).or_default();
                }
            }
        }
    }
    rows(rights)
}

type Collected = BTreeMap<(String, String, String), BTreeSet<String>>;

fn collect(place: &str, role: &Value, rights: &mut Collected) {
    for rule in role["rules"].as_array().into_iter().flatten() {
        assert_eq!(rule.get("nonResourceURLs"), None, "{rule}");
        let names = texts(&rule["resourceNames"]).join(",");
        for group in texts(&rule["apiGroups"]) {
            for resource in texts(&rule["resources"]) {
                let resource =
                    if group.is_empty() { resource.to_owned() } else { format!("{group}/{resource}") };
                let verbs = rights.entry((place.to_owned(), resource, names.clone())).or_default();
                verbs.extend(texts(&rule["verbs"]).into_iter().map(str::to_owned));
            }
        }
    }
}

fn rows(rights: Collected) -> Vec<Right> {
    let row = |((place, resource, names), verbs)| Right { place, resource, names, verbs };
    rights.into_iter().map(row).collect()
}

fn table(rights: &[Right]) -> String {
    let mut text = String::new();
    for Right { place, resource, names, verbs } in rights {
        let verbs = verbs.iter().map(String::as_str).collect::<Vec<_>>().join(" ");
        let names = if names.is_empty() { String::new() } else { format!(" [{names}]") };
        let _ = writeln!(text, "{place:16} {resource:44} {verbs}{names}");
    }
    text
}

/// The roles for people, with what aggregates them: those that nothing binds.
fn of_people(objects: &[Value]) -> BTreeMap<String, (String, Vec<Right>)> {
    let bound: Vec<&Value> = of_kind(objects, "ClusterRoleBinding")
        .chain(of_kind(objects, "RoleBinding"))
        .map(|binding| &binding["roleRef"]["name"])
        .collect();
    let roles = of_kind(objects, "ClusterRole").chain(of_kind(objects, "Role"));
    let people = roles.filter(|role| !bound.contains(&&role["metadata"]["name"]));
    people
        .map(|role| {
            let name = role["metadata"]["name"].as_str().expect("named").to_owned();
            let labels = role["metadata"]["labels"].as_object().expect("labelled");
            let into: Vec<&str> = labels
                .iter()
                .filter(|(_, value)| *value == "true")
                .filter_map(|(label, _)| label.strip_prefix("rbac.authorization.k8s.io/aggregate-to-"))
                .collect();
            let mut rights = BTreeMap::new();
            collect(&name, role, &mut rights);
            (name, (into.join(" "), rows(rights)))
        })
        .collect()
}

#[test]
fn what_the_operator_may_do_is_written_down_and_does_not_grow() {
    golden("rights/operator-whole-cluster.txt", &table(&of_operator(&rendered(&[]))));
    golden("rights/operator-one-namespace.txt", &table(&of_operator(&rendered(&["namespaces={mail}"]))));
}

#[test]
fn the_operator_has_what_its_check_asks_for() {
    for (sets, place) in [(&[][..], "*"), (&["namespaces={mail}"][..], "mail")] {
        let rights = of_operator(&rendered(sets));
        for (group, resource, verbs) in NEEDS {
            let wanted =
                if group.is_empty() { (*resource).to_owned() } else { format!("{group}/{resource}") };
            let given = rights.iter().filter(|right| right.place == place && right.resource == wanted);
            let given: BTreeSet<&str> = given
                .filter(|r| r.names.is_empty())
                .flat_map(|r| r.verbs.iter().map(String::as_str))
                .collect();
            let lacks: Vec<_> = verbs.iter().filter(|verb| !given.contains(*verb)).collect();
            assert!(lacks.is_empty(), "{place} {wanted}: {lacks:?}");
        }
    }
}

#[test]
fn the_operator_can_neither_widen_its_rights_nor_enter_pods_nor_list_secrets() {
    for sets in [&[][..], &["namespaces={mail}"][..]] {
        for right in of_operator(&rendered(sets)) {
            let text = table(std::slice::from_ref(&right));
            assert!(!right.resource.contains('*') && !right.verbs.contains("*"), "{text}");
            for verb in ["escalate", "bind", "impersonate", "deletecollection", "approve"] {
                assert!(!right.verbs.contains(verb), "{text}");
            }
            for never in [
                "pods/exec",
                "pods/attach",
                "pods/portforward",
                "pods/ephemeralcontainers",
                "pods/eviction",
                "serviceaccounts",
                "serviceaccounts/token",
                "nodes",
                "namespaces",
                "customresourcedefinitions",
            ] {
                assert!(right.resource != never && !right.resource.ends_with(&format!("/{never}")), "{text}");
            }
            assert!(!right.resource.starts_with("rbac.authorization.k8s.io"), "{text}");
            assert!(!right.resource.starts_with("admissionregistration.k8s.io"), "{text}");
            let secrets = right.resource == "secrets";
            let reads_all = right.verbs.contains("list") || right.verbs.contains("watch");
            assert!(!(secrets && reads_all && right.place == "*"), "{text}");
            // Pods come from the StatefulSet, never from the operator.
            if right.resource == "pods" {
                assert!(!right.verbs.contains("create") && !right.verbs.contains("delete"), "{text}");
            }
        }
    }
}

#[test]
fn r006_each_role_for_people_has_its_own_rights() {
    let mut text = String::new();
    let all = ["rbac.aggregateTo.edit=true"];
    for (name, (into, rights)) in of_people(&rendered(&all)) {
        let into = if into.is_empty() { "nobody".to_owned() } else { into };
        let _ = writeln!(text, "{name} → {into}");
        for line in table(&rights).lines() {
            let _ = writeln!(text, "  {}", line.split_once(' ').expect("two columns").1.trim_start());
        }
    }
    golden("rights/people.txt", &text);
}

#[test]
fn r006_no_role_for_people_says_what_is_true_or_reads_a_secret() {
    for (name, (_, rights)) in of_people(&rendered(&[])) {
        for right in rights {
            // The way to the operator's API is no right over an object of ours.
            let way = name.ends_with("-api-user");
            assert!(way || right.resource.starts_with("postern.dev/"), "{name}: {right:?}");
            assert!(right.resource != "secrets" && right.resource != "pods/exec", "{name}: {right:?}");
            assert!(!right.resource.contains('*') && !right.verbs.contains("*"), "{name}: {right:?}");
            assert!(
                !right.resource.ends_with("/status"),
                "only the operator writes statuses: {name}: {right:?}"
            );
            if name.ends_with("-auditor") {
                let reads = |verb: &String| ["get", "list", "watch"].contains(&verb.as_str());
                assert!(right.verbs.iter().all(reads), "{name}: {right:?}");
            }
        }
    }
}

#[test]
fn no_binding_gives_people_anything() {
    let bound = rendered(&[]);
    for kind in ["ClusterRoleBinding", "RoleBinding"] {
        for binding in of_kind(&bound, kind) {
            for subject in binding["subjects"].as_array().expect("subjects") {
                assert_eq!(subject["kind"], "ServiceAccount", "{binding}");
            }
        }
    }
}
