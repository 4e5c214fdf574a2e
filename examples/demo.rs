//! `make demo`: a standalone gateway and a next hop on loopback, sample mail, and a table of what happened.
//!
//! Takes the path of the `postern` binary. Uses no cluster and no root.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a demo talks to people")]

#[path = "../tests/it/support/inbox.rs"]
#[allow(dead_code)]
mod inbox;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use inbox::{Delivered, Inbox};

struct Letter {
    what: &'static str,
    to: &'static str,
    subject: &'static str,
    body: &'static str,
}

const LETTERS: &[Letter] = &[
    Letter {
        what: "plain",
        to: "budi@partner.example",
        subject: "Laporan bulanan",
        body: "Terlampir laporan bulan ini.",
    },
    Letter {
        what: "marked",
        to: "budi@partner.example",
        subject: "Draft agreement",
        body: "Please treat this as internal for now.",
    },
    Letter {
        what: "word",
        to: "eve@rival.example",
        subject: "Numbers",
        body: "This is confidential, keep it.",
    },
    Letter {
        what: "base64",
        to: "eve@rival.example",
        subject: "=?utf-8?B?UkFIQVNJQQ==?=",
        body: "Lihat subjek.",
    },
    Letter {
        what: "harmless",
        to: "eve@rival.example",
        subject: "Trust",
        body: "I speak in full confidentiality.",
    },
];

fn main() -> ExitCode {
    match demo() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("demo: {error}");
            ExitCode::FAILURE
        }
    }
}

fn demo() -> Result<(), Box<dyn std::error::Error>> {
    let postern = std::env::args().nth(1).ok_or("usage: demo PATH-OF-POSTERN")?;
    let folder = std::env::temp_dir().join(format!("postern-demo-{}", std::process::id()));
    fs::create_dir_all(folder.join("config"))?;
    let sink = Inbox::start();
    let relay = sink.address;
    let rules = folder.join("config/rules.yaml");
    fs::write(folder.join("config/gateway.yaml"), gateway(relay))?;
    fs::write(&rules, rule("confidential, rahasia"))?;

    let gateway = Gateway::start(&postern, &folder)?;
    println!("A gateway listens on {}, its next hop on {relay}. Its rules:\n", gateway.smtp);
    println!("  ComplianceRule confidential  rejects outgoing mail with one of: confidential, rahasia");
    println!("  ComplianceRule internal      marks mail with the word internal: subject prefix and a header");
    println!("  RoutingRule    all           sends everything over the route relay\n");

    let mut rows = vec![row("message", "subject sent", "answer", "delivered as")];
    for letter in LETTERS {
        let before = sink.mail().len();
        let reply = send(gateway.smtp, letter)?;
        let delivered = if reply.starts_with('2') { sink.wait(before + 1).pop() } else { None };
        rows.push(row(letter.what, letter.subject, &reply, &describe(delivered.as_ref())));
    }
    print_table(&rows);

    println!("\nNow a rule is changed while the gateway runs: the word becomes “agreement”.");
    let letter = &Letter {
        what: "changed",
        to: "budi@partner.example",
        subject: "Agreement",
        body: "The agreement is signed.",
    };
    let changed = Instant::now();
    fs::write(&rules, rule("agreement"))?;
    let reply = loop {
        let reply = send(gateway.smtp, letter)?;
        if reply.starts_with("550") {
            break reply;
        }
        if changed.elapsed() > Duration::from_secs(10) {
            return Err("the changed rule did not act within 10 s".into());
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    println!(
        "{} ms after the file was saved, a message with that word got:\n  {}",
        changed.elapsed().as_millis(),
        reply.replace('\n', "\n  ")
    );
    println!("\nThe same mail, explained without sending anything:\n");
    fs::write(folder.join("mail.eml"), content(letter))?;
    let explained = Command::new(&postern)
        .arg("explain")
        .arg(folder.join("config"))
        .arg("--mail")
        .arg(folder.join("mail.eml"))
        .args(["--from", "ani@solarmora.com", "--to", letter.to])
        .stderr(Stdio::null())
        .output()?;
    println!("{}", String::from_utf8_lossy(&explained.stdout));
    drop(gateway);
    fs::remove_dir_all(&folder)?;
    Ok(())
}

fn gateway(relay: SocketAddr) -> String {
    format!(
        r#"apiVersion: postern.dev/v1alpha1
kind: OutboundGateway
metadata: {{name: default}}
spec:
  hostname: gw.solarmora.com
  domains: [solarmora.com]
  clients: {{cidrs: [127.0.0.0/8]}}
---
apiVersion: postern.dev/v1alpha1
kind: OutboundRoute
metadata: {{name: relay}}
spec:
  description: The next hop of this demo, on loopback and without TLS
  hosts: [{{host: {host}, port: {port}}}]
  tls: {{require: false, requireCaSigned: false, validateHostname: false}}
---
apiVersion: postern.dev/v1alpha1
kind: RoutingRule
metadata: {{name: all}}
spec:
  description: All outgoing mail over the relay
  messages: [Outbound]
  action: {{modify: {{route: {{name: relay}}}}}}
---
apiVersion: postern.dev/v1alpha1
kind: ComplianceRule
metadata: {{name: internal}}
spec:
  description: Mark what is internal
  messages: [Outbound]
  match: {{words: [internal]}}
  action:
    modify:
      subjectPrefix: Internal
      headers: [{{name: X-Rule, value: "{{rule}}"}}]
"#,
        host = relay.ip(),
        port = relay.port()
    )
}

fn rule(words: &str) -> String {
    format!(
        r"apiVersion: postern.dev/v1alpha1
kind: ComplianceRule
metadata: {{name: confidential}}
spec:
  description: Nothing confidential leaves
  messages: [Outbound]
  match: {{words: [{words}]}}
  action:
    reject: {{notice: Confidential mail must not leave the company}}
"
    )
}

fn content(letter: &Letter) -> String {
    format!(
        "From: Ani <ani@solarmora.com>\r\nTo: <{}>\r\nSubject: {}\r\nDate: Sun, 22 Nov 2026 10:00:00 +0000\r\nMessage-ID: <{}@solarmora.com>\r\n\r\n{}\r\n",
        letter.to, letter.subject, letter.what, letter.body
    )
}

fn send(gateway: SocketAddr, letter: &Letter) -> std::io::Result<String> {
    let to = format!("RCPT TO:<{}>", letter.to);
    let hello = ["EHLO mua.solarmora.com", "MAIL FROM:<ani@solarmora.com>", &to, "DATA"].map(str::to_owned);
    Client::connect(gateway)?.say(&[&hello[..], &[content(letter) + "."]].concat())
}

/// Just enough of an SMTP client, in lock-step.
struct Client {
    stream: BufReader<TcpStream>,
}

impl Client {
    fn connect(to: SocketAddr) -> std::io::Result<Self> {
        let stream = TcpStream::connect_timeout(&to, Duration::from_secs(5))?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        let mut client = Self { stream: BufReader::new(stream) };
        let greeting = client.reply()?;
        if greeting.starts_with("220") { Ok(client) } else { Err(std::io::Error::other(greeting)) }
    }

    fn reply(&mut self) -> std::io::Result<String> {
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            if self.stream.read_line(&mut line)? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            let last = line.as_bytes().get(3) != Some(&b'-');
            lines.push(line.trim_end().to_owned());
            if last {
                return Ok(lines.join("\n"));
            }
        }
    }

    /// Says each line in turn; the reply to the last, or the first refusal.
    fn say(&mut self, lines: &[String]) -> std::io::Result<String> {
        let mut reply = String::new();
        for line in lines {
            self.stream.get_mut().write_all(format!("{line}\r\n").as_bytes())?;
            reply = self.reply()?;
            if !reply.starts_with(['2', '3']) {
                break;
            }
        }
        Ok(reply)
    }
}

fn describe(delivered: Option<&Delivered>) -> String {
    let Some(mail) = delivered else { return "not delivered".to_owned() };
    let subject = mail.header("Subject").unwrap_or_default();
    let marked = mail.header("X-Rule").map(|rule| format!(", X-Rule: {rule}")).unwrap_or_default();
    format!("{subject:?} to {} by route relay{marked}", mail.to.join(" "))
}

type Row = [String; 4];

fn row(a: &str, b: &str, c: &str, d: &str) -> Row {
    [a.to_owned(), b.to_owned(), c.replace('\n', " / "), d.to_owned()]
}

fn print_table(rows: &[Row]) {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let (first, second) = (width(0), width(1));
    for (number, [what, subject, answer, delivered]) in rows.iter().enumerate() {
        if number == 0 {
            println!("  {what:<first$}  {subject:<second$}  {answer}, and {delivered}");
            continue;
        }
        println!("  {what:<first$}  {subject:<second$}  {answer}");
        println!("  {:<first$}  {:<second$}  → {delivered}", "", "");
    }
}

struct Gateway {
    smtp: SocketAddr,
    child: Child,
}

impl Gateway {
    fn start(postern: &str, folder: &Path) -> Result<Self, Box<dyn std::error::Error>> {
        let (smtp, admin) = (free()?, free()?);
        let log: PathBuf = folder.join("gateway.log");
        let child = Command::new(postern)
            .arg("standalone")
            .arg(folder.join("config"))
            .args(["--smtp", &smtp.to_string(), "--admin", &admin.to_string(), "--state"])
            .arg(folder.join("state"))
            .stdin(Stdio::null())
            .stderr(fs::File::create(&log)?)
            .spawn()?;
        let gateway = Self { smtp, child };
        let start = Instant::now();
        while Client::connect(smtp).is_err() {
            if start.elapsed() > Duration::from_secs(10) {
                return Err(format!("the gateway did not start:\n{}", fs::read_to_string(&log)?).into());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(gateway)
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free() -> std::io::Result<SocketAddr> {
    TcpListener::bind("127.0.0.1:0")?.local_addr()
}
