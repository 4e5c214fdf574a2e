//! OpenLDAP's own server on loopback with TLS, as administrators run it. The unit tests of `src/directory` use it
//! too.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

pub const BASE: &str = "dc=solarmora,dc=com";
pub const PASSWORD: &str = "let me in";

/// A server with a folder of its own; ended when dropped.
pub struct Slapd {
    folder: PathBuf,
    pub plain: u16,
    pub tls: u16,
    /// The CA of its certificate, PEM.
    pub ca: String,
    child: Option<Child>,
}

impl Slapd {
    pub fn start(people: &str) -> Self {
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
    pub fn fill(&self, people: &str) {
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

    pub fn run(&mut self) {
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
            assert!(began.elapsed() < std::time::Duration::from_secs(20), "slapd does not answer");
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }

    pub fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Drop for Slapd {
    fn drop(&mut self) {
        self.stop();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

pub fn free_port() -> u16 {
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
