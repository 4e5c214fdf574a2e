//! What stays in force when something that was accepted goes away or goes bad.

use std::sync::Arc;

use super::{Folder, Generations, last_good, pass, read};
use crate::api::conditions::Reason;
use crate::bundle::document::ObjectKind;
use crate::manifest::Loaded;
use crate::translate::{LastGood, Translation};

const SET: &str = r#"apiVersion: postern.dev/v1alpha1
kind: OutboundGateway
metadata: {name: default}
spec:
  clients: {cidrs: [10.0.0.0/8]}
  listeners: [{name: smtp, port: 25, certificateRef: {name: gw-tls}}]
---
apiVersion: v1
kind: Secret
metadata: {name: gw-tls}
type: kubernetes.io/tls
stringData: {tls.crt: chain, tls.key: key}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: words}
data: {list: rahasia}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: ca}
data: {ca.crt: pem}
---
apiVersion: postern.dev/v1alpha1
kind: OutboundRoute
metadata: {name: relay}
spec:
  hosts: [{host: mail.example.net}]
  tls: {caRef: {kind: ConfigMap, name: ca, key: ca.crt}}
---
apiVersion: postern.dev/v1alpha1
kind: ComplianceRule
metadata: {name: words}
spec:
  messages: [Outbound]
  match: {wordsFrom: [{configMapRef: {name: words, key: list}}]}
  action: {reject: {}}
"#;

fn published() -> (Loaded, LastGood) {
    let loaded = read(SET, &mut Generations::default());
    assert_eq!(loaded.problems, []);
    let last = last_good(pass(&loaded, None).0).expect("the set is valid");
    (loaded, last)
}

fn reasons(translation: &Translation) -> Vec<(ObjectKind, Reason, Option<i64>, bool)> {
    let each = translation.outcomes.iter().flat_map(|outcome| {
        let kind = outcome.origin.object.kind;
        outcome.problems.iter().map(move |problem| (kind, problem.reason, outcome.in_force, outcome.broken))
    });
    each.collect()
}

#[test]
fn what_a_bundle_used_stays_in_use_when_its_sources_are_deleted() {
    let (mut loaded, last) = published();
    loaded.resources.secrets.clear();
    loaded.resources.config_maps.clear();
    let (translation, _) = pass(&loaded, Some(&last));
    assert_eq!(translation.bundle.as_ref(), Some(&last.bundle));
    assert_eq!(translation.materials, last.materials);
    assert_eq!(
        reasons(&translation),
        [
            (ObjectKind::OutboundGateway, Reason::SecretNotFound, None, false),
            (ObjectKind::OutboundRoute, Reason::ConfigMapNotFound, Some(1), false),
            (ObjectKind::ComplianceRule, Reason::ConfigMapNotFound, Some(1), false),
        ]
    );
    assert!(translation.outcomes.iter().all(crate::translate::Outcome::is_current));
}

#[test]
fn what_never_was_there_makes_mail_wait() {
    let (mut loaded, _) = published();
    loaded.resources.secrets.clear();
    loaded.resources.config_maps.clear();
    let (translation, _) = pass(&loaded, None);
    let bundle = translation.bundle.unwrap();
    assert!(bundle.routes[0].broken.is_some() && bundle.rules[0].broken.is_some());
    assert_eq!(bundle.gateway.listeners[0].certificate, None);
    assert_eq!(translation.materials, []);
}

#[test]
fn a_renewed_secret_is_a_new_version_of_the_same_record() {
    let (mut loaded, last) = published();
    for facts in loaded.resources.secrets.values_mut() {
        facts.resource_version = "2".to_owned();
    }
    let (translation, _) = pass(&loaded, Some(&last));
    assert_eq!(translation.bundle, Some(last.bundle));
    assert_ne!(translation.materials, last.materials);
}

#[test]
fn an_object_that_was_made_anew_does_not_inherit() {
    let (mut loaded, last) = published();
    loaded.resources.config_maps.clear();
    for rule in &mut loaded.resources.compliance_rules {
        Arc::make_mut(rule).metadata.uid = Some("another".to_owned());
    }
    let (translation, _) = pass(&loaded, Some(&last));
    assert!(translation.bundle.unwrap().rules[0].broken.is_some());
}

#[test]
fn a_broken_record_is_no_last_good_form() {
    let (mut loaded, _) = published();
    loaded.resources.config_maps.clear();
    let broken = last_good(pass(&loaded, None).0).unwrap();
    let (again, _) = pass(&loaded, Some(&broken));
    assert_eq!(again.bundle.unwrap(), broken.bundle);
    assert!(again.outcomes.iter().filter(|outcome| outcome.broken).count() == 2);
}

#[test]
fn a_gateway_that_cannot_be_read_keeps_its_record_and_those_who_were_in() {
    let (_, last) = published();
    let broken = read(&SET.replace("cidrs:", "cdrs:"), &mut Generations::default());
    let (translation, _) = pass(&broken, Some(&last));
    assert_eq!(translation.bundle, Some(last.bundle));
    let (translation, _) = pass(&broken, None);
    assert_eq!(translation.bundle, None);
}

#[test]
fn a_megabyte_and_a_half_of_rules_is_translated_twice_alike() {
    let rules = (0..2000).map(|number| {
        format!(
            "---\napiVersion: postern.dev/v1alpha1\nkind: RoutingRule\nmetadata: {{name: r{number}}}\nspec:\n  \
             messages: [Outbound]\n  envelope: {{senders: {{pattern: '(?i)user{number}@(.*\\.)?solarmora\\.com'}}}}\n  \
             action: {{modify: {{subjectPrefix: P{number}, headers: [{{name: X-A, value: \"{}\"}}]}}}}\n",
            "x".repeat(600)
        )
    });
    let text = SET.to_owned() + &rules.collect::<String>();
    assert!(text.len() > 1_500_000);
    let loaded = Folder::of(&text).load();
    let (translation, _) = pass(&loaded, None);
    let last = last_good(translation).unwrap();
    let (again, _) = pass(&loaded, Some(&last));
    assert_eq!(again.bundle.unwrap(), last.bundle);
}
