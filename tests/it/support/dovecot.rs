//! A real Dovecot that tells a Postfix who may log in: its authentication service alone, in a folder of its own.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jiff::Timestamp;

use super::gateway::Folder;
use super::wait_for;

pub const USER: &str = "app@solarmora.com";
/// Signs the access tokens that this Dovecot takes.
const KEY: &[u8] = b"a key that only tests know, long enough";

/// Stopped when dropped.
pub struct Dovecot {
    child: Child,
    root: Folder,
}

impl Dovecot {
    /// Takes `USER` with this password or with a [`token`].
    pub fn start(name: &str, password: &str) -> Self {
        let root = Folder::new(name);
        fs::set_permissions(&root.0, fs::Permissions::from_mode(0o755)).expect("ours");
        let folder = root.0.display().to_string();
        root.write("users", &format!("{USER}:{{PLAIN}}{password}\n"));
        root.write("keys/default/HS256/default", &STANDARD.encode(KEY));
        root.write(
            "oauth2.conf.ext",
            &format!(
                "introspection_mode = local
local_validation_key_dict = fs:posix:prefix={folder}/keys/
username_attribute = email
"
            ),
        );
        let config = root.write(
            "dovecot.conf",
            &format!(
                "base_dir = {folder}/run
state_dir = {folder}/run
log_path = {folder}/log
protocols =
ssl = no
auth_mechanisms = plain login cram-md5 scram-sha-256 xoauth2
auth_failure_delay = 0
passdb {{
  driver = oauth2
  mechanisms = xoauth2
  args = {folder}/oauth2.conf.ext
}}
passdb {{
  driver = passwd-file
  mechanisms = plain login cram-md5 scram-sha-256
  args = scheme=PLAIN {folder}/users
}}
userdb {{
  driver = static
  args = uid=nobody gid=nogroup home=/nonexistent
}}
service auth {{
  unix_listener {folder}/auth {{
    mode = 0666
  }}
}}
"
            ),
        );
        let child = Command::new("dovecot")
            .args(["-F", "-c"])
            .arg(&config)
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("dovecot cannot be started ({error}): run `make deps`"));
        let dovecot = Self { child, root };
        wait_for("Dovecot listens", Duration::from_secs(20), || dovecot.socket().exists().then_some(()));
        dovecot
    }

    pub fn socket(&self) -> PathBuf {
        self.root.0.join("auth")
    }

    /// Lines of main.cf for a Postfix that relays for nobody who has not logged in, inside TLS.
    pub fn for_postfix(&self) -> String {
        format!(
            "smtpd_sasl_auth_enable = yes
smtpd_sasl_type = dovecot
smtpd_sasl_path = {}
smtpd_sasl_security_options = noanonymous
smtpd_tls_auth_only = yes
mynetworks = 192.0.2.1/32
smtpd_relay_restrictions = permit_sasl_authenticated, reject
",
            self.socket().display()
        )
    }
}

impl Drop for Dovecot {
    fn drop(&mut self) {
        // SIGTERM, so that it takes its helpers along.
        let pid = rustix::process::Pid::from_child(&self.child);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let _ = self.child.wait();
    }
}

/// An access token for `USER`, as an issuer would make it (RFC 7519).
pub fn token(now: Timestamp) -> String {
    let part = |json: serde_json::Value| URL_SAFE_NO_PAD.encode(json.to_string());
    let (issued, expires) = (now.as_second() - 10, now.as_second() + 3600);
    let claims = serde_json::json!({"sub": "app", "email": USER, "iat": issued, "exp": expires});
    let signed = format!("{}.{}", part(serde_json::json!({"alg": "HS256", "typ": "JWT"})), part(claims));
    let signature = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, KEY), signed.as_bytes());
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
}
