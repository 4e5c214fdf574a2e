//! Directories with people in LDAP: what the lists, the last answer and the last good form come to.

use std::sync::Arc;

use super::{Folder, Generations, last_good, pass, read};
use crate::api::conditions::Reason;
use crate::bundle::document::{AccountKind, Directory, UnitPath};
use crate::bundle::material::MaterialVersion;
use crate::directory::wanted;
use crate::manifest::Loaded;
use crate::translate::ldap::{Group, LdapFacts, Snapshot, User};
use crate::translate::{LastGood, ObjectKey, Outcome, Translation};

const SET: &str = "apiVersion: postern.dev/v1alpha1
kind: OutboundGateway
metadata: {name: default}
spec: {domains: [solarmora.com], directoryRef: {name: people}}
---
apiVersion: postern.dev/v1alpha1
kind: Directory
metadata: {name: people}
spec:
  users: [{address: ani@solarmora.com, unit: /board}]
  ldap: {url: 'ldaps://localhost', baseDN: 'dc=solarmora,dc=com'}
---
apiVersion: postern.dev/v1alpha1
kind: RoutingRule
metadata: {name: x}
spec:
  messages: [Outbound]
  organizationalUnit: /sales
  envelope: {senders: {groups: [all@solarmora.com]}}
  action: {modify: {subjectPrefix: X}}
";

fn snapshot() -> Snapshot {
    let user = |address: &str, aliases: &[&str], unit: &str| User {
        address: address.to_owned(),
        aliases: aliases.iter().map(|alias| (*alias).to_owned()).collect(),
        unit: unit.to_owned(),
    };
    Snapshot {
        certificates: Vec::new(),
        users: vec![
            user("ani@solarmora.com", &["ani.s@solarmora.com"], "/sales"),
            user("budi@solarmora.com", &["b@solarmora.com"], "/sales"),
        ],
        groups: vec![Group {
            address: "all@solarmora.com".to_owned(),
            members: vec!["budi@solarmora.com".to_owned()],
        }],
    }
}

fn facts(snapshot: Option<Snapshot>, problem: Option<&str>) -> LdapFacts {
    LdapFacts { snapshot: snapshot.map(Arc::new), problem: problem.map(str::to_owned) }
}

fn with(mut loaded: Loaded, facts: LdapFacts) -> Loaded {
    loaded.resources.ldap = Some([(ObjectKey::new("default", "people"), facts)].into());
    loaded
}

fn outcome<'a>(translation: &'a Translation, name: &str) -> &'a Outcome {
    let found = translation.outcomes.iter().find(|outcome| outcome.origin.object.name == name);
    found.expect("every object has one")
}

fn directory(translation: &Translation) -> &Directory {
    translation.bundle.as_ref().and_then(|bundle| bundle.directory.as_ref()).expect("the gateway names it")
}

fn published(generations: &mut Generations) -> LastGood {
    let loaded = with(read(SET, generations), facts(Some(snapshot()), None));
    last_good(pass(&loaded, None).0).expect("it is valid")
}

#[test]
fn people_of_ldap_join_those_who_are_listed_and_the_list_counts_first() {
    let loaded = with(Folder::of(SET).load(), facts(Some(snapshot()), None));
    let translation = pass(&loaded, None).0;
    let directory = directory(&translation);
    let unit = |address: &str| {
        let account = directory.accounts.iter().find(|account| account.address == address);
        match &account.expect("it is there").kind {
            AccountKind::User(UnitPath(unit)) => unit.clone(),
            AccountKind::Group => "group".to_owned(),
        }
    };
    for (address, expected) in [
        ("ani@solarmora.com", "/board"),
        ("ani.s@solarmora.com", "/sales"),
        ("budi@solarmora.com", "/sales"),
        ("b@solarmora.com", "/sales"),
        ("all@solarmora.com", "group"),
    ] {
        assert_eq!(unit(address), expected, "{address}");
    }
    let alias = directory.accounts.iter().find(|account| account.address == "b@solarmora.com").unwrap();
    assert_eq!(alias.groups, ["all@solarmora.com"]);
    let own = outcome(&translation, "people");
    assert!(own.problems.is_empty(), "{own:?}");
    assert_eq!(own.entries, Some(5));
    assert!(own.warnings[0].message.ends_with("the list counts: ani@solarmora.com"), "{own:?}");
    assert!(outcome(&translation, "x").problems.is_empty());
}

#[test]
fn an_old_answer_stays_and_the_status_says_since_when() {
    let loaded = with(Folder::of(SET).load(), facts(Some(snapshot()), Some("not read since T: refused")));
    let translation = pass(&loaded, None).0;
    assert_eq!(directory(&translation).accounts.len(), 5);
    let own = outcome(&translation, "people");
    assert!(own.problems.is_empty() && own.is_current(), "{own:?}");
    let said = own.warnings.iter().any(|w| w.reason == Reason::LdapNotRead && w.message.contains("since T"));
    assert!(said, "{own:?}");
}

#[test]
fn without_any_answer_the_directory_is_broken_and_says_why() {
    for (problem, expected) in [(None, "for the first time"), (Some("not read since T: refused"), "refused")]
    {
        let loaded = with(Folder::of(SET).load(), facts(None, problem));
        let translation = pass(&loaded, None).0;
        assert!(directory(&translation).broken.as_ref().unwrap().contains(expected));
        let own = outcome(&translation, "people");
        assert!(own.broken && own.problems[0].reason == Reason::LdapNotRead, "{own:?}");
        assert!(outcome(&translation, "x").problems.is_empty(), "nobody blames the rule");
    }
}

#[test]
fn after_a_restart_the_published_form_holds_until_the_server_answers() {
    let mut generations = Generations::default();
    let last = published(&mut generations);
    let silent = facts(None, Some("not read since T: refused"));
    let again = pass(&with(read(SET, &mut generations), silent.clone()), Some(&last)).0;
    assert_eq!(again.bundle.as_ref(), Some(&last.bundle));
    let own = outcome(&again, "people");
    assert!(own.problems.is_empty() && own.is_current(), "{own:?}");
    assert!(own.warnings.iter().any(|warning| warning.reason == Reason::LdapNotRead), "{own:?}");

    // A changed object cannot be obeyed without its people.
    let changed = SET.replace("/board", "/top");
    let later = pass(&with(read(&changed, &mut generations), silent), Some(&last)).0;
    assert_eq!(directory(&later), directory_of(&last));
    let own = outcome(&later, "people");
    assert!(own.problems[0].reason == Reason::LdapNotRead && own.in_force.is_some(), "{own:?}");
}

#[test]
fn an_answer_without_most_people_counts_only_for_a_changed_object() {
    let mut generations = Generations::default();
    let last = published(&mut generations);
    let empty = facts(Some(Snapshot::default()), None);
    let kept = pass(&with(read(SET, &mut generations), empty.clone()), Some(&last)).0;
    assert_eq!(directory(&kept), directory_of(&last));
    let own = outcome(&kept, "people");
    assert!(own.is_current() && own.warnings[0].message.contains("more than half"), "{own:?}");
    let changed = SET.replace("/board", "/top");
    let meant = pass(&with(read(&changed, &mut generations), empty), Some(&last)).0;
    assert_eq!(directory(&meant).accounts.len(), 1);
}

fn directory_of(last: &LastGood) -> &Directory {
    last.bundle.directory.as_ref().expect("it was published")
}

#[test]
fn where_no_server_is_asked_the_lists_count_and_a_warning_says_so() {
    let loaded = Folder::of(SET).load();
    let translation = pass(&loaded, None).0;
    assert_eq!(directory(&translation).accounts.len(), 1);
    let own = outcome(&translation, "people");
    assert!(own.problems.is_empty() && own.warnings[0].message.contains("not asked here"), "{own:?}");
    let rule = outcome(&translation, "x");
    let blamed = rule.warnings.iter().any(|warning| warning.reason != Reason::NoSigningKey);
    assert!(rule.problems.is_empty() && !blamed, "group and unit may be in LDAP: {rule:?}");
}

#[test]
fn only_the_directory_that_the_gateway_names_is_read_and_only_with_a_secret_that_may_be_used() {
    const SECRET: &str = "---\napiVersion: v1\nkind: Secret\nmetadata: {name: reader}\n\
                          type: kubernetes.io/basic-auth\nstringData: {username: cn=x, password: geheim}\n";
    let bound = SET.replace("baseDN:", "bindRef: {name: reader}, baseDN:") + SECRET;
    let own = ObjectKey::new("default", "people");
    let read_of = |text: &str| {
        let loaded = Folder::of(text).load();
        let content = |version: &MaterialVersion| loaded.materials.get(&version.material).cloned();
        wanted(&ObjectKey::new("default", "default"), &loaded.resources, content)
    };
    let found = read_of(&bound).expect("the gateway can be read");
    assert_eq!(found[&own].settings.bind, Some(("cn=x".to_owned(), "geheim".to_owned())));
    assert!(!format!("{found:?}").contains("geheim"));
    assert_eq!(read_of(SET).unwrap()[&own].settings.bind, None);
    for text in [
        bound.replace("kubernetes.io/basic-auth", "Opaque"),
        bound.replace("password:", "passwort:"),
        bound.replace("name: reader}\ntype", "name: other}\ntype"),
        SET.replace(", directoryRef: {name: people}", ""),
        SET.replace("directoryRef: {name: people}", "directoryRef: {name: others}"),
        SET.replace("  users:", "  gatewayRef: {name: second}\n  users:"),
    ] {
        assert_eq!(read_of(&text), Some([].into()), "{text}");
    }
    let unreadable = SET.replace("domains: [", "domaims: [");
    assert_eq!(read_of(&unreadable), None, "what is read stays as it is");
}
