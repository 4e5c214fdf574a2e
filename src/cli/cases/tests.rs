//! Cases as people write them: what passes, what fails, and how both are told.

use super::*;
use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};

const RULES: &str = "apiVersion: postern.dev/v1alpha1
kind: OutboundGateway
metadata: {name: default}
spec:
  domains: [solarmora.com]
  clients: {cidrs: [10.0.0.0/8]}
---
apiVersion: postern.dev/v1alpha1
kind: ComplianceRule
metadata: {name: secrets}
spec:
  messages: [Outbound]
  match: {words: [rahasia]}
  action: {reject: {notice: Not this word}}
---
apiVersion: postern.dev/v1alpha1
kind: RoutingRule
metadata: {name: tag}
spec:
  messages: [Outbound]
  action: {modify: {subjectPrefix: Out, headers: [{name: X-Rule, value: \"{rule}\"}]}}
";

struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Runs cases on the rules above; what is told, as `line: message`.
fn told(cases: &str) -> (usize, usize, Vec<String>) {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let name = format!("postern-cases-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
    let folder = Temporary(std::env::temp_dir().join(name));
    fs::create_dir_all(&folder.0).unwrap();
    fs::write(folder.0.join("rules.yaml"), RULES).unwrap();
    fs::write(folder.0.join("own.test.yaml"), cases).unwrap();
    fs::write(
        folder.0.join("secret.eml"),
        "From: ani@solarmora.com\nTo: b@x.example\nSubject: s\n\nrahasia\n",
    )
    .unwrap();
    let read = Folder::read(&folder.0).unwrap();
    assert_eq!(read.loaded.problems, []);
    let Report { passed, failed, told } = run(&read, Timestamp::UNIX_EPOCH);
    (passed, failed, told.into_iter().map(|one| format!("{}: {}", one.line, one.message)).collect())
}

const MAIL: &str = "From: ani@solarmora.com\\nTo: b@x.example\\nSubject: hi\\n\\nbody\\n";

#[test]
fn r163_cases_pass_when_everything_is_as_expected() {
    let cases = format!(
        "cases:
- name: from a file, envelope from its headers
  mail: secret.eml
  expect:
    disposition: reject
    reply: Not this word
    rules: {{matched: [secrets, RoutingRule/default/tag]}}
    deliveries: []
- name: inline
  mail: \"{MAIL}\"
  envelope: {{from: ani@solarmora.com, to: [b@x.example, c@y.example], client: 10.1.1.1}}
  expect:
    disposition: deliver
    rules: {{matched: [tag], notMatched: [secrets]}}
    deliveries:
    - {{to: c@y.example, route: null, tls: opportunistic, subject: \"[Out] hi\", headers: {{x-rule: tag}}}}
    - {{to: b@x.example, copyOf: null, attachmentsRemoved: []}}
- name: a client that is not allowed
  mail: secret.eml
  envelope: {{client: 192.0.2.1}}
  expect: {{disposition: reject, reply: Relay access denied}}
"
    );
    assert_eq!(told(&cases), (3, 0, vec![]));
}

#[test]
fn each_difference_is_told_with_its_line_and_both_sides() {
    let (passed, failed, told) = told(&format!(
        "cases:
- name: wrong
  mail: \"{MAIL}\"
  expect:
    disposition: reject
    reply: Not this word
    quarantine: default
    rules:
      matched: [secrets, nobody]
      notMatched: [tag]
    deliveries:
    - to: b@x.example
      route: relay
      subject: hi
      tls: required
      headers: {{X-Rule: other}}
    - to: z@z.example
"
    ));
    assert_eq!((passed, failed), (0, 1));
    let expected = [
        "5: case \"wrong\": disposition for b@x.example\n    - reject\n    + deliver (250 2.0.0 Ok: queued as ",
        "6: case \"wrong\": reply for b@x.example\n    - …Not this word…\n    + 250",
        "7: case \"wrong\": quarantine for b@x.example\n    - default\n    + not held",
        "9: case \"wrong\": rule secrets\n    - matched\n    + not matched: match",
        "9: case \"wrong\": rule nobody\n    - matched\n    + no such rule was considered",
        "10: case \"wrong\": rule tag\n    - not matched\n    + matched",
        "13: case \"wrong\": route of the delivery to b@x.example\n    - relay\n    + null",
        "14: case \"wrong\": subject of the delivery to b@x.example\n    - hi\n    + [Out] hi",
        "15: case \"wrong\": tls of the delivery to b@x.example\n    - required\n    + opportunistic",
        "16: case \"wrong\": headers of the delivery to b@x.example\n    - X-Rule: other\n    + X-Rule: tag",
        "17: case \"wrong\": delivery\n    - z@z.example\n    + no further delivery to this address",
    ];
    assert_eq!(told.len(), expected.len(), "{told:#?}");
    for (told, expected) in told.iter().zip(expected) {
        assert!(told.starts_with(expected), "{told}\nexpected {expected}");
    }
}

#[test]
fn mistakes_in_a_file_have_lines_and_the_case_does_not_run() {
    let (passed, failed, told) = told(
        "cases:
- name: typo
  mail: secret.eml
  expect: {dispositoin: reject}
- name: word
  mail: secret.eml
  expect: {disposition: refuse}
- name: address
  mail: secret.eml
  envelope: {from: nobody, too: x}
  expect: {disposition: reject}
- mail: nowhere.eml
  expect: {disposition: reject}
- name: fine
  mail: secret.eml
  expect: {disposition: reject}
",
    );
    assert_eq!((passed, failed), (1, 1), "{told:#?}");
    let lines: Vec<_> = told.iter().map(|text| text.split(':').next().unwrap()).collect();
    assert_eq!(lines, ["4", "4", "7", "10", "10", "12"], "{told:#?}");
    assert!(told[0].contains("unknown field \"dispositoin\"; known are: disposition"), "{told:#?}");
    assert!(told[5].contains("mail nowhere.eml: No such file"), "{told:#?}");
}

#[test]
fn one_recipient_may_be_expected_to_fare_otherwise() {
    let cases = "cases:
- mail: secret.eml
  envelope: {from: ani@solarmora.com, to: [b@x.example, budi@solarmora.com]}
  expect:
    disposition: deliver
    recipients: [{to: b@x.example, disposition: reject}]
- mail: secret.eml
  expect:
    recipients: [{to: other@x.example, disposition: reject}]
";
    let (passed, failed, told) = told(cases);
    assert_eq!((passed, failed), (1, 1), "{told:#?}");
    assert!(told[0].starts_with("9: case \"number 2\": other@x.example is no recipient"), "{told:#?}");
}
