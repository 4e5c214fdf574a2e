//! A real Postfix as the next hop: TLS with a certificate of our own authority, everything it gets goes on to a
//! [`Inbox`](super::inbox::Inbox) that tests can read.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

use super::wait_for;

/// A certificate authority that lives in a folder, so that a cluster that is still up keeps trusting it.
pub struct Authority {
    folder: PathBuf,
}

impl Authority {
    pub fn new(folder: &Path) -> Self {
        let authority = Self { folder: folder.to_owned() };
        if !folder.join("ca.crt").exists() {
            fs::create_dir_all(folder).expect("writable");
            let key = KeyPair::generate().expect("keys can be made");
            let certificate = Self::params().self_signed(&key).expect("it signs itself");
            fs::write(folder.join("ca.key"), key.serialize_pem()).expect("writable");
            fs::write(folder.join("ca.crt"), certificate.pem()).expect("writable");
        }
        authority
    }

    fn params() -> CertificateParams {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "Postern test authority");
        params
    }

    pub fn certificate(&self) -> String {
        fs::read_to_string(self.folder.join("ca.crt")).expect("it was made")
    }

    /// A file with the system's roots and ours.
    pub fn with_system_roots(&self) -> PathBuf {
        let mut all = fs::read("/etc/ssl/certs/ca-certificates.crt").expect("the system has roots");
        all.extend_from_slice(self.certificate().as_bytes());
        let path = self.folder.join("all.crt");
        fs::write(&path, all).expect("writable");
        path
    }

    /// Chain and key for these names, PEM.
    pub fn issue(&self, names: &[&str]) -> (String, String) {
        let ca_key = fs::read_to_string(self.folder.join("ca.key")).expect("it was made");
        let issuer = Issuer::new(Self::params(), KeyPair::from_pem(&ca_key).expect("our own key"));
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let key = KeyPair::generate().expect("keys can be made");
        let params = CertificateParams::new(names).expect("host names");
        let certificate = params.signed_by(&key, &issuer).expect("it signs");
        (certificate.pem(), key.serialize_pem())
    }
}

/// A private Postfix instance; stopped when dropped.
pub struct Postfix {
    config: PathBuf,
    root: PathBuf,
}

impl Postfix {
    /// Listens on `address`, offers STARTTLS with `certificate` (chain, key), or no TLS at all.
    pub fn start(address: SocketAddr, certificate: Option<(String, String)>, next: SocketAddr) -> Self {
        Self::start_with(address, certificate, next, "")
    }

    /// With further lines of main.cf.
    pub fn start_with(
        address: SocketAddr,
        certificate: Option<(String, String)>,
        next: SocketAddr,
        more: &str,
    ) -> Self {
        let root =
            std::env::temp_dir().join(format!("postern-postfix-{}-{}", std::process::id(), address.port()));
        let _ = fs::remove_dir_all(&root);
        let config = root.join("etc");
        for folder in ["etc", "spool", "lib"] {
            fs::create_dir_all(root.join(folder)).expect("writable");
        }
        run("chown", &["postfix", root.join("lib").to_str().expect("UTF-8")]);
        let tls = match certificate {
            None => "smtpd_tls_security_level = none\n".to_owned(),
            Some((chain, key)) => {
                fs::write(config.join("tls.pem"), format!("{key}{chain}")).expect("writable");
                format!(
                    "smtpd_tls_security_level = may\nsmtpd_tls_chain_files = {}/tls.pem\nsmtpd_tls_received_header = yes\n",
                    config.display()
                )
            }
        };
        let main = format!(
            "compatibility_level = 3.6
queue_directory = {root}/spool
data_directory = {root}/lib
command_directory = /usr/sbin
daemon_directory = /usr/lib/postfix/sbin
myhostname = relay.example.net
mydestination =
local_recipient_maps =
alias_maps =
inet_interfaces = {ip}
inet_protocols = ipv4
{trust}relayhost = [{next_ip}]:{next_port}
smtp_tls_security_level = none
smtpd_peername_lookup = no
smtp_dns_support_level = disabled
smtp_host_lookup = native
maillog_file = {root}/maillog
maillog_file_prefixes = {root}
{tls}{more}",
            trust = if more.contains("mynetworks") { "" } else { "mynetworks = 0.0.0.0/0\n" },
            root = root.display(),
            ip = address.ip(),
            next_ip = next.ip(),
            next_port = next.port(),
        );
        fs::write(config.join("main.cf"), main).expect("writable");
        fs::write(config.join("master.cf"), master(address)).expect("writable");
        let postfix = Self { config, root };
        postfix.command("start");
        wait_for("Postfix listens", Duration::from_secs(20), || TcpStream::connect(address).ok());
        postfix
    }

    fn command(&self, verb: &str) {
        run("postfix", &["-c", self.config.to_str().expect("UTF-8"), verb]);
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.root.join("maillog")).unwrap_or_default()
    }
}

impl Drop for Postfix {
    fn drop(&mut self) {
        self.command("stop");
        let _ = fs::remove_dir_all(&self.root);
    }
}

fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output().unwrap_or_else(|error| {
        panic!("{program} cannot be started ({error}): run `make deps`");
    });
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// The services a relay needs, none of them in a chroot.
fn master(address: SocketAddr) -> String {
    let service = |name: &str, kind: &str, private: &str, wakeup: &str, limit: &str, program: &str| {
        format!("{name} {kind} {private} - n {wakeup} {limit} {program}\n")
    };
    let mut text = service(&address.to_string(), "inet", "n", "-", "-", "smtpd");
    for (name, program) in [
        ("rewrite", "trivial-rewrite"),
        ("bounce", "bounce"),
        ("defer", "bounce"),
        ("trace", "bounce"),
        ("proxymap", "proxymap"),
        ("smtp", "smtp"),
        ("relay", "smtp"),
        ("error", "error"),
        ("retry", "error"),
    ] {
        text += &service(name, "unix", "-", "-", "-", program);
    }
    // These insist on being alone.
    for name in ["tlsmgr", "anvil", "scache"] {
        text += &service(name, "unix", "-", "-", "1", name);
    }
    text += &service("cleanup", "unix", "n", "-", "0", "cleanup");
    text += &service("qmgr", "unix", "n", "300", "1", "qmgr");
    text += &service("pickup", "unix", "n", "60", "1", "pickup");
    text += &service("showq", "unix", "n", "-", "-", "showq");
    text += &service("postlog", "unix-dgram", "n", "-", "1", "postlogd");
    text
}
