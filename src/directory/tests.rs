//! Against OpenLDAP's own server on loopback, with 1,200 people and TLS, as administrators run it.

use tokio_util::sync::CancellationToken;

use super::entries::{Entry, snapshot};
use super::keeper::Wanted;
use super::*;
use crate::translate::ObjectKey;
use crate::translate::ldap::{LdapFacts, Snapshot};

use slapd::{BASE, PASSWORD, Slapd, free_port};

#[path = "../../tests/it/support/slapd.rs"]
mod slapd;

fn settings(server: &Slapd) -> Settings {
    Settings {
        url: format!("ldaps://localhost:{}", server.tls),
        ca: Some(Arc::from(server.ca.as_bytes())),
        bind: Some((format!("cn=reader,{BASE}"), PASSWORD.to_owned())),
        base: BASE.to_owned(),
        mapping: Mapping::default(),
        refresh: Duration::from_millis(100),
    }
}

/// So many people in `/sales/export`, and a group of the first two with another group.
fn people(count: usize) -> String {
    let mut ldif = format!(
        "dn: ou=Sales,{BASE}\nobjectClass: organizationalUnit\nou: Sales\n\n\
         dn: ou=export,ou=Sales,{BASE}\nobjectClass: organizationalUnit\nou: export\n\n"
    );
    for n in 0..count {
        ldif += &format!(
            "dn: cn=Person {n},ou=export,ou=Sales,{BASE}\nobjectClass: inetOrgPerson\ncn: Person {n}\nsn: {n}\n\
             mail: Person{n}@solarmora.com\nmail: p{n}@solarmora.com\n\n"
        );
    }
    ldif += &format!(
        "dn: cn=inner,{BASE}\nobjectClass: groupOfNames\nobjectClass: extensibleObject\ncn: inner\nmail: inner@solarmora.com\n\
         member: cn=person 1, ou=EXPORT,ou=sales,{BASE}\n\n\
         dn: cn=outer,{BASE}\nobjectClass: groupOfNames\nobjectClass: extensibleObject\ncn: outer\nmail: outer@solarmora.com\n\
         member: cn=Person 0,ou=export,ou=Sales,{BASE}\nmember: cn=inner,{BASE}\nmember: cn=gone,{BASE}\n\n"
    );
    ldif
}

fn members(snapshot: &Snapshot, group: &str) -> Vec<String> {
    snapshot.groups.iter().find(|one| one.address == group).expect("it is there").members.clone()
}

#[tokio::test]
async fn everybody_is_read_in_pages_over_tls() {
    let server = Slapd::start(&people(1200));
    let started_tls = Settings { url: format!("ldap://localhost:{}", server.plain), ..settings(&server) };
    for settings in [settings(&server), started_tls] {
        let found = read(&settings).await.unwrap();
        assert_eq!(found.users.len(), 1200);
        let seventh = found.users.iter().find(|user| user.address == "person7@solarmora.com").unwrap();
        assert_eq!(
            (&seventh.aliases[..], seventh.unit.as_str()),
            (&["p7@solarmora.com".to_owned()][..], "/Sales/export")
        );
        assert_eq!(members(&found, "outer@solarmora.com"), ["inner@solarmora.com", "person0@solarmora.com"]);
        assert_eq!(members(&found, "inner@solarmora.com"), ["person1@solarmora.com"]);
    }
}

#[tokio::test]
async fn what_is_wrong_is_said_and_no_password_leaves_in_clear_text() {
    let server = Slapd::start(&people(3));
    let good = settings(&server);
    let bind = |name: &str, password: &str| Some((name.to_owned(), password.to_owned()));
    for (settings, expected) in [
        (Settings { ca: None, ..good.clone() }, "UnknownIssuer"),
        (Settings { ca: Some(Arc::from(&b"no CA"[..])), ..good.clone() }, "not PEM"),
        (Settings { url: format!("ldaps://127.0.0.1:{}", server.tls), ..good.clone() }, "certificate"),
        (Settings { bind: bind(&format!("cn=reader,{BASE}"), "wrong"), ..good.clone() }, "rc=49"),
        (Settings { bind: None, ..good.clone() }, "rc="),
        (Settings { base: "dc=nowhere".into(), ..good.clone() }, "rc=32"),
        (Settings { url: format!("ldaps://localhost:{}", free_port()), ..good.clone() }, "refused"),
        (Settings { url: format!("ldaps://localhost:{}", server.plain), ..good.clone() }, ""),
    ] {
        let error = read(&settings).await.unwrap_err().to_string();
        assert!(error.contains(expected), "{expected}: {error}");
    }
    let mut broken = good;
    broken.mapping.users.filter = "(objectClass=".into();
    assert!(read(&broken).await.unwrap_err().to_string().contains("filter"));
}

/// A keeper that runs, and its Directory.
struct Kept {
    keeper: Arc<Keeper>,
    key: ObjectKey,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl Kept {
    fn start(settings: &Settings) -> Self {
        let keeper = Arc::new(Keeper::default());
        let stop = CancellationToken::new();
        let task = tokio::spawn(Arc::clone(&keeper).run(|_| {}, stop.clone()));
        let kept = Self { keeper, key: ObjectKey::new("default", "main"), stop, task };
        kept.want(1, settings);
        kept
    }

    fn want(&self, generation: i64, settings: &Settings) {
        let wanted = Wanted { generation, settings: settings.clone() };
        self.keeper.want(&ObjectKey::new("default", "gateway"), [(self.key.clone(), wanted)].into());
    }

    async fn until(&self, what: impl Fn(&LdapFacts) -> bool) -> LdapFacts {
        for _ in 0..3000 {
            let facts = self.keeper.facts().remove(&self.key).expect("it is wanted");
            if what(&facts) {
                return facts;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("not within 30 s; now {:?}", self.keeper.facts());
    }
}

fn users(facts: &LdapFacts) -> usize {
    facts.snapshot.as_ref().map_or(0, |snapshot| snapshot.users.len())
}

#[tokio::test]
async fn changes_come_with_the_next_reading_and_the_last_answer_stays_while_the_server_is_away() {
    let mut server = Slapd::start(&people(10));
    let kept = Kept::start(&settings(&server));
    assert_eq!(kept.until(|facts| users(facts) == 10).await.problem, None);

    server.stop();
    let away = kept.until(|facts| facts.problem.is_some()).await;
    assert!(away.problem.unwrap().starts_with("not read since 2"), "it says since when");
    assert_eq!(users(&kept.until(|_| true).await), 10);

    server.fill(&people(12));
    server.run();
    assert_eq!(kept.until(|facts| users(facts) == 12).await.problem, None);

    // Most of them are gone: an accident, until the Directory is written anew.
    server.stop();
    server.fill(&people(5));
    server.run();
    let shrunk =
        kept.until(|facts| facts.problem.as_ref().is_some_and(|why| why.contains("more than half"))).await;
    assert_eq!(users(&shrunk), 12);
    kept.want(2, &settings(&server));
    assert_eq!(users(&kept.until(|facts| facts.problem.is_none()).await), 5);
    kept.stop.cancel();
    kept.task.await.unwrap();
}

#[test]
fn entries_of_active_directory_are_understood() {
    let entry = |dn: &str, attributes: &[(&str, &[&str])]| Entry {
        dn: dn.to_owned(),
        attributes: attributes
            .iter()
            .map(|(name, values)| ((*name).to_owned(), values.iter().map(|v| (*v).to_owned()).collect()))
            .collect(),
        binary: std::collections::HashMap::new(),
    };
    let people = [
        entry(
            "CN=Santoso\\, Ani,OU=Export,OU=R\\26D,DC=solarmora,DC=com",
            &[
                ("Mail", &["Ani@Solarmora.com"]),
                (
                    "proxyAddresses",
                    &["SMTP:ani@solarmora.com", "smtp:a.santoso@solarmora.com", "X500:/o=x", "sip:x@y.z"],
                ),
            ],
        ),
        entry("CN=Service,DC=solarmora,DC=com", &[("mail", &["not an address"])]),
        entry("CN=Zoe,OU=a/b,OU=top,DC=solarmora,DC=com", &[("mail", &["ani@solarmora.com"])]),
    ];
    let group = entry(
        "CN=all,DC=solarmora,DC=com",
        &[
            ("mail", &["all@solarmora.com"]),
            ("member", &["cn=santoso\\2c ani,ou=export,ou=R&D,dc=solarmora,dc=com", "x@partner.example"]),
        ],
    );
    let mapping = Mapping::default();
    let found = snapshot("DC=solarmora,DC=com", (&mapping.users, &people), (&mapping.groups, &[group]));
    assert_eq!(found.users.len(), 1, "{found:?}");
    assert_eq!(found.users[0].address, "ani@solarmora.com");
    assert_eq!(found.users[0].unit, "/R&D/Export");
    assert_eq!(found.users[0].aliases, ["a.santoso@solarmora.com"]);
    assert_eq!(members(&found, "all@solarmora.com"), ["ani@solarmora.com", "x@partner.example"]);

    let cut = entry("CN=big", &[("member;range=0-1499", &["CN=x"])]);
    let last = entry("CN=big", &[("member;range=1500-*", &["CN=x"])]);
    assert!(cut.is_cut() && !last.is_cut());
}
