//! People who are in LDAP only, end to end: a standalone gateway, OpenLDAP's own server, and mail.

use std::process::Command;
use std::time::Duration;

use crate::support::client::send;
use crate::support::gateway::Standalone;
use crate::support::inbox::Inbox;
use crate::support::site::{PARTNER, Site, message};
use crate::support::slapd::{BASE, PASSWORD, Slapd, free_port};
use crate::support::wait_for;

const BUDI: &str = "budi@solarmora.com";
const DIRECTORY: &str = "Directory/default/people";

/// An organisation with one person in unit `/sales`, who is in a group.
fn people() -> String {
    format!(
        "dn: ou=sales,{BASE}\nobjectClass: organizationalUnit\nou: sales\n\n{}\
         dn: cn=exporters,{BASE}\nobjectClass: groupOfNames\nobjectClass: extensibleObject\ncn: exporters\n\
         mail: exporters@solarmora.com\nmember: cn=budi,ou=sales,{BASE}\n\n",
        person("budi")
    )
}

fn person(name: &str) -> String {
    format!(
        "dn: cn={name},ou=sales,{BASE}\nobjectClass: inetOrgPerson\ncn: {name}\nsn: {name}\n\
         mail: {name}@solarmora.com\n\n"
    )
}

/// A gateway whose Directory lists Ani itself and has the others in LDAP.
fn site(name: &str, sink: &Inbox, port: u16, ca: &str) -> Site {
    let site = Site::new(name, sink.address);
    site.gateway("  directoryRef: {name: people}\n");
    site.ca("ldap-ca", ca);
    let secret = format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{name: reader}}\ntype: kubernetes.io/basic-auth\n\
         stringData: {{username: \"cn=reader,{BASE}\", password: \"{PASSWORD}\"}}\n"
    );
    site.folder.write("config/reader.yaml", &secret);
    let spec = format!(
        "  users: [{{address: ani@solarmora.com}}]\n  ldap:\n    url: ldaps://localhost:{port}\n    \
         caRef: {{kind: ConfigMap, name: ldap-ca, key: ca.crt}}\n    bindRef: {{name: reader}}\n    \
         baseDN: {BASE}\n    refresh: 1s\n"
    );
    site.add("Directory", "people", &spec);
    let rule = |name: &str, scope: &str| {
        let action = format!("{{modify: {{headers: [{{name: X-{name}, value: 'yes'}}]}}}}");
        site.add("RoutingRule", name, &format!("  messages: [Outbound]\n{scope}  action: {action}\n"));
    };
    rule("unit", "  organizationalUnit: /sales\n");
    rule("group", "  envelope: {senders: {groups: [exporters@solarmora.com]}}\n");
    site
}

/// What became of a mail of this sender: whether the rules for the unit and for the group acted.
fn rules_for(gateway: &Standalone, sink: &Inbox, from: &str) -> (bool, bool) {
    let before = sink.mail().len();
    let reply = send(gateway.smtp, from, &[PARTNER], &message("x"));
    assert!(reply.starts_with("250"), "{reply}");
    let mail = sink.wait(before + 1).remove(before);
    (mail.header("X-unit").is_some(), mail.header("X-group").is_some())
}

#[test]
fn r117_people_and_groups_of_ldap_count_and_still_do_while_the_server_is_away() {
    let sink = Inbox::start();
    let mut server = Slapd::start(&people());
    let site = site("ldap", &sink, server.tls, &server.ca);
    let gateway = site.start();
    gateway.wait_condition(DIRECTORY, "ResolvedRefs", "True");
    gateway.wait_condition(DIRECTORY, "Ready", "True");
    assert_eq!(rules_for(&gateway, &sink, BUDI), (true, true));
    assert_eq!(rules_for(&gateway, &sink, "ani@solarmora.com"), (false, false));

    // Somebody new counts with the next reading.
    assert_eq!(rules_for(&gateway, &sink, "citra@solarmora.com"), (false, false));
    let ldif = site.folder.write("citra.ldif", &person("citra"));
    let output = Command::new("ldapmodify")
        .args(["-a", "-x", "-H", &format!("ldaps://localhost:{}", server.tls)])
        .args(["-D", &format!("cn=admin,{BASE}"), "-w", "other", "-f"])
        .arg(ldif)
        // The certificate is not what is tried here.
        .env("LDAPTLS_REQCERT", "never")
        .output()
        .expect("Debian's ldap-utils are there: run `make deps`");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    wait_for("the new person counts", Duration::from_secs(20), || {
        (rules_for(&gateway, &sink, "citra@solarmora.com") == (true, false)).then_some(())
    });

    server.stop();
    wait_for("the status says so", Duration::from_secs(20), || {
        let message = gateway.wait_condition(DIRECTORY, "ResolvedRefs", "True");
        message.contains("not read since 2").then_some(())
    });
    assert_eq!(rules_for(&gateway, &sink, BUDI), (true, true));
    assert_eq!(rules_for(&gateway, &sink, "citra@solarmora.com"), (true, false));

    // Over a restart too, with the server still away.
    gateway.stop();
    let gateway = site.start();
    assert_eq!(rules_for(&gateway, &sink, BUDI), (true, true));
    wait_for("the status says so again", Duration::from_secs(20), || {
        let message = gateway.wait_condition(DIRECTORY, "ResolvedRefs", "True");
        message.contains("not read since 2").then_some(())
    });
    assert_eq!(rules_for(&gateway, &sink, BUDI), (true, true));
}

#[test]
fn mail_waits_for_a_directory_whose_server_was_never_read() {
    let sink = Inbox::start();
    let ca = crate::support::sink::Authority::new().pem();
    let site = site("ldap-never", &sink, free_port(), &ca);
    let gateway = site.start();
    wait_for("the status says why", Duration::from_secs(20), || {
        let message = gateway.wait_condition(DIRECTORY, "ResolvedRefs", "False");
        (message.contains("refused") && message.contains("not read since 2")).then_some(())
    });
    let reply = send(gateway.smtp, BUDI, &[PARTNER], &message("x"));
    assert!(reply.starts_with('4'), "{reply}");
    assert!(sink.mail().is_empty());
}
