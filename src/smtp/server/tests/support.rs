//! A handler with a script, a client, and transcripts of what the two say.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use arc_swap::ArcSwap;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio_util::sync::CancellationToken;

use super::super::input::Stream;
use super::super::{Connections, ListenerConfig, serve};
use crate::mail::envelope::{Notify, Recipient, Sender};
use crate::smtp::reply::Reply;
use crate::smtp::settings::{Settings, TlsMode};
use crate::smtp::tls::LiveCertificate;
use crate::smtp::{Handler, Mail, Peer};

/// Decides by local parts: `refused@` and `busy@` at MAIL, `nobody@`, `later@` and `bye@` at RCPT, `nodata@`
/// at DATA, `full@` in the content, `rejected@` at its end. Everything else is taken.
#[derive(Debug, Default)]
pub struct Script {
    pub taken: Mutex<Vec<Taken>>,
    pub closed: std::sync::atomic::AtomicBool,
}

/// A message that was taken.
#[derive(Debug, Clone)]
pub struct Taken {
    pub peer: Peer,
    pub sender: Sender,
    pub size: Option<u64>,
    pub recipients: Vec<Recipient>,
    pub content: Vec<u8>,
}

pub struct ScriptedMail {
    script: Arc<Script>,
    so_far: Taken,
}

impl ScriptedMail {
    fn has(&self, local: &str) -> bool {
        self.so_far.recipients.iter().any(|recipient| recipient.mailbox.local() == local)
    }
}

/// What the server holds: the script, shared with the test.
pub struct Scripted(pub Arc<Script>);

impl Handler for Scripted {
    type Mail = ScriptedMail;

    async fn mail(&self, peer: &Peer, sender: Sender, size: Option<u64>) -> Result<ScriptedMail, Reply> {
        match sender.mailbox.as_ref().map(|mailbox| mailbox.local()) {
            Some("refused") => return Err(Reply::new(550, [5, 7, 1], "Sender refused")),
            Some("busy") => return Err(Reply::new(421, [4, 3, 2], "Busy")),
            _ => {}
        }
        let (recipients, content) = (Vec::new(), Vec::new());
        let so_far = Taken { peer: peer.clone(), sender, size, recipients, content };
        Ok(ScriptedMail { script: self.0.clone(), so_far })
    }

    fn greet(&self, _: SocketAddr) -> Result<(), Reply> {
        match self.0.closed.load(std::sync::atomic::Ordering::SeqCst) {
            true => Err(Reply::new(421, [4, 3, 2], "Service not ready")),
            false => Ok(()),
        }
    }
}

impl Mail for ScriptedMail {
    async fn rcpt(&mut self, recipient: Recipient) -> Result<(), Reply> {
        match recipient.mailbox.local() {
            "nobody" => return Err(Reply::new(550, [5, 1, 1], "No such mailbox")),
            "later" => return Err(Reply::new(451, [4, 7, 1], "Try later")),
            "bye" => return Err(Reply::new(421, [4, 3, 2], "Going away")),
            _ => self.so_far.recipients.push(recipient),
        }
        Ok(())
    }

    async fn data(&mut self) -> Result<(), Reply> {
        if self.has("nodata") { Err(Reply::new(451, [4, 7, 1], "No policy")) } else { Ok(()) }
    }

    async fn write(&mut self, content: &[u8]) -> Result<(), Reply> {
        self.so_far.content.extend_from_slice(content);
        if self.has("full") { Err(Reply::new(452, [4, 3, 1], "Spool full")) } else { Ok(()) }
    }

    async fn finish(self) -> Reply {
        if self.has("rejected") {
            return Reply::new(550, [5, 7, 1], "Rejected by a rule");
        }
        self.script.taken.lock().unwrap().push(self.so_far);
        Reply::new(250, [2, 0, 0], "Taken")
    }
}

impl Taken {
    /// One line for transcripts.
    fn describe(&self) -> String {
        let mut line =
            format!("<{}>", self.sender.mailbox.as_ref().map(ToString::to_string).unwrap_or_default());
        if self.sender.body != Default::default() {
            line += " 8BITMIME";
        }
        if self.sender.smtputf8 {
            line += " SMTPUTF8";
        }
        for (name, value) in [
            ("SIZE", self.size.map(|size| size.to_string())),
            ("RET", self.sender.ret.map(|ret| format!("{ret:?}"))),
            ("ENVID", self.sender.envid.clone()),
        ] {
            line += &value.map(|value| format!(" {name}={value}")).unwrap_or_default();
        }
        for recipient in &self.recipients {
            line += &format!(" -> <{}>", recipient.mailbox);
            if recipient.notify != Notify::Unset {
                line += &format!(" {:?}", recipient.notify);
            }
            line += &recipient.original.as_ref().map(|text| format!(" ORCPT={text}")).unwrap_or_default();
        }
        let hello = if self.peer.esmtp { "EHLO" } else { "HELO" };
        let tls = if self.peer.tls.is_some() { " under TLS" } else { "" };
        line += &format!(" by {hello} {}{tls}: ", self.peer.helo);
        line + &escape(&self.content)
    }
}

pub fn config(settings: Settings, tls: TlsMode) -> ListenerConfig {
    ListenerConfig {
        name: "smtp".into(),
        addr: "127.0.0.1:0".parse().unwrap(),
        tls,
        proxy_from: Vec::new(),
        certificate: Arc::new(LiveCertificate::self_signed("gw.example", None).unwrap()),
        settings: Arc::new(ArcSwap::from_pointee(settings)),
        loops: Default::default(),
        connections: Arc::new(Connections::default()),
    }
}

/// A client whose server runs on the other end of a pipe, in the same single thread: so both have
/// come to rest when neither moves any more, and no test needs to sleep.
pub struct Client {
    stream: Option<Box<dyn Stream>>,
    pub script: Arc<Script>,
    /// Whether each octet travels alone.
    pub octet_by_octet: bool,
    told: usize,
}

impl Client {
    pub fn connect(settings: Settings, tls: TlsMode) -> Self {
        Self::connect_to(Arc::new(config(settings, tls)), Arc::default())
    }

    pub fn connect_to(config: Arc<ListenerConfig>, script: Arc<Script>) -> Self {
        let (ours, theirs): (DuplexStream, _) = tokio::io::duplex(256 << 10);
        let handler = Arc::new(Scripted(script.clone()));
        let (peer, local) = ("192.0.2.7:4711".parse().unwrap(), "192.0.2.1:25".parse().unwrap());
        // Not awaited: it ends with its stream, which ends with this client.
        tokio::spawn(serve(theirs, peer, local, config, handler, CancellationToken::new()));
        Self { stream: Some(Box::new(ours)), script, octet_by_octet: false, told: 0 }
    }

    pub async fn send(&mut self, octets: &[u8]) {
        let Some(stream) = &mut self.stream else { return };
        let segment = if self.octet_by_octet { 1 } else { octets.len().max(1) };
        for octets in octets.chunks(segment) {
            // The server may have closed already, which the transcript will show.
            let _ = stream.write_all(octets).await;
            let _ = stream.flush().await;
            if self.octet_by_octet {
                for _ in 0..4 {
                    tokio::task::yield_now().await;
                }
            }
        }
    }

    pub async fn close_our_side(&mut self) {
        self.stream.as_mut().expect("connected").shutdown().await.unwrap();
    }

    /// Everything the server says until it waits for us again; `<closed>` when it hung up.
    pub async fn hear(&mut self) -> Vec<u8> {
        let mut heard = Vec::new();
        let Some(stream) = &mut self.stream else { return heard };
        let mut idle = 0;
        let mut buffer = vec![0; 4096];
        while idle < 100 {
            let read = std::pin::pin!(stream.read(&mut buffer));
            match futures::poll!(read) {
                std::task::Poll::Pending => {
                    idle += 1;
                    tokio::task::yield_now().await;
                }
                std::task::Poll::Ready(Ok(count)) if count > 0 => {
                    heard.extend_from_slice(&buffer[..count]);
                    idle = 0;
                }
                std::task::Poll::Ready(_) => {
                    heard.extend_from_slice(b"<closed>\r\n");
                    self.stream = None;
                    break;
                }
            }
        }
        heard
    }

    pub async fn start_tls(&mut self) -> std::io::Result<()> {
        let stream = self.stream.take().expect("connected");
        let connector = tokio_rustls::TlsConnector::from(Arc::new(trusting_client()));
        let stream = connector.connect("gw.example".try_into().unwrap(), stream).await?;
        self.stream = Some(Box::new(stream));
        Ok(())
    }

    /// The messages taken since last asked, a line each.
    pub fn newly_taken(&mut self) -> Vec<String> {
        let taken = self.script.taken.lock().unwrap();
        let new = taken[self.told..].iter().map(Taken::describe).collect();
        self.told = taken.len();
        new
    }
}

/// Plays the client's side of a transcript and writes down what happens.
///
/// `C: text` sends a line; lines that follow each other go out in one segment. `C> text` sends no CRLF.
/// `C: <TLS>` does a handshake, `C: <EOF>` closes the client's side. `S:` is a line of the server, `M:` a
/// message it took. `\r \n \0 \xHH \\` are escapes; `#` begins a comment.
pub async fn replay(client: &mut Client, transcript: &str) -> String {
    let mut played = String::new();
    let mut segment = Vec::new();
    // Whether there is something to hear: the greeting, then what each segment is answered with.
    let mut expecting = true;
    for line in transcript.lines() {
        let ours = line.starts_with("C: ") || line.starts_with("C> ");
        if expecting && !line.starts_with('#') && (segment.is_empty() || !ours) {
            client.send(&std::mem::take(&mut segment)).await;
            record(client, &mut played).await;
            expecting = false;
        }
        if ours || line.starts_with('#') || line.is_empty() {
            played += &format!("{line}\n");
        }
        match line {
            "C: <TLS>" => {
                if client.start_tls().await.is_err() {
                    played += "S: <handshake failed>\n";
                }
                expecting = true;
            }
            "C: <EOF>" => {
                client.close_our_side().await;
                expecting = true;
            }
            _ if ours => {
                segment.extend(unescape(&line[3..]));
                if line.starts_with("C: ") {
                    segment.extend(b"\r\n");
                }
                expecting = true;
            }
            _ => {}
        }
    }
    client.send(&segment).await;
    record(client, &mut played).await;
    played
}

async fn record(client: &mut Client, played: &mut String) {
    for line in String::from_utf8_lossy(&client.hear().await).split_terminator("\r\n") {
        *played += &format!("S: {line}\n");
    }
    for taken in client.newly_taken() {
        *played += &format!("M: {taken}\n");
    }
}

/// Replays a transcript and compares what happens with what it says.
pub async fn check(settings: Settings, tls: TlsMode, transcript: &str) {
    let transcript: String =
        transcript.trim_start().lines().map(|line| format!("{}\n", line.trim_start())).collect();
    let mut client = Client::connect(settings, tls);
    let played = replay(&mut client, &transcript).await;
    assert!(played == transcript, "expected:\n{transcript}\nbut was:\n{played}");
}

pub fn escape(octets: &[u8]) -> String {
    let mut text = String::new();
    for part in octets.utf8_chunks() {
        for c in part.valid().chars() {
            match c {
                '\r' => text += "\\r",
                '\n' => text += "\\n",
                '\\' => text += "\\\\",
                c if c.is_control() => text += &format!("\\x{:02x}", c as u32),
                c => text.push(c),
            }
        }
        for octet in part.invalid() {
            text += &format!("\\x{octet:02x}");
        }
    }
    text
}

fn unescape(text: &str) -> Vec<u8> {
    let mut octets = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        octets.extend(rest[..at].bytes());
        let code = &rest[at + 1..];
        let (octet, length) = match code.as_bytes()[0] {
            b'r' => (b'\r', 1),
            b'n' => (b'\n', 1),
            b'0' => (0, 1),
            b'x' => (u8::from_str_radix(&code[1..3], 16).unwrap(), 3),
            other => (other, 1),
        };
        octets.push(octet);
        rest = &code[length..];
    }
    octets.extend(rest.bytes());
    octets
}

/// TLS without any check of certificates.
pub fn trusting_client() -> ClientConfig {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Trusting))
        .with_no_client_auth()
}

#[derive(Debug)]
struct Trusting;

impl ServerCertVerifier for Trusting {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms.supported_schemes()
    }
}
