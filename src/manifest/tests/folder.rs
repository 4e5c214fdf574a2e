//! Files and documents: how they are found, cut, read, and what happens when they are broken.

use std::os::unix::fs::PermissionsExt as _;

use super::{Folder, Generations, last_good, pass, read, repository};
use crate::bundle::document::{ObjectId, ObjectKind};
use crate::bundle::material::{Material, MaterialKind};
use crate::manifest::load;
use crate::translate::{ObjectKey, Severity, translate};

const RULE: &str = "apiVersion: postern.dev/v1alpha1\nkind: RoutingRule\nmetadata: {name: NAME}\nspec:\n  \
                    messages: [Outbound]\n  action: {modify: {subjectPrefix: X}}\n";

fn rule(name: &str) -> String {
    RULE.replace("NAME", name)
}

#[test]
fn the_samples_load_without_a_problem() {
    for sample in [
        "quickstart",
        "way-a",
        "way-b",
        "reject-confidential",
        "quarantine-word",
        "notify-others",
        "archive",
        "address-list",
        "units",
        "shadow",
        "route-login",
        "identity",
    ] {
        let path = repository(&format!("deploy/samples/{sample}.yaml"));
        let loaded = read(&std::fs::read_to_string(path).unwrap(), &mut Generations::default());
        assert_eq!(loaded.problems, [], "{sample}");
        let (translation, unattached) = pass(&loaded, None);
        for outcome in translation.outcomes.iter().chain(&unattached) {
            assert_eq!(outcome.problems, [], "{sample}");
        }
        assert!(translation.bundle.is_some());
    }
}

#[test]
fn folders_inside_folders_are_read_and_hidden_ones_are_not() {
    let folder = Folder::new();
    folder.put("rules/one.yml", &rule("one"));
    folder.put("two.json", &serde_json::to_string(&load_one(&rule("two"))).unwrap());
    folder.put("notes.txt", "not yaml: [");
    folder.put(".git/three.yaml", &rule("three"));
    let loaded = folder.load();
    assert_eq!(loaded.problems, []);
    assert_eq!(loaded.resources.routing_rules.len(), 2);
}

fn load_one(text: &str) -> serde_json::Value {
    super::super::yaml::read(text, 0).unwrap().0.value()
}

#[test]
fn documents_lists_anchors_and_merges_are_read_as_kubectl_reads_them() {
    let text = format!(
        "# a comment\n---\n{}--- # another\n\n---\napiVersion: v1\nkind: List\nitems:\n- apiVersion: postern.dev/v1alpha1\n  \
         kind: RoutingRule\n  metadata: {{name: in-list}}\n  spec: &spec\n    messages: [Outbound]\n    enabled: no\n    \
         action: {{modify: {{subjectPrefix: \"no\"}}}}\n- apiVersion: postern.dev/v1alpha1\n  kind: RoutingRule\n  \
         metadata: {{name: merged}}\n  spec:\n    <<: *spec\n    enabled: on\n",
        rule("first")
    );
    let loaded = Folder::of(&text).load();
    assert_eq!(loaded.problems, []);
    let rules: Vec<_> = loaded
        .resources
        .routing_rules
        .iter()
        .map(|rule| (rule.metadata.name.as_deref().unwrap(), rule.spec.enabled))
        .collect();
    assert_eq!(rules, [("first", true), ("in-list", false), ("merged", true)]);
}

#[test]
fn a_broken_document_leaves_the_others_and_is_not_a_deletion() {
    let broken = rule("second").replace("spec:", "spec: [");
    let loaded = Folder::of(&format!("{}---\n{broken}---\n{}", rule("first"), rule("third"))).load();
    assert_eq!(loaded.resources.routing_rules.len(), 2);
    let [malformed] = loaded.resources.malformed.as_slice() else {
        panic!("{:?}", loaded.resources.malformed)
    };
    assert_eq!(malformed.object.to_string(), "RoutingRule/default/second");
    assert!(!loaded.incomplete);
    assert_eq!(loaded.problems.len(), 1);
    assert!(loaded.problems[0].line > 8, "{:?}", loaded.problems);
}

#[test]
fn what_cannot_even_be_named_makes_the_folder_incomplete() {
    for text in ["", "kind: [", "a: b: c", "just text", "apiVersion: v1\nkind: Secret\nmetadata: {name: x\n"]
    {
        let loaded = Folder::of(text).load();
        assert!(loaded.incomplete, "{text:?}");
        assert_eq!(loaded.problems.len(), 1, "{text:?}: {:?}", loaded.problems);
    }
    let folder = Folder::new();
    std::fs::write(folder.0.join("b.yaml"), b"\xff\xfe").unwrap();
    assert!(folder.load().incomplete);
}

#[test]
fn a_file_that_may_not_be_read_says_so() {
    let folder = Folder::of(&rule("x"));
    std::fs::set_permissions(folder.0.join("a.yaml"), std::fs::Permissions::from_mode(0o000)).unwrap();
    // Root may read everything: then there is nothing to see here.
    if std::fs::read(folder.0.join("a.yaml")).is_err() {
        assert!(folder.load().incomplete);
    }
    assert!(load(&folder.0.join("absent")).is_err());
}

#[test]
fn an_object_given_twice_is_named_with_both_places() {
    let folder = Folder::of(&rule("x"));
    folder.put("b.yaml", &format!("# one more\n{}", rule("x")));
    let loaded = folder.load();
    let [problem] = loaded.problems.as_slice() else { panic!("{:?}", loaded.problems) };
    assert!(problem.message.starts_with("RoutingRule default/x is given twice; the first is at "));
    assert!(problem.message.ends_with("a.yaml:1") && problem.line == 2, "{problem:?}");
    assert_eq!(loaded.resources.routing_rules.len(), 1);
}

#[test]
fn a_field_given_twice_is_an_error_and_the_object_is_not_used() {
    let loaded = Folder::of(&rule("x").replace("spec:", "spec:\n  priority: 1\n  priority: 2")).load();
    assert_eq!(loaded.problems[0].message, "field \"priority\" is given twice; the first is on line 5");
    assert_eq!((loaded.problems[0].line, loaded.resources.malformed.len()), (6, 1));
}

#[test]
fn other_kinds_are_left_alone_with_a_warning() {
    let loaded = Folder::of("apiVersion: v1\nkind: Namespace\nmetadata: {name: mail}\n").load();
    assert_eq!(loaded.problems[0].severity, Severity::Warning);
    let loaded = Folder::of(&rule("x").replace("RoutingRule", "RoutngRule")).load();
    assert_eq!(loaded.problems[0].message, "unknown kind \"RoutngRule\"; did you mean RoutingRule?");
}

#[test]
fn secrets_and_config_maps_come_from_yaml_too() {
    let text = "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\nstringData: {a: hunter2}\ndata:\n  b: AAH/\n  c: '!'\n";
    let loaded = Folder::of(text).load();
    assert_eq!(loaded.problems[0].message, "data.c is not base64; plain text goes into stringData");
    assert_eq!(loaded.problems[0].line, 7);
    let material = |key: &str| Material {
        kind: MaterialKind::Secret,
        namespace: "default".to_owned(),
        name: "s".to_owned(),
        key: key.to_owned(),
    };
    assert_eq!(&**loaded.materials.get(&material("a")).unwrap(), b"hunter2");
    assert_eq!(&**loaded.materials.get(&material("b")).unwrap(), [0, 1, 255]);
    let debug = format!("{loaded:?}");
    assert!(!debug.contains("hunter2") && !debug.contains("104, 117"), "no content in debug output");
}

#[test]
fn a_change_raises_the_generation_and_the_version() {
    let mut generations = Generations::default();
    let text = "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\nstringData: {a: A}\n";
    for (prefix, secret, generation, version) in [("X", "A", 1, "1"), ("X", "A", 1, "1"), ("Z", "B", 2, "2")]
    {
        let both = format!("{}---\n{text}", rule("x"))
            .replace("subjectPrefix: X", &format!("subjectPrefix: {prefix}"));
        let loaded = read(&both.replace("a: A", &format!("a: {secret}")), &mut generations);
        assert_eq!(loaded.resources.routing_rules[0].metadata.generation, Some(generation));
        assert_eq!(loaded.resources.secrets[&ObjectKey::new("default", "s")].resource_version, version);
    }
}

#[test]
fn a_folder_that_lost_a_document_keeps_the_rule_in_force() {
    let mut generations = Generations::default();
    let first = read(&rule("x"), &mut generations);
    let last = last_good(pass(&first, None).0);
    let broken = read(&rule("x").replace("spec:", "spec: ["), &mut generations);
    let key = ObjectKey::new("default", "default");
    let translation = translate(&key, &broken.resources, last.as_ref());
    let outcome = &translation.outcomes.iter().find(|outcome| outcome.in_force.is_some()).unwrap();
    let x = ObjectId { kind: ObjectKind::RoutingRule, namespace: "default".to_owned(), name: "x".to_owned() };
    assert_eq!((&outcome.origin.object, outcome.in_force), (&x, Some(1)));
    let accepted = &outcome.verdicts()[0].message;
    assert!(accepted.starts_with("generation 2 is invalid: this is not YAML"), "{accepted}");
    assert_eq!(translation.bundle.unwrap().rules, last.unwrap().bundle.rules);
}

#[test]
fn aliases_and_depth_cannot_eat_the_machine() {
    let mut laughs = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..12 {
        let copies = vec![format!("*a{}", level - 1); 10].join(", ");
        laughs += &format!("a{level}: &a{level} [{copies}]\n");
    }
    let deep = "[".repeat(5000) + &"]".repeat(5000);
    for text in [laughs, deep] {
        let loaded = Folder::of(&text).load();
        assert_eq!(loaded.problems.len(), 1);
    }
}
