//! Against OpenLDAP's own server on loopback, with 1,200 people and TLS, as administrators run it.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tokio_util::sync::CancellationToken;

use super::entries::{Entry, snapshot};
use super::keeper::Wanted;
use super::*;
use crate::translate::ObjectKey;
use crate::translate::ldap::{LdapFacts, Snapshot};

const BASE: &str = "dc=solarmora,dc=com";
const PASSWORD: &str = "let me in";

/// A server with a folder of its own; ended when dropped.
struct Slapd {
    folder: PathBuf,
    plain: u16,
    tls: u16,
    ca: String,
    child: Option<Child>,
}

impl Slapd {
    fn start(people: &str) -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let unique =
            format!("postern-slapd-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let folder = std::env::temp_dir().join(unique);
        std::fs::create_dir_all(folder.join("data")).unwrap();
        let (plain, tls) = (free_port(), free_port());
        let ca = certificates(&folder);
        let at = folder.display();
        let config = format!(
            "include /etc/ldap/schema/core.schema\ninclude /etc/ldap/schema/cosine.schema\n\
             include /etc/ldap/schema/inetorgperson.schema\nmodulepath /usr/lib/ldap\nmoduleload back_mdb\n\
             pidfile {at}/pid\nargsfile {at}/args\nTLSCertificateFile {at}/server.crt\n\
             TLSCertificateKeyFile {at}/server.key\nTLSCACertificateFile {at}/ca.crt\nsecurity simple_bind=1 tls=1\n\
             disallow bind_anon\nsizelimit size.soft=500 size.hard=500 size.prtotal=unlimited\n\
             database mdb\nmaxsize 104857600\nsuffix \"{BASE}\"\nrootdn \"cn=admin,{BASE}\"\n\
             rootpw other\ndirectory {at}/data\naccess to attrs=userPassword by anonymous auth\n\
             access to * by users read\n"
        );
        std::fs::write(folder.join("slapd.conf"), config).unwrap();
        let mut server = Self { folder, plain, tls, ca, child: None };
        server.fill(people);
        server.run();
        server
    }

    /// Replaces all entries; the server must not run.
    fn fill(&self, people: &str) {
        let data = self.folder.join("data");
        std::fs::remove_dir_all(&data).unwrap();
        std::fs::create_dir(&data).unwrap();
        let reader = format!(
            "dn: {BASE}\nobjectClass: dcObject\nobjectClass: organization\no: Solarmora\ndc: solarmora\n\n\
             dn: cn=reader,{BASE}\nobjectClass: person\ncn: reader\nsn: reader\nuserPassword: {PASSWORD}\n\n"
        );
        std::fs::write(self.folder.join("all.ldif"), format!("{reader}{people}")).unwrap();
        let output = Command::new("/usr/sbin/slapadd")
            .args(["-q", "-f"])
            .arg(self.folder.join("slapd.conf"))
            .arg("-l")
            .arg(self.folder.join("all.ldif"))
            .output()
            .expect("Debian's slapd is there: run `make deps`");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    fn run(&mut self) {
        let urls = format!("ldap://127.0.0.1:{} ldaps://127.0.0.1:{}", self.plain, self.tls);
        let child = Command::new("/usr/sbin/slapd")
            .args(["-d", "0", "-h", &urls, "-f"])
            .arg(self.folder.join("slapd.conf"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("Debian's slapd is there: run `make deps`");
        self.child = Some(child);
        let began = std::time::Instant::now();
        while std::net::TcpStream::connect(("127.0.0.1", self.tls)).is_err() {
            assert!(began.elapsed() < Duration::from_secs(20), "slapd does not answer");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    fn settings(&self) -> Settings {
        Settings {
            url: format!("ldaps://localhost:{}", self.tls),
            ca: Some(Arc::from(self.ca.as_bytes())),
            bind: Some((format!("cn=reader,{BASE}"), PASSWORD.to_owned())),
            base: BASE.to_owned(),
            mapping: Mapping::default(),
            refresh: Duration::from_millis(100),
        }
    }
}

impl Drop for Slapd {
    fn drop(&mut self) {
        self.stop();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A CA and a certificate of it for `localhost`; the CA as PEM.
fn certificates(folder: &std::path::Path) -> String {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let certificate = params.signed_by(&key, &ca).unwrap();
    std::fs::write(folder.join("server.crt"), certificate.pem()).unwrap();
    std::fs::write(folder.join("server.key"), key.serialize_pem()).unwrap();
    std::fs::write(folder.join("ca.crt"), ca.pem()).unwrap();
    ca.pem()
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
    let started_tls = Settings { url: format!("ldap://localhost:{}", server.plain), ..server.settings() };
    for settings in [server.settings(), started_tls] {
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
    let good = server.settings();
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
        self.keeper.want(|_| true, [(self.key.clone(), wanted)].into());
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
    let kept = Kept::start(&server.settings());
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
    kept.want(2, &server.settings());
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
