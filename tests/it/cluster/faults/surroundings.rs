//! The cluster around us: admission that denies or delays, quotas, objects of others in the way.

use std::process::{Child, Command};
use std::time::{Duration, Instant};

use serde_json::json;

use super::Scenario;
use super::ground::Ground;
use crate::support::cluster::HOST;
use crate::support::gateway::{Folder, free_address};
use crate::support::{tell, wait_for};

const LABEL: &str = "someone.example/fault";

/// Denies the operator what the expression says, in this namespace, as long as it lives.
struct Denial<'a>(&'a Ground<'a>);

impl<'a> Denial<'a> {
    fn new(ground: &'a Ground<'a>, group: &str, resource: &str, operations: &[&str]) -> Self {
        let namespace = &ground.namespace.name;
        let policy = json!({
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy",
            "metadata": {"name": namespace, "labels": {LABEL: "true"}},
            "spec": {
                "failurePolicy": "Fail",
                "matchConstraints": {"resourceRules": [{
                    "apiGroups": [group], "apiVersions": ["*"], "operations": operations, "resources": [resource],
                }]},
                "validations": [{
                    "expression": "!request.userInfo.username.startsWith('system:serviceaccount:postern-system:')",
                    "message": "denied by a test",
                }],
            },
        });
        let binding = json!({
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicyBinding",
            "metadata": {"name": namespace, "labels": {LABEL: "true"}},
            "spec": {
                "policyName": namespace, "validationActions": ["Deny"],
                "matchResources": {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}}},
            },
        });
        for object in [policy, binding] {
            ground.cluster.run("kubectl", &["apply", "-f", "-"], Some(&object.to_string()));
        }
        // It takes the API server a moment to go by it.
        std::thread::sleep(Duration::from_secs(2));
        Self(ground)
    }
}

impl Drop for Denial<'_> {
    fn drop(&mut self) {
        for kind in ["validatingadmissionpolicybindings", "validatingadmissionpolicies"] {
            self.0.attempt(&["delete", kind, &self.0.namespace.name], None);
        }
    }
}

/// An admission webhook on updates of pods: waits, then allows. Without a server nobody answers.
struct Webhook<'a> {
    ground: &'a Ground<'a>,
    server: Option<Child>,
    /// Certificate and key, until the server ends.
    _folder: Folder,
}

const SERVER: &str = "
import http.server, json, ssl, sys, time
class Webhook(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    def do_POST(self):
        review = json.loads(self.rfile.read(int(self.headers['content-length'])))
        time.sleep(float(sys.argv[5]))
        answer = json.dumps({'apiVersion': 'admission.k8s.io/v1', 'kind': 'AdmissionReview',
                             'response': {'uid': review['request']['uid'], 'allowed': True}}).encode()
        self.send_response(200)
        self.send_header('content-type', 'application/json')
        self.send_header('content-length', str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)
    def log_message(self, *_):
        pass
server = http.server.ThreadingHTTPServer((sys.argv[1], int(sys.argv[2])), Webhook)
context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
context.load_cert_chain(sys.argv[3], sys.argv[4])
server.socket = context.wrap_socket(server.socket, server_side=True)
server.serve_forever()
";

impl<'a> Webhook<'a> {
    fn new(ground: &'a Ground<'a>, delay: Option<f64>) -> Self {
        use base64::Engine;
        let port = free_address().port().to_string();
        let (certificate, key) = ground.cluster.authority.issue(&[HOST]);
        let folder = Folder::new("webhook");
        let file = |name: &str, text: &str| folder.write(name, text).display().to_string();
        let (certificate, key) = (file("tls.crt", &certificate), file("tls.key", &key));
        let server = delay.map(|delay| {
            let child = Command::new("python3")
                .args(["-c", SERVER, HOST, &port, &certificate, &key, &delay.to_string()])
                .spawn()
                .expect("python3 is there");
            let address = format!("{HOST}:{port}");
            wait_for("the webhook listens", Duration::from_secs(10), || {
                std::net::TcpStream::connect(&address).ok()
            });
            child
        });
        let ca = base64::engine::general_purpose::STANDARD.encode(ground.cluster.authority.certificate());
        let namespace = &ground.namespace.name;
        let webhook = json!({
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration",
            "metadata": {"name": namespace, "labels": {LABEL: "true"}},
            "webhooks": [{
                "name": "slow.someone.example", "sideEffects": "None", "admissionReviewVersions": ["v1"],
                "failurePolicy": "Fail", "timeoutSeconds": 5,
                "clientConfig": {"url": format!("https://{HOST}:{port}/"), "caBundle": ca},
                "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["UPDATE"], "resources": ["pods"]}],
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
            }],
        });
        ground.cluster.run("kubectl", &["apply", "-f", "-"], Some(&webhook.to_string()));
        std::thread::sleep(Duration::from_secs(2));
        Self { ground, server, _folder: folder }
    }
}

impl Drop for Webhook<'_> {
    fn drop(&mut self) {
        self.ground.attempt(&["delete", "validatingwebhookconfigurations", &self.ground.namespace.name], None);
        if let Some(server) = &mut self.server {
            let _ = server.kill();
            let _ = server.wait();
        }
    }
}

/// Changes are Ready in spite of it, and Ready is true.
fn changes_arrive(ground: &Ground<'_>, what: &str) {
    let mut times = Vec::new();
    for _ in 0..5 {
        let began = Instant::now();
        let word = ground.next_word();
        ground.namespace.wait_ready(&["cpr/word"]);
        times.push(began.elapsed().as_millis());
        ground.obeys(&word);
    }
    tell(&format!("{what}: apply and wait took {times:?} ms"));
}

pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "a policy denies changes of pods",
        does: |g| {
            let _denial = Denial::new(g, "", "pods", &["UPDATE"]);
            changes_arrive(g, "pods cannot be touched");
        },
    },
    Scenario {
        name: "a webhook delays changes of pods by 100 ms",
        does: |g| {
            let _webhook = Webhook::new(g, Some(0.1));
            changes_arrive(g, "touches take 100 ms more");
        },
    },
    Scenario {
        name: "a webhook on changes of pods does not answer",
        does: |g| {
            let _webhook = Webhook::new(g, None);
            changes_arrive(g, "touches fail");
        },
    },
    Scenario {
        name: "a policy denies ConfigMaps: said, and over with its cause",
        does: |g| {
            let before = g.word();
            let denial = Denial::new(g, "", "configmaps", &["CREATE", "UPDATE"]);
            g.next_word();
            let message = g.namespace.wait_condition("cpr/word", "Programmed", "False", "PublishFailed");
            assert!(message.contains("denied by a test"), "{message}");
            g.obeys(&before);
            drop(denial);
        },
    },
    Scenario {
        name: "a policy denies statuses of rules",
        does: |g| {
            let denial = Denial::new(g, "postern.dev", "compliancerules/status", &["UPDATE"]);
            let word = g.next_word();
            wait_for("pods obey all the same", Duration::from_secs(30), || {
                g.pods().iter().all(|(_, ip)| g.mail(ip, &word).starts_with("550")).then_some(())
            });
            drop(denial);
        },
    },
    Scenario {
        name: "a policy denies the repair of a Service",
        does: |g| {
            let denial = Denial::new(g, "", "services", &["CREATE", "UPDATE"]);
            g.patch("service/default", r#"{"spec":{"selector":{"app":"x"}}}"#);
            let message = g.namespace.wait_condition("obg/default", "Programmed", "False", "PublishFailed");
            assert!(message.contains("denied by a test"), "{message}");
            drop(denial);
        },
    },
    Scenario {
        name: "a quota leaves no room for more pods",
        does: |g| {
            g.kubectl(&["create", "quota", "pods", "--hard=pods=2"]);
            g.kubectl(&["scale", "obg/default", "--replicas=3"]);
            g.next_word();
            g.namespace.wait_ready(&["cpr/word"]);
            g.kubectl(&["delete", "quota", "pods"]);
            wait_for("the third pod serves", Duration::from_secs(90), || (g.pods().len() == 3).then_some(()));
            g.kubectl(&["scale", "obg/default", "--replicas=2"]);
        },
    },
    Scenario {
        name: "a Service of somebody else has the name of ours",
        does: |g| {
            g.kubectl(&["create", "service", "clusterip", "second", "--tcp=25:25"]);
            let second = g
                .gateway()
                .replace("{name: default}", "{name: second}")
                .replace("replicas: 2", "replicas: 1");
            g.namespace.apply(&second);
            let message = g.namespace.wait_condition("obg/second", "Programmed", "False", "PublishFailed");
            assert!(message.contains("does not belong"), "{message}");
            let service = g.namespace.get("service/second");
            assert_eq!(service["metadata"]["ownerReferences"], serde_json::Value::Null, "it was left alone");
            g.kubectl(&["delete", "service/second"]);
            g.namespace.wait_ready(&["obg/second"]);
            g.kubectl(&["delete", "obg/second"]);
            wait_for("its pods are gone", Duration::from_secs(90), || (g.pods().len() == 2).then_some(()));
        },
    },
    Scenario {
        name: "the gateway deleted with all that refers to it, and written again",
        does: |g| {
            g.kubectl(&["delete", "obg/default", "cpr/word", "obr/relay"]);
            wait_for("nothing is left", Duration::from_secs(90), || {
                let left =
                    g.kubectl(&["get", "obg,sts,pods,cm", "-l", "postern.dev/gateway=default", "-o", "name"]);
                let gateway = g.attempt(&["get", "obg/default"], None);
                (left.is_empty() && !gateway).then_some(())
            });
            g.write_all();
        },
    },
];
