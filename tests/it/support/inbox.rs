//! A next hop that takes everything (or what a test lets it take) and keeps it.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

#[derive(Debug, Clone)]
pub struct Delivered {
    pub from: String,
    pub to: Vec<String>,
    pub content: Vec<u8>,
}

impl Delivered {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.content).into_owned()
    }

    /// The value of a header field, as it stands (first line only).
    pub fn header(&self, name: &str) -> Option<String> {
        let text = self.text();
        let head = text.split("\r\n\r\n").next()?.to_owned();
        let prefix = format!("{}:", name.to_ascii_lowercase());
        head.lines()
            .find(|line| line.to_ascii_lowercase().starts_with(&prefix))
            .map(|line| line[prefix.len()..].trim().to_owned())
    }
}

#[derive(Default)]
struct Mailbox {
    mail: Mutex<Vec<Delivered>>,
    arrived: Condvar,
    /// Answer 451 to every RCPT.
    busy: AtomicBool,
    /// Keep the header section only.
    forgetful: AtomicBool,
}

/// Listens until the test ends.
pub struct Inbox {
    pub address: SocketAddr,
    mailbox: Arc<Mailbox>,
}

impl Inbox {
    pub fn start() -> Self {
        Self::on("127.0.0.1:0".parse().expect("an address"))
    }

    pub fn on(address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).expect("loopback has a free port");
        let address = listener.local_addr().expect("it is bound");
        let mailbox = Arc::new(Mailbox::default());
        let shared = Arc::clone(&mailbox);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let mailbox = Arc::clone(&shared);
                std::thread::spawn(move || serve(&stream, &mailbox));
            }
        });
        Self { address, mailbox }
    }

    /// From now on every recipient is told to come later, or is taken again.
    pub fn set_busy(&self, busy: bool) {
        self.mailbox.busy.store(busy, Ordering::SeqCst);
    }

    /// From now on only header sections are kept.
    pub fn set_forgetful(&self) {
        self.mailbox.forgetful.store(true, Ordering::SeqCst);
    }

    pub fn mail(&self) -> Vec<Delivered> {
        self.mailbox.mail.lock().expect("no test thread panicked").clone()
    }

    /// Waits until `count` messages have come.
    pub fn wait(&self, count: usize) -> Vec<Delivered> {
        let limit = Instant::now() + Duration::from_secs(30);
        let mut mail = self.mailbox.mail.lock().expect("no test thread panicked");
        while mail.len() < count {
            let left = limit.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "{} of {count} messages came", mail.len());
            mail = self.mailbox.arrived.wait_timeout(mail, left).expect("no test thread panicked").0;
        }
        mail.clone()
    }
}

fn serve(stream: &TcpStream, mailbox: &Mailbox) {
    // A peer that goes away ends its thread, nothing else.
    let _ = dialogue(stream, mailbox);
}

fn dialogue(stream: &TcpStream, mailbox: &Mailbox) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut out = stream;
    let mut lines = BufReader::new(stream);
    out.write_all(b"220 sink.example ESMTP\r\n")?;
    let (mut from, mut to) = (String::new(), Vec::new());
    let mut line = Vec::new();
    loop {
        line.clear();
        if lines.read_until(b'\n', &mut line)? == 0 {
            return Ok(());
        }
        let text = String::from_utf8_lossy(&line).trim_end().to_owned();
        let verb = text.split([' ', ':']).next().unwrap_or_default().to_ascii_uppercase();
        let path = || {
            text.split_once('<').and_then(|(_, rest)| rest.split_once('>')).map(|(path, _)| path.to_owned())
        };
        match verb.as_str() {
            "EHLO" => out.write_all(
                b"250-sink.example\r\n250-PIPELINING\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n250-ENHANCEDSTATUSCODES\r\n250 SIZE 0\r\n",
            )?,
            "HELO" => out.write_all(b"250 sink.example\r\n")?,
            "MAIL" => {
                from = path().unwrap_or_default();
                to.clear();
                out.write_all(b"250 2.1.0 Ok\r\n")?;
            }
            "RCPT" if mailbox.busy.load(Ordering::SeqCst) => out.write_all(b"451 4.3.0 Later\r\n")?,
            "RCPT" => {
                to.push(path().unwrap_or_default());
                out.write_all(b"250 2.1.5 Ok\r\n")?;
            }
            "DATA" if to.is_empty() => out.write_all(b"554 5.5.1 No valid recipients\r\n")?,
            "DATA" => {
                out.write_all(b"354 Go on\r\n")?;
                let mut content = data(&mut lines)?;
                if mailbox.forgetful.load(Ordering::SeqCst) {
                    let head = content.windows(4).position(|octets| octets == b"\r\n\r\n");
                    content.truncate(head.unwrap_or(content.len()));
                    content.shrink_to_fit();
                }
                let delivered = Delivered { from: from.clone(), to: std::mem::take(&mut to), content };
                mailbox.mail.lock().expect("no test thread panicked").push(delivered);
                mailbox.arrived.notify_all();
                out.write_all(b"250 2.0.0 Ok\r\n")?;
            }
            "RSET" | "NOOP" => out.write_all(b"250 2.0.0 Ok\r\n")?,
            "QUIT" => {
                out.write_all(b"221 2.0.0 Bye\r\n")?;
                return Ok(());
            }
            _ => out.write_all(b"502 5.5.1 Not here\r\n")?,
        }
    }
}

fn data(lines: &mut impl BufRead) -> std::io::Result<Vec<u8>> {
    let mut content = Vec::new();
    loop {
        let start = content.len();
        if lines.read_until(b'\n', &mut content)? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        if &content[start..] == b".\r\n" {
            content.truncate(start);
            return Ok(content);
        }
        if content[start] == b'.' {
            content.remove(start);
        }
    }
}
