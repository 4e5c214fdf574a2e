//! A real name server (BIND 9) with signed zones of its own, root included, on port 53 of loopback. For a test
//! in a network of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::gateway::Folder;
use super::wait_for;

pub struct Named {
    /// The root's key, as a DNSKEY record.
    pub anchor: String,
    child: Child,
    folder: Folder,
}

/// A zone under the root.
pub struct Zone<'a> {
    pub name: &'a str,
    pub records: &'a str,
    pub signing: Signing,
}

#[derive(Clone, Copy, PartialEq)]
pub enum Signing {
    Signed,
    Unsigned,
    /// Signed by another key than its parent says.
    Broken,
}

const HEAD: &str = "$TTL 60\n@ IN SOA ns. admin. 1 60 60 60 60\n@ IN NS ns.\n";

impl Named {
    pub fn start(zones: &[Zone<'_>]) -> Self {
        let folder = Folder::new("named");
        let at = |name: &str| folder.0.join(name);
        let mut root = format!("{HEAD}ns. IN A 127.0.0.1\n");
        let mut config = String::new();
        for Zone { name, records, signing } in zones {
            let mut file = at(&format!("{name}.zone"));
            fs::write(&file, format!("{HEAD}{records}")).expect("writable");
            root += &format!("{name}. IN NS ns.\n");
            if *signing != Signing::Unsigned {
                let keys = at(&format!("keys-{name}"));
                file = sign(&folder.0, &keys, name, &file);
                let published = match signing {
                    Signing::Broken => {
                        let other = at(&format!("other-{name}"));
                        keygen(&other, name);
                        other
                    }
                    Signing::Signed | Signing::Unsigned => keys,
                };
                root += &ds(&published);
            }
            config += &format!("zone \"{name}\" {{ type primary; file \"{}\"; }};\n", file.display());
        }
        fs::write(at("root.zone"), root).expect("writable");
        let keys = at("keys-root");
        let file = sign(&folder.0, &keys, ".", &at("root.zone"));
        let anchor = fs::read_to_string(key(&keys)).expect("dnssec-keygen wrote it");
        let anchor = anchor.lines().find(|line| !line.starts_with(';')).expect("a record").to_owned();
        let config = format!(
            "options {{ directory \"{0}\"; pid-file none; session-keyfile \"{0}/session.key\"; recursion no; \
             listen-on {{ 127.0.0.1; }}; listen-on-v6 {{ none; }}; dnssec-validation no; }};\ncontrols {{ }};\n\
             zone \".\" {{ type primary; file \"{1}\"; }};\n{config}",
            folder.0.display(),
            file.display()
        );
        fs::write(at("named.conf"), config).expect("writable");
        let log = fs::File::create(at("log")).expect("writable");
        let child = Command::new("/usr/sbin/named")
            .args(["-g", "-c"])
            .arg(at("named.conf"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("named (bind9) starts");
        let mut named = Self { anchor, child, folder };
        wait_for("named serves", Duration::from_secs(20), || {
            let over = named.child.try_wait().expect("it is ours").is_some();
            let log = named.log();
            assert!(!over, "{log}");
            log.contains("running").then_some(())
        });
        named
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.0.join("log")).unwrap_or_default()
    }
}

impl Drop for Named {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn run(command: &mut Command) -> String {
    let output = command.output().expect("bind9-utils is installed");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// Makes the one key of a zone.
fn keygen(keys: &Path, zone: &str) {
    fs::create_dir_all(keys).expect("writable");
    run(Command::new("dnssec-keygen")
        .args(["-q", "-a", "ECDSAP256SHA256", "-f", "KSK", "-K"])
        .arg(keys)
        .arg(zone));
}

/// The public half of the key in a folder.
fn key(keys: &Path) -> PathBuf {
    let files = fs::read_dir(keys).expect("readable").map(|entry| entry.expect("readable").path());
    files.into_iter().find(|path| path.extension().is_some_and(|e| e == "key")).expect("there is a key")
}

/// What the parent says about a key.
fn ds(keys: &Path) -> String {
    run(Command::new("dnssec-dsfromkey").arg(key(keys)))
}

fn sign(folder: &Path, keys: &Path, zone: &str, file: &Path) -> PathBuf {
    keygen(keys, zone);
    let signed = file.with_extension("signed");
    let mut command = Command::new("dnssec-signzone");
    command
        .current_dir(folder)
        .args(["-S", "-z", "-o", zone, "-K"])
        .arg(keys)
        .arg("-f")
        .arg(&signed)
        .arg(file);
    run(&mut command);
    signed
}
