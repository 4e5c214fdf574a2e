//! The promise of the README: install, apply, wait, send.

use std::fs;

use super::{gateway, letter, reject, relay, sink_for_pods};
use crate::support::cluster::cluster;
use crate::support::wait_for;
use std::time::Duration;

fn sample(name: &str) -> String {
    let path = format!("{}/deploy/samples/{name}", env!("CARGO_MANIFEST_DIR"));
    fs::read_to_string(path).expect("the sample is there")
}

#[test]
fn the_quickstart_works_as_written() {
    let (_turn, cluster) = cluster();
    let namespace = cluster.namespace("quickstart");
    let (postfix, sink) = relay(cluster, 25);
    namespace.apply(&sample("quickstart.yaml"));
    namespace.wait_ready(&["obg,obr,rtr,cpr", "--all"]);
    println!("{}", namespace.kubectl(&["get", "obg,obr,rtr,cpr"]));

    let server = namespace.service("default");
    let letter = ["--from", "ani@solarmora.com", "--to", "budi@partner.example", "--header", "Subject: Laporan bulanan"];
    let send = |body: &str| namespace.swaks(&server, 25, &[&letter[..], &["--tls", "--body", body]].concat());
    let harmless = send("Terlampir laporan bulan ini.");
    assert!(harmless.contains("250 2.0.0 Ok: queued as"), "{harmless}");
    let mail = sink.wait(1).remove(0);
    assert_eq!(mail.to, ["budi@partner.example"]);
    assert!(mail.text().contains("(using TLSv1.3"), "Postfix took it over TLS:\n{}", mail.text());
    assert!(!postfix.log().contains("SSL_accept error"), "{}", postfix.log());

    let refused = send("This is confidential.");
    assert!(refused.contains("550") && refused.contains("5.7.1"), "{refused}");

    // The rule requires TLS on both legs: what came in clear text does not leave.
    let clear = namespace.swaks(&server, 25, &[&letter[..], &["--body", "In clear text."]].concat());
    assert!(clear.contains("550 5.7.1 Secure transport required by policy"), "{clear}");
    assert_eq!(sink.mail().len(), 1);
}

#[test]
fn a_changed_rule_acts_on_the_first_message_after_ready() {
    let (_turn, cluster) = cluster();
    let namespace = cluster.namespace("changed");
    let sink = sink_for_pods();
    namespace.apply(&gateway(2, &sink, ""));
    namespace.apply(&reject("word", "one"));
    namespace.wait_ready(&["obg,cpr", "--all"]);
    let pods = [namespace.pod_ip("default-0"), namespace.pod_ip("default-1")];
    for word in ["two", "three", "four"] {
        namespace.apply(&reject("word", word));
        namespace.wait_ready(&["cpr/word"]);
        for ip in &pods {
            let reply = crate::support::client::send(
                super::to_pod(ip),
                "ani@solarmora.com",
                &["b@partner.example"],
                &letter(word),
            );
            assert!(reply.starts_with("550"), "{word} at {ip}: {reply}");
        }
    }
}

#[test]
fn the_three_public_kinds_alone_make_a_gateway_that_relays_for_nobody_yet() {
    let (_turn, cluster) = cluster();
    let namespace = cluster.namespace("alone");
    namespace.apply(&reject("word", "one"));
    let message = namespace.wait_condition("obg/default", "AcceptsMail", "False", "NoClients");
    assert!(message.contains("cidrs"), "{message}");
    namespace.kubectl(&["delete", "cpr/word"]);
    wait_for("the default gateway is gone again", Duration::from_secs(30), || {
        let left = cluster.attempt("kubectl", &["-n", "alone", "get", "obg/default"], None);
        (!left.status.success()).then_some(())
    });
}

#[test]
fn deletion_leaves_nothing_behind_but_claims_that_hold_mail() {
    let (_turn, cluster) = cluster();
    for (name, storage, claims) in [
        ("gone-ephemeral", "ephemeral: true", false),
        ("gone-delete", "size: 64Mi, onDelete: Delete", false),
        ("gone-retain", "size: 64Mi", true),
    ] {
        let namespace = cluster.namespace(name);
        let sink = sink_for_pods();
        namespace.apply(&gateway(1, &sink, "").replace("ephemeral: true", storage));
        namespace.apply(&reject("word", "one"));
        namespace.wait_ready(&["obg,cpr", "--all"]);
        namespace.kubectl(&["delete", "cpr,rtr,obr,obg", "--all"]);
        let left = || {
            let kinds = "statefulset,service,configmap,secret,networkpolicy,pdb,pod,pvc";
            let names = namespace.kubectl(&["get", kinds, "-o", "name", "--ignore-not-found"]);
            let ours = |line: &&str| *line != "configmap/kube-root-ca.crt";
            names.lines().filter(ours).map(str::to_owned).collect::<Vec<_>>()
        };
        wait_for(&format!("{name} is empty"), Duration::from_secs(90), || {
            let left = left();
            let only_claims = left.iter().all(|name| name.starts_with("persistentvolumeclaim/"));
            (only_claims && left.is_empty() != claims).then_some(())
        });
    }
}

#[test]
fn kubectl_explain_reads_like_a_manual() {
    let (_turn, cluster) = cluster();
    let manual = cluster.kubectl(&["explain", "compliancerule.spec", "--recursive"]);
    for field in ["match", "words", "wordOptions", "action", "reject", "notice", "modify", "subjectPrefix"] {
        assert!(manual.contains(field), "{field} is missing:\n{manual}");
    }
    for kind in ["outboundgateway", "outboundroute", "routingrule", "compliancerule"] {
        let spec = cluster.kubectl(&["explain", &format!("{kind}.spec")]);
        assert!(spec.contains("DESCRIPTION") && !spec.contains("<empty>"), "{spec}");
    }
}
