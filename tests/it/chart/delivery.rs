//! What is shipped beside the chart says the same as the chart: install.yaml, the kustomize bases, the test of an
//! installation, and Pod Security in everything that runs.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::support::chart::{named, objects, of_kind, rendered, root, run, tool};

fn kustomized(folder: &str) -> Vec<Value> {
    let built = run(&tool("kubectl"), &["kustomize", &format!("deploy/kustomize/{folder}")]);
    objects(&built.unwrap_or_else(|error| panic!("{folder}: {error}")))
}

fn names(objects: &[Value]) -> BTreeSet<String> {
    let name = |object: &Value| {
        let place = object["metadata"]["namespace"].as_str().unwrap_or("-");
        format!("{} {place} {}", object["kind"].as_str().expect("a kind"), object["metadata"]["name"])
    };
    objects.iter().map(name).collect()
}

#[test]
fn the_kustomize_base_is_install_yaml() {
    let base = kustomized("base");
    let install = objects(&std::fs::read_to_string(root().join("deploy/install.yaml")).expect("it is there"));
    assert_eq!(names(&base), names(&install), "run `make generate`");
    for object in &install {
        let (kind, name) = (object["kind"].as_str().expect("text"), object["metadata"]["name"].as_str());
        let other = named(&base, kind, name.expect("named"));
        // A CRD's labels come from the chart; what it defines is the same.
        let part = if kind == "CustomResourceDefinition" { "spec" } else { "metadata" };
        assert_eq!(object[part], other[part], "{kind} {name:?}");
        assert_eq!(object["spec"], other["spec"], "{kind} {name:?}");
        assert_eq!(object["rules"], other["rules"], "{kind} {name:?}");
    }
}

#[test]
fn the_overlay_for_one_namespace_is_what_the_chart_makes_of_namespaces() {
    let overlay = kustomized("overlays/namespaced");
    let chart = rendered(&["namespaces={mail}"]);
    for kind in ["Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding"] {
        let of = |objects: &[Value]| names(&of_kind(objects, kind).cloned().collect::<Vec<_>>());
        assert_eq!(of(&overlay), of(&chart), "{kind}");
    }
    let find = |objects: &[Value], kind: &str| {
        let mine = |object: &&Value| object["metadata"]["namespace"] == "mail";
        of_kind(objects, kind).find(mine).expect("it is there").clone()
    };
    assert_eq!(find(&overlay, "Role")["rules"], find(&chart, "Role")["rules"]);
    assert_eq!(find(&overlay, "RoleBinding")["roleRef"], find(&chart, "RoleBinding")["roleRef"]);
    assert_eq!(find(&overlay, "RoleBinding")["subjects"], find(&chart, "RoleBinding")["subjects"]);
    let arguments = |objects: &[Value]| {
        named(objects, "Deployment", "postern")["spec"]["template"]["spec"]["containers"][0]["args"].clone()
    };
    assert_eq!(arguments(&overlay), arguments(&chart));
}

#[test]
fn an_image_of_an_overlay_reaches_the_gateways_too() {
    let overlay = kustomized("overlays/dev");
    let container =
        named(&overlay, "Deployment", "postern")["spec"]["template"]["spec"]["containers"][0].clone();
    assert_eq!(container["image"], "postern:dev");
    let env = container["env"].as_array().expect("env");
    let image = env.iter().find(|variable| variable["name"] == "POSTERN_IMAGE").expect("it is set");
    assert_eq!(image["value"], "postern:dev");
}

#[test]
fn the_gateway_of_the_dev_overlay_has_no_volume() {
    let gateway = kustomized("gateway/overlays/dev").remove(0);
    assert_eq!(gateway["kind"], "OutboundGateway");
    assert_eq!(gateway["spec"]["storage"], json!({"ephemeral": true}));
    assert_eq!(kustomized("gateway/base")[0]["spec"]["storage"], json!({"size": "10Gi"}));
}

#[test]
fn everything_that_the_chart_runs_meets_the_restricted_standard() {
    let objects = rendered(&["replicas=2"]);
    let pods: Vec<&Value> = of_kind(&objects, "Deployment")
        .map(|deployment| &deployment["spec"]["template"]["spec"])
        .chain(of_kind(&objects, "Pod").map(|pod| &pod["spec"]))
        .collect();
    assert_eq!(pods.len(), 2, "the operator, and the test of an installation");
    for pod in pods {
        assert_eq!(pod["securityContext"]["runAsNonRoot"], true, "{pod}");
        assert_eq!(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault", "{pod}");
        for word in ["hostNetwork", "hostPID", "hostIPC", "initContainers", "volumes"] {
            assert_eq!(pod.get(word), None, "{word}: {pod}");
        }
        for container in pod["containers"].as_array().expect("containers") {
            let context = &container["securityContext"];
            assert_eq!(context["allowPrivilegeEscalation"], false, "{container}");
            assert_eq!(context["readOnlyRootFilesystem"], true, "{container}");
            assert_eq!(context["capabilities"], json!({"drop": ["ALL"]}), "{container}");
        }
    }
}

#[test]
fn the_test_of_an_installation_runs_only_when_it_is_asked_for() {
    let objects = rendered(&[]);
    let pod = of_kind(&objects, "Pod").next().expect("helm test has a pod");
    assert_eq!(pod["metadata"]["annotations"]["helm.sh/hook"], "test");
    let install = std::fs::read_to_string(root().join("deploy/install.yaml")).expect("it is there");
    assert!(!install.contains("kind: Pod\n"), "people without Helm get no pod that fails at once");
}
