//! Who may do what on a real API server: the operator's account and the four roles for people, gateways that serve
//! several namespaces, Secrets of one tenant and mail of another, and what the API server says about copies.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::Value;

use super::{gateway, letter, sink_for_pods, to_pod};
use crate::support::chart::{named, of_kind, rendered, texts};
use crate::support::client::send;
use crate::support::cluster::{Cluster, Namespace, RELAY, SYSTEM, cluster};
use crate::support::gateway::condition;
use crate::support::{tell, wait_for};

const OPERATOR: &str = "system:serviceaccount:postern-system:postern";

/// What `kubectl auth can-i --list` says of somebody in a namespace: resource (and names) → verbs. What every
/// account has is left out.
fn may(cluster: &Cluster, who: &str, namespace: &str) -> BTreeMap<String, BTreeSet<String>> {
    let all = |who: &str| {
        let text =
            cluster.kubectl(&["auth", "can-i", "--list", "--as", who, "-n", namespace, "--no-headers"]);
        let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for line in text.lines() {
            let mut lists = line.split('[').map(|part| part.split(']').next().unwrap_or_default().trim());
            let resource = line.split_whitespace().next().unwrap_or_default().to_owned();
            let (_, paths, names, verbs) = (lists.next(), lists.next(), lists.next(), lists.next());
            if paths != Some("") {
                continue;
            }
            let names = names.filter(|names| !names.is_empty()).map(|names| format!("[{names}]"));
            let verbs = verbs.unwrap_or_default().split_whitespace().map(str::to_owned);
            found.entry(resource + &names.unwrap_or_default()).or_default().extend(verbs);
        }
        found
    };
    let nobody = all("nobody-in-particular");
    let mut found = all(who);
    found.retain(|resource, verbs| nobody.get(resource) != Some(verbs));
    found
}

/// The same as the chart's role says it.
fn written(roles: &[&Value]) -> BTreeMap<String, BTreeSet<String>> {
    let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for rule in roles.iter().flat_map(|role| role["rules"].as_array().into_iter().flatten()) {
        let names = texts(&rule["resourceNames"]);
        for group in texts(&rule["apiGroups"]) {
            for resource in texts(&rule["resources"]) {
                // kubectl writes the group behind the resource, and a subresource behind both.
                let (name, sub) = resource.split_once('/').map_or((resource, None), |(n, s)| (n, Some(s)));
                let mut key = if group.is_empty() { name.to_owned() } else { format!("{name}.{group}") };
                key.extend(sub.map(|sub| format!("/{sub}")));
                key.extend((!names.is_empty()).then(|| format!("[{}]", names.join(" "))));
                let verbs = texts(&rule["verbs"]).into_iter().map(str::to_owned);
                found.entry(key).or_default().extend(verbs);
            }
        }
    }
    found
}

fn refused(cluster: &Cluster, who: &str, arguments: &[&str], stdin: Option<&str>, because: &str) {
    let output = cluster.attempt("kubectl", &[&["--as", who], arguments].concat(), stdin);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{who} {}: it was done", arguments.join(" "));
    assert!(said.contains(because), "{who} {}: {said}", arguments.join(" "));
}

fn taken(cluster: &Cluster, who: &str, arguments: &[&str], stdin: Option<&str>) {
    cluster.run("kubectl", &[&["--as", who], arguments].concat(), stdin);
}

#[test]
fn the_operators_account_has_the_rights_that_are_written_down_and_no_others() {
    let (_turn, cluster) = cluster();
    let chart = rendered(&[]);
    let everywhere: Vec<&Value> = of_kind(&chart, "ClusterRole").filter(|role| bound(&chart, role)).collect();
    assert_eq!(may(cluster, OPERATOR, "default"), written(&everywhere));
    let of_the_operator = |role: &&Value| {
        of_kind(&chart, "RoleBinding").any(|binding| binding["roleRef"]["name"] == role["metadata"]["name"])
    };
    let own: Vec<&Value> =
        of_kind(&chart, "Role").filter(of_the_operator).chain(everywhere.iter().copied()).collect();
    assert_eq!(may(cluster, OPERATOR, SYSTEM), written(&own));
    for question in [
        &["list", "secrets", "-A"][..],
        &["watch", "secrets", "-A"],
        &["create", "pods", "--subresource=exec"],
        &["create", "pods"],
        &["delete", "pods"],
        &["get", "nodes"],
        &["create", "clusterroles.rbac.authorization.k8s.io"],
        &["impersonate", "users"],
        &["delete", "namespaces"],
        &["create", "serviceaccounts", "--subresource=token"],
        &["update", "validatingadmissionpolicies.admissionregistration.k8s.io"],
        &["update", "outboundroutes.postern.dev"],
        &["delete", "compliancerules.postern.dev"],
    ] {
        let arguments = [&["auth", "can-i"], question, &["--as", OPERATOR]].concat();
        let answer = cluster.attempt("kubectl", &arguments, None);
        assert_eq!(String::from_utf8_lossy(&answer.stdout).trim(), "no", "{question:?}");
    }
    refused(cluster, OPERATOR, &["get", "secrets", "-A"], None, "Forbidden");
}

/// Whether the chart binds this role to the operator.
fn bound(chart: &[Value], role: &Value) -> bool {
    of_kind(chart, "ClusterRoleBinding").any(|binding| binding["roleRef"]["name"] == role["metadata"]["name"])
}

#[test]
fn the_guard_holds_the_operator_to_its_own_objects() {
    let (_turn, cluster) = cluster();
    let namespace = cluster.namespace("guarded");
    let sink = sink_for_pods();
    namespace.apply(&gateway(1, &sink, ""));
    namespace.wait_ready(&["obg/default"]);
    namespace.kubectl(&["create", "configmap", "foreign", "--from-literal=a=b"]);
    namespace.kubectl(&["create", "secret", "generic", "foreign", "--from-literal=a=b"]);
    namespace.kubectl(&["create", "service", "clusterip", "foreign", "--tcp=80:80"]);
    let patch = r#"{"data":{"a":"c"}}"#;
    let here = ["-n", "guarded"];
    let no = |arguments: &[&str], stdin: Option<&str>| {
        refused(cluster, OPERATOR, &[&here, arguments].concat(), stdin, "Postern operator");
    };
    no(&["patch", "configmap", "foreign", "-p", patch], None);
    no(&["patch", "secret", "foreign", "-p", r#"{"stringData":{"a":"c"}}"#], None);
    no(&["delete", "secret", "foreign"], None);
    no(&["delete", "configmap", "foreign"], None);
    no(&["delete", "service", "foreign"], None);
    no(&["create", "secret", "generic", "new", "--from-literal=a=b"], None);
    no(&["create", "configmap", "new"], None);
    // Marking what is another's as one's own does not help.
    let theft = r#"{"metadata":{"labels":{"postern.dev/gateway":"default"}}}"#;
    no(&["patch", "configmap", "foreign", "-p", theft], None);
    let image = r#"{"spec":{"containers":[{"name":"gateway","image":"postern:other"}]}}"#;
    no(&["patch", "pod", "default-0", "-p", image], None);
    let label = r#"{"metadata":{"labels":{"app":"other"}}}"#;
    no(&["patch", "pod", "default-0", "-p", label], None);
    let second =
        "apiVersion: postern.dev/v1alpha1\nkind: OutboundGateway\nmetadata: {name: second}\nspec: {}\n";
    no(&["create", "-f", "-"], Some(second));
    refused(cluster, OPERATOR, &["-n", "guarded", "exec", "default-0", "--", "/postern"], None, "forbidden");
    // What it needs, it may.
    let annotation = r#"{"metadata":{"annotations":{"postern.dev/tried":"yes"}}}"#;
    taken(cluster, OPERATOR, &["-n", "guarded", "patch", "pod", "default-0", "-p", annotation], None);
}

#[test]
fn r006_each_role_for_people_may_do_its_own_work_and_no_other() {
    let (_turn, cluster) = cluster();
    let namespace = cluster.namespace("people");
    let chart = rendered(&[]);
    let roles: Vec<&Value> = of_kind(&chart, "ClusterRole").filter(|role| !bound(&chart, role)).collect();
    assert!(roles.len() >= 3, "route-admin, rule-author, auditor");
    for role in &roles {
        let name = role["metadata"]["name"].as_str().expect("named");
        let (binding, user) = (format!("{name}-of-a-test"), format!("a-{name}"));
        let to = [format!("--clusterrole={name}"), format!("--user={user}")];
        namespace.kubectl(&["create", "rolebinding", &binding, &to[0], &to[1]]);
        assert_eq!(may(cluster, &user, "people"), written(&[role]), "{name}");
        // A role that is bound in one namespace gives nothing in another.
        assert_eq!(may(cluster, &user, "default"), BTreeMap::new(), "{name}");
        for question in [
            &["get", "secrets"][..],
            &["create", "pods/exec"],
            &["update", "compliancerules.postern.dev/status"],
            &["patch", "outboundgateways.postern.dev/status"],
            &["patch", "configmaps"],
        ] {
            // The subresource is an argument of its own to kubectl.
            let (resource, sub) = question[1].split_once('/').unwrap_or((question[1], ""));
            let arguments = ["auth", "can-i", question[0], resource, "-n", "people", "--as", &user];
            let sub = format!("--subresource={sub}");
            let answer = cluster.attempt("kubectl", &[&arguments[..], &[&sub]].concat(), None);
            assert_eq!(String::from_utf8_lossy(&answer.stdout).trim(), "no", "{name}: {question:?}");
        }
    }
    let rule = super::reject("word", "one");
    let route = "apiVersion: postern.dev/v1alpha1\nkind: OutboundRoute\nmetadata: {name: r}\nspec: {hosts: [{host: a.example}]}\n";
    let apply = ["-n", "people", "apply", "-f", "-"];
    taken(cluster, "a-postern-rule-author", &apply, Some(&rule));
    refused(cluster, "a-postern-rule-author", &apply, Some(route), "forbidden");
    taken(cluster, "a-postern-route-admin", &apply, Some(route));
    let changed = super::reject("word", "two");
    for user in ["a-postern-route-admin", "a-postern-auditor"] {
        refused(cluster, user, &apply, Some(&changed), "forbidden");
    }
    taken(cluster, "a-postern-auditor", &["-n", "people", "get", "cpr,obr,rtr,obg"], None);
    refused(cluster, "a-postern-auditor", &["-n", "people", "delete", "cpr/word"], None, "forbidden");
}

#[test]
fn r006_the_roles_of_every_cluster_take_over_what_the_chart_says() {
    let (_turn, cluster) = cluster();
    for (role, wanted, not) in [
        ("view", &["get compliancerules"][..], &["update compliancerules", "update outboundroutes"][..]),
        ("edit", &["get compliancerules"], &["update compliancerules", "update outboundroutes"]),
        ("admin", &["update compliancerules", "update outboundroutes"], &["update compliancerules/status"]),
    ] {
        let role: Value = serde_json::from_str(&cluster.kubectl(&["get", "clusterrole", role, "-o", "json"]))
            .expect("kubectl prints JSON");
        let has = |right: &str| {
            let (verb, resource) = right.split_once(' ').expect("verb and resource");
            role["rules"].as_array().into_iter().flatten().any(|rule| {
                texts(&rule["apiGroups"]).contains(&"postern.dev")
                    && texts(&rule["resources"]).contains(&resource)
                    && texts(&rule["verbs"]).contains(&verb)
            })
        };
        for right in wanted {
            assert!(has(right), "{}: {right}", role["metadata"]["name"]);
        }
        for right in not {
            assert!(!has(right), "{}: {right}", role["metadata"]["name"]);
        }
    }
}

/// A rule of `branch` that hangs on the gateway of `hub`.
fn rule_from_elsewhere(word: &str) -> String {
    super::reject("far", word).replace("spec:\n", "spec:\n  gatewayRef: {name: default, namespace: hub}\n")
}

fn mail(hub: &Namespace<'_>, body: &str) -> String {
    send(to_pod(&hub.pod_ip("default-0")), "ani@solarmora.com", &["b@partner.example"], &letter(body))
}

#[test]
fn a_gateway_obeys_other_namespaces_only_while_both_sides_agree() {
    let (_turn, cluster) = cluster();
    let (hub, branch) = (cluster.namespace("hub"), cluster.namespace("branch"));
    let sink = sink_for_pods();
    hub.apply(&gateway(1, &sink, ""));
    hub.wait_ready(&["obg/default"]);
    branch.apply(&rule_from_elsewhere("secret"));
    let message = branch.wait_condition("cpr/far", "ResolvedRefs", "False", "GatewayNotAllowed");
    assert!(message.contains("add it to its allowedNamespaces"), "{message}");
    branch.wait_condition("cpr/far", "Stalled", "True", "NeedsAuthor");
    assert!(mail(&hub, "secret").starts_with("250"), "nobody asked the gateway's owner");

    hub.apply(&gateway(1, &sink, "  allowedNamespaces: [branch]\n"));
    let start = Instant::now();
    branch.wait_ready(&["cpr/far"]);
    tell(&format!("listed: in force {} ms after kubectl apply ended", start.elapsed().as_millis()));
    assert!(mail(&hub, "secret").starts_with("550"));
    let status = branch.get("cpr/far")["status"].clone();
    assert_eq!(condition(&status, "Stalled"), None, "{status}");

    hub.apply(&gateway(1, &sink, ""));
    let start = Instant::now();
    wait_for("the rule is out of force", Duration::from_secs(5), || {
        mail(&hub, "secret").starts_with("250").then_some(())
    });
    tell(&format!(
        "no longer listed: out of force {} ms after kubectl apply ended",
        start.elapsed().as_millis()
    ));
    branch.wait_condition("cpr/far", "ResolvedRefs", "False", "GatewayNotAllowed");
    branch.wait_condition("cpr/far", "Stalled", "True", "NeedsAuthor");
    hub.wait_ready(&["obg/default"]);
}

/// A route of `namespace` on the gateway of `hub`, with this login.
fn route_with_login(name: &str, secret: &str) -> String {
    format!(
        "apiVersion: postern.dev/v1alpha1
kind: OutboundRoute
metadata: {{name: {name}}}
spec:
  gatewayRef: {{name: default, namespace: hub-of-secrets}}
  hosts: [{{host: {RELAY}, port: 25}}]
  tls: {{mode: StartTls, require: true, requireCaSigned: true, validateHostname: true}}
  auth: {{credentialsRef: {{name: {secret}}}, mechanism: Plain}}
  probe: {{interval: 24h}}
"
    )
}

/// Everything in the Secrets that the operator made for the gateway.
fn copies(hub: &Namespace<'_>) -> Vec<u8> {
    let secrets = hub.get("secrets");
    let ours = secrets["items"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|secret| secret["metadata"]["labels"]["postern.dev/gateway"] == "default");
    let values = ours.flat_map(|secret| secret["data"].as_object().into_iter().flatten());
    values.flat_map(|(_, value)| BASE64.decode(value.as_str().expect("text")).expect("base64")).collect()
}

fn holds(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

#[test]
fn a_route_sends_no_secret_of_another_namespace_and_none_that_was_not_meant_for_it() {
    let (_turn, cluster) = cluster();
    let (hub, branch) = (cluster.namespace("hub-of-secrets"), cluster.namespace("branch-of-secrets"));
    let sink = sink_for_pods();
    hub.apply(&gateway(1, &sink, "  allowedNamespaces: [branch-of-secrets]\n"));
    let login = |namespace: &Namespace<'_>, name: &str, kind: &str, password: &str| {
        let literals =
            ["--from-literal=username=u".to_owned(), format!("--from-literal=password={password}")];
        let kind = format!("--type={kind}");
        namespace.kubectl(&["create", "secret", "generic", name, &kind, &literals[0], &literals[1]]);
    };
    login(&hub, "of-the-hub", "kubernetes.io/basic-auth", "hub-pass-7461");
    login(&branch, "unmarked", "Opaque", "unmarked-pass-2290");
    login(&branch, "meant", "kubernetes.io/basic-auth", "meant-pass-5518");
    branch.apply(&route_with_login("thief", "of-the-hub"));
    branch.apply(&route_with_login("careless", "unmarked"));
    branch.apply(&route_with_login("honest", "meant"));
    let message = branch.wait_condition("obr/thief", "ResolvedRefs", "False", "SecretNotFound");
    assert!(message.contains("branch-of-secrets/of-the-hub"), "looked for at home only: {message}");
    let message = branch.wait_condition("obr/careless", "ResolvedRefs", "False", "SecretNotAllowed");
    assert!(message.contains("postern.dev/use"), "{message}");
    branch.wait_ready(&["obr/honest"]);
    let bytes = copies(&hub);
    assert!(holds(&bytes, "meant-pass-5518"));
    assert!(!holds(&bytes, "hub-pass-7461") && !holds(&bytes, "unmarked-pass-2290"));

    // Its owner says that it may be used.
    branch.kubectl(&["label", "secret/unmarked", "postern.dev/use=true"]);
    branch.wait_ready(&["obr/careless"]);
    assert!(holds(&copies(&hub), "unmarked-pass-2290"));
    // And takes it back: the copy goes.
    branch.kubectl(&["label", "secret/unmarked", "postern.dev/use-"]);
    branch.wait_condition("obr/careless", "ResolvedRefs", "False", "SecretNotAllowed");

    // The namespace is no longer wanted: none of its Secrets stays.
    hub.apply(&gateway(1, &sink, ""));
    branch.wait_condition("obr/honest", "ResolvedRefs", "False", "GatewayNotAllowed");
    wait_for("no copy is left", Duration::from_secs(60), || {
        let bytes = copies(&hub);
        (!holds(&bytes, "meant-pass-5518") && !holds(&bytes, "unmarked-pass-2290")).then_some(())
    });
}

#[test]
fn all_pods_meet_the_restricted_standard_of_a_real_api_server() {
    let (_turn, cluster) = cluster();
    // Namespaces of tests enforce it, so a gateway that runs there has passed.
    let namespace = cluster.namespace("restricted");
    let sink = sink_for_pods();
    namespace.apply(&gateway(1, &sink, ""));
    namespace.wait_ready(&["obg/default"]);
    let pod = namespace.get("pod/default-0");
    assert_eq!(pod["spec"]["automountServiceAccountToken"], false, "{pod}");
    // Asked about what runs already, the API server has nothing to say.
    for name in [SYSTEM, "restricted"] {
        let arguments = ["label", "--dry-run=server", "--overwrite", "namespace", name];
        let label = "pod-security.kubernetes.io/enforce=restricted";
        let version = "pod-security.kubernetes.io/enforce-version=latest";
        let output = cluster.attempt("kubectl", &[&arguments[..], &[label, version]].concat(), None);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && !said.contains("violate"), "{name}: {said}");
    }
}

/// A rule that sends a copy there.
fn copy_to(address: &str) -> String {
    format!(
        "apiVersion: postern.dev/v1alpha1
kind: RoutingRule
metadata: {{name: copy}}
spec:
  messages: [Outbound]
  action: {{modify: {{addRecipients: [{{address: {address}}}]}}}}
"
    )
}

#[test]
fn r102_the_api_server_warns_of_copies_that_leave_and_the_operator_takes_none_that_is_not_allowed() {
    let (_turn, cluster) = cluster();
    let namespace = cluster.namespace("copies");
    let sink = sink_for_pods();
    namespace.apply(&gateway(1, &sink, ""));
    namespace.wait_ready(&["obg/default"]);
    let tell = |yaml: &str, dry: &str| {
        let output = cluster.attempt("kubectl", &["-n", "copies", "apply", dry, "-f", "-"], Some(yaml));
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let apply = |yaml: &str| tell(yaml, "--dry-run=none");
    // Until a policy is in force nothing must be written that it would have refused.
    let attempt = |yaml: &str| tell(yaml, "--dry-run=server");
    let (done, said) = wait_for("the policy is in force", Duration::from_secs(30), || {
        let (done, said) = attempt(&copy_to("thief@evil.example"));
        said.contains("Warning").then_some((done, said))
    });
    assert!(done && said.contains("mail of others leaves to evil.example"), "{said}");
    apply(&copy_to("thief@evil.example"));
    namespace.wait_condition("rtr/copy", "ExternalTargetUnchecked", "True", "AllowedExternalTargetsUnset");
    let (done, said) = apply(&copy_to("archive@solarmora.com"));
    assert!(done && !said.contains("Warning"), "inside is inside: {said}");

    namespace.apply(&gateway(1, &sink, "  allowedExternalTargets: [archive.example]\n"));
    namespace.wait_ready(&["obg/default"]);
    let (done, said) = wait_for("the policy sees the gateway's list", Duration::from_secs(30), || {
        let (done, said) = apply(&copy_to("thief@evil.example"));
        said.contains("not among allowedExternalTargets").then_some((done, said))
    });
    assert!(done, "it warns, and the operator decides: {said}");
    namespace.wait_condition("rtr/copy", "Accepted", "False", "ExternalTargetNotAllowed");
    let (done, said) = apply(&copy_to("keeper@mail.archive.example"));
    assert!(done && !said.contains("Warning"), "{said}");
    namespace.wait_ready(&["rtr/copy"]);

    // Where the chart is told to, the API server says no itself.
    let deny = rendered(&["externalTargets.action=Deny", "fullnameOverride=deny"]);
    let policies: Vec<String> = ["ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"]
        .map(|kind| named(&deny, kind, "postern-system-deny-external-targets").to_string())
        .into();
    let policies = policies.join("\n---\n");
    cluster.run("kubectl", &["apply", "-f", "-"], Some(&policies));
    let said = wait_for("it is refused", Duration::from_secs(30), || {
        let (done, said) = attempt(&copy_to("thief@evil.example"));
        (!done).then_some(said)
    });
    cluster.run("kubectl", &["delete", "-f", "-"], Some(&policies));
    assert!(said.contains("not among allowedExternalTargets"), "{said}");
    let rule = namespace.get("rtr/copy");
    assert!(rule["spec"].to_string().contains("keeper@mail.archive.example"), "{rule}");
}
