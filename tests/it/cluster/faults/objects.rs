//! Objects of ours, deleted and edited by people who mean well.

use std::time::Duration;

use super::Scenario;
use super::ground::Ground;
use crate::support::wait_for;

/// Deletes it, and sees it come back as another object.
fn deleted(ground: &Ground<'_>, what: &str) {
    let uid = |ground: &Ground<'_>| {
        let found = ground.attempt(&["get", what], None);
        found.then(|| ground.namespace.get(what)["metadata"]["uid"].clone())
    };
    let before = uid(ground).expect("it is there");
    ground.kubectl(&["delete", what, "--wait=false"]);
    wait_for(&format!("{what} is back"), Duration::from_secs(75), || {
        uid(ground).filter(|now| *now != before)
    });
}

/// Patches it, and sees what `path` names become what it was.
fn edited(ground: &Ground<'_>, what: &str, patch: &str, path: &str) {
    let read = || ground.namespace.get(what).pointer(path).cloned();
    let before = read();
    ground.patch(what, patch);
    wait_for(&format!("{what} {path} is repaired"), Duration::from_secs(75), || {
        (read() == before).then_some(())
    });
}

/// Adds something of somebody else, and sees it survive a change of ours.
fn marked(ground: &Ground<'_>, what: &str, patch: &str, path: &str) {
    ground.patch(what, patch);
    let mark = ground.namespace.get(what).pointer(path).cloned();
    assert!(mark.is_some(), "{what} has no {path}");
    ground.next_word();
    ground.namespace.wait_ready(&["cpr/word"]);
    let cidrs = "{\"spec\":{\"clients\":{\"cidrs\":[\"10.0.0.0/8\",\"192.0.2.0/24\"]}}}";
    ground.patch("obg/default", cidrs);
    ground.namespace.wait_ready(&["obg/default"]);
    assert_eq!(ground.namespace.get(what).pointer(path).cloned(), mark, "{what}: a field of somebody else");
}

pub const SCENARIOS: &[Scenario] = &[
    Scenario { name: "StatefulSet deleted, pods with it", does: |g| deleted(g, "statefulset/default") },
    Scenario {
        name: "StatefulSet deleted around its pods",
        does: |g| {
            let before = g.pods();
            g.kubectl(&["delete", "statefulset/default", "--cascade=orphan"]);
            wait_for("it is back", Duration::from_secs(75), || {
                g.attempt(&["get", "statefulset/default"], None).then_some(())
            });
            assert_eq!(g.pods(), before, "the pods went on");
        },
    },
    Scenario { name: "Service of clients deleted", does: |g| deleted(g, "service/default") },
    Scenario { name: "headless Service deleted", does: |g| deleted(g, "service/default-pods") },
    Scenario { name: "NetworkPolicy deleted", does: |g| deleted(g, "networkpolicy/default") },
    Scenario { name: "PodDisruptionBudget deleted", does: |g| deleted(g, "pdb/default") },
    Scenario {
        name: "ConfigMap with the manifest deleted",
        does: |g| deleted(g, "configmap/default-bundle-0"),
    },
    Scenario { name: "Secret with copies deleted", does: |g| deleted(g, "secret/default-secrets-0") },
    Scenario { name: "Secret of the control port deleted", does: |g| deleted(g, "secret/default-control") },
    Scenario {
        name: "replicas of the StatefulSet edited",
        does: |g| edited(g, "statefulset/default", r#"{"spec":{"replicas":1}}"#, "/spec/replicas"),
    },
    Scenario {
        name: "pod template edited",
        does: |g| {
            let patch = r#"{"spec":{"template":{"spec":{"terminationGracePeriodSeconds":5}}}}"#;
            edited(g, "statefulset/default", patch, "/spec/template/spec/terminationGracePeriodSeconds");
        },
    },
    Scenario {
        name: "ports of the Service edited",
        does: |g| {
            let patch = r#"{"spec":{"ports":[{"name":"smtp","port":25,"protocol":"TCP","targetPort":1}]}}"#;
            edited(g, "service/default", patch, "/spec/ports/0/targetPort");
        },
    },
    Scenario {
        name: "selector of the Service edited",
        does: |g| {
            edited(
                g,
                "service/default",
                r#"{"spec":{"selector":{"app":"x"}}}"#,
                "/spec/selector/postern.dev~1gateway",
            );
        },
    },
    Scenario {
        name: "NetworkPolicy emptied",
        does: |g| edited(g, "networkpolicy/default", r#"{"spec":{"ingress":[]}}"#, "/spec/ingress"),
    },
    Scenario {
        name: "PodDisruptionBudget loosened",
        does: |g| edited(g, "pdb/default", r#"{"spec":{"maxUnavailable":2}}"#, "/spec/maxUnavailable"),
    },
    Scenario {
        name: "labels taken from the NetworkPolicy",
        does: |g| {
            let patch = r#"{"metadata":{"labels":{"postern.dev/gateway":null}}}"#;
            edited(g, "networkpolicy/default", patch, "/metadata/labels/postern.dev~1gateway");
        },
    },
    Scenario {
        name: "owner taken from the Service",
        does: |g| {
            edited(
                g,
                "service/default",
                r#"{"metadata":{"ownerReferences":null}}"#,
                "/metadata/ownerReferences/0/name",
            );
        },
    },
    Scenario {
        name: "segments taken from the bundle",
        does: |g| {
            g.patch("configmap/default-bundle-0", r#"{"binaryData":null}"#);
            wait_for("the segments are back", Duration::from_secs(75), || {
                let map = g.namespace.get("configmap/default-bundle-0");
                map["binaryData"].as_object().filter(|data| !data.is_empty()).map(|_| ())
            });
        },
    },
    Scenario {
        name: "nonsense for a manifest",
        does: |g| {
            g.patch("configmap/default-bundle-0", r#"{"data":{"manifest.json":"nonsense"}}"#);
            wait_for("the manifest is back", Duration::from_secs(75), || {
                let map = g.namespace.get("configmap/default-bundle-0");
                map["data"]["manifest.json"].as_str().filter(|text| text.starts_with('{')).map(|_| ())
            });
        },
    },
    Scenario {
        name: "an older manifest brought back",
        does: |g| {
            let old = g.kubectl(&["get", "configmap/default-bundle-0", "-o", "json"]);
            let mut old: serde_json::Value = serde_json::from_str(&old).expect("JSON");
            g.next_word();
            g.namespace.wait_ready(&["cpr/word"]);
            let meta = old["metadata"].as_object_mut().expect("metadata");
            let _ = ["resourceVersion", "uid", "managedFields", "creationTimestamp"]
                .map(|name| meta.remove(name));
            let text = old.to_string();
            assert!(g.attempt(&["replace", "-f", "-"], Some(&text)), "the old map is back");
        },
    },
    Scenario {
        name: "copies of secrets emptied",
        does: |g| {
            let before = g.namespace.get("secret/default-secrets-0")["data"].clone();
            g.patch("secret/default-secrets-0", r#"{"data":null}"#);
            wait_for("the copies are back", Duration::from_secs(90), || {
                (g.namespace.get("secret/default-secrets-0")["data"] == before).then_some(())
            });
        },
    },
    Scenario {
        name: "certificate of the control port emptied",
        does: |g| {
            g.patch("secret/default-control", r#"{"data":{"tls.crt":"","tls.key":""}}"#);
            wait_for("it is made anew", Duration::from_secs(90), || {
                let secret = g.namespace.get("secret/default-control");
                secret["data"]["tls.crt"].as_str().filter(|text| !text.is_empty()).map(|_| ())
            });
        },
    },
    Scenario {
        name: "foreign label on the StatefulSet stays",
        does: |g| {
            let patch = r#"{"metadata":{"labels":{"someone.example/team":"mail"}}}"#;
            marked(g, "statefulset/default", patch, "/metadata/labels/someone.example~1team");
        },
    },
    Scenario {
        name: "foreign field of the StatefulSet stays",
        does: |g| {
            marked(g, "statefulset/default", r#"{"spec":{"minReadySeconds":1}}"#, "/spec/minReadySeconds");
        },
    },
    Scenario {
        name: "foreign annotation on the Service stays",
        does: |g| {
            let patch = r#"{"metadata":{"annotations":{"someone.example/lb":"x"}}}"#;
            marked(g, "service/default", patch, "/metadata/annotations/someone.example~1lb");
        },
    },
    Scenario {
        name: "foreign field of the Service stays",
        does: |g| {
            marked(
                g,
                "service/default",
                r#"{"spec":{"sessionAffinity":"ClientIP"}}"#,
                "/spec/sessionAffinity",
            );
        },
    },
    Scenario {
        name: "foreign annotation on the bundle stays",
        does: |g| {
            let patch = r#"{"metadata":{"annotations":{"someone.example/backup":"no"}}}"#;
            marked(g, "configmap/default-bundle-0", patch, "/metadata/annotations/someone.example~1backup");
        },
    },
    Scenario {
        name: "another field manager fights for replicas",
        does: |g| {
            let yaml =
                "apiVersion: apps/v1\nkind: StatefulSet\nmetadata: {name: default}\nspec: {replicas: 1}\n";
            let arguments =
                ["apply", "--server-side", "--force-conflicts", "--field-manager=other", "-f", "-"];
            for _ in 0..3 {
                assert!(g.attempt(&arguments, Some(yaml)), "it applies");
                wait_for("replicas are ours again", Duration::from_secs(30), || {
                    (g.namespace.get("statefulset/default")["spec"]["replicas"] == 2).then_some(())
                });
            }
        },
    },
];
