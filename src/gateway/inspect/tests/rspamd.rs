//! A real rspamd, of Debian's package, on loopback.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use super::*;

struct Rspamd {
    folder: PathBuf,
    base: String,
    child: Child,
}

impl Drop for Rspamd {
    fn drop(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

impl Rspamd {
    async fn start() -> Self {
        let folder = std::env::temp_dir().join(format!("postern-rspamd-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let address = crate::delivery::nobody().await;
        let at = folder.display();
        let config = format!(
            "options {{ pidfile = \"{at}/pid\"; tempdir = \"{at}\"; filters = \"\"; \
             dns {{ timeout = 0.1s; retransmits = 1; nameserver = [\"127.0.0.1:1\"]; }} \
             control_socket = \"{at}/control mode=0600\"; hs_cache_dir = \"{at}\"; rrd = \"\"; }}\n\
             logging {{ type = \"console\"; level = \"warning\"; color = false; }}\n\
             actions {{ reject = 15; add_header = 6; greylist = 4; }}\n\
             worker \"normal\" {{ bind_socket = \"{address}\"; count = 1; }}\n\
             group \"g\" {{ symbols {{ X {{ weight = 1.0; }} }} }}\n"
        );
        std::fs::write(folder.join("rspamd.conf"), config).unwrap();
        let child = Command::new("/usr/bin/rspamd")
            .args(["-f", "-i", "-c"])
            .arg(folder.join("rspamd.conf"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("Debian's rspamd is there: run `make deps`");
        let started = Self { folder, base: format!("http://{address}"), child };
        for _ in 0..600 {
            if tokio::net::TcpStream::connect(address).await.is_ok() {
                return started;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("rspamd does not answer within 30 s");
    }
}

#[tokio::test]
async fn r078_rspamd_knows_the_test_messages_of_spam_and_of_blatant_spam() {
    let rspamd = Rspamd::start().await;
    let gateway = Gateway { rspamd: Some(rspamd.base.clone()), ..gateway("127.0.0.1:1".parse().unwrap()) };
    for (pattern, expected) in [
        ("nothing", Spam::default()),
        (
            "YJS*C4JDBQADN1.NSBN3*2IDNEN*GTUBE-STANDARD-ANTI-UBE-TEST-EMAIL*C.34X",
            Spam { spam: true, ..Spam::default() },
        ),
        (
            "XJS*C4JDBQADN1.NSBN3*2IDNEN*GTUBE-STANDARD-ANTI-UBE-TEST-EMAIL*C.34X",
            Spam { spam: true, blatant: true, ..Spam::default() },
        ),
    ] {
        let mail = format!("From: a@solarmora.example\r\nSubject: x\r\n\r\n{pattern}\r\n");
        let content = Content::from(mail.into_bytes());
        let envelope = envelope("a@solarmora.example");
        let client = [192, 0, 2, 9].into();
        let mail = Arrived {
            id: "I",
            client,
            helo: "c.example",
            envelope: &envelope,
            content: &content,
            received: 0,
        };
        let only = Needs { authentication: false, classification: true };
        assert_eq!(Inspector::default().inspect(only, &gateway, mail).await.spam, expected, "{pattern}");
    }
}
